"""The plain convolution that every block is made of, and its usual company.

Two conventions of the authors' Keras code meet here: "same" padding, and batch normalisation with
epsilon 1e-3 and a moving average that keeps 0.99 of its past (PyTorch calls that momentum 0.01).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BN_EPS = 1e-3
BN_MOMENTUM = 0.01
SMALLEST_GRID = 8  # points to a side; below it, float32 is as fast


class Conv2d(nn.Conv2d):
    """Convolution with "same" padding at stride 1 that stays right under bfloat16.

    With a dilation above 1, PyTorch's bfloat16 convolution on the CPU returns wrong gradients in
    the channels-last layout and gives no sign of it (relative error 0.17 to 0.99, seen with torch
    2.15.0). So where gradients are recorded under CPU autocast, a dilated convolution is computed
    as the same thing without dilation, see `split_grids`; where the sides are small or no multiples
    of the dilation, it steps out of autocast and runs in float32.

    A convolution of pixels steps out of autocast on every device. The nine pixels under a kernel are
    nearly alike, so what it makes of them is their brightness times its sum, and rounding to
    bfloat16 changes a sum in which weights cancel by far more than each of them. Most of what
    bfloat16 did to the logits of LANMSFF, it did there. Every other convolution follows autocast.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H, W).

    Args:
        of_pixels: multiply in float32 under autocast too; what comes out is in autocast's type.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        dilation: int = 1,
        of_pixels: bool = False,
        **options,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            **options,
        )
        self.of_pixels = of_pixels

    def reset_parameters(self) -> None:
        """Draw the kernel He-uniform and set the bias to zero, as the authors' code does."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return super().forward(x)
        step = self.dilation[0]
        if step > 1 and device == "cpu" and torch.is_grad_enabled():
            height, width = x.shape[2:]
            fits = height % step == width % step == 0
            if fits and min(height, width) >= SMALLEST_GRID * step:
                return self._on_grids(x)
            with torch.autocast(device, enabled=False):
                return super().forward(x.float())
        if not self.of_pixels:
            return super().forward(x)
        with torch.autocast(device, enabled=False):
            found = super().forward(x.float())
        return found.to(torch.get_autocast_dtype(device))

    def _on_grids(self, x: Tensor) -> Tensor:
        """What a dilated convolution gives, by one without dilation on each grid of points."""
        step, reach = self.dilation[0], self.kernel_size[0] // 2
        found = F.conv2d(
            split_grids(x, step), self.weight, self.bias, padding=reach, groups=self.groups
        )
        return join_grids(found, step)


def split_grids(x: Tensor, step: int) -> Tensor:
    """(N, C, H, W) -> (step^2 N, C, H/step, W/step): every `step`-th point, from each beginning.

    A kernel with dilation `step` takes only points of one of these grids at a time, on which they
    are neighbors. The memory layout is channels-last.
    """
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h // step, step, w // step, step, c)
    x = x.permute(2, 4, 0, 1, 3, 5).reshape(step * step * n, h // step, w // step, c)
    return x.permute(0, 3, 1, 2)


def join_grids(x: Tensor, step: int) -> Tensor:
    """Undo `split_grids`."""
    n, c, h, w = x.shape
    n //= step * step
    x = x.permute(0, 2, 3, 1).reshape(step, step, n, h, w, c)
    x = x.permute(2, 3, 0, 4, 1, 5).reshape(n, step * h, step * w, c)
    return x.permute(0, 3, 1, 2)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the constants of the authors' Keras network."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def conv_bn_relu(convolution: nn.Module) -> nn.Sequential:
    """`convolution`, then batch normalisation and ReLU (not in place: hooks see what was there)."""
    return nn.Sequential(convolution, batch_norm(convolution.out_channels), nn.ReLU())
