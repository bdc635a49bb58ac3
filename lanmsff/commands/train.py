"""`python -m lanmsff train`: train LANMSFF on a prepared set."""

import argparse
import json
from pathlib import Path
from typing import Any

from lanmsff.commands.arguments import add_data, add_device, device_and_precision, positive
from lanmsff.data import FaceSet
from lanmsff.recipes import RECIPES
from lanmsff.train import Run


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("train", help="train LANMSFF on a prepared set")
    add_data(parser)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="paper")
    parser.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a setting of the recipe (lanmsff/recipes.py), e.g. erase=0; can be repeated",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--epochs", type=positive, help="at most; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
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


def run(arguments: argparse.Namespace) -> None:
    device, precision = device_and_precision(arguments)
    training = Run(
        FaceSet.load(arguments.data),
        arguments.recipe,
        arguments.out,
        device=device,
        precision=precision,
        epochs=arguments.epochs,
        seed=arguments.seed,
        resume=arguments.resume,
        changes=dict(arguments.set),
    )
    if training.finished:
        print(f"{arguments.out}: nothing left to do ({training.finished})")
        return
    training.train()
    best = training.best
    print(
        f"{arguments.out}: {training.finished}; best epoch {best['epoch']}: validation accuracy "
        f"{best['val_accuracy']:.2%}, loss {best['val_loss']:.4f}"
    )
