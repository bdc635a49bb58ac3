"""A network for inference: batch norm folded into the convolutions before it, weights cast once."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lanmsff.blocks import Conv2d, SeparableConv2d


def folded(model: nn.Module) -> nn.Module:
    """A copy of `model`, in evaluation mode, without batch norm; it computes the same.

    In evaluation mode batch norm scales and shifts each channel by constants, which the kernel and
    bias of the convolution in front can do on the way. Folded is what follows a `Conv2d` or a
    `SeparableConv2d` in an `nn.Sequential`; the rest stays. ReLU overwrites what the layer in front
    of it in an `nn.Sequential` has made, which nobody else looks at.
    """
    model = copy.deepcopy(model).eval()
    for layers in model.modules():
        if not isinstance(layers, nn.Sequential):
            continue
        for k in range(len(layers) - 1):
            layer, following = layers[k], layers[k + 1]
            if isinstance(following, nn.ReLU):
                following.inplace = True
            if not isinstance(following, _BatchNorm):
                continue
            if isinstance(layer, SeparableConv2d):
                layer.pointwise = fuse_conv_bn_eval(layer.pointwise, following)
            elif isinstance(layer, nn.Conv2d):
                layers[k] = fuse_conv_bn_eval(layer, following)
            else:
                continue
            layers[k + 1] = nn.Identity()
    return model


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights that autocast would cast in every call; under it `model` computes the same.

    Those of convolutions, transposed ones and linear layers, but not of the convolution of pixels.
    The cast is in place.
    """
    for layer in model.modules():
        if isinstance(layer, Conv2d) and layer.of_pixels:
            continue
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer.to(dtype)
