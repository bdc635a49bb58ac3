"""What the explanations share: running a network without touching it, and the size of maps."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanmsff.device import to_device
from lanmsff.model import check_images

BATCH_SIZE = 32


def in_batches(model: nn.Module, images: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Parts of `images` (N, 1, H, W), each on the device of `model`.

    Raises:
        ValueError: images that the network cannot take, none at all, or `batch_size` below 1.
    """
    if not len(check_images(images)):
        raise ValueError("no images to explain: the first axis of `images` is 0")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device = next(model.parameters()).device
    for batch in images.split(batch_size):
        yield to_device(batch.detach(), device)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) at another size (N, H, W), bilinear between the centres of their pixels."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def spread(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) at a larger size (N, H, W), each pixel's value shared out over its area.

    The sum of every map stays what it was. H and W must be multiples of h and w.
    """
    down, across = size[0] // maps.shape[1], size[1] // maps.shape[2]
    repeated = maps.repeat_interleave(down, dim=1).repeat_interleave(across, dim=2)
    return repeated / (down * across)


def normalise(maps: Tensor) -> Tensor:
    """Each map (N, H, W) on its own scale: its lowest value becomes 0, its highest 1.

    For pictures only: maps that were normalised cannot be compared in strength. A map that is the
    same everywhere becomes 0.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)
