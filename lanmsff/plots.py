"""The one style of the book's figures, and the drawings that several chapters need.

White ground (dark mode keeps it), color-blind safe colors (Okabe and Ito), no text below 9 pt,
faces and features in grey, maps in viridis, one color bar for all maps that share a scale. What is
told by a color is told by a symbol, a marker or a line style too.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from lanmsff.data import replacing
from lanmsff.intervals import Means

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, YELLOW, SKY, BLACK = "#cc79a7", "#e69f00", "#56b4e9", "#333333"
DARK_ORANGE = "#b84f00"  # for text, which needs more contrast with white than a line does
COLORS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY, BLACK)
MAP = "viridis"
MARKERS, LINES = "os^Dv<>", ("-", "--", "-.", ":")
# the curves that several figures show, and which of the looks above each has in all of them
KNOWN = {
    "MassAtt, block 2": 0, "MassAtt, block 4": 1, "Grad-CAM": 2, "own Grad-CAM": 2, "random": 3,
    "centre": 4, "exact map": 5, "another person's": 5, "picture": 6,
}  # fmt: skip


def _veil() -> tuple[ListedColormap, ListedColormap]:
    """`MAP`, from invisible at 0 to nearly opaque at 1, and what it looks like over middle grey."""
    colors = plt.get_cmap(MAP)(np.linspace(0, 1, 256))
    opacity = np.linspace(0, 0.85, 256)[:, None]
    over_grey = opacity * colors[:, :3] + (1 - opacity) * 0.5
    veil = np.hstack([colors[:, :3], opacity])
    return ListedColormap(veil, "veil"), ListedColormap(over_grey, "veil over grey")


VEIL, VEIL_OVER_GREY = _veil()


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


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, aside first and then moved into place, and close it."""
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=150, bbox_inches="tight")
    plt.close(figure)


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


@dataclass(frozen=True)
class Verdict:
    """What stands below a face: a text, and whether the network was right."""

    text: str
    right: bool


def verdicts(
    truth: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> list[Verdict]:
    """The predicted class of each face with its probability, and the true one where they differ.

    Args:
        truth: int (N,), indices into `classes`.
        probabilities: (N, K), in [0, 1].
        classes: K names.
    """
    made = []
    for true, row in zip(truth, probabilities):
        best = int(row.argmax())
        text = f"{classes[best]} {row[best]:.2f}"
        if best == true:
            made.append(Verdict(f"\N{CHECK MARK} {text}", True))
        else:
            made.append(Verdict(f"\N{BALLOT X} {text}\nis {classes[true]}", False))
    return made


def show_faces(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray | None] = (),
    labels: Sequence[str | Verdict] = (),
    *,
    columns: int = 5,
    rows: Sequence[str] = (),
    heads: Sequence[str] = (),
    size: float = 1.4,
    limits: tuple[float, float] = (0, 1),
    bar: str | None = None,
) -> Figure:
    """A grid of grey faces, each with a map laid over it, all maps on one scale.

    A map is the more opaque the higher its value, so that the face stays to be seen where there
    is little. The color bar shows it over a middle grey, and ends in a tip where a map has values
    beyond the scale.

    Args:
        images: (H, W) each, grey; uint8, or float in [0, 1].
        maps: one (h, w) for each image, of any size, or None for the bare face; or none at all.
        labels: one below each face: a text or a `Verdict`, or none at all.
        columns: faces in a row.
        rows: one text for each row, at its left.
        heads: one text for each column, above it.
        size: side of one face, in inches.
        limits: the values at the ends of the scale, the same for all maps.
        bar: label of the color bar; without it there is none.

    Raises:
        ValueError: not as many maps or labels as images.
    """
    for what, given in (("maps", maps), ("labels", labels)):
        if len(given) not in (0, len(images)):
            raise ValueError(f"{len(given)} {what} for {len(images)} images")
    columns = min(columns, len(images))
    count = -(-len(images) // columns)
    lines = max([_text(label).count("\n") + 1 for label in labels], default=0)
    width = columns * size + 0.9 * bool(bar) + 0.25 * bool(rows)
    height = count * (size + 0.05 + 0.17 * lines) + 0.25 * bool(heads)
    figure, axes = plt.subplots(count, columns, figsize=(width, height), squeeze=False)
    for axis in axes.flat[len(images) :]:
        axis.set_axis_off()
    for k, (axis, image) in enumerate(zip(axes.flat, images)):
        _face(axis, image, maps[k] if len(maps) else None, limits)
        if len(labels):
            axis.set_xlabel(_text(labels[k]), color=_color(labels[k]), fontsize=9, labelpad=2)
    for axis, text in zip(axes[:, 0], rows):
        axis.set_ylabel(text)
    for axis, text in zip(axes[0], heads):
        axis.set_title(text)
    if bar:
        scale = plt.cm.ScalarMappable(plt.Normalize(*limits), VEIL_OVER_GREY)
        bar_axis = figure.colorbar(
            scale, ax=axes, extend=_beyond(maps, limits), shrink=min(1, 3 / count), aspect=25
        )
        bar_axis.set_label(bar, fontsize=9)  # as small as the ticks, to fit beside a single row
    return figure


def _beyond(maps: Sequence[np.ndarray | None], limits: tuple[float, float]) -> str:
    """On which side maps have values beyond the limits, in matplotlib's words."""
    low, high = limits
    edge = 1e-6 * (high - low)  # rounding is not beyond
    under = any(m is not None and m.min() < low - edge for m in maps)
    over = any(m is not None and m.max() > high + edge for m in maps)
    return ("neither", "min", "max", "both")[under + 2 * over]


def _face(
    axis: Axes, image: np.ndarray, overlay: np.ndarray | None, limits: tuple[float, float]
) -> None:
    white = 255 if image.dtype == np.uint8 else 1
    extent = (0, 1, 1, 0)  # image and map fill the same square, whatever their sizes
    axis.imshow(image, cmap="gray", vmin=0, vmax=white, extent=extent)
    if overlay is not None:
        axis.imshow(overlay, cmap=VEIL, vmin=limits[0], vmax=limits[1], extent=extent)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _text(label: str | Verdict) -> str:
    return label.text if isinstance(label, Verdict) else label


def _color(label: str | Verdict) -> str:
    if isinstance(label, Verdict):
        return BLUE if label.right else DARK_ORANGE
    return BLACK


def show_curves(
    panels: Mapping[str, Mapping[str, Means]],
    x: str,
    y: str,
    *,
    level: tuple[float, str] | None = None,
    size: tuple[float, float] = (3.6, 2.8),
) -> Figure:
    """Curves with their intervals as bands, in panels side by side that share axes and colors.

    Args:
        panels: title -> {label: curve}. A curve of the same label looks the same in every panel,
            and in every figure if its label is in `KNOWN`.
        x, y: texts of the axes.
        level: height and text of a dashed line to compare with.
        size: width and height of one panel, in inches.
    """
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    every = list(zip(COLORS, MARKERS, cycle(LINES)))
    looks = {label: every[KNOWN[label]] for label in labels if label in KNOWN}
    free = [look for look in every if look not in looks.values()]
    looks |= zip([label for label in labels if label not in looks], cycle(free or every))
    width = size[0] * len(panels) + 1.3
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, size[1]), sharex=True, sharey=True, squeeze=False
    )
    for axis, (title, curves) in zip(axes[0], panels.items()):
        for label, curve in curves.items():
            color, marker, line = looks[label]
            axis.fill_between(curve.at, curve.low, curve.high, color=color, alpha=0.2, lw=0)
            axis.plot(curve.at, curve.mean, color=color, marker=marker, ls=line, ms=4, label=label)
            if len(curve.at) <= 7:
                axis.set_xticks(curve.at)
            elif abs(curve.at[0]) == curve.at[-1] == 90:  # a turn of the head
                axis.set_xticks(np.linspace(-90, 90, 5))
        if level:
            axis.axhline(level[0], color="0.45", lw=1, ls=(0, (2, 2)), label=level[1])
        axis.set(xlabel=x, title=title)
    axes[0, 0].set_ylabel(y)
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels())
    }
    figure.legend(handles.values(), handles, loc="outside right center")
    return figure


def picture(figure: Figure) -> np.ndarray:
    """What a figure looks like, uint8 (H, W, 3); the figure is closed."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels


# in the colors of the book, light or dark; Jupyter has none of that name
_BUTTON = (
    "width: 5em; padding: 0.2em; border: 1px solid var(--pst-color-border, #888);"
    " border-radius: 0.25rem; background: var(--pst-color-surface, #eee); color: inherit"
)


@dataclass(frozen=True, eq=False)
class Player:
    """Pictures behind a slider, as HTML that needs no server and no other file.

    Jupyter and the book show it where it is the last value of a cell.

    Attributes:
        frames: F pictures of one size, uint8 (H, W, 3), at least two.
        names: what each shows, in words: stands below it, and is read to those who cannot see it.
        start: the frame that is seen first.
    """

    frames: Sequence[np.ndarray]
    names: Sequence[str]
    start: int = 0

    def _repr_html_(self) -> str:
        count = len(self.frames)
        height, width = self.frames[0].shape[:2]
        film = io.BytesIO()  # all frames below each other; the image shows one of them
        Image.fromarray(np.concatenate(self.frames)).save(film, "WebP", quality=80)
        source = base64.b64encode(film.getvalue()).decode()
        show = (
            "const f = this.closest('figure'); f.style.setProperty('--frame', this.value);"
            "this.ariaValueText = f.querySelector('output').value ="
            " JSON.parse(f.dataset.names)[this.value]"
        )
        play = (
            "const f = this.closest('figure'), s = f.querySelector('input');"
            "if (f.timer) { clearInterval(f.timer); f.timer = 0 } else f.timer = setInterval(() =>"
            f" {{ s.value = (+s.value + 1) % {count}; s.dispatchEvent(new Event('input')) }}, 400);"
            "this.textContent = f.timer ? 'Pause' : 'Play'"
        )
        return f"""\
<figure style="--frame: {self.start}; max-width: {width}px; margin: 1em 0; padding: 0"
 data-names="{escape(json.dumps(list(self.names)))}">
<img alt="The picture that the slider below chooses; its text says what it shows."
 src="data:image/webp;base64,{source}" style="display: block; width: 100%; object-fit: cover;
 aspect-ratio: {width} / {height}; object-position: 0 calc(var(--frame) * 100% / {count - 1})">
<div style="display: flex; gap: 1em; align-items: center; margin-top: 0.5em">
<button type="button" onclick="{escape(play)}" style="{_BUTTON}">Play</button>
<input type="range" style="flex: 1" min="0" max="{count - 1}" value="{self.start}"
 aria-label="frame" aria-valuetext="{escape(self.names[self.start])}" oninput="{escape(show)}">
</div>
<output style="display: block">{escape(self.names[self.start])}</output>
</figure>"""
