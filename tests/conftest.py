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
