"""A run that is killed at any moment and resumed ends like one that was not, to the bit."""

import errno
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lanmsff import checkpoint, train
from lanmsff.__main__ import main
from lanmsff.checkpoint import BEFORE, NEWEST, read_checkpoint, write_checkpoint
from lanmsff.train import RunError
from lanmsff.weights import load_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("recipe", ["tiny", "tiny online", "tiny improved"])
@pytest.mark.parametrize("at", [0, 2, 4, 7])
def test_stopped_in_a_step_and_resumed(
    recipe, at, undisturbed, toy_faces, tmp_path, monkeypatch, start, differences, figures
):
    """Before the first checkpoint, in the first epoch, between the two, in the last step."""
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", -1)
    run = start(toy_faces(), tmp_path / "run", recipe)
    step, count = run.train_step, itertools.count()

    def stopped(items):
        if next(count) == at:
            raise KeyboardInterrupt
        step(items)

    monkeypatch.setattr(run, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.train(progress=False)

    resumed = start(toy_faces(), tmp_path / "run", recipe, resume=True)
    assert 4 * resumed.epoch + resumed.step == at
    assert figures(resumed.history) == figures(undisturbed(recipe).history)[: at // 4]
    resumed.train(progress=False)
    assert differences(resumed.out, undisturbed(recipe).out) == []


@pytest.mark.parametrize("function", ["save_weights", "write_record"])
def test_stopped_at_the_end_of_an_epoch_and_resumed(
    function, undisturbed, toy_faces, tmp_path, monkeypatch, start, differences
):
    """Some files are of the new epoch then, some of the old."""
    run = start(toy_faces(), tmp_path / "run")
    write = getattr(train, function)

    def stopped(*arguments):
        write(*arguments)
        if run.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, function, stopped)
        run.train(progress=False)
    resumed = start(toy_faces(), tmp_path / "run", resume=True)
    resumed.train(progress=False)
    assert differences(resumed.out, undisturbed().out) == []


def test_the_record_names_every_place_where_it_was_trained(
    undisturbed, toy_faces, tmp_path, monkeypatch, start, differences
):
    """Two sittings at one place are one; up to which epoch each went is said of the earlier ones."""
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", -1)
    for at, place in enumerate(("a GPU", "a CPU", "a CPU")):
        monkeypatch.setattr(train, "environment", lambda *_: {"device": place})
        run = start(toy_faces(), tmp_path / "run", resume=True)
        run.step_before, count = run.train_step, itertools.count()

        def stopped(items):
            run.step_before(items)
            if next(count) == 1 and at < 2:
                run.stop("enough")

        monkeypatch.setattr(run, "train_step", stopped)
        record = run.train(progress=False)
    assert record["finished"] and record["environment"] == {"device": "a CPU"}
    (earlier,) = record["earlier"]
    assert earlier.keys() == {"epochs", "environment", "deterministic", "speed"}
    assert earlier["environment"] == {"device": "a GPU"} and earlier["epochs"] == 0.5
    monkeypatch.setattr(train, "environment", lambda *_: {"device": "where nothing was trained"})
    again = start(toy_faces(), tmp_path / "run", resume=True)
    assert again.train(progress=False) == record
    assert differences(again.out, undisturbed().out) == []


def test_optimiser_moments_come_back_in_the_layout_of_their_weights(
    undisturbed, toy_faces, tmp_path, start
):
    """The fused optimiser walks through memory: a moment that lies otherwise is mixed up."""
    resumed = start(toy_faces(), undisturbed().out, resume=True)
    for parameter in resumed.model.parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            assert resumed.learner.optimizer.state[parameter][moment].stride() == parameter.stride()


CHILD = """
import os, random, signal, sys, threading
from dataclasses import replace
from pathlib import Path
from lanmsff import train
from lanmsff.__main__ import main
from lanmsff.recipes import RECIPES

RECIPES["tiny"] = replace(RECIPES["paper"], batch_size=4)
RECIPES["tiny improved"] = replace(RECIPES["improved"], batch_size=1)
train.CHECKPOINT_SECONDS = -1
how, seed, *command = sys.argv[1:]
at = random.Random(int(seed)).randrange(2, 6)
calls = 0

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

step, write = train.Run.train_step, Path.write_bytes

def killed_step(self, items):
    global calls
    calls += 1
    if calls == at:
        threading.Timer(random.Random(seed).uniform(0, 0.03), kill).start()
    step(self, items)

def killed_write(path, content):
    global calls
    calls += "checkpoint" in path.name
    write(path, content)
    if calls == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        kill()

if how == "step":
    train.Run.train_step = killed_step
if how == "write":
    Path.write_bytes = killed_write
sys.exit(main(command))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL, which is POSIX")
@pytest.mark.parametrize("recipe", ["tiny", "tiny improved"])
def test_killed_twice_and_resumed_from_the_command_line(recipe, toy_faces, tmp_path, differences):
    """By SIGKILL, at a random moment of a random step, then while a checkpoint is half written.

    The undisturbed run is a process of its own too: what other tests have loaded into this one can
    change the order of sums.
    """
    seed = str(np.random.default_rng().integers(10**6))
    print(f"seed of the moment: {seed}")  # shown when the test fails
    toy_faces().save(tmp_path / "toy.npz")
    threads = str(torch.get_num_threads())  # the order of sums depends on it
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": path}
    command = ["train", "--data", "toy.npz", "--recipe", recipe, "--epochs", "2",
               "--device", "cpu", "--precision", "float32"]  # fmt: skip

    def call(how, *more, out="run"):
        words = [sys.executable, "-c", CHILD, how, seed, *command, "--out", out, *more]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

    for how, more in (("step", ()), ("write", ("--resume",))):
        killed = call(how, *more)
        assert killed.returncode == -9, killed.stderr
    assert list((tmp_path / "run").glob(".*.part"))  # the half-written one lies beside
    resumed = call("", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert not list((tmp_path / "run").glob(".*"))
    undisturbed = call("", out="undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert differences(tmp_path / "run", tmp_path / "undisturbed") == []


def test_more_epochs_later_are_more_epochs_at_once(
    undisturbed, toy_faces, tmp_path, start, differences
):
    first = start(toy_faces(), tmp_path / "run", epochs=1)
    first.train(progress=False)
    assert first.finished == "1 epochs done"
    more = start(toy_faces(), tmp_path / "run", epochs=2, resume=True)
    assert more.finished is None and more.epoch == 1
    more.train(progress=False)
    assert differences(more.out, undisturbed().out) == []
    assert more.seconds > first.seconds


def test_a_schedule_over_all_epochs_cannot_be_given_more(undisturbed, toy_faces, start):
    out = undisturbed("tiny improved").out
    with pytest.raises(RunError, match="settings .*'epochs': 2.*'epochs': 3"):
        start(toy_faces(), out, "tiny improved", epochs=3, resume=True)


def test_a_finished_run_has_nothing_left_to_do(undisturbed, toy_faces, start):
    run = undisturbed()
    before = {path: path.read_bytes() for path in run.out.iterdir()}
    again = start(toy_faces(), run.out, resume=True)
    assert again.finished == "2 epochs done"
    assert again.record()["history"] == run.history
    again.train(progress=False)
    assert {path: path.read_bytes() for path in run.out.iterdir()} == before


@pytest.fixture
def copied(undisturbed, tmp_path):
    """The folder of a finished run, to be spoiled."""
    return Path(shutil.copytree(undisturbed().out, tmp_path / "copied"))


# --- the best weights, which the checkpoint has as well


@pytest.mark.parametrize("harm", ["missing", "of another epoch", "cut"])
def test_the_best_file_is_put_right(harm, copied, toy_faces, start, tmp_path, capsys):
    """Even where nothing else is left to do."""
    best = copied / "best.safetensors"
    whole = best.read_bytes()
    assert load_file(copied / NEWEST)["best"].numpy().tobytes() == whole
    spoil = {
        "missing": best.unlink,
        "of another epoch": lambda: save_file(load_file(copied / "last.safetensors"), best),
        "cut": lambda: best.write_bytes(whole[:-10]),
    }
    spoil[harm]()
    run = start(toy_faces(), copied, resume=True)
    assert not best.exists() or best.read_bytes() != whole  # one that only looks writes nothing
    run.train(progress=False)
    assert best.read_bytes() == whole
    best.unlink()
    toy_faces().save(tmp_path / "toy.npz")
    words = "train --data {0}/toy.npz --recipe tiny --epochs 2 --out {1} --resume".format(
        tmp_path, copied)  # fmt: skip
    assert main([*words.split(), "--device", "cpu", "--precision", "float32"]) == 0
    assert "nothing left to do (2 epochs done)" in capsys.readouterr().out
    assert best.read_bytes() == whole


def test_the_best_file_is_not_of_an_epoch_that_was_cut_off(toy_faces, tmp_path, start, monkeypatch):
    """The best epoch is lost to a full disk, and a worse one comes in its place.

    So it can be where rounding is another when the epoch is done again, as on another machine.
    """
    run = start(toy_faces(), tmp_path / "run", epochs=1)
    run.train(progress=False)
    write = Path.write_bytes

    def full(path, content):
        if "checkpoint" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    def answers(right):
        logits = right * torch.nn.functional.one_hot(run.val_labels, 3).float()
        monkeypatch.setattr(train, "predict", lambda *_, **__: logits)

    with monkeypatch.context() as patch, pytest.raises(RunError, match="cannot be written"):
        patch.setattr(Path, "write_bytes", full)
        answers(right=9)
        start(toy_faces(), run.out, resume=True).train(progress=False)
    assert load_weights(run.out).info["epoch"] == 2
    answers(right=-9)
    record = start(toy_faces(), run.out, resume=True).train(progress=False)
    assert record["epochs"] == 2 and record["best"] == run.history[0]
    assert load_weights(run.out).info["epoch"] == 1


def test_a_checkpoint_of_another_version(copied, toy_faces, start, monkeypatch):
    before = {path: path.read_bytes() for path in copied.iterdir()}
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    with pytest.raises(RunError, match="copied: the checkpoint is of another version of this pack"):
        start(toy_faces(), copied, resume=True)
    assert {path: path.read_bytes() for path in copied.iterdir()} == before


# --- two checkpoints


def other_header(path):
    save_file(load_file(path), path, metadata={"run": "{}"})


SPOIL = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "empty": lambda path: path.write_bytes(b""),
    "nonsense": lambda path: path.write_bytes(b"nonsense" * 100),
    "pickle": lambda path: torch.save({}, path),
    "no header": lambda path: save_file({"x": torch.ones(1)}, path),
    "header no JSON": lambda path: save_file({"x": torch.ones(1)}, path, metadata={"run": "{"}),
    "other header": other_header,
}


@pytest.mark.parametrize("spoil", SPOIL.values(), ids=SPOIL)
def test_a_damaged_newest_checkpoint(
    spoil, copied, undisturbed, toy_faces, start, differences, capsys
):
    """The one before is gone on from, with a line that says so, to the same end."""
    spoil(copied / NEWEST)
    resumed = start(toy_faces(), copied, resume=True)
    said = capsys.readouterr().err
    assert said.startswith(f"{copied / NEWEST}: not a whole checkpoint") and said.count("\n") == 1
    assert said.endswith(f"going on from the one before, {BEFORE}\n")
    assert resumed.epoch == 1
    resumed.train(progress=False)
    assert differences(copied, undisturbed().out) == []


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_good_one(copied, capsys):
    good = (copied / BEFORE).read_bytes()
    SPOIL["cut"](copied / NEWEST)
    header, tensors = read_checkpoint(copied)
    capsys.readouterr()
    write_checkpoint(copied, header | {"step": 1}, tensors)
    assert (copied / BEFORE).read_bytes() == good
    assert read_checkpoint(copied)[0]["step"] == 1
    assert capsys.readouterr().err == ""


def test_killed_between_the_two_moves(copied, toy_faces, start, capsys):
    """The old newest is the one before already, the new one not yet in its place."""
    (copied / NEWEST).unlink()
    with pytest.raises(RunError, match="holds a run"):
        start(toy_faces(), copied)
    assert start(toy_faces(), copied, resume=True).epoch == 1
    assert capsys.readouterr().err == ""  # nothing is damaged


@pytest.mark.parametrize("resume", [False, True])
def test_results_without_a_checkpoint_are_not_overwritten(resume, copied, toy_faces, start):
    for name in (NEWEST, BEFORE):
        (copied / name).unlink()
    for left in ("best.safetensors", "last.safetensors", "record.json"):
        with pytest.raises(RunError, match=f"copied: holds {left} of a run whose checkpoint is"):
            start(toy_faces(), copied, resume=resume)
        (copied / left).unlink()
    assert start(toy_faces(), copied, resume=resume).epoch == 0


def test_no_whole_checkpoint(copied, toy_faces, start):
    for name in (NEWEST, BEFORE):
        SPOIL["cut"](copied / name)
    with pytest.raises(RunError, match="not a whole checkpoint") as refused:
        start(toy_faces(), copied, resume=True)
    text = str(refused.value)
    assert str(copied / NEWEST) in text and str(copied / BEFORE) in text and "\n" not in text
