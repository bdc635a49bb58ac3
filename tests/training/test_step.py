"""One step: the fast one is the plain one, on every device, and nothing in it waits for a GPU."""

import copy
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from data_prep.kdef import load_posefaces
from lanmsff.device import be_deterministic
from lanmsff.step import CapturedStep, Speed, can_capture, can_compile
from lanmsff.train import Run

CPU = torch.device("cpu")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
PLAIN = Speed(channels_last=False, fused=False, captured=False, compiled=False, kept_memory=False)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]


class InDoubles:
    """Images in float64, of a set that makes them in float32."""

    def __init__(self, images):
        self.images = images

    def batch(self, items):
        images, faces = self.images.batch(items)
        return images.double(), faces


def losses(faces, out, device, speed, steps=20, double=False, changes={}, **options):
    """The mean loss of each of the first steps; without dropout, which follows the layout."""
    # epsilon: a bias before batch norm has no gradient but rounding, which Adam would blow up
    changes = {"dropout": 0.0, "batch_size": 8, "adam_eps": 1e-3, **changes}
    run = Run(faces, "paper", out, device=torch.device(device), precision="float32", speed=speed,
              changes=changes, **options)  # fmt: skip
    if double:
        run.model.double()
        step = getattr(run.learner.step, "captured", run.learner.step)
        step.images = InDoubles(step.images)
    run.model.train()
    for run.step, items in enumerate(run.learner.batches(0)[:steps]):
        run.train_step(items)
    return run.tally[:steps, 0].cpu() / 8, run


@pytest.mark.usefixtures("no_tf32")
@pytest.mark.parametrize("device", DEVICES)
def test_the_fast_step_is_the_plain_step(device, toy_faces, tmp_path):
    """Over 20 steps, in float64: in float32 rounding decides on which side of zero a ReLU is, and
    training enlarges that, so there only the first losses can be equal."""
    faces = toy_faces(train=40)
    for double, steps in ((True, 20), (False, 1)):
        speeds = {"plain": PLAIN, "fast": Speed()}
        (plain, _), (fast, run) = (
            losses(faces, tmp_path / f"{name} {double}", device, speed, steps, double)
            for name, speed in speeds.items()
        )
        assert len(plain) == steps
        assert isinstance(run.learner.step, CapturedStep) == (device == "cuda")
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("no_tf32")
@pytest.mark.parametrize("device", DEVICES)
def test_the_fast_step_is_the_plain_step_in_float32(device, tmp_path):
    """Over 20 steps on faces, from a trained network, at a rate that rounding does not outgrow."""
    faces = load_posefaces()
    options = {"start": "posefaces", "changes": {"learning_rate": 1e-6}}
    plain, fast = (losses(faces, tmp_path / name, device, speed, **options)[0]
                   for name, speed in (("plain", PLAIN), ("fast", Speed())))  # fmt: skip
    assert len(plain) == 20 and plain.std() > 0.05  # other faces in every step
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)


@CUDA
def test_a_captured_run_is_resumed_like_any_other(toy_faces, tmp_path):
    """Weights stay where the graph reads them through validation, and dropout goes on."""
    be_deterministic()
    try:
        runs = []
        for name, stops in (("one", [2]), ("two", [1, 2])):
            for epochs in stops:
                run = Run(toy_faces(train=40), "paper", tmp_path / name, epochs=epochs, resume=True,
                          device=torch.device("cuda"), precision="float32",
                          changes={"batch_size": 8})  # fmt: skip
                run.train(progress=False)
            runs.append(run.model.state_dict())
        assert all(torch.equal(tensor, runs[1][name]) for name, tensor in runs[0].items())
    finally:
        torch.use_deterministic_algorithms(False)


@CUDA
@pytest.mark.parametrize("recipe", ["paper", "short", "improved"])
def test_no_step_waits_for_the_gpu_or_copies_to_it(recipe, toy_faces, tmp_path):
    run = Run(toy_faces(train=40), recipe, tmp_path / "run", device=torch.device("cuda"),
              precision="float32", speed=PLAIN, changes={"batch_size": 8})  # fmt: skip
    run.model.train()
    batches = run.learner.batches(0)
    run.train_step(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.train_step(batches[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_where_a_step_is_captured():
    cuda = torch.device("cuda")
    assert can_capture(cuda, Speed(), processes=1)
    assert not can_capture(cuda, Speed(), processes=2)
    assert not can_capture(cuda, Speed(captured=False), processes=1)
    assert not can_capture(CPU, Speed(), processes=1)


@pytest.mark.parametrize("triton, compiler, environment, lacking", [
    (True, "gcc", {}, ""),
    (True, None, {"CC": "/opt/cc"}, ""),
    (True, None, {}, "there is no C compiler; install gcc, or name one in the environment variable CC"),
    (False, "gcc", {}, "this PyTorch comes without Triton"),
    (True, "gcc", {"include": ""},
     "the headers of Python are missing; install python3-dev, or its like"),
])  # fmt: skip
def test_without_what_compiling_needs_a_step_is_not_compiled(
    triton, compiler, environment, lacking, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: triton or None)
    monkeypatch.setattr("shutil.which", lambda name: compiler if name == compiler else None)
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "Python.h").touch()
    include = environment.get("include", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", {"include": include}.get)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert can_compile() == (not lacking)
    told = capsys.readouterr().err
    assert told == (f"the training step is not compiled, so it is slower: {lacking}\n" * bool(lacking))


def test_each_part_of_speed_can_be_left_out(toy_faces, tmp_path):
    _, run = losses(toy_faces(), tmp_path / "a", "cpu", PLAIN, steps=1)
    _, fast = losses(toy_faces(), tmp_path / "b", "cpu", Speed(), steps=1)
    weight, fast_weight = (r.model.block1.layers[2].weight for r in (run, fast))
    assert weight.is_contiguous() and not fast_weight.is_contiguous()
    assert not run.learner.optimizer.defaults["fused"] and fast.learner.optimizer.defaults["fused"]
    assert run.record()["speed"]["captured"] is False


def test_weights_stay_in_their_place_through_validation(toy_faces, tmp_path, start):
    """A graph reads weights where they were when it was captured."""
    run = start(toy_faces(), tmp_path / "run", "tiny improved", epochs=1)
    networks = (run.model, run.learner.average.model)
    places = [[t.data_ptr() for t in n.state_dict().values()] for n in networks]
    run.train(progress=False)
    assert [[t.data_ptr() for t in n.state_dict().values()] for n in networks] == places


def test_deterministic_mode(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    be_deterministic()
    try:
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize("wanted", [True, False])
def test_training_keeps_memory_where_it_is_wanted(wanted, toy_faces, tmp_path, start, monkeypatch):
    seen = []

    @contextmanager
    def watched(wanted):
        seen.append(wanted)
        yield

    monkeypatch.setattr("lanmsff.train.kept_memory", watched)
    run = start(toy_faces(), tmp_path / "run", "tiny improved", epochs=1,
                speed=Speed(kept_memory=wanted))  # fmt: skip
    run.train(progress=False)
    assert seen == [wanted]


def test_a_step_follows_the_gradient_of_its_own_batch(toy_faces, tmp_path, start):
    """That of plain PyTorch, and nothing of the step before is left in it."""
    run = start(toy_faces(), tmp_path / "run", changes={"dropout": 0.0})
    run.model.train()
    for items in run.learner.batches(0)[:2]:
        twin = copy.deepcopy(run.model)
        twin.zero_grad()
        images, faces = run.learner.images.batch(items)
        F.cross_entropy(twin(images), run.learner.targets[faces]).backward()
        run.train_step(items)
        torch.testing.assert_close(run.model.head.weight.grad, twin.head.weight.grad,
                                   rtol=1e-3, atol=1e-5)  # fmt: skip
