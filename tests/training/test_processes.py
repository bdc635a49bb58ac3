"""Training in several processes: what each gets, and that together they are one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
    assert process.any(True, 1) and not process.any(False, 0)


def test_training_imports_only_what_it_uses():
    """Alone no accelerate; never the libraries of figures, explanations and downloads."""
    others = ["accelerate", "matplotlib", "pytorch_grad_cam", "torchvision", "pooch", "dask", "timm"]
    code = (
        "import sys; from lanmsff.__main__ import main; "
        "main(['train', '--data', 'none.npz', '--out', 'run']); "
        f"assert 'lanmsff.train' in sys.modules; found = set({others}) & set(sys.modules); "
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "none.npz: No such file" in done.stderr, done.stderr


def test_every_process_drops_other_features(start, toy_faces, tmp_path):
    """On a CPU too, whose generator takes only 32 bits of a seed."""
    drawn = []
    for rank in range(3):
        alone = Alone()
        alone.rank = rank
        start(toy_faces(), tmp_path / str(rank), processes=alone)
        drawn.append(torch.rand(8).tolist())
    assert len(set(map(tuple, drawn))) == 3


def test_fewer_faces_than_processes(start, toy_faces, tmp_path):
    with pytest.raises(RunError, match="fewer faces than processes in split 'val'"):
        start(toy_faces(val=2), tmp_path / "run", processes=one_of(3, 0))


GLOO = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo"
)


def agent(folder, *words):
    """Begin `torchrun` of those words in `folder`."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=folder, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(agent, status=0):
    """What the processes of an agent print, on stdout and on stderr, once they have ended."""
    try:
        output, errors = agent.communicate(timeout=300)
    finally:
        agent.kill()
    assert agent.returncode == status, errors
    return output, errors


def torchrun(folder, *words, status=0):
    """Run two processes of `words` in `folder`. Gives what they print on stdout and on stderr."""
    return ended(agent(folder, "--standalone", "--nproc-per-node", "2", *words), status)


TWO_STEPS = """
import sys
from dataclasses import replace
import torch
from lanmsff import LANMSFF
from lanmsff.processes import join
from lanmsff.recipes import RECIPES
from lanmsff.step import Step, make_optimizer

class Doubles:  # images as they are, in float64: what differs is no rounding
    images = torch.rand(11, 1, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    def batch(self, items):
        return self.images[items], items

processes = join(torch.device("cpu"))
torch.manual_seed(0)
model = processes.share_statistics(LANMSFF(3, dropout=0.0).double())
optimizer = make_optimizer(model, replace(RECIPES["paper"], adam_eps=1e-3))
labels = torch.arange(11) % 3
step = Step(processes.share_gradients(model), optimizer, Doubles(), labels, labels,
            label_smoothing=0.1, precision="float32", channels_last=False)
figures = []
for items in processes.batches(torch.arange(11), 8 // processes.count):  # 8 images, then 3
    mine = processes.mine(items)
    figures.append(processes.sum(step(mine, len(mine) * processes.count / len(items))))
if processes.first:
    gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
    state = model.state_dict() | gradients | {"figures": torch.stack(figures)}
    torch.save(state, f"{processes.count}.pt")
"""


@GLOO
def test_a_step_of_two_processes_is_one_of_one_with_the_doubled_batch(tmp_path):
    """Loss, gradients, batch norm's statistics and weights, also of a rest of 2 + 1 images.

    Adam's epsilon is large: a bias in front of batch norm has no gradient but rounding, which Adam
    would blow up to whole steps.
    """
    (tmp_path / "two_steps.py").write_text(TWO_STEPS)
    torchrun(tmp_path, "two_steps.py")
    alone = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "two_steps.py"], cwd=tmp_path, env=alone, check=True)
    one, two = (torch.load(tmp_path / f"{count}.pt") for count in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-7, msg=name)


@GLOO
def test_two_processes_train_like_one_with_the_doubled_batch(start, toy_faces, tmp_path, figures):
    """From the command line, resumed in between; without dropout, which is drawn apart.

    In float32 the rounding of another order of sums decides which side of zero a ReLU is on, so
    the tolerance is wide; the test above holds the step itself tight.
    """
    faces = toy_faces(train=19, val=5)
    faces.save(tmp_path / "toy.npz")
    changes = {"dropout": 0.0, "adam_eps": 1e-3, "learning_rate": 1e-4, "batch_size": 4,
               "augmentation": "online"}  # fmt: skip
    words = ["-m", "lanmsff", "train", "--data", "toy.npz", "--out", "two", "--recipe", "paper"]
    words += ["--device", "cpu", "--precision", "float32"]
    words += [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    stopped, _ = torchrun(tmp_path, *words, "--epochs", "1", "--max-minutes", "0", status=1)
    assert stopped.count("the same command with --resume goes on") == 1
    for more in (["--epochs", "1", "--resume"], ["--epochs", "2", "--resume"]):
        assert torchrun(tmp_path, *words, *more)[0].count("epochs done") == 1  # one of them speaks
    one = start(faces, tmp_path / "one", "paper", changes=changes | {"batch_size": 8})
    assert [len(batch) for batch in one.learner.batches(0)] == [8, 8, 3]
    one.train(progress=False)

    two = tmp_path / "two"
    histories = [figures(read_record(run / "record.json")["history"]) for run in (one.out, two)]
    for ours, theirs in zip(*histories, strict=True):
        for figure in ("loss", "val_loss"):
            assert ours[figure] == pytest.approx(theirs[figure], rel=1e-3)
    assert sorted(path.name for path in two.iterdir()) == sorted(p.name for p in one.out.iterdir())
    assert read_record(two / "record.json")["asked"]["processes"] == 2
    with pytest.raises(RunError, match="this run has processes 2, asked is 1"):
        start(faces, two, "paper", changes=changes, resume=True)


DISTURBED = """
import os, signal, sys
from lanmsff.__main__ import main
from lanmsff.train import Run

how, rank = sys.argv.pop(1), os.environ["RANK"]
step = Run.train_step

def signalled(self, items):
    step(self, items)
    if rank == "1" and self.step == 3:
        os.kill(os.getpid(), signal.SIGTERM)

if how == "signalled":
    Run.train_step = signalled
if how == "apart" and rank == "1":
    sys.argv[sys.argv.index("--out") + 1] += "-of-another"
sys.exit(main(sys.argv[1:]))
"""


@GLOO
@pytest.mark.skipif(not hasattr(os, "fork"), reason="sends POSIX signals")
def test_two_processes_stopped_and_resumed_end_like_two_machines(toy_faces, tmp_path, differences):
    """To the bit, with dropout, which each draws for itself, from within an epoch.

    One of them has a signal, and at the next of their talks, after 16 steps, both stop. The two
    undisturbed ones are of two agents, as on two machines. In between, one does not see the run.
    """
    toy_faces(train=36).save(tmp_path / "toy.npz")
    (tmp_path / "disturbed.py").write_text(DISTURBED)
    words = ["train", "--data", "toy.npz", "--set", "batch_size=1", "--set", "augmentation=online",
             "--epochs", "2", "--device", "cpu", "--precision", "float32", "--out"]  # fmt: skip
    stopped, _ = torchrun(tmp_path, "disturbed.py", "signalled", *words, "run", status=1)
    assert "stopped (another process was stopped) in epoch 1, after step 16 of 18" in stopped
    _, errors = torchrun(tmp_path, "disturbed.py", "apart", *words, "run", "--resume", status=1)
    for out in ("run", "run-of-another"):
        assert f"error: {out}: the processes do not begin at the same checkpoint; --out" in errors
    torchrun(tmp_path, "-m", "lanmsff", *words, "run", "--resume")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1",
             "--master-port", port]  # fmt: skip
    agents = [
        agent(tmp_path, *where, "--node-rank", rank, "-m", "lanmsff", *words, "undisturbed")
        for rank in "01"
    ]
    said = [ended(each)[0].count("epochs done") for each in agents]
    assert said == [1, 0]
    assert read_record(tmp_path / "run" / "record.json")["asked"]["settings"]["dropout"] > 0
    assert differences(tmp_path / "run", tmp_path / "undisturbed") == []
