"""Mixing the channels before they are split: ShuffleNet's shuffle, or a fixed random permutation.

A convolution on half of the channels never sees the other half; reordering the channels first
lets both halves hold a bit of everything. The authors' code did this in two ways in its history:
until 2025 by random permutations drawn without a seed when the network was built (presumably for
the published figures, too), since February 2026 by the channel shuffle of ShuffleNet (Zhang
et al., CVPR 2018) with two groups. Both are a fixed order of the channels, so both are one block.
"""

import torch
from torch import Tensor, nn


def shuffle_order(channels: int, groups: int = 2) -> Tensor:
    """The order of the ShuffleNet shuffle: write the channels as `groups` rows, read by column.

    Returns int64 (channels,); for 6 channels and 2 groups: 0, 3, 1, 4, 2, 5.

    Raises:
        ValueError: if `channels` is not a multiple of `groups`.
    """
    if channels % groups:
        raise ValueError(f"{channels} channels cannot be split into {groups} equal groups")
    return torch.arange(channels).reshape(groups, -1).T.reshape(-1)


def random_order(channels: int, seed: int) -> Tensor:
    """A permutation drawn from `seed` alone (the global random state is not touched).

    Returns int64 (channels,).
    """
    return torch.randperm(channels, generator=torch.Generator().manual_seed(seed))


class _Reorder(torch.autograd.Function):
    """`x[:, order]`, whose gradient is a reordering too.

    PyTorch's own gradient adds into zeros, as an order that repeats itself would need: on a GPU
    with an atomic operation for every value.
    """

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x[:, order]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        return gradient[:, order.argsort()], None


class ChannelPermutation(nn.Module):
    """Reorders channels: output channel i is input channel `order[i]`.

    `order`, int64 (C,), is a buffer: it is saved with the weights, because weights that were
    trained behind one permutation are worthless behind another.

    Shapes: (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, order: Tensor):
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        # torch.compile calls itself an export before PyTorch 2.14
        if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
            return x.index_select(1, self.order)  # one node of ONNX; by an index it takes three
        if torch.is_grad_enabled() and x.requires_grad:
            return _Reorder.apply(x, self.order)
        return x[:, self.order]  # on a CPU in half the time of index_select
