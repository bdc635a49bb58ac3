"""`python -m lanmsff train`: train LANMSFF on a prepared set."""

import argparse
from pathlib import Path

from lanmsff.commands.arguments import add_data, add_device, device_and_precision, positive
from lanmsff.data import FaceSet
from lanmsff.recipes import RECIPES
from lanmsff.train import Run


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("train", help="train LANMSFF on a prepared set")
    add_data(parser)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="paper")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--epochs", type=positive, help="at most; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    add_device(parser)
    parser.set_defaults(run=run)


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
