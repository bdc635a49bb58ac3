"""Arguments that several commands take, said in the same words."""

import argparse
from pathlib import Path

import torch

from lanmsff.device import PRECISIONS, pick_device, pick_precision

WEIGHTS = "a run's folder (its best epoch), a .safetensors file, or the name of shipped weights"


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="what data_prep wrote (.npz)")


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, help=WEIGHTS)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")


def device_and_precision(arguments: argparse.Namespace) -> tuple[torch.device, str]:
    """What `--device` and `--precision` come to on this machine; `ValueError` if it lacks them."""
    device = pick_device(arguments.device)
    return device, pick_precision(arguments.precision, device)


def positive(text: str) -> int:
    """The type of a count."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
