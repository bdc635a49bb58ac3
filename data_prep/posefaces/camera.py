"""Camera, lamps and sensor: where rays start, where light comes from, what film makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from .skin import smoothstep

CAMERA_DISTANCE = 130.0  # cm from the axis of the head: a portrait


@dataclass(frozen=True)
class View:
    """Camera, light, background and sensor of one picture. Angles in degrees.

    yaw: negative = the face is turned to its own right, so that its nose points to the left edge
        of the picture (KDEF's "full right" is -90). pitch: positive = the face looks up.
    roll: positive = the picture of the face is turned counter-clockwise.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)  # cm, the face moves right and up in the picture
    frame: float = 22.7  # cm, what the picture shows from left to right
    light_azimuth: float = -30.0  # 0 = from the camera, negative = from the left of the picture
    light_elevation: float = 35.0
    key: float = 1.0  # strength of the light that throws shadows
    fill: float = 0.25  # strength of a second, shadowless light from the other side
    ambient: float = 0.35
    softness: float = 8.0  # degrees, size of the key light
    background: tuple[float, float, float] = (0.35, 0.35, 0.0)  # light at top, bottom; noise
    exposure: float = 1.0
    blur: float = 0.5  # pixels, sigma
    grain: float = 0.01  # standard deviation of the sensor's noise
    seed: int = 0


def head_rotation(view: View) -> np.ndarray:
    """(3, 3): turns head coordinates into the camera's (x right, y up, z towards the camera)."""
    yaw, pitch, roll = np.deg2rad([view.yaw, -view.pitch, view.roll])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    )
    about_z = np.array(
        [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    )
    return about_z @ about_x @ about_y


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def direction(azimuth: float, elevation: float) -> np.ndarray:
    azimuth, elevation = np.deg2rad([azimuth, elevation])
    return np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
    )


def camera_rays(
    view: View, aim: np.ndarray, scale: float, size: int, supersample: int
) -> tuple[np.ndarray, np.ndarray]:
    """Origin (3,) and unit directions (n, 3) of all samples in head coordinates, row by row.

    ``aim`` (3,) is the point in the middle of the picture, ``scale`` the size of the head.
    """
    steps = (np.arange(size * supersample) + 0.5) / (size * supersample) - 0.5
    steps = steps * view.frame * scale
    x, y = np.meshgrid(steps - view.shift[0], -steps - view.shift[1])
    rotation = head_rotation(view)
    directions = np.stack([x, y, np.full_like(x, -CAMERA_DISTANCE)], -1).reshape(-1, 3)
    origin = np.array([0, 0, CAMERA_DISTANCE]) @ rotation + aim
    return origin.astype(np.float32), unit(directions @ rotation).astype(np.float32)


def project(points: np.ndarray, view: View, aim: np.ndarray, scale: float) -> np.ndarray:
    """Where ``points`` (n, 3) of the head lie in the picture: (n, 2), column and row.

    Both are fractions of the picture, 0 at the left and the top edge, 1 at the right and the
    bottom. The inverse of `camera_rays`, to which ``aim`` and ``scale`` also go.
    """
    seen = (points - aim) @ head_rotation(view).T
    enlarged = CAMERA_DISTANCE / (CAMERA_DISTANCE - seen[:, 2:])
    flat = (seen[:, :2] * enlarged + view.shift) / (view.frame * scale)
    return 0.5 + flat * [1, -1]


def light_disc(light: np.ndarray, softness: float, size: int, supersample: int) -> np.ndarray:
    """(n, 3): each sample of a pixel sees another point of a round lamp, for soft shadows."""
    number = np.arange(supersample**2)
    radius = np.sqrt((number + 0.5) / len(number)) * np.tan(np.deg2rad(softness))
    across = unit(np.cross(light, [0.3, 1.0, 0.2]))
    disc = np.outer(radius * np.cos(2.399963 * number), across)
    disc += np.outer(radius * np.sin(2.399963 * number), np.cross(light, across))
    points = unit(light + disc).reshape(1, supersample, 1, supersample, 3)
    return np.tile(points, (size, 1, size, 1, 1)).reshape(-1, 3)


def background(view: View, size: int, rng: np.random.Generator) -> np.ndarray:
    top, bottom, rough = view.background
    ramp = np.linspace(top, bottom, size)[:, None] + np.zeros((size, size))
    coarse = rng.standard_normal((6, 6))
    clouds = zoom(coarse, size / 6, order=3)[:size, :size]
    return np.clip(ramp * (1 + rough * clouds), 0.005, 1)


def develop(light: np.ndarray, view: View, rng: np.random.Generator) -> np.ndarray:
    """Lens blur, sensor noise, a soft shoulder for highlights and the sRGB-like gamma."""
    light = gaussian_filter(light, view.blur)
    light = np.where(light < 0.6, light, 0.6 + 0.4 * np.tanh((light - 0.6) / 0.4))
    image = np.clip(light, 0, 1) ** (1 / 2.2)
    image = 0.5 * image + 0.5 * smoothstep(image, 0, 1)  # the contrast of a print
    image = image + view.grain * rng.standard_normal(light.shape)
    return np.clip(image, 0, 1).astype(np.float32)
