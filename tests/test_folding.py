"""Batch norm folded into convolutions."""

import pytest
import torch
from torch import nn

from lanmsff import LANMSFF
from lanmsff.folding import cast_weights, folded


@pytest.fixture(scope="module")
def model():
    """A network whose batch norms do something, each something else."""
    torch.manual_seed(0)
    model = LANMSFF(3)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean):
                tensor.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    return model


def test_folded_is_equal(model):
    images = torch.rand(4, 1, 64, 64, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = folded(model.double())(images)
    torch.testing.assert_close(found, model.eval()(images), rtol=1e-9, atol=1e-12)
    model.train()
    assert torch.equal(folded(model)(images), found)  # whatever the mode of the model
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name].to(tensor.dtype)), name


def test_nothing_is_left(model):
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded(model).modules())


def test_relu_leaves_the_images_alone():
    images = torch.randn(2, 1, 4, 4)
    before = images.clone()
    network = folded(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 1), nn.ReLU()))
    network(images)
    assert torch.equal(images, before) and network[2].inplace


def test_batch_norm_behind_anything_else_stays():
    layers = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2))
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in folded(layers)) == 2


@pytest.mark.parametrize("attention", ["massatt", "se", "cbam", "none"])
def test_cast_weights_compute_what_autocast_does(attention):
    torch.manual_seed(0)
    model = LANMSFF(3, attention=attention).eval()
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = model(images)
        cast_weights(model, torch.bfloat16)
        assert torch.equal(model(images), before)
    assert model.head.weight.dtype == torch.bfloat16
    assert model.block1.layers[0][1].weight.dtype == torch.float32  # batch norm
