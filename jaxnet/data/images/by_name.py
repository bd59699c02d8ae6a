"""Images by the name that a command takes: what to learn from, to watch and to test on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxnet.data.arrays import Arrays
from jaxnet.data.at_hand import home_of
from jaxnet.data.images.cifar import load_cifar10, load_cifar100
from jaxnet.data.images.downloads import download_original
from jaxnet.data.images.folders import ImageFolder, training_parts
from jaxnet.data.images.idx import load_fashion_mnist, load_mnist
from jaxnet.data.small_datasets import load_digits
from jaxnet.data.splits import split
from jaxnet.errors import UsageError
from jaxnet.names import lookup


class ImageParts(NamedTuple):
    """Images with their classes, in parts.

    Attributes:
        train: what to learn from.
        valid: what to watch meanwhile.
        test: what to report on.
        whole: what cross-validation cuts into folds; None where the files are cut already.
    """

    train: Arrays | ImageFolder
    valid: Arrays | ImageFolder
    test: Arrays | ImageFolder
    whole: Arrays | None = None


def read_images(
    name: str, folder: Path | None = None, size: int | None = None, seed: int = 0
) -> ImageParts:
    """The images called `name`.

    Args:
        name: digits, which come with scikit-learn; mnist, fashion_mnist, cifar10 or cifar100,
            which, where no folder is given, are looked for in the folder that JAXNET_DATA_DIR
            names, and then downloaded; or folder, for images of one's own.
        folder: where the files are.
        size: folder: height and width to bring all images to; None expects all to be of one size.
        seed: of the split.

    Raises:
        UsageError: an unknown name, or `"folder"` without one.
        InputError: the files are missing or not what they should be.

    Example:
        >>> [len(part) for part in read_images("digits")[:3]]
        [1258, 180, 359]
    """
    return lookup(name, IMAGE_SETS, "data")(name, folder, size, seed)


def _digits(name: str, folder: Path | None, size: int | None, seed: int) -> ImageParts:
    digits = load_digits()
    train, valid, test = split(digits, (0.7, 0.1, 0.2), seed=seed)
    return ImageParts(train, valid, test, digits)


def _original(load: Callable[[Path], tuple[Arrays, Arrays]]) -> Reader:
    def read(name: str, folder: Path | None, size: int | None, seed: int) -> ImageParts:
        whole, test = load(folder or home_of(name) or download_original(name))
        train, valid = split(whole, (0.9, 0.1), seed=seed)
        return ImageParts(train, valid, test, whole)

    return read


def _folder(name: str, folder: Path | None, size: int | None, seed: int) -> ImageParts:
    if folder is None:
        raise UsageError("--data folder needs --data-dir, the folder with the images")
    shape = None if size is None else (size, size)
    train, valid, test = training_parts(folder, shape, seed=seed)
    return ImageParts(train, valid, test)


Reader = Callable[[str, Path | None, int | None, int], ImageParts]
IMAGE_SETS: Mapping[str, Reader] = {
    "digits": _digits,
    "mnist": _original(load_mnist),
    "fashion_mnist": _original(load_fashion_mnist),
    "cifar10": _original(load_cifar10),
    "cifar100": _original(load_cifar100),
    "folder": _folder,
}
