"""`python -m lanmsff export`: the network as an ONNX file."""

import argparse
from pathlib import Path

from lanmsff.commands.arguments import add_weights
from lanmsff.data import check_writable
from lanmsff.export import export_onnx
from lanmsff.weights import load_weights


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write weights as an ONNX file",
        description="Write weights as an ONNX file, which runs without PyTorch, and compare both.",
    )
    add_weights(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx", help="to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.out.suffix != ".onnx":
        raise ValueError(f"{arguments.out}: the name must end in .onnx")
    check_writable(arguments.out)
    weights = load_weights(arguments.weights)
    difference = export_onnx(weights, arguments.out)
    print(f"{arguments.out}: {', '.join(weights.classes)}")
    print(f"largest difference of a logit from PyTorch: {difference:.1e}")
    if weights.mirror:
        print("the file looks at a face once; `evaluate` takes the mean with its mirror image")
