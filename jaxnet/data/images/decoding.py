"""Images from their files: any that Pillow reads, and ordinary JPEGs faster.

Pillow holds the interpreter's lock for most of a small image, so that two threads read no faster
than one. TurboJPEG gives it up for the whole of an image, and takes a third of the time alone.
"""

from __future__ import annotations

import os
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxnet.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held
# TurboJPEG decodes the colours of a file with this number of channels as Pillow does.
_SAME = {("YCbCr", 3): "RGB", ("Gray", 3): "RGB", ("Gray", 1): "GRAY"}

_CHUNK = 1 << 16

Channels = Literal[1, 3]
Resize = Literal["stretch", "crop"]


def decode(
    file: str | bytes,
    size: tuple[int, int] | None = None,
    channels: Channels = 3,
    resize: Resize = "stretch",
    name: str | None = None,
) -> np.ndarray:
    """The pixels of one image, uint8 (height, width, channels), upright as its EXIF says.

    A JPEG that is going to shrink is decoded at an eighth, a quarter or half of its size where
    that leaves at least twice the pixels a side that are wanted.

    Args:
        file: a path, or what a file holds.
        size: the height and width to resize to.
        channels: 3 or 1.
        resize: `"stretch"` or `"crop"`.
        name: what messages call the file; by default its path.

    Raises:
        InputError: it isn't an image, it is cut short, or it has more than 8 bits a value.
    """
    from PIL import Image

    name = name or (file if isinstance(file, str) else "the image")
    data = contents(file) if isinstance(file, str) else file
    try:
        pixels = _jpeg(data, size, channels)
        if pixels is not None and size in (None, pixels.shape[:2]):
            return pixels
        if pixels is not None:
            image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
            return _pixels(image, size, channels, resize, name)
        with Image.open(BytesIO(data)) as image:
            return _pixels(image, size, channels, resize, name)
    except InputError:
        raise
    # Pillow's decoders raise whatever they stumble over: SyntaxError, struct.error, ...
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError(
        f"{name}: this image can't be read ({error}); repair the file or take it away"
    )


def contents(path: str) -> bytes:
    """What a file holds, by few system calls: each hands the interpreter's lock to and fro.

    Raises:
        InputError: it can't be read.
    """
    try:
        opened = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            parts = [os.read(opened, _CHUNK)]
            while len(parts[-1]) == _CHUNK:
                parts.append(os.read(opened, _CHUNK))
        finally:
            os.close(opened)
    except OSError as error:
        raise _unreadable(path, error) from error
    return b"".join(parts)


def _jpeg(data: bytes, size: tuple[int, int] | None, channels: Channels) -> np.ndarray | None:
    """The pixels of an ordinary JPEG, to the bit those of Pillow; None where it is to decide."""
    import simplejpeg
    from PIL import Image

    if not data.startswith(b"\xff\xd8\xff"):
        return None
    if b"Exif\0\0" in data and Image.open(BytesIO(data)).getexif().get(_ORIENTATION, 1) != 1:
        return None
    try:
        *shape, colours, _ = simplejpeg.decode_jpeg_header(data)
        kind = _SAME.get((colours, channels))
        if kind is None:
            return None
        height, width = map(int, shape)
        shrink = _shrink(height, width, size)
        return simplejpeg.decode_jpeg(
            data, kind, min_height=-(-height // shrink), min_width=-(-width // shrink)
        )
    except ValueError:  # Pillow may be able to read it, and says what is wrong if it isn't
        return None


def _shrink(height: int, width: int, size: tuple[int, int] | None) -> int:
    """By how much to shrink in decoding, as Pillow's `draft` chooses it."""
    if size is None or max(size) * 4 > max(height, width):
        return 1
    most = min(height, width) // (2 * max(size))
    return next((factor for factor in (8, 4, 2) if factor <= most), 1)


def _pixels(
    image: Image, size: tuple[int, int] | None, channels: Channels, resize: Resize, name: str
) -> np.ndarray:
    from PIL import ImageOps
    from PIL.Image import Resampling

    mode = "RGB" if channels == 3 else "L"
    if image.mode[0] in "IF":
        raise InputError(
            f"{name}: expected 8 bits a value, got an image of mode {image.mode}, which has more; "
            "convert it, or read it yourself and pass arrays"
        )
    if size is not None and max(size) * 4 <= max(image.size):
        # Square, because the image may yet be turned.
        image.draft(mode, (2 * max(size), 2 * max(size)))
    if "exif" in image.info and image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and size != (image.height, image.width):
        box = _centre(image, size) if resize == "crop" else None
        image = image.resize((size[1], size[0]), Resampling.BILINEAR, box, reducing_gap=2.0)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _centre(image: Image, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest part in the middle that has the proportions of `size`."""
    scale = min(image.width / size[1], image.height / size[0])
    left, top = (image.width - scale * size[1]) / 2, (image.height - scale * size[0]) / 2
    return left, top, image.width - left, image.height - top
