"""Fixtures for more than one file: data beside the checkout (or skip), made-up sets, a network."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from torch import nn

from lanmsff import LANMSFF, plots
from lanmsff.data import FaceSet

BOOK = "tests/book/"
SHARED = Path(__file__).resolve().parents[1].parent / "shared"

# the same examples on every machine, however slow it is: a failure can be seen again
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`: a file's tests go to one process, and all that look at the book to the same one.

    The book is built once and two processes must not render it at once. Marks (`xdist_group`) would
    be the usual way; pytest-xdist 3.8.0 does not see them under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return BOOK if nodeid.startswith(BOOK) else nodeid.partition("::")[0]

    return ByFile(config, log)


def pytest_configure(config):
    """Let the processes of `-n` share the cores: too many threads make each of them slower."""
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if workers:
        threads = max(1, joblib.cpu_count() // int(workers))
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that tests begin
        torch.set_num_threads(threads)


@pytest.fixture
def no_tf32(monkeypatch):
    """Float32 in full: by default a GPU rounds what it convolves to 10 bits of mantissa."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="session")
def shared():
    """`shared("data/fer2013/labels.csv")` is that path, or skips and names the missing file."""

    def path(name: str) -> Path:
        found = SHARED / name
        if not found.exists():
            pytest.skip(f"needs ../shared/{name}, which is not beside this checkout")
        return found

    return path


@pytest.fixture(scope="session")
def fer2013_raw(shared, tmp_path_factory) -> Path:
    """A folder with the real fer2013.csv, the FERPlus votes and the three lists."""
    script = shared("data/fer2013/unpack.py")
    folder = tmp_path_factory.mktemp("fer2013")
    subprocess.run([sys.executable, script, folder], check=True)
    return folder


@pytest.fixture(scope="session")
def toy_faces():
    """`toy_faces(train=4, val=4, test=9)` is a made-up FaceSet of three classes, 48x48 pixels.

    A class is a bright band across noise, at the top, in the middle or at the bottom. Two of the
    test faces are marked as leaked, three as beyond 30 degrees.
    """

    def make(train: int = 4, val: int = 4, test: int = 9, seed: int = 0) -> FaceSet:
        rng = np.random.default_rng(seed)
        n = train + val + test
        labels = rng.integers(0, 3, n)
        images = rng.integers(0, 128, (n, 48, 48), dtype=np.uint8)
        for image, label in zip(images, labels):
            image[16 * label : 16 * label + 16] += 100
        split = np.repeat(["train", "val", "test"], [train, val, test])
        number = np.arange(n) - train - val  # among the test faces
        return FaceSet(
            images=images,
            labels=labels,
            split=split,
            name=np.array([f"toy{row:03}" for row in range(n)]),
            leaked_from=np.select([number == 0, number == 1], ["train", "val"], ""),
            pose30=(number >= 0) & (number < 3),
            meta={"dataset": "toy", "rule": "none", "classes": ["sad", "glad", "calm"],
                  "sources": {"nothing": "00"}},
        )  # fmt: skip

    return make


@pytest.fixture
def faces(toy_faces):
    """60 test faces of 12 people, seen from two sides."""
    test = toy_faces(train=0, val=0, test=60)
    people = np.array([f"F{row % 12:02}" for row in range(60)])
    yaw = np.where(np.arange(60) // 12 % 2, 45, -45).astype(np.float32)
    return replace(test, subject=people, yaw=yaw)


@pytest.fixture(scope="session")
def assert_close():
    """`assert_close(found, expected)`: the same records, but for how means are rounded."""

    def check(found, expected):
        if isinstance(expected, dict):
            assert found.keys() == expected.keys()
            for key in expected:
                check(found[key], expected[key])
        elif isinstance(expected, (list, tuple)):
            assert len(found) == len(expected)
            for one, other in zip(found, expected):
                check(one, other)
        elif isinstance(expected, float):
            assert found == pytest.approx(expected, rel=1e-8, abs=1e-9)
        else:
            assert found == expected

    return check


@pytest.fixture(scope="session")
def planted():
    """`planted(count, seed)` is noise of 32x32 pixels with stripes planted in it.

    It gives images, labels (0 for upright stripes, 1 for level ones), and where the stripes are.
    """

    def make(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        side = 32
        rng = np.random.default_rng(seed)
        images = rng.random((count, side, side), dtype=np.float32) / 2
        labels = rng.integers(0, 2, count)
        where = np.zeros(images.shape, bool)
        stripes = np.tile(np.array([0, 1], np.float32), (12, 6))
        for image, label, place in zip(images, labels, where):
            row, column = rng.integers(0, side - 11, 2)
            patch = slice(row, row + 12), slice(column, column + 12)
            image[patch] = stripes.T if label else stripes
            place[patch] = True
        return torch.from_numpy(images)[:, None], torch.from_numpy(labels), where

    return make


@pytest.fixture(scope="session")
def trained(planted) -> LANMSFF:
    """LANMSFF after twenty steps on planted stripes: it is right on all new ones."""
    torch.manual_seed(0)
    model = LANMSFF(2, dropout=0.0)
    images, labels, _ = planted(320, seed=0)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for x, y in zip(images.split(16), labels.split(16)):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:  # twenty steps are too few for the running averages
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for x in images[:128].split(16):
            model(x)
    return model.eval()


@pytest.fixture
def book_style():
    """Figures in the style of the book; what was set before comes back, and all are closed."""
    with plt.rc_context():
        plots.use_style()
        yield
        plt.close("all")
