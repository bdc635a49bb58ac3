"""The building blocks of LANMSFF, one file each, in the order in which the book explains them.

Every block maps a feature tensor (N, C, H, W) to another one and keeps height and width.
"""

from lanmsff.blocks.convolution import Conv2d, conv_bn_relu
from lanmsff.blocks.dropout import Dropout
from lanmsff.blocks.massatt import MassAtt
from lanmsff.blocks.pwfs import PWFS
from lanmsff.blocks.separable import SeparableConv2d
from lanmsff.blocks.shuffle import ChannelPermutation, random_order, shuffle_order
from lanmsff.blocks.two_path import TwoPathConv

__all__ = [
    "ChannelPermutation",
    "Conv2d",
    "Dropout",
    "MassAtt",
    "PWFS",
    "SeparableConv2d",
    "TwoPathConv",
    "conv_bn_relu",
    "random_order",
    "shuffle_order",
]
