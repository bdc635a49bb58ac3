"""The attention maps that the network makes on its way: MassAtt of blocks 2 and 4."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lanmsff.explain.maps import BATCH_SIZE, enlarge, in_batches
from lanmsff.model import LANMSFF, evaluating


@dataclass(frozen=True, eq=False)
class Attention:
    """Both maps of both MassAtt blocks for N images (N, 1, H, W); float32, on the CPU.

    A weight of 0 stops a feature, 1 lets it pass as it is.

    Attributes:
        channel2: (N, 72), the channel vector of block 2, in (0, 1).
        spatial2: (N, H/2, W/2), the spatial map of block 2, in (0, 1).
        channel4: (N, 84), the channel vector of block 4, in (0, 1).
        spatial4: (N, H/8, W/8), the spatial map of block 4, in (0, 1).
        logits: (N, K), of the same pass.
    """

    channel2: Tensor
    spatial2: Tensor
    channel4: Tensor
    spatial4: Tensor
    logits: Tensor

    def enlarged(self, block: int) -> Tensor:
        """The spatial map of block 2 or 4 at the size of the images: (N, H, W), bilinear."""
        maps = {2: self.spatial2, 4: self.spatial4}
        if block not in maps:
            raise ValueError(f"only blocks 2 and 4 have attention, got {block!r}")
        height, width = self.spatial2.shape[1:]
        return enlarge(maps[block], (2 * height, 2 * width))


def attention(model: LANMSFF, images: Tensor, batch_size: int = BATCH_SIZE) -> Attention:
    """Return what MassAtt weighs, in both blocks, for every image.

    The network is left as it came: modes, gradients and hooks. It runs in evaluation mode, where
    dropout does nothing, on the device where it is.

    Args:
        images: float (N, 1, H, W) in [0, 1], on any device.
        batch_size: images in one pass.

    Raises:
        ValueError: the network has no MassAtt, or cannot take the images.
    """
    if model.block2.massatt is None:
        built = model.config["attention"]
        raise ValueError(f"this network has no MassAtt to show: it was built with {built!r}")
    parts: dict[str, list[Tensor]] = {field.name: [] for field in fields(Attention)}
    with evaluating(model), torch.inference_mode():
        for batch in in_batches(model, images, batch_size):
            found = model.maps(batch)
            for name, part in parts.items():
                part.append(found[name].float().cpu())
    made = {name: torch.cat(part) for name, part in parts.items()}
    return Attention(**{name: m[:, 0] if m.ndim == 4 else m for name, m in made.items()})
