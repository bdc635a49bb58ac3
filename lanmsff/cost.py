"""What a network costs: parameters, and the multiply-accumulates and memory traffic of an image."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lanmsff.augment import SIDE
from lanmsff.model import evaluating


def parameter_count(model: nn.Module) -> int:
    """The number of parameters that training changes; statistics of batch norm are none."""
    return sum(p.numel() for p in model.parameters())


def multiply_accumulates(model: nn.Module) -> int:
    """Of convolutions, transposed convolutions and dense layers, for one 64x64 image.

    What is not counted (batch norm, activations, pooling, the products of an attention map with its
    features) comes to a few percent.
    """
    with FlopCounterMode(display=False) as counter:
        _run_once(model)
    return counter.get_total_flops() // 2  # a multiplication and an addition each


def memory_traffic(model: nn.Module, bytes_per_value: int) -> int:
    """Bytes that one 64x64 image makes the layers move: each reads its input, writes its output.

    Weights are not counted, for a batch shares them, nor is what happens between the layers
    (concatenations, products). So it is the least for layers that are computed one by one.
    """
    values = 0

    def count(_module, inputs, output) -> None:
        nonlocal values
        values += sum(tensor.numel() for tensor in (*inputs, output))

    layers = [layer for layer in model.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers
             if not isinstance(layer, nn.Dropout | nn.Identity)]  # fmt: skip
    try:
        _run_once(model)
    finally:
        for hook in hooks:
            hook.remove()
    return values * bytes_per_value


def _run_once(model: nn.Module) -> None:
    """One image through the model, which is left as it was."""
    image = torch.zeros(1, 1, SIDE, SIDE, device=next(model.parameters()).device)
    with evaluating(model), torch.no_grad():
        model(image)
