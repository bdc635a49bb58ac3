"""PWFS, the point-wise feature selection of LANMSFF (arXiv 2403.14318).

The channels are cut into three groups a, b, c. At every point the two largest of the three values
are kept and averaged; the smallest is dropped:

    y = (max(a, b, c) + median(a, b, c)) / 2 = (a + b + c - min(a, b, c)) / 2

It has no parameters, leaves a third of the channels, and passes the gradient to the two that win.
"""

import torch
from torch import Tensor, nn


class PWFS(nn.Module):
    """Mean of the two largest of three channel groups, point by point.

    Shapes: (N, C, H, W) -> (N, C/3, H, W); C must be a multiple of 3.
    """

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = x.chunk(3, dim=1)
        smallest = torch.minimum(torch.minimum(a, b), c)
        return (a + b + c - smallest) / 2
