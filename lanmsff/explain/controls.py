"""What a map of a network must beat: maps that know nothing of it, and a network without training.

All maps are float32 (N, H, W) in [0, 1], brighter = more important, like those of `attention` and
`cam`.
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lanmsff.explain.maps import BATCH_SIZE, in_batches
from lanmsff.model import LANMSFF

UNTRAINED_SEED = 2**31 - 1


def random_maps(count: int, size: int = 64, cells: int = 8, seed: int = 0) -> np.ndarray:
    """Maps drawn at random: `cells` x `cells` uniform numbers, enlarged bilinearly to `size`.

    Eight cells are as coarse as the attention of block 4; its Grad-CAM has four. With `cells=size`
    every pixel is on its own: removing pixels in that order destroys a picture faster than removing
    it in pieces, so compare a smooth map with a smooth control.
    """
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((count, 1, cells, cells), dtype=np.float32))
    return interpolate(coarse, (size, size), mode="bilinear")[:, 0].numpy()


def centre_maps(count: int, size: int = 64) -> np.ndarray:
    """The same blob in the middle of every map, a Gaussian with a standard deviation of size/4."""
    offset = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / (size / 4)
    blob = np.exp(-(offset[:, None] ** 2 + offset**2) / 2)
    return np.repeat(blob[None], count, axis=0)


def edge_maps(images: Tensor, sigma: float = 1.0) -> np.ndarray:
    """Strength of the edges of images (N, 1, H, W), the first step of Canny (1986).

    The length of the gradient after smoothing with a Gaussian of `sigma` pixels, divided by the
    largest of each image.
    """
    pictures = images[:, 0].cpu().numpy()
    across, down = (
        gaussian_filter(pictures, (0, sigma, sigma), order=order)
        for order in ((0, 0, 1), (0, 1, 0))
    )
    strength = np.hypot(across, down)
    return strength / np.maximum(strength.max(axis=(1, 2), keepdims=True), 1e-12)


def swapped_maps(maps: np.ndarray, groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """Give every face the map of another face that is drawn from outside its own group.

    A map that says no more about its own face than another person's would is a habit of the
    network, not an explanation.

    Args:
        maps: (N, H, W).
        groups: (N,), the person of each face.

    Raises:
        ValueError: all faces are in one group.
    """
    groups = np.asarray(groups)
    if len(np.unique(groups)) < 2:
        raise ValueError("maps can be swapped only between at least two groups")
    rng = np.random.default_rng(seed)
    return maps[[rng.choice(np.flatnonzero(groups != group)) for group in groups]]


def untrained(model: LANMSFF, images: Tensor, seed: int = UNTRAINED_SEED) -> LANMSFF:
    """A freshly drawn network of the same kind, in evaluation mode and on the same device.

    Drawn from the seed of its own training, it would be where `model` began, and a trained head
    is still close to that: so the default is a seed that nobody trains with.

    Args:
        images: float (N, 1, H, W), see `collect_statistics`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of GPUs, which no fork restores
        fresh = LANMSFF(**model.config)
    fresh = fresh.to(next(model.parameters()).device).eval()
    collect_statistics(fresh, fresh, images)
    return fresh


def collect_statistics(model: LANMSFF, part: nn.Module, images: Tensor) -> None:
    """Let the batch normalization in a fresh part of a network see images, as training would.

    With the statistics that it begins with, mean 0 and variance 1, features shrink from layer to
    layer until float32 can hardly tell them apart, and a map of them is flat for that reason.

    Args:
        model: in evaluation mode; `part` belongs to it, or is `model` itself.
        images: float (N, 1, H, W) in [0, 1], of which mean and variance are taken at every layer,
            batch by batch.
    """
    norms = [module for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    try:
        with torch.no_grad():
            for batch in in_batches(model, images, BATCH_SIZE):
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.eval()
