"""The one style of the book's figures, and the drawings that several chapters need.

White ground (dark mode keeps it), color-blind safe colors (Okabe and Ito), no text below 9 pt,
faces and features in grey, maps in viridis, one color bar for all maps that share a scale.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, YELLOW, SKY, BLACK = "#cc79a7", "#e69f00", "#56b4e9", "#333333"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK)
MAP = "viridis"


def use_style() -> None:
    """Set matplotlib's defaults for every figure that follows."""
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 120,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=COLORS),
            "image.cmap": "gray",
            "image.interpolation": "nearest",
        }
    )


def show_maps(
    maps: Sequence[np.ndarray],
    labels: Sequence[str] = (),
    *,
    columns: int = 8,
    size: float = 1.2,
    cmap: str = MAP,
    limits: tuple[float, float] | None = None,
    bar: str | None = None,
) -> Figure:
    """A grid of maps or grey images on one common scale.

    Args:
        maps: arrays (H, W), of any size.
        labels: one above each map, or none.
        columns: maps in a row.
        size: side of one map, in inches.
        limits: the values at the ends of the scale; default: the lowest and highest of all maps.
        bar: label of the color bar; without it there is none.
    """
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    width, height = columns * size + 0.8 * bool(bar), rows * size * (1.2 if labels else 1.05)
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    low, high = limits or (min(m.min() for m in maps), max(m.max() for m in maps))
    for axis in axes.flat:
        axis.set_axis_off()
    for k, (axis, image) in enumerate(zip(axes.flat, maps)):
        drawn = axis.imshow(image, cmap=cmap, vmin=low, vmax=high)
        if labels:
            axis.set_title(labels[k])
    if bar:
        figure.colorbar(drawn, ax=axes, label=bar, shrink=0.9)
    return figure
