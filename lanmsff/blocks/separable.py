"""Depthwise separable convolution (Chollet, "Xception", CVPR 2017; Keras' `SeparableConv2D`).

A full 3x3 convolution from C to D channels mixes space and channels at once, with 9 C D weights.
This one does it in two steps with 9 C + C D weights: a depthwise convolution filters each channel
by itself, a pointwise (1x1) convolution mixes the channels:

    y[d] = b[d] + sum_c P[d, c] (K[c] * x[c])
"""

from torch import Tensor, nn

from lanmsff.blocks.convolution import Conv2d


class SeparableConv2d(nn.Module):
    """Depthwise 3x3 convolution without bias, then pointwise convolution with bias.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H, W). Nothing stands between the two
    steps. `dilation` spreads the depthwise kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1):
        super().__init__()
        self.out_channels = out_channels
        self.depthwise = Conv2d(
            in_channels, in_channels, dilation=dilation, groups=in_channels, bias=False
        )
        self.pointwise = Conv2d(in_channels, out_channels, kernel_size=1)
        # The authors' code with the permutation passes `kernel_initializer`, which Keras' layer
        # ignores: its two kernels have initialisers of their own, which stay at Glorot-uniform.
        # Their code with the shuffle draws both He-uniform; all trainings on record have Glorot.
        nn.init.xavier_uniform_(self.depthwise.weight)
        nn.init.xavier_uniform_(self.pointwise.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))
