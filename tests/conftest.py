"""Data that tests share; what holds for every test and doctest is in the conftest.py above."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("JAXNET_DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder with MNIST's four IDX files, where it is at hand."""
    folder = DATA / "mnist"
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("MNIST is absent: set JAXNET_DATA_DIR to a folder that holds mnist/*.gz")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real tables and texts, where it is at hand."""
    if not (DATA / "titanic.csv").exists():
        pytest.skip("titanic.csv is absent: set JAXNET_DATA_DIR to a folder that holds it")
    return DATA


@pytest.fixture(scope="session")
def cifar10_archive() -> Path:
    """CIFAR-10 as JPEG files in a tar archive, where it is at hand."""
    archive = DATA / "cifar10_jpg.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive.name} is absent: set JAXNET_DATA_DIR to a folder that holds it")
    return archive
