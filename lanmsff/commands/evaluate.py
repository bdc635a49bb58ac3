"""`python -m lanmsff evaluate`: score weights on one split of a prepared set."""

import argparse
from pathlib import Path
from typing import Any

import torch

from lanmsff.commands.arguments import (
    add_data,
    add_device,
    add_split,
    add_weights,
    device_and_precision,
    load_split,
)
from lanmsff.data import check_writable
from lanmsff.evaluate import evaluate, predict
from lanmsff.report import by_yaw
from lanmsff.results import environment, write_record


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="score weights on a prepared set",
        description="Score weights on one split of a prepared set: all faces, those that are "
        "turned or covered, and each of these without the leaked ones, with 95 % intervals.",
    )
    add_weights(parser)
    add_data(parser)
    add_split(parser)
    parser.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        help="score the mean of a face and its mirror image (default: as the weights' recipe does)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole record there")
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    device, precision = device_and_precision(arguments)
    if arguments.json:
        check_writable(arguments.json)
    weights, faces, data = load_split(arguments)
    images = torch.from_numpy(faces.images)
    mirror = weights.mirror if arguments.mirror is None else arguments.mirror
    logits = predict(weights.model, images, device, precision, progress=True, mirror=mirror)
    scores = evaluate(faces, logits)
    people = "accuracy_over_people_95" in scores["all"]
    over = "accuracy_over_people_95" if people else "accuracy_95"
    print(f"95 % intervals over {'people' if people else 'faces'}")
    for name, part in scores.items():
        print(
            f"{name:24} {part['accuracy']:7.2%}  {_interval(part, over)}  "
            f"macro-F1 {part['macro_f1']:.4f}  n {part['n']}"
        )
    yaw = None
    if faces.yaw is not None:
        yaw = by_yaw(faces, logits.argmax(1).numpy() == faces.labels)
        for row in yaw:
            name = f"yaw {row['yaw']:g}"
            print(f"{name:24} {row['accuracy']:7.2%}  {_interval(row, over)}  n {row['n']}")
    if arguments.json:
        record = {
            "weights": weights.origin,
            "data": data,
            "mirror": mirror,
            "scores": scores,
            "yaw": yaw,
            "environment": environment(device, precision),
        }
        write_record(arguments.json, record)
        print(arguments.json)


def _interval(part: dict[str, Any], over: str) -> str:
    if over not in part:
        return "[none: one person]"
    low, high = part[over]
    return f"[{low:.2%}, {high:.2%}]"
