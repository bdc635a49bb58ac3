"""Dropout that draws fast on a CPU."""

import torch
from torch import Tensor, nn

_BITS = 16  # drawn for each number
_LARGEST = 2 ** (_BITS - 1)


class Dropout(nn.Dropout):
    """Sets numbers to zero with probability `p` and divides the others by 1 - p, while it trains.

    On a CPU `torch.nn.Dropout` draws a float64 for each number, one after the other; at batch 32 that
    was a tenth of a training step of LANMSFF. This draws 16 bits for each, in words of 64, so `p` is
    taken to the nearest 1/65536. On other devices it is PyTorch's.

    Shapes: any -> the same. The draws come from PyTorch's global generator.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1 or x.device.type != "cpu":
            return super().forward(x)
        return x * self._kept(x).to(x.dtype).div_(1 - self.p)

    def _kept(self, x: Tensor) -> Tensor:
        """Which numbers of `x` are kept, bool, in the memory layout of `x`."""
        kept = torch.empty_like(x, dtype=torch.bool)  # dense, also where x is not
        words = torch.empty(-(-x.numel() * _BITS // 64), dtype=torch.int64)
        drawn = words.random_(-(2**63), None).view(torch.int16)[: x.numel()]
        dropped = min(round(self.p * 2**_BITS), 2**_BITS - 1) - _LARGEST  # as many int16 are smaller
        return torch.ge(drawn.as_strided(kept.shape, kept.stride()), dropped, out=kept)
