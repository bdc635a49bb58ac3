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

    A convolution of pixels keeps 16 bits of pixels and weights, not 8, on every device (`_in_parts`).
    The nine pixels under a kernel are nearly alike, so what it makes of them is their brightness
    times its sum, and rounding to bfloat16 changes a sum in which weights cancel by far more than
    each of them. Most of what bfloat16 did to the logits of LANMSFF, it did there. Every other
    convolution follows autocast.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H, W).

    Args:
        of_pixels: multiply numbers of 16 bits under autocast; what comes out is in autocast's type.
            It needs a bias.
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
        if self.of_pixels:
            return self._in_parts(x, torch.get_autocast_dtype(device))
        return super().forward(x)

    def _in_parts(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The convolution of float32 numbers by one of `dtype`, which writes half as much.

        A number is the sum of two of `dtype`, in bfloat16 up to 2^-17 of it. Of the four products of
        the parts of a pixel and a weight, three are made, each by a channel of its own, and added up
        in float32; the fourth is too small. Ones, in two more channels, bring the bias. Gradients
        are rounded like those of other layers.
        """
        high, low = _parts(x, dtype)
        weight_high, weight_low = _parts(self.weight, dtype)
        edge = self.kernel_size[0] // 2
        bias = F.pad(self.bias[:, None, None, None], (edge,) * 4)  # at the center of a kernel
        one = torch.ones_like(high[:, :1])
        channels = torch.cat([high, high, low, one, one], dim=1)
        kernels = torch.cat([weight_high, weight_low, weight_high, *_parts(bias, dtype)], dim=1)
        if self.weight.stride(1) == 1:  # channels-last, which one channel shows by its stride alone
            kernels = kernels.to(memory_format=torch.channels_last)
        return F.conv2d(channels, kernels, None, self.stride, self.padding, self.dilation)

    def _on_grids(self, x: Tensor) -> Tensor:
        """What a dilated convolution gives, by one without dilation on each grid of points."""
        step, reach = self.dilation[0], self.kernel_size[0] // 2
        found = F.conv2d(
            split_grids(x, step), self.weight, self.bias, padding=reach, groups=self.groups
        )
        return join_grids(found, step)


def _parts(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` as the sum of two tensors of `dtype`; gradients reach it by the first one.

    The first is `x` rounded to the upper 16 bits of float32, which are a number of bfloat16. It is
    rounded by its bits, because torch.compile leaves out a cast there and back on the way, and then
    finds that nothing is left over.
    """
    x = x.float()
    bits = x.detach().view(torch.int32)
    rest = x.detach() - ((bits + 2**15) & -(2**16)).view(torch.float32)
    return (x - rest).to(dtype), rest.to(dtype)


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
