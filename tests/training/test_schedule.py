"""The learning rate: the authors' callbacks against Keras' documentation, and our cosine."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lanmsff import train
from lanmsff.recipes import RECIPES
from lanmsff.schedule import Schedule, cosine
from lanmsff.train import Run
from lanmsff.weights import load_weights

CPU = torch.device("cpu")


# --- ours


def test_the_rate_rises_and_falls_on_a_cosine():
    recipe = replace(RECIPES["improved"], learning_rate=2.0, warmup=0.2)
    assert cosine(recipe, 0.0) == 0
    assert cosine(recipe, 0.1) == pytest.approx(1.0)
    assert cosine(recipe, 0.2) == 2.0
    assert cosine(recipe, 0.4) == pytest.approx(1 + math.cos(math.pi / 4))
    assert cosine(recipe, 0.6) == pytest.approx(1.0)
    assert cosine(recipe, 1.0) == pytest.approx(0.0, abs=1e-12)
    without = replace(recipe, warmup=0.0)
    assert cosine(without, 0.0) == 2.0
    assert cosine(without, 0.5) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_a_rate_stays_where_it_is(kind):
    """A captured step reads its rate from one tensor; the schedule fills that."""
    for recipe in (RECIPES["improved"], replace(RECIPES["paper"], plateau_patience=0)):
        groups = [{"params": [torch.zeros(1)], "lr": kind(0.5)} for _ in range(2)]
        optimizer = torch.optim.AdamW(groups)
        held = [group["lr"] for group in optimizer.param_groups]
        schedule = Schedule(optimizer, recipe, steps=10)
        schedule.before_step(4)
        for loss in (1.0, 1.0):  # the second is no better
            schedule.after_epoch(loss)
        expected = cosine(recipe, 0.45) if recipe.schedule == "cosine" else 1e-4
        assert [float(g["lr"]) for g in optimizer.param_groups] == pytest.approx([expected] * 2)
        if kind is torch.tensor:
            assert all(g["lr"] is tensor for g, tensor in zip(optimizer.param_groups, held))

        state = schedule.state_dict()
        other = Schedule(torch.optim.SGD([torch.zeros(1)], lr=1.0), recipe, steps=10)
        other.load_state_dict(state)
        assert other.state_dict() == state and other.rate == pytest.approx(expected)


# --- the authors'


def test_the_optimiser_is_adam_with_the_recipe_s_constants(undisturbed):
    defaults = undisturbed().learner.optimizer.defaults
    assert isinstance(undisturbed().learner.optimizer, torch.optim.Adam)
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
            run.learner.optimizer.step()
            # what is noted is what the optimiser uses
            assert {g["lr"] for g in run.learner.optimizer.param_groups} == {run.learner.schedule.rate}
            torch.nn.init.constant_(run.model.head.bias, run.epoch + 1.0)
            return True

        monkeypatch.setattr(train, "F", made_up)
        monkeypatch.setattr(train, "predict", lambda *_, **__: torch.zeros(4, 3))
        monkeypatch.setattr(train, "git_commit", lambda: None)
        monkeypatch.setattr(run, "_train_epoch", train_epoch)
        run.train(progress=False)
        return run

    return run


@pytest.fixture
def quick_files(monkeypatch):
    """Nothing of use is written, which takes most of the time of so many epochs."""
    monkeypatch.setattr(train, "save_weights", lambda _, path, *__: path.write_bytes(b"weights"))
    monkeypatch.setattr(train, "write_record", lambda *_: None)


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
def test_plateau_and_early_stopping_are_keras(name, on_losses, quick_files, monkeypatch):
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


def test_the_callbacks_survive_a_resume(on_losses, quick_files):
    """Stopped by --epochs in the middle of a plateau, then told to go on."""
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
