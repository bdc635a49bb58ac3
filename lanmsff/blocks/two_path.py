"""The two-path convolution of LANMSFF (arXiv 2403.14318): near and wide context side by side.

Path H sees its surroundings through 3x3 kernels, path L through 3x3 kernels with dilation 2
(Yu and Koltun, ICLR 2016), that is through 5x5 windows with 9 weights. The channels are reordered
and halved; then, with [a, b] for concatenation and f for convolution, batch norm and ReLU:

    stage 1   x1 = [f_H(first half), f_L(second half)]      full convolutions on half the channels
    stage 2   x2 = [f_H(x1),         f_L(x1)]               separable convolutions on all of them
    stage 3   x3 = [f_H(x2),         f_L(x2)]               full convolutions on all of them
"""

import torch
from torch import Tensor, nn

from lanmsff.blocks.convolution import Conv2d, conv_bn_relu
from lanmsff.blocks.separable import SeparableConv2d
from lanmsff.blocks.shuffle import ChannelPermutation


class TwoPathStage(nn.Module):
    """One stage: the same kind of convolution twice, with dilation 1 (H) and 2 (L), concatenated.

    Shapes: two tensors (N, in_channels, H, W) -> (N, out_channels, H, W), half from each path.
    """

    def __init__(self, convolution: type[nn.Module], in_channels: int, out_channels: int):
        super().__init__()
        self.path_h = conv_bn_relu(convolution(in_channels, out_channels // 2, dilation=1))
        self.path_l = conv_bn_relu(convolution(in_channels, out_channels // 2, dilation=2))

    def forward(self, for_h: Tensor, for_l: Tensor) -> Tensor:
        return torch.cat([self.path_h(for_h), self.path_l(for_l)], dim=1)


class TwoPathConv(nn.Module):
    """The two-path convolution: reorder, split, three stages of two paths.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H, W).

    Args:
        in_channels, out_channels: both even.
        order: the order of the input channels, int64 (in_channels,); see `lanmsff.blocks.shuffle`.
    """

    def __init__(self, in_channels: int, out_channels: int, order: Tensor):
        super().__init__()
        self.permutation = ChannelPermutation(order)
        self.stage1 = TwoPathStage(Conv2d, in_channels // 2, out_channels)
        self.stage2 = TwoPathStage(SeparableConv2d, out_channels, out_channels)
        self.stage3 = TwoPathStage(Conv2d, out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        first_half, second_half = self.permutation(x).chunk(2, dim=1)
        x = self.stage1(first_half, second_half)
        x = self.stage2(x, x)
        return self.stage3(x, x)
