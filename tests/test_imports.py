"""`import jaxnet` touches no device, and the floors of the house hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import jaxnet

ROOT = Path(jaxnet.__file__).parent
# From the ground up: a room imports only from floors below its own.
FLOORS = [
    {"ending", "errors", "switch", "units", "versions"},
    {"digests", "files", "locks", "names", "options", "trees", "numerics"},
    {"cache", "config"},
    {"command_line"},
    {"schedules"},
    {"losses", "layers", "optimizers", "summary"},
    {"metrics", "data", "compute"},
    {"parallel"},
    {"inference"},
    {"training", "module_json"},
    {"bundle", "recipe", "generation", "retrieval"},
    {"cli", "run_folder"},
    {"prove_resume", "cross_validation", "generate", "translate", "doctor", "plan", "launch"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imported(path: Path) -> set[str]:
    """The modules that a file imports when it is imported itself."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_nothing_imports_from_its_own_floor_or_above():
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts == ("__init__",) or parts[0] == "models":
            continue
        for name in imported(path):
            top, *rest = name.split(".")
            assert top not in ("models", "train", "benchmarks"), f"{path} imports {name}"
            if top == "jaxnet" and rest and rest[0] != parts[0]:
                assert FLOOR[rest[0]] < FLOOR[parts[0]], f"{path} imports {name}"


def test_one_file_knows_orbax_and_one_place_jits():
    sources = {
        # Without the examples in docstrings.
        path: re.sub(r"^ *(>>>|\.\.\.) .*$", "", path.read_text(), flags=re.M)
        for path in ROOT.rglob("*.py")
    }
    orbax = [p.name for p, text in sources.items() if "import orbax" in text]
    assert orbax == ["checkpoints.py"]
    jits = {p.name for p, text in sources.items() if "jax.jit(" in text or "@jax.jit" in text}
    assert jits <= {"programs.py", "summary.py"}, jits
    assert not [p for p, text in sources.items() if "jax._src" in text]


def test_import_touches_no_device():
    code = (
        "import jax, flax, jaxnet\n"
        "from jaxnet import Bundle, Supervised, Trainer, data, losses, metrics, optimizers\n"
        "import jaxnet.run_folder, jaxnet.recipe, models\n"
        "jax.config.update('jax_platforms', 'none such')  # fails once a device has been touched\n"
        "try:\n"
        "    jax.devices()\n"
        "except RuntimeError:\n"
        "    print('untouched')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "untouched\n"
