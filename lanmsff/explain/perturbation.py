"""Is a map faithful? Remove the pixels that it calls important, and see what the network says.

Deletion and insertion (Petsiuk et al. 2018, RISE) and ROAD (Rong et al. 2022), over whole sets.
Images are float (N, 1, H, W) in [0, 1], on any device; maps (N, H, W), of any range: only the
order of their pixels counts. The network stays in the mode in which it came.
"""

import numpy as np
import torch
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from lanmsff.explain.maps import BATCH_SIZE, evaluating, in_batches

STEPS = 8
PERCENTILES = (20, 50, 80)


def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Class probabilities of `images`: float32 (N, K) on the CPU."""
    with evaluating(model), torch.inference_mode():
        batches = in_batches(model, images, BATCH_SIZE)
        return torch.cat([model(batch).float().softmax(dim=1).cpu() for batch in batches])


def blurred(images: Tensor) -> Tensor:
    """The images without their detail: a Gaussian with a standard deviation of an eighth of a side.

    What a removed pixel shows. A blurred face is nearer to what the network knows than a grey hole
    with its sharp rim (Petsiuk et al. 2018), and holds neither eyes nor mouth.
    """
    sigma = images.shape[-1] / 8
    reach = min(int(3 * sigma), min(images.shape[-2:]) - 1)  # the border is mirrored
    return gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)


def rank_pixels(maps: np.ndarray, seed: int = 0) -> np.ndarray:
    """Place of every pixel in the order of its map: 1 = the most important, near 0 = the least.

    Equal pixels, of which a map cut off at zero has many, are put in a random order.

    Args:
        maps: (N, H, W), finite.

    Returns:
        float32 (N, H, W), in each map every multiple of 1 / (H W) in (0, 1] once.
    """
    flat = maps.reshape(len(maps), -1)
    if not np.isfinite(flat).all():
        raise ValueError("maps must be finite")
    chance = np.random.default_rng(seed).random(flat.shape, dtype=np.float32)
    order = np.lexsort((chance, flat))
    places = np.arange(1, flat.shape[1] + 1, dtype=np.float32) / flat.shape[1]
    ranks = np.empty(flat.shape, np.float32)
    np.put_along_axis(ranks, order, places[None], axis=1)
    return ranks.reshape(maps.shape)


def deletion(
    model: nn.Module,
    images: Tensor,
    maps: np.ndarray,
    targets: np.ndarray,
    *,
    steps: int = STEPS,
    baseline: Tensor | None = None,
) -> np.ndarray:
    """Probability of a class while the pixels of an image go, the most important first.

    The faster it falls, the better the map.

    Args:
        targets: (N,), the class whose probability is followed, for each image.
        steps: number of equal parts in which the pixels go.
        baseline: (N, 1, H, W), what shows where a pixel is gone; default: `blurred(images)`.

    Returns:
        float32 (N, steps + 1), from the whole image to the whole baseline.
    """
    baseline = blurred(images) if baseline is None else baseline
    return _follow(model, images, baseline, maps, targets, steps)


def insertion(
    model: nn.Module,
    images: Tensor,
    maps: np.ndarray,
    targets: np.ndarray,
    *,
    steps: int = STEPS,
    baseline: Tensor | None = None,
) -> np.ndarray:
    """Probability of a class while the pixels of an image come, the most important first.

    The faster it rises, the better the map. Arguments and result as in `deletion`, from the whole
    baseline to the whole image.
    """
    baseline = blurred(images) if baseline is None else baseline
    return _follow(model, baseline, images, maps, targets, steps)


def area(curves: np.ndarray) -> np.ndarray:
    """Area under each curve (N, steps + 1) over the share of pixels from 0 to 1: (N,)."""
    return np.trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1)


def road(
    model: nn.Module,
    images: Tensor,
    maps: np.ndarray,
    targets: np.ndarray,
    *,
    percentiles: tuple[int, ...] = PERCENTILES,
    seed: int = 0,
) -> np.ndarray:
    """ROAD (Rong et al. 2022): how much more it hurts to lose the best pixels than the worst ones.

    Lost pixels are filled with a noisy mean of their neighbours, so that the shape of the hole
    does not show; by pytorch-grad-cam's `ROADCombined`.

    Args:
        targets: (N,), the class whose probability is followed, for each image.
        percentiles: shares of pixels that are kept (best lost) and lost (worst lost), in percent.

    Returns:
        float32 (N,), half of (probability after losing the worst - after losing the best pixels):
        0 for a map of no use, above 0 for one that is right.
    """
    metric = ROADCombined(list(percentiles))
    ranks = rank_pixels(maps, seed)  # else ties would be lost or kept together

    def scores(batch: Tensor) -> Tensor:
        # the fill adds noise, which can leave [0, 1]
        return probabilities(model, batch.clamp(0, 1))

    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for rows in torch.arange(len(images)).split(BATCH_SIZE):
            wanted = [ClassifierOutputTarget(int(k)) for k in np.asarray(targets)[rows]]
            found.append(metric(images[rows], ranks[rows], wanted, scores))
    return np.concatenate(found)


def _follow(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    maps: np.ndarray,
    targets: np.ndarray,
    steps: int,
) -> np.ndarray:
    """Probabilities (N, steps + 1) as `start` turns into `end`, the most important pixels first."""
    ranks = torch.from_numpy(rank_pixels(maps))[:, None].to(start.device)
    wanted = torch.as_tensor(targets)[:, None]
    curve = []
    for step in range(steps + 1):
        # half a pixel keeps rounding away from the ranks
        turned = ranks > 1 - step / steps + 0.5 / ranks[0].numel()
        scores = probabilities(model, torch.where(turned, end, start))
        curve.append(scores.gather(1, wanted)[:, 0])
    return torch.stack(curve, dim=1).numpy()
