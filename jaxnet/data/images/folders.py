"""Folders of images: a sub-folder for each class, read while training or all at once."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from os import PathLike
from pathlib import Path

import jax
import numpy as np

from jaxnet.data.arrays import Arrays
from jaxnet.data.images.decoding import Channels, Resize, contents, decode
from jaxnet.data.sources import load, size_in_memory
from jaxnet.data.splits import split
from jaxnet.digests import array_digest, digest, json_digest, texts_digest
from jaxnet.errors import InputError, UsageError
from jaxnet.files import expanded

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# What file managers, notebooks, archives and network disks leave in folders, besides hidden files.
LITTER = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "__macosx", "thumbs.db", "desktop.ini"),
        *("$recycle.bin", "system volume information", "lost+found", "__pycache__"),
    )
)
# What the parts of a dataset are called on disk.
PARTS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation"),
    "test": ("test", "testing"),
}
# A training set up to this size is read into memory once, instead of in every epoch.
IN_MEMORY_BYTES = 2 << 30
# The number of files whose bytes are read for the fingerprint.
SAMPLED = 32
# Files below this are decoded in so short a time that threads at it together would spend more on
# handing the interpreter's lock to and fro: measured half as fast as one. They still wait together
# for the disk.
SMALL_BYTES = 4 << 10
_ONE_AT_A_TIME = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images in files, with the class of each; `image_folders` finds them.

    A source: `split`, `Trainer.fit` and `evaluate` take it as it is, and no more than a few
    batches are ever in memory. `jaxnet.data.sources.load` reads all of it.

    Attributes:
        files: the images' files.
        labels: (n,) int32 classes.
        class_names: what class 0, 1, ... is called.
        size: height and width to which images are resized; None accepts only images of one size,
            that of the first.
        channels: 3 for red, green and blue, 1 for grey.
        resize: what is done to other proportions: `"stretch"` changes them, `"crop"` keeps them
            and cuts off what is too much on both sides.
        name: what messages call this dataset.

    Raises:
        InputError: the labels don't fit the files or the class names.
    """

    files: Sequence[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    size: tuple[int, int] | None = None
    channels: Channels = 3
    resize: Resize = "stretch"
    name: str = "images"

    def __post_init__(self) -> None:
        if len(self.files) != len(self.labels) or not len(self.files):
            raise InputError(
                f"{self.name}: expected files and a label for each, got {len(self.files)} files "
                f"and {len(self.labels)} labels"
            )
        if self.size is not None and not (len(self.size) == 2 and min(self.size) > 0):
            raise UsageError(f"expected a size such as (224, 224), got {self.size}")
        if self.channels not in (1, 3) or self.resize not in ("stretch", "crop"):
            raise UsageError(
                "expected channels 1 or 3 and resize 'stretch' or 'crop', got "
                f"{self.channels!r} and {self.resize!r}"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.files)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def inputs(self) -> jax.ShapeDtypeStruct:
        """Shape (n, height, width, channels) and type of all images; the pixels stay on disk."""
        return jax.ShapeDtypeStruct((len(self), *self._shape), np.uint8)

    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of one example."""
        return {
            "inputs": jax.ShapeDtypeStruct(self._shape, np.uint8),
            "labels": jax.ShapeDtypeStruct((), np.int32),
        }

    def read(self, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """The images at `rows` (m,), uint8 (m, height, width, channels), and their labels.

        Raises:
            InputError: an image can't be read; the message names the file.
        """
        images = np.empty((len(rows), *self._shape), np.uint8)
        files = [self.files[int(row)] for row in rows]
        held = list(map(contents, files))
        small = sum(map(len, held)) < len(held) * SMALL_BYTES
        with _ONE_AT_A_TIME if small else nullcontext():
            for image, file, data in zip(images, files, held, strict=True):
                decoded = decode(data, self.size, self.channels, self.resize, name=file)
                if decoded.shape != image.shape:
                    raise InputError(
                        f"{file}: expected {image.shape[0]} x {image.shape[1]} pixels, as "
                        f"{self.files[0]} has, got {decoded.shape[0]} x {decoded.shape[1]}; give "
                        "the size to which all are to be brought (--image-size)"
                    )
                image[:] = decoded
        return {"inputs": images, "labels": self.labels[rows]}

    def fingerprint(self) -> dict[str, str]:
        """What identifies these images; see `jaxnet.data.fingerprints`.

        All names below the folder that they share, and the bytes of some files.
        """
        home = os.path.commonpath([os.path.dirname(file) for file in self.files])
        names = [Path(os.path.relpath(file, home)).as_posix() for file in self.files]
        some = np.unique(np.linspace(0, len(self) - 1, SAMPLED).astype(np.int64))
        return {
            "files": texts_digest(names),
            "inputs": digest(*(contents(self.files[int(row)]) for row in some)),
            "size of images": json_digest([self.size, self.channels, self.resize]),
            "labels": array_digest(self.labels),
            "class names": json_digest(list(self.class_names)),
        }

    def take(self, indices: np.ndarray) -> ImageFolder:
        """The images at `indices`, integers (m,), in that order; nothing is read."""
        files = [self.files[row] for row in indices]
        return dataclasses.replace(self, files=files, labels=self.labels[indices])

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        if self.size is not None:
            return (*self.size, self.channels)
        height, width = decode(self.files[0], channels=self.channels).shape[:2]
        return height, width, self.channels


def image_folders(
    folder: str | PathLike[str],
    size: tuple[int, int] | None = None,
    channels: Channels = 3,
    resize: Resize = "stretch",
) -> dict[str, ImageFolder]:
    """Find the images of a folder that has a sub-folder for each class.

    The parts of the dataset may stand as a level above the classes: `train`, `valid` (or `val`) and
    `test`. Classes are numbered in the order of their names, as the training part has them.

    Args:
        folder: holds CLASS/*.jpg, or train/CLASS/*.jpg and so on, of any of `EXTENSIONS`.
        size: height and width to bring all images to; None expects all to be of one size.
        channels: 3 for colours, 1 for grey.
        resize: `"stretch"` or `"crop"`, as in `ImageFolder`.

    Returns:
        The parts that are there, called `train`, `valid` and `test`; only `train` where the folder
        has no such level.

    Raises:
        InputError: a folder or a class has no image, there are fewer than two classes, or a part
            has a class that the training part doesn't have.
    """
    folder = expanded(folder)
    homes = _parts(folder)
    class_names = tuple(home.name for home in _folders(homes["train"]))
    if len(class_names) < 2:
        raise InputError(
            f"{homes['train']}: expected a sub-folder with images for each of at least two classes,"
            f" got {', '.join(class_names) or 'no sub-folder'}"
        )
    return {
        part: ImageFolder(
            *_images(home, class_names),
            class_names,
            size,
            channels,
            resize,
            f"{folder.name} {part}",
        )
        for part, home in homes.items()
    }


def training_parts(
    folder: str | PathLike[str],
    size: tuple[int, int] | None = None,
    seed: int = 0,
    in_memory: int | None = None,
) -> tuple[Arrays | ImageFolder, ...]:
    """Training, validation and test part of a folder of images, whichever of them it has.

    Without parts, the images are split 70/20/10. With one part besides `train`, be it called
    `valid` or `test`, that part is the test, and a tenth of `train` validates.

    Args:
        folder: as for `image_folders`.
        size: height and width to bring all images to; None expects all to be of one size.
        seed: of the splits.
        in_memory: read everything now if its pixels take no more bytes than this; by default
            `IN_MEMORY_BYTES`.

    Returns:
        Three of `Arrays`, or of `ImageFolder` where they stay on disk.

    Raises:
        InputError: as for `image_folders`; and an image can't be read, or a class is too small.
    """
    parts = image_folders(folder, size)
    train = parts.pop("train")
    if len(parts) == 2:
        chosen = train, parts["valid"], parts["test"]
    elif parts:
        chosen = *split(train, (0.9, 0.1), seed=seed), *parts.values()
    else:
        chosen = split(train, seed=seed)
    most = IN_MEMORY_BYTES if in_memory is None else in_memory
    small = sum(map(size_in_memory, chosen)) <= most
    return tuple(map(load, chosen)) if small else chosen


def _parts(folder: Path) -> dict[str, Path]:
    """Where the parts are, or the folder itself as the training part."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; expected one with a sub-folder a class")
    by_name = {home.name.lower(): home for home in _folders(folder)}
    homes = {
        part: by_name[name] for part, names in PARTS.items() for name in names if name in by_name
    }
    # A class may be called `train` too; but then it has no folders inside.
    return homes if "train" in homes and _folders(homes["train"]) else {"train": folder}


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder by name, without hidden ones, litter, and links to where it lies."""
    above = _above(folder)
    found = (path for path in folder.iterdir() if path.is_dir() and not is_litter(path.name))
    kept = (path for path in found if os.path.realpath(path) not in above)
    return sorted(kept, key=lambda path: path.name)


def _above(folder: Path) -> set[str]:
    """The real paths of a folder and of all that it lies in."""
    real = Path(os.path.realpath(folder))
    return {str(real), *map(str, real.parents)}


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or one that systems and tools leave among images.

    Example:
        >>> [is_litter(name) for name in (".ipynb_checkpoints", "@eaDir", "cats")]
        [True, True, False]
    """
    return name.startswith(".") or name.lower() in LITTER


def _images(home: Path, class_names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """All images below the folders of the classes, and their labels."""
    known = {name: label for label, name in enumerate(class_names)}
    # A link within a class doesn't make another class's images its own.
    classes = {os.path.realpath(folder) for folder in _folders(home)}
    files: list[str] = []
    labels: list[int] = []
    for folder in _folders(home):
        if folder.name not in known:
            raise InputError(
                f"{folder}: the training part has no class {folder.name!r}; "
                f"it has {', '.join(class_names)}"
            )
        found = _files(folder, classes)
        if not found:
            raise InputError(f"{folder}: expected images ({', '.join(EXTENSIONS)}), found none")
        files += found
        labels += [known[folder.name]] * len(found)
    if not files:
        raise InputError(f"{home}: expected a sub-folder with images for each class, found none")
    return files, np.array(labels, np.int32)


def _files(folder: Path, classes: set[str]) -> list[str]:
    """The images in a folder and below it, each folder once, in the order of their names."""
    found: list[str] = []
    seen = _above(folder) | classes
    for place, folders, names in os.walk(folder, followlinks=True):
        # A link may lead to where the walk is or was: "." would count all images again.
        inside = {name: os.path.realpath(os.path.join(place, name)) for name in sorted(folders)}
        folders[:] = []
        for name, real in inside.items():
            if not is_litter(name) and real not in seen:
                seen.add(real)
                folders.append(name)
        images = (name for name in names if name.lower().endswith(EXTENSIONS))
        found += [os.path.join(place, name) for name in images if not is_litter(name)]
    return sorted(found)
