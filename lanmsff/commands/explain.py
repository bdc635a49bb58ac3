"""`python -m lanmsff explain`: the maps of a whole set, and whether they can be trusted."""

import argparse
import csv
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from lanmsff import plots
from lanmsff.augment import resize, to_float
from lanmsff.commands.arguments import add_data, add_split, add_weights, load_split, positive
from lanmsff.data import FaceSet, check_writable, replacing
from lanmsff.device import pick_device, to_device
from lanmsff.explain import Means, attention, cam, normalise
from lanmsff.explain.controls import edge_maps
from lanmsff.explain.faithfulness import (
    CONTROLS,
    RANDOM,
    Values,
    kinds_of,
    parts,
    perturbation_scores,
    sanity_scores,
    table,
)
from lanmsff.explain.maps import BATCH_SIZE
from lanmsff.explain.perturbation import probabilities
from lanmsff.explain.sanity import rank_correlation, turned_pairs
from lanmsff.intervals import bootstrap_over_groups
from lanmsff.results import environment, write_record

SAMPLE = 24
SEED = 0
CAM = "Grad-CAM"
EXAMPLES = 5
COLUMNS = ("map", "measure", "part", "faces", "mean", "low", "high",
           "gain", "gain_low", "gain_high",
           "over_centre", "over_centre_low", "over_centre_high")  # fmt: skip
MEANS_SIDE = 16  # of the mean maps in the record
Maps = dict[str, np.ndarray]


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="attention and class activation maps of a set, and how far they can be trusted",
        description="Make the attention and Grad-CAM maps of a whole set, and measure them beside "
        "maps that know nothing. Writes faithfulness.csv (each measure with its 95 % interval), "
        "record.json and the figures.",
    )
    add_weights(parser)
    add_data(parser)
    add_split(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--sample",
        type=positive,
        default=SAMPLE,
        metavar="N",
        help="faces, drawn at random, for the measures that need over a hundred passes of the "
        "network for each: deletion, insertion, ROAD, forgetting (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    started = monotonic()
    device = pick_device(arguments.device)
    weights, faces, data = load_split(arguments)
    check_writable(arguments.out, "folder")
    model = to_device(weights.model, device)
    images = to_float(resize(torch.from_numpy(faces.images)))

    maps, scores = _whole_set(model, images)
    means = _mean_maps(faces, maps)
    targets = scores.argmax(axis=1)
    rows = table(_agreement(faces, images, maps), faces)

    rng = np.random.default_rng(SEED)
    drawn = np.sort(rng.choice(len(faces), min(arguments.sample, len(faces)), replace=False))
    sample = faces.select(drawn)
    sampled = {
        name: maps[name][drawn] if name in maps else make(model, images[drawn], targets[drawn])
        for name, make in (kinds_of(model) | CONTROLS).items()
    }
    values, curves = _sampled(model, images[drawn], targets[drawn], sampled)
    rows += table(values, sample)

    record = {
        "weights": weights.origin,
        "data": data,
        "sample": sample.name.tolist(),
        "seed": SEED,
        "rows": rows,
        "mean_maps": {name: {part: _small(mean) for part, mean in of.items()}
                      for name, of in means.items()},
        "seconds": round(monotonic() - started, 1),
        "environment": environment(device, "float32"),
    }
    _write(arguments.out, rows, record)

    plots.use_style()
    _draw(arguments.out / "faces.png", _faces(sample, images[drawn], scores[drawn], sampled))
    _draw(arguments.out / "means.png", _means(faces, images, means))
    _draw(arguments.out / "curves.png", _curves(sample, curves))
    if panels := _by_yaw(rows):
        _draw(arguments.out / "views.png", _views(panels))
    _print(rows, len(faces), len(sample))


def _whole_set(model: torch.nn.Module, images: Tensor) -> tuple[Maps, np.ndarray]:
    """The maps that cost one pass or two, of all faces, and the class probabilities (N, K)."""
    found: dict[str, list[Tensor]] = {}
    with tqdm(total=len(images), unit="face", desc="maps") as bar:
        for batch in images.split(BATCH_SIZE):
            made = {}
            if model.config["attention"] == "massatt":
                attended = attention(model, batch)
                scores = attended.logits.softmax(dim=1)
                made = {f"MassAtt, block {k}": attended.enlarged(k) for k in (2, 4)}
            else:
                scores = probabilities(model, batch)
            made |= {CAM: cam(model, batch, scores.argmax(dim=1)), "": scores}
            for name, part in made.items():
                found.setdefault(name, []).append(part)
            bar.update(len(batch))
    maps = {name: torch.cat(of).numpy() for name, of in found.items()}
    return maps, maps.pop("")


def _agreement(faces: FaceSet, images: Tensor, maps: Maps) -> Values:
    """Attention against Grad-CAM, and every map against that of the same face turned a step."""
    values = {
        (name, f"agreement with {CAM}"): rank_correlation(found, maps[CAM])
        for name, found in maps.items()
        if name != CAM
    }
    yaws = np.unique(faces.yaw) if faces.yaw is not None and faces.subject is not None else []
    if len(yaws) > 1:
        step = float(np.diff(yaws).min())
        first, second = turned_pairs(faces, step)
        if not len(first):  # measured angles need not come in steps
            return values
        for name, found in (maps | {"edges": edge_maps(images)}).items():
            turned = np.full(len(faces), np.nan)
            turned[first] = rank_correlation(found[first], found[second])
            values[name, f"turned by {step:.0f} degrees"] = turned
    return values


def _mean_maps(faces: FaceSet, maps: Maps) -> dict[str, Maps]:
    """Map -> part of the set -> the mean of its maps, (H, W)."""
    masks = parts(faces)
    return {
        name: {part: found[mask].mean(axis=0) for part, mask in masks.items()}
        for name, found in maps.items()
    }


def _small(mean: np.ndarray) -> list[list[float]]:
    """A mean map at `MEANS_SIDE`, four decimals, for the record."""
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(mean)[None], MEANS_SIDE)[0]
    return pooled.double().numpy().round(4).tolist()


def _sampled(
    model: torch.nn.Module, images: Tensor, targets: np.ndarray, maps: Maps
) -> tuple[Values, dict[str, Maps]]:
    """The measures that take many passes, and the curves: "deletion" -> map -> (N, steps + 1)."""
    values, curves = {}, {"deletion": {}, "insertion": {}}
    own = {name: maps[name] for name in kinds_of(model)}
    with tqdm(total=len(maps) + len(own), unit="map", desc="faithfulness") as bar:
        for name, found, drawn in perturbation_scores(model, images, targets, maps):
            values |= found
            for kind, curve in drawn.items():
                curves[kind][name] = curve
            bar.update()
        for _, found in sanity_scores(model, images, targets, own):
            values |= found
            bar.update()
    return values, curves


# --- figures


def _faces(faces: FaceSet, images: Tensor, scores: np.ndarray, maps: Maps) -> Figure:
    """A few faces, each with all of its maps and two controls in its row."""
    shown = {name: maps[name] for name in maps if name not in ("exact map", "centre")}
    rows = np.linspace(0, len(faces) - 1, min(EXAMPLES, len(faces))).astype(int)
    pictures = images[rows, 0].numpy()
    layers = [normalise(torch.from_numpy(found[rows])).numpy() for found in shown.values()]
    width = 1 + len(shown)
    overlays = [layer for k in range(len(rows)) for layer in (None, *(of[k] for of in layers))]
    labels = [
        text
        for verdict in plots.verdicts(faces.labels[rows], scores[rows], faces.classes)
        for text in (verdict, *[""] * len(shown))
    ]
    return plots.show_faces(
        [picture for picture in pictures for _ in range(width)],
        overlays,
        labels,
        columns=width,
        heads=["", *(name.replace(", ", ",\n") for name in shown)],
        bar="each map's lowest to highest value",
    )


def _means(faces: FaceSet, images: Tensor, means: dict[str, Maps]) -> Figure:
    """The mean map of each part of the set over its mean face."""
    masks = parts(faces)
    pictures = [images[mask, 0].mean(0).numpy() for mask in masks.values()]
    layers = [normalise(torch.from_numpy(np.stack([*of.values()]))).numpy() for of in means.values()]
    return plots.show_faces(
        pictures * len(means),
        [layer for of in layers for layer in of],
        columns=len(masks),
        rows=list(means),
        heads=list(masks),
        bar="each map's lowest to highest value",
    )


def _curves(faces: FaceSet, curves: dict[str, Maps]) -> Figure:
    """The curves of the network's own maps and of the random one; the others are in the table."""
    figure = plots.show_curves(
        {
            kind: {
                name: _mean_curve(curve, faces.groups)
                for name, curve in drawn.items()
                if name == RANDOM or name not in CONTROLS
            }
            for kind, drawn in curves.items()
        },
        "share of the pixels",
        "probability of the class",
    )
    figure.axes[0].set_xticks(np.linspace(0, 1, 6))
    return figure


def _mean_curve(curve: np.ndarray, people: np.ndarray) -> Means:
    mean = curve.mean(axis=0)
    several = len(np.unique(people)) > 1
    low, high = bootstrap_over_groups(curve, people) if several else (mean, mean)
    return Means(np.linspace(0, 1, curve.shape[1]), mean, low, high)


def _by_yaw(rows: list[dict[str, Any]]) -> dict[str, dict[str, Means]]:
    """Agreement of attention with Grad-CAM, and of maps with those of turned faces: measure -> map.

    Empty where no yaw is known, or where there is nothing to compare.
    """
    panels: dict[str, dict[str, Means]] = {}
    by_yaw = [row for row in rows if row["part"].startswith("yaw") and row["mean"] is not None]
    for measure in dict.fromkeys(row["measure"] for row in by_yaw):
        if not measure.startswith(("agreement", "turned")):
            continue
        found: dict[str, list] = {}
        for row in by_yaw:
            if row["measure"] == measure:
                bounds = [row["mean"] if row[k] is None else row[k] for k in ("low", "high")]
                found.setdefault(row["map"], []).append(
                    (float(row["part"].removeprefix("yaw")), row["mean"], *bounds)
                )
        panels[measure] = {name: Means(*np.array(of).T) for name, of in found.items()}
    return panels


def _views(panels: dict[str, dict[str, Means]]) -> Figure:
    figure = plots.show_curves(panels, "yaw (degrees)", "rank correlation")
    figure.axes[0].set_xticks(np.arange(-90, 91, 45))
    return figure


# --- what is left


def _draw(path: Path, figure: Figure) -> None:
    plots.save(figure, path)
    print(path)


def _write(out: Path, rows: list[dict[str, Any]], record: dict[str, Any]) -> None:
    with replacing(out / "faithfulness.csv") as aside, open(aside, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    write_record(out / "record.json", record)
    for name in ("faithfulness.csv", "record.json"):
        print(out / name)


def _print(rows: list[dict[str, Any]], count: int, sampled: int) -> None:
    print(f"maps of {count:,} faces; deletion, insertion and ROAD on {sampled:,} of them")
    print(f"{'':22}{'deletion':>12}{'insertion':>12}{'ROAD':>12}")
    print(f"{'better is':22}{'lower':>12}{'higher':>12}{'higher':>12}")
    wanted = {(row["map"], row["measure"]): row for row in rows if row["part"] == "all"}
    for name in dict.fromkeys(name for name, measure in wanted if measure == "deletion"):
        cells = (wanted[name, kind]["mean"] for kind in ("deletion", "insertion", "ROAD"))
        mark = "  control" if name in CONTROLS else ""
        print(f"{name:22}" + "".join(f"{cell:12.3f}" for cell in cells) + mark)
