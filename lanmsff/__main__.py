"""The command line: `python -m lanmsff train ...`, `python -m lanmsff evaluate ...`."""

import argparse
import sys
from pathlib import Path

import torch

from lanmsff.data import SPLITS, FaceSet
from lanmsff.device import PRECISIONS, pick_device, pick_precision
from lanmsff.evaluate import evaluate, predict
from lanmsff.recipes import RECIPES
from lanmsff.results import environment, write_record
from lanmsff.train import Run
from lanmsff.weights import find_weights, load_weights

USER_ERROR = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        place = error.filename2 or error.filename  # the second is where a file was to be moved
        where = f"{place}: " if place else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lanmsff", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    training = commands.add_parser("train", help="train LANMSFF on a prepared set")
    training.add_argument("--data", type=Path, required=True, help="what data_prep wrote (.npz)")
    training.add_argument("--recipe", choices=sorted(RECIPES), default="paper")
    training.add_argument("--out", type=Path, required=True, help="folder of the run")
    training.add_argument("--epochs", type=_positive, help="at most; default: the recipe's")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--resume", action="store_true", help="go on with the run in --out")
    training.set_defaults(run=_train)

    scoring = commands.add_parser("evaluate", help="score weights on a prepared set")
    scoring.add_argument(
        "--weights",
        required=True,
        help="a run's folder (its best epoch), a .safetensors file, or the name of shipped weights",
    )
    scoring.add_argument("--data", type=Path, required=True, help="what data_prep wrote (.npz)")
    scoring.add_argument("--split", choices=SPLITS, default="test")
    scoring.add_argument("--json", type=Path, help="write the whole record there")
    scoring.set_defaults(run=_evaluate)

    for command in (training, scoring):
        command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
        command.add_argument("--precision", choices=PRECISIONS, default="auto")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _train(arguments: argparse.Namespace) -> None:
    device = pick_device(arguments.device)
    run = Run(
        FaceSet.load(arguments.data),
        arguments.recipe,
        arguments.out,
        device=device,
        precision=pick_precision(arguments.precision, device),
        epochs=arguments.epochs,
        seed=arguments.seed,
        resume=arguments.resume,
    )
    if run.finished:
        print(f"{arguments.out}: nothing left to do ({run.finished})")
        return
    run.train()
    best = run.best
    print(
        f"{arguments.out}: {run.finished}; best epoch {best['epoch']}: validation accuracy "
        f"{best['val_accuracy']:.2%}, loss {best['val_loss']:.4f}"
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    device = pick_device(arguments.device)
    precision = pick_precision(arguments.precision, device)
    faces = FaceSet.load(arguments.data)
    weights = load_weights(arguments.weights, faces.classes)
    faces = faces.subset(arguments.split)
    if not len(faces):
        raise ValueError(f"{arguments.data}: no faces in split '{arguments.split}'")
    images = torch.from_numpy(faces.images)
    logits = predict(weights.model, images, device, precision, progress=True)
    scores = evaluate(faces, logits)
    for name, part in scores.items():
        low, high = part["accuracy_95"]
        print(
            f"{name:24} {part['accuracy']:7.2%}  [{low:.2%}, {high:.2%}]  "
            f"macro-F1 {part['macro_f1']:.4f}  n {part['n']}"
        )
    if arguments.json:
        record = {
            "weights": {"file": find_weights(arguments.weights).name, **weights.info},
            "data": {**faces.meta, "split": arguments.split},
            "scores": scores,
            "environment": environment(device, precision),
        }
        write_record(arguments.json, record)
        print(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
