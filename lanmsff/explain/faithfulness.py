"""All measures of all maps of a set, beside those of the controls, as one table with intervals."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from lanmsff.data import FaceSet
from lanmsff.explain.attention import attention
from lanmsff.explain.cam import cam
from lanmsff.explain.controls import centre_maps, edge_maps, random_maps, untrained
from lanmsff.explain.perturbation import Perturbation, area
from lanmsff.explain.sanity import cascade, mirror_agreement, rank_correlation
from lanmsff.intervals import bootstrap_over_groups
from lanmsff.model import LANMSFF

Explain = Callable[[LANMSFF, Tensor, np.ndarray], np.ndarray]

# name -> (model, images (N, 1, H, W), classes to explain (N,)) -> maps (N, H, W)
KINDS: dict[str, Explain] = {
    "MassAtt, block 2": lambda model, images, _: attention(model, images).enlarged(2).numpy(),
    "MassAtt, block 4": lambda model, images, _: attention(model, images).enlarged(4).numpy(),
    "Grad-CAM": lambda model, images, targets: cam(model, images, targets).numpy(),
    "exact map": lambda model, images, targets: cam(
        model, images, targets, layer="all", method="exact"
    ).numpy(),
}
RANDOM, CENTRE = "random", "centre"
CONTROLS: dict[str, Explain] = {
    RANDOM: lambda _, images, __: random_maps(len(images), images.shape[-1]),
    CENTRE: lambda _, images, __: centre_maps(len(images), images.shape[-1]),
    "edges": lambda _, images, __: edge_maps(images),
    "Grad-CAM, untrained": lambda model, images, targets: cam(
        untrained(model, images), images, targets
    ).numpy(),
}
# name -> is more of it better
PERTURBATIONS = {"deletion": False, "insertion": True, "ROAD": True}
# in a table: by how much a map is better than the one that knows nothing, and than the one that
# knows where faces are
GAINS = {"gain": RANDOM, "over_centre": CENTRE}
Values = dict[tuple[str, str], np.ndarray]


def kinds_of(model: LANMSFF) -> dict[str, Explain]:
    """The maps of `KINDS` that this network can give: without MassAtt it has two."""
    has = model.config["attention"] == "massatt"
    return {name: make for name, make in KINDS.items() if has or not name.startswith("MassAtt")}


def perturbation_scores(
    model: LANMSFF, images: Tensor, targets: np.ndarray, maps: dict[str, np.ndarray]
) -> Iterator[tuple[str, Values, dict[str, np.ndarray]]]:
    """Score maps by what happens to the probability of `targets` when pixels go.

    Args:
        images: float (N, 1, H, W) in [0, 1].
        targets: (N,), the class explained in each.
        maps: name -> (N, H, W).

    Yields:
        For each map its name; its values (name, "deletion" or "insertion" or "ROAD") -> (N,); and
        its curves "deletion" and "insertion", (N, steps + 1).
    """
    perturbation = Perturbation(model, images, targets)
    for name, found in maps.items():
        curves = {
            "deletion": perturbation.deletion(found),
            "insertion": perturbation.insertion(found),
        }
        values = {(name, kind): area(curve) for kind, curve in curves.items()}
        yield name, values | {(name, "ROAD"): perturbation.road(found)}, curves


def sanity_scores(
    model: LANMSFF, images: Tensor, targets: np.ndarray, maps: dict[str, np.ndarray]
) -> Iterator[tuple[str, Values]]:
    """Compare maps of a network with those of its mirrored images, and of it half forgotten.

    Arguments as in `perturbation_scores`; names in `maps` must be in `KINDS`.

    Yields:
        For each map its name, and its rank correlations (N,) with what became of it: (name,
        "mirrored"), and (name, "without head"), "without block4" and so on, see `cascade`.
    """
    forgetful = list(cascade(model, images))
    for name, found in maps.items():
        make = KINDS[name]
        values = {
            (name, "mirrored"): mirror_agreement(lambda x: make(model, x, targets), images)
        }
        for part, network in forgetful:
            changed = make(network, images, targets)
            values[name, f"without {part}"] = rank_correlation(found, changed)
        yield name, values


def parts(faces: FaceSet) -> dict[str, np.ndarray]:
    """Masks (N,) of what is shown apart: all faces, and the views that the set distinguishes."""
    found = {"all": np.ones(len(faces), bool)}
    if faces.yaw is not None:
        found |= {f"yaw {yaw:g}": faces.yaw == yaw for yaw in np.unique(faces.yaw)}
    elif faces.pose30 is not None and faces.pose45 is not None and faces.pose30.any():
        found |= {"frontal": ~faces.pose30, "beyond 30": faces.pose30, "beyond 45": faces.pose45}
    return {name: mask for name, mask in found.items() if mask.any()}


def table(values: Values, faces: FaceSet) -> list[dict[str, Any]]:
    """One row for each map, measure and part of the set: the mean and its 95 % interval.

    People are drawn for the intervals, or faces where the set does not know people.

    Args:
        values: (map, measure) -> (N,), a value for each of `faces`; NaN is left out.
        faces: N faces.

    Returns:
        Rows with `map`, `measure`, `part`, `faces` (their number), `mean`, `low`, `high`; and, for
        measures that the controls of `GAINS` have too, `gain`, `gain_low`, `gain_high`: by how much
        the map is better than the random one on the same faces; and likewise `over_centre` and so
        on, than the blob in the middle. No interval (None) for a single person.
    """
    rows = []
    for (name, measure), value in values.items():
        references = {key: values[control, measure] for key, control in GAINS.items()
                      if control != name and (control, measure) in values}  # fmt: skip
        for part, mask in parts(faces).items():
            row = {"map": name, "measure": measure, "part": part}
            row |= _mean(value[mask], faces.groups[mask])
            for key, reference in references.items():
                better = value - reference if PERTURBATIONS[measure] else reference - value
                gain = _mean(better[mask], faces.groups[mask])
                row |= {key + end: gain[of] for end, of in
                        (("", "mean"), ("_low", "low"), ("_high", "high"))}  # fmt: skip
            rows.append(row)
    return rows


def _mean(values: np.ndarray, people: np.ndarray) -> dict[str, Any]:
    known = ~np.isnan(values)
    values, people = values[known], people[known]
    low = high = None
    if len(np.unique(people)) > 1:
        low, high = map(float, bootstrap_over_groups(values, people))
    mean = float(values.mean()) if len(values) else None
    return {"faces": len(values), "mean": mean, "low": low, "high": high}
