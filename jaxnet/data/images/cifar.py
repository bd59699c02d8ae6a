"""CIFAR-10 and CIFAR-100 as they are found: binary files, Python's, and JPEG files in folders.

Each is read from a folder or straight out of a tar archive, compressed or not. The formats are
those of Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

from __future__ import annotations

import io
import pickle
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.images.decoding import decode
from jaxnet.data.images.folders import EXTENSIONS, is_litter
from jaxnet.data.sources import reading_threads
from jaxnet.errors import InputError, UsageError
from jaxnet.files import expanded

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CIFAR10 = _words("airplane automobile bird cat deer dog frog horse ship truck")
CIFAR100_FINE = _words(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""
)
CIFAR100_COARSE = _words(
    """aquatic_mammals fish flowers food_containers fruit_and_vegetables
    household_electrical_devices household_furniture insects large_carnivores
    large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
    medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1
    vehicles_2"""
)


@dataclass(frozen=True)
class _Form:
    """One form of a dataset: the names of its files, and how to read one.

    `parse` takes the bytes of a file and gives pixels (n, 3072), channel by channel, and labels.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    parse: Callable[[bytes], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Dataset:
    name: str
    forms: tuple[_Form, ...]
    class_names: tuple[str, ...]
    folders: tuple[str, ...]
    archive: re.Pattern[str]


def load_cifar10(folder: str | PathLike[str]) -> tuple[Arrays, Arrays]:
    """Load CIFAR-10's training and test part.

    Args:
        folder: holds `data_batch_1.bin` and so on, or `data_batch_1` and so on (the version for
            Python), or `train/CLASS/*.jpg` and `test/CLASS/*.jpg`; or a tar archive with one of
            these, such as `cifar-10-binary.tar.gz`; or is such an archive.

    Returns:
        (train, test): inputs (50000, 32, 32, 3) and (10000, 32, 32, 3) uint8, labels int32.

    Raises:
        InputError: a file is missing, truncated or corrupt.

    Example:
        >>> load_cifar10("nowhere")
        Traceback (most recent call last):
        ...
        jaxnet.errors.InputError: cifar10: there is no folder or archive nowhere
    """
    python, binary = partial(_read_python, "labels"), partial(_read_binary, 1, 0)
    forms = (
        _Form("binary", tuple(f"{one}.bin" for one in _BATCHES), ("test_batch.bin",), binary),
        _Form("Python", _BATCHES, ("test_batch",), python),
    )
    folders = ("cifar10", "CIFAR10", "cifar-10", "cifar-10-batches-bin", "cifar-10-batches-py")
    archive = re.compile(r"cifar[-_]?10(?!\d).*\.(tar(\..+)?|tgz)$", re.IGNORECASE)
    return _load(expanded(folder), _Dataset("cifar10", forms, CIFAR10, folders, archive))


def load_cifar100(
    folder: str | PathLike[str], labels: Literal["fine", "coarse"] = "fine"
) -> tuple[Arrays, Arrays]:
    """Load CIFAR-100's training and test part.

    Args:
        folder: as in `load_cifar10`; the files are `train.bin` and `test.bin`, or `train` and
            `test`.
        labels: `"fine"` for the 100 classes, `"coarse"` for the 20 they are grouped into.

    Returns:
        (train, test): as in `load_cifar10`.

    Raises:
        InputError: a file is missing, truncated or corrupt.
        UsageError: there are no such labels.

    Example:
        >>> load_cifar100("nowhere")
        Traceback (most recent call last):
        ...
        jaxnet.errors.InputError: cifar100: there is no folder or archive nowhere
    """
    if labels not in ("fine", "coarse"):
        raise UsageError(f"expected labels 'fine' or 'coarse', got {labels!r}")
    python = partial(_read_python, f"{labels}_labels")
    binary = partial(_read_binary, 2, 1 if labels == "fine" else 0)
    forms = (
        _Form("binary", ("train.bin",), ("test.bin",), binary),
        _Form("Python", ("train",), ("test",), python),
    )
    names = CIFAR100_FINE if labels == "fine" else CIFAR100_COARSE
    folders = ("cifar100", "CIFAR100", "cifar-100", "cifar-100-binary", "cifar-100-python")
    archive = re.compile(r"cifar[-_]?100(?!\d).*\.(tar(\..+)?|tgz)$", re.IGNORECASE)
    return _load(expanded(folder), _Dataset("cifar100", forms, names, folders, archive))


def _load(path: Path, dataset: _Dataset) -> tuple[Arrays, Arrays]:
    if not path.exists():
        raise InputError(f"{dataset.name}: there is no folder or archive {path}")
    for place in _places(path, dataset):
        files = _files(place, dataset)
        for form in dataset.forms:
            if any(name in files for name in (*form.train, *form.test)):
                train, test = (_part(place, files, dataset, form, part) for part in _PARTS)
                return train, test
        if files:
            train, test = (_decoded(place, files, dataset, part) for part in _PARTS)
            return train, test
    expected = " or ".join(f"{form.train[0]} ({form.name})" for form in dataset.forms)
    held = sorted(one.name for one in path.iterdir())[:8] if path.is_dir() else []
    raise InputError(
        f"{dataset.name}: nothing of it in {path}, which holds {', '.join(held) or 'other files'}; "
        f"expected {expected}, train/{dataset.class_names[0]}/*.jpg, or a tar archive of these"
    )


_PARTS: tuple[Literal["train", "test"], ...] = ("train", "test")


def _places(path: Path, dataset: _Dataset) -> Iterator[Path]:
    """Where to look, in turn: folders first, then archives."""
    if path.is_file():
        yield path
        return
    folders = [path, *(path / inside for inside in dataset.folders)]
    folders = [folder for folder in folders if folder.is_dir()]
    yield from folders
    for folder in folders:
        found = (one for one in sorted(folder.iterdir()) if dataset.archive.search(one.name))
        yield from (one for one in found if one.is_file())


def _files(place: Path, dataset: _Dataset) -> dict[str, bytes]:
    """The content of the dataset's files in a folder or an archive.

    Keys are plain names, and `PART/CLASS/NAME` for images.
    """
    names = {name for form in dataset.forms for name in (*form.train, *form.test)}
    if place.is_file():
        return _unpacked(place, names)
    images = (one for part in _PARTS for one in (place / part).glob("*/*"))
    paths = [one for one in (*place.iterdir(), *images) if one.is_file()]
    keys = ((_key(one.relative_to(place).as_posix(), names), one) for one in paths)
    return {key: one.read_bytes() for key, one in keys if key}


def _unpacked(archive: Path, names: set[str]) -> dict[str, bytes]:
    """The wanted files of a tar archive, read from front to back."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                key = _key(member.name, names) if member.isfile() else None
                if key:
                    files[key] = opened.extractfile(member).read()  # type: ignore[union-attr]
    # What a damaged archive raises depends on how it is compressed: zlib.error, LZMAError, ...
    except Exception as error:
        raise InputError(
            f"{archive}: not a whole tar archive ({error}); fetch the file again"
        ) from error
    return files


def _key(path: str, names: set[str]) -> str | None:
    """What a file is called here; None for what doesn't belong to the dataset."""
    parts = PurePosixPath(path).parts
    if parts[-1] in names:
        return parts[-1]
    if any(map(is_litter, parts[-3:])):
        return None
    if len(parts) >= 3 and parts[-3] in _PARTS and path.lower().endswith(EXTENSIONS):
        return "/".join(parts[-3:])
    return None


def _part(
    place: Path, files: Mapping[str, bytes], dataset: _Dataset, form: _Form, part: str
) -> Arrays:
    """The training or the test part, from its files in one of the two forms of the original."""
    wanted = form.train if part == "train" else form.test
    if missing := [name for name in wanted if name not in files]:
        raise InputError(f"{dataset.name}: {', '.join(missing)} is missing in {place}")
    read = [_checked(f"{place / name}", files[name], form, dataset) for name in wanted]
    if len(sizes := {len(labels) for _, labels in read}) > 1:
        held = ", ".join(f"{n}: {len(y)}" for n, (_, y) in zip(wanted, read, strict=True))
        raise InputError(
            f"{dataset.name}: expected as many images in each file in {place}, got "
            f"{sorted(sizes)} ({held}); fetch the shorter ones again"
        )
    pixels = np.concatenate([pixels for pixels, _ in read]).reshape(-1, *_SHAPE)
    return Arrays(
        inputs=np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)),
        labels=np.concatenate([labels for _, labels in read]),
        class_names=dataset.class_names,
        name=f"{dataset.name} {part}",
    )


def _checked(
    name: str, data: bytes, form: _Form, dataset: _Dataset
) -> tuple[np.ndarray, np.ndarray]:
    try:
        pixels, labels = form.parse(data)
    except InputError as error:
        raise InputError(f"{name}: {error}; fetch the file again") from error
    if labels.min() < 0 or labels.max() >= len(dataset.class_names):
        raise InputError(
            f"{name}: corrupt: expected labels from 0 to {len(dataset.class_names) - 1}, got "
            f"{labels.min()} to {labels.max()}; fetch the file again"
        )
    return pixels, labels


def _read_binary(label_bytes: int, label: int, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Records of `label_bytes` labels, of which number `label` is wanted, and the pixels."""
    record = label_bytes + _PIXELS
    if not data or len(data) % record:
        raise InputError(f"truncated: {len(data)} bytes aren't whole records of {record}")
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return records[:, label_bytes:], records[:, label].astype(np.int32)


def _read_python(key: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A pickled dict with the pixels as `data` and the labels as `key`."""
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except InputError:
        raise
    # A damaged pickle raises whatever the instructions it is taken for come to.
    except Exception as error:
        raise InputError(f"truncated or corrupt ({error})") from error
    expected = f"expected a dict with data, uint8 (n, {_PIXELS}), and {key}"
    if not isinstance(content, dict):
        raise InputError(f"{expected}, got a {type(content).__name__}")
    try:
        # The strings of Python 2, which wrote the originals, come as bytes.
        named = {
            name.decode() if isinstance(name, bytes) else name: content[name] for name in content
        }
        pixels, labels = named["data"], np.asarray(named[key], np.int32)
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _PIXELS) or not len(labels):
            raise ValueError(f"data {pixels.dtype} {pixels.shape} for {len(labels)} labels")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{expected}: {error}") from error
    return pixels, labels


class _Unpickler(pickle.Unpickler):
    """Makes dicts, lists, numbers, strings and NumPy arrays, and calls nothing else.

    To unpickle means to run what the file says; with so few functions that is harmless.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The few functions that the original files need."""
        known = _KNOWN.get((module, name))
        if known is None:
            raise InputError(f"refused to call {module}.{name}, which data has no need of")
        return known


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into a pickle that Python 2 can read."""
    if encoding != "latin1":
        raise InputError(f"refused to encode as {encoding!r}")
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_KNOWN: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


def _decoded(place: Path, files: Mapping[str, bytes], dataset: _Dataset, part: str) -> Arrays:
    """The training or the test part, from image files in folders by class."""
    keys = sorted(key for key in files if key.startswith(f"{part}/"))
    if not keys:
        raise InputError(f"{dataset.name}: expected images in {place}/{part}/CLASS, found none")
    labels = _labels(place, keys, dataset.class_names)

    def pixels(key: str) -> np.ndarray:
        image = decode(files[key], name=f"{place}/{key}")
        if image.shape != (32, 32, 3):
            raise InputError(f"{place}/{key}: expected 32 x 32 pixels, got {image.shape[:2]}")
        return image

    with ThreadPoolExecutor(reading_threads(), "jaxnet-reader") as pool:
        inputs = np.stack(list(pool.map(pixels, keys, chunksize=64)))
    return Arrays(inputs, labels, class_names=dataset.class_names, name=f"{dataset.name} {part}")


def _labels(place: Path, keys: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    known = {name: label for label, name in enumerate(class_names)}
    names = [key.split("/")[1] for key in keys]
    if strange := sorted(set(names) - set(known)):
        raise InputError(
            f"{place}: expected folders called {', '.join(class_names[:3])} ..., got {strange[0]}; "
            "images of other classes are read with image_folders (--data folder)"
        )
    return np.array([known[name] for name in names], np.int32)
