"""The moving average of weights."""

import torch
from torch import nn

from lanmsff.average import Average


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_the_average_is_the_formula_s():
    """m <- d m + (1 - d) w with d = min(0.9, (1 + n) / (10 + n)), statistics included."""
    model = network()
    average = Average(model, decay=0.9)
    expected = {name: tensor.clone().double() for name, tensor in model.state_dict().items()}
    for n in range(1, 120):
        model(torch.randn(4, 1, 3, 3))  # moves batch norm's statistics
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter)
        average.update(n)
        d = min(0.9, (1 + n) / (10 + n))
        for name, tensor in model.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * tensor.double()
    assert d == 0.9
    found = average.model.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_start_is_forgotten_soon():
    """After few steps the average is of what was trained, not of what was drawn."""
    model = network()
    average = Average(model, decay=0.999)
    model[0].weight.data.fill_(7.0)
    before = average.model[0].weight.clone()
    for n in range(1, 31):
        average.update(n)
    left = (average.model[0].weight - 7) / (before - 7)
    assert left.max() < 1e-5


def test_the_average_is_apart_from_what_is_trained():
    model = network()
    state = torch.get_rng_state()
    average = Average(model, decay=0.5)
    assert torch.equal(torch.get_rng_state(), state)  # a recipe without it draws the same
    assert model.training and not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    own = {tensor.data_ptr() for tensor in average.model.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in model.state_dict().values())


def test_the_layout_stays():
    model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    assert Average(model, 0.9).model.weight.stride() == model.weight.stride()
