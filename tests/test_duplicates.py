"""Identical images: how many there are, and which test faces were seen in training."""

import numpy as np

from lanmsff import duplicates


def test_counts_of_identical_images_by_hand():
    """A test face from train, one from val, one from both; two equal ones in train."""
    group = np.array([0, 1, 2, 2, 1, 3, 0, 3, 1, 4])
    split = np.array(["train"] * 4 + ["val"] * 2 + ["test"] * 4)
    labels = np.array([0, 1, 2, 2, 1, 0, 0, 1, 1, 0])
    assert duplicates.statistics(group, split, labels) == {
        "groups": 4, "surplus": 5, "conflicting": 1,
        "val in train": 1, "test in train": 2, "test in train or val": 3,
    }  # fmt: skip
    assert duplicates.leaked_from(group, split).tolist() == [
        "", "", "", "", "train", "", "train", "val", "train", ""]  # fmt: skip
