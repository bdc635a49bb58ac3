"""A small stand-in for KDEF, drawn here, since KDEF may not be redistributed."""

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

PEOPLE = ("F01", "F02", "F31", "M01", "M31")
SITTINGS = [f"A{person}" for person in PEOPLE] + ["BF01"]
CODES = ("AF", "AN", "DI", "HA", "NE", "SA", "SU")
ANGLES = {"FL": 90, "HL": 45, "S": 0, "HR": -45, "FR": -90}
SMALL = (56, 76)  # KDEF's shape, a tenth of its size


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@cache
def draw(seed: int, size: tuple[int, int] = SMALL) -> bytes:
    """A colour JPEG that no other seed gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 220, (5, 4, 3), dtype=np.uint8))
    return encode(np.asarray(coarse.resize(size)))


def tree(size: tuple[int, int] = SMALL) -> dict[str, bytes]:
    """KDEF as named by its own rules: `AF01/AF01ANFL.JPG`, six sittings of five people."""
    names = [f"{who}/{who}{code}{angle}.JPG"
             for who in SITTINGS for code in CODES for angle in ANGLES]
    return {name: draw(seed, size) for seed, name in enumerate(names)}


def write_folder(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(files: dict[str, bytes], path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path
