"""MassAtt, the attention of LANMSFF (arXiv 2403.14318): channel and spatial map, multiplied.

Both maps are made from the same features x (C, H, W), side by side, and their product is one
"mass" for every channel at every point:

    channel  c = sigmoid(W2 relu(W1 GAP(x)))                       (C, 1, 1)
    spatial  s = sigmoid(U2 relu(U1 relu(D2 relu(D1 mean_C(x)))))  (1, H, W)
    output   y = c s x                                             (C, H, W)

W1 and W2 are dense layers with a bottleneck of C/4, as in squeeze-and-excitation (Hu et al., CVPR
2018). D1 and D2 are 3x3 convolutions with stride 2 (to 2 and 4 maps), U1 and U2 transposed ones
with stride 2 (to 4 and 1 maps).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lanmsff.blocks.convolution import Conv2d


class HalvingConv(Conv2d):
    """3x3 convolution with stride 2 and Keras' "same" padding: (N, C, H, W) -> (N, D, H/2, W/2).

    On an even side Keras pads only right and bottom, where PyTorch's `padding=1` pads all round;
    the two look at points that lie one pixel apart.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, stride=2)
        self.padding = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class DoublingConv(nn.ConvTranspose2d):
    """3x3 transposed convolution with stride 2: (N, C, H, W) -> (N, D, 2H, 2W).

    The counterpart of `HalvingConv`: the surplus row and column are cut off below and right.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., :-1, :-1]


def dense(in_features: int, out_features: int) -> nn.Linear:
    """Linear layer, Glorot-uniform with zero bias: Keras' `Dense` as it comes."""
    layer = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class MassAtt(nn.Module):
    """Weighs features (N, C, H, W) by a channel map times a spatial map; the shape stays.

    H and W must be multiples of 4, because the spatial map is halved twice and doubled twice.
    """

    def __init__(self, channels: int, ratio: int = 4):
        super().__init__()
        self.channel = nn.Sequential(
            dense(channels, channels // ratio), nn.ReLU(), dense(channels // ratio, channels),
            nn.Sigmoid(),
        )  # fmt: skip
        self.spatial = nn.Sequential(
            HalvingConv(1, 2), nn.ReLU(), HalvingConv(2, 4), nn.ReLU(),
            DoublingConv(4, 4), nn.ReLU(), DoublingConv(4, 1), nn.Sigmoid(),
        )  # fmt: skip

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two attention maps of `x`: channel (N, C, 1, 1) and spatial (N, 1, H, W), in (0, 1)."""
        channel = self.channel(x.mean(dim=(2, 3)))  # N C
        spatial = self.spatial(x.mean(dim=1, keepdim=True))  # N 1 H W
        return channel[:, :, None, None], spatial

    def forward(self, x: Tensor) -> Tensor:
        channel, spatial = self.maps(x)
        return x * channel * spatial  # in this order nothing leaves the memory layout of x
