"""Ray casting with Intel Embree, behind two small functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lanmsff.data import DataError

from .ict import PARTS, FaceModel


@dataclass(frozen=True)
class Hits:
    """Where rays meet triangles; n rays."""

    found: np.ndarray  # (n,) bool
    triangle: np.ndarray  # (n,) int32, 0 where nothing was found
    weights: np.ndarray  # (n, 3) float32, barycentric weights of the triangle's corners
    distance: np.ndarray  # (n,) float32, cm


class Caster:
    """A triangle mesh made ready for rays."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError:
            raise DataError(
                "rendering needs embreex; install it with: pip install 'lanmsff[render]'"
            ) from None
        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(self._scene, vertices.astype(np.float32), triangles)

    def hits(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """First hits of rays from ``origins`` along unit ``directions``, both (n, 3)."""
        result = self._scene.run(
            np.ascontiguousarray(origins, np.float32),
            np.ascontiguousarray(directions, np.float32),
            query="INTERSECT",
            output=True,
        )
        found = result["primID"] >= 0
        u, v = result["u"], result["v"]
        return Hits(
            found,
            np.where(found, result["primID"], 0),
            np.stack([1 - u - v, u, v], 1),
            result["tfar"],
        )

    def blocked(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """(n,) bool: does each ray meet anything at all?"""
        result = self._scene.run(
            np.ascontiguousarray(origins, np.float32),
            np.ascontiguousarray(directions, np.float32),
            query="OCCLUDED",
        )
        return result >= 0


def cast(
    vertices: np.ndarray, triangles: np.ndarray, origins: np.ndarray, directions: np.ndarray
) -> Hits:
    """First hits of rays on a mesh that is needed only once."""
    return Caster(vertices, triangles).hits(origins, directions)


def skin_triangles(model: FaceModel) -> np.ndarray:
    """The triangles of face, head and neck."""
    skin = (list(PARTS).index("face"), list(PARTS).index("head"))
    return model.triangles[np.isin(model.part_of_triangle(), skin)]
