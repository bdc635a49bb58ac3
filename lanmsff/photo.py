"""Pictures from anywhere: opened safely, turned upright, made grey and cut to a square.

`data_prep` opens what its sources hold with `open_picture`; `read_photo` reads a reader's own
photographs, whatever program wrote them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import floor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lanmsff.data import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 2**27  # of a photograph: more than any telephone takes, less than fills a memory
MAX_BYTES = 2**29

Box = Sequence[float]  # left, top, right, bottom as fractions of the picture
WHOLE: Box = (0, 0, 1, 1)


@contextmanager
def open_picture(
    content: bytes, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """Yield a picture; an animated one stands at its first frame.

    Raises:
        DataError: damaged (perhaps only when the pixels are asked for), too large, or in none of
            `formats`, Pillow's names.
    """
    large = f"picture of more than {max_pixels:,} pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; what is too large is refused here
            with Image.open(io.BytesIO(content), formats=formats) as image:
                if image.width * image.height > max_pixels:
                    raise DataError(large)
                yield image
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(large) from None
    except Exception as error:  # on damaged files, Pillow's decoders raise nearly everything
        reason = str(error).split("<", 1)[0].strip() or type(error).__name__
        if len(formats) == 1:
            raise DataError(f"corrupt {formats[0]} ({reason})") from None
        if isinstance(error, UnidentifiedImageError):
            if content[4:8] == b"ftyp":  # HEIC of a telephone, or a film
                raise DataError("HEIC, or another form that is not read: save it as JPEG") from None
            raise DataError(f"no picture in one of the formats {', '.join(formats)}") from None
        raise DataError(f"corrupt picture ({reason})") from None


def to_grey(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit grey (ITU-R 601 luma), transparent parts as on white paper.

    Raises `DataError` for 32-bit pixels, whose range the file does not tell.
    """
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips where it should scale
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError("32-bit pixels of unknown range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L")


def check_box(box: Box) -> None:
    """Raise `ValueError` unless `box` lies in the picture and has an area."""
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"box {left:g} {top:g} {right:g} {bottom:g}: expected left, top, right, bottom as "
            "fractions of the picture, 0 to 1, left < right and top < bottom"
        )


def square_around(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """The square to cut out of a picture so that `box` is in it: left, top, right, bottom, pixels.

    It has the middle of the box and its longer side, so that nothing is squeezed. Where it would
    leave the picture it is moved inside; it is never larger than the picture's shorter side. The
    square around `WHOLE` is the largest one in the middle.
    """
    left, top, right, bottom = np.multiply(box, (width, height, width, height))
    side = max(1, round(min(max(right - left, bottom - top), width, height)))
    left = min(max(floor((left + right - side) / 2), 0), width - side)
    top = min(max(floor((top + bottom - side) / 2), 0), height - side)
    return left, top, left + side, top + side


def read_photo(path: str | Path, box: Box = WHOLE) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Read a photograph, turn it as its EXIF orientation says, and cut a square out of it.

    Args:
        path: a file in one of `FORMATS`, of any mode; of an animated one, the first frame counts.
        box: where the face is in the upright picture.

    Returns:
        The square as grey uint8 (S, S), and its place (left, top, right, bottom) in pixels of the
        upright picture; see `square_around`.

    Raises:
        OSError: the file cannot be opened.
        DataError: it is no picture, damaged, or too large.
        ValueError: the box has no area or leaves the picture.
    """
    check_box(box)
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if not content:
        raise DataError("empty file")
    if len(content) > MAX_BYTES:
        raise DataError(f"more than {MAX_BYTES:,} bytes")
    with open_picture(content) as image:
        upright = ImageOps.exif_transpose(image)
        if image.format == "PPM" and image.mode == "I":  # 16 bits: Pillow scales to them
            upright = upright.convert("I;16")
        place = square_around(box, *upright.size)
        return np.array(to_grey(upright.crop(place))), place  # a copy that may be written
