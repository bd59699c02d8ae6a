"""CIFAR in all its forms. The writers here follow the published description, not the reader."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxnet.data import load_cifar10, load_cifar100
from jaxnet.data.images.cifar import CIFAR10, CIFAR100_COARSE, CIFAR100_FINE
from jaxnet.errors import InputError, UsageError

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def some_images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32, 32, 3) and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n).astype(np.uint8)


def rows(images: np.ndarray) -> np.ndarray:
    """As in the files: 1024 red values, row by row, then the green and the blue ones."""
    return np.stack([np.concatenate([i[..., c].ravel() for c in range(3)]) for i in images])


def binary(images: np.ndarray, *labels: np.ndarray) -> bytes:
    pixels = rows(images)
    return b"".join(
        bytes(label[i] for label in labels) + pixels[i].tobytes() for i in range(len(images))
    )


def python2_pickle(images: np.ndarray, **labels: np.ndarray) -> bytes:
    """A dict as Python 2 pickles it with protocol 2, written out instruction by instruction."""

    def text(value: bytes) -> bytes:
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<i", len(value)) + value

    def whole(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    pixels = rows(images)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + b"K\x00\x85" + text(b"b") + b"\x87R"  # the call of _reconstruct(ndarray, (0,), "b")
        + b"(K\x01" + whole(len(pixels)) + whole(3072) + b"\x86"
        + b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        + b"(K\x03" + text(b"|") + b"NNN" + whole(-1) + whole(-1) + b"K\x00tb"
        + b"\x89" + text(pixels.tobytes()) + b"tb"
    )  # fmt: skip
    items = text(b"data") + array
    for name, values in labels.items():
        items += text(name.encode()) + b"](" + b"".join(whole(int(v)) for v in values) + b"e"
    return b"\x80\x02}(" + items + b"u."


def write_cifar10(folder: Path, form: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """All six files; returns what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    held = [some_images(4, seed) for seed in range(6)]
    for name, (images, labels) in zip(BATCHES, held, strict=True):
        if form == "binary":
            (folder / f"{name}.bin").write_bytes(binary(images, labels))
        elif form == "python2":
            (folder / name).write_bytes(python2_pickle(images, labels=labels))
        else:
            content = {b"data": rows(images), b"labels": labels.tolist(), b"batch_label": b"x"}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return held


def packed(folder: Path, archive: Path, inside: str) -> Path:
    """A tar archive of a folder, as the original has it: with a folder inside."""
    with tarfile.open(archive, f"w:{archive.suffix[1:]}" if archive.suffix != ".tar" else "w") as t:
        t.add(folder, inside)
    return archive


def check(loaded, held) -> None:
    train, test = loaded
    for part, batches in ((train, held[:-1]), (test, held[-1:])):
        np.testing.assert_array_equal(part.inputs, np.concatenate([x for x, _ in batches]))
        np.testing.assert_array_equal(part.labels, np.concatenate([y for _, y in batches]))
        assert part.inputs.dtype == np.uint8
        assert part.inputs.flags.c_contiguous
        assert part.labels.dtype == np.int32
        assert part.class_names == CIFAR10
    assert (train.name, test.name) == ("cifar10 train", "cifar10 test")


@pytest.mark.parametrize("form", ["binary", "python2", "python3"])
@pytest.mark.parametrize("inside", ["", "cifar10", "cifar-10-batches-py"])
def test_cifar10_is_read_here_or_one_folder_down(tmp_path, form, inside):
    held = write_cifar10(tmp_path / inside, form)
    check(load_cifar10(tmp_path), held)


@pytest.mark.parametrize("form", ["binary", "python2"])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz"])
def test_cifar10_is_read_out_of_an_archive(tmp_path, form, suffix):
    held = write_cifar10(tmp_path / "files", form)
    (tmp_path / "place").mkdir()
    packed(tmp_path / "files", tmp_path / "place" / "cifar-100-python.tar", "cifar-100-python")
    archive = tmp_path / "place" / f"cifar-10-{form}{suffix}"
    packed(tmp_path / "files", archive, "cifar-10-batches")
    check(load_cifar10(archive), held)
    check(load_cifar10(tmp_path / "place"), held)


@pytest.mark.parametrize("archive", [False, True])
def test_cifar10_as_images_in_folders(tmp_path, archive):
    images, _ = some_images(6, 0)
    for part, classes in (("train", ("cat", "airplane")), ("test", ("truck",))):
        for i, name in enumerate(classes):
            folder = tmp_path / "files" / part / name
            folder.mkdir(parents=True)
            for j in range(2):
                Image.fromarray(images[2 * i + j]).save(folder / f"{j}.png")
    (tmp_path / "files" / "README.md").touch()
    place = tmp_path / "files"
    if archive:
        place = packed(place, tmp_path / "cifar10_png.tar.xz", ".")
    train, test = load_cifar10(place)
    np.testing.assert_array_equal(train.inputs, images[[2, 3, 0, 1]])  # airplanes come first
    assert train.labels.tolist() == [0, 0, 3, 3]
    assert test.labels.tolist() == [9, 9]
    assert train.class_names == CIFAR10


@pytest.mark.parametrize("form", ["binary", "python2"])
def test_cifar100_has_fine_and_coarse_labels(tmp_path, form):
    images, _ = some_images(3, 0)
    fine, coarse = np.array([99, 0, 51], np.uint8), np.array([19, 4, 7], np.uint8)
    for name in ("train", "test"):
        if form == "binary":
            (tmp_path / f"{name}.bin").write_bytes(binary(images, coarse, fine))
        else:
            data = python2_pickle(images, fine_labels=fine, coarse_labels=coarse)
            (tmp_path / name).write_bytes(data)
    for labels, expected, names in (
        ("fine", fine, CIFAR100_FINE),
        ("coarse", coarse, CIFAR100_COARSE),
    ):
        for part in load_cifar100(tmp_path, labels=labels):
            np.testing.assert_array_equal(part.inputs, images)
            np.testing.assert_array_equal(part.labels, expected)
            assert part.class_names == names
    with pytest.raises(UsageError, match="'fine' or 'coarse', got 'rough'"):
        load_cifar100(tmp_path, labels="rough")  # type: ignore[arg-type]


def test_the_class_names_are_as_many_as_there_are_classes():
    assert [len(names) for names in (CIFAR10, CIFAR100_FINE, CIFAR100_COARSE)] == [10, 100, 20]
    for names in (CIFAR10, CIFAR100_FINE, CIFAR100_COARSE):
        assert list(names) == sorted(set(names))


class Evil:
    def __reduce__(self):
        return (print, ("run by the file",))


GOOD = some_images(4, 0)


@pytest.mark.parametrize(
    ("form", "damage", "message"),
    [
        ("binary", lambda data: data[:-1], "truncated: 12291 bytes aren't whole records of 3073"),
        ("binary", lambda data: b"", "truncated: 0 bytes"),
        ("binary", lambda data: data[:3073], "expected as many images in each file"),
        ("binary", lambda data: b"\x0b" + data[1:], "expected labels from 0 to 9, got"),
        ("python2", lambda data: data[:-100], "truncated or corrupt"),
        ("python2", lambda data: b"<html>", "truncated or corrupt"),
        ("python2", lambda data: pickle.dumps([1]), "expected a dict with data"),
        ("python2", lambda data: pickle.dumps({"data": 1}), "expected a dict with data"),
        ("python2", lambda data: python2_pickle(GOOD[0], labels=GOOD[1][:2]), "for 2 labels"),
        ("python2", lambda data: pickle.dumps(Evil(), 2), "refused to call .*print"),
        ("python2", lambda data: b"cos\nsystem\n(S'true'\ntR.", "refused to call os.system"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, capsys, form, damage, message):
    write_cifar10(tmp_path, form)
    file = tmp_path / ("data_batch_3.bin" if form == "binary" else "data_batch_3")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=f"(?s)data_batch_3.*{message}|{message}.*data_batch_3"):
        load_cifar10(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_damaged_archive_is_refused_by_name(tmp_path):
    write_cifar10(tmp_path / "files", "binary")
    for suffix in (".tar", ".tar.gz", ".tar.xz"):
        archive = packed(tmp_path / "files", tmp_path / f"cifar-10-binary{suffix}", "c")
        whole = archive.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"<html>", b""):
            archive.write_bytes(damaged)
            with pytest.raises(InputError, match=f"binary{suffix}: not a whole tar archive"):
                load_cifar10(archive)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no folder or archive .*absent"):
        load_cifar10(tmp_path / "absent")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds notes.txt; expected data_batch_1.bin \(binary\)"):
        load_cifar10(tmp_path)
    write_cifar10(tmp_path, "binary")
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(InputError, match=r"data_batch_2.bin is missing in"):
        load_cifar10(tmp_path)


def test_images_that_are_not_cifars_are_refused(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / part / "cat" / "a.png")
    Image.new("RGB", (31, 32)).save(tmp_path / "train" / "cat" / "b.png")
    with pytest.raises(InputError, match=r"cat/b.png: expected 32 x 32 pixels, got"):
        load_cifar10(tmp_path)
    (tmp_path / "train" / "cat" / "b.png").write_bytes(b"GIF?")
    with pytest.raises(InputError, match=r"cat/b.png: this image can't be read"):
        load_cifar10(tmp_path)
    (tmp_path / "train" / "cat").rename(tmp_path / "train" / "kitten")
    with pytest.raises(InputError, match=r"got kitten; .*--data folder"):
        load_cifar10(tmp_path)


@pytest.mark.slow
def test_the_real_images_give_the_real_sizes(cifar10_archive):
    train, test = load_cifar10(cifar10_archive)
    assert train.inputs.shape == (50_000, 32, 32, 3)
    assert test.inputs.shape == (10_000, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [5_000] * 10
    # The first test picture of an aeroplane, decoded by another way.
    with tarfile.open(cifar10_archive) as opened:
        data = opened.extractfile("test/airplane/0000.jpg").read()
    np.testing.assert_array_equal(test.inputs[0], np.asarray(Image.open(io.BytesIO(data))))
