"""A reader's photographs: every mode, format and orientation, and every kind of damage."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lanmsff.data import DataError
from lanmsff.photo import FORMATS, WHOLE, check_box, read_photo, square_around

# Red, green, blue and grey quarters: their luma by ITU-R 601 (0.299, 0.587, 0.114) is known.
COLOURS = {(255, 0, 0): 76, (0, 255, 0): 150, (0, 0, 255): 29, (90, 90, 90): 90}


@pytest.fixture
def quarters():
    """A 32x32 RGB picture of four colours, and its grey values."""
    rgb, grey = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    for k, (colour, luma) in enumerate(COLOURS.items()):
        top, left = 16 * (k // 2), 16 * (k % 2)
        rgb[top : top + 16, left : left + 16] = colour
        grey[top : top + 16, left : left + 16] = luma
    return Image.fromarray(rgb), grey


def read(image, path, **options):
    image.save(path, **options)
    face, place = read_photo(path)
    assert face.dtype == np.uint8 and face.flags.writeable
    assert place == (0, 0, *face.shape)
    return face


# --- modes and formats


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif", "x.ppm", "misnamed.jpg"])
def test_colours_become_luma(name, quarters, tmp_path):
    picture, grey = quarters
    kind = "PNG" if name == "misnamed.jpg" else None
    np.testing.assert_array_equal(read(picture, tmp_path / name, format=kind), grey)


@pytest.mark.parametrize("name, options", [
    ("x.jpg", {"quality": 95, "subsampling": 0}),
    ("x.webp", {"lossless": True}),
    ("x.avif", {"quality": 95, "subsampling": "4:4:4"}),
])  # fmt: skip
def test_formats_of_cameras(name, options, quarters, tmp_path):
    picture, grey = quarters
    off = read(picture, tmp_path / name, **options).astype(int) - grey
    assert np.abs(off).mean() < 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_modes_of_png(mode, tmp_path):
    grey = np.zeros((8, 8), np.uint8)
    grey[:, 4:] = 255
    grey[:4] = 0 if mode == "1" else 100
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(grey).convert(mode)
    assert picture.mode == mode
    np.testing.assert_array_equal(read(picture, tmp_path / "x.png"), grey)


def test_16_bits_in_either_byte_order(tmp_path):
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    for order in "<>":
        face = read(Image.fromarray(ramp.astype(f"{order}u2")), tmp_path / "x.tif")
        np.testing.assert_array_equal(face, ramp >> 8)


def test_16_bits_of_netpbm(tmp_path):
    """Pillow opens them as 32 bits, of which it fills 16."""
    values = np.array([[1, 700], [3500, 3900]])
    (tmp_path / "x.pgm").write_bytes(b"P5 2 2 4000\n" + values.astype(">u2").tobytes())
    face, _ = read_photo(tmp_path / "x.pgm")
    assert np.abs(face - 255 * values / 4000).max() <= 1


def test_cmyk(quarters, tmp_path):
    picture, grey = quarters
    face = read(picture.convert("CMYK"), tmp_path / "x.jpg", quality=95, subsampling=0)
    assert np.abs(face.astype(int) - grey).mean() < 3


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_what_is_transparent_is_white(mode, tmp_path):
    grey, alpha = np.full((8, 8), 60, np.uint8), np.full((8, 8), 255, np.uint8)
    grey[:, 4:], alpha[:, 4:] = 0, 0
    if mode == "P":
        picture = Image.fromarray(grey).convert("P")
        face = read(picture, tmp_path / "x.png", transparency=0)
    else:
        picture = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).convert(mode)
        face = read(picture, tmp_path / ("x.tif" if mode == "LA" else "x.png"))
    np.testing.assert_array_equal(face[:, :4], 60)
    np.testing.assert_array_equal(face[:, 4:], 255)


def test_half_transparent_is_half_white(tmp_path):
    face = read(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), tmp_path / "x.png")
    np.testing.assert_array_equal(face, 127)


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png"])
def test_the_first_frame_counts(name, tmp_path):
    first, second = Image.new("RGB", (16, 16), (100, 100, 100)), Image.new("RGB", (16, 16))
    options = {"lossless": True} if name == "x.webp" else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], **options)
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 2
    np.testing.assert_array_equal(read_photo(tmp_path / name)[0], 100)


# --- orientation and box


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, tmp_path):
    """Stored as a camera held that way stores it, every picture is read the same way up."""
    upright = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)
    turn_back = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1],
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turn_back[orientation]))
    stored.save(tmp_path / "x.png", exif=exif)
    face, place = read_photo(tmp_path / "x.png")
    assert place == (4, 0, 16, 12)
    np.testing.assert_array_equal(face, upright[:, 4:16])
    # the box is in the upright picture as well
    face, place = read_photo(tmp_path / "x.png", (0.0, 0.5, 0.3, 1.0))
    assert place == (0, 6, 6, 12)
    np.testing.assert_array_equal(face, upright[6:12, :6])


SIDES = st.integers(1, 5000)
FRACTIONS = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda p: p[0] != p[1]).map(sorted)


@given(SIDES, SIDES, FRACTIONS, FRACTIONS)
def test_the_square_around_a_box(width, height, across, down):
    box = (across[0], down[0], across[1], down[1])
    left, top, right, bottom = square_around(box, width, height)
    assert right - left == bottom - top >= 1
    assert 0 <= left and right <= width and 0 <= top and bottom <= height
    wide, high = (across[1] - across[0]) * width, (down[1] - down[0]) * height
    assert abs(right - left - max(1, min(max(wide, high), width, height))) <= 0.5
    if max(wide, high) <= min(width, height):  # then all of the box is inside, but for rounding
        assert left - 1.5 < across[0] * width and across[1] * width < right + 1.5
        assert top - 1.5 < down[0] * height and down[1] * height < bottom + 1.5


@pytest.mark.parametrize("size, place", [
    ((80, 80), (0, 0, 80, 80)),
    ((562, 762), (0, 100, 562, 662)),  # KDEF's
    ((7, 4), (1, 0, 5, 4)),
    ((1, 9), (0, 4, 1, 5)),
])  # fmt: skip
def test_the_square_around_the_whole_picture_is_the_central_one(size, place):
    assert square_around(WHOLE, *size) == place


@pytest.mark.parametrize("box, place", [
    ((0.25, 0.25, 0.75, 0.75), (25, 25, 75, 75)),
    ((0.4, 0.2, 0.6, 0.8), (20, 20, 80, 80)),  # higher than wide: as wide as high
    ((0.0, 0.3, 0.2, 0.9), (0, 30, 60, 90)),  # moved inside
    ((0.9, 0.9, 1.0, 1.0), (90, 90, 100, 100)),
])  # fmt: skip
def test_boxes(box, place):
    assert square_around(box, 100, 100) == place


@pytest.mark.parametrize("box", [
    (-0.1, 0, 1, 1), (0, 0, 1, 1.1), (0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1), (0, 0.7, 1, 0.7),
    (0, 0, float("nan"), 1), (0, 0, 640, 480),
])  # fmt: skip
def test_boxes_that_are_none(box, tmp_path):
    with pytest.raises(ValueError, match="expected left, top, right, bottom as fractions"):
        check_box(box)
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="fractions of the picture"):
        read_photo(tmp_path / "x.png", box)


# --- files that cannot be read


def saved(kind, side=48, **options):
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def huge(side):
    Image.new("1", (side, side)).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.mark.parametrize("content, message", [
    (lambda: b"", "empty file"),
    (lambda: b"hello", "no picture in one of the formats JPEG, PNG"),
    (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, .* save it as JPEG"),
    (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture in one of"),
    (lambda: saved("JPEG")[:500], "corrupt picture"),
    (lambda: saved("JPEG")[:-300], "corrupt picture .image file is truncated"),
    (lambda: saved("PNG")[:-300], "corrupt picture"),
    (lambda: saved("WEBP")[:-300], "corrupt picture"),
    (lambda: huge(11_600), "picture of more than 134,217,728 pixels"),
    (lambda: huge(20_000), "picture of more than 134,217,728 pixels"),
], ids=["empty", "text", "HEIC", "PostScript", "JPEG's head", "JPEG's end", "PNG's end", "WebP's end",
        "135 megapixels", "400 megapixels"])  # fmt: skip
def test_no_picture(content, message, tmp_path, recwarn):
    (tmp_path / "x.jpg").write_bytes(content())
    with pytest.raises(DataError, match=message) as error:
        read_photo(tmp_path / "x.jpg")
    assert "\n" not in str(error.value)
    assert not recwarn.list


def test_more_bytes_than_a_photo_has(tmp_path, monkeypatch):
    monkeypatch.setattr("lanmsff.photo.MAX_BYTES", 1000)
    (tmp_path / "x.png").write_bytes(saved("PNG"))
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        read_photo(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits(mode, tmp_path):
    Image.new(mode, (8, 8)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match="32-bit pixels of unknown range"):
        read_photo(tmp_path / "x.tif")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(IsADirectoryError):
        read_photo(tmp_path)


WHOLE_FILES = {kind: saved(kind, side=16) for kind in FORMATS}


CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8)


@given(st.sampled_from(FORMATS), CHANGES, st.floats(0, 1))
@settings(max_examples=300)
def test_a_damaged_picture_is_read_or_refused(kind, changes, kept):
    content = bytearray(WHOLE_FILES[kind])
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(content[: int(kept * len(content)) or 1])
        try:
            face, _ = read_photo(path)
            assert face.ndim == 2 and face.dtype == np.uint8
        except DataError as error:
            assert "\n" not in str(error)
