"""The record of an experiment: of the jobs that ran here, and of those that it held before.

What is compared, and how the figures of several networks become one, says `lanmsff.answers`. Jobs
may have run on several machines, or their folders may be gone: a record that lies where the new one
goes is joined with it, from what it says of each network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lanmsff.answers import Answers, difference, summary
from lanmsff.cost import multiply_accumulates, parameter_count
from lanmsff.data import FaceSet
from lanmsff.experiments import FOLDED, FOLDS, PROTOCOLS, Experiment, Job
from lanmsff.jobs import Setting, divide, load_logits, mark_leaks, recorded
from lanmsff.model import LANMSFF
from lanmsff.recipes import pick_recipe
from lanmsff.results import read_record, write_record
from lanmsff.weights import load_weights

_HISTORY = ("learning_rate", "loss", "accuracy", "val_loss", "val_accuracy")
_DIGITS = 5  # significant, of the curves in a record


def update_record(
    path: Path, name: str, experiment: Experiment, setting: Setting, epochs: int | None = None
) -> str:
    """Write the record of an experiment to `path`, joined with the one that may lie there.

    Jobs that it holds and that did not run here are kept, unless both cannot be joined; then the
    new one takes its place only if it has more jobs.

    Returns:
        What became of it, in a line.

    Raises:
        ValueError: not one job is done here, or what lies there is no record of the experiment.
    """
    record = gather(name, experiment, setting, epochs)
    before = recorded_before(path, name)
    here, there = set(record["jobs"]), set(before["jobs"])
    count = f"{record['jobs_done']} of {record['jobs_all']} jobs"
    if here < there:
        return f"{path}: kept, it has more than these {count}"
    if not there <= here:
        try:
            added = gather(name, experiment, setting, epochs, without=there)
            record = join(before, added, experiment, setting, epochs)
            count = (f"{record['jobs_done']} of {record['jobs_all']} jobs, {len(there)} of them as "
                     "recorded before")  # fmt: skip
        except ValueError as error:
            count = f"{count}; cannot be joined with the {len(there)} recorded before: {error}"
            if len(there) >= len(here):
                return f"{path}: kept, it has not fewer than these {count}"
    write_record(path, record)
    return f"{path}: {count}"


def recorded_before(path: Path, name: str) -> dict[str, Any]:
    """The record of an experiment that lies at `path`; one without jobs if there is none.

    Raises:
        ValueError: what lies there is no record, or of something else.
    """
    if not path.is_file():
        return {"jobs": {}}
    record = read_record(path)
    if record.get("experiment") != name or not isinstance(record.get("jobs"), dict):
        raise ValueError(f"{path}: no record of {name}; move it, or name another folder: --results")
    return record


def held(
    path: Path, name: str, experiment: Experiment, setting: Setting, epochs: int | None = None
) -> set[Job]:
    """The jobs that the record at `path` has as they would be done now, and can be added to.

    Of folds those of seeds that have them all, for the folds of one seed are made in one place.

    Raises:
        ValueError: what lies there is no record, or of something else.
    """
    before = recorded_before(path, name)
    known = {str(job): job for arm in experiment.arms for job in experiment.jobs(arm, epochs)}
    tests = [test for arm in before.get("arms", {}).values() for test in arm["tests"].values()]
    if not set(before["jobs"]) <= set(known) or not all("correct" in test for test in tests):
        return set()  # others could not be joined with it
    sets = {key: setting.load(key) for key in experiment.sets}
    question = _question(name, experiment, sets, epochs)
    if any(before.get(key) != value for key, value in question.items()):
        return set()
    done = {known[text] for text in before["jobs"]}
    return {job for job in done if job.fold is None
            or all(replace(job, fold=fold + 1) in done for fold in range(FOLDS))}  # fmt: skip


def gather(
    name: str,
    experiment: Experiment,
    setting: Setting,
    epochs: int | None = None,
    without: set[str] = frozenset(),
) -> dict[str, Any]:
    """The record of an experiment from those of its jobs that are done here.

    Args:
        without: jobs to leave out, as text.

    Raises:
        ValueError: not one job is done.
    """
    jobs = [job for arm in experiment.arms for job in experiment.jobs(arm, epochs)]
    done = {job: record for job in dict.fromkeys(jobs) if str(job) not in without
            and (record := recorded(job, setting))}  # fmt: skip
    if not done:
        raise ValueError(f"{name}: no job is done yet")
    sets = {key: setting.load(key) for key in experiment.sets}
    answers = {}
    for label, arm in experiment.arms.items():
        own = {job: done[job] for job in experiment.jobs(label, epochs) if job in done}
        if own:
            answers[label] = {key: collect(own, arm.weights, key, sets[key], setting)
                              for key in next(iter(own)).sets}  # fmt: skip
    weights = {arm.weights for arm in experiment.arms.values()}
    sittings = [sitting for record in done.values()
                for sitting in (*record["run"].get("earlier", ()), record["run"])]
    return {
        **_question(name, experiment, sets, epochs),
        "reason": experiment.reason,
        "jobs_done": len(done),
        "jobs_all": len(set(jobs)),
        "environments": _each_once([sitting["environment"] for sitting in sittings]),
        "arms": _compare(experiment, answers, {str(job) for job in done}, epochs),
        "jobs": {str(job): _job_in_short(record, weights) for job, record in done.items()},
    }  # fmt: skip


def join(
    one: dict[str, Any],
    other: dict[str, Any],
    experiment: Experiment,
    setting: Setting,
    epochs: int | None = None,
) -> dict[str, Any]:
    """The record of the jobs of two records of an experiment.

    Raises:
        ValueError: they are of other data, settings, arms or networks, `one` is too old to say which
            network is right on which face, or the folds of one seed are divided between them.
    """
    one, other = (json.loads(json.dumps(record)) for record in (one, other))  # no tuples
    sets = {key: setting.load(key) for key in experiment.sets}
    for key, value in _question(other["experiment"], experiment, sets, epochs).items():
        if one.get(key) != value:
            raise ValueError(f"it has not the same {key}")
    if gone := set(one["arms"]) - set(experiment.arms):
        raise ValueError(f"it has {min(gone)}, which is no longer compared")
    answers: dict[str, dict[str, Answers]] = {}
    for label in experiment.arms:
        found = [record["arms"][label] for record in (one, other) if label in record["arms"]]
        known = {str(job): job for job in experiment.jobs(label, epochs)}
        for arm in found:
            if others := set(arm["jobs"]) - set(known):
                raise ValueError(f"its {label} has {min(others)}")
            jobs = [known[name] for name in arm["jobs"]]
            for key, test in arm["tests"].items():
                of = Answers.recorded(_tested(jobs, key, setting), test)
                so_far = answers.setdefault(label, {})
                so_far[key] = so_far[key] + of if key in so_far else of
    jobs = {**one["jobs"], **other["jobs"]}
    order = {str(job): None for arm in experiment.arms for job in experiment.jobs(arm, epochs)}
    return {
        **other,
        "jobs_done": len(jobs),
        "environments": _each_once(one["environments"] + other["environments"]),
        "arms": _compare(experiment, answers, set(jobs), epochs),
        "jobs": {name: jobs[name] for name in order if name in jobs},
    }


def _question(
    name: str, experiment: Experiment, sets: Mapping[str, FaceSet], epochs: int | None
) -> dict[str, Any]:
    """The part of a record that is the same in all that can be joined with it.

    Args:
        sets: the prepared sets that its jobs read.
    """
    question = {
        "experiment": name,
        "recipe": experiment.recipe,
        "start": experiment.start and {"weights": experiment.start,
                                       "sha256": load_weights(experiment.start).sha256},
        "settings": asdict(pick_recipe(experiment.recipe)) | ({"epochs": epochs} if epochs else {}),
        "data": {key: {**{field: faces.meta[field] for field in ("dataset", "rule", "classes")},
                       "sha256": faces.sha256, "people_known": faces.subject is not None}
                 for key, faces in sets.items()},
    }  # fmt: skip
    return json.loads(json.dumps(question))  # lists, as in a file, no tuples


def _compare(
    experiment: Experiment,
    answers: dict[str, dict[str, Answers]],
    done: set[str],
    epochs: int | None,
) -> dict[str, Any]:
    """What a record has under `arms`, from label and name of the set -> answers."""
    arms: dict[str, Any] = {}
    first = next(iter(experiment.arms))
    for label, tests in answers.items():
        arm = experiment.arms[label]
        classes = next(iter(tests.values())).faces.classes
        model = LANMSFF(len(classes), **arm.options)
        arms[label] = {
            "protocol": PROTOCOLS[arm.protocol],
            "options": arm.options,
            "changes": arm.changes,
            "weights": arm.weights,
            "jobs": [str(job) for job in experiment.jobs(label, epochs) if str(job) in done],
            "parameters": parameter_count(model),
            "multiply_accumulates": multiply_accumulates(model),
            "tests": {key: summary(found) for key, found in tests.items()},
        }
        if label != first and first in answers:
            found = {key: difference(ours, answers[first][key])
                     for key, ours in tests.items() if key in answers[first]}  # fmt: skip
            arms[label][f"minus {first}"] = {key: diff for key, diff in found.items() if diff}
    return arms


def _each_once(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for i, one in enumerate(found) if one not in found[:i]]


def _tested(jobs: list[Job], name: str, setting: Setting) -> FaceSet:
    """The test faces of a prepared set that `collect` finds in jobs of one arm."""
    faces, protocol = setting.load(name), jobs[0].protocol
    if name != jobs[0].data:
        rows = np.flatnonzero(faces.split == "test")
    elif protocol in FOLDED:
        folds = [divide(faces, protocol, fold)[1] for fold in _whole_folds(jobs)]
        rows = np.sort(np.concatenate(folds))
    else:
        rows = divide(faces, protocol)[1]
    return mark_leaks(faces, protocol).select(rows)


def _whole_folds(jobs: list[Job]) -> list[int]:
    """The folds that every seed has."""
    folds = [{job.fold for job in jobs if job.seed == seed} for seed in {job.seed for job in jobs}]
    return sorted(set.intersection(*folds))


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
        folds = _whole_folds(list(jobs))
        networks = {}
        for seed in sorted({job.seed for job in jobs}):
            parts = [found[job] for job in jobs if job.seed == seed and job.fold in folds]
            logits, scaled = (torch.cat([part[i] for part in parts]) for i in (0, 1))
            rows = np.concatenate([part[2] for part in parts])
            order = np.argsort(rows)
            networks[f"seed {seed}"] = logits[order], scaled[order], rows[order]
    return Answers.of(
        faces.select(next(iter(networks.values()))[2]),
        tuple(networks),
        torch.stack([logits for logits, _, _ in networks.values()]),
        torch.stack([scaled for _, scaled, _ in networks.values()]),
    )


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
