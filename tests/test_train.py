"""Training: what a run leaves behind, that it can be killed, and the authors' callbacks."""

import itertools
import json
import math
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from lanmsff import train
from lanmsff.evaluate import predict
from lanmsff.recipes import RECIPES, learning_rate
from lanmsff.results import read_record
from lanmsff.train import Run, RunError
from lanmsff.weights import load_weights

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
FILES = {"checkpoint.safetensors", "best.safetensors", "last.safetensors", "record.json"}
PAPER = RECIPES["paper"]
TINY = {
    "tiny": replace(PAPER, batch_size=4),  # 4 faces, 16 images: 4 steps an epoch
    "tiny online": replace(PAPER, batch_size=1, augmentation="online"),  # 4 steps too
    "tiny improved": replace(RECIPES["improved"], batch_size=1),  # and these
}


@pytest.fixture(scope="module", autouse=True)
def tiny_recipes():
    with pytest.MonkeyPatch.context() as patch:
        for name, recipe in TINY.items():
            patch.setitem(RECIPES, name, recipe)
        yield


def start(faces, out, recipe="tiny", epochs=2, **options):
    return Run(faces, recipe, out, device=CPU, precision="float32", epochs=epochs, **options)


@pytest.fixture(scope="module")
def undisturbed(toy_faces, tmp_path_factory):
    """`undisturbed(recipe)`: the finished run of two epochs that others are compared with."""
    finished = {}

    def run(recipe="tiny"):
        if recipe not in finished:
            finished[recipe] = start(toy_faces(), tmp_path_factory.mktemp("undisturbed"), recipe)
            finished[recipe].train(progress=False)
        return finished[recipe]

    return run


def figures(history):
    """A history without the seconds, which no two runs share."""
    return [{k: v for k, v in epoch.items() if "seconds" not in k} for epoch in history]


def differences(a: Path, b: Path) -> list[str]:
    """Names of the files and tensors in which two runs differ."""
    found = []
    for name in FILES - {"record.json"}:
        tensors, others = load_file(a / name), load_file(b / name)
        assert tensors.keys() == others.keys()
        found += [f"{name}: {k}" for k in tensors if not torch.equal(tensors[k], others[k])]
    histories = [figures(read_record(run / "record.json")["history"]) for run in (a, b)]
    return found + ["history"] * (histories[0] != histories[1])


# --- what a run leaves behind


def test_files_and_record(undisturbed):
    run = undisturbed()
    assert {path.name for path in run.out.iterdir()} == FILES
    record = read_record(run.out / "record.json")
    assert record == json.loads(json.dumps(run.record()))
    assert record["finished"] == "2 epochs done" and record["epochs"] == 2
    assert record["images_per_epoch"] == 16
    assert record["asked"]["recipe"] == "tiny" and record["asked"]["epochs"] == 2
    assert record["asked"]["counts"] == {"train": 4, "val": 4, "test": 9}
    assert record["environment"]["precision"] == "float32"
    assert [epoch["epoch"] for epoch in record["history"]] == [1, 2]
    assert record["best"] == min(record["history"], key=lambda epoch: epoch["val_loss"])
    for epoch in record["history"]:
        assert all(math.isfinite(value) for value in epoch.values())
        assert 0 <= epoch["accuracy"] <= 1 and epoch["learning_rate"] == 1e-3
        assert 0 < epoch["train_seconds"] < epoch["seconds"] <= record["seconds"]


def test_weights_say_where_they_come_from(undisturbed, toy_faces):
    run = undisturbed()
    last = load_weights(run.out / "last.safetensors", toy_faces().classes)
    assert last.info["epoch"] == 2 and last.info["recipe"] == "tiny"
    assert last.info["data_sha256"] == toy_faces().sha256
    assert last.info["val_accuracy"] == run.history[-1]["val_accuracy"]
    assert load_weights(run.out).info["epoch"] == run.best["epoch"]


def test_validation_is_on_the_validation_split(undisturbed, toy_faces):
    run, val = undisturbed(), toy_faces().subset("val")
    model = load_weights(run.out / "last.safetensors").model
    logits, labels = predict(model, torch.from_numpy(val.images), CPU), torch.from_numpy(val.labels)
    noted = run.history[-1]
    assert noted["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert noted["val_accuracy"] == (logits.argmax(1) == labels).double().mean().item()


def test_the_test_split_has_no_say(undisturbed, toy_faces, tmp_path):
    faces = toy_faces()
    run = start(faces.select(faces.split != "test"), tmp_path / "run")
    run.train(progress=False)
    assert differences(run.out, undisturbed().out) == []


def test_loss_and_accuracy_are_means_over_images(toy_faces, tmp_path, monkeypatch):
    """Also when the last batch is a small one."""
    monkeypatch.setitem(RECIPES, "uneven", replace(TINY["tiny online"], batch_size=2))
    seen = []

    def cross_entropy(logits, labels, **options):
        loss = F.cross_entropy(logits, labels, **options)
        seen.append((len(labels), loss.item(), (logits.argmax(1) == labels).sum().item()))
        return loss

    monkeypatch.setattr(train, "F", SimpleNamespace(cross_entropy=cross_entropy))
    run = start(toy_faces(train=5), tmp_path / "run", "uneven", epochs=1)
    run.train(progress=False)
    sizes, losses, correct = map(np.array, zip(*seen[:-1]))  # the last is the validation
    assert sizes.tolist() == [2, 2, 1]
    assert run.history[0]["loss"] == pytest.approx((sizes * losses).sum() / 5, rel=1e-6)
    assert run.history[0]["accuracy"] == pytest.approx(correct.sum() / 5)


@pytest.mark.parametrize("recipe, per_face", [("tiny", 4), ("tiny online", 1), ("tiny improved", 1)])
def test_an_epoch_shows_every_image_once_in_a_new_order(
    recipe, per_face, toy_faces, tmp_path, monkeypatch
):
    run = start(toy_faces(), tmp_path / "run", recipe)
    shown = []
    monkeypatch.setattr(run, "train_step", lambda items: shown.extend(items.tolist()))
    run.train(progress=False)
    first, second = shown[: len(shown) // 2], shown[len(shown) // 2 :]
    assert sorted(first) == sorted(second) == list(range(4 * per_face))
    assert first != second


def test_no_pickle(undisturbed):
    for path in undisturbed().out.iterdir():
        content = path.read_bytes()
        assert not zipfile.is_zipfile(path)  # as torch.save writes
        if path.suffix == ".json":
            json.loads(content)
        else:  # safetensors: length of the header, the header, tensors as they lie in memory
            assert json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_a_run_learns(toy_faces, tmp_path, monkeypatch):
    gentle = replace(TINY["tiny online"], batch_size=4)
    monkeypatch.setitem(RECIPES, "gentle", gentle)
    run = start(toy_faces(train=16), tmp_path / "run", "gentle", epochs=3)
    run.train(progress=False)
    assert run.history[-1]["loss"] < 0.8 * run.history[0]["loss"]


# --- seeds


@pytest.mark.parametrize("recipe", TINY)
def test_the_same_seed_gives_the_same_run(recipe, undisturbed, toy_faces, tmp_path):
    torch.rand(3)  # what was drawn before does not matter
    again = start(toy_faces(), tmp_path / "again", recipe)
    again.train(progress=False)
    assert differences(again.out, undisturbed(recipe).out) == []


def test_another_seed_gives_another_run(undisturbed, toy_faces, tmp_path):
    other = start(toy_faces(), tmp_path / "other", epochs=1, seed=1)
    other.train(progress=False)
    mine, theirs = (load_weights(run.out).model for run in (other, undisturbed()))
    assert not torch.equal(mine.head.weight, theirs.head.weight)
    assert other.history[0]["loss"] != undisturbed().history[0]["loss"]


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20])
def test_a_seed_that_cannot_be(seed, toy_faces, tmp_path):
    with pytest.raises(RunError, match=f"seed .*{seed}"):
        start(toy_faces(), tmp_path / "run", seed=seed)


# --- killed and resumed


@pytest.mark.parametrize("recipe", TINY)
@pytest.mark.parametrize("at", [0, 2, 4, 7])
def test_stopped_in_a_step_and_resumed(recipe, at, undisturbed, toy_faces, tmp_path, monkeypatch):
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
    function, undisturbed, toy_faces, tmp_path, monkeypatch
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


def test_optimiser_moments_come_back_in_the_layout_of_their_weights(
    undisturbed, toy_faces, tmp_path
):
    """The fused optimiser walks through memory: a moment that lies otherwise is mixed up."""
    resumed = start(toy_faces(), undisturbed().out, resume=True)
    for parameter in resumed.model.parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            assert resumed.optimizer.state[parameter][moment].stride() == parameter.stride()


CHILD = """
import os, random, signal, sys, threading
from dataclasses import replace
from lanmsff import train
from lanmsff.__main__ import main
from lanmsff.recipes import RECIPES

RECIPES["tiny"] = replace(RECIPES["paper"], batch_size=4)
train.CHECKPOINT_SECONDS = -1
how, seed, *command = sys.argv[1:]
at = random.Random(int(seed)).randrange(2, 6)
calls = 0

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

step, save = train.Run.train_step, train.save_file

def killed_step(self, items):
    global calls
    calls += 1
    if calls == at:
        threading.Timer(random.Random(seed).uniform(0, 0.03), kill).start()
    step(self, items)

def killed_save(tensors, path, metadata):
    global calls
    calls += 1
    save(tensors, path, metadata)
    if calls == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        kill()

if how == "step":
    train.Run.train_step = killed_step
if how == "save":
    train.save_file = killed_save
sys.exit(main(command))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL, which is POSIX")
def test_killed_twice_and_resumed_from_the_command_line(undisturbed, toy_faces, tmp_path):
    """By SIGKILL, at a random moment of a random step, then while a checkpoint is half written."""
    seed = str(np.random.default_rng().integers(10**6))
    print(f"seed of the moment: {seed}")  # shown when the test fails
    toy_faces().save(tmp_path / "toy.npz")
    threads = str(torch.get_num_threads())  # the order of sums depends on it
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": path}
    command = ["train", "--data", "toy.npz", "--recipe", "tiny", "--out", "run", "--epochs", "2",
               "--device", "cpu", "--precision", "float32"]  # fmt: skip

    def call(how, *more):
        words = [sys.executable, "-c", CHILD, how, seed, *command, *more]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

    for how, more in (("step", ()), ("save", ("--resume",))):
        killed = call(how, *more)
        assert killed.returncode == -9, killed.stderr
    assert list((tmp_path / "run").glob(".*.part"))  # the half-written one lies beside
    resumed = call("", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert differences(tmp_path / "run", undisturbed().out) == []


def test_more_epochs_later_are_more_epochs_at_once(undisturbed, toy_faces, tmp_path):
    first = start(toy_faces(), tmp_path / "run", epochs=1)
    first.train(progress=False)
    assert first.finished == "1 epochs done"
    more = start(toy_faces(), tmp_path / "run", epochs=2, resume=True)
    assert more.finished is None and more.epoch == 1
    more.train(progress=False)
    assert differences(more.out, undisturbed().out) == []
    assert more.seconds > first.seconds


def test_a_schedule_over_all_epochs_cannot_be_given_more(undisturbed, toy_faces):
    out = undisturbed("tiny improved").out
    with pytest.raises(RunError, match="settings .*'epochs': 2.*'epochs': 3"):
        start(toy_faces(), out, "tiny improved", epochs=3, resume=True)


def test_a_finished_run_has_nothing_left_to_do(undisturbed, toy_faces):
    run = undisturbed()
    before = {path: path.read_bytes() for path in run.out.iterdir()}
    again = start(toy_faces(), run.out, resume=True)
    assert again.finished == "2 epochs done"
    assert again.record()["history"] == run.history
    again.train(progress=False)
    assert {path: path.read_bytes() for path in run.out.iterdir()} == before


# --- what is refused


def test_a_run_is_never_overwritten(undisturbed, toy_faces):
    with pytest.raises(RunError, match="holds a run; add --resume"):
        start(toy_faces(), undisturbed().out)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"recipe": "tiny online"}, "recipe tiny, asked is tiny online"),
        ({"seed": 1}, "seed 0, asked is 1"),
        ({"changes": {"batch_size": 5}}, "settings .*'batch_size': 4.*'batch_size': 5"),
        ({"attention": "none"}, "model .*asked is .*'attention': 'none'"),
        ({"faces": {"seed": 9}}, "data_sha256 .*, asked is"),
        ({"faces": {"train": 6}}, "data_sha256|counts"),
    ],
    ids=["recipe", "seed", "setting", "model", "other faces", "more faces"],
)
def test_a_run_of_something_else_is_not_resumed(changed, message, undisturbed, toy_faces):
    faces = toy_faces(**changed.pop("faces", {}))
    out = undisturbed().out
    with pytest.raises(RunError, match=message) as refused:
        start(faces, out, resume=True, **changed)
    assert str(out) in str(refused.value) and "name another folder" in str(refused.value)


def test_settings_of_a_recipe_belong_to_the_run(undisturbed, toy_faces, monkeypatch):
    """A recipe that was edited since is another one, whatever its name."""
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY["tiny"], learning_rate=5e-4))
    with pytest.raises(RunError, match="settings .*0.001.*0.0005"):
        start(toy_faces(), undisturbed().out, resume=True)


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_split(missing, toy_faces, tmp_path):
    with pytest.raises(RunError, match=f"no faces in split '{missing}'"):
        start(toy_faces(**{missing: 0}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def other_header(path):
    save_file(load_file(path), path, metadata={"run": "{}"})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"nonsense" * 100),
        lambda path: torch.save({}, path),
        lambda path: save_file({"x": torch.ones(1)}, path),
        lambda path: save_file({"x": torch.ones(1)}, path, metadata={"run": "{"}),
        other_header,
    ],
    ids=["cut", "empty", "nonsense", "pickle", "no header", "header no JSON", "other header"],
)
def test_a_corrupt_checkpoint(spoil, undisturbed, toy_faces, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes((undisturbed().out / "checkpoint.safetensors").read_bytes())
    spoil(checkpoint)
    with pytest.raises(RunError, match="not a whole checkpoint") as refused:
        start(toy_faces(), tmp_path, resume=True)
    assert str(checkpoint) in str(refused.value) and "\n" not in str(refused.value)


# --- a loss that is no number


@pytest.mark.parametrize(
    "at, checkpoint_seconds, message",
    [
        (5, 60, "the loss is nan in epoch 2, step 4"),
        (5, -1, "a weight is not finite in epoch 2, step 2"),
        (7, 60, "the validation loss is nan in epoch 2"),  # the last step of the epoch
    ],
)
def test_broken_weights_keep_the_last_good_checkpoint(
    at, checkpoint_seconds, message, undisturbed, toy_faces, tmp_path, monkeypatch
):
    """Weights break in step `at`, the loss with the next one; epoch 2 begins with step 4."""
    run = start(toy_faces(), tmp_path / "run")
    step, count = run.train_step, itertools.count()

    def breaking(items):
        step(items)
        if next(count) == at:
            torch.nn.init.constant_(run.model.head.bias, float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(run, "train_step", breaking)
        patch.setattr(train, "CHECKPOINT_SECONDS", checkpoint_seconds)
        with pytest.raises(RunError, match=f"{message}.*last good checkpoint is kept"):
            run.train(progress=False)
    for path in run.out.glob("*.safetensors"):
        tensors = load_file(path)
        assert all(t.isfinite().all() for n, t in tensors.items() if t.is_floating_point()), path
    resumed = start(toy_faces(), tmp_path / "run", resume=True)
    resumed.train(progress=False)
    assert differences(resumed.out, undisturbed().out) == []


# --- our own recipe


def test_the_rate_follows_the_steps(toy_faces, tmp_path, monkeypatch):
    run = start(toy_faces(), tmp_path / "run", "tiny improved")
    rates = []
    monkeypatch.setattr(
        run, "train_step", lambda _: rates.append({g["lr"] for g in run.optimizer.param_groups})
    )
    run.train(progress=False)
    shares = (np.arange(8) + 0.5) / 8
    assert rates == [{learning_rate(run.recipe, share)} for share in shares]


def test_the_averaged_weights_are_validated_and_saved(undisturbed, toy_faces):
    """By the mean of each face and its mirror image, as the header says to score them."""
    run, val = undisturbed("tiny improved"), toy_faces().subset("val")
    last = load_weights(run.out / "last.safetensors")
    averaged, trained = run.average.model.state_dict(), run.model.state_dict()
    assert all(torch.equal(t, averaged[name]) for name, t in last.model.state_dict().items())
    assert not torch.equal(averaged["head.weight"], trained["head.weight"])
    assert last.mirror and last.info["settings"]["average"] == run.recipe.average
    logits = predict(last.model, torch.from_numpy(val.images), CPU, mirror=last.mirror)
    loss = F.cross_entropy(logits, torch.from_numpy(val.labels)).item()
    assert run.history[-1]["val_loss"] == pytest.approx(loss, rel=1e-6)


def test_targets_are_smoothed_votes(toy_faces, tmp_path, monkeypatch):
    """The loss of a step, from its formula: cross-entropy with (1 - s) p + s / K."""
    faces = toy_faces(train=3)
    target = np.eye(3, dtype=np.float32)[faces.labels] * 0.6 + 0.4 / 3
    soft = replace(faces, target=target)
    changes = {"label_smoothing": 0.1, "batch_size": 3}
    run = start(soft, tmp_path / "run", "tiny improved", changes=changes)
    seen = []
    forward = run.model.forward
    monkeypatch.setattr(run.model, "forward", lambda x: seen.append(forward(x)) or seen[-1])
    run.train_step(torch.arange(3))
    wanted = 0.9 * torch.from_numpy(target[:3]) + 0.1 / 3
    expected = -(wanted * seen[0].log_softmax(1)).sum()
    assert run.sums[0].item() == pytest.approx(expected.item(), rel=1e-5)
    dropped = start(soft, tmp_path / "hard", "tiny improved", changes={"soft_labels": False})
    assert torch.equal(dropped.targets, torch.from_numpy(faces.labels[:3]))


def test_dropout_is_the_recipe_s_unless_an_ablation_says_otherwise(toy_faces, tmp_path):
    changes = {"dropout": 0.3}
    run = start(toy_faces(), tmp_path / "a", changes=changes)
    assert run.model.config["dropout"] == 0.3 == run.asked["settings"]["dropout"]
    assert start(toy_faces(), tmp_path / "b", dropout=0.2).model.config["dropout"] == 0.2


# --- the authors' callbacks


def test_the_optimiser_is_adam_with_the_recipe_s_constants(undisturbed):
    defaults = undisturbed().optimizer.defaults
    assert isinstance(undisturbed().optimizer, torch.optim.Adam)
    assert (defaults["lr"], defaults["eps"], defaults["betas"]) == (1e-3, 1e-7, (0.9, 0.999))
    assert defaults["weight_decay"] == 0 and not defaults["amsgrad"]


def keras(losses, epochs=100):
    """Learning rate of every epoch that Keras would run on these validation losses.

    Adam(1e-3), ReduceLROnPlateau("val_loss", factor=0.1, patience=9, min_delta=1e-4) and
    EarlyStopping("val_loss", patience=14), written from Keras' documentation.
    """
    rate, used = 1e-3, []
    plateau_best = stop_best = math.inf
    plateau_wait = stop_wait = 0
    for loss in losses[:epochs]:
        used.append(rate)
        if loss < plateau_best - 1e-4:
            plateau_best, plateau_wait = loss, 0
        else:
            plateau_wait += 1
            if plateau_wait >= 9:
                rate, plateau_wait = rate * 0.1, 0
        if loss < stop_best:
            stop_best, stop_wait = loss, 0
        else:
            stop_wait += 1
            if stop_wait >= 14:
                break
    return used


@pytest.fixture
def on_losses(toy_faces, tmp_path, monkeypatch):
    """`on_losses(losses)`: a run of the paper's recipe whose epochs have these validation losses."""

    def run(losses, **options):
        out = tmp_path / "made up"
        run = Run(toy_faces(), "paper", out, device=CPU, precision="float32", **options)
        upcoming = iter(losses[run.epoch :])
        made_up = SimpleNamespace(
            cross_entropy=lambda *_, **__: torch.tensor(next(upcoming), dtype=torch.float64)
        )

        def train_epoch(progress):
            for parameter in run.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            run.optimizer.step()
            torch.nn.init.constant_(run.model.head.bias, run.epoch + 1.0)

        monkeypatch.setattr(train, "F", made_up)
        monkeypatch.setattr(train, "predict", lambda *_, **__: torch.zeros(4, 3))
        monkeypatch.setattr(train, "git_commit", lambda: None)
        monkeypatch.setattr(run, "_train_epoch", train_epoch)
        run.train(progress=False)
        return run

    return run


rng = np.random.default_rng(0)
LOSSES = {
    "never better": [1.0] * 100,
    "always better": [2.0 - 0.01 * k for k in range(120)],
    "better by less than 1e-4": [1.0 - 1e-6 * k for k in range(120)],
    "better by half of 1e-4": [1.0 - 5e-5 * k for k in range(120)],
    "better by 2e-4 of 30": [30.0 - 2e-4 * k for k in range(120)],  # absolute, not relative
    "worse and worse": [1.0 + 0.01 * k for k in range(100)],
    "just in time": [1.0] * 9 + [0.9] + [0.95] * 13 + [0.8] + [0.8] * 100,
    "walk": (2 + np.cumsum(rng.normal(-0.01, 0.1, 120))).tolist(),
    "noise": (1 + rng.normal(0, 0.1, 120) / np.arange(1, 121)).tolist(),
    "falling noise": (np.linspace(2, 1, 120) + rng.normal(0, 0.05, 120)).tolist(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_plateau_and_early_stopping_are_keras(name, on_losses, monkeypatch):
    for function in ("save_weights", "write_record"):
        monkeypatch.setattr(train, function, lambda *_: None)
    monkeypatch.setattr(Run, "_save_checkpoint", lambda _: None)
    run = on_losses(LOSSES[name])
    rates = [epoch["learning_rate"] for epoch in run.history]
    assert rates == pytest.approx(keras(LOSSES[name]), rel=1e-9)


def test_nine_epochs_on_a_plateau_and_fourteen_in_all(on_losses):
    run = on_losses(LOSSES["never better"])
    rates = [epoch["learning_rate"] for epoch in run.history]
    assert rates == pytest.approx(10 * [1e-3] + 5 * [1e-4])  # the first is the best
    assert run.finished == "validation loss did not fall for 14 epochs"
    assert run.best["epoch"] == 1


def test_the_callbacks_survive_a_resume(on_losses, monkeypatch):
    """Stopped by --epochs in the middle of a plateau, then told to go on."""
    for function in ("save_weights", "write_record"):
        monkeypatch.setattr(train, function, lambda *_: None)
    losses = LOSSES["just in time"]
    assert on_losses(losses, epochs=17).epoch == 17
    run = on_losses(losses, resume=True)
    rates = [epoch["learning_rate"] for epoch in run.history]
    assert rates == pytest.approx(keras(losses), rel=1e-9)


def test_best_and_last_are_the_weights_of_their_epochs(on_losses):
    run = on_losses([1.0, 0.5, 0.5, 0.8], epochs=4)
    best, last = load_weights(run.out), load_weights(run.out / "last.safetensors")
    assert best.info["epoch"] == 2 and set(best.model.head.bias.tolist()) == {2.0}
    assert last.info["epoch"] == 4 and set(last.model.head.bias.tolist()) == {4.0}
