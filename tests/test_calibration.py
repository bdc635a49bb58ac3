"""Calibration: the error by hand, against a network that knows what it knows, and temperatures."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.calibration import calibration_curve

from lanmsff.calibration import TEMPERATURES, calibration, fit_temperature


def logits_of(probabilities):
    """Two classes; the first one with these probabilities."""
    first = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([first, 1 - first], dim=1).log()


def sampled(n=20_000, classes=5, seed=0):
    """Logits, and labels that are drawn from exactly their probabilities."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 1.5, (n, classes)).astype(np.float32))
    drawn = (logits.double().softmax(1).cumsum(1).numpy() < rng.random((n, 1))).sum(1)
    return logits, np.minimum(drawn, classes - 1)


def test_four_faces_by_hand():
    found = calibration(logits_of([0.95, 0.91, 0.65, 0.3]), np.array([0, 1, 0, 1]), bins=10)
    assert found["n"] == [0] * 6 + [1, 1, 0, 2]
    assert found["confidence"][6:] == pytest.approx([0.65, 0.7, None, 0.93])
    assert found["accuracy"][6:] == pytest.approx([1, 1, None, 0.5])
    assert found["accuracy"][:6] == [None] * 6
    assert found["error"] == pytest.approx((0.35 + 0.3 + 2 * 0.43) / 4)
    assert found["loss"] == pytest.approx(-np.log([0.95, 0.09, 0.65, 0.7]).mean())


def test_the_diagram_is_scikit_learn_s():
    logits, labels = sampled(500)
    confidence, predicted = logits.softmax(1).max(1)
    accuracy, mean = calibration_curve(predicted.numpy() == labels, confidence.numpy(), n_bins=15)
    found = calibration(logits, labels)
    assert [a for a in found["accuracy"] if a is not None] == pytest.approx(accuracy)
    assert [c for c in found["confidence"] if c is not None] == pytest.approx(mean)


def test_full_confidence_stands_in_the_last_bin():
    found = calibration(torch.tensor([[0.0, -1000.0]]), np.array([0]))
    assert found["n"] == [0] * 14 + [1] and found["error"] == 0


def test_a_network_that_knows_what_it_knows_has_hardly_an_error():
    logits, labels = sampled()
    assert calibration(logits, labels)["error"] < 0.012
    assert calibration(3 * logits, labels)["error"] > 0.1


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_a_factor(factor):
    logits, labels = sampled()
    temperature = fit_temperature(factor * logits, labels)
    assert temperature == pytest.approx(factor, rel=0.03)
    scaled = factor * logits / temperature
    assert calibration(scaled, labels)["error"] < 0.015
    best = F.cross_entropy(scaled, torch.from_numpy(labels))
    for other in (0.97, 1.03):
        assert F.cross_entropy(scaled * other, torch.from_numpy(labels)) > best


def test_labels_that_are_all_right_ask_for_the_coldest():
    logits, _ = sampled(50)
    temperature = fit_temperature(logits, logits.argmax(1).numpy())
    assert temperature == pytest.approx(TEMPERATURES[0], rel=0.01)


def test_labels_that_are_all_wrong_ask_for_the_hottest():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32))
    temperature = fit_temperature(logits, logits.argmin(1).numpy())
    assert temperature == pytest.approx(TEMPERATURES[1], rel=0.01) and TEMPERATURES[1] >= 20
