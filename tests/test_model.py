"""The whole network: its size, its switches, what it refuses, what it shows, and that it learns."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lanmsff import LANMSFF
from lanmsff.blocks import SeparableConv2d
from lanmsff.blocks.massatt import DoublingConv
from lanmsff.device import to_device

ROOT = Path(__file__).resolve().parents[1]
ABLATIONS = [
    {},
    {"attention": "none"},
    {"selection": False},
    {"multi_scale": False},
    {"multi_scale": False, "selection": False},
    {"attention": "none", "selection": False, "multi_scale": False, "mixing": "permutation"},
    {"attention": "se"},
    {"attention": "cbam"},
]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def images(n=2, height=64, width=64, seed=0):
    return torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    """A network in evaluation mode; tests leave it as it is."""
    torch.manual_seed(0)
    return LANMSFF().eval()


# --- size


@pytest.mark.parametrize("classes, count", [(7, 356_294), (8, 356_451)])
def test_number_of_parameters(classes, count):
    model = LANMSFF(classes)
    assert parameters(model) == count
    statistics = [b for name, b in model.named_buffers() if "running" in name]
    assert sum(b.numel() for b in statistics) == 2_112


def test_multiply_accumulates(model):
    """Convolutions and dense layers for one image; two operations each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images(1))
    operations = counter.get_flop_counts()
    millions = {name: sum(of.values()) / 2e6 for name, of in operations.items()}
    assert millions["LANMSFF"] == pytest.approx(300.6, abs=0.05)
    for number, expected in enumerate((183.3, 81.6, 28.7, 7.0), start=1):
        assert millions[f"LANMSFF.block{number}"] == pytest.approx(expected, abs=0.05)


# --- switches


@pytest.mark.parametrize(
    "switches, features", list(zip(ABLATIONS, (156, 156, 300, 84, 84, 84, 156, 156), strict=True))
)
def test_ablations_run_and_size_their_head(switches, features):
    model = LANMSFF(5, **switches)
    assert (model.head.in_features, model.head.out_features) == (features, 5)
    logits = model(images())
    assert logits.shape == (2, 5)
    logits.logsumexp(1).sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert unused == []


def massatt_parameters(channels: int, ratio: int = 4) -> int:
    narrow = channels // ratio
    dense = channels * narrow + narrow + narrow * channels + channels
    convolutions = 9 * (1 * 2 + 2 * 4 + 4 * 4 + 4 * 1) + 2 + 4 + 4 + 1
    return dense + convolutions


def test_ablations_drop_the_parameters_of_their_part():
    whole = parameters(LANMSFF())
    without_attention = parameters(LANMSFF(attention="none"))
    assert whole - without_attention == massatt_parameters(72) + massatt_parameters(84)
    # SE has MassAtt's channel map alone; CBAM has it without biases, and a 7x7 spatial map of two
    # channels with batch norm
    assert whole - parameters(LANMSFF(attention="se")) == 2 * massatt_parameters(0)
    cbam = sum(2 * channels * (channels // 4) + 7 * 7 * 2 + 2 for channels in (72, 84))
    assert parameters(LANMSFF(attention="cbam")) == without_attention + cbam
    assert whole - parameters(LANMSFF(multi_scale=False)) == (156 - 84) * 7
    # PWFS itself has none; what it spares is in the head.
    assert parameters(LANMSFF(selection=False)) - whole == (300 - 156) * 7


def test_without_multi_scale_nothing_but_block_4_counts(model):
    switched = LANMSFF(multi_scale=False).eval()
    found = switched.maps(images())
    torch.testing.assert_close(found["fused"], found["block4"].mean(dim=(2, 3)))
    assert not [name for name in found if name.startswith("pwfs")]


def test_without_selection_every_channel_is_pooled():
    found = LANMSFF(selection=False).eval().maps(images())
    pooled = [found[f"block{k}"].mean(dim=(2, 3)) for k in (1, 2, 3, 4)]
    torch.testing.assert_close(found["fused"], torch.cat(pooled, dim=1))


def test_without_attention_features_pass_on_as_they_are():
    model = LANMSFF(attention="none").eval()
    found = model.maps(images())
    assert not {"channel2", "spatial2", "channel4", "spatial4"} & found.keys()
    torch.testing.assert_close(model.block2.layers(found["two_path2"]), found["block2"])


@pytest.mark.parametrize("attention", ["se", "cbam"])
def test_a_substitute_weighs_the_features_in_massatt_s_place(attention):
    model = LANMSFF(attention=attention).eval()
    with torch.no_grad():
        found = model.maps(images())
        assert not {"channel2", "spatial2", "channel4", "spatial4"} & found.keys()
        for number in (2, 4):
            block, features = model.get_submodule(f"block{number}"), found[f"two_path{number}"]
            weighed = block.substitute(features)
            assert weighed.shape == features.shape
            share = (weighed / features)[features > 0]
            assert 0 < share.min() and share.max() < 1
            torch.testing.assert_close(block.layers(weighed), found[f"block{number}"])


def test_se_is_massatt_with_a_spatial_map_of_ones(model):
    se, massatt = LANMSFF(attention="se").block2.substitute, model.block2.massatt
    for layer, dense in ((se.fc1, massatt.channel[0]), (se.fc2, massatt.channel[2])):
        layer.load_state_dict({"weight": dense.weight[:, :, None, None], "bias": dense.bias})
    x = torch.rand(2, 72, 8, 8)
    torch.testing.assert_close(se(x), massatt.maps(x)[0] * x)


def test_a_substitute_without_timm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    message = r"'se' comes from timm .*pip install 'lanmsff\[ablations\]'"
    with pytest.raises(ValueError, match=message):
        LANMSFF(attention="se")


def test_timm_is_imported_only_when_it_is_asked_for():
    code = "import sys, lanmsff; lanmsff.LANMSFF(); sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_permutation_differs_from_shuffle_and_travels_with_the_weights(model):
    def permuted(seed):
        return LANMSFF(mixing="permutation", permutation_seed=seed).eval()

    weights = dict(model.named_parameters())
    first, other = permuted(1), permuted(2)
    for permuted_model in (first, other):
        permuted_model.load_state_dict(weights, strict=False)
    x = images()
    with torch.no_grad():
        logits = model(x), first(x), other(x)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert not torch.allclose(logits[a], logits[b])
        other.load_state_dict(first.state_dict())
        assert torch.equal(other(x), logits[1])
    # the two blocks draw their own
    assert first.block2.two_path.permutation.order.shape == (66,)
    assert first.block4.two_path.permutation.order.shape == (78,)
    assert torch.equal(permuted(1).block4.two_path.permutation.order,
                       first.block4.two_path.permutation.order)  # fmt: skip


@pytest.mark.parametrize(
    "switches", [*ABLATIONS, {"mixing": "permutation", "permutation_seed": 3, "dropout": 0.1}]
)
def test_config_rebuilds_the_network(switches):
    model = LANMSFF(3, **switches)
    rebuilt = LANMSFF(**json.loads(json.dumps(model.config)))
    assert rebuilt.config == model.config
    assert {"num_classes": 3, **switches}.items() <= rebuilt.config.items()
    for block in ("block2", "block4"):
        orders = [m.get_submodule(block).two_path.permutation.order for m in (model, rebuilt)]
        assert torch.equal(*orders)
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }


def test_dropout_is_the_switch_s():
    def dropouts(model):
        return [m.p for m in model.modules() if isinstance(m, nn.Dropout)]

    assert dropouts(LANMSFF()) == 4 * [0.4]
    assert dropouts(LANMSFF(dropout=0.1)) == 4 * [0.1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"mixing": "mix"}, "mixing must be one of shuffle, permutation, got 'mix'"),
        ({"attention": True}, "attention must be one of massatt, se, cbam, none, got True"),
        ({"dropout": 1.5}, "dropout .*1.5"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        LANMSFF(**arguments)


# --- input


@pytest.mark.parametrize("height, width", [(32, 32), (96, 64), (64, 128)])
def test_other_sizes(model, height, width):
    with torch.no_grad():
        assert model(images(1, height, width)).shape == (1, 7)


def test_no_images_give_no_logits(model):
    with torch.no_grad():
        assert model(images(0)).shape == (0, 7)


def with_pixel(value):
    x = images(2)
    x[1, 0, 5, 7] = value
    return x


@pytest.mark.parametrize(
    "wrong, came, wanted",
    [
        (torch.rand(2, 3, 64, 64), r"\(2, 3, 64, 64\)", r"grey, \(N, 1, H, W\)"),
        (torch.rand(2, 64, 64), r"\(2, 64, 64\)", r"\(N, 1, H, W\)"),
        (torch.rand(64, 64), r"\(64, 64\)", r"\(N, 1, H, W\)"),
        (torch.rand(2, 1, 48, 48), r"\(2, 1, 48, 48\)", "multiples of 32"),
        (torch.rand(2, 1, 48, 64), r"\(2, 1, 48, 64\)", "multiples of 32"),
        (torch.rand(2, 1, 64, 65), r"\(2, 1, 64, 65\)", "multiples of 32"),
        (torch.rand(2, 1, 0, 64), r"\(2, 1, 0, 64\)", "multiples of 32"),
        (torch.zeros(2, 1, 64, 64, dtype=torch.uint8), "torch.uint8", "divide bytes by 255"),
        (torch.zeros(2, 1, 64, 64, dtype=torch.bool), "torch.bool", "floating point"),
        (torch.zeros(2, 1, 64, 64, dtype=torch.cfloat), "torch.complex64", "floating point"),
        (images() * 255, "to 25[0-9]", r"\[0, 1\]"),
        (images() * 2 - 1, "got -", r"\[0, 1\]"),
        (with_pixel(1.001), "to 1.001", r"\[0, 1\]"),
        (with_pixel(float("nan")), "nan", r"\[0, 1\]"),
    ],
    ids=lambda value: None if isinstance(value, str) else "x".join(map(str, value.shape)),
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_images_that_cannot_be_are_named(model, wrong, came, wanted, training):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train(training)
    try:
        for call in (model, model.maps):
            with pytest.raises(ValueError) as refused:
                call(wrong)
            refused.match(came)
            refused.match(wanted)
    finally:
        model.eval()
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


# --- maps


def test_maps_have_the_names_and_shapes_they_should(model):
    with torch.no_grad():
        found = model.maps(images(2, 64, 96))
    expected = {
        "block1": (2, 66, 32, 48),
        "block2": (2, 72, 16, 24),
        "block3": (2, 78, 8, 12),
        "block4": (2, 84, 4, 6),
        "two_path2": (2, 72, 32, 48),
        "two_path4": (2, 84, 8, 12),
        "channel2": (2, 72),
        "spatial2": (2, 1, 32, 48),
        "channel4": (2, 84),
        "spatial4": (2, 1, 8, 12),
        "pwfs1": (2, 22, 32, 48),
        "pwfs2": (2, 24, 16, 24),
        "pwfs3": (2, 26, 8, 12),
        "fused": (2, 156),
        "logits": (2, 7),
    }
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == expected


def test_maps_are_those_of_the_forward_pass(model):
    x = images()
    with torch.no_grad():
        found = model.maps(x)
        assert torch.equal(found["logits"], model(x))
        assert torch.equal(found["logits"], model.head(found["fused"]))
        parts = [found[f"pwfs{k}"] for k in (1, 2, 3)] + [found["block4"]]
        pooled = torch.cat([part.mean(dim=(2, 3)) for part in parts], dim=1)
        torch.testing.assert_close(found["fused"], pooled)
        for k, block in ((2, model.block2), (4, model.block4)):
            mass = found[f"channel{k}"][:, :, None, None] * found[f"spatial{k}"]
            attended = block.layers(mass * found[f"two_path{k}"])
            torch.testing.assert_close(attended, found[f"block{k}"])
            assert 0 < mass.min() and mass.max() < 1


def test_maps_carry_gradients(model):
    found = model.maps(images())
    (gradient,) = torch.autograd.grad(found["logits"][:, 0].sum(), found["block4"])
    # the logits are linear in the pooled maps of the last block
    weights = model.head.weight[0, -84:] / (4 * 4)
    torch.testing.assert_close(gradient, weights[None, :, None, None].expand_as(gradient))


def hooks(model):
    return [
        hook
        for module in model.modules()
        for kind in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        for hook in kind
    ]


def test_maps_leave_nothing_behind(model):
    before = copy.deepcopy(model.state_dict())
    model.maps(images())
    assert not model.training and hooks(model) == []
    with pytest.raises(ValueError):
        model.maps(images() * 2)
    with pytest.raises(RuntimeError):  # inside the pass, behind the check of the input
        model.maps(images().double())
    assert hooks(model) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


# --- initial weights


def test_initial_weights():
    """He-uniform convolutions; Glorot-uniform separable, transposed and dense; zero biases."""
    torch.manual_seed(0)
    model = LANMSFF()
    glorot = {p for m in model.modules() if isinstance(m, SeparableConv2d) for p in m.parameters()}
    seen = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
        if module.weight in glorot or isinstance(module, DoublingConv | nn.Linear):
            bound = math.sqrt(6 / (fan_in + fan_out))
        else:
            bound = math.sqrt(6 / fan_in)
        largest = module.weight.abs().max().item() / bound
        n = module.weight.numel()
        assert 1 - 12 / n <= largest <= 1 + 1e-6, name  # P(lower) = (1 - 12/n)^n < 1e-5
        if n > 500:
            spread = module.weight.std().item() * math.sqrt(3) / bound
            assert spread == pytest.approx(1, abs=0.1), name
        if module.bias is not None:
            assert not module.bias.any(), name
        seen += 1
    assert seen == 39


def test_initial_weights_follow_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return LANMSFF().state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


# --- learning


def test_eight_images_are_learnt_by_heart():
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = to_device(LANMSFF(dropout=0.0), device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    x, labels = to_device(images(8), device), torch.arange(8) % 7
    losses = []
    for _ in range(14):
        logits = model(x)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5  # chance is ln 7 = 1.95
    assert losses[-1] < 0.1
    assert torch.equal(logits.argmax(1), labels)
