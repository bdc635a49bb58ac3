"""JPEGs from sources that nobody vouches for: damaged, not JPEGs at all, or made to fill memory."""

from PIL import Image

from lanmsff.photo import open_picture

MAX_PIXELS = 2**24  # of one picture; KDEF's have 428,244


def decode_grey(content: bytes) -> Image.Image:
    """The picture as grey (ITU-R 601 luma); `DataError` where it is damaged, none, or too large."""
    with open_picture(content, ["JPEG"], MAX_PIXELS) as image:
        return image.convert("L")
