"""KDEF as it is distributed, and PoseFaces, which has KDEF's names: a folder or an archive.

Lundqvist, Flykt and Öhman 1998, "The Karolinska Directed Emotional Faces". 70 people, 7 acted
expressions, 5 angles, 2 sessions; names and their codes: kdef.se, "About KDEF". KDEF may not be
redistributed. PoseFaces (`data/posefaces.zip`) is rendered and comes with this project.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_prep.jpeg import decode_grey
from data_prep.output import add_output_arguments, check_output, write
from data_prep.sources import BadRows, Source, open_source
from lanmsff.data import SPLITS, DataError, FaceSet
from lanmsff.folds import person_independent
from lanmsff.photo import WHOLE, Box, check_box, square_around

CODES = {"AF": "afraid", "AN": "angry", "DI": "disgusted", "HA": "happy", "NE": "neutral",
         "SA": "sad", "SU": "surprised"}
CLASSES = list(CODES.values())
# code of the angle -> degrees; negative: the face is turned to its own right, so that its nose
# points to the left edge of the picture
YAWS = {"FR": -90, "HR": -45, "S": 0, "HL": 45, "FL": 90}
PARTS = ("main", "sweep")
FOLDS, SEED = 5, 0  # of the default split: the first of FOLDS person-independent folds
PEOPLE = 70  # in KDEF and in the main part of PoseFaces
SIDE = 80  # pixels: that of PoseFaces, which is kept as it is; the network takes 64
BLACK = 10  # a picture with a lower mean grey shows nobody

POSEFACES = Path(__file__).resolve().parents[1] / "data" / "posefaces.zip"
REGIONS_FILE = "regions.npz"

MAX_PICTURE = 2**24  # bytes of one picture
MAX_TOTAL = 2**31  # bytes of all pictures together

_NAME = re.compile(rf"([AB])([FM][0-9]{{2}})({'|'.join(CODES)})({'|'.join(YAWS)}|[+-][0-9]{{3}})")
_MISNAMED = {"AF31V": "AF31SAHL", "AM31H": "AM31SUHR"}  # two known slips of the distributor
_BESIDE = {"akdef", "kdefmap"}  # folders of the distribution: averaged faces, overviews


@dataclass(frozen=True, order=True)
class Shot:
    """What the name of a picture says; sorts by person, session, expression and yaw."""

    subject: str  # sex and number, "F01": AF01 and BF01 are one person
    session: str  # "A" or "B"
    label: int  # index into CLASSES
    yaw: int  # degrees, see YAWS
    sweep: bool = False  # of PoseFaces' yaw sweep, whose names carry the yaw in degrees

    @property
    def name(self) -> str:
        """KDEF's name without ending, "AF01ANFL", or that of the sweep, "AF71AN+030"."""
        angle = f"{self.yaw:+04d}" if self.sweep else angle_of(self.yaw)
        return f"{self.session}{self.subject}{list(CODES)[self.label]}{angle}"


def angle_of(yaw: float) -> str:
    """KDEF's code of the angle nearest to `yaw` in degrees: "FR", "HR", "S", "HL" or "FL"."""
    return min(YAWS, key=lambda code: abs(YAWS[code] - yaw))


def parse_name(file: str) -> Shot:
    """What the name of a file says, in any folder and in upper or lower case.

    Raises `DataError` for a name that is not KDEF's.
    """
    stem = PureWindowsPath(file).stem.upper()  # takes both kinds of slashes
    match = _NAME.fullmatch(_MISNAMED.get(stem, stem))
    if match is None:
        raise DataError("not a name of KDEF; expected session, person, expression and angle, "
                        "as in AF01ANFL.JPG")
    session, subject, code, angle = match.groups()
    sweep = angle not in YAWS
    yaw = int(angle) if sweep else YAWS[angle]
    return Shot(subject, session, list(CODES).index(code), yaw, sweep)


def load_boxes(path: Path) -> dict[str, Box]:
    """Boxes to crop, by code of the angle, from JSON such as {"FL": [0.1, 0.2, 0.9, 0.8]}.

    Raises `DataError` for what is no such table, `OSError` for a file that cannot be read.
    """
    try:
        table = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    if not isinstance(table, dict) or not set(table) <= set(YAWS):
        raise DataError(f"{path}: expected an object with some of the keys {', '.join(YAWS)}")
    for angle, box in table.items():
        try:
            check_box(box)
        except (TypeError, ValueError):
            raise DataError(f"{path}: box {angle} is {json.dumps(box)}; expected [left, top, "
                            "right, bottom] as fractions of the picture, 0 to 1") from None
    return table


@dataclass
class _Reading:
    """The pictures of one part of a source, as they come in."""

    boxes: dict[str, Box]
    files: dict[Shot, str] = field(default_factory=dict)  # all with a good name
    images: dict[Shot, np.ndarray] = field(default_factory=dict)
    black: list[str] = field(default_factory=list)
    digests: dict[str, Shot] = field(default_factory=dict)  # sha256 of what is in `images`
    sizes: dict[Shot, tuple[int, int]] = field(default_factory=dict)  # width, height; likewise

    def add(self, shot: Shot, file: str, content: bytes) -> None:
        """Take one picture; `DataError` if it is damaged or stands in the source twice."""
        if shot in self.files:
            raise DataError(f"a second {shot.name}, beside {self.files[shot]}")
        self.files[shot] = file
        grey = decode_grey(content)
        if np.asarray(grey).mean() < BLACK:
            self.black.append(shot.name)
            return
        digest = hashlib.sha256(content).hexdigest()
        if digest in self.digests:
            raise DataError(f"the same picture as {self.files[self.digests[digest]]}")
        self.images[shot] = self.crop(shot, grey)
        self.digests[digest] = shot
        self.sizes[shot] = grey.size

    def drop_odd_sizes(self) -> list[str]:
        """Give up pictures that have not the commonest size, of equals that met first.

        For each, one line.
        """
        usual = Counter(self.sizes.values()).most_common(1)[0][0]
        odd = {shot: size for shot, size in self.sizes.items() if size != usual}
        for shot in odd:
            del self.images[shot], self.sizes[shot]
        self.digests = {digest: shot for digest, shot in self.digests.items() if shot not in odd}
        return ["{}: picture of {}x{}, others are of {}x{}; boxes would not fit both"
                .format(self.files[shot], *size, *usual) for shot, size in odd.items()]

    def crop(self, shot: Shot, grey: Image.Image) -> np.ndarray:
        """(SIDE, SIDE) uint8: the box of the angle, resized (bilinear, averaging).

        Without a box: all of a PoseFaces picture, rows 100 to 662 of KDEF's 562x762. KDEF puts eyes
        and mouth at fixed places but does not publish which, so that is wide, and has not been
        tried on KDEF.
        """
        box = square_around(WHOLE, *grey.size)
        if fractions := self.boxes.get(angle_of(shot.yaw)):
            box = np.rint(np.multiply(fractions, 2 * grey.size)).astype(int).tolist()
            if box[0] == box[2] or box[1] == box[3]:
                raise DataError("box {} is empty in {}x{}".format(fractions, *grey.size))
        return np.asarray(grey.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    def missing(self) -> list[str]:
        """For each sitting that lacks pictures, one line."""
        yaws = {shot.yaw for shot in self.files if shot.sweep} or set(YAWS.values())
        lines = []
        for sitting in sorted({(shot.subject, shot.session, shot.sweep) for shot in self.files}):
            subject, session, sweep = sitting
            wanted = [Shot(subject, session, label, yaw, sweep)
                      for label in range(len(CLASSES)) for yaw in sorted(yaws)]
            lost = [shot.name for shot in wanted if shot not in self.files]
            if lost:
                lines.append(f"{session}{subject} lacks {len(lost)} of {len(wanted)} pictures: "
                             + ", ".join(lost[:3]) + ", ..." * (len(lost) > 3))
        return lines


def prepare(
    path: str | Path,
    skip_bad: bool = False,
    boxes: dict[str, Box] | None = None,
    part: str = "main",
) -> FaceSet:
    """KDEF or PoseFaces as a FaceSet of 80x80 grey crops, sorted by person.

    Args:
        path: folder or archive; everything in it that is no picture is passed over.
        skip_bad: leave out what cannot be used, and go on where pictures are missing.
        boxes: what to crop, by code of the angle ("FL"); for the others the largest central square.
        part: "main", or "sweep" for PoseFaces' yaw sweep of further people.

    Returns:
        Faces with `subject`, `session` and nominal `yaw`. The split of the main part is the first
        of 5 person-independent folds; of the sweep, all faces are test. `meta` lists the
        black pictures and what was skipped, and counts the files passed over.

    Raises:
        DataError: the source or, unless `skip_bad`, a picture in it cannot be used.
    """
    if part not in PARTS:
        raise DataError(f"part {part!r}: choose one of {', '.join(PARTS)}")
    bad = BadRows(skip_bad)
    reading = _Reading(boxes or {})
    with open_source(path) as source:
        pictures = _pictures(source)
        rendered = source.find(REGIONS_FILE) is not None
        apart = 0
        for file in tqdm(pictures, unit="picture", disable=None, leave=False, file=sys.stderr):
            try:
                shot = parse_name(file)
                if shot.sweep == (part == "sweep"):
                    reading.add(shot, file, source.read(file))
                else:
                    apart += 1
            except DataError as error:
                bad.add(f"{source.path}: {file}: {error}")
        passed_over = len(source.names) - len(pictures)
    if not reading.images:
        raise DataError(f"{path}: no good picture among {len(pictures)}")
    for line in reading.drop_odd_sizes():
        bad.add(f"{path}: {line}")
    if (lacking := reading.missing()) and not skip_bad:
        raise DataError(f"{path}: {lacking[0]}; --skip-bad goes on without")
    dataset = ("PoseFaces" if rendered else "KDEF") + " sweep" * (part == "sweep")
    lines = sorted(f"{shot.name} {digest}" for digest, shot in reading.digests.items())
    meta = {
        "dataset": dataset,
        "rule": "acted expression",
        "classes": CLASSES,
        "sources": {f"{dataset} pictures": hashlib.sha256("\n".join(lines).encode()).hexdigest()},
        "skipped": bad.listed + lacking,
        "black": sorted(reading.black),
        "passed_over": {"files": passed_over, "pictures of the other part": apart},
        "boxes": {angle: reading.boxes.get(angle, "central square") for angle in YAWS},
    }
    shots = sorted(reading.images)
    faces = FaceSet(
        images=np.stack([reading.images[shot] for shot in shots]),
        labels=np.array([shot.label for shot in shots], np.int64),
        split=np.full(len(shots), "test"),
        name=np.array([shot.name for shot in shots]),
        subject=np.array([shot.subject for shot in shots]),
        session=np.array([shot.session for shot in shots]),
        yaw=np.array([shot.yaw for shot in shots], np.float32),
        meta=meta,
    )
    if part == "sweep":
        return faces
    try:
        return person_independent(faces, FOLDS, SEED)[0].apply(faces)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _pictures(source: Source) -> list[str]:
    """The JPEGs of a source, in order; `DataError` if it has none or is a trap."""
    for name in source.names:
        path = PureWindowsPath(name)
        if path.anchor or ".." in path.parts:
            raise DataError(f"{source.path}: holds {name!r}, which points outside the archive")
    pictures = [name for name in source.names if _is_picture(name)]
    if not pictures:
        held = ", ".join(source.names[:3]) + ", ..." * (len(source.names) > 3)
        raise DataError(f"{source.path}: no pictures here; expected KDEF's folders or their zip, "
                        f"as in AF01/AF01ANFL.JPG; found {held or 'nothing'}")
    total = sum(source.sizes[name] for name in pictures)
    if total > MAX_TOTAL:
        raise DataError(f"{source.path}: {total:,} bytes of pictures, more than {MAX_TOTAL:,}")
    for name in pictures:
        if source.sizes[name] > MAX_PICTURE:
            raise DataError(f"{source.path}: {name} has {source.sizes[name]:,} bytes, more than "
                            f"{MAX_PICTURE:,}")
    return pictures


def _is_picture(name: str) -> bool:
    path = PureWindowsPath(name.lower())
    return path.suffix in (".jpg", ".jpeg") and _BESIDE.isdisjoint(path.parts)


def load_posefaces(part: str = "main") -> FaceSet:
    """PoseFaces, the set that comes with this project, without any command.

    Args:
        part: "main" (70 people, 5 yaws, split by person), or "sweep": 10 further people, every
            10 degrees from -90 to 90, all of it test.

    Raises:
        DataError: `data/posefaces.zip` is missing or damaged, or there is no such part.
    """
    return prepare(_embedded(), part=part)


def _embedded() -> Path:
    if not POSEFACES.exists():
        raise DataError(f"{POSEFACES}: no such file; it comes with the repository, not with an "
                        "installed package: work in a clone, or put the file there")
    return POSEFACES


def load_regions(part: str = "main", size: int = 64) -> tuple[np.ndarray, list[str]]:
    """What each pixel of PoseFaces shows: row i belongs to face i of `load_posefaces(part)`.

    Stored at 32x32 pixels and enlarged by repeating them.

    Returns:
        (N, size, size) uint8, indices into the names of the regions, and these names:
        "background", "skin", "left_eye" (the person's own left) and so on.

    Raises:
        DataError: `data/posefaces.zip` is missing or damaged, or there is no such part.
    """
    if part not in PARTS:
        raise DataError(f"part {part!r}: choose one of {', '.join(PARTS)}")
    with open_source(_embedded()) as source:
        with np.load(io.BytesIO(source.read(REGIONS_FILE))) as archive:
            names, regions = archive["name"].astype(str), archive["regions"]
            labels = archive["labels"].tolist()
    shots = {parse_name(name): row for row, name in enumerate(names)}
    rows = [shots[shot] for shot in sorted(shots) if shot.sweep == (part == "sweep")]
    near = ((np.arange(size) + 0.5) * regions.shape[1] / size).astype(int)
    return regions[np.ix_(rows, near, near)], labels


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `python -m data_prep kdef`."""
    parser = subparsers.add_parser(
        "kdef",
        help="KDEF or PoseFaces: faces from five sides (7 classes)",
        description="Prepare KDEF (folder or zip, as distributed) or PoseFaces "
                    "(data/posefaces.zip), split by person.",
    )
    add_output_arguments(parser, "data/kdef.npz")
    parser.add_argument("--part", choices=PARTS, default=PARTS[0],
                        help="of PoseFaces: the main part, or the yaw sweep of ten further people, "
                             "all of it test (default: %(default)s)")
    parser.add_argument("--boxes", type=Path, metavar="JSON",
                        help='what to crop at each angle: {"FL": [left, top, right, bottom], ...} '
                             "as fractions of the picture (default: the largest central square)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read, check and write; raises `DataError` or `OSError` and then writes nothing."""
    check_output(args.out)
    boxes = load_boxes(args.boxes) if args.boxes else None
    faces = prepare(args.source, args.skip_bad, boxes, args.part)
    write(faces, args.out)
    for split in SPLITS:
        people = np.unique(faces.subject[faces.split == split])
        print(f"  {split}: {len(people)} people: {', '.join(people)}")
    people, sittings = (len(set(zip(*columns))) for columns in (
        [faces.subject], [faces.subject, faces.session]))
    if args.part == "main" and (people, sittings) != (PEOPLE, 2 * PEOPLE):
        print(f"warning: {people} people in {sittings} sittings; all of KDEF, and of PoseFaces, is "
              f"{PEOPLE} in {2 * PEOPLE}")
    for name in faces.meta["black"]:
        print(f"black, left out: {name}")
    for what, count in faces.meta["passed_over"].items():
        if count:
            print(f"passed over: {count:,} {what}")
