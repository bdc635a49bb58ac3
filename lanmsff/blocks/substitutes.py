"""Known attention blocks that can stand in MassAtt's place, to compare it with; both from timm.

    se    squeeze-and-excitation (Hu et al., CVPR 2018): a channel map
    cbam  CBAM (Woo et al., ECCV 2018): a channel map, then a spatial map of what it leaves

Their bottleneck is C/4, MassAtt's own, and not the C/16 of their papers: with 72 and 84 channels
4 or 5 would be left. They keep timm's initialisation.
"""

from torch import nn

SUBSTITUTES = ("se", "cbam")


def substitute(kind: str, channels: int, ratio: int = 4) -> nn.Module:
    """The block `kind`, one of `SUBSTITUTES`: (N, channels, H, W) -> the same shape.

    Raises:
        ValueError: timm is not installed.
    """
    try:
        from timm.layers import SqueezeExcite
        from timm.layers.cbam import CbamModule
    except ImportError as error:
        raise ValueError(
            f"attention {kind!r} comes from timm ({error}); pip install 'lanmsff[ablations]'"
        ) from None
    block = {"se": SqueezeExcite, "cbam": CbamModule}[kind]
    return block(channels, rd_channels=channels // ratio)
