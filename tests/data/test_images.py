"""Folders of images: what is found, what a file becomes, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxnet.data import Arrays, ImageFolder, image_folders, load, sample, split
from jaxnet.data.images import decoding
from jaxnet.data.images.decoding import decode
from jaxnet.data.images.folders import training_parts
from jaxnet.errors import InputError, UsageError


def picture(seed: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Colours that change slowly, which JPEG keeps nearly as they are."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([255 * y, 255 * x, 255 * (1 - y)], axis=-1).round().astype(np.uint8)


def write(folder: Path, images: dict[str, np.ndarray]) -> Path:
    for name, pixels in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


def flowers(folder: Path, parts: tuple[str, ...] = ("",), each: int = 2) -> Path:
    for seed, part in enumerate(parts):
        for name in ("tulip", "aster", "rose"):
            images = {f"{i}.png": picture(100 * seed + i) for i in range(each)}
            write(folder / part / name, images)
    return folder


def test_hidden_folders_litter_and_links_that_lead_back_count_nothing(tmp_path):
    flowers(tmp_path)
    write(tmp_path, {"stray.png": picture(9)})  # of no class
    expected = image_folders(tmp_path)["train"]
    for place in (".", "rose", "rose/deep"):
        for litter in (".ipynb_checkpoints", "@eaDir", "__MACOSX/rose", "$RECYCLE.BIN"):
            write(tmp_path / place / litter, {"0-copy.png": picture(0)})
    for name in ("Thumbs.db", ".DS_Store", "._0.png", "desktop.ini"):
        (tmp_path / "rose" / name).touch()
    for link, target in (
        ("all", "."),
        ("rose/again", "."),
        ("rose/up", ".."),
        ("rose/other", "../tulip"),
        ("rose/deep/loop", "../deep"),
        ("aster/outside", tmp_path.as_posix()),
    ):
        (tmp_path / link).symlink_to(target)
    found = image_folders(tmp_path)["train"]
    assert found.files == expected.files
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.class_names == expected.class_names


def test_a_link_to_images_elsewhere_is_followed_once(tmp_path):
    flowers(tmp_path / "data")
    write(tmp_path / "elsewhere", {"more.png": picture(7)})
    for name in ("one", "two"):
        (tmp_path / "data" / "rose" / name).symlink_to(tmp_path / "elsewhere")
    assert len(image_folders(tmp_path / "data")["train"]) == 7


def test_classes_are_numbered_by_name_and_files_come_in_order(tmp_path):
    write(tmp_path / "rose", {"b.png": picture(1), "a.PNG": picture(2), "deep/c.png": picture(3)})
    write(tmp_path / "aster", {"x.bmp": picture(4)})
    (tmp_path / "aster" / "notes.txt").touch()
    (tmp_path / "aster" / "._x.png").touch()
    (tmp_path / ".cache").mkdir()
    parts = image_folders(tmp_path)
    assert list(parts) == ["train"]
    folder = parts["train"]
    assert (folder.class_names, folder.num_classes, len(folder)) == (("aster", "rose"), 2, 4)
    assert [Path(file).name for file in folder.files] == ["x.bmp", "a.PNG", "b.png", "c.png"]
    assert folder.labels.tolist() == [0, 1, 1, 1]
    assert folder.inputs.shape == (4, 6, 8, 3)
    loaded = load(folder)
    np.testing.assert_array_equal(loaded.inputs, [picture(seed) for seed in (4, 2, 1, 3)])
    assert loaded.labels.tolist() == [0, 1, 1, 1]
    assert loaded.class_names == folder.class_names
    assert loaded.name == folder.name == f"{tmp_path.name} train"


@pytest.mark.parametrize("valid", ["valid", "val", "Validation"])
def test_parts_are_a_level_above_the_classes(tmp_path, valid):
    parts = image_folders(flowers(tmp_path, ("train", valid, "test")))
    assert list(parts) == ["train", "valid", "test"]
    assert parts["valid"].name == f"{tmp_path.name} valid"
    np.testing.assert_array_equal(load(parts["valid"]).inputs[1], picture(101))
    # A class of the training part may be absent from another.
    write(tmp_path / "train" / "violet", {"0.png": picture(9)})
    assert image_folders(tmp_path)["test"].class_names == ("aster", "rose", "tulip", "violet")


def test_a_class_may_be_called_like_a_part(tmp_path):
    write(tmp_path, {"bus/0.png": picture(0), "train/0.png": picture(1)})
    assert image_folders(tmp_path)["train"].class_names == ("bus", "train")


def test_what_cannot_be_a_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*absent"):
        image_folders(tmp_path / "absent")
    with pytest.raises(InputError, match="at least two classes, got no sub-folder"):
        image_folders(tmp_path)
    write(tmp_path, {"a/0.png": picture(0)})
    with pytest.raises(InputError, match="at least two classes, got a"):
        image_folders(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"b: expected images \(.jpg, .*found none"):
        image_folders(tmp_path)
    flowers(tmp_path / "parts", ("train", "test"))
    write(tmp_path / "parts" / "test" / "oak", {"0.png": picture(0)})
    with pytest.raises(InputError, match=r"oak: the training part has no class 'oak'; it has a"):
        image_folders(tmp_path / "parts")


def test_split_and_take_read_nothing(tmp_path, monkeypatch):
    folder = image_folders(flowers(tmp_path, each=10), size=(4, 4))["train"]
    monkeypatch.setattr("jaxnet.data.images.folders.decode", None)
    train, valid, test = split(folder, seed=1)
    assert [len(part) for part in (train, valid, test)] == [21, 6, 3]
    assert np.bincount(train.labels).tolist() == [7, 7, 7]
    files = [*train.files, *valid.files, *test.files]
    assert sorted(files) == sorted(folder.files)
    for file, label in zip(train.files, train.labels, strict=True):
        assert Path(file).parent.name == train.class_names[label]


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (("",), [21, 6, 3]),
        (("train", "val"), [27, 3, 30]),
        (("train", "test"), [27, 3, 30]),
        (("train", "val", "test"), [30, 30, 30]),
    ],
)
@pytest.mark.parametrize("in_memory", [2**20, 0])
def test_a_run_has_three_parts_whichever_there_are(tmp_path, parts, sizes, in_memory):
    made = training_parts(flowers(tmp_path, parts, each=10), in_memory=in_memory)
    assert [len(part) for part in made] == sizes
    assert {type(part) for part in made} == {Arrays if in_memory else ImageFolder}


def test_a_sample_is_small_and_drawn_at_random(tmp_path):
    folder = image_folders(flowers(tmp_path, each=10))["train"]
    drawn = sample(folder, most=12)
    assert drawn.inputs.shape == (12, 6, 8, 3)
    assert len(set(drawn.labels.tolist())) == 3
    assert sample(drawn) is drawn
    assert len(sample(folder, most=99)) == 30


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_colour(tmp_path, mode, channels):
    name = "a.tif" if mode == "CMYK" else "a.png"
    image = Image.fromarray(picture(0)).convert(mode)
    image.save(tmp_path / name)
    expected = np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(6, 8, channels)
    np.testing.assert_array_equal(decode(str(tmp_path / name), channels=channels), expected)


def test_a_palette_with_a_transparent_colour_gives_no_warning(tmp_path):
    image = Image.fromarray(picture(0)).convert("P")
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(str(tmp_path / "a.png")), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation):
    upright = smooth(20, 30)
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored = Image.fromarray(np.ascontiguousarray(turn[orientation](upright)))
    stored.save(file, "jpeg", quality=100, exif=exif)
    decoded = decode(file.getvalue(), name="photo")
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).max() < 12
    small = decode(file.getvalue(), size=(4, 6), name="photo")
    assert np.abs(small.astype(int) - smooth(4, 6)).max() < 40


def test_resizing_stretches_or_crops_the_middle():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    file = io.BytesIO()
    Image.fromarray(wide).save(file, "png")
    assert (
        decode(file.getvalue(), (5, 5), resize="crop").min() > 200
    )  # smoothed with what is beside it
    stretched = decode(file.getvalue(), (5, 6))
    assert stretched.shape == (5, 6, 3)
    assert stretched[:, [0, 5]].max() == 0
    assert stretched[:, [2, 3]].min() > 200


@pytest.mark.parametrize("size", [None, (37, 53), (30, 20), (5, 6), (2, 3)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_has_the_pixels_that_pillow_gives_it(monkeypatch, size, mode, channels):
    for options in ({}, {"progressive": True}, {"quality": 98}):
        for subsampling in (0, 1, 2) if mode == "RGB" else (0,):
            file = io.BytesIO()
            noisy = smooth(37, 53) // 2 + np.random.default_rng(0).integers(0, 99, (37, 53, 3))
            image = Image.fromarray(noisy.astype(np.uint8)).convert(mode)
            image.save(file, "jpeg", subsampling=subsampling, **options)
            got = decode(file.getvalue(), size, channels)
            with monkeypatch.context() as patch:
                patch.setattr(decoding, "_jpeg", lambda *_: None)
                np.testing.assert_array_equal(got, decode(file.getvalue(), size, channels))
            assert got.dtype == np.uint8 and got.flags.c_contiguous


@pytest.mark.parametrize("size", [(24, 32), (60, 80), (24, 60)])
def test_a_jpeg_decoded_small_is_nearly_the_one_decoded_whole(size):
    # Stripes that are still there at 80 pixels, and that half the pixels could not hold.
    stripes = 128 + 100 * np.sin(np.arange(320) * 2 * np.pi / 10)
    pixels = np.broadcast_to(stripes[None, :, None], (240, 320, 3)).astype(np.uint8)
    whole = Image.fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    whole.save(file, "jpeg", quality=95)
    expected = np.asarray(whole.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode(file.getvalue(), size).astype(int) - expected).max() < 8


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "this image can't be read"),
        (lambda data: b"", "this image can't be read"),
        (lambda data: b"<html>", "this image can't be read"),
        (lambda data: b"\xff\xd8\xff\xe0" + b"\0" * 50, "this image can't be read"),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_damaged_file_is_named(tmp_path, suffix, damage, message):
    folder = image_folders(
        write(tmp_path, {f"a/0.{suffix}": picture(0), f"b/1.{suffix}": picture(1)})
    )
    file = tmp_path / "b" / f"1.{suffix}"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=rf"b/1.{suffix}: {message}"):
        load(folder["train"])
    file.unlink()
    with pytest.raises(InputError, match=rf"b/1.{suffix}: {message}"):
        load(folder["train"])


def test_more_than_8_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 60_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep.png: expected 8 bits a value, got .* mode I;16"):
        decode(str(tmp_path / "deep.png"))


def test_images_of_several_sizes_need_a_size(tmp_path):
    write(tmp_path, {"a/0.png": picture(0), "b/1.png": picture(1, 5, 8)})
    with pytest.raises(
        InputError, match=r"1.png: expected 6 x 8 pixels, as .*0.png has, got 5 x 8"
    ):
        load(image_folders(tmp_path)["train"])
    assert load(image_folders(tmp_path, size=(3, 3))["train"]).inputs.shape == (2, 3, 3, 3)


def test_impossible_options_are_refused():
    labels = np.zeros(1, np.int32)
    for options in ({"size": (0, 3)}, {"channels": 2}, {"resize": "pad"}):
        with pytest.raises(UsageError, match="expected"):
            ImageFolder(["a.png"], labels, ("a", "b"), **options)
    with pytest.raises(InputError, match="got 2 files and 1 labels"):
        ImageFolder(["a.png", "b.png"], labels, ("a", "b"))
