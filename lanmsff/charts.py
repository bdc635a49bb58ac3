"""Figures of numbers: estimates with intervals, confusion, calibration, accuracy against cost.

In the style of `lanmsff.plots`: what is told by a color is told by a marker too.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox, Transform, offset_copy

from lanmsff.intervals import accuracy_interval
from lanmsff.plots import BLACK, BLUE, COLORS, MARKERS, ORANGE

LABEL_SIZE = 9  # points; the smallest text of the book
DARK = 0.715  # share of the scale "Blues" beyond which white has more contrast than black
TOGETHER = 0.6  # of the distance between rows, for those under one label
_HALO = withStroke(linewidth=2.5, foreground="white")  # where a label stands on a line
# where the label of a point may stand, the best place first: points away from it, and its anchor
_PLACES = (
    ((6, 0), "left"), ((-6, 0), "right"), ((0, 10), "center"), ((0, -10), "center"),
    ((5, 9), "left"), ((5, -9), "left"), ((-5, 9), "right"), ((-5, -9), "right"),
    ((6, 18), "left"), ((6, -18), "left"),
)  # fmt: skip


class Estimate(NamedTuple):
    """A number with its interval, in the unit of the axis that it is drawn on.

    Attributes:
        label: what it is of.
        value: the point.
        interval: low and high; None where it is not known.
        kind: estimates of one kind share color and marker; the legend names the kinds.
        cost: where it stands on the other axis of `show_costs`.
    """

    label: str
    value: float
    interval: tuple[float, float] | None = None
    kind: str = ""
    cost: float | None = None


def in_percent(
    label: str, share: float, interval: Sequence[float] | None = None, **more: Any
) -> Estimate:
    """The estimate of a share, or of a difference of shares, in percent or in points.

    Args:
        share: in [0, 1] or [-1, 1].
        interval: low and high, likewise.
        more: `kind` and `cost`.
    """
    ends = (100 * interval[0], 100 * interval[1]) if interval else None
    return Estimate(label, 100 * share, ends, **more)


def show_intervals(
    rows: Sequence[Estimate],
    x: str,
    *,
    level: float | None = None,
    digits: int = 1,
    kinds: Sequence[str] = (),
) -> Figure:
    """Points with horizontal intervals, one below the other, each with its number.

    Rows that follow each other under one label stand closer together, with the label once.

    Args:
        rows: from the top to the bottom.
        x: text of the axis, with the unit.
        level: where a dashed line stands, to compare with: 0 for differences.
        digits: decimal places of the numbers.
        kinds: their order, which gives each its look, whether it occurs or not; default: as they
            come.
    """
    looks = _looks(rows, kinds)
    groups: list[tuple[str, list[float]]] = []  # label, heights of its rows
    for row in rows:
        if groups and groups[-1][0] == row.label:
            groups[-1][1].append(groups[-1][1][-1] + TOGETHER)
        else:
            groups.append((row.label, [groups[-1][1][-1] + 1 if groups else 0]))
    heights = [y for _, found in groups for y in found]
    size = (6.8, 0.37 * (heights[-1] + 1) + 0.8 + 0.3 * (len(looks) > 1))
    figure, axis = plt.subplots(figsize=size)
    if level is not None:
        axis.axvline(level, color="0.45", lw=1, ls=(0, (2, 2)))
    numbers = []
    for y, row in zip(heights, rows):
        color, marker = looks[row.kind]
        if row.interval:
            axis.plot(row.interval, [y, y], color=color, lw=2.5)
        axis.plot(row.value, y, marker, color=color)
        number = f"{row.value:z.{digits}f}".replace("-", "−")
        numbers.append(axis.annotate(
            number, (row.value, y), (0, 6), textcoords="offset points", ha="center",
            fontsize=LABEL_SIZE, color=BLACK, path_effects=[_HALO],
        ))  # fmt: skip
    axis.set_yticks([sum(found) / len(found) for _, found in groups], [label for label, _ in groups])
    axis.set_ylim(heights[-1] + 0.5, -0.8)
    axis.margins(x=0.08)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.set_xlabel(x)
    _name_kinds(figure, looks)
    if level is not None:
        figure.draw_without_rendering()  # now it is known where the numbers are
        _clear(axis, numbers, level)
    return figure


def _clear(axis: Axes, numbers: Sequence[Annotation], level: float) -> None:
    """Move each number off the line at `level`, to the side on which its point is."""
    line = axis.transData.transform((level, 0))[0]
    for number in numbers:
        box = number.get_window_extent().padded(2)
        if box.x0 < line < box.x1:
            value, y = number.xy
            right = value >= level
            number.xy = level, y
            number.set(position=(3 if right else -3, 6), ha="left" if right else "right")


def show_costs(
    points: Mapping[str, Sequence[Estimate]],
    y: str,
    *,
    kinds: Sequence[str] = (),
    size: tuple[float, float] = (3.9, 3.8),
) -> Figure:
    """Estimates against what they cost, in panels side by side that share the upright axis.

    Points of the same cost, such as two trainings of one network, stand beside each other.

    Args:
        points: text of a panel's lower axis -> its estimates; those without a cost are left out.
        y: text of the upright axis.
        kinds: see `show_intervals`.
        size: width and height of one panel, in inches.
    """
    looks = _looks([point for panel in points.values() for point in panel], kinds)
    width = size[0] * len(points)
    figure, axes = plt.subplots(
        1, len(points), figsize=(width, size[1]), sharey=True, squeeze=False
    )
    shown = [[point for point in panel if point.cost is not None] for panel in points.values()]
    for axis, x, panel in zip(axes[0], points, shown):
        axis.set(xscale="log", xlabel=x)
        for point, place in zip(panel, _beside(axis, panel)):
            color, marker = looks[point.kind]
            if point.interval:
                axis.plot([point.cost] * 2, point.interval, color=color, lw=2.5, transform=place)
            axis.plot(point.cost, point.value, marker, color=color, ms=6, transform=place)
            # what is drawn beside its place does not count for the limits by itself
            axis.update_datalim([(point.cost, y) for y in (point.value, *(point.interval or ()))])
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.margins(x=0.3, y=0.1)
        axis.autoscale_view()
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
    axes[0, 0].set_ylabel(y)
    _name_kinds(figure, looks)
    figure.draw_without_rendering()  # now it is known where the points are
    for axis, panel in zip(axes[0], shown):
        _name_points(axis, panel)
    return figure


def show_confusion(
    confusion: Sequence[Sequence[int]],
    classes: Sequence[str],
    *,
    networks: int = 1,
    size: float = 0.62,
) -> Figure:
    """What faces of each class (rows) were called (columns), in percent of the row.

    Args:
        confusion: (K, K), numbers of faces; row: true class, column: predicted class.
        classes: K names.
        networks: whose answers to the same faces are counted together; the faces are told once.
        size: side of a cell, in inches.

    Raises:
        ValueError: not K rows of K.
    """
    counts = np.array(confusion)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"a confusion matrix of shape {counts.shape} for {len(classes)} classes")
    faces = counts.sum(1)
    shares = counts / np.maximum(faces, 1)[:, None]
    side = size * len(classes)
    figure, axis = plt.subplots(figsize=(side + 2.4, side + 0.9))
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts > 0):
        share = shares[row, column]
        text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
        axis.text(column, row, text, ha="center", va="center", fontsize=LABEL_SIZE,
                  color="white" if share > DARK else "black")  # fmt: skip
    axis.set_yticks(range(len(classes)), [f"{c} ({n // networks:,})" for c, n in zip(classes, faces)])
    axis.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
    axis.set(xlabel="the network says", ylabel="true class (faces)")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axis, shrink=0.8, aspect=25, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0", "50", "100"])
    bar.set_label("% of the row")
    return figure


def show_reliability(
    before: Mapping[str, Any], after: Mapping[str, Any], networks: int = 1
) -> Figure:
    """Accuracy against confidence, and how many faces are so sure, before and after scaling.

    A point is a bin of at least one face, with the 95 % Wilson interval of its accuracy. Answers of
    several networks to a face are not independent: they count as one there.

    Args:
        before, after: `calibration` of the same faces, see `lanmsff.calibration`.
        networks: how many have answered each face.
    """
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(4.8, 5.4), sharex=True, height_ratios=[3.2, 1]
    )
    top.plot([0, 1], [0, 1], color="0.45", lw=1, ls=(0, (2, 2)), label="as sure as right")
    for name, found, color, marker, line in (
        ("as trained", before, BLUE, "o", "-"),
        ("scaled", after, ORANGE, "s", "--"),
    ):
        bins = [row for row in zip(found["n"], found["confidence"], found["accuracy"]) if row[0]]
        n, sure, right = (np.array(column) for column in zip(*bins))
        faces = np.maximum(1, np.rint(n / networks)).astype(int)
        ends = [accuracy_interval(round(m * share), int(m)) for m, share in zip(faces, right)]
        top.vlines(sure, *zip(*ends), color=color, lw=1.2)
        label = f"{name}: error {100 * found['error']:.1f} points"
        top.plot(sure, right, color=color, marker=marker, ls=line, ms=4, lw=1, label=label,
                 clip_on=False)  # fmt: skip
        edges = np.linspace(0, 1, len(found["n"]) + 1)
        share = np.array(found["n"]) / sum(found["n"])
        bottom.stairs(100 * share, edges, color=color, ls=line, lw=1.5, clip_on=False)
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    figure.legend(loc="outside upper center")
    bottom.set(xlabel="confidence: probability of the class that is said", ylabel="% of faces")
    return figure


def _looks(rows: Sequence[Estimate], kinds: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Kind -> color and marker, of the kinds that occur."""
    occur = dict.fromkeys(row.kind for row in rows)
    looks = dict(zip(dict.fromkeys([*kinds, *occur]), zip(cycle(COLORS), cycle(MARKERS))))
    return {kind: look for kind, look in looks.items() if kind in occur}


def _name_kinds(figure: Figure, looks: Mapping[str, tuple[str, str]]) -> None:
    if len(looks) > 1:
        handles = [plt.Line2D([], [], color=color, marker=marker, ls="")
                   for color, marker in looks.values()]  # fmt: skip
        figure.legend(handles, looks, loc="outside upper center", ncols=min(len(looks), 4))


def _beside(axis: Axes, points: Sequence[Estimate]) -> list[Transform]:
    """From data to the canvas for each point, those of the same cost moved apart sideways."""
    costs = [point.cost for point in points]
    nth = [costs[:k].count(cost) for k, cost in enumerate(costs)]
    shifts = [8 * (k - (costs.count(cost) - 1) / 2) for k, cost in zip(nth, costs)]
    return [offset_copy(axis.transData, axis.figure, x, units="points") for x in shifts]


def _name_points(axis: Axes, points: Sequence[Estimate]) -> None:
    """Write each label where it covers no point, interval or other label, if there is a place."""
    places = _beside(axis, points)
    taken = [_pixels(place, point) for point, place in zip(points, places)]
    for point, place in sorted(zip(points, places), key=lambda pair: -pair[0].value):
        for offset, side in _PLACES:
            text = axis.annotate(
                point.label, (point.cost, point.value), offset, xycoords=place,
                textcoords="offset points", ha=side, va="center", fontsize=LABEL_SIZE, color=BLACK,
            )  # fmt: skip
            text.set_in_layout(False)
            box = text.get_window_extent()
            free = not any(box.overlaps(other) for other in taken)
            if free and axis.bbox.x0 < box.x0 and box.x1 < axis.bbox.x1:
                break
            if (offset, side) != _PLACES[-1]:
                text.remove()
        taken.append(box)


def _pixels(place: Transform, point: Estimate) -> Bbox:
    """The box of a point and its interval on the canvas."""
    low, high = point.interval or (point.value, point.value)
    ends = place.transform([(point.cost, low), (point.cost, high)])
    return Bbox(ends).padded(4)
