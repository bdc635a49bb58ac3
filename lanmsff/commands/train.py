"""`python -m lanmsff train`: train LANMSFF on a prepared set.

Exit status: 0 when the run is finished, 2 after one line that says what is wrong, and 75
(EX_TEMPFAIL of sysexits.h: try again) when it was stopped by Ctrl-C, SIGTERM or `--max-minutes` and
goes on with `--resume`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from lanmsff.commands.arguments import (
    WEIGHTS,
    add_data,
    add_device,
    add_without,
    device_and_precision,
    duration,
    positive,
    speed,
)
from lanmsff.console import stopping
from lanmsff.data import FaceSet, check_writable
from lanmsff.device import be_deterministic
from lanmsff.processes import join
from lanmsff.recipes import RECIPES
from lanmsff.train import Run

STOPPED = 75


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train LANMSFF on a prepared set",
        description="Train on the split train, validate on val; test faces are not looked at. "
        "Ctrl-C, SIGTERM and --max-minutes end a run after a step, with a checkpoint, and --resume "
        "goes on; a second Ctrl-C ends at once.",
        epilog=f"Exit status: 0 finished, 2 an error, {STOPPED} stopped and to be resumed.",
    )
    add_data(parser)
    parser.add_argument(
        "--recipe", choices=RECIPES, default="paper", help="lanmsff/recipes.py (default: paper)"
    )
    parser.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a setting of the recipe, e.g. dropout=0.1; can be repeated",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the run"
    )
    parser.add_argument("--epochs", type=positive, help="at most; default: the recipe's")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the first weights, the augmentation, the order of the faces and dropout "
        "(default: 0)",
    )
    parser.add_argument(
        "--start",
        metavar="WEIGHTS",
        help=f"begin with these instead of random weights: {WEIGHTS}",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--max-minutes", type=duration, metavar="M", help="stop cleanly after M minutes"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="the same to the bit on a GPU, and slower"
    )
    add_without(parser)
    add_device(parser)
    parser.set_defaults(run=run)


def setting(text: str) -> tuple[str, Any]:
    """The type of FIELD=VALUE: a value that is no JSON is a word."""
    field, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    try:
        return field, json.loads(value)
    except json.JSONDecodeError:
        return field, value


def run(arguments: argparse.Namespace) -> int:
    if arguments.deterministic:
        be_deterministic()
    device, precision = device_and_precision(arguments)
    check_writable(arguments.out, "folder")
    processes = join(device)
    training = Run(
        FaceSet.load(arguments.data),
        arguments.recipe,
        arguments.out,
        device=processes.device or device,
        precision=precision,
        epochs=arguments.epochs,
        seed=arguments.seed,
        resume=arguments.resume,
        start=arguments.start,
        changes=dict(arguments.set),
        speed=speed(arguments),
        processes=processes,
    )

    def say(text: str) -> None:
        if processes.first:
            print(f"{arguments.out}: {text}", flush=True)

    if training.finished:
        training.train()  # sees to the files
        say(f"nothing left to do ({training.finished})")
        return 0

    with stopping(training.stop):
        training.train(max_minutes=arguments.max_minutes)
    if not training.finished:
        say(
            f"stopped ({training.stopped}) in epoch {training.epoch + 1}, after step "
            f"{training.step} of {training.steps}; the same command with --resume goes on"
        )
        processes.wait()  # when one is gone torchrun ends the others: not before the word is out
        return STOPPED
    best = training.best
    say(
        f"{training.finished}; best epoch {best['epoch']}: validation accuracy "
        f"{best['val_accuracy']:.2%}, loss {best['val_loss']:.4f}"
    )
    return 0
