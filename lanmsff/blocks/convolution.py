"""The plain convolution that every block is made of, and its usual company.

Two conventions of the authors' Keras code meet here: "same" padding, and batch normalisation with
epsilon 1e-3 and a moving average that keeps 0.99 of its past (PyTorch calls that momentum 0.01).
"""

import torch
from torch import Tensor, nn

BN_EPS = 1e-3
BN_MOMENTUM = 0.01


class Conv2d(nn.Conv2d):
    """Convolution with "same" padding at stride 1 that stays right under bfloat16 on a CPU.

    With a dilation above 1, PyTorch's bfloat16 convolution on the CPU returns wrong gradients in
    the channels-last layout and gives no sign of it (relative error 0.17 to 0.99, seen with torch
    2.15.0). So where gradients are recorded, a dilated convolution steps out of CPU autocast and
    runs in float32; its output is right in both. Every other convolution follows autocast.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, dilation: int = 1, **options
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            **options,
        )

    def reset_parameters(self) -> None:
        """Draw the kernel He-uniform and set the bias to zero, as the authors' code does."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        harmless = self.dilation == (1, 1) or not torch.is_grad_enabled()
        if harmless or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the constants of the authors' Keras network."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def conv_bn_relu(convolution: nn.Module) -> nn.Sequential:
    """`convolution`, then batch normalisation and ReLU (not in place: hooks see what was there)."""
    return nn.Sequential(convolution, batch_norm(convolution.out_channels), nn.ReLU())
