"""What networks answer on the faces of one test set, and the figures of that.

Two questions have two intervals, and both are given:

    over_faces_95      other test faces, the same networks: people are drawn again, each with all of
                       their faces; faces, where people are not known (`lanmsff.intervals`)
    over_networks_95   other seeds, the same test faces: Student's t over the networks' figures

A figure of several networks is their mean. Where a protocol has folds, the networks of one seed are
put together: each face is scored by the network that never saw it, and they count as one network.
Test faces that belong to no fold are scored by the network of every fold; those of one seed, which
share most of their training faces, count as one there as well: the mean of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from lanmsff.calibration import calibration, pool
from lanmsff.data import FaceSet
from lanmsff.evaluate import confused, evaluate, subsets
from lanmsff.intervals import bootstrap_over_groups
from lanmsff.results import pack_bits
from lanmsff.tables import correct_faces

_MEANS = ("macro_f1", "loss")  # of a part: what does not follow from who is right


@dataclass(frozen=True, eq=False)
class Answers:
    """R networks on the same N test faces of K classes: as much of their logits as a record keeps.

    Attributes:
        faces: the N faces.
        networks: R names, "seed 0" or "seed 0, fold 3".
        correct: bool (R, N).
        means: part (see `subsets`) -> the networks' mean `macro_f1` and `loss`.
        confusion: int (K, K), row = true class, summed over the networks.
        calibration: see `lanmsff.calibration.calibration`, of all their answers.
        calibration_scaled: the same, the logits of each divided by its temperature.
    """

    faces: FaceSet
    networks: tuple[str, ...]
    correct: np.ndarray
    means: dict[str, dict[str, float]]
    confusion: np.ndarray
    calibration: dict[str, Any]
    calibration_scaled: dict[str, Any]

    @classmethod
    def of(
        cls, faces: FaceSet, networks: tuple[str, ...], logits: Tensor, scaled: Tensor
    ) -> Answers:
        """From logits, float (R, N, K), and the same divided by temperatures."""
        each = [evaluate(faces, of_one) for of_one in logits]
        labels = np.tile(faces.labels, len(networks))
        return cls(
            faces,
            networks,
            logits.argmax(2).numpy() == faces.labels,
            {part: {key: float(np.mean([scores[part][key] for scores in each])) for key in _MEANS}
             for part in each[0]},
            sum(np.array(scores["all"]["confusion"]) for scores in each),
            calibration(logits.flatten(0, 1), labels),
            calibration(scaled.flatten(0, 1), labels),
        )  # fmt: skip

    @classmethod
    def recorded(cls, faces: FaceSet, test: dict[str, Any]) -> Answers:
        """From the record of a test, which `summary` wrote of these faces.

        Raises:
            ValueError: it is of another number of faces, or too old to say who is right on which.
        """
        if "correct" not in test:
            raise ValueError("it does not say on which faces its networks are right")
        if test["parts"]["all"]["n"] != len(faces):
            raise ValueError("it is of other test faces")
        return cls(
            faces,
            tuple(test["networks"]),
            correct_faces(test),
            {part: {key: of[key] for key in _MEANS} for part, of in test["parts"].items()},
            np.array(test["confusion"]),
            test["calibration"],
            test["calibration_scaled"],
        )

    def __add__(self, other: Answers) -> Answers:
        """Both together; `ValueError` if their faces are others, or a network is of both."""
        if shared := set(self.networks) & set(other.networks):
            raise ValueError(f"it has {min(shared)} too")
        if self.faces.sha256 != other.faces.sha256:
            raise ValueError("it is of other test faces")
        ours, theirs = len(self.networks), len(other.networks)
        networks, correct = self.networks + other.networks, [*self.correct, *other.correct]
        order = sorted(range(ours + theirs), key=lambda i: _numbers(networks[i]))
        return Answers(
            self.faces,
            tuple(networks[i] for i in order),
            np.stack([correct[i] for i in order]),
            {part: {key: (ours * mean + theirs * other.means[part][key]) / (ours + theirs)
                    for key, mean in means.items()} for part, means in self.means.items()},
            self.confusion + other.confusion,
            pool(self.calibration, other.calibration),
            pool(self.calibration_scaled, other.calibration_scaled),
        )  # fmt: skip

    @property
    def right(self) -> np.ndarray:
        """float (S, N): which share of the networks of a seed is right, for each of S seeds."""
        seeds = np.array([name.partition(",")[0] for name in self.networks])
        return np.stack([self.correct[seeds == seed].mean(0) for seed in dict.fromkeys(seeds)])


def _numbers(network: str) -> list[int]:
    """By what networks are put in order: "seed 0, fold 3" is 0 and 3."""
    return [int(number) for number in re.findall(r"\d+", network)]


def summary(answers: Answers) -> dict[str, Any]:
    """Figures of R networks on N faces, in total and on every part (see `evaluate`).

    Returns:
        `parts`: for each, `n`, `accuracy` (see `spread`), and the networks' mean `macro_f1` and
        `loss`; `per_class` and `confusion` of all faces, summed over the networks; `calibration`
        and `calibration_scaled` over all their answers; `yaw`, where it is known; and `correct`,
        one text for each network, see `lanmsff.tables.correct_faces`.
    """
    faces, right, groups = answers.faces, answers.right, answers.faces.groups
    masks = dict(subsets(faces))
    found = {
        "networks": answers.networks,
        "correct": [pack_bits(row) for row in answers.correct],
        "parts": {
            part: {"n": int(masks[part].sum()),
                   "accuracy": spread(right[:, masks[part]], groups[masks[part]]), **means}
            for part, means in answers.means.items()
        },
        "per_class": confused(answers.confusion, faces.classes),
        "confusion": answers.confusion.tolist(),
        "calibration": answers.calibration,
        "calibration_scaled": answers.calibration_scaled,
    }  # fmt: skip
    if faces.yaw is not None:
        found["yaw"] = [
            {"yaw": float(yaw), "n": int((faces.yaw == yaw).sum()),
             "accuracy": spread(right[:, faces.yaw == yaw], groups[faces.yaw == yaw])}
            for yaw in np.unique(faces.yaw)
        ]  # fmt: skip
    return found


def difference(ours: Answers, theirs: Answers) -> dict[str, Any] | None:
    """How much more often our networks are right than theirs, paired face by face.

    Networks of the same name (seed, fold) are paired too; where the names are not the same, the
    means over the networks are compared. Without leaked faces means without those that are leaked
    for either: what is, depends on the protocol.

    Returns:
        The `spread` of the difference of accuracies for every part; None if the faces are others.
    """
    one, other = (replace(found.faces, leaked_from=None).sha256 for found in (ours, theirs))
    if one != other:
        return None
    a, b = ours.right, theirs.right
    if ours.networks != theirs.networks:
        a, b = a.mean(0, keepdims=True), b.mean(0, keepdims=True)
    masks = dict(subsets(ours.faces))
    masks = {part: masks[part] & mask for part, mask in subsets(theirs.faces)}
    return {
        part: spread((a - b)[:, mask], ours.faces.groups[mask])
        for part, mask in masks.items()
        if mask.any()
    }


def spread(values: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Mean of a figure over R networks (or seeds) and N faces, with what it owes to either.

    Args:
        values: (R, N), for instance whether network r is right on face n.
        groups: (N,), see `FaceSet.groups`.

    Returns:
        `mean`; `over_faces_95`, None with fewer than two groups; `each`, the means of the networks;
        and their standard deviation `sd` and `over_networks_95`, None with one network.
    """
    each = values.mean(1)
    found: dict[str, Any] = {
        "mean": float(each.mean()), "over_faces_95": None,
        "each": each.tolist(), "sd": None, "over_networks_95": None,
    }  # fmt: skip
    if len(np.unique(groups)) > 1:
        low, high = bootstrap_over_groups(values.mean(0), groups)
        found["over_faces_95"] = [float(low), float(high)]
    if len(each) > 1:
        found["sd"] = float(each.std(ddof=1))
        half = stats.t.ppf(0.975, len(each) - 1) * found["sd"] / np.sqrt(len(each))
        found["over_networks_95"] = [float(each.mean() - half), float(each.mean() + half)]
    return found
