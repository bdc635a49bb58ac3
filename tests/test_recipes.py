"""Recipes as data: what can be changed, and the schedule of our own."""

import inspect
import re
from dataclasses import fields, replace

import pytest
import torch

from lanmsff import recipes
from lanmsff.model import LANMSFF
from lanmsff.recipes import RECIPES, Recipe, pick_recipe
from lanmsff.step import make_optimizer

IMPROVED, PAPER = RECIPES["improved"], RECIPES["paper"]
INGREDIENTS = (
    "weight_decay", "warmup", "mirror", "degrees", "zoom", "shift", "light", "erase",
    "soft_labels", "label_smoothing", "average", "test_mirror",
)  # fmt: skip


def test_the_paper_s_recipe():
    assert (PAPER.augmentation, PAPER.epochs, PAPER.batch_size) == ("offline", 100, 32)
    for ingredient in INGREDIENTS:  # none of ours
        assert not getattr(PAPER, ingredient)
    assert PAPER.dropout == LANMSFF().config["dropout"]


def test_every_default_leaves_an_ingredient_out():
    plain = Recipe(augmentation="views", epochs=1, batch_size=1, learning_rate=1.0)
    for ingredient in INGREDIENTS:
        assert not getattr(plain, ingredient) and getattr(IMPROVED, ingredient)


def test_every_setting_stands_with_its_reason():
    lines = re.findall(r"^    (\w+)=[^#\n]*,(  # \w.+)?$", inspect.getsource(recipes), re.M)
    changed = [field.name for recipe, before in (("improved", "paper"), ("short", "improved"),
                                                 ("short-rendered", "short"))
               for field in fields(Recipe)
               if getattr(RECIPES[recipe], field.name) != getattr(RECIPES[before], field.name)]  # fmt: skip
    assert len(lines) >= len(changed) and set(changed) <= {name for name, _ in lines}
    assert [name for name, reason in lines if not reason] == []


def test_changes():
    assert pick_recipe("improved") is not None and pick_recipe("paper") == PAPER
    changed = pick_recipe("improved", {"erase": 0, "average": 0.5, "soft_labels": False})
    assert changed == replace(IMPROVED, erase=0, average=0.5, soft_labels=False)
    assert pick_recipe("paper", {"stop_patience": None}).stop_patience is None
    assert pick_recipe("paper", {"warmup": 0.2, "schedule": "cosine"}).warmup == 0.2


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("best", {}, "recipe 'best': choose one of paper, improved, short, short-rendered"),
        ("paper", {"eraze": 0}, "recipe paper: no setting 'eraze'; there are .*erase"),
        ("paper", {"epochs": 3}, "epochs are no setting but an argument, --epochs"),
        ("paper", {"erase": -0.1}, "erase: -0.1 is not a number from 0 to 1$"),
        ("paper", {"dropout": 1}, "dropout: 1 is not a number from 0 to below 1"),
        ("paper", {"plateau_factor": 5}, "plateau_factor: 5 is not a number above 0 to below 1"),
        ("paper", {"learning_rate": 0}, "learning_rate: 0 is not a number above 0$"),
        ("paper", {"learning_rate": float("inf")}, "learning_rate: inf is not a number"),
        ("paper", {"erase": "much"}, "erase: 'much' is not a number"),
        ("paper", {"learning_rate": float("nan")}, "learning_rate: nan is not a number above 0"),
        ("paper", {"learning_rate": True}, "learning_rate: True is not a number"),
        ("paper", {"batch_size": 0}, "batch_size: 0 is not a whole number of at least 1"),
        ("paper", {"batch_size": 2.0}, "batch_size: 2.0 is not a whole number"),
        ("paper", {"stop_patience": 0}, "stop_patience: 0 is not a whole number of at least 1"),
        ("paper", {"test_mirror": 1}, "test_mirror: 1 is not true or false"),
        ("paper", {"schedule": "step"}, "schedule: 'step' is not plateau or cosine"),
        ("paper", {"augmentation": None}, "augmentation: None is not offline or online or views"),
        ("paper", {"erase": 0.3}, "erase has no effect with augmentation 'offline', only with 'v"),
        ("improved", {"plateau_patience": 3}, "no effect with schedule 'cosine', only with 'pla"),
        ("improved", {"schedule": "plateau", "warmup": 0.2}, "warmup has no effect with schedule"),
    ],
)
def test_changes_that_cannot_be(name, changes, message):
    with pytest.raises(ValueError, match=message):
        pick_recipe(name, changes)


def test_every_setting_can_be_changed_to_what_it_is():
    for recipe in RECIPES:
        for field in fields(Recipe):
            if field.name != "epochs":
                value = getattr(RECIPES[recipe], field.name)
                assert pick_recipe(recipe, {field.name: value}) == RECIPES[recipe]


def test_the_optimiser_without_decay_is_adam():
    torch.manual_seed(0)
    ours, theirs = LANMSFF(3), LANMSFF(3)
    theirs.load_state_dict(ours.state_dict())
    recipe = replace(PAPER, learning_rate=0.01)
    optimizers = [
        make_optimizer(ours, recipe),
        torch.optim.Adam(theirs.parameters(), lr=0.01, eps=1e-7, betas=(0.9, 0.999)),
    ]
    for _ in range(3):
        for mine, other in zip(ours.parameters(), theirs.parameters()):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(mine, other)


def test_only_kernels_and_matrices_decay():
    model = LANMSFF(3)
    optimizer = make_optimizer(model, replace(IMPROVED, learning_rate=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim > 1 else 1.0  # 1 - rate * decay
        torch.testing.assert_close(parameter.detach(), before[name] * factor)
