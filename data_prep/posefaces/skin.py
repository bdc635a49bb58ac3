"""What a face is painted with: skin, lips, brows, beard, wrinkles and the regions of the face.

All of it is painted on a *globe*, an equirectangular map around the middle of the model's neutral
head (column = longitude from the back of the head over the person's right ear, the nose and the
left ear; row = latitude from the crown down). Since the vertices of every face correspond, one
map fits every person and follows every expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates

from .ict import LANDMARKS, PARTS, FaceModel
from .people import Person, random_stream

GLOBE_CENTRE = np.array([0.0, 3.0, 0.0], np.float32)  # cm, in the neutral head
GLOBE_SIZE = (512, 1024)  # rows, columns: 0.35 degrees or about 0.6 mm on the cheek

REGIONS = (
    "background", "skin", "left_eye", "right_eye", "left_brow", "right_brow",
    "nose", "mouth", "hair",
)  # fmt: skip

# Wrinkles come with the blendshapes that fold the skin there, the more the older the person.
WRINKLES = {
    "forehead": ("browInnerUp_L", "browInnerUp_R", "browOuterUp_L", "browOuterUp_R"),
    "glabella": ("browDown_L", "browDown_R"),
    "nose": ("noseSneer_L", "noseSneer_R"),
    "crow_feet": ("cheekRaiser_L", "cheekRaiser_R", "mouthSmile_L", "mouthSmile_R"),
    "nasolabial": ("mouthSmile_L", "mouthSmile_R", "noseSneer_L", "noseSneer_R"),
}

_PX = 20  # pixels for a centimetre on the flat canvas, seen from the front
_LEFT, _TOP, _WIDE, _HIGH = -9.0, 12.0, 18.0, 24.0  # cm, the canvas


def globe_coordinates(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (float) on the globe of neutral-head ``points`` (..., 3) in cm."""
    x, y, z = np.moveaxis(points - GLOBE_CENTRE, -1, 0)
    rows, columns = GLOBE_SIZE
    longitude = np.arctan2(x, z)
    latitude = np.arctan2(y, np.hypot(x, z))
    return (
        (0.5 - latitude / np.pi) * rows - 0.5,
        (0.5 + longitude / (2 * np.pi)) * columns - 0.5,
    )


def sample(globe: np.ndarray, rows: np.ndarray, columns: np.ndarray, order: int = 1) -> np.ndarray:
    """Look up a map at float ``rows`` and ``columns``, bilinear (order 1) or nearest (0)."""
    return map_coordinates(globe, (rows, columns), order=order, mode="grid-wrap")


@dataclass(frozen=True)
class Globe:
    """Where each texel of the globe lies on the neutral head, (512, 1024) float32 in cm."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    front: np.ndarray  # 0-1, how much a texel belongs to what is seen from the front

    @property
    def longitude(self) -> np.ndarray:
        """Degrees, 0 at the nose, positive to the person's left."""
        columns = GLOBE_SIZE[1]
        return np.broadcast_to((np.arange(columns) + 0.5) / columns * 360 - 180, GLOBE_SIZE)


def survey(model: FaceModel) -> Globe:
    """Measure the neutral head: the outermost point of the skin in each direction."""
    from .rays import cast, skin_triangles  # embreex is needed only where rays are cast

    rows, columns = GLOBE_SIZE
    latitude = (0.5 - (np.arange(rows) + 0.5) / rows)[:, None] * np.pi
    longitude = ((np.arange(columns) + 0.5) / columns - 0.5)[None] * 2 * np.pi
    direction = np.stack(
        [np.cos(latitude) * np.sin(longitude),
         np.sin(latitude) + 0 * longitude,
         np.cos(latitude) * np.cos(longitude)], axis=-1,
    ).reshape(-1, 3).astype(np.float32)  # fmt: skip
    hits = cast(model.neutral, skin_triangles(model), GLOBE_CENTRE + 60 * direction, -direction)
    point = GLOBE_CENTRE + (60 - hits.distance)[:, None] * direction
    point[~hits.found] = GLOBE_CENTRE + 25 * direction[~hits.found]  # below the cut of the neck
    x, y, z = (point[:, i].reshape(GLOBE_SIZE) for i in range(3))
    return Globe(x, y, z, smoothstep(z, 2.0, 5.0))


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between (``low`` may exceed ``high``)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def noise(rng: np.random.Generator, sigma: float | tuple[float, float]) -> np.ndarray:
    """Smooth noise on the globe with unit variance; ``sigma`` in texels."""
    field = gaussian_filter(rng.standard_normal(GLOBE_SIZE, np.float32), sigma, mode="wrap")
    return field / field.std()


class Canvas:
    """A flat sheet in front of the neutral face, drawn on in centimetres."""

    def __init__(self) -> None:
        self._image = Image.new("L", (int(_WIDE * _PX), int(_HIGH * _PX)))
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: np.ndarray, width: float, value: float = 1.0) -> None:
        """Draw over what is there; ``points`` (n, 2) and ``width`` in cm, ``value`` in [0, 1]."""
        width_px = max(1, round(width * _PX))
        self._draw.line(self._pixels(points), round(255 * value), width_px, joint="curve")

    def polygon(self, points: np.ndarray, value: float = 1.0) -> None:
        """Fill a polygon of ``points`` (n, 2) in cm."""
        self._draw.polygon(self._pixels(points), round(255 * value))

    def onto(self, globe: Globe, blur: float) -> np.ndarray:
        """The drawing on the globe, in [0, 1], blurred by ``blur`` cm."""
        flat = gaussian_filter(np.asarray(self._image, np.float32) / 255, blur * _PX)
        rows, columns = (_TOP - globe.y) * _PX - 0.5, (globe.x - _LEFT) * _PX - 0.5
        return map_coordinates(flat, (rows, columns), order=1) * globe.front

    @staticmethod
    def _pixels(points: np.ndarray) -> list[tuple[float, float]]:
        return [((x - _LEFT) * _PX, (_TOP - y) * _PX) for x, y in points]


def mirrored(points: np.ndarray, side: int) -> np.ndarray:
    """Points given for the person's left (+x) side, or their mirror image for ``side`` -1."""
    return points * np.array([side, 1.0])


@dataclass(frozen=True)
class Skin:
    """The maps of one person, each (512, 1024) float32 if not said otherwise."""

    albedo: np.ndarray  # linear reflectance, 0-1
    gloss: np.ndarray  # strength of highlights
    relief: np.ndarray  # (2, 512, 1024), slope of pores and old lines along column and row
    wrinkles: dict[str, np.ndarray]  # the same for each entry of WRINKLES
    regions: np.ndarray  # uint8, index into REGIONS


def paint_skin(model: FaceModel, globe: Globe, person: Person, hair_density: np.ndarray) -> Skin:
    """Paint one person; ``hair_density`` (512, 1024) in [0, 1] says where hair grows."""
    rng = random_stream(*person.key, 1)
    marks = model.neutral[LANDMARKS][:, :2].astype(float)
    uneven = 0.08 * noise(rng, 45) + 0.045 * noise(rng, 14) + 0.035 * noise(rng, 4)
    albedo = person.skin * (1 + person.mottling * uneven)

    # Blood makes nose, cheeks and ears darker in grey; thin skin makes rings under the eyes.
    for centre, radius, depth in (((3.9, -0.3), 2.2, 0.10), ((0.0, 0.2), 1.2, 0.10)):
        for side in (1, -1):
            distance = np.hypot(globe.x - side * centre[0], globe.y - centre[1])
            albedo *= 1 - depth * np.exp(-((distance / radius) ** 2)) * globe.front
    rings = Canvas()
    for side in (1, -1):
        rings.line(mirrored(np.array([[2.0, 2.5], [3.1, 2.2], [4.3, 2.6]]), side), 0.5)
    albedo *= 1 - (0.12 + 0.2 * person.age) * rings.onto(globe, 0.25)

    if person.freckles:
        spots = Canvas()
        for _ in range(int(260 * person.freckles)):
            x, y = rng.normal(0, 3.2), rng.normal(1.0, 2.0)
            spots.line(
                np.array([[x, y], [x + 0.02, y]]), rng.uniform(0.05, 0.14), rng.uniform(0.3, 1)
            )
        albedo *= 1 - 0.4 * person.freckles * spots.onto(globe, 0.03)

    lips = Canvas()
    lips.polygon(marks[48:60] + rng.normal(0, 0.04, (12, 2)))
    lip_mask = lips.onto(globe, 0.09)
    crease = 1 + 0.12 * noise(rng, (6, 1.2))
    albedo = albedo * (1 - lip_mask) + person.skin * person.lips * crease * lip_mask

    brows = _brow_strokes(person, marks, rng)
    cover = np.clip(1.6 * person.brow_darkness * brows.onto(globe, 0.035), 0, 0.96)
    brow_hair = min(0.65 * person.hair, 0.35 * person.skin)  # also fair brows show
    albedo = albedo * (1 - cover) + brow_hair * cover

    beard = _beard_density(globe, person, rng) * (1 - 0.9 * smoothstep(lip_mask, 0.2, 0.7))
    grain = np.clip(0.85 + 0.25 * noise(rng, 0.8), 0, 1.2)
    cover = np.clip(beard * grain, 0, 0.93)
    albedo = albedo * (1 - cover) + 0.7 * person.hair * cover

    # Under the hair the scalp is dark; just below the hairline the hair throws a soft shadow.
    near = gaussian_filter(hair_density, 8, mode="wrap")
    cover = np.clip(0.9 * hair_density + 0.25 * near * (1 - hair_density), 0, 0.9)
    albedo = albedo * (1 - cover) + 0.8 * person.hair * cover

    oily = np.exp(-((globe.x / 2.5) ** 2)) * globe.front  # forehead, nose, chin
    gloss = person.gloss * (0.7 + 0.6 * oily + 0.9 * lip_mask) * (1 - 0.8 * beard)
    pores = (0.04 + 0.05 * person.age) * noise(rng, 1.3) + 0.08 * person.age * noise(rng, 5)
    folds = {name: _wrinkle_lines(name, person, rng).onto(globe, 0.07) for name in WRINKLES}
    lines = sum(folds.values()) * max(0.0, person.age - 0.25)
    return Skin(
        albedo=np.clip(albedo, 0.01, 0.9).astype(np.float32),
        gloss=np.clip(gloss, 0, None).astype(np.float32),
        relief=_slope(0.5 * pores - 0.55 * lines),
        wrinkles={name: _slope(-(0.6 + 0.8 * person.age) * fold) for name, fold in folds.items()},
        regions=_region_map(globe, marks, hair_density),
    )


def _slope(height: np.ndarray) -> np.ndarray:
    return np.stack(np.gradient(height, axis=(1, 0))).astype(np.float32)


def _brow_strokes(person: Person, marks: np.ndarray, rng: np.random.Generator) -> Canvas:
    """Single hairs along the brow, leaning outward, thick inside and thin at the tail."""
    canvas = Canvas()
    spine = marks[22:27]  # the person's left brow, from the nose outward
    for side in (1, -1):
        for _ in range(int(650 * person.brow_width)):
            t = rng.beta(1.1, 1.4)
            x, y = (np.interp(t * 4, range(5), spine[:, i]) for i in range(2))
            taper = person.brow_width * (1.0 - 0.65 * t) * min(1.0, 0.55 + 4 * t)
            y += person.brow_arch * np.sin(np.pi * t) + rng.normal(0, 0.36) * taper - 0.1
            lean = np.deg2rad(70 - 75 * min(1.0, 1.6 * t) + rng.normal(0, 12))
            length = rng.uniform(0.3, 0.6)
            end = (x + length * np.cos(lean), y + length * np.sin(lean) * 0.6)
            canvas.line(mirrored(np.array([(x, y), end]), side), 0.05, rng.uniform(0.5, 1))
    return canvas


def _beard_density(globe: Globe, person: Person, rng: np.random.Generator) -> np.ndarray:
    strength = {"none": 0.0, "shadow": 0.28, "stubble": 0.55, "full": 0.9}.get(person.beard, 0.9)
    if strength == 0.0:
        return np.zeros(GLOBE_SIZE)
    x, y, ragged = np.abs(globe.x), globe.y, 0.25 * noise(rng, 5)
    moustache = smoothstep(y + ragged, -1.1, -1.7) * smoothstep(x + ragged, 3.2, 2.2)
    moustache *= smoothstep(y + ragged, -4.4, -3.0) * (1 - np.exp(-((x / 0.25) ** 2)) * 0.5)
    chin = smoothstep(x + ragged, 2.9, 1.9) * smoothstep(y + ragged, -3.6, -4.6)
    line = -1.0 - 3.2 * smoothstep(x, 6.8, 3.0)  # from the sideburn down to the chin
    cheeks = smoothstep(y + ragged, line + 0.6, line - 0.8)
    under = smoothstep(globe.y + ragged, -10.6, -8.8)
    facing = smoothstep(np.abs(globe.longitude), 86, 74)
    area = {
        "moustache": moustache,
        "goatee": np.maximum(moustache, chin * smoothstep(globe.y, -9.2, -8.2)),
    }.get(person.beard, np.maximum(moustache, np.maximum(chin, cheeks)) * under)
    return strength * area * facing * globe.front


def _wrinkle_lines(name: str, person: Person, rng: np.random.Generator) -> Canvas:
    canvas = Canvas()

    def line(points: list, width: float = 0.12, value: float = 1.0) -> None:
        jitter = rng.normal(0, 0.08, (len(points), 2))
        for side in (1, -1):
            canvas.line(mirrored(np.array(points) + jitter, side), width, value)

    if name == "forehead":
        for y in np.linspace(7.4, 9.4, 3 + (person.age > 0.5)) + rng.normal(0, 0.12):
            line(
                [(0, y), (1.5, y + 0.12), (3.2, y + 0.1), (4.6, y - 0.35)], 0.1, rng.uniform(0.5, 1)
            )
    elif name == "glabella":
        line([(0.45, 4.7), (0.5, 5.6), (0.75, 6.5)], 0.14)
    elif name == "nose":
        for y in (3.3, 2.8, 2.3):
            line([(0.1, y), (0.5, y + 0.1), (0.9, y + 0.35)], 0.09, 0.8)
    elif name == "crow_feet":
        for slope in (-0.7, -0.25, 0.25):
            line(
                [(4.8, 3.2 + 0.4 * slope), (5.4, 3.2 + slope), (5.9, 3.1 + 1.6 * slope)], 0.08, 0.8
            )
    elif name == "nasolabial":
        line([(1.8, -0.4), (2.5, -1.4), (3.1, -2.6), (3.3, -3.6)], 0.2)
    return canvas


def _region_map(globe: Globe, marks: np.ndarray, hair_density: np.ndarray) -> np.ndarray:
    regions = np.where(hair_density > 0.5, REGIONS.index("hair"), REGIONS.index("skin"))

    def fill(name: str, outline: np.ndarray, grow: float) -> None:
        canvas = Canvas()
        canvas.polygon(outline)
        if grow:
            canvas.line(np.vstack([outline, outline[:2]]), 2 * grow)
        regions[canvas.onto(globe, 0.0) > 0.5] = REGIONS.index(name)

    bridge = np.array([(0.75, 3.9), (1.0, 1.8), (2.0, -0.2), (1.7, -1.2), (0.0, -1.5)])
    fill("nose", np.vstack([bridge, mirrored(bridge[::-1], -1)]), 0.0)
    fill("mouth", marks[48:60], 0.3)
    for side, name in ((1, "left"), (-1, "right")):
        brow = marks[22:27]
        fill(f"{name}_brow", mirrored(np.vstack([brow, brow[::-1] - [0, 0.1]]), side), 0.45)
        fill(f"{name}_eye", mirrored(marks[42:48], side), 0.65)
    return regions.astype(np.uint8)


def part_regions() -> dict[str, int]:
    """Region of the parts that carry no map: eyes, teeth and the inside of the mouth."""
    mouth = REGIONS.index("mouth")
    named = {"mouth_socket": mouth, "gums": mouth, "teeth": mouth}
    for side in ("left", "right"):
        for part in ("eye", "eye_socket", "lashes"):
            named[f"{part}_{side}"] = REGIONS.index(f"{side}_eye")
    assert set(named) <= set(PARTS)
    return named
