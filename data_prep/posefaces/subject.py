"""A person with an expression, ready for the camera: geometry, normals, hair, occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import unit
from .hair import Hair, HairMesh, build_hair, grow_hair
from .ict import LANDMARKS, PARTS, FaceModel
from .people import Person
from .rays import Caster, Hits
from .skin import Globe, Skin, paint_skin

_LASHES = list(PARTS).index("lashes_left")  # the last two parts


@dataclass(frozen=True)
class Look:
    """One person ready to be posed: shape without expression, skin and hair."""

    person: Person
    vertices: np.ndarray  # (26719, 3) cm
    skin: Skin
    hair: Hair


def make_look(model: FaceModel, globe: Globe, person: Person) -> Look:
    """Blend the identity and paint the person (about half a second)."""
    hair = grow_hair(globe, person)
    skin = paint_skin(model, globe, person, hair.density)
    return Look(person, model.identity(person.identity), skin, hair)


class Surface:
    """A triangle mesh that rays can meet; its ``neutral`` points say where to look on the globe."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray, neutral: np.ndarray) -> None:
        self.vertices, self.triangles, self.neutral = vertices, triangles, neutral
        self.normals = vertex_normals(vertices, triangles)
        self.caster = Caster(vertices, triangles)

    def at(self, values: np.ndarray, hits: Hits, index: np.ndarray) -> np.ndarray:
        """Interpolate ``values`` (V,) or (V, k) of the vertices at the hits ``index``."""
        corners, weights = self.triangles[hits.triangle[index]], hits.weights[index]
        if values.ndim == 1:
            return (values[corners] * weights).sum(axis=1)
        return np.einsum("nkx,nk->nx", values[corners], weights)


class Body(Surface):
    """All that no ray passes: skin, eyes, teeth, the inside of the mouth."""

    def __init__(self, model: FaceModel, vertices: np.ndarray) -> None:
        part = model.part_of_triangle()
        solid = (part >= 0) & (part < _LASHES)
        super().__init__(vertices, model.triangles[solid], model.neutral)
        self.part = part[solid]  # (T,) index into PARTS
        self.occlusion = ambient_occlusion(self)  # (V,)


class Veil(Surface):
    """Hair and lashes, which some rays pass; the attributes of `HairMesh`, and which is a lash."""

    def __init__(self, model: FaceModel, body: Body, hair: HairMesh) -> None:
        lashes = model.triangles[model.part_of_triangle() >= _LASHES]
        super().__init__(
            np.concatenate([hair.vertices, body.vertices]),
            np.concatenate([hair.triangles, lashes + len(hair.vertices)]).astype(np.int32),
            np.concatenate([hair.neutral, model.neutral]),
        )
        self.is_lash = np.arange(len(self.triangles)) >= len(hair.triangles)  # (T,)
        padding = (0, len(body.vertices))
        self.layer, self.free, self.depth = (
            np.pad(values, padding) for values in (hair.layer, hair.free, hair.depth)
        )


@dataclass(frozen=True)
class Subject:
    """A person with an expression, ready for any number of views."""

    look: Look
    weights: dict[str, float]  # of the blendshapes, in [0, 1]
    body: Body
    veil: Veil


def pose(model: FaceModel, look: Look, weights: dict[str, float]) -> Subject:
    """Give a person an expression (about a quarter of a second, most of it for occlusion)."""
    body = Body(model, model.express(look.vertices, weights))
    hair = build_hair(model, body.vertices, body.normals, look.hair, look.person)
    return Subject(look, weights, body, Veil(model, body, hair))


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals, averaged over the triangles around each vertex by their area."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    normals = np.stack(
        [
            sum(np.bincount(triangles[:, i], face[:, axis], len(vertices)) for i in range(3))
            for axis in range(3)
        ],
        axis=1,
    )
    return unit(normals.astype(np.float32))


def ambient_occlusion(body: Body, rays: int = 20) -> np.ndarray:
    """(V,) share of the sky that each vertex sees, by cosine-weighted rays of at most 12 cm."""
    used = np.unique(body.triangles)
    vertices, normals = body.vertices[used], body.normals[used]
    golden = np.arange(rays) + 0.5
    radius, turn = np.sqrt(golden / rays), golden * 2.399963  # a sunflower on the disc
    disc = np.stack([radius * np.cos(turn), radius * np.sin(turn), np.sqrt(1 - radius**2)], 1)
    helper = np.where(np.abs(normals[:, :1]) < 0.8, [[1.0, 0, 0]], [[0, 1.0, 0]])
    tangent = unit(np.cross(normals, helper))
    frame = np.stack([tangent, np.cross(normals, tangent), normals], 1)
    directions = np.einsum("rk,vkx->vrx", disc, frame).reshape(-1, 3)
    origins = np.repeat(vertices + 0.02 * normals, rays, axis=0)
    hits = body.caster.hits(origins, directions)
    near = np.clip(1 - hits.distance / 12.0, 0, 1) ** 0.5 * hits.found
    occlusion = np.ones(len(body.vertices), np.float32)
    occlusion[used] = 1 - near.reshape(len(used), rays).mean(axis=1)
    return occlusion


def frame_head(vertices: np.ndarray) -> tuple[np.ndarray, float]:
    """The point (3,) that the camera aims at, and the size of this head relative to the mean.

    ``vertices`` (26719, 3) are those of the person without expression. As in a studio, eyes and
    chin stand at about the same height in every picture.
    """
    eyes = np.mean([vertices[slice(*PARTS[f"eye_{s}"])].mean(0) for s in ("left", "right")], 0)
    chin, crown = vertices[LANDMARKS[8], 1], vertices[: PARTS["head"][1], 1].max()
    scale = (0.6 * (eyes[1] - chin) + 0.4 * (crown - eyes[1])) / 10.9
    return np.array([0.0, eyes[1] - 3.4 * scale, eyes[2] - 5.0 * scale]), float(scale)
