"""The original files of well-known datasets, downloaded where they aren't at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxnet.data.download import default_folder, download
from jaxnet.names import lookup


@dataclass(frozen=True)
class Original:
    """Where the files of a dataset are, and the MD5 of each, which is what publishers tell.

    Attributes:
        bases: addresses below which all files are; the second and later ones are mirrors.
        files: MD5 by name.
    """

    bases: tuple[str, ...]
    files: Mapping[str, str]


ORIGINALS: Mapping[str, Original] = {
    "mnist": Original(
        bases=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
        files={
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": Original(
        bases=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
        files={
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar10": Original(
        bases=("https://www.cs.toronto.edu/~kriz",),
        files={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    ),
    "cifar100": Original(
        bases=("https://www.cs.toronto.edu/~kriz",),
        files={"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
    ),
}


def download_original(name: str, progress: bool | None = None) -> Path:
    """The folder with the original files of a dataset, which are downloaded unless they are there.

    Args:
        name: `"mnist"`, `"fashion_mnist"`, `"cifar10"` or `"cifar100"`.
        progress: whether to show a progress bar; None shows it where the screen is a terminal.

    Returns:
        A folder for `load_mnist`, `load_fashion_mnist`, `load_cifar10` or `load_cifar100`.

    Raises:
        UsageError: there is no such dataset, or no cache folder.
        InputError: a file can't be had; the message says which one to put where by hand.

    Example:
        >>> from jaxnet.data import load_cifar10
        >>> train, test = load_cifar10(download_original("cifar10"))  # doctest: +SKIP
    """
    original = lookup(name, ORIGINALS, "dataset")
    folder = default_folder() / name
    for file, md5 in original.files.items():
        addresses = [f"{base}/{file}" for base in original.bases]
        download(*addresses, md5=md5, folder=folder, progress=progress)
    return folder
