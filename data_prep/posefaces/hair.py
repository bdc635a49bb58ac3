"""Hair: where it grows, and the thin shells and curtains that stand for it when rays are cast.

Short hair is a stack of shells a little above the scalp. A ray passes a shell where no hair is
that long, so the outline is ragged and dark roots show between light tips. Long hair is a curtain
that hangs from the widest line of the head.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates, maximum_filter1d
from scipy.stats import rankdata

from .ict import PARTS, FaceModel
from .people import Person, random_stream
from .rays import skin_triangles
from .skin import GLOBE_CENTRE, GLOBE_SIZE, Globe, globe_coordinates, noise, sample, smoothstep

_SHELL_GAP = 0.25  # cm between shells
_SKIN_VERTICES = PARTS["head"][1]

# Height (cm, neutral head) of the hairline over the distance from the nose in degrees:
# forehead, temple, sideburn, over the ear, down behind it, nape.
_LONGITUDE = (0, 22, 42, 56, 66, 76, 82, 102, 112, 130, 180)
_HAIRLINE = (10.7, 10.6, 9.4, 6.6, 2.6, 1.6, 4.1, 4.3, 0.5, -4.0, -5.0)


@dataclass(frozen=True)
class Hair:
    """The hair of one person, as maps on the globe (512, 1024)."""

    density: np.ndarray  # 0-1, where hair grows
    tips: np.ndarray  # 0-1, how far the hair reaches, relative to the thickness
    thickness: np.ndarray  # cm
    sheen: np.ndarray  # around 1, light and dark strands
    across: bool  # combed back rather than down


@dataclass(frozen=True)
class HairMesh:
    """Shells and curtains of one face, or a piece of them; n vertices."""

    vertices: np.ndarray  # (n, 3) cm
    triangles: np.ndarray  # (m, 3) int32
    neutral: np.ndarray  # (n, 3) where to look on the globe
    layer: np.ndarray  # (n,) a ray stops here where tips > layer
    depth: np.ndarray  # (n,) 0 at the roots, which are dark, to 1 at the tips
    free: np.ndarray  # (n,) 1 on curtains, which are independent of the density on the scalp


def _join(pieces: list[HairMesh]) -> HairMesh:
    offsets = np.cumsum([0] + [len(piece.vertices) for piece in pieces[:-1]])
    shifted = [replace(p, triangles=p.triangles + o) for p, o in zip(pieces, offsets)]

    def column(name: str, kind: type) -> np.ndarray:
        return np.concatenate([getattr(piece, name) for piece in shifted]).astype(kind)

    kinds = {f.name: np.int32 if f.name == "triangles" else np.float32 for f in fields(HairMesh)}
    return HairMesh(**{name: column(name, kind) for name, kind in kinds.items()})


def grow_hair(globe: Globe, person: Person) -> Hair:
    """Hairline, length and strands of one person."""
    rng = random_stream(*person.key, 2)
    style, away = person.hair_style, np.abs(globe.longitude)
    line = np.array(_HAIRLINE)
    line[:3] += rng.normal(0, 0.4)
    line[5] += rng.uniform(-2.5, 1.5) if person.sex == "M" else rng.uniform(0, 2)
    if style == "receding":
        line[:5] += [rng.uniform(0.5, 2.5), 2.6, 3.2, 2.2, 1.2]
    # A fringe falls to both sides of the parting, which stays open.
    from_parting = (globe.longitude - 25 * person.parting) / 16
    fringe = person.fringe * smoothstep(away, 52, 30) * (1 - 0.8 * np.exp(-(from_parting**2)))
    ragged = 0.3 * noise(rng, 7) + 0.25 * noise(rng, (10, 1.8))
    edge = np.interp(away, _LONGITUDE, line) + ragged - fringe
    density = smoothstep(globe.y, edge - 0.2, edge + (0.8 if style != "receding" else 1.6))
    ear = smoothstep(np.hypot(globe.x, globe.z) - 0.11 * globe.y, 8.1, 7.7)  # it stands out
    density = density * smoothstep(globe.y, -6.5, -5.5)
    density = density * np.where((away > 70) & (away < 112) & (globe.y < 4.6), ear, 1)
    if style == "bald":
        crown = smoothstep(globe.y + 0.5 * noise(rng, 9), 8.2, 5.6) * smoothstep(away, 55, 75)
        density = density * (0.1 + rng.choice([0.0, 0.75]) * crown)
    if style in ("buzz", "receding"):
        density = density * rng.uniform(0.7, 0.95)

    across = style == "tied" or (style in ("short", "receding") and rng.uniform() < 0.4)
    if style == "curly":
        strands = noise(rng, 4.5) + 0.5 * noise(rng, 2)
        grain = noise(rng, 2.2)
    else:
        strands = _combed(noise(rng, (2.0, 22) if across else (22, 2.0)), globe, person)
        grain = _combed(noise(rng, (0.8, 25) if across else (25, 0.8)), globe, person)
    tips = 0.45 + 0.55 * (rankdata(strands) / strands.size).reshape(GLOBE_SIZE)
    sides, top = {
        "bald": (0.0, 0.0),
        "buzz": (0.25, 0.3),
        "receding": (0.5, 0.6 * person.hair_thickness),
        "short": (0.6, person.hair_thickness),
        "curly": (1.6 + 0.6 * person.hair_thickness, 1.2 + person.hair_thickness),
        "tied": (0.5, 0.7 + 0.3 * person.hair_thickness),
    }.get(style, (1.1, 0.6 + 0.6 * person.hair_thickness))
    thickness = sides + (top - sides) * smoothstep(globe.y, 5, 12)
    thickness = thickness * (1 + 0.18 * noise(rng, 30)) * smoothstep(globe.y - edge, -0.3, 1.8)
    return Hair(
        density=density.astype(np.float32),
        tips=tips.astype(np.float32),
        thickness=np.clip(thickness, 0, None).astype(np.float32),
        sheen=np.clip(1 + 0.22 * grain + 0.18 * strands, 0.35, 1.9).astype(np.float32),
        across=across,
    )


def _combed(strands: np.ndarray, globe: Globe, person: Person) -> np.ndarray:
    """Bend straight strands: they fall away from the parting and wave a little."""
    rng = random_stream(*person.key, 3)
    rows, columns = np.mgrid[: GLOBE_SIZE[0], : GLOBE_SIZE[1]].astype(np.float32)
    sweep = 60 * person.parting * smoothstep(globe.y, 6, 14)
    waves = rng.uniform(1, 6) * noise(rng, 18)
    return map_coordinates(strands, (rows, columns + sweep + waves), order=1, mode="grid-wrap")


def build_hair(
    model: FaceModel, vertices: np.ndarray, normals: np.ndarray, hair: Hair, person: Person
) -> HairMesh:
    """Shells over the scalp of ``vertices`` (26719, 3), a curtain for long hair, or a bun.

    The mesh is empty for a person without any hair long enough to stand off.
    """
    neutral = model.neutral[:_SKIN_VERTICES]
    here = globe_coordinates(neutral)
    # Shoulders lie behind the neck on the globe: no hair is taken from there.
    grows = (sample(hair.density, *here) > 0.02) & (neutral[:, 1] > -6)
    thickness = sample(hair.thickness, *here) * grows
    triangles = skin_triangles(model)
    triangles = triangles[(thickness[triangles] > 0.05).any(axis=1)]
    used, local = np.unique(triangles, return_inverse=True)
    local = local.reshape(-1, 3)
    scalp, outward = vertices[used], normals[used]
    pieces = []
    for fraction in np.linspace(0, 1, 1 + max(2, int(thickness.max() / _SHELL_GAP)))[1:]:
        lifted = scalp + outward * (thickness[used] * fraction)[:, None]
        layer = np.full(len(used), fraction * 0.97)
        pieces.append(HairMesh(lifted, local, neutral[used], layer, layer, np.zeros(len(used))))
    if person.hair_style in ("bob", "long"):
        pieces += _curtain(vertices[:_SKIN_VERTICES], person)
    if person.hair_style == "tied":
        pieces.append(_bun(vertices[:_SKIN_VERTICES], person))
    return _join(pieces)


def _grid_triangles(index: np.ndarray) -> np.ndarray:
    """(m, 3): two triangles for each cell of a grid of vertex numbers (rows, columns)."""
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    return np.stack([a, b, c, a, c, d], -1).reshape(-1, 3)


def _curtain(skin: np.ndarray, person: Person) -> list[HairMesh]:
    """Two sheets from ear to ear around the back of the head, ragged at the hem and in front."""
    rng = random_stream(*person.key, 4)
    angle = np.rad2deg(np.arctan2(skin[:, 0], skin[:, 2])) % 360
    radius = np.hypot(skin[:, 0], skin[:, 2])
    columns, rows = 120, 28

    def girth(low: float, high: float) -> np.ndarray:
        """Largest radius in each direction between two heights, smooth over direction."""
        inside = (skin[:, 1] > low) & (skin[:, 1] < high)
        around = np.zeros(columns)
        np.maximum.at(around, (angle[inside] / 360 * columns).astype(int) % columns, radius[inside])
        around = np.where(around > 0, around, np.median(around[around > 0]))
        return gaussian_filter1d(maximum_filter1d(around, 7, mode="wrap"), 3, mode="wrap")

    degrees = (np.arange(columns) + 0.5) / columns * 360
    upper, lower = girth(8, 9.5), girth(-2, 6)
    front = rng.uniform(60, 74)
    hem = -13.0 if person.hair_style == "long" else rng.uniform(-8.5, -3.0)
    height = np.linspace(9.0, hem, rows)
    inward = rng.uniform(0.0, 1.2) if person.hair_style == "bob" else -0.5
    sheets = []
    for depth, offset in ((0.0, 1.1), (0.45, 0.6)):
        fall = smoothstep(height, 10.0, 3.5)[:, None]
        reach = (upper[None] - 0.2) * (1 - fall) + (np.maximum(lower, upper)[None] + offset) * fall
        tuck = inward * smoothstep(height, 0.0, hem)[:, None]
        wave = 1.2 * gaussian_filter(
            rng.normal(size=(rows, columns)), (7, 1.5), mode=("nearest", "wrap")
        )
        reach = reach - tuck + wave * fall
        theta = np.deg2rad(degrees)[None] + 0 * reach
        points = np.stack(
            [reach * np.sin(theta), height[:, None] + 0 * reach, reach * np.cos(theta)], -1
        )
        # Around the face the curtain is absent; towards its edges fewer strands remain.
        to_edge = (np.minimum(degrees, 360 - degrees) - front)[None] + 0 * reach
        keep = smoothstep(to_edge, 0, 10) * smoothstep(height, hem, hem + 2.0)[:, None]
        keep = keep * smoothstep(height, 9.0, 4.5)[:, None]
        layer = np.where(to_edge < 0, 2.0, 1.02 - keep * (1.0 - depth))
        flat, layer = points.reshape(-1, 3), layer.reshape(-1)
        index = np.arange(rows * columns).reshape(rows, columns)
        triangles = _grid_triangles(np.hstack([index, index[:, :1]]))  # closed around the head
        triangles = triangles[(layer[triangles] < 1.5).any(axis=1)]
        tone, free = np.full(len(flat), 0.9 - depth), np.ones(len(flat))
        sheets.append(HairMesh(flat, triangles, flat, layer, tone, free))
    return sheets


def _bun(skin: np.ndarray, person: Person) -> HairMesh:
    """A ball of hair behind the crown."""
    rng = random_stream(*person.key, 5)
    rows, columns = 12, 24
    polar = np.linspace(0.02, np.pi - 0.02, rows)[:, None]
    turn = np.linspace(0, 2 * np.pi, columns)[None]
    ball = np.stack(
        [np.sin(polar) * np.sin(turn), np.cos(polar) + 0 * turn, np.sin(polar) * np.cos(turn)], -1
    ).reshape(-1, 3)
    behind = skin[(np.abs(skin[:, 0]) < 1.5) & (skin[:, 2] < 0)]
    height = rng.uniform(2, 9)
    anchor = behind[np.abs(behind[:, 1] - height).argmin()] * [0, 1, 1]
    points = anchor + ball * rng.uniform(1.8, 2.8)
    triangles = _grid_triangles(np.arange(rows * columns).reshape(rows, columns))
    around = ball * 10 + GLOBE_CENTRE
    same = np.ones(len(points))
    return HairMesh(points, triangles, around, 0.2 * same, 0.8 * same, same)
