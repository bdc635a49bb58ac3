"""A training run: what it leaves behind, that it learns, and what is refused."""

import hashlib
import json
import math
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lanmsff import LANMSFF
from lanmsff.__main__ import main
from lanmsff.evaluate import Predictor, predict
from lanmsff.recipes import RECIPES
from lanmsff.results import read_record
from lanmsff.schedule import cosine
from lanmsff.train import Run, RunError
from lanmsff.weights import load_weights

CPU = torch.device("cpu")
FILES = {
    "checkpoint.safetensors", "checkpoint-before.safetensors", "best.safetensors",
    "last.safetensors", "record.json", "run.lock",
}  # fmt: skip


# --- what a run leaves behind


def test_files_and_record(undisturbed):
    run = undisturbed()
    assert {path.name for path in run.out.iterdir()} == FILES
    assert (run.out / "run.lock").read_bytes() == b""
    record = read_record(run.out / "record.json")
    now = json.loads(json.dumps(run.record()))
    for each in (record, now):  # that of the source tree may be another by now
        assert "commit" in each["environment"] and each["environment"].pop("commit") != ""
    seconds = record.pop("seconds")  # that of the checkpoint, which comes later, is a little more
    assert seconds <= now.pop("seconds") and record == now
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
        assert 0 < epoch["train_seconds"] < epoch["seconds"] <= seconds


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


def test_the_test_split_has_no_say(undisturbed, toy_faces, tmp_path, start, differences):
    faces = toy_faces()
    run = start(faces.select(faces.split != "test"), tmp_path / "run")
    run.train(progress=False)
    assert differences(run.out, undisturbed().out) == []


def test_loss_and_accuracy_are_means_over_images(start, toy_faces, tmp_path, monkeypatch):
    """Also when the last batch is a small one."""
    run = start(toy_faces(train=5), tmp_path / "run", "tiny online", 1, changes={"batch_size": 2})
    seen = []
    forward = run.model.forward

    def watched(images):
        logits = forward(images)
        if torch.is_grad_enabled():  # not in validation
            seen.append(logits.detach())
        return logits

    monkeypatch.setattr(run.model, "forward", watched)
    run.train(progress=False)
    assert [len(logits) for logits in seen] == [2, 2, 1]
    labels = run.learner.targets[torch.cat(run.learner.batches(0))]
    logits = torch.cat(seen)
    loss, right = F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).sum().item()
    assert run.history[0]["loss"] == pytest.approx(loss, rel=1e-6)
    assert run.history[0]["accuracy"] == pytest.approx(right / 5)


@pytest.mark.parametrize("recipe, per_face", [("tiny", 4), ("tiny online", 1), ("tiny improved", 1)])
def test_an_epoch_shows_every_image_once_in_a_new_order(
    recipe, per_face, toy_faces, tmp_path, monkeypatch, start
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
        elif path.suffix == ".safetensors":  # safetensors: length of the header, the header, tensors as they lie in memory
            assert json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_a_run_learns(toy_faces, tmp_path, start):
    changes = {"batch_size": 4}
    run = start(toy_faces(train=16), tmp_path / "run", "tiny online", epochs=3, changes=changes)
    run.train(progress=False)
    assert run.history[-1]["loss"] < 0.8 * run.history[0]["loss"]


# --- seeds


@pytest.mark.parametrize("recipe", ["tiny", "tiny online", "tiny improved"])
def test_the_same_seed_gives_the_same_run(
    recipe, undisturbed, toy_faces, tmp_path, start, differences
):
    torch.rand(3)  # what was drawn before does not matter
    again = start(toy_faces(), tmp_path / "again", recipe)
    again.train(progress=False)
    assert differences(again.out, undisturbed(recipe).out) == []


def test_another_seed_gives_another_run(undisturbed, toy_faces, tmp_path, start):
    other = start(toy_faces(), tmp_path / "other", epochs=1, seed=1)
    other.train(progress=False)
    mine, theirs = (load_weights(run.out).model for run in (other, undisturbed()))
    assert not torch.equal(mine.head.weight, theirs.head.weight)
    assert other.history[0]["loss"] != undisturbed().history[0]["loss"]


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20])
def test_a_seed_that_cannot_be(seed, toy_faces, tmp_path, start):
    with pytest.raises(RunError, match=f"seed .*{seed}"):
        start(toy_faces(), tmp_path / "run", seed=seed)


@pytest.fixture
def as_before(monkeypatch):
    """What `be_deterministic` sets, for the whole process, is taken back."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that the deletion is taken back, too
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    yield
    torch.use_deterministic_algorithms(before, warn_only=warn_only)


def test_deterministic_is_for_the_run_and_in_its_record(toy_faces, tmp_path, as_before):
    """What has no deterministic form is done all the same, with a warning."""
    toy_faces().save(tmp_path / "toy.npz")
    words = f"train --data {tmp_path}/toy.npz --recipe tiny --epochs 1 --device cpu --out".split()
    for name, flags in (("plain", []), ("strict", ["--deterministic"])):
        assert torch.are_deterministic_algorithms_enabled() is False
        assert main([*words, str(tmp_path / name), "--precision", "float32", *flags]) == 0
        record = read_record(tmp_path / name / "record.json")
        assert record["deterministic"] is bool(flags)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.warns(UserWarning, match="put_ does not have a deterministic implementation"):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))


# --- our own recipe


def test_the_rate_follows_the_steps(toy_faces, tmp_path, monkeypatch, start):
    run = start(toy_faces(), tmp_path / "run", "tiny improved")
    rates = []

    def step(items, share):
        rates.append({group["lr"] for group in run.learner.optimizer.param_groups})
        return torch.zeros(2)

    monkeypatch.setattr(run.learner, "step", step)
    run.train(progress=False)
    shares = (np.arange(8) + 0.5) / 8
    assert rates == [{cosine(run.recipe, share)} for share in shares]


def test_the_averaged_weights_are_validated_and_saved(undisturbed, toy_faces):
    """By the mean of each face and its mirror image, as the header says to score them."""
    run, val = undisturbed("tiny improved"), toy_faces().subset("val")
    last = load_weights(run.out / "last.safetensors")
    averaged, trained = run.learner.average.model.state_dict(), run.model.state_dict()
    assert all(torch.equal(t, averaged[name]) for name, t in last.model.state_dict().items())
    assert not torch.equal(averaged["head.weight"], trained["head.weight"])
    assert last.mirror and last.info["settings"]["average"] == run.recipe.average
    logits = predict(last.model, torch.from_numpy(val.images), CPU, mirror=last.mirror)
    loss = F.cross_entropy(logits, torch.from_numpy(val.labels)).item()
    assert run.history[-1]["val_loss"] == pytest.approx(loss, rel=1e-6)


def test_targets_are_smoothed_votes(toy_faces, tmp_path, monkeypatch, start):
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
    assert run.tally[0, 0].item() == pytest.approx(expected.item(), rel=1e-5)
    dropped = start(soft, tmp_path / "hard", "tiny improved", changes={"soft_labels": False})
    assert torch.equal(dropped.learner.targets, torch.from_numpy(faces.labels[:3]))


def test_dropout_is_the_recipe_s(toy_faces, tmp_path, start):
    run = start(toy_faces(), tmp_path / "a", changes={"dropout": 0.3})
    assert run.model.config["dropout"] == 0.3 == run.asked["settings"]["dropout"]


@pytest.mark.parametrize("option", [{"dropout": 0.2}, {"num_classes": 8}])
def test_what_recipe_and_data_say_is_no_option(option, toy_faces, tmp_path, start):
    with pytest.raises(RunError, match=f"{next(iter(option))} is no option of a run"):
        start(toy_faces(), tmp_path / "a", **option)
    assert not (tmp_path / "a").exists()


def test_a_run_that_starts_with_weights(undisturbed, toy_faces, tmp_path, start):
    """It begins with their tensors, whatever dropout it adds, and is a run of its own."""
    first = undisturbed()
    given = load_weights(first.out)
    run = start(toy_faces(), tmp_path / "on", "tiny improved", start=first.out)
    for network in (run.model, run.learner.scored_model):
        for name, tensor in given.model.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor)
    assert run.model.config["dropout"] == 0.1 and given.model.config["dropout"] == 0.4
    assert run.asked["start"] == {"weights": first.out.name, "sha256": given.sha256}
    assert given.sha256 == hashlib.sha256((first.out / "best.safetensors").read_bytes()).hexdigest()
    run.train(progress=False)
    assert load_weights(tmp_path / "on").info["start"] == run.asked["start"]
    with pytest.raises(RunError, match="start {.*}, asked is None"):
        start(toy_faces(), tmp_path / "on", "tiny improved", resume=True)


@pytest.mark.parametrize(
    "other, message",
    [
        ({"attention": "none"}, "of another network: attention 'massatt', not 'none'"),
        ({"selection": False}, "of another network: selection True, not False"),
    ],
)
def test_weights_of_another_network_are_no_start(other, message, undisturbed, toy_faces, tmp_path,
                                                 start):  # fmt: skip
    with pytest.raises(ValueError, match=message):
        start(toy_faces(), tmp_path / "on", start=undisturbed().out, **other)
    assert not (tmp_path / "on").exists()


# --- what is refused


def test_a_run_is_never_overwritten(undisturbed, toy_faces, start):
    with pytest.raises(RunError, match="holds a run; go on with it .--resume, resume=True."):
        start(toy_faces(), undisturbed().out)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"recipe": "tiny online"}, "recipe tiny, asked is tiny online"),
        ({"seed": 1}, "seed 0, asked is 1"),
        ({"changes": {"batch_size": 5}}, "settings {'batch_size': 4}, asked is {'batch_size': 5};"),
        ({"attention": "none"}, "model {'attention': None}, asked is {'attention': 'none'};"),
        ({"faces": {"seed": 9}}, "data_sha256 .*, asked is"),
        ({"faces": {"train": 6}}, "data_sha256|counts"),
    ],
    ids=["recipe", "seed", "setting", "model", "other faces", "more faces"],
)
def test_a_run_of_something_else_is_not_resumed(changed, message, undisturbed, toy_faces, start):
    faces = toy_faces(**changed.pop("faces", {}))
    out = undisturbed().out
    with pytest.raises(RunError, match=message) as refused:
        start(faces, out, resume=True, **changed)
    assert str(out) in str(refused.value) and "name another folder" in str(refused.value)


def test_settings_of_a_recipe_belong_to_the_run(undisturbed, toy_faces, monkeypatch, start):
    """A recipe that was edited since is another one, whatever its name."""
    monkeypatch.setitem(RECIPES, "tiny", replace(RECIPES["tiny"], learning_rate=5e-4))
    with pytest.raises(RunError, match="settings {'learning_rate': 0.001}, asked is .*0.0005"):
        start(toy_faces(), undisturbed().out, resume=True)


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_split(missing, toy_faces, tmp_path, start):
    with pytest.raises(RunError, match=f"no faces in split '{missing}'"):
        start(toy_faces(**{missing: 0}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_average_counts_the_first_step_as_one(toy_faces, tmp_path, start):
    run = start(toy_faces(), tmp_path / "run", "tiny improved")
    before = run.model.head.bias.detach().clone()
    run.model.train()
    run.train_step(torch.arange(1))
    wanted = (2 * before + 9 * run.model.head.bias.detach()) / 11
    torch.testing.assert_close(run.learner.average.model.head.bias, wanted)


def test_the_seed_draws_the_images_and_their_order(toy_faces, tmp_path, start):
    one, other = (start(toy_faces(), tmp_path / str(seed), seed=seed).learner for seed in (0, 1))
    assert not torch.equal(one.images.radians, other.images.radians)
    assert not torch.equal(torch.cat(one.batches(0)), torch.cat(other.batches(0)))


def test_every_epoch_has_its_own_draws(toy_faces, tmp_path, monkeypatch, start):
    run, drawn = start(toy_faces(), tmp_path / "run", "tiny improved"), []
    monkeypatch.setattr(run, "train_step",
                        lambda items: drawn.append(run.learner.images.draws.clone()))  # fmt: skip
    run.train(progress=False)
    assert len(drawn) == 8 and torch.equal(drawn[0], drawn[3]) and torch.equal(drawn[4], drawn[7])
    assert not torch.equal(drawn[3], drawn[4])


def test_seconds_of_training_are_those_of_their_epoch(undisturbed):
    first, second = undisturbed().history
    assert 0 < second["train_seconds"] < second["seconds"] - first["seconds"]


@pytest.mark.parametrize("epochs", [0, -1, 1.5])
def test_epochs_that_cannot_be(epochs, toy_faces, tmp_path, start):
    with pytest.raises(RunError, match=f"epochs must be a whole number above 0, got {epochs}"):
        start(toy_faces(), tmp_path / "run", epochs=epochs)


def test_a_precision_that_cannot_be(toy_faces, tmp_path):
    with pytest.raises(ValueError, match="precision must be one of .*, got 'bf16'"):
        Run(toy_faces(), "tiny", tmp_path / "run", device="cpu", precision="bf16")
    with pytest.raises(ValueError, match="precision must be one of .*, got 'bf16'"):
        Predictor(LANMSFF(3), "cpu", "bf16")
