"""Parameters and multiply-accumulates, of the network and of what can stand in MassAtt's place."""

import pytest
import torch
from torch import nn

from lanmsff import LANMSFF
from lanmsff.cost import memory_traffic, multiply_accumulates, parameter_count

WITHOUT = {"attention": "none"}


def test_the_whole_network():
    model = LANMSFF(7)
    assert parameter_count(model) == 356_294
    assert multiply_accumulates(model) / 1e6 == pytest.approx(300.6, abs=0.05)


def test_a_convolution_and_a_dense_layer_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 5, 3, stride=2), nn.Flatten(), nn.Linear(5 * 31 * 31, 3))
    assert multiply_accumulates(model) == 31 * 31 * 5 * 9 + 5 * 31 * 31 * 3
    assert parameter_count(model) == 5 * 9 + 5 + 5 * 31 * 31 * 3 + 3


def test_the_model_is_left_as_it_was():
    model = LANMSFF().train()
    model.block1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    multiply_accumulates(model)
    assert model.training and not model.block1.training and model.block2.layers[0].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def attention_cost(kind: str, channels: int, side: int) -> int:
    narrow, area = channels // 4, side * side
    channel_map = 2 * channels * narrow
    if kind == "se":
        return channel_map
    if kind == "cbam":  # average and maximum through the same layers; then 7x7 on two maps
        return 2 * channel_map + 7 * 7 * 2 * area
    # a transposed convolution multiplies every input point by its whole kernel
    down = 9 * (1 * 2 * area // 4 + 2 * 4 * area // 16)
    up = 9 * (4 * 4 * area // 16 + 4 * 1 * area // 4)
    return channel_map + down + up


@pytest.mark.parametrize("kind", ["massatt", "se", "cbam"])
def test_attention(kind):
    extra = multiply_accumulates(LANMSFF(attention=kind)) - multiply_accumulates(LANMSFF(**WITHOUT))
    assert extra == attention_cost(kind, 72, 32) + attention_cost(kind, 84, 8)


def test_memory_traffic_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 5, 1), nn.ReLU(), nn.Dropout(), nn.Flatten(),
                          nn.Linear(5 * 64 * 64, 3))  # fmt: skip
    area = 64 * 64
    values = (area + 5 * area) + 2 * 5 * area + 2 * 5 * area + (5 * area + 3)
    assert memory_traffic(model, 4) == 4 * values
    assert not model[0]._forward_hooks


def test_memory_traffic_of_the_network_is_that_of_its_features():
    """The first block moves half of it: its maps are four times as large as those of the second."""
    model = LANMSFF(7)
    whole, first = memory_traffic(model, 1), memory_traffic(model.block1, 1)
    assert 0.4 < first / whole < 0.7
    assert memory_traffic(model, 2) == 2 * whole
