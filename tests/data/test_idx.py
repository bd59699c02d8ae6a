from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from jaxnet.data import load_fashion_mnist, load_mnist, read_idx
from jaxnet.errors import InputError

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_bytes(array: np.ndarray) -> bytes:
    """The format as its description has it, written apart from the reader."""
    header = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim])
    lengths = b"".join(struct.pack(">I", length) for length in array.shape)
    return header + lengths + array.astype(array.dtype.newbyteorder(">")).tobytes()


def mnist_arrays(train: int = 5, test: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        array
        for n in (train, test)
        for array in (
            rng.integers(0, 256, (n, 28, 28), np.uint8),
            rng.integers(0, 10, n).astype(np.uint8),
        )
    ]


def write_mnist(folder: Path, arrays: list[np.ndarray], compress: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(NAMES, arrays, strict=True):
        data = idx_bytes(array)
        path = folder / (f"{name}.gz" if compress else name.replace("-idx", ".idx"))
        path.write_bytes(gzip.compress(data, mtime=0) if compress else data)
    return folder


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("compress", [False, True])
def test_every_type_is_read_back(tmp_path, code, compress):
    array = np.array([[-3, 0, 1], [2, 100, 127]]).astype(code)
    data = idx_bytes(array)
    path = tmp_path / "a.idx"
    path.write_bytes(gzip.compress(data, mtime=0) if compress else data)
    read = read_idx(path)
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_a_hand_written_file_is_big_endian(tmp_path):
    path = tmp_path / "a.idx"
    path.write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 0x01, 0x02, 0xFF, 0xFF]))
    assert read_idx(path).tolist() == [258, -1]


GOOD = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an IDX file: .* got nothing"),
        (b"<html>", "not an IDX file: .* got 3c 68 74 6d; fetch the file again"),
        (bytes([0, 0, 0x0A, 1, 0, 0, 0, 0]), "not an IDX file: .* got 00 00 0a 01"),
        (bytes([0, 1, 8, 1, 0, 0, 0, 0]), "not an IDX file"),
        (bytes([0, 0, 8, 0, 5]), "corrupt IDX header: 0 axes"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 1]), "corrupt IDX header: 3 axes announced in 8 bytes"),
        (bytes([0, 0, 8, 200]) + bytes(900), "corrupt IDX header: 200 axes"),
        (GOOD[:-2], r"truncated: shape \(2, 3\) of uint8 expected 18 bytes, got 16"),
        (GOOD + b"x", "too long: .* expected 18 bytes, got 19"),
        (gzip.compress(GOOD[:-1], mtime=0), "truncated: .* expected 18 bytes, got 17"),
        (gzip.compress(GOOD, mtime=0)[:-9], "corrupt gzip .*ended before"),
        (gzip.compress(GOOD, mtime=0)[:2], "corrupt gzip"),
        (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 20, "corrupt gzip .*invalid block type"),
        (gzip.compress(GOOD, mtime=0)[:-8] + bytes(8), "corrupt gzip .*CRC"),
    ],
)
def test_a_corrupt_file_is_refused_by_name(tmp_path, data, message):
    path = tmp_path / "some.idx.gz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"some.idx.gz: {message}"):
        read_idx(path)


def test_a_missing_file_says_what_is_there(tmp_path):
    with pytest.raises(InputError, match="no such file; its folder holds nothing"):
        read_idx(tmp_path / "a.idx")
    for i in range(10):
        (tmp_path / f"file{i}").touch()
    with pytest.raises(InputError, match=r"holds file0, file1, .*file7 and 2 more"):
        read_idx(tmp_path / "a.idx")
    with pytest.raises(InputError, match="no such file; no folder"):
        read_idx(tmp_path / "absent" / "a.idx")
    with pytest.raises(InputError, match="could not be read: Is a directory"):
        read_idx(tmp_path)


@pytest.mark.parametrize("inside", ["", "mnist", "MNIST", "raw", "MNIST/raw"])
@pytest.mark.parametrize("compress", [False, True])
def test_mnist_is_found_compressed_or_not_here_or_one_folder_down(tmp_path, inside, compress):
    arrays = mnist_arrays()
    write_mnist(tmp_path / inside, arrays, compress)
    for part, (images, labels) in zip(load_mnist(tmp_path), (arrays[:2], arrays[2:]), strict=True):
        assert part.inputs.dtype == np.uint8
        np.testing.assert_array_equal(part.inputs, images.reshape(-1, 28, 28, 1))
        assert part.labels.dtype == np.int32
        np.testing.assert_array_equal(part.labels, labels)
        assert part.class_names == tuple("0123456789")


def test_the_parts_are_named_for_messages(tmp_path):
    train, test = load_mnist(write_mnist(tmp_path, mnist_arrays()), name="kuzushiji")
    assert (train.name, test.name) == ("kuzushiji train", "kuzushiji test")


def test_fashion_mnist_never_takes_the_digits_beside_it(tmp_path):
    digits, clothes = mnist_arrays(5), mnist_arrays(7)
    write_mnist(tmp_path / "mnist", digits)
    with pytest.raises(InputError, match=r"fashion_mnist: .* is missing .* which holds mnist"):
        load_fashion_mnist(tmp_path)
    write_mnist(tmp_path / "fashion_mnist", clothes)
    train, _ = load_fashion_mnist(tmp_path)
    assert len(train) == 7
    assert train.class_names is not None
    assert (train.class_names[0], train.class_names[9]) == ("T-shirt/top", "Ankle boot")
    assert train.num_classes == 10


def test_a_missing_mnist_file_is_named_with_what_is_there_and_what_is_expected(tmp_path):
    write_mnist(tmp_path, mnist_arrays())
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError) as caught:
        load_mnist(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"mnist: t10k-labels-idx1-ubyte[.gz] is missing in {tmp_path}")
    missing, expected = message.split("expected four files: ")
    assert "holds t10k-images-idx3-ubyte.gz, train-images-idx3-ubyte.gz" in missing
    assert expected == ", ".join(f"{name}[.gz]" for name in NAMES)


def test_a_folder_that_is_missing_or_empty_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"mnist: there is no folder .*absent"):
        load_mnist(tmp_path / "absent")
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.*which holds nothing; expected"):
        load_mnist(tmp_path)


def test_images_and_labels_that_do_not_belong_together_are_both_named(tmp_path):
    arrays = mnist_arrays()
    arrays[1] = arrays[1][:-1]
    write_mnist(tmp_path, arrays)
    both = r"train-images-idx3-ubyte.gz has 5 images but .*train-labels-idx1-ubyte.gz has 4 labels"
    with pytest.raises(InputError, match=both):
        load_mnist(tmp_path)


@pytest.mark.parametrize(
    ("position", "array", "message"),
    [
        (0, np.zeros(5, np.uint8), r"train-images.*expected uint8 \(n, 28, 28\), got uint8 \(5,\)"),
        (0, np.zeros((5, 27, 28), np.uint8), r"expected .*\(n, 28, 28\), got uint8 \(5, 27, 28\)"),
        (2, np.zeros((3, 28, 28), np.int32), r"t10k-images.*got int32 \(3, 28, 28\)"),
        (3, np.zeros((3, 28, 28), np.uint8), r"t10k-labels.*\(n,\), got .*exchanged\?"),
        (3, np.array([0, 10, 1], np.uint8), r"mnist test: label 10 in row 1 is outside \[0, 10\)"),
    ],
)
def test_a_file_with_the_wrong_content_is_refused(tmp_path, position, array, message):
    arrays = mnist_arrays()
    arrays[position] = array
    with pytest.raises(InputError, match=message):
        load_mnist(write_mnist(tmp_path, arrays))


def test_the_real_mnist(mnist_dir):
    train, test = load_mnist(mnist_dir)
    assert (train.inputs.shape, test.inputs.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    # How often each digit occurs and the mean that is quoted everywhere.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train.labels).tolist() == counts
    assert train.inputs.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    beside, _ = load_mnist(mnist_dir.parent)
    np.testing.assert_array_equal(beside.labels, train.labels)
