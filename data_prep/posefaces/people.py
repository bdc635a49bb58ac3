"""Who is rendered: the parameters that stay with one person over all of their pictures.

Nothing here is measured from people. ``sex`` is a label of rendering parameters: it shifts the
distributions of hair length, brow thickness, beard, lips, lashes and jaw, which overlap. It lets
the set carry KDEF's names; it is no statement about real faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEED = 2403_14318  # the paper's arXiv number: the whole set follows from it


def random_stream(*key: int) -> np.random.Generator:
    """A random stream for one thing (a person, a picture), independent of all the others."""
    return np.random.default_rng(np.random.SeedSequence(SEED, spawn_key=key))


@dataclass(frozen=True)
class Person:
    """Rendering parameters of one person. Albedos are linear reflectances in [0, 1]."""

    sex: str  # "F" or "M"
    number: int  # 1-35 for the main set, 71-75 for the sweep
    identity: np.ndarray  # (100,) coefficients of the model's identity modes
    skin: float  # albedo
    mottling: float  # relative strength of the uneven skin tone
    freckles: float  # 0-1
    gloss: float  # strength of the highlights of skin
    age: float  # 0-1: depth of wrinkles, grey in the hair
    lips: float  # albedo of the lips relative to the skin
    iris: float  # albedo
    brow_width: float  # cm
    brow_arch: float  # cm
    brow_darkness: float  # 0-1
    lashes: float  # 0-1 opacity
    hair_style: str  # "bald", "buzz", "short", "receding", "bob", "long", "curly", "tied"
    hair: float  # albedo
    hair_thickness: float  # cm on top of the head
    fringe: float  # cm by which the hair comes down over the forehead
    parting: float  # -1 (right) to 1 (left)
    beard: str  # "none", "shadow", "stubble", "moustache", "goatee", "full"
    clothes: float  # albedo of the collar

    @property
    def key(self) -> tuple[int, int]:
        """Key of the person's random streams."""
        return ("FM".index(self.sex), self.number)


_HAIR_STYLES = {
    "F": {"long": 0.4, "bob": 0.26, "tied": 0.14, "short": 0.06, "curly": 0.14},
    "M": {"short": 0.42, "buzz": 0.2, "receding": 0.16, "bald": 0.1, "curly": 0.08, "bob": 0.04},
}
# Modes of the identity that, by eye, make the whole head, the neck and the brow ridge heavier;
# their means lie this far to each side (in standard deviations, sign for "F").
_BUILD = {0: 0.6, 3: -0.5, 4: -0.7}
_BEARDS = {
    "F": {"none": 1.0},
    "M": {
        "none": 0.4, "shadow": 0.24, "stubble": 0.14,
        "moustache": 0.06, "goatee": 0.06, "full": 0.1,
    },
}  # fmt: skip


def sample_person(sex: str, number: int) -> Person:
    """The person ``sex`` + ``number`` of the set; always the same one."""
    if sex not in "FM" or len(sex) != 1:
        raise ValueError(f"sex is 'F' or 'M', not {sex!r}")
    rng = random_stream("FM".index(sex), number)
    male = sex == "M"

    def choose(weights: dict[str, float]) -> str:
        return str(rng.choice(list(weights), p=np.array(list(weights.values()))))

    identity = rng.normal(size=100).clip(-2.2, 2.2) * 0.95
    for mode, shift in _BUILD.items():
        identity[mode] += -shift if male else shift
    age = rng.beta(1.3, 1.8)
    skin = float(np.exp(rng.uniform(np.log(0.13), np.log(0.6))))
    hair = float(np.exp(rng.uniform(np.log(0.02), np.log(0.04 + 0.5 * skin))))
    hair = hair + (0.45 - hair) * max(0.0, age - 0.65) * 2.0 * rng.uniform()
    style = choose(_HAIR_STYLES[sex])
    if style == "short" and male and age > 0.7 and rng.uniform() < 0.4:
        style = "receding"
    return Person(
        sex=sex,
        number=number,
        identity=identity,
        skin=skin,
        mottling=rng.uniform(0.3, 1.0),
        freckles=max(0.0, rng.uniform(-1.2, 1.0)),
        gloss=rng.uniform(0.5, 1.5),
        age=age,
        lips=rng.uniform(0.42, 0.66) if not male else rng.uniform(0.6, 0.85),
        iris=float(np.exp(rng.uniform(np.log(0.02), np.log(0.22)))),
        brow_width=rng.uniform(0.55, 0.95) if male else rng.uniform(0.35, 0.7),
        brow_arch=rng.normal(0.0, 0.12) + (0.0 if male else 0.12),
        brow_darkness=rng.uniform(0.6, 1.0),
        lashes=rng.uniform(0.2, 0.45) if male else rng.uniform(0.4, 0.8),
        hair_style=style,
        hair=hair,
        hair_thickness=rng.uniform(0.8, 2.2),
        fringe=max(0.0, rng.uniform(-2.0, 3.2) - male * 0.8),
        parting=rng.uniform(-1, 1),
        beard=choose(_BEARDS[sex]),
        clothes=float(np.exp(rng.uniform(np.log(0.03), np.log(0.6)))),
    )
