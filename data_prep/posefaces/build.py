"""`python -m data_prep posefaces`: render the set and pack it into one zip."""

from __future__ import annotations

import argparse
import csv
import io
import os
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter
from tqdm import tqdm

from lanmsff.data import DataError, check_writable, replacing

from .expressions import blendshape_weights
from .ict import FaceModel, load_model
from .people import Person
from .pictures import (
    PEOPLE,
    SWEEP_PEOPLE,
    Shot,
    main_shots,
    performance_of,
    person_of,
    sweep_shots,
    view_of,
)
from .render import Picture, render
from .skin import REGIONS, Globe, survey
from .subject import Look, make_look, pose

SIZE = 80  # pixels
JPEG_QUALITY = 64
REGION_SIZE = 32  # pixels of the region maps, which cover the whole picture
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # no clock in the file: the same command gives the same bytes


def render_shots(
    model: FaceModel, globe: Globe, shots: list[Shot]
) -> Iterator[tuple[Shot, Picture]]:
    """Render pictures in order; neighbours of the same person and expression are cheap."""
    look: Look | None = None
    for _, group in groupby(shots, lambda shot: shot.key):
        group = list(group)
        person = person_of(group[0])
        if look is None or look.person.key != person.key:
            look = make_look(model, globe, person)
        subject = pose(model, look, blendshape_weights(performance_of(group[0])))
        for shot in group:
            yield shot, render(subject, view_of(shot), SIZE)


def encode(image: np.ndarray) -> bytes:
    """A picture in [0, 1] as a grey JPEG."""
    buffer = io.BytesIO()
    pixels = np.rint(image * 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def shrink_regions(regions: np.ndarray) -> np.ndarray:
    """A region map at REGION_SIZE: at each pixel the commonest region of the 3x3 around it.

    Skin, hair and background count half, or an eye seen from the side would be lost.
    """
    wide = [REGIONS.index(name) for name in ("background", "skin", "hair")]
    votes = [
        uniform_filter((regions == number).astype(np.float32), 3) * (0.5 if number in wide else 1)
        for number in range(len(REGIONS))
    ]
    commonest = np.argmax(votes, axis=0).astype(np.uint8)
    pick = ((np.arange(REGION_SIZE) + 0.5) * len(regions) / REGION_SIZE).astype(int)
    return commonest[np.ix_(pick, pick)]


@lru_cache(maxsize=1)
def _prepared(model_path: Path) -> tuple[FaceModel, Globe]:
    """Model and globe, read once in each worker."""
    model = load_model(model_path)
    return model, survey(model)


def _render_folder(model_path: Path, shots: list[Shot]) -> list[tuple[Shot, bytes, np.ndarray]]:
    return [
        (shot, encode(picture.image), shrink_regions(picture.regions))
        for shot, picture in render_shots(*_prepared(model_path), shots)
    ]


def build(model_path: Path, out: Path, shots: list[Shot], jobs: int) -> None:
    """Render ``shots`` with ``jobs`` processes and write the zip; ``out`` appears only when whole.

    Raises:
        DataError: the model cannot be used or embreex is not installed.
        OSError: ``out`` cannot be written.
    """
    from joblib import Parallel, delayed

    model, _ = _prepared(model_path)  # fails here, in one line, before any worker starts
    folders = [
        list(group)
        for _, group in groupby(shots, lambda shot: (shot.session, shot.person, shot.sweep))
    ]
    done: list[tuple[Shot, bytes, np.ndarray]] = []
    with replacing(out) as aside, zipfile.ZipFile(aside, "w") as archive:
        work = (delayed(_render_folder)(model_path, folder) for folder in folders)
        with tqdm(total=len(shots), unit="picture", desc="posefaces") as bar:
            for folder in Parallel(n_jobs=jobs, return_as="generator")(work):
                for shot, jpeg, _ in folder:
                    _store(archive, shot.name, jpeg)
                done += folder
                bar.update(len(folder))
        _store(archive, "regions.npz", _regions_file(done))
        _store(
            archive, "manifest.csv", _manifest([shot for shot, _, _ in done]), zipfile.ZIP_DEFLATED
        )
        _store(archive, "people.csv", _people(done), zipfile.ZIP_DEFLATED)
        _store(archive, "LICENSE-ICT-FaceKit.txt", model.licence.encode(), zipfile.ZIP_DEFLATED)
    print(f"{out}: {len(done):,} pictures, {out.stat().st_size:,} bytes")


def _store(
    archive: zipfile.ZipFile, name: str, data: bytes, method: int = zipfile.ZIP_STORED
) -> None:
    info = zipfile.ZipInfo(name, _ZIP_TIME)
    info.external_attr = 0o644 << 16
    archive.writestr(info, data, method)


def _regions_file(done: list[tuple[Shot, bytes, np.ndarray]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        name=np.array([shot.name for shot, _, _ in done]).astype("S"),
        regions=np.stack([regions for _, _, regions in done]),
        labels=np.array(REGIONS),
    )
    return buffer.getvalue()


def _table(header: list[str], rows: list[list]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def _manifest(shots: list[Shot]) -> bytes:
    """Name, angles as rendered, and intensity of each picture."""
    rows = []
    for shot in shots:
        view = view_of(shot)
        angles = [f"{angle:.1f}" for angle in (view.yaw, view.pitch, view.roll)]
        rows.append([shot.name, *angles, f"{performance_of(shot).intensity:.2f}"])
    return _table(["name", "yaw", "pitch", "roll", "intensity"], rows)


def _people(done: list[tuple[Shot, bytes, np.ndarray]]) -> bytes:
    people: dict[str, Person] = {shot.person: person_of(shot) for shot, _, _ in done}
    rows = [
        [name, p.hair_style, p.beard, f"{p.skin:.2f}", f"{p.hair:.2f}", f"{p.age:.2f}"]
        for name, p in people.items()
    ]
    return _table(["person", "hair_style", "beard", "skin_albedo", "hair_albedo", "age"], rows)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `python -m data_prep posefaces`."""
    parser = subparsers.add_parser(
        "posefaces",
        help="render the embedded multi-view set from ICT-FaceKit",
        description="Render PoseFaces from the ICT-FaceKit Light model (needs embreex).",
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="ZIP",
        help="archive of the ICT-FaceKit repository",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="zip to write, for example data/posefaces.zip",
    )
    parser.add_argument(
        "--people",
        nargs="+",
        metavar="NAME",
        default=PEOPLE + SWEEP_PEOPLE,
        help="only these people, for example F01 M35 F71 (71-75: the yaw sweep)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: one for each core)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check the arguments and build the set."""
    unknown = [name for name in args.people if name not in PEOPLE + SWEEP_PEOPLE]
    if unknown:
        raise DataError(
            f"--people: no {unknown[0]!r}; there are F01-F35, M01-M35, F71-F75, M71-M75"
        )
    if args.jobs < 1:
        raise DataError(f"--jobs: {args.jobs} is not a number of processes; give 1 or more")
    if args.out.suffix != ".zip":
        raise DataError(f"{args.out}: the set must be named *.zip")
    check_writable(args.out)
    chosen = set(args.people)
    shots = main_shots([name for name in PEOPLE if name in chosen], "AB")
    shots += sweep_shots([name for name in SWEEP_PEOPLE if name in chosen])
    build(args.model.resolve(), args.out, shots, args.jobs)
