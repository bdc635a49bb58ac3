"""LANMSFF, the network of arXiv 2403.14318, with switches for the ablations.

    image (N, 1, 64, 64)
      block 1  convolutional   66 channels, 32x32   ->  PWFS 22
      block 2  attention       72 channels, 16x16   ->  PWFS 24
      block 3  convolutional   78 channels,  8x8    ->  PWFS 26
      block 4  attention       84 channels,  4x4    ->       84
    each averaged over its area, concatenated (156), and classified by one dense layer

The order of the layers, their constants and their initialisation follow the authors' Keras code (of
separable kernels, that of the older one); `tests/test_parity.py` holds the two equal.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lanmsff.blocks import (
    PWFS,
    Conv2d,
    Dropout,
    MassAtt,
    SeparableConv2d,
    TwoPathConv,
    conv_bn_relu,
    random_order,
    shuffle_order,
)
from lanmsff.blocks.convolution import batch_norm
from lanmsff.blocks.massatt import dense
from lanmsff.blocks.substitutes import SUBSTITUTES, substitute

CHANNELS = (66, 72, 78, 84)
ATTENTIONS = ("massatt", *SUBSTITUTES, "none")
MIXINGS = ("shuffle", "permutation")
# Four poolings in all; block 4 sees 1/8 of the side and its attention map is halved twice more.
SIDE_MULTIPLE = 32


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of the block; each module then gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def check_images(images: Tensor, read_values: bool = True) -> Tensor:
    """Return `images` if the network can take them.

    Args:
        images: what should be float (N, 1, H, W) in [0, 1], H and W multiples of 32.
        read_values: also look at the values; on a GPU this waits for the device.

    Raises:
        ValueError: names what came and what is wanted.
    """
    came = f"got {tuple(images.shape)} {images.dtype}"
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"images must be grey, (N, 1, H, W); {came}")
    height, width = images.shape[2:]
    if not height or not width or height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
        raise ValueError(
            f"height and width must be multiples of {SIDE_MULTIPLE} (the paper's is 64); {came}"
        )
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point in [0, 1]; {came}: divide bytes by 255")
    if read_values and images.numel():
        low, high = torch.aminmax(images.detach())
        if not (low >= 0 and high <= 1):  # also true when there is a NaN
            raise ValueError(f"pixels must lie in [0, 1]; got {low:.4g} to {high:.4g}")
    return images


class ConvBlock(nn.Module):
    """Blocks 1 and 3: convolution, separable convolution, convolution, max-pool, dropout.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H/2, W/2). One channel are pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            conv_bn_relu(Conv2d(in_channels, out_channels, of_pixels=in_channels == 1)),
            conv_bn_relu(SeparableConv2d(out_channels, out_channels)),
            Conv2d(out_channels, out_channels),
            batch_norm(out_channels),
            nn.MaxPool2d(2),
            nn.ReLU(),
            Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class AttentionBlock(nn.Module):
    """Blocks 2 and 4: two-path convolution, MassAtt, 1x1 convolution, max-pool, dropout.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H/2, W/2). `attention` is one of
    `ATTENTIONS`; with "none" the features of the two-path convolution pass on as they are.
    """

    def __init__(
        self, in_channels: int, out_channels: int, dropout: float, attention: str, order: Tensor
    ):
        super().__init__()
        self.two_path = TwoPathConv(in_channels, out_channels, order)
        self.massatt = MassAtt(out_channels) if attention == "massatt" else None
        # apart from `massatt`, whose two maps the explanations read
        self.substitute = substitute(attention, out_channels) if attention in SUBSTITUTES else None
        self.layers = nn.Sequential(
            Conv2d(out_channels, out_channels, kernel_size=1),
            batch_norm(out_channels),
            nn.MaxPool2d(2),
            nn.ReLU(),
            Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.two_path(x)
        for attend in (self.massatt, self.substitute):
            x = x if attend is None else attend(x)
        return self.layers(x)


class Fusion(nn.Module):
    """Multi-scale fusion: PWFS on blocks 1 to 3, the mean of every map over its area, in one vector.

    Shapes: four block outputs (N, C_i, H_i, W_i) -> (N, features). `features` is 156; 300 without
    `selection`, which fuses all channels of blocks 1 to 3; 84 without `multi_scale`, which takes
    block 4 alone (and leaves nothing to select).
    """

    def __init__(self, channels: tuple[int, ...], selection: bool, multi_scale: bool):
        super().__init__()
        *early, last = channels
        self.multi_scale = multi_scale
        self.selections = nn.ModuleList(PWFS() for _ in early if selection and multi_scale)
        self.features = last
        if multi_scale:
            self.features += sum(early) // (3 if selection else 1)

    def forward(self, scales: list[Tensor]) -> Tensor:
        if not self.multi_scale:
            scales = scales[-1:]
        # zip stops at the last PWFS; block 4 is never selected from
        selected = [pwfs(scale) for pwfs, scale in zip(self.selections, scales)]
        scales = selected + scales[len(selected) :]
        return torch.cat([scale.mean(dim=(2, 3)) for scale in scales], dim=1)


class LANMSFF(nn.Module):
    """The lightweight attention network with multi-scale feature fusion.

    Shapes: images (N, 1, 64, 64), float in [0, 1] -> logits (N, num_classes). Other sides work if
    they are multiples of 32. With the defaults it has 356,294 parameters for 7 classes, 356,451
    for 8.

    Args:
        num_classes: the number of expressions.
        attention: what weighs the features of blocks 2 and 4: "massatt", the paper's; "se"
            (squeeze-and-excitation) or "cbam" to compare it with, which need timm; or "none".
        selection: PWFS on blocks 1 to 3 before fusion; without it all their channels are fused
            (300 features instead of 156, and the head grows with them).
        multi_scale: fuse all four blocks; without it the head sees block 4 alone (84 features).
        mixing: how channels are reordered before the two-path convolutions: "shuffle" (the
            authors' code since 2026) or "permutation" (until 2025; saved with the weights).
        permutation_seed: the seed that the permutation is drawn from.
        dropout: the probability at the end of each block.

    Raises:
        ValueError: for arguments or images that the network cannot take.
    """

    def __init__(
        self,
        num_classes: int = 7,
        *,
        attention: str = "massatt",
        selection: bool = True,
        multi_scale: bool = True,
        mixing: str = "shuffle",
        permutation_seed: int = 0,
        dropout: float = 0.4,
    ):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        for name, value, known in (
            ("attention", attention, ATTENTIONS),
            ("mixing", mixing, MIXINGS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.config = {
            "num_classes": num_classes,
            "attention": attention,
            "selection": selection,
            "multi_scale": multi_scale,
            "mixing": mixing,
            "permutation_seed": permutation_seed,
            "dropout": dropout,
        }
        c1, c2, c3, c4 = CHANNELS

        def order(channels: int, position: int) -> Tensor:
            if mixing == "shuffle":
                return shuffle_order(channels)
            return random_order(channels, seed=permutation_seed + position)

        self.block1 = ConvBlock(1, c1, dropout)
        self.block2 = AttentionBlock(c1, c2, dropout, attention, order(c1, 0))
        self.block3 = ConvBlock(c2, c3, dropout)
        self.block4 = AttentionBlock(c3, c4, dropout, attention, order(c3, 1))
        self.fusion = Fusion(CHANNELS, selection, multi_scale)
        self.head = dense(self.fusion.features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        # While training on a GPU nobody waits for the device in every step: there the values are
        # the training loop's own, and only shape and type are looked at.
        busy = torch.compiler.is_compiling() or (self.training and images.device.type != "cpu")
        x = check_images(images, read_values=not busy)
        scales = []
        for block in (self.block1, self.block2, self.block3, self.block4):
            x = block(x)
            scales.append(x)
        return self.head(self.fusion(scales))

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network once and return what it makes on the way, by name.

        The tensors are the ones of this pass, gradients included; nothing is left in the network.
        With the defaults and images (N, 1, H, W):

        - `block1` .. `block4`: block outputs, (N, 66, H/2, W/2) .. (N, 84, H/16, W/16);
        - `two_path2`, `two_path4`: the features that the attention weighs;
        - `channel2` (N, 72), `spatial2` (N, 1, H/2, W/2), `channel4` (N, 84), `spatial4`
          (N, 1, H/8, W/8): the two maps of each MassAtt, in (0, 1); none without it;
        - `pwfs1` .. `pwfs3`: selected maps, (N, 22, H/2, W/2) ..; none without PWFS;
        - `fused` (N, 156) and `logits` (N, num_classes).
        """
        parts: dict[str, nn.Module] = {"fused": self.fusion, "logits": self.head}
        for number in (1, 2, 3, 4):
            parts[f"block{number}"] = getattr(self, f"block{number}")
        for number, block in ((2, self.block2), (4, self.block4)):
            parts[f"two_path{number}"] = block.two_path
            if block.massatt is not None:
                parts[f"channel{number}"] = block.massatt.channel
                parts[f"spatial{number}"] = block.massatt.spatial
        for number, pwfs in enumerate(self.fusion.selections, start=1):
            parts[f"pwfs{number}"] = pwfs

        found: dict[str, Tensor] = {}

        def keep(name: str):
            return lambda _module, _inputs, output: found.update({name: output})

        hooks = [module.register_forward_hook(keep(name)) for name, module in parts.items()]
        try:
            self(images)
        finally:
            for hook in hooks:
                hook.remove()
        return found
