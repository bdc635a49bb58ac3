"""Is a map faithful? Remove the pixels that it calls important, and see what the network says.

Deletion and insertion (Petsiuk et al. 2018, RISE) and ROAD (Rong et al. 2022), over whole sets.
"""

import warnings

import numpy as np
import torch
from pytorch_grad_cam.metrics.perturbation_confidence import (
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from lanmsff.explain.maps import BATCH_SIZE, in_batches
from lanmsff.model import evaluating

STEPS = 6
PERCENTILES = (80,)


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
        raise ValueError("maps hold NaN or infinity")
    chance = np.random.default_rng(seed).random(flat.shape, dtype=np.float32)
    order = np.lexsort((chance, flat))
    places = np.arange(1, flat.shape[1] + 1, dtype=np.float32) / flat.shape[1]
    ranks = np.empty(flat.shape, np.float32)
    np.put_along_axis(ranks, order, places[None], axis=1)
    return ranks.reshape(maps.shape)


def area(curves: np.ndarray) -> np.ndarray:
    """Area under each curve (N, steps + 1) over the share of pixels from 0 to 1: (N,)."""
    return np.trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1)


class Perturbation:
    """What a network says of images when some of their pixels are gone.

    Maps are (N, H, W), of any range, brighter = more important: only the order of their pixels
    counts. The network stays in the mode and on the device in which it came.

    Args:
        images: float (N, 1, H, W) in [0, 1].
        targets: (N,), the class whose probability is followed, for each image.
        baseline: (N, 1, H, W) in [0, 1], what shows where a pixel is gone; default:
            `blurred(images)`.

    Raises:
        ValueError: the shapes do not fit, a map is not finite, or `model` cannot take the images.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, targets: np.ndarray, baseline: Tensor | None = None
    ):
        self.model, self.images = model, images
        self.baseline = blurred(images) if baseline is None else baseline
        self.targets = torch.as_tensor(targets)
        if self.baseline.shape != images.shape or self.targets.shape != images.shape[:1]:
            raise ValueError(f"{tuple(images.shape)} images, {tuple(self.baseline.shape)} baseline "
                             f"and {tuple(self.targets.shape)} targets do not fit")  # fmt: skip
        self._of_image, self._of_baseline = self._scores(images), self._scores(self.baseline)

    def deletion(self, maps: np.ndarray, steps: int = STEPS) -> np.ndarray:
        """Probability of the target while the pixels go, the most important first.

        The faster it falls, the better the map.

        Args:
            maps: (N, H, W).
            steps: number of equal parts in which the pixels go.

        Returns:
            float32 (N, steps + 1), from the whole image to the whole baseline.
        """
        shown = self._masks(maps, steps)
        between = [self._scores(self._mix(~mask)) for mask in shown]
        return torch.stack([self._of_image, *between, self._of_baseline], dim=1).numpy()

    def insertion(self, maps: np.ndarray, steps: int = STEPS) -> np.ndarray:
        """Probability of the target while the pixels come, the most important first.

        The faster it rises, the better the map. Arguments and result as in `deletion`, from the
        whole baseline to the whole image.
        """
        shown = self._masks(maps, steps)
        between = [self._scores(self._mix(mask)) for mask in shown]
        return torch.stack([self._of_baseline, *between, self._of_image], dim=1).numpy()

    def road(
        self, maps: np.ndarray, percentiles: tuple[int, ...] = PERCENTILES, seed: int = 0
    ) -> np.ndarray:
        """How much more it hurts to lose the best pixels than the worst: ROAD, Rong et al. 2022.

        Lost pixels are filled with a noisy mean of their neighbours, so that the shape of the hole
        does not show. The filling is pytorch-grad-cam's, and the result that of its `ROADCombined`.

        Args:
            maps: (N, H, W).
            percentiles: shares of the pixels that stay, in percent; results are averaged.
                By default a fifth of the pixels goes.
            seed: of the noise.

        Returns:
            float32 (N,), half of (probability without the worst pixels - without the best): 0 for
            a map of no use, above 0 for one that is right.
        """
        ranks = torch.from_numpy(rank_pixels(maps, seed))  # else ties would go or stay together
        imputer = NoisyLinearImputer()

        def without(kind: type[RemoveMostRelevantFirst], percentile: int) -> Tensor:
            remove = kind(percentile, imputer)
            filled = [remove(image, rank) for image, rank in zip(self.images.cpu(), ranks)]
            return self._scores(torch.stack(filled).clamp(0, 1))  # the noise can leave [0, 1]

        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.default_generator.manual_seed(seed)  # not those of GPUs, which no fork restores
            warnings.simplefilter("ignore", DeprecationWarning)  # grad-cam and NumPy, every image
            worst = [without(RemoveLeastRelevantFirst, share) for share in percentiles]
            best = [without(RemoveMostRelevantFirst, share) for share in percentiles]
        return ((torch.stack(worst).mean(dim=0) - torch.stack(best).mean(dim=0)) / 2).numpy()

    def _scores(self, images: Tensor) -> Tensor:
        return probabilities(self.model, images).gather(1, self.targets[:, None])[:, 0]

    def _masks(self, maps: np.ndarray, steps: int) -> list[Tensor]:
        """The best 1/steps, 2/steps ... of the pixels, without none and all: bool (N, 1, H, W)."""
        ranks = torch.from_numpy(rank_pixels(maps))[:, None].to(self.images.device)
        return [ranks > 1 - step / steps for step in range(1, steps)]

    def _mix(self, shown: Tensor) -> Tensor:
        return torch.where(shown, self.images, self.baseline)
