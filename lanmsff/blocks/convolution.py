"""The plain convolution that every block is made of, and its usual company.

Two conventions of the authors' Keras code meet here: "same" padding, and batch normalisation with
epsilon 1e-3 and a moving average that keeps 0.99 of its past (PyTorch calls that momentum 0.01).
"""

import torch
from torch import Tensor, nn

BN_EPS = 1e-3
BN_MOMENTUM = 0.01


class Conv2d(nn.Conv2d):
    """Convolution with "same" padding at stride 1 that stays right under bfloat16.

    With a dilation above 1, PyTorch's bfloat16 convolution on the CPU returns wrong gradients in
    the channels-last layout and gives no sign of it (relative error 0.17 to 0.99, seen with torch
    2.15.0). So where gradients are recorded, a dilated convolution steps out of CPU autocast and
    runs in float32; its output is right in both.

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
        wrong = device == "cpu" and self.dilation != (1, 1) and torch.is_grad_enabled()
        if not (wrong or self.of_pixels):
            return super().forward(x)
        with torch.autocast(device, enabled=False):
            found = super().forward(x.float())
        return found.to(torch.get_autocast_dtype(device)) if self.of_pixels else found


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the constants of the authors' Keras network."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def conv_bn_relu(convolution: nn.Module) -> nn.Sequential:
    """`convolution`, then batch normalisation and ReLU (not in place: hooks see what was there)."""
    return nn.Sequential(convolution, batch_norm(convolution.out_channels), nn.ReLU())
