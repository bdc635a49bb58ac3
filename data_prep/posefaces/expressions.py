"""Expressions as action units, and action units as blendshapes.

Prototypes: P. Ekman and W. V. Friesen, "Facial Action Coding System" (1978), and the emotion
tables of the investigator's guide (Ekman, Friesen and Hager, 2002). Which blendshape moves which
unit: table "FACS unit / Our shapes" of the ICT-FaceKit README, and one shape more in 6, 7 and 10.
Units that the model lacks (23, 25, 26) are put together from neighbouring shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Action unit -> blendshapes with their share. "_" stands for both sides, _L and _R. A share above
# 1 makes a shape that moves little reach its end before the unit does: weights stop at 1.
ACTION_UNITS: dict[int, dict[str, float]] = {
    1: {"browInnerUp_": 1.5},  # inner brow raiser
    2: {"browOuterUp_": 1.3},  # outer brow raiser
    4: {"browDown_": 1.6},  # brow lowerer
    5: {"eyeWide_": 1.4},  # upper lid raiser
    6: {"cheekSquint_": 0.7, "cheekRaiser_": 0.5},  # cheek raiser
    7: {"eyeSquint_": 1.0, "eyeBlink_": 0.12},  # lid tightener
    9: {"noseSneer_": 1.3},  # nose wrinkler
    10: {"mouthShrugUpper": 0.6, "mouthUpperUp_": 0.6},  # upper lip raiser
    12: {"mouthSmile_": 1.2},  # lip corner puller
    14: {"mouthDimple_": 1.0},  # dimpler
    15: {"mouthFrown_": 1.6},  # lip corner depressor
    16: {"mouthLowerDown_": 1.0},  # lower lip depressor
    17: {"mouthShrugLower": 1.2},  # chin raiser
    20: {"mouthStretch_": 1.4},  # lip stretcher
    23: {"mouthRollUpper": 0.35, "mouthRollLower": 0.35},  # lip tightener
    24: {"mouthPress_": 1.3},  # lip pressor
    25: {"mouthLowerDown_": 0.5, "mouthUpperUp_": 0.35},  # lips part
    26: {"jawOpen": 0.65},  # jaw drop
    27: {"jawOpen": 0.9},  # mouth stretch
    45: {"eyeBlink_": 1.0},  # blink
}


@dataclass(frozen=True)
class Expression:
    """One class: KDEF's code, its name, and the ways in which people show it.

    ``variants`` maps action units to strengths in [0, 1] at full intensity.
    """

    code: str
    name: str
    variants: tuple[dict[int, float], ...]


EXPRESSIONS: tuple[Expression, ...] = (
    Expression("AF", "afraid", (
        {1: 1.0, 2: 0.6, 4: 0.6, 5: 1.0, 7: 0.3, 20: 1.0, 25: 0.7},
        {1: 1.0, 2: 0.6, 4: 0.6, 5: 1.0, 20: 1.0, 25: 0.4, 26: 0.5},
        {1: 1.0, 2: 0.7, 4: 0.5, 5: 0.9, 20: 0.9, 25: 0.6, 26: 0.3},
    )),
    Expression("AN", "angry", (
        {4: 1.0, 5: 0.6, 7: 0.8, 23: 1.0, 24: 0.8},
        {4: 1.0, 7: 0.9, 17: 0.7, 24: 1.0},
        {4: 1.0, 5: 0.6, 7: 0.6, 10: 0.6, 16: 0.7, 25: 0.4},
    )),
    Expression("DI", "disgusted", (
        {4: 0.4, 9: 1.0, 10: 0.7, 17: 0.5},
        {4: 0.4, 7: 0.6, 9: 1.0, 15: 0.6, 16: 0.5},
        {6: 0.4, 9: 1.0, 10: 1.0, 25: 0.5, 26: 0.2},
    )),
    Expression("HA", "happy", (
        {6: 0.9, 12: 1.0},
        {6: 0.9, 12: 1.0, 25: 0.8},
        {6: 0.8, 12: 1.0, 25: 0.6, 26: 0.35},
    )),
    Expression("NE", "neutral", ({},)),
    Expression("SA", "sad", (
        {1: 1.0, 4: 0.4, 15: 1.0, 45: 0.25},
        {1: 1.0, 4: 0.4, 15: 0.9, 17: 0.8},
        {1: 1.0, 15: 1.0, 17: 0.6, 45: 0.35},
    )),
    Expression("SU", "surprised", (
        {1: 1.0, 2: 1.0, 5: 0.8, 26: 1.0},
        {1: 1.0, 2: 1.0, 5: 1.0, 27: 0.8},
        {1: 0.9, 2: 1.0, 5: 0.9, 25: 0.3, 26: 0.7},
    )),
)  # fmt: skip
BY_CODE = {expression.code: expression for expression in EXPRESSIONS}


@dataclass(frozen=True)
class Performance:
    """How an expression was played: overall ``intensity``, and each unit left and right."""

    intensity: float
    units: dict[int, tuple[float, float]]  # action unit -> (left, right) strength


def perform(expression: Expression, rng: np.random.Generator) -> Performance:
    """Play an expression once: a variant, an intensity of 0.5-1.0, uneven sides, stray units."""
    intensity = rng.uniform(0.5, 1.0)
    variant = expression.variants[rng.integers(len(expression.variants))]
    units = {}
    for unit in ACTION_UNITS:
        strength = intensity * variant.get(unit, 0.0) * rng.normal(1.0, 0.15)
        if rng.uniform() < 0.15:  # units that do not belong: nobody's face rests completely
            strength += abs(rng.normal(0, 0.08))
        lean = rng.normal(0, 0.1)
        left, right = np.clip([strength * (1 + lean), strength * (1 - lean)], 0, 1)
        if left > 0.01 or right > 0.01:
            units[unit] = (float(left), float(right))
    return Performance(intensity, units)


def blendshape_weights(performance: Performance) -> dict[str, float]:
    """Weights in [0, 1] for `FaceModel.express`; a shape without sides takes the mean of both."""
    weights: dict[str, float] = {}
    for unit, (left, right) in performance.units.items():
        for shape, share in ACTION_UNITS[unit].items():
            sides = {"": (left + right) / 2}
            if shape.endswith("_"):
                sides = {"L": left, "R": right}
            for side, strength in sides.items():
                weights[shape + side] = weights.get(shape + side, 0.0) + share * strength
    return {name: min(weight, 1.0) for name, weight in weights.items()}
