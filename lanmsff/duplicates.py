"""Pixel-identical images: how many there are, and which of them stand in an earlier split."""

from __future__ import annotations

import hashlib

import numpy as np

from lanmsff.data import SPLITS


def group_identical(images: np.ndarray) -> np.ndarray:
    """Number of the group of equal images that each of `images` (N,H,W) is in: (N,) int64."""
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    return np.unique(np.array(digests, "U64"), return_inverse=True)[1].astype(np.int64)


def leaked_from(group: np.ndarray, split: np.ndarray) -> np.ndarray:
    """The earliest split before its own in which each image also stands, or "": (N,) text.

    The order is train, val, test; an image that is twice in one split leaks nothing.
    """
    leaked = np.full(len(group), "", dtype="U5")
    for position in (1, 0):  # train last, so that it wins over val
        inside = np.isin(group, group[split == SPLITS[position]])
        leaked[inside & np.isin(split, SPLITS[position + 1 :])] = SPLITS[position]
    return leaked


def statistics(group: np.ndarray, split: np.ndarray, labels: np.ndarray) -> dict[str, int]:
    """Counts of identical images.

    `groups`: groups of at least two equal images. `surplus`: images that would go if one of each
    group were kept. `conflicting`: groups whose images carry more than one label. `A in B`: images
    of split A (every copy counted) that also stand in split B.
    """
    members = np.unique(group, return_counts=True)[1]
    pairs = np.unique(np.stack([group, labels], 1), axis=0)[:, 0]
    labels_per_group = np.unique(pairs, return_counts=True)[1]
    train, val = (np.isin(group, group[split == name]) for name in SPLITS[:2])
    test = split == "test"
    counted = {
        "groups": members > 1,
        "surplus": np.repeat(True, len(group) - len(members)),
        "conflicting": labels_per_group > 1,
        "val in train": (split == "val") & train,
        "test in train": test & train,
        "test in train or val": test & (train | val),
    }
    return {name: int(mask.sum()) for name, mask in counted.items()}
