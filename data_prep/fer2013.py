"""FER-2013 in any form in which Kaggle ships it: csv, folder of JPEGs, or an archive of either.

Goodfellow et al. 2013, "Challenges in representation learning". 48x48 grey faces, one label each.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from data_prep.jpeg import decode_grey
from data_prep.output import add_output_arguments, check_output, write
from data_prep.sources import BadRows, Source, open_source
from lanmsff import duplicates
from lanmsff.data import SPLITS, DataError, FaceSet

CLASSES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
USAGES = dict(zip(("Training", "PublicTest", "PrivateTest"), SPLITS, strict=True))
SIDE = 48
ROWS = 35_887

# md5 of the files that Kaggle ships, as torchvision.datasets.FER2013 lists them
KNOWN_MD5 = {
    "fer2013.csv": "f8428a1edbd21e88f42c73edd2a14f95",
    "icml_face_data.csv": "b114b9e04e6949e5fe8b6a98b3892b1d",
    "train.csv": "3f0dfb3d3fd99c811a1299cb947e3131",
}
CSV_FORMS = ("fer2013.csv", "icml_face_data.csv")
ARCHIVES = ("fer2013.tar.gz", "fer2013.zip", "archive.zip")
FORMS = "fer2013.csv, icml_face_data.csv, train.csv, train|test/<class>/*.jpg, or an archive"

_PIXEL = {str(value): value for value in range(256)}
_LABEL = {str(value): value for value in range(len(CLASSES))}
_JPEG_NAME = re.compile(r"(Training|PublicTest|PrivateTest)_(\d+)\.jpe?g", re.IGNORECASE)
_JPEG_BYTES = 2**20


@dataclass
class Rows:
    """FER-2013 as read: one entry for each good row, in the canonical order.

    `images` (N,48,48) uint8; `labels` (N,) int64 into CLASSES; `usage` (N,) text as in the csv;
    `number` (N,) int64, the row in the csv from 0, or the number in the JPEG's name;
    `total` rows of the source, bad ones included; `file` what was read; `sources` its sha256.
    """

    images: np.ndarray
    labels: np.ndarray
    usage: np.ndarray
    number: np.ndarray
    total: int
    file: str
    sources: dict[str, str]

    @property
    def split(self) -> np.ndarray:
        """(N,) text: Training is train, PublicTest is val, PrivateTest is test."""
        return np.array([USAGES[usage] for usage in self.usage], dtype="U5")


class BadRow(ValueError):
    """Why one row or picture cannot be used."""


def read(path: str | Path, bad: BadRows) -> Rows:
    """Read FER-2013 from a folder, a file or an archive.

    Where several forms lie side by side the first of fer2013.csv, icml_face_data.csv, archive,
    folder of JPEGs, train.csv is taken. Raises `DataError`, for a bad row unless `bad` skips it.
    """
    with open_source(path) as source:
        name = next(filter(None, map(source.find, CSV_FORMS)), None)
        if name is None and len(source.names) == 1 and source.path.is_file():
            name = next((n for n in source.names if n.lower().endswith(".csv")), None)
        if name is not None:
            return _read_csv(source, name, bad)
        archive = next(filter(None, map(source.find, ARCHIVES)), None)
        if archive is not None and source.path.is_dir():
            return read(source.path / archive, bad)
        jpegs = [n for n in source.names if PurePosixPath(n).parent.name.lower() in CLASSES]
        if jpegs:
            return _read_jpegs(source, bad)
        if name := source.find("train.csv"):
            return _read_csv(source, name, bad)
        held = ", ".join(source.names[:3]) + (", ..." if len(source.names) > 3 else "")
        raise DataError(f"{path}: no FER-2013 here; expected {FORMS}; found {held or 'nothing'}")


def _read_csv(source: Source, name: str, bad: BadRows) -> Rows:
    file = PurePosixPath(name).name
    where = f"{source.path / name}" if source.path.is_dir() else f"{source.path}"
    pixels, labels, usages, numbers = bytearray(), [], [], []
    sha256, md5 = source.checksums(name)
    known = KNOWN_MD5.get(file.lower()) == md5
    with (
        source.open(name) as raw,
        tqdm(total=source.sizes[name], unit="B", unit_scale=True, desc=file, disable=None,
             leave=False, file=sys.stderr) as bar,
        io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as text,
    ):
        lines = _Lines(text, bar)
        reader = csv.reader(lines, strict=True)
        column = _columns(reader, where, optional_usage=file.lower() == "train.csv")
        rows = filter(None, reader)  # blank lines are no rows
        for number in itertools.count():
            try:
                face, label, usage = _parse(next(rows), column)
                if not (known or lines.ended) and column["pixels"] == len(column) - 1:
                    raise BadRow("no end of line after the last pixel; is the file cut off?")
            except StopIteration:
                break
            except (BadRow, csv.Error) as error:
                bad.add(f"{where}: row {number + 1} (line {reader.line_num}): {error}")
            else:
                pixels += face
                labels.append(label)
                usages.append(usage)
                numbers.append(number)
    if not labels:
        raise DataError(f"{where}: no rows with a face")
    if not known:
        print(f"warning: unknown checksum, {file} is not as Kaggle ships it "
              f"(md5 {md5}); it has {number:,} rows")
    images = np.frombuffer(bytes(pixels), np.uint8).reshape(-1, SIDE, SIDE)
    return Rows(images, np.array(labels, np.int64), np.array(usages), np.array(numbers, np.int64),
                number, file, {file: sha256})


class _Lines:
    """Lines of a text that move a progress bar; `ended`: the last one given was a whole line."""

    def __init__(self, text: Iterator[str], bar: tqdm) -> None:
        self.text, self.bar, self.ended = text, bar, True

    def __iter__(self) -> Iterator[str]:
        for line in self.text:
            self.bar.update(len(line))
            self.ended = line.endswith(("\n", "\r", '"'))
            yield line


def _columns(reader: Iterator[list[str]], where: str, optional_usage: bool) -> dict[str, int]:
    try:
        header = next(reader, [])
    except csv.Error:
        header = []
    column = {name.strip().lower(): position for position, name in enumerate(header)}
    wanted = ["emotion", "pixels"] + ([] if optional_usage else ["usage"])
    missing = [name for name in wanted if name not in column]
    if missing:
        raise DataError(f"{where}: header (line 1): missing column {', '.join(missing)}; "
                        f"found {', '.join(column)[:80]!r}")
    return column


def _parse(row: list[str], column: dict[str, int]) -> tuple[bytes, int, str]:
    if len(row) != len(column):
        raise BadRow(f"{len(row)} fields, the header has {len(column)}; is the file cut off?")
    label = _LABEL.get(row[column["emotion"]].strip())
    if label is None:
        raise BadRow(f"label {row[column['emotion']][:20]!r} is not 0..{len(CLASSES) - 1}")
    usage = row[column["usage"]].strip() if "usage" in column else "Training"
    if usage not in USAGES:
        raise BadRow(f"Usage {usage[:20]!r} is not one of {', '.join(USAGES)}")
    values = row[column["pixels"]].split()
    if len(values) != SIDE * SIDE:
        raise BadRow(f"{len(values):,} pixels, must be {SIDE} x {SIDE} = {SIDE * SIDE:,}")
    try:
        return bytes(map(_PIXEL.__getitem__, values)), label, usage
    except KeyError as error:
        raise BadRow(f"pixel value {error.args[0][:20]!r} is not a whole number 0..255") from None


def _read_jpegs(source: Source, bad: BadRows) -> Rows:
    found, digests = [], []
    files = [name for name in source.names if _is_picture(name)]
    for name in tqdm(files, unit="image", desc="JPEG", disable=None, leave=False, file=sys.stderr):
        try:
            content = source.read(name, _JPEG_BYTES)
        except DataError as error:
            bad.add(str(error))  # which names the file
            continue
        digests.append(f"{PurePosixPath(name).name} {hashlib.sha256(content).hexdigest()}")
        try:
            usage, number, label = _parse_name(name)
            found.append((list(USAGES).index(usage), number, label, _decode(content)))
        except (BadRow, DataError) as error:
            bad.add(f"{source.path}: {name}: {error}")
    if not found:
        raise DataError(f"{source.path}: no good JPEG among {len(files)}")
    found.sort(key=lambda face: face[:3])
    usage, number, labels, images = zip(*found, strict=True)
    if len(files) != ROWS:
        print(f"warning: {len(files):,} JPEGs, Kaggle's folder has {ROWS:,}")
    listing = "\n".join(sorted(digests)).encode(errors="surrogateescape")  # names as they are
    sha256 = hashlib.sha256(listing).hexdigest()
    return Rows(np.stack(images), np.array(labels, np.int64), np.array(list(USAGES))[list(usage)],
                np.array(number, np.int64), len(files), "JPEG folder", {"JPEG folder": sha256})


def _is_picture(name: str) -> bool:
    # everything in a class folder must be a face, and a face elsewhere is in a misnamed folder;
    # a README or a contact sheet beside the folders is neither
    path = PurePosixPath(name)
    return path.parent.name.lower() in CLASSES or _JPEG_NAME.fullmatch(path.name) is not None


def _parse_name(name: str) -> tuple[str, int, int]:
    path = PurePosixPath(name)
    folder = path.parent.name.lower()
    if folder not in CLASSES:
        raise BadRow(f"folder {path.parent.name!r} is not one of {', '.join(CLASSES)}")
    match = _JPEG_NAME.fullmatch(path.name)
    if match is None:
        raise BadRow("unknown file; expected Training_, PublicTest_ or PrivateTest_<number>.jpg")
    usage = next(usage for usage in USAGES if usage.lower() == match[1].lower())
    return usage, int(match[2]), CLASSES.index(folder)


def _decode(content: bytes) -> np.ndarray:
    grey = decode_grey(content)
    if grey.size != (SIDE, SIDE):
        raise BadRow(f"picture of {grey.width}x{grey.height}, must be {SIDE}x{SIDE}")
    return np.asarray(grey)


def prepare(source: str | Path, skip_bad: bool = False) -> FaceSet:
    """FER-2013 as a FaceSet with its published labels, leaks and black images marked.

    Raises `DataError` for a source or, unless `skip_bad`, a row that cannot be used.
    """
    bad = BadRows(skip_bad)
    rows = read(source, bad)
    group = duplicates.group_identical(rows.images)
    meta = {
        "dataset": "FER-2013",
        "rule": "published label",
        "classes": CLASSES,
        "sources": rows.sources,
        "skipped": bad.listed,
        "duplicates": duplicates.statistics(group, rows.split, rows.labels),
    }
    return FaceSet(
        images=rows.images,
        labels=rows.labels,
        split=rows.split,
        name=np.array([f"{u}/{n}" for u, n in zip(rows.usage, rows.number, strict=True)]),
        meta=meta,
        leaked_from=duplicates.leaked_from(group, rows.split),
        black=~rows.images.any(axis=(1, 2)),
    )


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `python -m data_prep fer2013`."""
    parser = subparsers.add_parser(
        "fer2013",
        help="FER-2013 with its published labels (7 classes)",
        description=f"Prepare FER-2013 from {FORMS}.",
    )
    add_output_arguments(parser, "data/fer2013.npz")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, check and write; raises `DataError` or `OSError` and then writes nothing."""
    check_output(args.out)
    write(prepare(args.source, args.skip_bad), args.out)
