"""Which pictures the set holds, what differs from one to the next, and their names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep import kdef

from .camera import View
from .expressions import BY_CODE, EXPRESSIONS, Performance, perform
from .people import Person, random_stream, sample_person

PEOPLE = [f"{sex}{number:02d}" for sex in "FM" for number in range(1, 36)]
SWEEP_PEOPLE = [f"{sex}{number:02d}" for sex in "FM" for number in range(71, 76)]
SWEEP_YAWS = tuple(range(-90, 91, 10))


@dataclass(frozen=True)
class Shot:
    """One picture of the set: session, person, expression and nominal yaw."""

    session: str  # "A" or "B"
    person: str  # "F01"
    expression: str  # "AF"
    yaw: int  # degrees
    sweep: bool = False

    @property
    def name(self) -> str:
        """Path inside the zip: ``AF01/AF01ANFL.JPG``, or ``sweep/AF71/AF71AN+030.JPG``."""
        label = list(kdef.CODES).index(self.expression)
        file = kdef.Shot(self.person, self.session, label, self.yaw, self.sweep).name
        return f"{'sweep/' * self.sweep}{self.session}{self.person}/{file}.JPG"

    @property
    def key(self) -> tuple[int, ...]:
        """Key of the random stream of what all yaws of one performance share."""
        codes = list(BY_CODE)
        return (
            "FM".index(self.person[0]), int(self.person[1:]), 10,
            "AB".index(self.session), codes.index(self.expression),
        )  # fmt: skip


def main_shots(people: list[str], sessions: str) -> list[Shot]:
    """All pictures of the main part, a folder (session and person) at a time."""
    return [
        Shot(session, person, expression.code, yaw)
        for person in people
        for session in sessions
        for expression in EXPRESSIONS
        for yaw in kdef.YAWS.values()
    ]


def sweep_shots(people: list[str]) -> list[Shot]:
    """All pictures of the yaw sweep."""
    return [
        Shot("A", person, expression.code, yaw, sweep=True)
        for person in people
        for expression in EXPRESSIONS
        for yaw in SWEEP_YAWS
    ]


def person_of(shot: Shot) -> Person:
    """The person in a picture."""
    return sample_person(shot.person[0], int(shot.person[1:]))


def performance_of(shot: Shot) -> Performance:
    """How the expression was played: once for all yaws."""
    return perform(BY_CODE[shot.expression], random_stream(*shot.key))


def view_of(shot: Shot) -> View:
    """Camera, light, background and sensor: new for each picture."""
    rng = random_stream(*shot.key, shot.yaw + 180)
    skin = person_of(shot).skin
    backdrop = float(np.exp(rng.uniform(np.log(0.02), np.log(0.7))))
    ramp = rng.choice([1.0, rng.uniform(0.4, 2.0)])
    return View(
        yaw=shot.yaw + float(np.clip(rng.normal(0, 2), -5, 5)),
        pitch=float(np.clip(rng.normal(0, 2), -5, 5)),
        roll=float(np.clip(rng.normal(0, 2), -5, 5)),
        shift=(rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5)),
        frame=rng.uniform(21.8, 23.6),
        light_azimuth=rng.uniform(-55, 55) + 0.3 * shot.yaw,  # more often before than behind
        light_elevation=rng.uniform(5, 55),
        key=rng.uniform(0.8, 1.3),
        fill=rng.uniform(0.08, 0.3),
        ambient=rng.uniform(0.12, 0.38),
        softness=rng.uniform(3, 12),
        background=(backdrop, float(np.clip(backdrop * ramp, 0.01, 0.8)),
                    max(0.0, rng.uniform(-0.25, 0.25))),
        exposure=float(0.54 / skin**0.65 * np.exp(rng.normal(0, 0.15))),
        blur=rng.uniform(0.25, 0.55),
        grain=rng.uniform(0.003, 0.01),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip
