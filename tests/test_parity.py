"""Equality with the authors' network, from the golden files that were computed by running it.

`golden/` holds weights and outputs of the authors' Keras code (head of February 2026), computed
with random weights, statistics and biases, in float64, arrays NHWC.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lanmsff import LANMSFF
from lanmsff.keras import load_keras_weights

GOLDEN = Path(__file__).parent / "golden"


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    """Our layout in the golden files' one."""
    tensor = tensor.detach()
    return (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor).numpy()


@pytest.fixture(params=[7, 8], ids="{} classes".format)
def golden(request):
    """(arrays, model in float64 with the golden weights, images in float64)"""
    arrays = np.load(GOLDEN / f"keras{request.param}.npz")
    model = LANMSFF(request.param, dropout=0.0)
    load_keras_weights(model, GOLDEN / f"keras{request.param}.weights.h5")
    images = torch.from_numpy(arrays["x"]).permute(0, 3, 1, 2).double()
    return arrays, model.double(), images


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-14), (torch.float32, 1e-5)])
def test_probabilities(golden, dtype, tolerance):
    arrays, model, images = golden
    with torch.no_grad():
        probabilities = model.to(dtype).eval()(images.to(dtype)).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, arrays["probs"], rtol=0, atol=tolerance)


def test_every_activation(golden):
    arrays, model, images = golden
    model.eval()
    with torch.no_grad():
        found = model.maps(images[:2])
        stage1 = model.block2.two_path.stage1
        halves = model.block2.two_path.permutation(found["block1"]).chunk(2, dim=1)
        found["two_path2_stage1"] = stage1(*halves)
        found["two_path2_stage2"] = model.block2.two_path.stage2(*2 * [found["two_path2_stage1"]])
        for k in (2, 4):
            found[f"massatt{k}_channel"] = found[f"channel{k}"][:, :, None, None]
            found[f"massatt{k}_spatial"] = found[f"spatial{k}"]
            found[f"massatt{k}"] = found[f"massatt{k}_channel"] * found[f"spatial{k}"]
            block = model.get_submodule(f"block{k}")
            found[f"recalibrated{k}"] = block.massatt(found[f"two_path{k}"])
    names = [name for name in arrays if name.startswith("eval_")]
    assert "eval_fused" in names
    for name in names:  # stored in float32, hence the tolerance
        ours = nhwc(found[name.removeprefix("eval_")])
        np.testing.assert_allclose(ours, arrays[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.fixture
def step(golden):
    """The golden files' first training step: (arrays, model after backward, its loss, Adam)."""
    arrays, model, images = golden
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
    loss = F.cross_entropy(model.train()(images), torch.from_numpy(arrays["labels"]))
    loss.backward()
    return arrays, model, images, loss, optimizer


def test_first_loss_and_the_next_two(step):
    arrays, model, images, loss, optimizer = step
    losses = [loss.item()]
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), torch.from_numpy(arrays["labels"]))
        loss.backward()
        losses.append(loss.item())
    # Keras has Adam's epsilon inside the bias correction: the updates part company.
    for ours, theirs, tolerance in zip(losses, arrays["train_losses"], (1e-12, 1e-3, 1e-1)):
        assert ours == pytest.approx(theirs, abs=tolerance)


def test_gradients(step):
    arrays, model, *_ = step
    block1 = model.block1.layers[0][0]
    expected = {
        "grad_first_conv": nhwc_kernel(block1.weight.grad),
        "grad_head": model.head.weight.grad.T.numpy(),
        "grad_massatt2_conv1": nhwc_kernel(model.block2.massatt.spatial[0].weight.grad),
    }
    for name, ours in expected.items():
        scale = np.abs(arrays[name]).max()
        np.testing.assert_allclose(ours / scale, arrays[name] / scale, atol=1e-12, err_msg=name)


def nhwc_kernel(weight: torch.Tensor) -> np.ndarray:
    return weight.permute(2, 3, 1, 0).numpy()  # OIHW -> HWIO


def test_norm_of_every_gradient(step):
    arrays, model, *_ = step
    ours = sorted(
        (tuple(sorted(p.shape)), p.grad.norm().item()) for p in model.parameters()
    )
    theirs = sorted(
        (tuple(sorted(int(n) for n in name.split("(")[1].rstrip(",)").split(",") if n)), norm)
        for name, norm in zip(arrays["grad_order"], arrays["grad_norms"])
    )
    assert [shape for shape, _ in ours] == [shape for shape, _ in theirs]
    # A bias before a batch norm has no gradient; what both sides print there is rounding.
    np.testing.assert_allclose(
        [norm for _, norm in ours], [norm for _, norm in theirs], rtol=1e-11, atol=1e-10
    )


def test_running_statistics(step):
    arrays, model, *_ = step
    first, last = model.block1.layers[0][1], model.block4.layers[1]
    for name, norm in (("first", first), ("last", last)):
        np.testing.assert_allclose(norm.running_mean, arrays[f"bn_{name}_mean"], atol=1e-5)
        np.testing.assert_allclose(norm.running_var, arrays[f"bn_{name}_var"], rtol=0, atol=1e-5)


def test_the_proof_can_fail(golden):
    """Each convention of Keras that PyTorch does otherwise is visible in the probabilities."""
    arrays, model, images = golden
    model.eval()

    def error() -> float:
        with torch.no_grad():
            return np.abs(model(images).softmax(1).numpy() - arrays["probs"]).max()

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    assert error() > 1e-4
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    assert error() < 1e-14
    model.block2.two_path.permutation.order = torch.arange(66)
    assert error() > 1e-4
