"""JPEGs from sources that nobody vouches for: damaged, not JPEGs at all, or made to fill memory."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from lanmsff.data import DataError

MAX_PIXELS = 2**24  # of one picture; KDEF's have 428,244


def decode_grey(content: bytes) -> Image.Image:
    """The picture as grey (ITU-R 601 luma); `DataError` where it is damaged, none, or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below
            with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                return image.convert("L")
    except Image.DecompressionBombError:
        raise DataError(f"picture of more than {MAX_PIXELS:,} pixels") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"corrupt JPEG ({str(error).split('<', 1)[0].strip()})") from None
