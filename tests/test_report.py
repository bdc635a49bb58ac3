"""The report of a test set, against its parts."""

import numpy as np
import pytest
import torch

from lanmsff.calibration import calibration
from lanmsff.evaluate import evaluate
from lanmsff.intervals import accuracy_interval, bootstrap_over_groups
from lanmsff.report import by_yaw, report


def test_each_yaw_is_scored_by_itself(faces):
    correct = np.random.default_rng(0).random(60) < np.where(faces.yaw < 0, 0.9, 0.4)
    rows = by_yaw(faces, correct)
    assert [row["yaw"] for row in rows] == [-45, 45]
    for row in rows:
        mine = faces.yaw == row["yaw"]
        assert (row["n"], row["correct"]) == (mine.sum(), correct[mine].sum())
        assert row["accuracy"] == correct[mine].mean()
        assert row["accuracy_95"] == accuracy_interval(row["correct"], row["n"])
        people = bootstrap_over_groups(correct[mine], faces.subject[mine])
        assert row["accuracy_over_people_95"] == pytest.approx(list(people))


def test_a_report_is_calibrated_with_and_without_the_temperature(faces):
    logits = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    found = report(faces, logits, 2.0)
    assert found["parts"] == evaluate(faces, logits)
    assert found["calibration"] == calibration(logits, faces.labels)
    assert found["calibration_scaled"] == calibration(logits / 2, faces.labels)
    assert found["yaw"] == by_yaw(faces, logits.argmax(1).numpy() == faces.labels)
