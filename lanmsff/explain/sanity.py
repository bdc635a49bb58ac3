"""Does a map change when it should, and stay when it should?

It should change when the network forgets what it learned (Adebayo et al. 2018), and stay when the
picture is mirrored or the head turns a little. Maps are compared by the order of their pixels.
"""

import copy
from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import rankdata
from torch import Tensor, nn

from lanmsff.data import FaceSet
from lanmsff.explain.controls import UNTRAINED_SEED, collect_statistics, untrained
from lanmsff.model import LANMSFF

CASCADE = ("head", "block4", "block3", "block2", "block1")


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation of two maps, over their pixels.

    Args:
        first, second: (N, H, W), map by map; only the order of the pixels counts.

    Returns:
        float64 (N,), in [-1, 1]; NaN where a map is the same everywhere, since it orders nothing.
    """
    if first.shape != second.shape:
        raise ValueError(f"maps of shapes {first.shape} and {second.shape} cannot be compared")

    def centred_ranks(maps: np.ndarray) -> np.ndarray:
        ranks = rankdata(maps.reshape(len(maps), -1), axis=1)
        return ranks - ranks.mean(axis=1, keepdims=True)

    a, b = centred_ranks(first), centred_ranks(second)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def mirror_agreement(explain: Callable[[Tensor], np.ndarray], images: Tensor) -> np.ndarray:
    """Correlation (N,) of the map of a face with the map of its mirror image, mirrored back.

    Args:
        explain: images (N, 1, H, W) -> maps (N, H, W).
    """
    mirrored = explain(images.flip(-1))[..., ::-1]
    return rank_correlation(explain(images), mirrored)


def turned_pairs(faces: FaceSet, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows (first, second) of the same person, expression and sitting, `degrees` of yaw apart.

    The second is the one with the larger yaw. Raises `ValueError` if the set lacks people or yaws.
    """
    if faces.subject is None or faces.yaw is None:
        raise ValueError(f"{faces.meta['dataset']} does not say who is seen, and from which side")
    sitting = faces.subject if faces.session is None else faces.session
    keys = zip(faces.subject.tolist(), sitting.tolist(), faces.labels.tolist(), faces.yaw.tolist())
    row = {key: k for k, key in enumerate(keys)}
    pairs = [
        (k, row[*face, yaw + degrees])
        for (*face, yaw), k in row.items()
        if (*face, yaw + degrees) in row
    ]
    return tuple(np.array(pairs, np.int64).reshape(-1, 2).T)


def cascade(
    model: LANMSFF, images: Tensor, seed: int = UNTRAINED_SEED
) -> Iterator[tuple[str, LANMSFF]]:
    """Forget the network part by part, from the head down (Adebayo et al. 2018).

    Args:
        images: float (N, 1, H, W); at each stage the fresh parts collect their statistics, see
            `lanmsff.explain.controls.collect_statistics`.

    Yields:
        The name of each part of `CASCADE`, and a copy of `model` in which this part and all that
        come after it in the network are as they were before training. The last is
        `untrained(model, images, seed)`.
    """
    fresh = untrained(model, images, seed)
    forgetful = copy.deepcopy(model).eval()
    forgotten = nn.ModuleList()
    for name in CASCADE:
        part = getattr(forgetful, name)
        part.load_state_dict(getattr(fresh, name).state_dict())
        forgotten.append(part)
        collect_statistics(forgetful, forgotten, images)
        yield name, copy.deepcopy(forgetful)
