"""Soft labels: what the annotators of a face said, as a distribution over its classes."""

import numpy as np

from lanmsff.data import FaceSet

EMOTIONS = 8  # of FERPlus' ten vote columns; the other two are "unknown" and "not a face"


def soft_labels(faces: FaceSet) -> np.ndarray | None:
    """Label distributions, float32 (N, K) with rows that sum to 1; None if the set has no votes.

    A set prepared under the rule "soft" brings them. Else they are the votes for the K = 8
    emotions, each divided by their sum. As in every rule of FERPlus (Barsoum et al., ICMI 2016)
    an emotion with one vote out of ten is taken for a slip and left out, unless nothing else is
    left; votes for "unknown" and "not a face" do not count, because the rule that kept the face
    has dealt with them.
    """
    if faces.target is not None:
        return faces.target
    if faces.votes is None or len(faces.classes) != EMOTIONS:
        return None
    votes = faces.votes[:, :EMOTIONS].astype(np.float32)
    heard = np.where(votes > 1, votes, 0)
    heard = np.where(heard.any(1, keepdims=True), heard, votes)
    # a face without a single vote for an emotion has its label, and nothing else
    silent = ~heard.any(1)
    heard[silent, faces.labels[silent]] = 1
    return heard / heard.sum(1, keepdims=True)
