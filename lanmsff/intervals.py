"""Confidence intervals: of an accuracy, of several faces of the same person, of differences.

Two faces of one person are not two independent observations, so people are drawn again, each with
all of their faces, and not faces (the cluster bootstrap: Davison and Hinkley 1997, section 3.8).
The percentiles of few people's draws lie too close together, so they are taken further out
(Hesterberg, The American Statistician 69 (2015) 371); the chapter "What a number is worth" measures
what either interval holds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
BLOCK = 2_000_000  # groups that are drawn at a time, so that many need little memory


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of an accuracy (Wilson 1927), in [0, 1]."""
    interval = stats.binomtest(correct, total).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_over_groups(
    values: np.ndarray,
    groups: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    n: int | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """95 % expanded percentile interval of a statistic of N values that come in groups.

    Its ends are the percentiles at which, for the mean of normal values, one in each of G groups, a
    bootstrap gives Student's interval: 2.5 and 97.5 for many groups, 1.25 and 98.75 for 14. But no
    draw leaves the range of the groups: of 2, 3, 4 and 5 groups with normal values such an interval
    holds the mean in 50, 74, 87 and 92 % of the cases, of 7 or more in 94 %.

    Args:
        values: (N, ...), one row for each face; a row may be a curve.
        groups: (N,), what the draws are made of: the person of each face, or, where people are
            not known, a different value for each face.
        statistic: from rows (M, ...) to a number or an array; default: the mean over the rows,
            from sums, which is much faster.
        n: number of draws; by default 20,000 for up to 100 groups, whose percentiles lie far out,
            else 2,000.

    Returns:
        low, high: both of the shape of the statistic.

    Raises:
        ValueError: no values, not as many groups as values, or all values in one group.
    """
    values, groups = np.asarray(values), np.asarray(groups)
    if not len(values) or groups.shape != values.shape[:1]:
        raise ValueError(f"{len(values)} values in groups of shape {groups.shape}")
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError(f"an interval needs at least two groups; all are {groups[0]!r}")
    n = n or (20_000 if len(sizes) <= 100 else 2_000)
    draws = _draws(n, len(sizes), seed)
    if statistic is None:
        sums = np.zeros((len(sizes), *values.shape[1:]))
        np.add.at(sums, group, values)
        found = np.concatenate([_means(drawn, sums, sizes) for drawn in draws])
    else:
        values = values[np.argsort(group, kind="stable")]
        starts = np.cumsum(sizes) - sizes
        found = [statistic(values[_rows(starts[draw], sizes[draw])])
                 for drawn in draws for draw in drawn]  # fmt: skip
    low, high = np.quantile(found, _tails(len(sizes)), axis=0)
    return low, high


@dataclass(frozen=True, eq=False)
class Means:
    """Means at G places on an axis, with 95 % intervals.

    Attributes:
        at: (G,), the places, ascending: yaws in degrees, for instance.
        mean, low, high: (G, ...), the mean and its interval.
    """

    at: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def means_by_yaw(values: np.ndarray, yaw: np.ndarray, subject: np.ndarray) -> Means:
    """Mean of `values` at each yaw, with intervals from a bootstrap over people.

    Args:
        values: (N, ...), one or more values of each face. NaN is left out; where nothing is known
            the mean and its interval are NaN.
        yaw: (N,), degrees, or any other quantity to group by.
        subject: (N,), the person.

    Raises:
        ValueError: lengths that differ, or a yaw at which only one person is known.
    """
    values, yaw, subject = np.asarray(values, np.float64), np.asarray(yaw), np.asarray(subject)
    if not yaw.shape == subject.shape == values.shape[:1]:
        raise ValueError(f"{len(values)} values, yaws of shape {yaw.shape}, subjects of shape "
                         f"{subject.shape}")  # fmt: skip
    columns = values.reshape(len(values), -1).T
    at = np.unique(yaw)
    found = np.full((3, len(at), len(columns)), np.nan)
    for row, place in enumerate(at):
        for k, column in enumerate(columns):
            known = (yaw == place) & ~np.isnan(column)
            if known.any():
                interval = bootstrap_over_groups(column[known], subject[known])
                found[:, row, k] = column[known].mean(), *interval
    return Means(at, *found.reshape(3, len(at), *values.shape[1:]))


def difference_interval(
    value: float, interval: tuple[float, float], other: float, other_interval: tuple[float, float]
) -> tuple[float, float]:
    """95 % interval (low, high) of `value` minus `other`, which were measured independently.

    Of two accuracies with their Wilson intervals it is method 10 of Newcombe (Statistics in Medicine
    17 (1998) 873): the distances to the ends that pull the same way are squared and added.

    Args:
        value, interval: a number and the (low, high) of its own 95 % interval, in any unit.
        other, other_interval: the other one, in the same unit.
    """
    (low, high), (other_low, other_high) = interval, other_interval
    apart = value - other
    return (float(apart - np.hypot(value - low, other_high - other)),
            float(apart + np.hypot(high - value, other - other_low)))


def over_faces_and_networks(
    value: float, over_faces: tuple[float, float], over_networks: tuple[float, float]
) -> tuple[float, float]:
    """95 % interval (low, high) of a mean over networks, for other faces and other networks at once.

    Two sources of error that are independent: the distances to either end are squared and added.

    Args:
        value: the mean, in any unit.
        over_faces: its interval for other faces and the same networks.
        over_networks: its interval for other networks and the same faces.
    """
    (low, high), (networks_low, networks_high) = over_faces, over_networks
    return (float(value - np.hypot(value - low, value - networks_low)),
            float(value + np.hypot(high - value, networks_high - value)))


def change_by_leaving_out(
    correct: float, n: int, kept_correct: float, kept_n: int
) -> tuple[float, tuple[float, float]]:
    """What an accuracy changes by when some of its faces are left out, with its 95 % interval.

    The share that is left out, times the accuracy on the rest minus that on those left out: two
    shares of different faces, each with its Wilson interval.

    Args:
        correct, n: of all faces; `correct` may be a mean over networks.
        kept_correct, kept_n: of those that are not left out, 0 < kept_n < n.
    """
    gone_correct, gone_n = correct - kept_correct, n - kept_n
    kept, gone = kept_correct / kept_n, gone_correct / gone_n
    low, high = difference_interval(
        kept, accuracy_interval(round(kept_correct), kept_n),
        gone, accuracy_interval(round(gone_correct), gone_n))  # fmt: skip
    share = gone_n / n
    return share * (kept - gone), (share * low, share * high)


def _draws(n: int, groups: int, seed: int) -> Iterator[np.ndarray]:
    """n draws with replacement of so many groups, a few rows at a time, to save memory."""
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // groups)
    for first in range(0, n, rows):
        yield rng.integers(groups, size=(min(rows, n - first), groups))


def _means(drawn: np.ndarray, sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Means (R, ...) over the rows in the groups of R draws, from the groups' sums and sizes."""
    cells = drawn + len(sizes) * np.arange(len(drawn))[:, None]  # one for each draw and group
    times = np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape)
    return (np.tensordot(times, sums, 1).T / (times @ sizes)).T


def _tails(groups: int) -> tuple[float, float]:
    """The quantiles of the draws that bound an interval, so that few groups do not make it short.

    The draws of a mean spread by the standard deviation with G in its denominator, and normally;
    Student's interval has G - 1 and the quantiles of t.
    """
    t = stats.t.ppf((1 - LEVEL) / 2, groups - 1)
    tail = stats.norm.cdf(t * np.sqrt(groups / (groups - 1)))
    return tail, 1 - tail


def _rows(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """start, start + 1, ... start + size - 1 of each run, in one array."""
    offset = np.repeat(starts - np.cumsum(sizes) + sizes, sizes)
    return offset + np.arange(len(offset))
