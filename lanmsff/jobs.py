"""One job of a grid: a training, and the scores of what it gave.

A job lives in a folder of its own: that of its training run (`lanmsff.train`), and beside that

    job.json     what was asked, the history, the scores; there once the job is done
    logits.npz   logits of all test faces, from which experiments compare networks face by face
    error.txt    the traceback, if it failed
"""

from __future__ import annotations

import os
import time
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from lanmsff.asked import RunError
from lanmsff.calibration import fit_temperature
from lanmsff.checkpoint import lock
from lanmsff.data import SPLITS, FaceSet, replacing
from lanmsff.device import pick_device, pick_precision
from lanmsff.duplicates import group_identical, leaked_from
from lanmsff.evaluate import predict
from lanmsff.experiments import DATA, FOLDED, FOLDS, Job
from lanmsff.folds import person_independent, random_k_fold
from lanmsff.recipes import pick_recipe
from lanmsff.report import report
from lanmsff.results import read_record, write_record
from lanmsff.step import Speed
from lanmsff.train import BEST, LAST, RECORD, Run
from lanmsff.weights import Weights, load_weights

JOB, LOGITS, ERROR = "job.json", "logits.npz", "error.txt"
WEIGHTS = {"best": BEST, "last": LAST}
WATCH_SECONDS = 0.5  # between two looks for the word to stop


@dataclass(frozen=True)
class Setting:
    """What the jobs of one call have in common.

    Attributes:
        out: the folder of all runs.
        data_dir: where the prepared sets are.
        hashes: name of a prepared set -> its `sha256`; a record of other faces does not count.
        device, precision: as on the command line; picked where the job runs.
        threads: of one job.
        deadline: seconds since the epoch, when training ends with a checkpoint; None: never.
        stop: a file; once it is there, training ends after its step with a checkpoint. Below `out`
            it is seen by workers on other machines, too. None: never.
        speed: what is used to train fast.
    """

    out: Path
    data_dir: Path
    hashes: dict[str, str]
    device: str = "auto"
    precision: str = "auto"
    threads: int = 1
    deadline: float | None = None
    stop: Path | None = None
    speed: Speed = Speed()

    def folder(self, job: Job) -> Path:
        return self.out / job.folder

    @property
    def stopped(self) -> bool:
        return self.stop is not None and os.path.exists(self.stop)  # which raises nothing

    @property
    def over(self) -> str | None:
        """Why no more is trained, or None."""
        if self.stopped:
            return "stopped"
        late = self.deadline is not None and time.time() >= self.deadline
        return "out of time" if late else None

    def load(self, name: str) -> FaceSet:
        """A prepared set; `FileNotFoundError` says how to make it."""
        path = self.data_dir / f"{name}.npz"
        if not path.is_file():
            command = DATA[name].command.replace(f"data/{name}.npz", str(path))
            raise FileNotFoundError(f"{path}: not there; make it with: {command}")
        return FaceSet.load(path)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: "recorded", "unfinished" or "failed"; `note` is one line.

    Unfinished are those that were stopped, ran out of time, or that another process trains.
    """

    job: Job
    state: str
    note: str


def divide(faces: FaceSet, protocol: str, fold: int | None = None) -> tuple[FaceSet, np.ndarray]:
    """A prepared set under a protocol.

    Args:
        protocol: a key of `lanmsff.experiments.PROTOCOLS`.
        fold: 1 .. FOLDS where the protocol has folds.

    Returns:
        The set to train, validate and test with, and the row in `faces` of each of its test faces.
    """
    if protocol in FOLDED:
        folds = person_independent if protocol == "person-independent" else random_k_fold
        chosen = folds(faces, FOLDS)[fold - 1]
        return chosen.apply(faces), chosen.test
    train, val, test = (np.flatnonzero(faces.split == split) for split in SPLITS)
    if protocol == "exchanged":
        val, test = test, val
    elif protocol == "watched":
        val = test
    elif protocol == "validation":
        test = val
    rows = np.concatenate([train, val, test])
    split = np.repeat(SPLITS, [len(train), len(val), len(test)])
    chosen = mark_leaks(faces, protocol).select(rows)
    meta = {key: value for key, value in chosen.meta.items() if key != "counts"}
    return replace(chosen, split=split, meta=meta), test


def mark_leaks(faces: FaceSet, protocol: str) -> FaceSet:
    """The same faces, with `leaked_from` as it is under a protocol that gives splits other roles."""
    leaked = faces.leaked_from
    if leaked is None:
        return faces
    if protocol in FOLDED:  # which mix the splits that it speaks of, see `Fold.apply`
        return replace(faces, leaked_from=None)
    if protocol == "exchanged":
        exchanged = {"train": "train", "val": "test", "test": "val"}
        split = np.array([exchanged[name] for name in faces.split.tolist()])
        leaked = leaked_from(group_identical(faces.images), split)
    elif protocol == "watched":  # the set's own validation faces are not used
        leaked = np.where(leaked == "train", leaked, "")
    return replace(faces, leaked_from=leaked)


def recorded(job: Job, setting: Setting) -> dict[str, Any] | None:
    """The record of a job that is done as it would be done now, else None.

    A job whose files are damaged is not done: it is scored again, from its weights.
    """
    folder = setting.folder(job)
    try:
        record = read_record(folder / JOB)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    same = isinstance(record, dict) and _asked(job, setting).items() <= record.items()
    return record if same and _is_whole(folder / LOGITS) else None


def state(job: Job, setting: Setting) -> str:
    """A word or two: "recorded", "failed", "epoch 3" or "to do"."""
    folder = setting.folder(job)
    if recorded(job, setting):
        return "recorded"
    if (folder / ERROR).is_file():
        return "failed"
    if (folder / RECORD).is_file():
        return f"epoch {read_record(folder / RECORD)['epochs']}"
    return "to do"


def run_job(job: Job, setting: Setting) -> Outcome:
    """Train and score, or go on where that was cut off. Never raises what a job can be blamed for.

    Runs with PyTorch's global random state and number of threads: one job a process at a time.
    """
    if record := recorded(job, setting):
        return Outcome(job, "recorded", _in_words(record))
    folder = setting.folder(job)
    threads = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    try:
        outcome = _run(job, setting)
    except Exception as error:
        if isinstance(error, RunError) and _is_held(folder):
            return Outcome(job, "unfinished", "another process trains in its folder")
        return fail(job, setting, error)
    finally:
        torch.set_num_threads(threads)
    if outcome.state == "recorded":  # one that was not begun may fail again
        (folder / ERROR).unlink(missing_ok=True)
    return outcome


def fail(job: Job, setting: Setting, error: Exception) -> Outcome:
    """The outcome of a job that failed, after its traceback was written down."""
    folder = setting.folder(job)
    with suppress(OSError):  # a full disk, perhaps: the line is told in any case
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(traceback.format_exception(error))
        (folder / ERROR).write_text(text, encoding="utf-8")
    return Outcome(job, "failed", (str(error) or type(error).__name__).splitlines()[0])


def load_logits(folder: Path, weights: str, name: str) -> tuple[Tensor, np.ndarray]:
    """The logits of a job on the test faces of a prepared set.

    Args:
        folder: of the job.
        weights: "best" or "last".

    Returns:
        float32 (N, K), shifted so that the largest of a face is 0; and the rows (N,) of these
        faces in the prepared set.
    """
    with np.load(folder / LOGITS) as archive:
        logits = torch.from_numpy(archive[f"{weights} {name}"].astype(np.float32))
        return logits, archive[f"rows {name}"].astype(np.int64)


def _asked(job: Job, setting: Setting) -> dict[str, Any]:
    """What two runs of a job must have in common to count as one; JSON values."""
    return {
        "job": asdict(job) | {"options": dict(job.options), "changes": dict(job.changes)},
        "settings": asdict(pick_recipe(job.recipe, dict(job.changes))),
        "data": {name: setting.hashes[name] for name in job.sets},
        "start": load_weights(job.start).sha256 if job.start else None,
    }


def _run(job: Job, setting: Setting) -> Outcome:
    if why := setting.over:
        return Outcome(job, "unfinished", f"not begun: {why}")
    device = pick_device(setting.device)
    precision = pick_precision(setting.precision, device)
    folder = setting.folder(job)
    sets = {name: setting.load(name) for name in job.sets}
    for name, faces in sets.items():
        if faces.sha256 != setting.hashes[name]:
            raise ValueError(f"{setting.data_dir / name}.npz: other faces than when the grid began")
    faces, test_rows = divide(sets[job.data], job.protocol, job.fold)
    run = Run(faces, job.recipe, folder, device=device, precision=precision, epochs=job.epochs,
              seed=job.seed, resume=True, start=job.start, changes=dict(job.changes),
              speed=setting.speed, **dict(job.options))  # fmt: skip
    minutes = (setting.deadline - time.time()) / 60 if setting.deadline else None
    with _watched(run, setting):
        run.train(progress=False, max_minutes=minutes)  # sees to the files of a finished one, too
    if not run.finished:
        why = setting.over or "out of time"
        return Outcome(job, "unfinished", f"{why} after epoch {run.epoch}")

    tests = {job.data: (faces.subset("test"), test_rows)}
    for name in job.sets[1:]:
        further = mark_leaks(sets[name], job.protocol)
        tests[name] = further.subset("test"), np.flatnonzero(further.split == "test")
    arrays, scores = {f"rows {name}": rows for name, (_, rows) in tests.items()}, {}
    for which, file in WEIGHTS.items():
        weights = load_weights(folder / file, faces.classes)
        val = faces.subset("val")
        answers = _logits(weights, val, device, precision, setting.speed)
        temperature = fit_temperature(answers.float(), val.labels)
        scores[which] = {"temperature": temperature, "tests": {}}
        for name, (test, _) in tests.items():
            logits = _logits(weights, test, device, precision, setting.speed)
            arrays[f"{which} {name}"] = logits.numpy()
            scores[which]["tests"][name] = report(test, logits.float(), temperature)

    with replacing(folder / LOGITS) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
    record = {**_asked(job, setting), "run": run.record(), "scores": scores}
    write_record(folder / JOB, record)
    return Outcome(job, "recorded", _in_words(record))


@contextmanager
def _watched(run: Run, setting: Setting) -> Iterator[None]:
    """Stop `run` after its step once `setting.stop` is there; a thread looks, not every step."""
    done = Event()

    def watch() -> None:
        while not done.wait(WATCH_SECONDS):
            if setting.stopped:
                run.stop("stopped")
                return

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _is_held(folder: Path) -> bool:
    """Whether another process trains in the folder of a job."""
    if not folder.is_dir():
        return False
    try:
        with lock(folder):
            return False
    except (RunError, OSError) as error:
        return isinstance(error, RunError)


def _logits(
    weights: Weights, faces: FaceSet, device: torch.device, precision: str, speed: Speed
) -> Tensor:
    """float16 (N, K), shifted so that the largest of each face is 0.

    That changes no probability, and since float16 is finest near 0 no two logits that differ become
    equal at the top: predictions stay what they are.
    """
    images = torch.from_numpy(faces.images)
    logits = predict(weights.model, images, device, precision, mirror=weights.mirror,
                     channels_last=speed.channels_last, keep_memory=speed.kept_memory)  # fmt: skip
    return (logits - logits.amax(1, keepdim=True)).half()


def _is_whole(archive: Path) -> bool:
    """Whether every file in a zip archive has its checksum."""
    try:
        with ZipFile(archive) as zipped:
            return zipped.testzip() is None
    except (OSError, BadZipFile, EOFError, RuntimeError, zlib.error):
        return False


def _in_words(record: dict[str, Any]) -> str:
    run, scores = record["run"], record["scores"]["best"]["tests"]
    test = scores[record["job"]["data"]]["parts"]["all"]
    return (f"{test['accuracy']:.2%} of {test['n']:,} faces, {run['epochs']} epochs, "
            f"{run['seconds'] / 60:.1f} min")  # fmt: skip
