"""FERPlus: ten votes for each face of FER-2013, and the rules that make labels of them.

E. Barsoum, C. Zhang, C. Canton Ferrer, Z. Zhang, "Training deep networks for facial expression
recognition with crowd-sourced label distribution", ICMI 2016 (arXiv 1608.01041); votes and the
majority and distribution rules: github.com/microsoft/FERPlus. The subsets of turned and of covered
faces: K. Wang et al., "Region attention networks", IEEE TIP 2020.

The row order of the votes is that of fer2013.csv, so rows pair by position. The number in an
image name (`fer0032220.png`) is no row number: everything else joins on the name. Four names stand
on two rows each; every row keeps its own votes, and a list marks both (none of the four is listed).
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from data_prep import fer2013
from data_prep.output import add_output_arguments, check_output, write
from data_prep.sources import BadRows, Source, open_source
from lanmsff import duplicates
from lanmsff.data import DataError, FaceSet

CLASSES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]
VOTES_FILE = "fer2013new.csv"
VOTE_COLUMNS = [*CLASSES, "unknown", "NF"]  # NF: not a face
LISTS = {
    "pose30": "pose_30_ferplus_list.txt",
    "pose45": "pose_45_ferplus_list.txt",
    "occlusion": "jianfei_occlusion_list.txt",
    "ran": "dlib_ferplus_val_center_crop_range_list.txt",
}
# The test list of RAN has faces that only the rule "argmax" keeps; under another rule it would be
# another list with the same name.
RULES_OF_A_LIST = {"ran": ("argmax",)}
_VOTE = {str(count): count for count in range(11)}
_IMAGE_NAME = re.compile(r"fer\d{7}(?=\.(?:png|jpg)\b|\s)")


def majority(votes: np.ndarray) -> np.ndarray:
    """Single votes do not count; the winner needs more than half of the rest.

    Dropped: no such winner, or it is unknown or not-a-face. "majority" of microsoft/FERPlus.
    """
    votes = _without_single_votes(votes)
    return _one_hot(votes, 2 * votes.max(1) > votes.sum(1))


def argmax(votes: np.ndarray) -> np.ndarray:
    """Most votes of the ten columns, the first of equals; dropped: unknown or not-a-face wins."""
    return _one_hot(votes, np.ones(len(votes), bool))


def argmax_no_ties(votes: np.ndarray) -> np.ndarray:
    """As `argmax`, and faces whose highest count stands in two columns or more are dropped."""
    return _one_hot(votes, (votes == votes.max(1, keepdims=True)).sum(1) == 1)


def soft(votes: np.ndarray) -> np.ndarray:
    """A distribution over at most three emotions: "crossentropy" of microsoft/FERPlus.

    Single votes do not count. Emotions are taken from the most voted downwards, equals together,
    until they hold three quarters of the votes or are three; unknown or not-a-face, where its turn
    comes, is left out and ends the taking. Dropped: more than three emotions, or not more than half
    of the votes taken.
    """
    left = _without_single_votes(votes)
    total = left.sum(1)
    taken = np.zeros((len(votes), len(CLASSES)), np.int64)
    going = np.ones(len(votes), bool)
    for _ in range(3):
        going &= (4 * taken.sum(1) < 3 * total) & ((taken > 0).sum(1) < 3)
        turn = (left == left.max(1, keepdims=True)) & (left > 0) & going[:, None]
        taken += np.where(turn, left, 0)[:, : len(CLASSES)]
        left = np.where(turn, 0, left)
        going &= ~turn[:, len(CLASSES) :].any(1)
    keep = (2 * taken.sum(1) > total) & ((taken > 0).sum(1) <= 3)
    return np.where(keep[:, None], taken, 0) / np.maximum(taken.sum(1, keepdims=True), 1)


def _without_single_votes(votes: np.ndarray) -> np.ndarray:
    return np.where(votes > 1, votes, 0).astype(np.int64)


def _one_hot(votes: np.ndarray, keep: np.ndarray) -> np.ndarray:
    winner = votes.argmax(1)
    return (keep[:, None] & (winner[:, None] == np.arange(len(CLASSES)))).astype(float)


# votes (N, 10) -> weights of the classes (N, 8) that sum to 1, or to 0 where the face is dropped
RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "majority": majority,
    "argmax": argmax,
    "argmax-no-ties": argmax_no_ties,
    "soft": soft,
}


@dataclass
class Votes:
    """The votes file: `usage` (M,), `name` (M,) text, "" where FERPlus gives none, `votes` (M,10).

    Rows that could not be read are False in `good` (M,) and hold zeros.
    """

    usage: np.ndarray
    name: np.ndarray
    votes: np.ndarray
    good: np.ndarray


def read_votes(content: bytes, where: str, bad: BadRows) -> Votes:
    """Parse fer2013new.csv; `DataError` for a missing column or, unless skipped, a bad row."""
    text = io.StringIO(content.decode("utf-8-sig", errors="replace"), newline="")
    lines = map(_split, text)
    column = {name.strip(): position for position, name in enumerate(next(lines, []))}
    missing = [n for n in ("Usage", "Image name", *VOTE_COLUMNS) if n not in column]
    if missing:
        raise DataError(f"{where}: header (line 1): missing column {', '.join(missing)}")
    usage, names, votes, good = [], [], [], []
    for number, row in enumerate(lines, 2):
        if not row:  # blank lines are no rows
            continue
        fields = [field.strip() for field in row] + [""] * (len(column) - len(row))
        counts = [fields[column[name]] for name in VOTE_COLUMNS]
        fine = len(row) == len(column) and all(c in _VOTE for c in counts)
        if not fine:
            bad.add(f"{where}: row {len(good) + 1} (line {number}): "
                    f"not {len(VOTE_COLUMNS)} votes of 0..10: {','.join(row)[:60]}")
        usage.append(fields[column["Usage"]])
        names.append(fields[column["Image name"]])
        votes.append([_VOTE[c] for c in counts] if fine else [0] * len(counts))
        good.append(fine)
    return Votes(np.array(usage, str), np.array(names, str),
                 np.array(votes, np.uint8).reshape(-1, len(VOTE_COLUMNS)), np.array(good, bool))


def _split(line: str) -> list[str]:
    """The fields of one line, by itself: no stray quote swallows the lines after it."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return [line.strip()[:60]]  # too few fields for a row


def read_list(content: bytes, where: str) -> set[str]:
    """Image names without ending in one of the Pose-/Occlusion-FERPlus lists."""
    names = set()
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), 1):
        match = _IMAGE_NAME.search(line)
        if match:
            names.add(match[0])
        elif line.strip():
            raise DataError(f"{where}: line {number}: no image name such as fer0032220 in {line!r}")
    return names


def prepare(source: str | Path, rule: str, skip_bad: bool = False) -> FaceSet:
    """FERPlus under one of `RULES` as a FaceSet, with votes, leaks and subsets marked.

    `source` holds FER-2013 as a csv (or an archive of one), the votes and, if there, the lists.
    Raises `DataError` where a file is missing or off, where both do not have the same rows, or,
    unless `skip_bad`, for a bad row.
    """
    bad = BadRows(skip_bad)
    with open_source(source) as files:
        votes_name = files.find(VOTES_FILE)
        if votes_name is None:
            raise DataError(f"{source}: no {VOTES_FILE}; `python -m data_prep download ferplus` "
                            "fetches it")
        votes = read_votes(files.read(votes_name), f"{files.path / votes_name}", bad)
        sources = {VOTES_FILE: files.checksums(votes_name)[0]}
        members = _read_lists(files, rule, sources)
    rows = fer2013.read(source, bad)
    _check_pairing(rows, votes, Path(source) / votes_name)
    rows.sources |= sources
    return label(rows, votes, members, rule, bad.listed)


def label(
    rows: fer2013.Rows, votes: Votes, members: dict[str, set[str]], rule: str, skipped: list[str]
) -> FaceSet:
    """Pair faces and votes by row number, apply the rule, and mark leaks and `members` by name.

    `leaked_from` and the duplicates look at all rows, also at those that the rule drops; rows
    without an image name are dropped under every rule.
    """
    group = duplicates.group_identical(rows.images)
    leaked = duplicates.leaked_from(group, rows.split)
    weights = RULES[rule](votes.votes)[rows.number]
    name = votes.name[rows.number]
    named = name != ""
    keep = (weights.sum(1) > 0) & named & votes.good[rows.number]
    stem = np.array([PurePosixPath(n).stem for n in name], str)
    marks = {mark: np.isin(stem, sorted(listed)) for mark, listed in members.items()}
    meta = {
        "dataset": "FERPlus",
        "rule": rule,
        "classes": CLASSES,
        "sources": rows.sources,
        "skipped": skipped,
        "dropped": int((~keep).sum()),
        "duplicates": {
            what: duplicates.statistics(group[of], rows.split[of], rows.labels[of])
            for what, of in (("all rows", named | True), ("named rows", named))
        },
        "subsets": {
            mark: {"listed": len(members[mark]), "found": len(set(stem[mask])),
                   "kept": int((mask & keep).sum())}
            for mark, mask in marks.items()
        },
    }
    return FaceSet(
        images=rows.images[keep],
        labels=weights[keep].argmax(1).astype(np.int64),
        split=rows.split[keep],
        name=name[keep],
        meta=meta,
        target=weights[keep].astype(np.float32) if rule == "soft" else None,
        votes=votes.votes[rows.number][keep],
        leaked_from=leaked[keep],
        black=~rows.images[keep].any(axis=(1, 2)),
        **{mark: mask[keep] for mark, mask in marks.items()},
    )


def _read_lists(files: Source, rule: str, sources: dict[str, str]) -> dict[str, set[str]]:
    members = {}
    for mark, file in LISTS.items():
        if rule not in RULES_OF_A_LIST.get(mark, RULES):
            continue
        if found := files.find(file):
            members[mark] = read_list(files.read(found), f"{files.path / found}")
            sources[file] = files.checksums(found)[0]
        else:
            print(f"no {file}: {mark} is not marked; "
                  "`python -m data_prep download pose-lists` fetches it")
    return members


def _check_pairing(rows: fer2013.Rows, votes: Votes, where: Path) -> None:
    if rows.file == "JPEG folder":
        raise DataError("the folder of JPEGs cannot be paired with the votes: its file numbers are "
                        "no row numbers; put fer2013.csv or icml_face_data.csv beside the votes")
    if rows.total != len(votes.name):
        raise DataError(f"{where}: {len(votes.name):,} rows of votes, {rows.file} has "
                        f"{rows.total:,}; both must have the same rows in the same order")
    differ = (votes.usage[rows.number] != rows.usage) & votes.good[rows.number]
    if differ.any():
        row = rows.number[differ.argmax()]
        raise DataError(f"{where}: row {row + 1} (line {row + 2}): Usage '{votes.usage[row]}', "
                        f"{rows.file} has '{rows.usage[differ.argmax()]}'; the rows do not pair")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `python -m data_prep ferplus`."""
    rules = "\n".join(f"  {name}: {rule.__doc__.splitlines()[0]}" for name, rule in RULES.items())
    parser = subparsers.add_parser(
        "ferplus",
        help="FER-2013 with the labels of FERPlus (8 classes)",
        description="Prepare FERPlus from fer2013.csv (any csv form, or fer2013.tar.gz), "
                    f"{VOTES_FILE} and,\nif there, the Pose-/Occlusion-FERPlus lists.\n\n"
                    f"rules:\n{rules}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_output_arguments(parser, "data/ferplus.npz")
    parser.add_argument("--rule", choices=RULES, required=True, help="how votes become labels")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, check and write; raises `DataError` or `OSError` and then writes nothing."""
    check_output(args.out)
    faces = prepare(args.source, args.rule, args.skip_bad)
    write(faces, args.out)
    print(f"  rule {args.rule}: {faces.meta['dropped']:,} faces dropped")
    for mark, count in faces.meta["subsets"].items():
        print(f"  {mark}: {count['listed']:,} listed, {count['found']:,} found, "
              f"{count['kept']:,} kept")
