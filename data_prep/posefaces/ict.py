"""The ICT-FaceKit Light morphable model, read straight from the zip that its authors publish.

Source: Li et al., "Learning Formation of Physically-Based Face Attributes", CVPR 2020;
repository ICT-VGL/ICT-FaceKit (USC Institute for Creative Technologies, MIT licence).

A face is linear in its coefficients::

    vertices = neutral + sum_i a_i identities[i] + sum_j w_j expressions[j]

with a_i ~ N(0, 1) and w_j in [0, 1]. Units are centimetres; x points to the person's left,
y up, and the face looks along +z.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data_prep.sources import open_source
from lanmsff.data import DataError

# Vertex ranges of the parts that are rendered (README of the model). Lacrimal fluid, eye blend
# and eye occlusion are left out: they are film-like sheets that would cover the eyes.
PARTS: dict[str, tuple[int, int]] = {
    "face": (0, 9409),
    "head": (9409, 11248),
    "mouth_socket": (11248, 13294),
    "eye_socket_left": (13294, 13678),
    "eye_socket_right": (13678, 14062),
    "gums": (14062, 17039),
    "teeth": (17039, 21451),
    "eye_left": (21451, 23021),
    "eye_right": (23021, 24591),
    "lashes_left": (25351, 26035),
    "lashes_right": (26035, 26719),
}
VERTICES = 26719

# Multi-PIE 68-point landmarks as vertex numbers (README of the model).
LANDMARKS = np.array(
    """1225 1888 1052 367 1719 1722 2199 1447 966 3661 4390 3927 3924 2608 3272 4088 3443 268 493
    1914 2044 1401 3615 4240 4114 2734 2509 978 4527 4942 4857 1140 2075 1147 4269 3360 1507 1542
    1537 1528 1518 1511 3742 3751 3756 3721 3725 3732 5708 5695 2081 0 4275 6200 6213 6346 6461
    5518 5957 5841 5702 5711 5533 6216 6207 6470 5517 5966""".split(),
    dtype=np.int64,
)

_MAX_OBJ_BYTES = 64 * 2**20  # the largest file of the model is 4 MB: anything huge is no model


COMMIT = "da5f95a"  # the state of the repository that PoseFaces is rendered from
SHA256 = "b037557f94b772199c1544de2505bcedeca0ae083a0ba563dc415b2eb4db5c2a"


@dataclass(frozen=True)
class FaceModel:
    """The morphable model in memory (about 50 MB).

    Attributes:
        neutral: (26719, 3) float32, cm.
        triangles: (T, 3) int32, the quads of the neutral mesh split in two.
        identities: (100, 26719, 3) float32, displacement of each identity mode at a_i = 1.
        expressions: name -> (26719, 3) float32, displacement of each blendshape at w_j = 1.
        licence: the licence text of the model, to travel with what is made from it.
    """

    neutral: np.ndarray
    triangles: np.ndarray
    identities: np.ndarray
    expressions: dict[str, np.ndarray]
    licence: str

    @cached_property
    def sha256(self) -> str:
        """Hash of all shapes and their names; the same however the model was packed."""
        digest = hashlib.sha256(" ".join(self.expressions).encode())
        shapes = [self.neutral, self.triangles, self.identities, *self.expressions.values()]
        for shape in shapes:
            digest.update(np.ascontiguousarray(shape).tobytes())
        return digest.hexdigest()

    def identity(self, coefficients: np.ndarray) -> np.ndarray:
        """Vertices (26719, 3) of the neutral face of one person; ``coefficients`` is (100,)."""
        return self.neutral + np.tensordot(coefficients.astype(np.float32), self.identities, 1)

    def express(self, vertices: np.ndarray, weights: dict[str, float]) -> np.ndarray:
        """``vertices`` of a neutral face, moved by blendshape ``weights`` in [0, 1].

        Raises:
            KeyError: a name that the model does not have.
        """
        moved = vertices.copy()
        for name, weight in weights.items():
            moved += np.float32(weight) * self.expressions[name]
        return moved

    def part_of_triangle(self) -> np.ndarray:
        """(T,) int8: index into ``PARTS`` of each triangle, -1 for parts that are not rendered."""
        part_of_vertex = np.full(VERTICES, -1, np.int8)
        for index, (start, stop) in enumerate(PARTS.values()):
            part_of_vertex[start:stop] = index
        # A triangle that joins two parts belongs to the later one, as in the model's own table.
        return part_of_vertex[self.triangles.max(axis=1)]


def load_model(path: str | Path) -> FaceModel:
    """Read the model from GitHub's archive of the repository, or one cut down to vertices.

    Raises:
        DataError: a file is missing or damaged, or vertex counts disagree.
        OSError: the file cannot be read.
    """
    with open_source(path) as source:
        shapes = {
            Path(name).stem: name
            for name in source.names
            if name.endswith(".obj") and Path(name).parent.name == "FaceXModel"
        }
        identity_names = [f"identity{i:03d}" for i in range(100)]
        for name in ["generic_neutral_mesh", *identity_names]:
            if name not in shapes:
                raise DataError(
                    f"{path}: FaceXModel/{name}.obj is missing; is this the ICT-FaceKit archive?"
                )
        text = source.read(shapes["generic_neutral_mesh"], _MAX_OBJ_BYTES)
        neutral = _vertices(text, shapes["generic_neutral_mesh"])
        triangles = _triangles(text)

        def displacement(name: str) -> np.ndarray:
            return _vertices(source.read(shapes[name], _MAX_OBJ_BYTES), shapes[name]) - neutral

        identities = np.stack([displacement(name) for name in identity_names])
        expressions = {
            name: displacement(name)
            for name in sorted(shapes)
            if name != "generic_neutral_mesh" and not name.startswith("identity")
        }
        found = source.find("LICENSE")
        licence = (source.read(found) if found else text.split(b"\nv ")[0]).decode()
    return FaceModel(neutral, triangles, identities, expressions, licence)


def _vertices(obj: bytes, name: str) -> np.ndarray:
    """The ``v`` lines of an OBJ file, which stand in one block, as (26719, 3) float32."""
    obj = b"\n" + obj
    start = obj.find(b"\nv ")
    if start < 0:
        raise DataError(f"{name}: no vertices in it")
    end = obj.find(b"\n", obj.rfind(b"\nv ") + 1)
    block = obj[start : end if end > 0 else len(obj)].replace(b"v ", b"")
    with warnings.catch_warnings():  # numpy announces text that is no number by a warning
        warnings.simplefilter("error", DeprecationWarning)
        try:
            # Much faster than np.loadtxt: the 160 files of the model take 1.2 s.
            values = np.fromstring(block, sep=" ", dtype=np.float32)
        except (ValueError, DeprecationWarning):
            raise DataError(f"{name}: a vertex line is not three numbers") from None
    if values.size != 3 * VERTICES:
        raise DataError(f"{name}: {values.size // 3} vertices where {VERTICES} are expected")
    return values.reshape(-1, 3)


def _triangles(obj: bytes) -> np.ndarray:
    """The ``f`` lines (triangles and quads, numbered from 1) as (T, 3) int32 triangles."""
    triangles = []
    for number, line in enumerate(obj.splitlines(), 1):
        if line.startswith(b"f "):
            try:
                corners = [int(corner.split(b"/")[0]) - 1 for corner in line.split()[1:]]
                fine = all(0 <= corner < VERTICES for corner in corners)
            except ValueError:
                fine = False
            if not fine:
                raise DataError(f"generic_neutral_mesh.obj: line {number}: a corner is not one of "
                                f"the vertices 1 to {VERTICES}")
            triangles += [(corners[0], *corners[i : i + 2]) for i in range(1, len(corners) - 1)]
    if not triangles:
        raise DataError("generic_neutral_mesh.obj: no faces in it")
    return np.array(triangles, np.int32)
