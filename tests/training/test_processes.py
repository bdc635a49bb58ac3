"""Training in several processes: what each gets, and that together they are one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lanmsff.processes import Alone, join
from lanmsff.results import read_record
from lanmsff.train import RunError

ROOT = Path(__file__).resolve().parents[2]


def one_of(count, rank):
    """A process of several that has nobody to talk to."""
    process = Alone()
    process.count, process.rank = count, rank
    return process


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [8, 16, 17, 31, 49, 100])
def test_every_image_is_in_one_batch_of_one_process(count, n):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    processes = [one_of(count, rank) for rank in range(count)]
    batches = processes[0].batches(order, batch_size=4)
    assert torch.equal(torch.cat(batches), order)
    for batch in batches:
        parts = [process.mine(batch) for process in processes]
        assert torch.equal(torch.cat(parts), batch)
        sizes = [len(part) for part in parts]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert all(len(batch) == 4 * count for batch in batches[:-2])


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    process = join(torch.device("cpu"))
    assert type(process) is Alone and process.first and process.count == 1
    figures = torch.ones(2)
    assert process.sum(figures) is figures and process.gather("x") == ["x"]
    assert process.any(True) and not process.any(False)


def test_a_single_process_does_not_import_accelerate():
    code = (
        "import sys; from lanmsff.__main__ import main; "
        "main(['train', '--data', 'none.npz', '--out', 'run']); "
        "assert 'lanmsff.train' in sys.modules and 'accelerate' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "none.npz: No such file" in done.stderr, done.stderr


def test_fewer_faces_than_processes(start, toy_faces, tmp_path):
    with pytest.raises(RunError, match="fewer faces than processes in split 'val'"):
        start(toy_faces(val=2), tmp_path / "run", processes=one_of(3, 0))


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
def test_two_processes_are_one_with_the_doubled_batch(
    start, toy_faces, tmp_path, monkeypatch, figures
):
    """Weights, batch norm's statistics, history; with a rest of 3 images, and resumed in between.

    Without dropout, which is drawn apart. Adam's epsilon is large: a bias in front of batch norm
    has no gradient but rounding, which Adam would blow up to whole steps.
    """
    faces = toy_faces(train=19, val=5)
    faces.save(tmp_path / "toy.npz")
    changes = {"dropout": 0.0, "adam_eps": 1e-3, "batch_size": 4}
    settings = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for more in (["--epochs", "1"], ["--epochs", "2", "--resume"]):
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
             "-m", "lanmsff", "train", "--data", "toy.npz", "--out", "two", "--recipe", "short",
             "--device", "cpu", "--precision", "float32", *settings, *more],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epochs done") == 1  # one of the two speaks
    one = start(faces, tmp_path / "one", "short", changes=changes | {"batch_size": 8})
    assert [len(batch) for batch in one._batches(0)] == [8, 8, 3]
    one.train(progress=False)

    two = tmp_path / "two"
    histories = [figures(read_record(run / "record.json")["history"]) for run in (one.out, two)]
    for ours, theirs in zip(*histories, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = (load_file(run / "last.safetensors") for run in (one.out, two))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5, msg=name)
    start_of_training = start(faces, tmp_path / "none", "short", changes=changes).model
    moved = (ours["head.weight"] - start_of_training.head.weight).abs().max()
    assert moved > 1e-3  # a hundred times what they may differ by
    assert sorted(path.name for path in two.iterdir()) == sorted(p.name for p in one.out.iterdir())
