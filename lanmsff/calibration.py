"""Calibration: is a network that is 80 % sure right four times in five?

Faces are put into bins by confidence, the probability of the predicted class. The expected
calibration error is the mean distance between confidence and accuracy of the bins, weighted by the
faces in them (Naeini et al., AAAI 2015). Temperature scaling divides all logits by one number,
fitted on validation faces (Guo et al., ICML 2017): no prediction changes, only how sure it is.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

BINS = 15
TEMPERATURES = (0.05, 20.0)


def fit_temperature(logits: Tensor, labels: np.ndarray) -> float:
    """The temperature with the lowest mean cross-entropy of `logits / temperature`.

    Args:
        logits: float (N, K), of validation faces.
        labels: int (N,).

    Returns:
        A number in `TEMPERATURES`, towards an end of it where all faces, or none, are right.
    """
    logits, targets = logits.double(), torch.from_numpy(labels)

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / np.exp(log_temperature), targets).item()

    # convex in 1 / temperature, so there is one valley
    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def calibration(logits: Tensor, labels: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Expected calibration error and reliability diagram of N faces.

    Args:
        logits: float (N, K), already divided by a temperature if that is wanted.
        labels: int (N,).
        bins: bin k holds confidences in [k / bins, (k + 1) / bins), the last one also 1.

    Returns:
        `error` in [0, 1], `loss` (mean cross-entropy, nats), and for each bin `n`, mean
        `confidence` and `accuracy`, None in an empty one.
    """
    confidence, predicted = (t.numpy() for t in logits.double().softmax(1).max(1))
    correct = predicted == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    n = np.bincount(bin_of, minlength=bins)
    sure = np.bincount(bin_of, confidence, bins)
    right = np.bincount(bin_of, correct, bins)
    return _diagram(n, sure, right, F.cross_entropy(logits.double(), torch.from_numpy(labels)).item())


def pool(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The `calibration` of two sets of answers together, from that of each, in the same bins."""
    n, sure, right = (np.zeros(len(one["n"]), kind) for kind in (int, float, float))
    for found in (one, other):
        counts = np.array(found["n"])
        n += counts
        sure += counts * np.array([mean or 0.0 for mean in found["confidence"]])
        right += counts * np.array([mean or 0.0 for mean in found["accuracy"]])
    loss = sum(found["loss"] * sum(found["n"]) for found in (one, other)) / n.sum()
    return _diagram(n, sure, right, float(loss))


def _diagram(n: np.ndarray, sure: np.ndarray, right: np.ndarray, loss: float) -> dict[str, Any]:
    """What `calibration` returns, from counts and sums of the bins."""

    def means(sums: np.ndarray) -> list[float | None]:
        return [float(s / m) if m else None for s, m in zip(sums, n)]

    return {
        "error": float(np.abs(sure - right).sum() / n.sum()),
        "loss": loss,
        "n": n.tolist(),
        "confidence": means(sure),
        "accuracy": means(right),
    }
