"""What ends a run before its time: a signal, a clock, another process, a full disk, a loss."""

import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lanmsff import checkpoint, train
from lanmsff.__main__ import main
from lanmsff.results import read_record
from lanmsff.train import RunError

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="sends POSIX signals")


def command(folder, *words):
    """`python -m lanmsff train` on `folder`/toy.npz, not started yet."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    threads = str(torch.get_num_threads())  # the order of sums depends on it
    return {
        "args": [sys.executable, "-m", "lanmsff", "train", "--data", "toy.npz", "--out", "run",
                 "--device", "cpu", "--precision", "float32", *words],
        "cwd": folder,
        "env": os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads},
        "text": True,
    }  # fmt: skip


def wait_for(condition):
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited two minutes in vain")


# --- a signal, a clock


@POSIX
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_a_checkpoint_and_the_word_to_resume(
    sent, toy_faces, tmp_path, differences
):
    toy_faces(train=20).save(tmp_path / "toy.npz")
    words = ("--set", "batch_size=4", "--epochs", "3")
    child = subprocess.Popen(
        **command(tmp_path, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    record = tmp_path / "run" / "record.json"  # there is one when the first epoch is over
    wait_for(lambda: record.exists() or child.poll() is not None)
    child.send_signal(sent)
    output, error = child.communicate(timeout=120)
    assert child.returncode == 75, error[-2000:]
    stopped = rf"run: stopped \({sent.name}\) in epoch (\d), after step (\d+) of 20; "
    found = re.search(stopped, output)
    assert found and "--resume goes on" in output

    resumed = subprocess.run(
        **command(tmp_path, *words, "--resume"), capture_output=True, check=True
    )
    assert f"epoch {found[1]}/3" in resumed.stderr
    undisturbed = command(tmp_path, *words, "--out", "other")
    subprocess.run(**undisturbed, capture_output=True, check=True)
    assert differences(tmp_path / "run", tmp_path / "other") == []


def test_stopped_after_the_step_in_which_the_word_came(
    start, undisturbed, toy_faces, tmp_path, monkeypatch, differences
):
    run = start(toy_faces(), tmp_path / "run")
    step, count = run.train_step, itertools.count()

    def last(items):
        step(items)
        if next(count) == 5:
            run.stop("a word")

    monkeypatch.setattr(run, "train_step", last)
    run.train(progress=False)
    assert (run.finished, run.stopped, run.epoch, run.step) == (None, "a word", 1, 2)
    resumed = start(toy_faces(), tmp_path / "run", resume=True)
    assert (resumed.epoch, resumed.step) == (1, 2)
    resumed.train(progress=False)
    assert differences(resumed.out, undisturbed().out) == []
    monkeypatch.undo()
    with pytest.raises(RunError, match="another process has trained here"):
        run.train(progress=False)  # it knows nothing of what was done since


def test_stopped_in_the_last_step_of_an_epoch(
    start, undisturbed, toy_faces, tmp_path, monkeypatch, differences
):
    run = start(toy_faces(), tmp_path / "run")
    step = run.train_step
    monkeypatch.setattr(run, "train_step", lambda items: (step(items), run.step == 3 and run.stop("x")))
    run.train(progress=False)
    assert (run.epoch, run.step) == (0, 4)
    monkeypatch.undo()
    run.train(progress=False)  # the same object can go on, too
    assert run.finished and differences(run.out, undisturbed().out) == []


def test_a_word_that_comes_before_training(start, undisturbed, toy_faces, tmp_path, differences):
    """As a signal does that comes right after its handler is there."""
    run = start(toy_faces(), tmp_path / "run")
    run.stop("a word")
    run.train(progress=False)
    assert (run.stopped, run.epoch, run.step, run.finished) == ("a word", 0, 0, None)
    run.train(progress=False)
    assert run.stopped is None and run.finished and differences(run.out, undisturbed().out) == []


def test_the_time_is_up(start, toy_faces, tmp_path, capsys, monkeypatch):
    run = start(toy_faces(), tmp_path / "run")
    run.train(progress=False, max_minutes=1e-9)
    assert run.stopped == "the time is up" and not run.finished
    toy_faces().save(tmp_path / "toy.npz")
    monkeypatch.setattr("lanmsff.train.time.monotonic", itertools.count(step=7.0).__next__)
    words = "train --data {0}/toy.npz --out {0}/second --max-minutes 1".format(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    assert main([*words.split(), "--device", "cpu", "--precision", "float32"]) == 75
    assert "second: stopped (the time is up) in epoch" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == handler


# --- two processes in one folder


HOLDER = """
import sys, time
from pathlib import Path
import torch
from lanmsff.data import FaceSet
from lanmsff.train import Run
run = Run(FaceSet.load("toy.npz"), "short", "run", device=torch.device("cpu"), precision="float32")
def wait(items):
    Path("holding").touch()
    time.sleep(600)
run.train_step = wait
run.train(progress=False)
"""


@POSIX
def test_two_runs_in_one_folder(start, toy_faces, tmp_path):
    toy_faces().save(tmp_path / "toy.npz")
    how = command(tmp_path) | {"args": [sys.executable, "-c", HOLDER]}
    holder = subprocess.Popen(**how)
    try:
        wait_for((tmp_path / "holding").exists)
        run = start(toy_faces(), tmp_path / "run", "short", epochs=12, resume=True)
        with pytest.raises(RunError, match="run: another process trains in this folder"):
            run.train(progress=False)
    finally:
        holder.kill()
        holder.wait()
    assert (tmp_path / "run" / "run.lock").exists()  # the file stays, the lock does not
    run.train(progress=False)
    assert run.finished


# --- a full disk


@pytest.mark.parametrize("name", ["checkpoint", "last"])  # the best may be of the first epoch
def test_a_full_disk(name, start, undisturbed, toy_faces, tmp_path, monkeypatch, differences):
    run = start(toy_faces(), tmp_path / "run")
    write = Path.write_bytes

    def full(path, content):
        if run.epoch == 2 and name in path.name:
            write(path, content[:99])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunError) as refused:
            run.train(progress=False)
    text = str(refused.value)
    assert text.startswith(f"{run.out}: cannot be written (No space left on device)")
    assert "last good checkpoint is kept" in text and "\n" not in text
    assert not list(run.out.glob(".*"))
    with pytest.raises(RunError, match="broken off in the middle; make a new Run"):
        run.train(progress=False)  # memory is ahead of the files
    resumed = start(toy_faces(), run.out, resume=True)
    assert resumed.epoch == 1
    resumed.train(progress=False)
    assert differences(run.out, undisturbed().out) == []


def test_a_disk_that_is_full_when_the_last_record_is_written(
    start, toy_faces, tmp_path, monkeypatch
):
    """The epoch is done again, and its record is there in the end."""
    run = start(toy_faces(), tmp_path / "run")
    write = train.write_record

    def full(path, record):
        if record.get("epochs") == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, record)

    with monkeypatch.context() as patch:
        patch.setattr(train, "write_record", full)
        with pytest.raises(RunError, match="cannot be written"):
            run.train(progress=False)
    start(toy_faces(), run.out, resume=True).train(progress=False)
    record = read_record(run.out / "record.json")
    assert record["epochs"] == 2 and record["finished"]


@POSIX
def test_a_file_that_the_system_does_not_let_grow(toy_faces, tmp_path):
    """A limit of the system in place of a full disk; the weights fit (1.5 MB), no checkpoint."""
    toy_faces().save(tmp_path / "toy.npz")
    limited = (
        "import resource, runpy, sys; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000)); "
        "sys.argv[0] = 'lanmsff'; runpy.run_module('lanmsff', run_name='__main__')"
    )
    how = command(tmp_path, "--epochs", "1")
    how["args"][1:3] = ["-c", limited]
    done = subprocess.run(**how, capture_output=True)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: run: cannot be written (") and "Traceback" not in done.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "best.safetensors", "last.safetensors", "record.json", "run.lock",
        "checkpoint.safetensors",  # that of the start, without the optimiser's moments
    }  # fmt: skip


# --- a hand


def test_a_run_that_was_interrupted_is_gone_on_with_by_a_new_one(
    start, undisturbed, toy_faces, tmp_path, monkeypatch, differences
):
    """Jupyter's stop button: an exception between any two lines."""
    run = start(toy_faces(), tmp_path / "run")

    def interrupted(items):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.train(progress=False)
    with pytest.raises(RunError, match="broken off in the middle; make a new Run"):
        run.train(progress=False)
    start(toy_faces(), run.out, resume=True).train(progress=False)
    assert differences(run.out, undisturbed().out) == []


# --- locks


@pytest.mark.parametrize("missing", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_run_goes_on_after_a_kill(
    missing, start, toy_faces, tmp_path, monkeypatch, capsys
):
    """No file that stands for a lock is left, which nobody would take away."""
    fcntl = pytest.importorskip("fcntl", reason="no flock on Windows")

    def lacking(*_):
        raise OSError(missing, os.strerror(missing))

    monkeypatch.setattr(fcntl, "flock", lacking)
    with checkpoint.lock(tmp_path), checkpoint.lock(tmp_path):  # as if the first had been killed
        pass
    assert capsys.readouterr().err == 2 * (
        f"{tmp_path}: no locks on this file system; start one run only\n")


# --- a loss that is no number


@pytest.mark.parametrize(
    "at, breaks, checkpoint_seconds, message, bad",
    [
        (5, "head.bias", 60, "the loss is nan in epoch 2, step 3", 2),
        (5, "head.bias", -1, "a weight is not finite after the batch in epoch 2, step 2", 1),
        (7, "head.bias", 60, "a weight is not finite after the batch in epoch 2, step 4", 3),
        # an infinite variance makes zeros, and a validation loss like any other
        (7, "block4.layers.1.running_var", 60,
         "a weight is not finite after the batch in epoch 2, step 4", 3),
    ],
)  # fmt: skip
def test_broken_weights_keep_the_last_good_checkpoint(
    at, breaks, checkpoint_seconds, message, bad, undisturbed, toy_faces, tmp_path, monkeypatch,
    start, differences,
):  # fmt: skip
    """Weights break after step `at`, the loss with the next one; epoch 2 begins with step 4."""
    run = start(toy_faces(), tmp_path / "run")
    step, count, batches = run.train_step, itertools.count(), []

    def breaking(items):
        batches.append(items.tolist())
        step(items)
        if next(count) == at:
            value = "nan" if breaks == "head.bias" else "inf"
            torch.nn.init.constant_(run.model.state_dict()[breaks], float(value))

    with monkeypatch.context() as patch:
        patch.setattr(run, "train_step", breaking)
        patch.setattr(train, "CHECKPOINT_SECONDS", checkpoint_seconds)
        with pytest.raises(RunError, match=f"{message};.*last good checkpoint is kept"):
            run.train(progress=False)
    noted = read_record(run.out / "not-finite.json")
    assert (noted["epoch"], noted["step"], noted["items"]) == (2, bad + 1, batches[4 + bad])
    assert noted["faces"] == [item // 4 for item in noted["items"]]
    assert noted["names"] == [f"toy{face:03}" for face in noted["faces"]]
    for path in run.out.glob("*.safetensors"):
        tensors = load_file(path)
        assert all(t.isfinite().all() for n, t in tensors.items() if t.is_floating_point()), path
    resumed = start(toy_faces(), tmp_path / "run", resume=True)
    resumed.train(progress=False)
    assert differences(resumed.out, undisturbed().out) == []


def test_a_loss_that_is_not_a_number_on_a_full_disk(toy_faces, tmp_path, monkeypatch, start):
    """The loss is told, not the disk alone."""
    run = start(toy_faces(), tmp_path / "run")
    learn = run.learner.learn
    monkeypatch.setattr(run.learner, "learn", lambda *step: learn(*step) * float("nan"))
    write = train.write_record

    def full(path, record):
        if path.name == "not-finite.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, record)

    monkeypatch.setattr(train, "write_record", full)
    with pytest.raises(RunError) as told:
        run.train(progress=False)
    assert str(told.value) == (
        f"{run.out}: the loss is nan in epoch 1, step 1; not-finite.json, its images, cannot be "
        "written (No space left on device), the last good checkpoint is kept"
    )


def test_a_validation_loss_that_is_not_a_number(toy_faces, tmp_path, monkeypatch, start):
    run = start(toy_faces(), tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(train, "predict", lambda model, images, *rest, **options: torch.full(
            (len(images), len(run.classes)), float("nan")))  # fmt: skip
        with pytest.raises(RunError, match="the validation loss is nan in epoch 1, step 4"):
            run.train(progress=False)
    assert [path.name for path in run.out.glob("*.safetensors")] == ["checkpoint.safetensors"]
