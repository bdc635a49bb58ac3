"""Arguments that several commands take, said in the same words."""

import argparse
from dataclasses import fields
from math import inf, nan
from pathlib import Path
from typing import Any

import torch

from lanmsff.data import SPLITS, FaceSet
from lanmsff.device import PRECISIONS, pick_device, pick_precision
from lanmsff.step import Speed
from lanmsff.weights import Weights, load_weights

WEIGHTS = "a run's folder (its best epoch), a .safetensors file, or the name of shipped weights"


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="what data_prep wrote (.npz)"
    )


def add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: %(default)s")


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, help=WEIGHTS)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto, a GPU if any)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="default: auto, bfloat16 where the device multiplies in it",
    )


def add_without(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--without",
        choices=[field.name for field in fields(Speed)],
        nargs="+",
        default=[],
        metavar="WHAT",
        help="leave out what makes training fast: %(choices)s",
    )


def speed(arguments: argparse.Namespace) -> Speed:
    """What `--without` leaves."""
    return Speed(**dict.fromkeys(arguments.without, False))


def device_and_precision(arguments: argparse.Namespace) -> tuple[torch.device, str]:
    """What `--device` and `--precision` come to on this machine; `ValueError` if it lacks them."""
    device = pick_device(arguments.device)
    return device, pick_precision(arguments.precision, device)


def load_split(arguments: argparse.Namespace) -> tuple[Weights, FaceSet, dict[str, Any]]:
    """The weights, the faces of one split, and what a record says of these.

    Raises:
        ValueError: weights of other classes, or no faces in that split.
    """
    faces = FaceSet.load(arguments.data)
    sha256 = faces.sha256  # of the whole set
    weights = load_weights(arguments.weights, faces.classes)
    faces = faces.subset(arguments.split)
    if not len(faces):
        raise ValueError(f"{arguments.data}: no faces in split '{arguments.split}'")
    return weights, faces, {**faces.meta, "split": arguments.split, "sha256": sha256}


def duration(text: str) -> float:
    """The type of so many seconds or minutes."""
    try:
        found = float(text)
    except ValueError:
        found = nan
    if not 0 <= found < inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return found


def positive(text: str) -> int:
    """The type of a count."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
