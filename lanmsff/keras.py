"""Reads the weights that the authors' Keras code saves (`model.save_weights("....weights.h5")`).

Keras 3 writes one group for each layer, `layers/<class>_<number>/vars/<k>`. Numbers count up in
the order of creation and start anywhere (a second network in one process goes on where the first
stopped), so within a class only their order counts. Our modules are registered in the order in
which the authors create theirs, so the k-th layer of a class is the k-th module of its kind.

| Keras class            | variables                               | ours                             |
|------------------------|-----------------------------------------|----------------------------------|
| `conv2d`               | kernel HWIO, bias                       | weight OIHW, bias                |
| `separable_conv2d`     | depthwise HWC1, pointwise 11CO, bias    | depthwise C1HW, pointwise, bias  |
| `conv2d_transpose`     | kernel HWOI, bias                       | weight IOHW, bias                |
| `batch_normalization`  | gamma, beta, moving mean, moving var.   | weight, bias, running statistics |
| `dense`                | kernel IO, bias                         | weight OI, bias                  |
"""

import re
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from lanmsff.blocks import SeparableConv2d
from lanmsff.model import LANMSFF

Target = tuple[Tensor, tuple[int, ...]]  # a tensor of the model, the axes of the array it takes
CONV_AXES = (3, 2, 0, 1)  # HWIO -> OIHW, and HWOI -> IOHW
DEPTHWISE_AXES = (2, 3, 0, 1)  # HWC1 -> C1HW


def load_keras_weights(model: LANMSFF, path: str | Path) -> LANMSFF:
    """Fill `model` with the weights of the authors' Keras network and return it.

    Args:
        model: a LANMSFF with all of its parts and the file's number of classes. Its channel order
            stays as it is, since the file does not hold one: the authors' code of February 2026
            and later needs `mixing="shuffle"`.
        path: a `.weights.h5` file as Keras 3 writes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not HDF5, holds another network, or has another number of classes.
            The model is then as it was.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    saved = _saved_layers(path)
    ours = _model_layers(model)
    for kind in ours | saved:
        if len(saved.get(kind, [])) != len(ours.get(kind, [])):
            raise ValueError(
                f"{path}: not LANMSFF's weights: {len(saved.get(kind, []))} layers of class "
                f"{kind}, this model needs {len(ours.get(kind, []))}"
            )
    pairs: list[tuple[Tensor, np.ndarray]] = []
    for kind, layers in ours.items():
        for (name, arrays), targets in zip(saved[kind], layers, strict=True):
            shapes = [array.shape for array in arrays]
            wanted = [_keras_shape(target) for target in targets]
            if shapes != wanted:
                hint = ": another number of classes?" if targets[0][0] is model.head.weight else ""
                raise ValueError(f"{path}: {name} has shapes {shapes}, not {wanted}{hint}")
            pairs += [(t, a.transpose(axes)) for (t, axes), a in zip(targets, arrays, strict=True)]
    with torch.no_grad():  # every array fits: only now is the model touched
        for target, array in pairs:
            target.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return model


def _keras_shape(target: Target) -> tuple[int, ...]:
    tensor, axes = target
    return tuple(tensor.shape[axes.index(axis)] for axis in range(len(axes)))


def _saved_layers(path: Path) -> dict[str, list[tuple[str, list[np.ndarray]]]]:
    """The file's layers that hold variables: class -> [(name, arrays)], in order of creation."""
    try:
        with h5py.File(path) as file:
            layers = {
                name: [group["vars"][k][()] for k in sorted(group["vars"], key=int)]
                for name, group in file["layers"].items()
                if len(group.get("vars", ()))
            }
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a Keras weights file (.weights.h5): {error}") from None
    by_class: dict[str, list[tuple[int, str, list[np.ndarray]]]] = {}
    for name, arrays in layers.items():
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", name).groups()
        by_class.setdefault(kind, []).append((int(number or 0), name, arrays))
    return {
        kind: [(name, arrays) for _, name, arrays in sorted(found, key=lambda layer: layer[0])]
        for kind, found in by_class.items()
    }


def _model_layers(model: LANMSFF) -> dict[str, list[list[Target]]]:
    """The model's layers as Keras classes: class -> [tensors to fill], in order of creation."""
    layers: dict[str, list[list[Target]]] = {}
    inside_separable: set[nn.Module] = set()
    for module in model.modules():
        match module:
            case SeparableConv2d(depthwise=depthwise, pointwise=pointwise):
                inside_separable |= {depthwise, pointwise}
                kind = "separable_conv2d"
                targets = [
                    (depthwise.weight, DEPTHWISE_AXES),
                    (pointwise.weight, CONV_AXES),
                    (pointwise.bias, (0,)),
                ]
            case nn.Conv2d() if module not in inside_separable:
                kind, targets = "conv2d", [(module.weight, CONV_AXES), (module.bias, (0,))]
            case nn.ConvTranspose2d():
                kind = "conv2d_transpose"
                targets = [(module.weight, CONV_AXES), (module.bias, (0,))]
            case nn.BatchNorm2d():
                kind = "batch_normalization"
                targets = [
                    (tensor, (0,))
                    for tensor in (
                        module.weight, module.bias, module.running_mean, module.running_var
                    )
                ]  # fmt: skip
            case nn.Linear():
                kind, targets = "dense", [(module.weight, (1, 0)), (module.bias, (0,))]
            case _:
                continue
        layers.setdefault(kind, []).append(targets)
    return layers
