"""What a network costs: its parameters, and the multiply-accumulates of one image."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lanmsff.augment import SIDE


def parameter_count(model: nn.Module) -> int:
    """The number of parameters that training changes; statistics of batch norm are none."""
    return sum(p.numel() for p in model.parameters())


def multiply_accumulates(model: nn.Module) -> int:
    """Of convolutions, transposed convolutions and dense layers, for one 64x64 image.

    What is not counted (batch norm, activations, pooling, the products of an attention map with its
    features) comes to a few percent. The model is run once, in evaluation mode and without
    gradients, and left as it was.
    """
    training = model.training
    model.eval()
    image = torch.zeros(1, 1, SIDE, SIDE, device=next(model.parameters()).device)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(image)
    finally:
        model.train(training)
    return counter.get_total_flops() // 2  # a multiplication and an addition each
