"""All that a record says of the scores of one network on one set of test faces."""

from typing import Any

import numpy as np
from torch import Tensor

from lanmsff.calibration import calibration
from lanmsff.data import FaceSet
from lanmsff.evaluate import evaluate, over_people
from lanmsff.intervals import accuracy_interval


def report(faces: FaceSet, logits: Tensor, temperature: float) -> dict[str, Any]:
    """Scores of N faces.

    Args:
        faces: N test faces.
        logits: float (N, K), of these faces in their order.
        temperature: fitted on validation faces; see `lanmsff.calibration`. Where these are the
            faces that are scored (protocols "watched" and "validation"), the scaled diagram is
            better than it would be on others.

    Returns:
        `parts` (see `evaluate`), `calibration` as the logits are and `calibration_scaled` after
        division by the temperature, and, where the set says how faces are turned, `yaw` (see
        `by_yaw`).
    """
    found = {
        "parts": evaluate(faces, logits),
        "calibration": calibration(logits, faces.labels),
        "calibration_scaled": calibration(logits / temperature, faces.labels),
    }
    if faces.yaw is not None:
        found["yaw"] = by_yaw(faces, logits.argmax(1).numpy() == faces.labels)
    return found


def by_yaw(faces: FaceSet, correct: np.ndarray) -> list[dict[str, Any]]:
    """For each yaw of N faces, ascending: `yaw` in degrees, `n`, `correct`, `accuracy` and its
    95 % Wilson interval `accuracy_95`; where people are known, `accuracy_over_people_95` as well.

    Args:
        faces: N faces whose yaw is known.
        correct: bool (N,).
    """
    rows = []
    for angle in np.unique(faces.yaw):
        mine = faces.yaw == angle
        n, right = int(mine.sum()), int(correct[mine].sum())
        rows.append({"yaw": float(angle), "n": n, "correct": right, "accuracy": right / n,
                     "accuracy_95": accuracy_interval(right, n),
                     **over_people(faces, correct, mine)})  # fmt: skip
    return rows
