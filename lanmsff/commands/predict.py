"""`python -m lanmsff predict`: expressions in a reader's own photographs, and what they rest on."""

import argparse
import os
import sys
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lanmsff import plots
from lanmsff.augment import resize, to_float
from lanmsff.commands.arguments import add_weights
from lanmsff.data import DataError, check_writable
from lanmsff.evaluate import predict
from lanmsff.explain import normalise
from lanmsff.explain.faithfulness import CONTROLS, kinds_of
from lanmsff.photo import WHOLE, Box, read_photo
from lanmsff.results import environment, write_record
from lanmsff.weights import Weights, load_weights

CPU = torch.device("cpu")
STEM_BYTES = 200  # of a figure's name: a file system takes 255 for all that is put around it
SOME_FAILED, ALL_FAILED = 1, 2
RECORD = "predictions.json"

Record = dict[str, Any]


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "predict",
        help="read expressions in photographs",
        description="Read the expression in photographs of faces. Writes predictions.json and, for "
        "each photograph, a figure of what the network looked at. Exit status: 0 if all could be "
        "read, 1 if some could not, 2 if nothing was done. Not for decisions about people.",
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO",
                        help="JPEG, PNG, WebP ...")
    add_weights(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--box",
        nargs=4,
        type=float,
        default=WHOLE,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="where the face is, in each of the photographs, as fractions of the upright picture; "
        "a square around it is cut out (default: the largest square in the middle)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_writable(arguments.out, "folder")
    weights = load_weights(arguments.weights)
    faces, photos, failed = _read(arguments.photos, arguments.box)
    if not photos:
        return ALL_FAILED
    arguments.out.mkdir(parents=True, exist_ok=True)
    logits = predict(weights.model, faces, CPU, mirror=weights.mirror)
    for photo, scores in zip(photos, logits.softmax(dim=1).tolist()):
        photo["probabilities"] = dict(zip(weights.classes, scores))
        photo["expression"] = max(weights.classes, key=photo["probabilities"].get)
    _print_table(photos, weights.classes)
    taken = set()
    for photo in photos:
        photo["figure"] = _free_name(Path(photo["file"]).stem, taken)
    record = {
        "weights": weights.origin,
        "photos": photos,
        "failed": failed,
        "environment": environment(CPU, "float32"),
    }
    write_record(arguments.out / RECORD, record)
    print(arguments.out / RECORD)
    _draw(weights, faces, photos, arguments.out)
    return SOME_FAILED if failed else 0


def _read(paths: list[Path], box: Box) -> tuple[Tensor, list[Record], list[Record]]:
    """Faces uint8 (N, 64, 64), a record of each, and one of each file that could not be read."""
    faces, photos, failed = [], [], []
    for path in tqdm(paths, unit="photo", desc="reading", disable=None, leave=False):
        try:
            square, place = read_photo(path, box)
        except (DataError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            tqdm.write(f"error: {_printable(path)}: {reason}", file=sys.stderr)
            failed.append({"file": str(path), "reason": reason})
        else:
            faces.append(resize(torch.from_numpy(square)[None]))
            photos.append({"file": str(path), "square": place})
    return torch.cat(faces) if faces else torch.empty(0), photos, failed


def _draw(weights: Weights, faces: Tensor, photos: list[Record], folder: Path) -> None:
    """For each face a figure of what the network looked at, by the name in its record."""
    images = to_float(faces)
    targets = np.array([weights.classes.index(photo["expression"]) for photo in photos])
    kinds = kinds_of(weights.model) | {"control: edges": CONTROLS["edges"]}
    kinds.pop("exact map")  # has a sign, which a scale from lowest to highest would hide
    maps = {
        name: normalise(torch.from_numpy(make(weights.model, images, targets))).numpy()
        for name, make in kinds.items()
    }
    plots.use_style()
    progress = tqdm(photos, unit="photo", desc="drawing", disable=None, leave=False)
    for k, photo in enumerate(progress):
        verdict = f"{photo['expression']} {photo['probabilities'][photo['expression']]:.0%}"
        figure = plots.show_faces(
            [faces[k].numpy()] * (1 + len(maps)),
            [None, *(each[k] for each in maps.values())],
            columns=1 + len(maps),
            heads=[verdict, *maps],
            bar="each map's lowest\nto highest value",
        )
        plots.save(figure, folder / photo["figure"])


def _free_name(stem: str, taken: set[str]) -> str:
    """The name of a figure: photographs of one name in several folders get numbers."""
    encoded = os.fsencode(stem)
    if len(encoded) > STEM_BYTES:
        stem = encoded[:STEM_BYTES].decode(errors="ignore")
    names = (f"{stem}{number}.maps.png" for number in chain([""], map("-{}".format, count(2))))
    name = next(name for name in names if name.casefold() not in taken)
    taken.add(name.casefold())
    return name


def _printable(path: Path) -> str:
    """A name as it may be printed: one with line breaks or broken letters is quoted."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def _print_table(photos: list[Record], classes: list[str]) -> None:
    names = [_printable(Path(photo["file"])) for photo in photos]
    width = max(map(len, names))
    longest = max(map(len, classes))
    print(" " * (width + 2 + longest), *(f"{name:>{max(len(name), 6)}}" for name in classes))
    for name, photo in zip(names, photos):
        shares = (f"{p:>{max(len(c), 6)}.1%}" for c, p in photo["probabilities"].items())
        print(f"{name:{width}}  {photo['expression']:{longest}}", *shares)
