"""Images per second of the library's training and inference, against a plain float32 loop.

    python benchmarks/speed.py [--json FILE]

Both are measured in turns in one process, on faces of noise at FER-2013's size; a figure is the
median of the turns. What is compared is this machine's default: layout, precision and optimizer as
`lanmsff train` and `lanmsff evaluate` choose them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lanmsff import LANMSFF
from lanmsff.data import FaceSet
from lanmsff.device import pick_device, pick_precision
from lanmsff.evaluate import BATCH_SIZE, predict
from lanmsff.results import environment, write_record
from lanmsff.train import Run

TURNS = 7
TRAIN_BATCH = 32  # the paper's


def noise(n: int) -> FaceSet:
    """`n` training faces, and 7 to validate on."""
    random = np.random.default_rng(0)
    split = np.array(["train"] * n + ["val"] * 7)
    return FaceSet(
        images=random.integers(0, 256, (len(split), 48, 48), dtype=np.uint8),
        labels=np.arange(len(split)) % 7,
        split=split,
        name=np.arange(len(split)).astype(str),
        meta={"dataset": "noise", "rule": "none", "classes": list("abcdefg"), "sources": {}},
    )


def plain_training(device: torch.device) -> Callable[[], None]:
    """One step as a first PyTorch tutorial writes it."""
    model = LANMSFF().to(device).train()
    optimizer = torch.optim.Adam(model.parameters())
    images = torch.rand(TRAIN_BATCH, 1, 64, 64, device=device)
    labels = torch.arange(TRAIN_BATCH, device=device) % 7

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def plain_inference(device: torch.device) -> Callable[[], None]:
    model = LANMSFF().to(device).eval()
    images = torch.rand(BATCH_SIZE, 1, 64, 64, device=device)

    def step() -> None:
        with torch.no_grad():
            model(images).cpu()

    return step


def images_per_second(step: Callable[[], None], images: int, device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the record there")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    precision = pick_precision("auto", device)
    faces = noise(BATCH_SIZE)
    images = torch.from_numpy(faces.images[:BATCH_SIZE])
    model = LANMSFF()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(faces, "paper", folder, device=device, precision=precision)
        run.model.train()
        items = torch.arange(TRAIN_BATCH, device=device)
        steps = {
            "training": (TRAIN_BATCH, plain_training(device), lambda: run.train_step(items)),
            "inference": (
                BATCH_SIZE,
                plain_inference(device),
                lambda: predict(model, images, device, precision),
            ),
        }
        record = {"environment": environment(device, precision)}
        for name, (size, plain, ours) in steps.items():
            plain(), ours()  # the first call of each sets up kernels
            turns = [
                (images_per_second(plain, size, device), images_per_second(ours, size, device))
                for _ in range(TURNS)
            ]
            record[name] = {
                "batch": size,
                "plain": statistics.median(turn[0] for turn in turns),
                "library": statistics.median(turn[1] for turn in turns),
                "ratio": statistics.median(turn[1] / turn[0] for turn in turns),
            }
            print(name, {key: round(value, 2) for key, value in record[name].items()})
    if arguments.json:
        write_record(arguments.json, record)


if __name__ == "__main__":
    main()
