"""Well-known data that is on this machine: in the folder that JAXNET_DATA_DIR names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jaxnet.errors import InputError
from jaxnet.files import expanded

VARIABLE = "JAXNET_DATA_DIR"


def data_home() -> Path | None:
    """The folder that JAXNET_DATA_DIR names; None where it names none.

    Raises:
        InputError: there is no such folder.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    home = expanded(named)
    if not home.is_dir():
        raise InputError(f"{VARIABLE}={named}: there is no such folder")
    return home


def at_hand(*names: str) -> Path | None:
    """The first of these files and folders that is in `data_home`; None where none is."""
    home = data_home()
    found = (home / name for name in names if home and (home / name).exists())
    return next(found, None)


def home_of(name: str) -> Path | None:
    """`data_home`, where something in it is called as a data set is, such as `cifar10_jpg.tar.xz`.

    Args:
        name: of the data set; capitals, hyphens and what follows the name don't count.
    """
    home = data_home()
    if home is None:
        return None
    wanted = re.compile(re.escape(name.replace("_", "")) + r"(?!\d)")
    held = any(wanted.match(re.sub("[-_]", "", one.lower())) for one in os.listdir(home))
    return home if held else None
