"""One picture: rays through every pixel, and the light that comes back along them.

Everything is done in the coordinates of the head; camera and light move around it. Shading
follows common practice for skin at low resolution: Lambert's law wrapped a little around the
terminator (light that scatters under the skin), two highlights of different sharpness,
ambient occlusion by casting rays from every vertex, and one shadow ray for each sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .camera import (
    View,
    background,
    camera_rays,
    develop,
    direction,
    head_rotation,
    light_disc,
    unit,
)
from .ict import PARTS
from .people import Person
from .rays import Hits
from .skin import GLOBE_SIZE, REGIONS, WRINKLES, globe_coordinates, part_regions, sample, smoothstep
from .subject import Subject, frame_head


@dataclass(frozen=True)
class Picture:
    """What the camera saw. ``image`` (size, size) in [0, 1]; ``regions`` uint8 into REGIONS."""

    image: np.ndarray
    regions: np.ndarray


def render(subject: Subject, view: View, size: int = 96, supersample: int = 3) -> Picture:
    """Render one view of a subject, ``supersample`` x ``supersample`` rays for each pixel."""
    rng = np.random.default_rng(view.seed)
    scene = _set_up(subject, view, size, supersample)
    hits = subject.body.caster.hits(
        np.broadcast_to(scene.origin, scene.directions.shape), scene.directions
    )
    radiance = np.zeros(len(scene.directions), np.float32)
    regions = np.zeros(len(scene.directions), np.uint8)
    solid = np.flatnonzero(hits.found)
    radiance[solid], regions[solid] = _shade_body(scene, hits, solid)
    covered = hits.found.copy()
    for rays, value, region in _shade_veil(scene, hits, rng):
        radiance[rays], covered[rays] = value, True
        regions[rays] = np.where(region > 0, region, regions[rays])

    shape = (size, supersample, size, supersample)
    coverage = covered.reshape(shape).mean(axis=(1, 3))
    light = radiance.reshape(shape).mean(axis=(1, 3)) * view.exposure
    light = light + (1 - coverage) * background(view, size, rng)
    centre = supersample // 2
    return Picture(develop(light, view, rng), regions.reshape(shape)[:, centre, :, centre])


@dataclass(frozen=True)
class _Scene:
    """One view of one subject, in head coordinates; n rays."""

    subject: Subject
    view: View
    origin: np.ndarray  # (3,) the camera
    directions: np.ndarray  # (n, 3) of the rays
    key: np.ndarray  # (n, 3) towards the key light, another point of it for each ray of a pixel
    fill: np.ndarray  # (3,) towards the fill light
    up: np.ndarray  # (3,) towards the sky


def _set_up(subject: Subject, view: View, size: int, supersample: int) -> _Scene:
    origin, directions = camera_rays(view, *frame_head(subject.look.vertices), size, supersample)
    rotation = head_rotation(view)
    key = direction(view.light_azimuth, view.light_elevation) @ rotation
    fill = direction(-view.light_azimuth, 15.0) @ rotation
    return _Scene(
        subject,
        view,
        origin,
        directions,
        light_disc(key, view.softness, size, supersample).astype(np.float32),
        fill.astype(np.float32),
        (np.array([0.0, 1.0, 0.2]) @ rotation).astype(np.float32),
    )


def _shade_body(scene: _Scene, hits: Hits, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light and region (k,) where ``rays`` meet the solid face."""
    subject, view = scene.subject, scene.view
    body, look = subject.body, subject.look
    part = body.part[hits.triangle[rays]]
    is_skin = part <= list(PARTS).index("head")
    normal = unit(body.at(body.normals, hits, rays))
    neutral = body.at(body.neutral, hits, rays)
    occlusion = body.at(body.occlusion, hits, rays)
    point = scene.origin + hits.distance[rays, None] * scene.directions[rays]
    toward, key = -scene.directions[rays], scene.key[rays]

    where = globe_coordinates(neutral)
    albedo, gloss = sample(look.skin.albedo, *where), sample(look.skin.gloss, *where)
    region = sample(look.skin.regions, *where, order=0)
    sharpness = np.full(len(rays), 18.0, np.float32)
    bumped = np.where(is_skin[:, None], unit(normal - _relief(subject, where)), normal)
    for name, (shade, shine) in _MATERIALS.items():
        inside = part == list(PARTS).index(name)
        albedo[inside], gloss[inside] = shade, shine
    for name, number in part_regions().items():
        region[part == list(PARTS).index(name)] = number
    cloth = is_skin & (neutral[:, 1] < _neckline(neutral))
    albedo[cloth] = look.person.clothes * (0.8 + 0.4 * albedo[cloth] / look.person.skin)
    gloss[cloth] = 0
    # On the globe the shoulders lie behind the neck: no hair there, and clothes are no face.
    region[is_skin & (neutral[:, 1] < -6.5)] = REGIONS.index("skin")
    region[cloth] = REGIONS.index("background")
    eyes = np.isin(part, [list(PARTS).index("eye_left"), list(PARTS).index("eye_right")])
    albedo[eyes] = _eye_albedo(neutral[eyes], look.person)
    gloss[eyes], sharpness[eyes] = 0.0, 200.0

    lit = 1.0 - body.caster.blocked(point + 0.05 * normal, key)
    lit *= 1 - 0.75 * _veil_shadow(scene, point + 0.15 * normal, key)
    wrap = np.where(is_skin, 0.25, 0.1)
    cosine = (bumped * key).sum(1)
    diffuse = np.clip((cosine + wrap) / (1 + wrap), 0, 1) * (lit + (1 - lit) * 0.12 * is_skin)
    filled = np.clip((bumped @ scene.fill + 0.3) / 1.3, 0, 1) * np.clip(1.3 * occlusion, 0, 1)
    sky = (0.75 + 0.25 * bumped @ scene.up) * occlusion
    value = albedo * (view.key * diffuse + view.fill * filled + view.ambient * sky)

    fresnel = 0.04 + 0.96 * (1 - np.clip((bumped * toward).sum(1), 0, 1)) ** 5
    mirror = np.clip((bumped * unit(key + toward)).sum(1), 0, 1)
    lobes = 0.05 * mirror**sharpness + 0.05 * mirror**70 + 0.2 * fresnel * mirror**8
    value += view.key * gloss * lit * (cosine > 0) * lobes
    value += 0.12 * gloss * fresnel * occlusion * view.ambient
    glint = (mirror[eyes] > 0.993) * lit[eyes]
    value[eyes] = value[eyes] * np.clip(1.6 * occlusion[eyes], 0, 1) + 0.35 * view.key * glint
    return value, region


_MOST_SHELLS = 12  # a ray that passed so many shells sees what lies behind them
_LOWER_LID = 3.4  # cm, neutral head: lashes below it are thin

# Albedo and gloss of the parts that carry no map.
_MATERIALS = {
    "mouth_socket": (0.05, 0.2), "gums": (0.16, 0.5), "teeth": (0.5, 0.5),
    "eye_socket_left": (0.2, 0.2), "eye_socket_right": (0.2, 0.2),
}  # fmt: skip


def _relief(subject: Subject, where: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """What pores and wrinkles add to the normal, in head coordinates (n, 3)."""
    skin = subject.look.skin
    slope = skin.relief.copy()
    for name, shapes in WRINKLES.items():
        amount = np.mean([subject.weights.get(shape, 0.0) for shape in shapes])
        if amount > 0.02:
            slope += np.float32(amount) * skin.wrinkles[name]
    east, south = _compass(where)
    return sample(slope[0], *where)[:, None] * east + sample(slope[1], *where)[:, None] * south


def _compass(where: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along increasing column (to the person's left) and row (down) of the globe."""
    rows, columns = GLOBE_SIZE
    latitude = (0.5 - (where[0] + 0.5) / rows) * np.pi
    longitude = ((where[1] + 0.5) / columns - 0.5) * 2 * np.pi
    east = np.stack([np.cos(longitude), 0 * longitude, -np.sin(longitude)], 1)
    south = np.stack(
        [
            np.sin(latitude) * np.sin(longitude),
            -np.cos(latitude),
            np.sin(latitude) * np.cos(longitude),
        ],
        1,
    )
    return east, south


def _neckline(neutral: np.ndarray) -> np.ndarray:
    """(n,) height in cm below which the neck is covered: a round collar, lower in front."""
    x, _, z = neutral.T
    return -10.0 - 2.2 * smoothstep(z, -3, 6) * np.exp(-((x / 6) ** 2))


def _eye_albedo(neutral: np.ndarray, person: Person) -> np.ndarray:
    """Sclera, iris with a dark rim, pupil; by the distance from the axis of the resting eye."""
    radius = np.hypot(np.abs(neutral[:, 0]) - 3.09, neutral[:, 1] - 3.61)
    radius = np.where(neutral[:, 2] > 8.0, radius, 9.0)
    albedo = np.where(radius < 0.62, person.iris * (1.3 - 0.6 * radius), 0.66)
    albedo = np.where(np.abs(radius - 0.62) < 0.07, 0.35 * person.iris + 0.02, albedo)
    return np.where(radius < 0.24, 0.01, albedo)


def _stops(scene: _Scene, hits: Hits, index: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(k,) bool: do the rays ``index`` stop at the hair or lash that they hit?"""
    veil, look = scene.subject.veil, scene.subject.look
    neutral = veil.at(veil.neutral, hits, index)
    where = globe_coordinates(neutral)
    density = np.maximum(sample(look.hair.density, *where), veil.at(veil.free, hits, index))
    hair = sample(look.hair.tips, *where) * density > veil.at(veil.layer, hits, index)
    opacity = look.person.lashes * np.where(neutral[:, 1] < _LOWER_LID, 0.15, 0.7)
    return np.where(veil.is_lash[hits.triangle[index]], chance < opacity, hair)


def _veil_shadow(scene: _Scene, points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(n,) 0 or 1: hair or lash between the points and the light (only the first shell counts)."""
    hits = scene.subject.veil.caster.hits(points, directions)
    shadow = np.zeros(len(points), np.float32)
    index = np.flatnonzero(hits.found)
    shadow[index] = _stops(scene, hits, index, np.full(len(index), 0.5))
    return shadow


def _shade_veil(
    scene: _Scene, solid: Hits, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Follow each ray through the shells to the first hair or lash before the ``solid`` face.

    Yields, shell by shell, the rays that stop there, their light and their region.
    """
    alive = np.arange(len(scene.directions))
    start = np.zeros(len(alive), np.float32)
    limit = np.where(solid.found, solid.distance, np.inf)
    chance = rng.random(len(alive))
    for _ in range(_MOST_SHELLS):
        directions = scene.directions[alive]
        hits = scene.subject.veil.caster.hits(
            scene.origin + start[alive, None] * directions, directions
        )
        reach = start[alive] + hits.distance
        ahead = np.flatnonzero(hits.found & (reach < limit[alive]))
        if not len(ahead):
            return
        stop = _stops(scene, hits, ahead, chance[alive[ahead]])
        final, passing = ahead[stop], ahead[~stop]
        points = scene.origin + reach[final, None] * directions[final]
        yield alive[final], *_shade_hair(scene, hits, final, alive[final], points)
        start[alive[passing]] = reach[passing] + 0.01
        alive = alive[passing]


def _shade_hair(
    scene: _Scene, hits: Hits, index: np.ndarray, rays: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Kajiya and Kay's model (SIGGRAPH 1989): light on a thin cylinder along the strand."""
    subject, view = scene.subject, scene.view
    veil, hair, toward, key = (
        subject.veil,
        subject.look.hair,
        -scene.directions[rays],
        scene.key[rays],
    )
    normal = unit(veil.at(veil.normals, hits, index))
    normal = normal * np.where((normal * toward).sum(1) < 0, -1, 1)[:, None]
    where = globe_coordinates(veil.at(veil.neutral, hits, index))
    east, south = _compass(where)
    strand = east if hair.across else south
    strand = unit(strand - (strand * normal).sum(1)[:, None] * normal)
    sheen = sample(hair.sheen, *where)
    roots = 0.4 + 0.65 * veil.at(veil.depth, hits, index)
    lit = 1.0 - 0.85 * subject.body.caster.blocked(points + 0.3 * normal, key)
    cosine = np.clip(((normal * key).sum(1) + 0.3) / 1.3, 0, 1) * lit
    diffuse = np.sqrt(np.clip(1 - (strand * key).sum(1) ** 2, 0, 1)) * cosine
    gleam = np.clip(1 - (strand * unit(key + toward)).sum(1) ** 2, 0, 1) ** 20 * cosine
    sky = 0.55 + 0.3 * normal @ scene.up + 0.3 * np.clip(normal @ scene.fill, 0, 1) * view.fill
    value = subject.look.person.hair * sheen * roots
    value = value * (1.1 * view.key * diffuse + view.ambient * sky)
    value = value + 0.06 * view.key * gleam * sheen**2 * roots
    lash = veil.is_lash[hits.triangle[index]]
    region = np.where(lash, 0, REGIONS.index("hair"))  # a lash is part of what lies behind it
    return np.where(lash, 0.01, value), region
