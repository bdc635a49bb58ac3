"""`python -m data_prep statistics`: what is in prepared sets, as numbers, without a single pixel.

The book shows these numbers to readers who do not have the real sets. They are counts that follow
from the files alone, so that whoever has the files can compute them again.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import entropy

from lanmsff.data import MARKS, SPLITS, DataError, FaceSet, check_writable
from lanmsff.duplicates import group_identical
from lanmsff.results import pack_bits, write_record

# classes of FER-2013 that FERPlus calls by another name
RENAMED = {"angry": "anger", "happy": "happiness", "sad": "sadness"}


def describe(faces: FaceSet) -> dict[str, Any]:
    """Counts of one set; a part is there only where the set knows it.

    Returns:
        `dataset`, `rule`, `sources` (file -> sha256), `sha256` (`FaceSet.sha256`), `n`,
        `size` (height and width in pixels) and `faces`: split -> class -> count.
        `people`: split -> count. `yaw`: degrees as text -> split -> count.
        `leaked`: split -> faces that also stand in an earlier split, pixel by pixel.
        `black`: images without a pixel above 0. `subsets`: mark -> test faces.
        `dropped`, `duplicates`: as `data_prep` counted them over all rows of the source.
        `votes`: see `describe_votes`.
    """
    per_split = {split: faces.subset(split) for split in SPLITS}

    def each(column: str, values: Any) -> dict[str, int]:
        return {s: int(values(getattr(part, column))) for s, part in per_split.items()}

    found: dict[str, Any] = {
        "dataset": faces.meta["dataset"],
        "rule": faces.meta["rule"],
        "sources": faces.meta["sources"],
        "sha256": faces.sha256,
        "n": len(faces),
        "size": list(faces.images.shape[1:]),
        "faces": {
            split: dict(zip(faces.classes, _count(part.labels, len(faces.classes)), strict=True))
            for split, part in per_split.items()
        },
    }
    if faces.subject is not None:
        found["people"] = each("subject", lambda people: len(np.unique(people)))
    if faces.yaw is not None:
        found["yaw"] = {
            f"{yaw:g}": each("yaw", lambda yaws, yaw=yaw: (yaws == yaw).sum())
            for yaw in np.unique(faces.yaw)
        }
    if faces.leaked_from is not None:
        found["leaked"] = each("leaked_from", lambda where: (where != "").sum())
    if faces.black is not None:
        found["black"] = int(faces.black.sum())
    if any(mark in faces.columns for mark in MARKS):
        found["subsets"] = {m: int(faces.columns[m].sum()) for m in MARKS if m in faces.columns}
    found |= {key: faces.meta[key] for key in ("dropped", "duplicates") if key in faces.meta}
    if faces.votes is not None:
        found["votes"] = describe_votes(faces.votes, faces.labels, faces.classes)
    return found


def describe_votes(votes: np.ndarray, labels: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """How far people agree on N faces.

    Args:
        votes: (N, 10), people who voted for each column.
        labels: (N,), indices into `classes`.

    Returns:
        `for_winner`: faces by the number of votes of the winning column, 0 to 10.
        `entropy`: of the votes on a face, in bits, mean over all faces; `entropy_of`: over the
        faces of each class.
    """
    bits = entropy(votes, base=2, axis=1)
    return {
        "for_winner": _count(votes.max(axis=1), 11),
        "entropy": float(bits.mean()),
        "entropy_of": {
            name: float(bits[labels == k].mean())
            for k, name in enumerate(classes)
            if (labels == k).any()
        },
    }


def compare(first: FaceSet, second: FaceSet) -> dict[str, Any] | None:
    """Labels of the faces that two sets share; None where they share none.

    A face is shared if its pixels stand exactly once in each set: a duplicate may carry any of
    its copies' labels, so duplicates are left out.

    Returns:
        `n` and `table`: the classes of `first` (rows) against those of `second` (columns); and of
        the test faces of `first`, in their order packed by `lanmsff.results.pack_bits`,
        `test_shared`, and `test_same`, those among them that have the same class in both.
    """
    if first.images.shape[1:] != second.images.shape[1:]:
        return None
    group = group_identical(np.concatenate([first.images, second.images]))
    ours, theirs = group[: len(first)], group[len(first) :]
    many = group.max() + 1
    once = (np.bincount(ours, minlength=many) == 1) & (np.bincount(theirs, minlength=many) == 1)
    if not once.any():
        return None
    label_of = np.zeros((2, many), np.int64)
    label_of[0, ours], label_of[1, theirs] = first.labels, second.labels
    table = np.zeros((len(first.classes), len(second.classes)), np.int64)
    np.add.at(table, tuple(label_of[:, once]), 1)
    called = [[RENAMED.get(name, name) for name in faces.classes] for faces in (first, second)]
    same = np.equal(*(np.array(names)[labels] for names, labels in zip(called, label_of)))
    test = ours[first.split == "test"]
    return {
        "n": int(once.sum()),
        "rows": first.classes,
        "columns": second.classes,
        "table": table.tolist(),
        "test_shared": pack_bits(once[test]),
        "test_same": pack_bits((once & same)[test]),
    }


def statistics(sets: list[FaceSet]) -> dict[str, Any]:
    """`sets`: name -> `describe`; `compared`: for each two data sets with common faces, `compare`.

    Raises:
        DataError: two sets have the same name ("FERPlus, majority": data set and rule).
    """
    names = [f"{faces.meta['dataset']}, {faces.meta['rule']}" for faces in sets]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"'{twice}' is given twice; give each data set and rule once")
    compared = {}
    for (name, faces), (other, others) in combinations(zip(names, sets), 2):
        if faces.meta["dataset"] != others.meta["dataset"] and (found := compare(faces, others)):
            compared[f"{name} / {other}"] = found
    return {
        "sets": {name: describe(faces) for name, faces in zip(names, sets)},
        "compared": compared,
    }


def _count(values: np.ndarray, length: int) -> list[int]:
    return np.bincount(values, minlength=length).tolist()


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `python -m data_prep statistics`."""
    parser = subparsers.add_parser(
        "statistics",
        help="count what is in prepared sets",
        description="Counts by split, class, person and yaw, leaks, votes, and how far the labels "
        "of two sets agree on common faces; no pixels.",
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE",
                        help="prepared sets (.npz), for example data/fer2013.npz data/ferplus.npz")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT",
                        help="record to write, for example results/data-statistics.json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Load, count and write; raises `DataError` or `OSError` and then writes nothing."""
    check_writable(args.json)
    found = statistics([FaceSet.load(path) for path in args.data])
    write_record(args.json, found)
    for name, one in found["sets"].items():
        splits = ", ".join(f"{s} {sum(counts.values()):,}" for s, counts in one["faces"].items())
        print(f"{name}: {one['n']:,} faces, {splits}")
    for name, one in found["compared"].items():
        print(f"{name}: {one['n']:,} common faces")
    print(args.json)
