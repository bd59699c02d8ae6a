"""IDX files, the format of MNIST and Fashion-MNIST, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.errors import InputError
from jaxnet.files import expanded

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 64
_GZIP = b"\x1f\x8b"

_STEMS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_EXPECTED = ", ".join(f"{stem}[.gz]" for part in _STEMS.values() for stem in part)
_DIGITS = tuple("0123456789")
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_idx(path: str | PathLike[str]) -> np.ndarray:
    """Read one IDX file; gzip is recognised by its first bytes, whatever the file is called.

    The format: two zero bytes, a type, the number of axes, the length of each axis, then the
    values, all big-endian (LeCun, Cortes and Burges, "The MNIST database of handwritten digits").

    Returns:
        An array in the machine's byte order; single bytes are not copied and stay read-only.

    Raises:
        InputError: the file is missing, its gzip or its header is corrupt, or its length is not
            the one that the header announces.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     written = file.write(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9]))
        ...     file.flush()
        ...     read_idx(file.name).tolist()
        [[7, 8, 9]]
    """
    path = expanded(path)
    data = _bytes_of(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES:
        raise InputError(
            f"{path}: not an IDX file: expected the bytes 00 00, a type of "
            f"{', '.join(f'{code:02x}' for code in _TYPES)} and the number of axes, "
            f"got {data[:4].hex(' ') or 'nothing'}; fetch the file again"
        )
    axes = data[3]
    start = 4 + 4 * axes
    if not 1 <= axes <= _MAX_AXES or len(data) < start:
        raise InputError(
            f"{path}: corrupt IDX header: {axes} axes announced in {len(data)} bytes; "
            "fetch the file again"
        )
    shape = struct.unpack(f">{axes}I", data[4:start])
    dtype = np.dtype(_TYPES[data[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        state = "truncated" if len(data) < expected else "too long"
        raise InputError(
            f"{path}: {state}: shape {shape} of {dtype.name} expected {expected} bytes, "
            f"got {len(data)}; fetch the file again"
        )
    values = np.frombuffer(data, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def load_mnist(folder: str | PathLike[str], name: str = "mnist") -> tuple[Arrays, Arrays]:
    """Load MNIST's training and test part from its four IDX files.

    Args:
        folder: holds `train-images-idx3-ubyte.gz` and the other three, compressed or not, with `-`
            or `.` before `idx`; or a folder `mnist`, `MNIST`, `raw` or `MNIST/raw` that does.
        name: what messages call the dataset.

    Returns:
        (train, test): inputs (60000, 28, 28, 1) and (10000, 28, 28, 1) uint8, labels int32.

    Raises:
        InputError: a file is missing, corrupt, or does not fit the others.

    Example:
        >>> train, test = load_mnist("nowhere")
        Traceback (most recent call last):
        ...
        jaxnet.errors.InputError: mnist: there is no folder nowhere
    """
    return _load(expanded(folder), name, ("mnist", "MNIST", "raw", "MNIST/raw"), _DIGITS)


def load_fashion_mnist(folder: str | PathLike[str]) -> tuple[Arrays, Arrays]:
    """Load Fashion-MNIST (Xiao et al. 2017), which has MNIST's files, shapes and sizes.

    Args:
        folder: as in `load_mnist`; the folders inside are `fashion_mnist`, `fashion-mnist`,
            `FashionMNIST`, `raw` and `FashionMNIST/raw`.

    Returns:
        (train, test), with the ten kinds of clothes as class names.

    Raises:
        InputError: a file is missing, corrupt, or does not fit the others.

    Example:
        >>> train, test = load_fashion_mnist("nowhere")
        Traceback (most recent call last):
        ...
        jaxnet.errors.InputError: fashion_mnist: there is no folder nowhere
    """
    inside = ("fashion_mnist", "fashion-mnist", "FashionMNIST", "raw", "FashionMNIST/raw")
    return _load(expanded(folder), "fashion_mnist", inside, _CLOTHES)


def _load(
    folder: Path, name: str, inside: Sequence[str], class_names: tuple[str, ...]
) -> tuple[Arrays, Arrays]:
    if not folder.is_dir():
        raise InputError(f"{name}: there is no folder {folder}")
    places = (folder, *(folder / one for one in inside))
    stems = [stem for part in _STEMS.values() for stem in part]
    holds = [place for place in places if any(_find(place, stem) for stem in stems)]
    home = holds[0] if holds else folder
    train, test = (
        _load_part(home, name, part, images, labels, class_names)
        for part, (images, labels) in _STEMS.items()
    )
    return train, test


def _load_part(
    folder: Path, name: str, part: str, images: str, labels: str, class_names: tuple[str, ...]
) -> Arrays:
    image_path, label_path = _require(folder, name, images), _require(folder, name, labels)
    inputs, targets = read_idx(image_path), read_idx(label_path)
    for path, array, shape in ((image_path, inputs, (28, 28)), (label_path, targets, ())):
        if array.dtype != np.uint8 or array.shape[1:] != shape:
            expected = f"(n{', 28, 28' if shape else ','})"
            raise InputError(
                f"{path}: expected uint8 {expected}, got {array.dtype} {array.shape}; "
                "are the files of images and labels exchanged?"
            )
    if len(inputs) != len(targets):
        raise InputError(
            f"{name}: {image_path} has {len(inputs)} images but {label_path} has {len(targets)} "
            "labels; the two do not belong together"
        )
    return Arrays(inputs[..., None], targets, class_names=class_names, name=f"{name} {part}")


def _find(folder: Path, stem: str) -> Path | None:
    """The file called `stem`, or as it is called elsewhere: with a dot before idx, or as .gz."""
    for variant in (stem, stem.replace("-idx", ".idx")):
        for path in (folder / variant, folder / f"{variant}.gz"):
            if path.is_file():
                return path
    return None


def _require(folder: Path, name: str, stem: str) -> Path:
    path = _find(folder, stem)
    if path is None:
        raise InputError(
            f"{name}: {stem}[.gz] is missing in {folder}, which holds {_content(folder)}; "
            f"expected four files: {_EXPECTED}"
        )
    return path


def _content(folder: Path, at_most: int = 8) -> str:
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "nothing"
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def _bytes_of(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        held = f"its folder holds {_content(path.parent)}" if path.parent.is_dir() else "no folder"
        raise InputError(f"{path}: there is no such file; {held}") from error
    except OSError as error:
        raise InputError(f"{path}: could not be read: {error.strerror}") from error
    if data[:2] != _GZIP:
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: corrupt gzip ({error}); fetch the file again") from error
