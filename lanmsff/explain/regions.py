"""Where on the face the mass of a map lies."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def region_shares(maps: np.ndarray, regions: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Share of each map's mass in each region.

    Args:
        maps: (N, H, W), not negative. A map of zeros points nowhere and counts as an even one.
        regions: integer (N, H, W), which region every pixel belongs to.
        names: the R names that `regions` indexes.

    Returns:
        float64 (N, R), rows sum to 1.

    Raises:
        ValueError: shapes that differ, a negative or non-finite value, a region without a name.
    """
    maps, regions = _checked(maps, regions, names)
    empty = maps.sum(axis=(1, 2)) == 0
    maps = np.where(empty[:, None, None], 1.0, maps)
    return _sums(maps, regions, len(names)) / maps.sum(axis=(1, 2))[:, None]


def region_lift(maps: np.ndarray, regions: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """`region_shares` over the region's share of the picture's area: float64 (N, R).

    1 is what an even map has; 3 is a region that gets three times the mass of an average place. NaN
    where the region cannot be seen in the picture.
    """
    shares = region_shares(maps, regions, names)
    areas = region_shares(np.ones(regions.shape), regions, names)
    return np.divide(shares, areas, out=np.full(shares.shape, np.nan), where=areas > 0)


def pointing_game(
    maps: np.ndarray,
    regions: np.ndarray,
    names: Sequence[str],
    wanted: Sequence[str],
    tolerance: float = 0,
) -> np.ndarray:
    """Ask of each map whether its maximum lies in a wanted region (Zhang et al., ECCV 2016).

    Args:
        maps: (N, H, W), any finite values. Of a plateau, the pixel nearest to its middle counts.
        regions: integer (N, H, W), indices into `names`.
        wanted: names of the regions that count as a hit.
        tolerance: how far from the region the maximum may lie, in pixels.

    Returns:
        bool (N,), the hits.

    Raises:
        ValueError: as `region_shares`, negative values allowed; a wanted name that is not there.
    """
    maps, regions = _checked(maps, regions, names, signed=True)
    if missing := set(wanted) - set(names):
        raise ValueError(f"no region {', '.join(sorted(missing))}; there are {', '.join(names)}")
    inside = np.isin(regions, [names.index(name) for name in wanted])
    rows, columns = np.array([_maximum(m) for m in maps]).T
    return np.array([
        mask.any() and ndimage.distance_transform_edt(~mask)[row, column] <= tolerance
        for mask, row, column in zip(inside, rows, columns)
    ])  # fmt: skip


def _checked(
    maps: np.ndarray, regions: np.ndarray, names: Sequence[str], signed: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    maps, regions = np.asarray(maps, np.float64), np.asarray(regions)
    if maps.ndim != 3 or maps.shape != regions.shape:
        raise ValueError(f"maps and regions must both be (N, H, W); got {maps.shape} and "
                         f"{regions.shape}")  # fmt: skip
    if not len(maps):
        raise ValueError("no maps: their first axis is 0")
    if not np.isfinite(maps).all():
        raise ValueError("maps hold NaN or infinity")
    if not signed and maps.min() < 0:
        raise ValueError(f"shares need maps that are not negative; the lowest is {maps.min():.3g}")
    if not 0 <= regions.min() <= regions.max() < len(names):
        raise ValueError(f"regions hold {regions.min()} to {regions.max()}, but there are "
                         f"{len(names)} names, from 0 on")  # fmt: skip
    return maps, regions


def _sums(maps: np.ndarray, regions: np.ndarray, count: int) -> np.ndarray:
    """Sum of each map (N, H, W) over each of `count` regions: (N, count)."""
    cell = np.arange(len(maps))[:, None, None] * count + regions
    return np.bincount(cell.ravel(), maps.ravel(), len(maps) * count).reshape(-1, count)


def _maximum(values: np.ndarray) -> tuple[int, int]:
    """Row and column of the maximum of (H, W); on a plateau, of its pixel nearest to its middle."""
    highest = np.argwhere(values == values.max())
    middle = highest.mean(axis=0)
    row, column = highest[((highest - middle) ** 2).sum(axis=1).argmin()]
    return int(row), int(column)
