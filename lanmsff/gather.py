"""The record of an experiment, from the records of its jobs: means, spreads, paired differences.

Two questions have two intervals, and both are given:

    over_faces_95      other test faces, the same networks: people are drawn again, each with all of
                       their faces; faces, where people are not known (`lanmsff.intervals`)
    over_networks_95   other seeds, the same test faces: Student's t over the networks' figures

A figure of several networks is their mean. Where a protocol has folds, the networks of one seed are
put together: each face is scored by the network that never saw it, and they count as one network.
Test faces that belong to no fold are scored by the network of every fold; those of one seed, which
share most of their training faces, count as one there as well: the mean of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from lanmsff.calibration import calibration
from lanmsff.cost import multiply_accumulates, parameter_count
from lanmsff.data import FaceSet
from lanmsff.evaluate import evaluate, score, subsets
from lanmsff.experiments import FOLDED, PROTOCOLS, Experiment, Job
from lanmsff.intervals import bootstrap_over_groups
from lanmsff.jobs import Setting, load_logits, mark_leaks, recorded
from lanmsff.model import LANMSFF
from lanmsff.recipes import pick_recipe
from lanmsff.results import read_record, write_record

_HISTORY = ("learning_rate", "loss", "accuracy", "val_loss", "val_accuracy")
_DIGITS = 5  # significant, of the curves in a record


@dataclass(frozen=True, eq=False)
class Answers:
    """What R networks say of the same N test faces.

    Attributes:
        faces: the N faces.
        networks: R names, "seed 0" or "seed 0, fold 3".
        logits: float32 (R, N, K).
        scaled: the same, each divided by the temperature of its network.
    """

    faces: FaceSet
    networks: tuple[str, ...]
    logits: Tensor
    scaled: Tensor

    @property
    def correct(self) -> np.ndarray:
        """bool (R, N)."""
        return self.logits.argmax(2).numpy() == self.faces.labels

    @property
    def right(self) -> np.ndarray:
        """float (S, N): which share of the networks of a seed is right, for each of S seeds."""
        seeds = np.array([name.partition(",")[0] for name in self.networks])
        return np.stack([self.correct[seeds == seed].mean(0) for seed in dict.fromkeys(seeds)])

    @property
    def groups(self) -> np.ndarray:
        """(N,): the person of each face, or a number of its own where people are not known."""
        subject = self.faces.subject
        return np.arange(len(self.faces)) if subject is None else subject


def gather(
    name: str, experiment: Experiment, setting: Setting, epochs: int | None = None
) -> dict[str, Any]:
    """The record of an experiment from those of its jobs that are done.

    Raises:
        ValueError: not one job is done.
    """
    jobs = {job: recorded(job, setting) for arm in experiment.arms
            for job in experiment.jobs(arm, epochs)}  # fmt: skip
    done = {job: record for job, record in jobs.items() if record}
    if not done:
        raise ValueError(f"{name}: no job is done yet")
    sets = {key: setting.load(key) for key in experiment.sets}
    arms: dict[str, Any] = {}
    answers: dict[str, dict[str, Answers]] = {}
    for label, arm in experiment.arms.items():
        own = {job: done[job] for job in experiment.jobs(label, epochs) if job in done}
        if not own:
            continue
        answers[label] = {
            key: collect(own, arm.weights, key, sets[key], setting) for key in next(iter(own)).sets
        }
        model = LANMSFF(len(sets[experiment.data].classes), **arm.options)
        arms[label] = {
            "protocol": PROTOCOLS[arm.protocol],
            "options": arm.options,
            "changes": arm.changes,
            "weights": arm.weights,
            "jobs": [str(job) for job in own],
            "parameters": parameter_count(model),
            "multiply_accumulates": multiply_accumulates(model),
            "tests": {key: summary(found) for key, found in answers[label].items()},
        }
    first, *others = experiment.arms
    for label in others:
        if first in arms and label in arms:
            found = {key: difference(ours, answers[first][key])
                     for key, ours in answers[label].items() if key in answers[first]}
            arms[label][f"minus {first}"] = {key: diff for key, diff in found.items() if diff}
    weights = {arm.weights for arm in experiment.arms.values()}
    environments = [record["run"]["environment"] for record in done.values()]
    return {
        "experiment": name,
        "reason": experiment.reason,
        "jobs_done": len(done),
        "jobs_all": len(jobs),
        "recipe": experiment.recipe,
        "start": experiment.start and {"weights": experiment.start,
                                       "sha256": next(iter(done.values()))["start"]},
        "settings": asdict(pick_recipe(experiment.recipe)) | ({"epochs": epochs} if epochs else {}),
        "data": {key: {**{field: faces.meta[field] for field in ("dataset", "rule", "classes")},
                       "sha256": setting.hashes[key], "people_known": faces.subject is not None}
                 for key, faces in sets.items()},
        "environments": [e for i, e in enumerate(environments) if e not in environments[:i]],
        "arms": arms,
        "jobs": {str(job): _job_in_short(record, weights) for job, record in done.items()},
    }  # fmt: skip


def write_result(path: Path, record: dict[str, Any]) -> bool:
    """Write the record of an experiment, unless `path` holds one of more jobs. Was it written?"""
    if path.is_file() and read_record(path).get("jobs_done", 0) > record["jobs_done"]:
        return False
    write_record(path, record)
    return True


def collect(
    jobs: Mapping[Job, dict[str, Any]], weights: str, name: str, faces: FaceSet, setting: Setting
) -> Answers:
    """What the networks of some jobs of one arm say of the test faces of a prepared set.

    Args:
        jobs: with their records; at least one.
        weights: "best" or "last".
        name: of the prepared set.
        faces: that set.
    """
    protocol = next(iter(jobs)).protocol
    faces = mark_leaks(faces, protocol)
    found = {}
    for job, record in jobs.items():
        logits, rows = load_logits(setting.folder(job), weights, name)
        found[job] = logits, logits / record["scores"][weights]["temperature"], rows
    folded = protocol in FOLDED
    if not folded or name != next(iter(jobs)).data:
        names = [f"seed {job.seed}" + (f", fold {job.fold}" if folded else "") for job in jobs]
        networks = dict(zip(names, found.values()))
    else:
        seeds = sorted({job.seed for job in jobs})
        folds = set.intersection(*({j.fold for j in jobs if j.seed == seed} for seed in seeds))
        networks = {}
        for seed in seeds:
            parts = [found[job] for job in jobs if job.seed == seed and job.fold in folds]
            logits, scaled = (torch.cat([part[i] for part in parts]) for i in (0, 1))
            rows = np.concatenate([part[2] for part in parts])
            order = np.argsort(rows)
            networks[f"seed {seed}"] = logits[order], scaled[order], rows[order]
    return Answers(
        faces.select(next(iter(networks.values()))[2]),
        tuple(networks),
        torch.stack([logits for logits, _, _ in networks.values()]),
        torch.stack([scaled for _, scaled, _ in networks.values()]),
    )


def summary(answers: Answers) -> dict[str, Any]:
    """Figures of R networks on N faces, in total and on every part (see `evaluate`).

    Returns:
        `parts`: for each, `n`, `accuracy` (see `spread`), and the networks' mean `macro_f1` and
        `loss`; `per_class` and `confusion` of all faces, summed over the networks; `calibration`
        and `calibration_scaled` over all their answers; `yaw`, where it is known; and `correct`,
        one text for each network, see `lanmsff.tables.correct_faces`.
    """
    faces, right, groups = answers.faces, answers.right, answers.groups
    each = [evaluate(faces, logits) for logits in answers.logits]
    parts = {}
    for part, mask in subsets(faces):
        if mask.any():
            parts[part] = {
                "n": int(mask.sum()),
                "accuracy": spread(right[:, mask], groups[mask]),
                **{key: float(np.mean([scores[part][key] for scores in each]))
                   for key in ("macro_f1", "loss")},
            }  # fmt: skip
    labels = np.tile(faces.labels, len(answers.networks))
    together = score(answers.logits.flatten(0, 1), labels, faces.classes)
    found = {
        "networks": answers.networks,
        "correct": [np.packbits(row).tobytes().hex() for row in answers.correct],
        "parts": parts,
        "per_class": together["per_class"],
        "confusion": together["confusion"],
        "calibration": calibration(answers.logits.flatten(0, 1), labels),
        "calibration_scaled": calibration(answers.scaled.flatten(0, 1), labels),
    }
    if faces.yaw is not None:
        found["yaw"] = [
            {"yaw": float(yaw), "n": int((faces.yaw == yaw).sum()),
             "accuracy": spread(right[:, faces.yaw == yaw], groups[faces.yaw == yaw])}
            for yaw in np.unique(faces.yaw)
        ]  # fmt: skip
    return found


def difference(ours: Answers, theirs: Answers) -> dict[str, Any] | None:
    """How much more often our networks are right than theirs, paired face by face.

    Networks of the same name (seed, fold) are paired too; where the names are not the same, the
    means over the networks are compared. Without leaked faces means without those that are leaked
    for either: what is, depends on the protocol.

    Returns:
        The `spread` of the difference of accuracies for every part; None if the faces are others.
    """
    one, other = (replace(found.faces, leaked_from=None).sha256 for found in (ours, theirs))
    if one != other:
        return None
    a, b = ours.right, theirs.right
    if ours.networks != theirs.networks:
        a, b = a.mean(0, keepdims=True), b.mean(0, keepdims=True)
    masks = dict(subsets(ours.faces))
    masks = {part: masks[part] & mask for part, mask in subsets(theirs.faces)}
    return {
        part: spread((a - b)[:, mask], ours.groups[mask])
        for part, mask in masks.items()
        if mask.any()
    }


def spread(values: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Mean of a figure over R networks (or seeds) and N faces, with what it owes to either.

    Args:
        values: (R, N), for instance whether network r is right on face n.
        groups: (N,), see `Answers.groups`.

    Returns:
        `mean`; `over_faces_95`, None with fewer than two groups; `each`, the means of the networks;
        and their standard deviation `sd` and `over_networks_95`, None with one network.
    """
    each = values.mean(1)
    found: dict[str, Any] = {
        "mean": float(each.mean()), "over_faces_95": None,
        "each": each.tolist(), "sd": None, "over_networks_95": None,
    }  # fmt: skip
    if len(np.unique(groups)) > 1:
        low, high = bootstrap_over_groups(values.mean(0), groups)
        found["over_faces_95"] = [float(low), float(high)]
    if len(each) > 1:
        found["sd"] = float(each.std(ddof=1))
        half = stats.t.ppf(0.975, len(each) - 1) * found["sd"] / np.sqrt(len(each))
        found["over_networks_95"] = [float(each.mean() - half), float(each.mean() + half)]
    return found


def _job_in_short(record: dict[str, Any], weights: set[str]) -> dict[str, Any]:
    """A job in the record of its experiment: scores without classes, the history as columns."""
    run = record["run"]
    scores = {
        which: {
            "temperature": of["temperature"],
            "tests": {
                name: {part: {key: value for key, value in scores.items()
                              if key not in ("per_class", "confusion")}
                       for part, scores in test["parts"].items()}
                for name, test in of["tests"].items()
            },
        }
        for which, of in record["scores"].items() if which in weights
    }  # fmt: skip
    curves = {
        key: [float(f"{epoch[key]:.{_DIGITS}g}") for epoch in run["history"]] for key in _HISTORY
    }
    kept = {key: run[key] for key in ("epochs", "finished", "best", "images_per_epoch", "seconds")}
    return {"seed": record["job"]["seed"], "fold": record["job"]["fold"], **kept,
            "history": curves, "scores": scores}  # fmt: skip
