"""Protocols: how a set of faces is divided into training, validation and test.

Faces of one person resemble each other more than faces of two people with the same expression. A
protocol that puts a person on both sides therefore measures, in part, how well people are
recognised. `person_independent` keeps them apart; `random_k_fold` does not, as is usual in the
literature on KDEF; `leave_one_yaw_out` asks about an angle that was never trained on.

Every protocol gives a list of `Fold`s; `fold.apply(faces)` is a set to train and evaluate with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from lanmsff.data import SPLITS, DataError, FaceSet


@dataclass(frozen=True, eq=False)
class Fold:
    """One division of N faces: three sets of row numbers that share none, int64, ascending.

    `train` is for the weights, `val` for every choice (epoch, learning rate), `test` for the
    score. Rows that stand in none of them are left out. `name` says which division it is.
    """

    name: str
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def apply(self, faces: FaceSet) -> FaceSet:
        """The faces of this fold, in their order, with `split` set and `meta["fold"]` named.

        `leaked_from`, which speaks of another split, is dropped.
        """
        split = np.full(len(faces), "", "U5")
        for name in SPLITS:
            split[getattr(self, name)] = name
        used = np.flatnonzero(split != "")
        chosen = faces.select(used)
        meta = {key: value for key, value in chosen.meta.items() if key != "counts"}
        meta["fold"] = self.name
        return replace(chosen, split=split[used], leaked_from=None, meta=meta)


def person_independent(faces: FaceSet, k: int = 10, seed: int = 0) -> list[Fold]:
    """`k` folds of people: nobody is in two of train, val and test, expressions are balanced.

    The people are divided into `k` parts by scikit-learn's StratifiedGroupKFold. Fold i tests on
    part i, validates on the next one and trains on the other k - 2, so that each face is tested
    once.

    Args:
        faces: N faces whose `subject` is known.
        k: number of folds, at least 3 and at most the number of people.
        seed: of the shuffle.

    Raises:
        DataError: `subject` is not known, or there are too few people or faces for `k` folds.
    """
    if faces.subject is None:
        raise DataError("the set does not say who is who; folds of people need `subject`")
    people = len(np.unique(faces.subject))
    if people < k:
        raise DataError(f"{people} people; {k} person-independent folds need at least {k}")
    name = f"person-independent, seed {seed}"
    return _rotate(faces, StratifiedGroupKFold, faces.subject, k, seed, name)


def random_k_fold(faces: FaceSet, k: int = 10, seed: int = 0) -> list[Fold]:
    """`k` folds of faces, balanced by expression, that do not look at who is shown.

    As `person_independent`, but by scikit-learn's StratifiedKFold: nearly everybody is in train,
    val and test at once, so the score is no measure of how the network does on new people.

    Raises:
        DataError: there are too few faces for `k` folds.
    """
    return _rotate(faces, StratifiedKFold, None, k, seed, f"random, seed {seed}")


def leave_one_yaw_out(faces: FaceSet) -> list[Fold]:
    """One fold for each yaw of the set, ascending: it is tested, and the others are trained on.

    Who is trained, validated and tested on follows `faces.split`, so that only the angle is new
    when that split is. With a person-independent split (as `data_prep kdef` makes it, or
    `person_independent(...)[i].apply(faces)`), nobody is in two of train, val and test here.

    Raises:
        DataError: `yaw` is not known, there is one yaw only, or a fold lacks train, val or test.
    """
    if faces.yaw is None:
        raise DataError("the set does not say how the faces are turned; it has no `yaw`")
    yaws = np.unique(faces.yaw)
    if len(yaws) < 2:
        raise DataError(f"the set has {len(yaws)} yaw; to leave one out takes at least 2")
    folds = []
    for yaw in yaws:
        held_out = faces.yaw == yaw
        rows = [np.flatnonzero((faces.split == split) & (held_out == (split == "test")))
                for split in SPLITS]
        folds.append(_checked(Fold(f"yaw {yaw:g} left out", *rows)))
    return folds


def _rotate(
    faces: FaceSet,
    splitter: type[StratifiedGroupKFold] | type[StratifiedKFold],
    groups: np.ndarray | None,
    k: int,
    seed: int,
    name: str,
) -> list[Fold]:
    if k < 3:
        raise DataError(f"{k} folds; train, val and test need at least 3")
    divide = splitter(k, shuffle=True, random_state=seed).split
    try:
        parts = [test for _, test in divide(faces.labels, faces.labels, groups)]
    except ValueError as error:
        raise DataError(f"{len(faces)} faces cannot be divided into {k} folds: {error}") from None
    folds = []
    for i, test in enumerate(parts):
        val = parts[(i + 1) % k]
        rest = np.ones(len(faces), bool)
        rest[test] = rest[val] = False
        folds.append(_checked(Fold(f"{name}, {i + 1} of {k}", np.flatnonzero(rest), val, test)))
    return folds


def _checked(fold: Fold) -> Fold:
    empty = [split for split in SPLITS if not len(getattr(fold, split))]
    if empty:
        raise DataError(f"fold '{fold.name}' has no faces in {', '.join(empty)}")
    return fold
