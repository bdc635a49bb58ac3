"""Soft labels: the votes of the annotators as targets."""

from dataclasses import replace

import numpy as np
import pytest

from lanmsff.data import FaceSet
from lanmsff.labels import soft_labels

EMOTIONS = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]


def voted(votes, labels, classes=EMOTIONS):
    votes = np.array(votes, np.uint8)
    return FaceSet(
        images=np.zeros((len(votes), 48, 48), np.uint8),
        labels=np.array(labels),
        split=np.repeat("train", len(votes)),
        name=np.arange(len(votes)).astype(str),
        votes=votes,
        meta={"dataset": "x", "rule": "majority", "classes": classes, "sources": {}},
    )


@pytest.mark.parametrize(
    "votes, label, expected",
    [
        ([10, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, {0: 1}),
        ([6, 0, 0, 4, 0, 0, 0, 0, 0, 0], 0, {0: 0.6, 3: 0.4}),
        ([6, 1, 0, 2, 1, 0, 0, 0, 0, 0], 0, {0: 0.75, 3: 0.25}),  # single votes are slips
        ([0, 5, 0, 0, 0, 0, 0, 0, 3, 2], 1, {1: 1}),  # unknown and not-a-face do not count
        ([1, 1, 0, 1, 1, 0, 0, 0, 0, 0], 0, {0: 0.25, 1: 0.25, 3: 0.25, 4: 0.25}),  # only singles
        ([0, 0, 0, 0, 0, 0, 0, 0, 9, 1], 5, {5: 1}),  # no vote for any emotion
    ],
)
def test_votes_to_distribution(votes, label, expected):
    found = soft_labels(voted([votes, [0] * 7 + [3, 0, 0]], [label, 7]))
    assert found.shape == (2, 8) and found.dtype == np.float32
    assert found[0].tolist() == pytest.approx([expected.get(k, 0) for k in range(8)])
    assert found[1].tolist() == [0] * 7 + [1]


def test_a_set_with_targets_keeps_them():
    faces = voted([[6, 0, 0, 4, 0, 0, 0, 0, 0, 0]], [0])
    target = np.array([[0.7, 0, 0, 0.3, 0, 0, 0, 0]], np.float32)
    assert soft_labels(replace(faces, target=target)) is target


def test_a_set_without_votes_has_none(toy_faces):
    assert soft_labels(toy_faces()) is None
    other = voted([[1] * 10], [0], classes=EMOTIONS[:7])  # columns of which we know nothing
    assert soft_labels(other) is None


def test_on_ferplus(fer2013_raw):
    """Where the majority is an emotion, its votes weigh most; a sixth of the faces are doubtful."""
    from data_prep import ferplus

    faces = ferplus.prepare(fer2013_raw, "majority").subset("train")
    found = soft_labels(faces)
    assert (found.argmax(1) == faces.labels).all()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert 0.1 < (found.max(1) < 0.75).mean() < 0.5
