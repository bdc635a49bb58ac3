"""What the commands of `data_prep` share: their arguments, and how a prepared set is written."""

from __future__ import annotations

import argparse
from pathlib import Path

from lanmsff.data import SPLITS, DataError, FaceSet, check_writable


def add_output_arguments(parser: argparse.ArgumentParser, example: str) -> None:
    """Add --source, --out and --skip-bad."""
    parser.add_argument("--source", type=Path, required=True, metavar="PATH",
                        help="folder, archive or file as downloaded")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE",
                        help=f"prepared set to write, for example {example}")
    parser.add_argument("--skip-bad", action="store_true",
                        help="leave rows out that cannot be used, and list them")


def check_output(out: Path) -> None:
    """Refuse a prepared set that cannot be written, before the work; see `check_writable`."""
    if out.suffix != ".npz":
        raise DataError(f"{out}: the prepared set must be named *.npz")
    check_writable(out)


def write(faces: FaceSet, out: Path) -> None:
    """Save the set and print what is in it: bad rows left out, splits, classes, leaks."""
    faces.save(out)
    for line in faces.meta["skipped"]:
        print(f"left out: {line}")
    if faces.meta["skipped"]:
        print(f"{len(faces.meta['skipped'])} bad rows left out")
    counts = faces.meta["counts"]
    height, width = faces.images.shape[1:]
    print(f"{out}: {len(faces):,} faces of {width}x{height}, "
          + ", ".join(f"{split} {counts[split]:,}" for split in SPLITS))
    for split in SPLITS:
        labels = faces.labels[faces.split == split].tolist()
        per_class = ", ".join(f"{c} {labels.count(k):,}" for k, c in enumerate(faces.classes))
        print(f"  {split}: {per_class if labels else 'none; the source has no such rows'}")
    if faces.leaked_from is not None:
        leaks = {s: int(((faces.split == s) & (faces.leaked_from != "")).sum()) for s in SPLITS[1:]}
        print("  also in an earlier split: " + ", ".join(f"{s} {n:,}" for s, n in leaks.items()))
