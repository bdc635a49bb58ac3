"""A data folder of made-up faces, settings of jobs on them, a cluster, and one thread for all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_grid import BROKEN, TOY

from lanmsff.__main__ import main
from lanmsff.experiments import EXPERIMENTS, select_jobs
from lanmsff.grid import hashes
from lanmsff.jobs import Setting, run_job


@pytest.fixture(scope="session")
def toys(toy_faces, tmp_path_factory):
    """A data folder with two made-up sets of 12 people, seen from two sides."""
    folder = tmp_path_factory.mktemp("data")

    def save(name, **sizes):
        faces = toy_faces(**sizes)
        people = np.array([f"F{row % 12:02}" for row in range(len(faces))])
        yaw = np.where(np.arange(len(faces)) // 2 % 2, 45, -45).astype(np.float32)
        replace(faces, subject=people, yaw=yaw).save(folder / f"{name}.npz")

    save("posefaces", train=20, val=8, test=12)
    save("posefaces-sweep", train=0, val=0, test=8, seed=1)
    return folder


@pytest.fixture
def setting(toys, tmp_path):
    setting = Setting(tmp_path / "runs", toys, {}, device="cpu", precision="float32")
    return replace(setting, hashes=hashes(TOY, setting))


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster


@pytest.fixture
def command(toys, tmp_path, monkeypatch, capsys):
    """`command("--only ...")` gives (status, output, errors) of a grid over TOY."""
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    monkeypatch.setitem(EXPERIMENTS, "broken", BROKEN)

    def run(words: str, name="toy", out=tmp_path / "runs"):
        where = ["--data-dir", toys, "--out", out, "--results", tmp_path / "results"]
        where += ["--device", "cpu", "--precision", "float32", "--epochs", "1", "--jobs", "1"]
        status = main(["grid", name, *map(str, where), *words.split()])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    run.results = tmp_path / "results"
    return run


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums are the same to the bit only in the same number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def undisturbed(toys, tmp_path_factory):
    """The setting of all jobs of TOY, done one after the other in this process."""
    setting = Setting(tmp_path_factory.mktemp("runs"), toys, {}, "cpu", "float32")
    setting = replace(setting, hashes=hashes(TOY, setting))
    for job in select_jobs(TOY, epochs=1):
        assert run_job(job, setting).state == "recorded"
    return setting
