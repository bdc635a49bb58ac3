"""ONNX: the network in one file that runs without PyTorch, and says what it takes and gives.

    images (N, 1, 64, 64) float32 in [0, 1]  ->  logits (N, K) float32, N free

Class order and pixel scaling are part of a model, so everything that the header of the weights says
(`lanmsff.weights`) stands in the metadata of the file, one entry a key: `classes` and `image` as
JSON, `recipe`, `dataset` and so on, and a note on what the file may be used for.

Batch normalisation and Keras' lopsided padding end up inside the convolutions, the checks of the
images are left out: feed the file nothing that `LANMSFF` would refuse.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lanmsff.data import replacing
from lanmsff.weights import Weights

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

INPUT, OUTPUT = "images", "logits"
TOLERANCE = 1e-4  # of a logit, against PyTorch; rounding alone gives about 1e-6
NOTE = (
    "Trained on {dataset}, whose terms of use apply; the code of lanmsff is under the MIT License. "
    "Not for decisions about people: an expression is not a feeling."
)


def export_onnx(weights: Weights, path: str | Path) -> float:
    """Write a network to `path` (.onnx), compare it with PyTorch, and then move it into place.

    Args:
        weights: as `lanmsff.weights.load_weights` returns them.

    Returns:
        The largest difference of a logit from PyTorch's, over random images in two batches.

    Raises:
        ValueError: a package is missing, or the difference exceeds `TOLERANCE`.
        OSError: `path` cannot be written.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    import onnx

    with replacing(path) as aside:
        onnx.save(_to_onnx(weights), aside)
        difference = _difference(weights, aside)
        if not difference <= TOLERANCE:  # nor where it is not a number
            raise ValueError(
                f"{path}: not written: ONNX Runtime's logits differ from PyTorch's by "
                f"{difference:.1e}; the versions of torch and onnxscript do not fit this network"
            )
    return difference


def open_session(path: str | Path, threads: int | None = None) -> InferenceSession:
    """An exported file, ready to run on the CPU: `session.run(None, {"images": images})[0]`.

    Args:
        threads: default: as many as PyTorch takes.

    Raises:
        ValueError: onnxruntime is missing, or `path` is no ONNX file.
    """
    _require("onnxruntime")
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    # else the threads go on asking for work between two faces, and slow down whatever else runs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidArgument, errors.InvalidProtobuf, errors.NoSuchFile) as why:
        raise ValueError(f"{path}: not an ONNX file that can be run ({why})") from None


def _require(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"ONNX needs {', '.join(missing)}; install with: pip install 'lanmsff[export]'"
        )


def _to_onnx(weights: Weights) -> ModelProto:
    side = weights.info["image"]["side"]
    program = torch.onnx.export(
        weights.model,
        (torch.rand(2, 1, side, side),),  # a batch of 1 would be taken for a constant
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        verbose=False,
    )
    proto = program.model_proto
    graph = proto.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]  # traces with the paths of the machine that exported
    note = NOTE.format(dataset=weights.info.get("dataset", "unknown data"))
    for key, value in {**weights.info, "note": note}.items():
        text = value if isinstance(value, str) else json.dumps(value)
        proto.metadata_props.add(key=key, value=text)
    return proto


def _difference(weights: Weights, path: Path) -> float:
    """The largest difference of a logit, in a batch of 1 and one of 3 random images."""
    session = open_session(path)
    side = weights.info["image"]["side"]
    images = torch.rand(4, 1, side, side, generator=torch.Generator().manual_seed(0))
    largest = torch.zeros(())
    for batch in images.split((1, 3)):
        (logits,) = session.run([OUTPUT], {INPUT: batch.numpy()})
        with torch.inference_mode():
            expected = weights.model(batch)
        apart = (torch.from_numpy(logits) - expected).abs().max()
        largest = torch.maximum(largest, apart)  # `max` would forget what is not a number
    return largest.item()
