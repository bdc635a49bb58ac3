"""Tiny runs on a made-up set, and how two of them are compared."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lanmsff.recipes import RECIPES
from lanmsff.results import read_record
from lanmsff.train import Run

PAPER = RECIPES["paper"]
TINY = {  # an epoch of four faces is four steps
    "tiny": replace(PAPER, batch_size=4),  # 16 images
    "tiny online": replace(PAPER, batch_size=1, augmentation="online"),
    "tiny improved": replace(RECIPES["improved"], batch_size=1),
}


@pytest.fixture(scope="module", autouse=True)
def tiny_recipes():
    with pytest.MonkeyPatch.context() as patch:
        for name, recipe in TINY.items():
            patch.setitem(RECIPES, name, recipe)
        yield


def _start(faces, out, recipe="tiny", epochs=2, **options):
    cpu = torch.device("cpu")
    return Run(faces, recipe, out, device=cpu, precision="float32", epochs=epochs, **options)


@pytest.fixture(scope="session")
def start():
    """`start(faces, out, recipe="tiny", epochs=2, ...)` is a `Run` on the CPU in float32."""
    return _start


@pytest.fixture(scope="session")
def undisturbed(toy_faces, tmp_path_factory):
    """`undisturbed(recipe)`: the finished run of two epochs that others are compared with."""
    finished = {}

    def run(recipe="tiny"):
        if recipe not in finished:
            finished[recipe] = _start(toy_faces(), tmp_path_factory.mktemp("undisturbed"), recipe)
            finished[recipe].train(progress=False)
        return finished[recipe]

    return run


def _figures(history):
    return [{k: v for k, v in epoch.items() if "seconds" not in k} for epoch in history]


@pytest.fixture(scope="session")
def figures():
    """`figures(history)` is that history without the seconds, which no two runs share."""
    return _figures


@pytest.fixture(scope="session")
def differences():
    """`differences(a, b)`: names of the files and tensors in which two runs' folders differ."""

    def compare(a: Path, b: Path) -> list[str]:
        found = []
        for name in ("checkpoint.safetensors", "best.safetensors", "last.safetensors"):
            tensors, others = load_file(a / name), load_file(b / name)
            assert tensors.keys() == others.keys()
            for each in (tensors, others):  # bytes of the best file, whose header has the commit
                each.pop("best", None)
            found += [f"{name}: {k}" for k in tensors if not torch.equal(tensors[k], others[k])]
        histories = [_figures(read_record(run / "record.json")["history"]) for run in (a, b)]
        return found + ["history"] * (histories[0] != histories[1])

    return compare
