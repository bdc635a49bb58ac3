"""The blocks: each against its definition, written out another way."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lanmsff.blocks import (
    PWFS,
    ChannelPermutation,
    Conv2d,
    Dropout,
    MassAtt,
    SeparableConv2d,
    TwoPathConv,
    conv_bn_relu,
    random_order,
    shuffle_order,
)
from lanmsff.blocks.massatt import DoublingConv, HalvingConv
from lanmsff.blocks.two_path import TwoPathStage

sides = st.integers(1, 12)


def two_path(in_channels=4, out_channels=6):
    return TwoPathConv(in_channels, out_channels, shuffle_order(in_channels))


# --- shapes and gradients of all of them


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), sides, sides, st.integers(1, 3))
def test_convolutions_keep_the_area(n, c, d, height, width, dilation):
    x = torch.rand(n, c, height, width)
    for block in (
        Conv2d(c, d, dilation=dilation),
        Conv2d(c, d, kernel_size=1),
        SeparableConv2d(c, d, dilation=dilation),
        conv_bn_relu(Conv2d(c, d)).eval(),
    ):
        assert block(x).shape == (n, d, height, width)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), sides, sides)
def test_two_path_keeps_the_area(n, half_in, half_out, height, width):
    block = two_path(2 * half_in, 2 * half_out).eval()
    x = torch.rand(n, 2 * half_in, height, width)
    assert block(x).shape == (n, 2 * half_out, height, width)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(4, 9), st.integers(1, 4), st.integers(1, 4))
def test_massatt_keeps_the_shape(n, c, height, width):
    x = torch.randn(n, c, 4 * height, 4 * width)
    massatt = MassAtt(c)
    channel, spatial = massatt.maps(x)
    assert channel.shape == (n, c, 1, 1) and spatial.shape == (n, 1, 4 * height, 4 * width)
    assert massatt(x).shape == x.shape


BLOCKS = {
    "conv": (lambda: Conv2d(2, 3), 2),
    "dilated conv": (lambda: Conv2d(2, 3, dilation=2), 2),
    "conv, batch norm, relu": (lambda: conv_bn_relu(Conv2d(2, 3)), 2),
    "separable": (lambda: SeparableConv2d(3, 4, dilation=2), 3),
    "permutation": (lambda: ChannelPermutation(random_order(6, seed=0)), 6),
    "two-path": (lambda: two_path(2, 2), 2),
    "halving": (lambda: HalvingConv(2, 3), 2),
    "doubling": (lambda: DoublingConv(2, 3), 2),
    "massatt": (lambda: MassAtt(4), 4),
    "pwfs": (PWFS, 6),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_are_those_of_finite_differences(name):
    make, channels = BLOCKS[name]
    torch.manual_seed(0)
    block = make().double()
    for parameter in block.parameters():
        if parameter.ndim == 1:  # biases of zero leave dead units on the kink of their ReLU
            nn.init.uniform_(parameter, 0.1, 0.5)
    names = [name for name, _ in block.named_parameters()]
    side = 8 if name == "massatt" else 4
    x = torch.rand(1, channels, side, side, dtype=torch.float64, requires_grad=True)

    def of_everything(x, *parameters):
        return torch.func.functional_call(block, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(of_everything, (x, *block.parameters()))


@pytest.mark.parametrize("name", BLOCKS)
def test_every_parameter_and_input_gets_a_gradient(name):
    make, channels = BLOCKS[name]
    torch.manual_seed(0)
    block = make().double().eval()  # in training mode a bias before a batch norm has none
    x = torch.rand(4, channels, 8, 8, dtype=torch.float64, requires_grad=True)
    (block(x) * torch.randn_like(block(x))).sum().backward()
    for what, tensor in {"input": x, **dict(block.named_parameters())}.items():
        assert tensor.grad.abs().sum() > 0, what


# --- convolutions


def test_convolution_draws():
    """He-uniform, zero bias; Glorot-uniform for the two kernels of a separable convolution."""
    torch.manual_seed(0)
    conv, separable = Conv2d(40, 60), SeparableConv2d(40, 600)
    for kernel, bound in [
        (conv.weight, math.sqrt(6 / (9 * 40))),
        (separable.depthwise.weight, math.sqrt(6 / (9 + 9 * 40))),
        (separable.pointwise.weight, math.sqrt(6 / (40 + 600))),
    ]:
        assert 0.97 * bound < kernel.abs().max() <= bound
        assert kernel.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06)
    assert not conv.bias.any() and not separable.pointwise.bias.any()
    assert separable.depthwise.bias is None


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_separable_is_depthwise_then_pointwise(dilation):
    torch.manual_seed(0)
    block = SeparableConv2d(5, 7, dilation=dilation).double()
    nn.init.normal_(block.pointwise.bias)
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)

    padded = F.pad(x, 4 * [dilation])
    kernel, mix = block.depthwise.weight, block.pointwise.weight
    filtered = [
        F.conv2d(padded[:, c : c + 1], kernel[c : c + 1], dilation=dilation) for c in range(5)
    ]
    expected = torch.einsum("dc,nchw->ndhw", mix[:, :, 0, 0], torch.cat(filtered, dim=1))
    expected = expected + block.pointwise.bias[:, None, None]
    torch.testing.assert_close(block(x), expected)


def test_batch_norm_keeps_the_authors_constants():
    norm = conv_bn_relu(Conv2d(1, 2))[1]
    norm(torch.full((1, 2, 2, 2), 5.0))
    assert norm.running_mean.tolist() == pytest.approx([0.05, 0.05])  # keeps 0.99
    norm.reset_running_stats()
    norm.running_var.zero_()
    y = norm.eval()(torch.ones(1, 2, 1, 1))
    assert y.flatten().tolist() == pytest.approx(2 * [1 / math.sqrt(1e-3)])


# --- channel order


@given(st.integers(1, 6), st.integers(1, 8))
def test_shuffle_is_a_transposition(groups, size):
    """ShuffleNet: reshape to (groups, size), transpose, flatten."""
    x = torch.randn(2, groups * size, 3, 2)
    expected = x.reshape(2, groups, size, 3, 2).transpose(1, 2).reshape(x.shape)
    shuffled = ChannelPermutation(shuffle_order(groups * size, groups))(x)
    assert torch.equal(shuffled, expected)


def test_shuffle_needs_equal_groups():
    with pytest.raises(ValueError, match="7 channels .* 2 equal groups"):
        shuffle_order(7)


@given(st.integers(1, 100), st.integers(0, 2**31))
def test_random_order_is_a_permutation_of_its_own(channels, seed):
    state = torch.get_rng_state()
    order = random_order(channels, seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(order.tolist()) == list(range(channels))
    assert torch.equal(order, random_order(channels, seed))


def test_random_order_follows_its_seed():
    orders = {tuple(random_order(66, seed).tolist()) for seed in range(20)}
    assert len(orders) == 20


def test_the_gradient_of_a_reordering_is_a_reordering():
    block = ChannelPermutation(random_order(6, seed=1))
    block.load_state_dict({"order": random_order(6, seed=2)})  # as with the weights of a file
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, x)
    outgoing = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    (ours,) = torch.autograd.grad(block(x), x, outgoing)
    (theirs,) = torch.autograd.grad(x.index_select(1, block.order), x, outgoing)
    assert torch.equal(ours, theirs)


def test_permutation_travels_in_the_state():
    block = ChannelPermutation(random_order(6, seed=1))
    assert torch.equal(block.state_dict()["order"], random_order(6, seed=1))
    x = torch.randn(1, 6, 1, 1)
    for to, came_from in enumerate(block.order):
        assert block(x)[0, to] == x[0, came_from]


# --- two-path


def seen_by(block, x, output):
    """How much each input pixel of `x` (1, C, H, W) bears on the centre of `output(x)`: (C, H, W)."""
    for parameter in block.parameters():  # positive throughout: nothing cancels, no ReLU is shut
        nn.init.constant_(parameter, 0.1)
    x = x.clone().requires_grad_()
    y = output(x)
    y[..., y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    return x.grad[0] != 0


NEAR = torch.zeros(9, 9, dtype=torch.bool)
NEAR[3:6, 3:6] = True
WIDE = torch.zeros(9, 9, dtype=torch.bool)
WIDE[2:7:2, 2:7:2] = True  # 5x5 with holes


@pytest.mark.parametrize("convolution", [Conv2d, SeparableConv2d])
@pytest.mark.parametrize("path, field", [("path_h", NEAR), ("path_l", WIDE)])
def test_what_a_path_sees(convolution, path, field):
    stage = TwoPathStage(convolution, 2, 4).eval()
    seen = seen_by(stage, torch.rand(1, 2, 9, 9), getattr(stage, path))
    assert torch.equal(seen, field.expand(2, 9, 9))


def test_stage1_gives_each_path_its_half_and_later_stages_all():
    order = random_order(8, seed=3)
    block = TwoPathConv(8, 6, order).eval()
    x = torch.rand(1, 8, 9, 9)
    kept = {}
    stages = (block.stage1, block.stage2, block.stage3)
    for number, stage in enumerate(stages, start=1):
        for path in ("path_h", "path_l"):
            getattr(stage, path).register_forward_hook(
                lambda _module, _inputs, y, key=(number, path): kept.update({key: y})
            )

    def channels_seen(key):
        seen = seen_by(block, x, lambda x: (block(x), kept[key])[1])
        return set(seen.any(dim=(1, 2)).nonzero().flatten().tolist())

    assert channels_seen((1, "path_h")) == set(order[:4].tolist())
    assert channels_seen((1, "path_l")) == set(order[4:].tolist())
    for later in ((2, "path_h"), (2, "path_l"), (3, "path_h"), (3, "path_l")):
        assert channels_seen(later) == set(range(8))


def test_the_near_path_comes_first():
    stage = TwoPathStage(Conv2d, 2, 4).eval()
    near, wide = torch.rand(1, 2, 5, 5), torch.rand(1, 2, 5, 5)
    y = stage(near, wide)
    assert torch.equal(y[:, :2], stage.path_h(near))
    assert torch.equal(y[:, 2:], stage.path_l(wide))


# --- MassAtt


def padding_before(side, stride=2, kernel=3):
    """TensorFlow's "same" padding: the larger half of what is missing goes to the end."""
    missing = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return missing // 2


def halved(x, weight, bias):
    """(C, H, W) by (D, C, 3, 3) with stride 2, point by point -> (D, H/2, W/2)."""
    _, height, width = x.shape
    y = np.tile(bias[:, None, None], (1, height // 2, width // 2))
    for row, column, u, v in np.ndindex(height // 2, width // 2, 3, 3):
        i, j = 2 * row + u - padding_before(height), 2 * column + v - padding_before(width)
        if 0 <= i < height and 0 <= j < width:
            y[:, row, column] += weight[:, :, u, v] @ x[:, i, j]
    return y


def doubled(x, weight, bias):
    """(C, H, W) by (C, D, 3, 3): every point of the input adds its kernel -> (D, 2H, 2W)."""
    _, height, width = x.shape
    y = np.tile(bias[:, None, None], (1, 2 * height, 2 * width))
    for row, column, u, v in np.ndindex(height, width, 3, 3):
        i, j = 2 * row + u - padding_before(2 * height), 2 * column + v - padding_before(2 * width)
        if 0 <= i < 2 * height and 0 <= j < 2 * width:
            y[:, i, j] += weight[:, :, u, v].T @ x[:, row, column]
    return y


@pytest.mark.parametrize("layer, definition", [(HalvingConv, halved), (DoublingConv, doubled)])
@pytest.mark.parametrize("height, width", [(2, 2), (4, 6), (8, 4)])
def test_stride_two_pads_as_keras(layer, definition, height, width):
    torch.manual_seed(0)
    block = layer(2, 3).double()
    nn.init.normal_(block.bias)
    x = torch.randn(1, 2, height, width, dtype=torch.float64)
    with torch.no_grad():
        ours = block(x)[0].numpy()
        expected = definition(x[0].numpy(), block.weight.numpy(), block.bias.numpy())
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_massatt_is_the_product_of_its_maps():
    torch.manual_seed(0)
    massatt = MassAtt(8).double()
    x = torch.randn(3, 8, 8, 12, dtype=torch.float64)
    channel, spatial = massatt.maps(x)
    for attention in (channel, spatial):
        assert 0 < attention.min() and attention.max() < 1
        assert attention.std() > 0
    torch.testing.assert_close(massatt(x), torch.einsum("nc,nhw,nchw->nchw",
                                                        channel[..., 0, 0], spatial[:, 0], x))  # fmt: skip


def test_massatt_maps_are_made_side_by_side():
    """The channel map knows no places, the spatial map no channels."""
    torch.manual_seed(0)
    massatt = MassAtt(8).double()
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    channel, spatial = massatt.maps(x)
    moved_channel, moved_spatial = massatt.maps(x.roll((3, 2), dims=(2, 3)))
    torch.testing.assert_close(moved_channel, channel)
    assert not torch.allclose(moved_spatial, spatial)
    mixed_channel, mixed_spatial = massatt.maps(x[:, torch.arange(7, -1, -1)])
    torch.testing.assert_close(mixed_spatial, spatial)
    assert not torch.allclose(mixed_channel, channel)


@pytest.mark.parametrize("channels, ratio, narrow", [(72, 4, 18), (84, 4, 21), (16, 2, 8)])
def test_massatt_channel_map_has_a_bottleneck(channels, ratio, narrow):
    first, _, second, _ = MassAtt(channels, ratio).channel
    assert (first.in_features, first.out_features) == (channels, narrow)
    assert (second.in_features, second.out_features) == (narrow, channels)


# --- PWFS

values = st.integers(-(2**16), 2**16)  # sums of whole numbers are exact, so equality can be


@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=12))
def test_pwfs_is_the_mean_of_the_two_largest(triples):
    """Ties included."""
    x = torch.tensor(triples, dtype=torch.float64).T.reshape(1, -1, 1, 1)  # all a, all b, all c
    expected = [sum(sorted(triple)[1:]) / 2 for triple in triples]
    assert PWFS()(x).flatten().tolist() == expected


def test_pwfs_compares_channels_a_third_apart():
    torch.manual_seed(0)
    x = torch.randn(2, 12, 3, 5)
    groups = torch.stack([x[:, :4], x[:, 4:8], x[:, 8:]])
    torch.testing.assert_close(PWFS()(x), groups.topk(2, dim=0).values.mean(dim=0))
    assert list(PWFS().parameters()) == []


def test_pwfs_passes_the_gradient_to_the_two_that_win():
    torch.manual_seed(0)
    x = torch.randn(2, 12, 3, 5, requires_grad=True)
    PWFS()(x).sum().backward()
    order = x.detach().reshape(2, 3, 4, 3, 5).argsort(dim=1).argsort(dim=1)  # 0 = smallest
    expected = torch.where(order == 0, 0.0, 0.5).reshape(x.shape)
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_dropout_drops_a_share_and_keeps_the_mean(format):
    torch.manual_seed(0)
    block = Dropout(0.4).train()
    x = torch.ones(32, 66, 16, 16).to(memory_format=format)
    y = block(x)
    assert y.stride() == block._kept(x).stride() == x.stride()  # another would be slow
    kept = y != 0
    assert torch.equal(y[kept], torch.full_like(y[kept], 1 / 0.6))
    # 540,672 draws: five standard deviations
    assert abs(kept.float().mean().item() - 0.6) < 5 * (0.24 / x.numel()) ** 0.5
    by_channel = kept.float().mean((0, 2, 3))  # 8,192 draws each
    assert (by_channel - 0.6).abs().max() < 5 * (0.24 / 8192) ** 0.5
    neighbors = (kept[..., 1:] & kept[..., :-1]).float().mean().item()
    assert abs(neighbors - 0.36) < 0.005  # the draws of one word know nothing of each other


def test_dropout_passes_the_gradient_of_what_it_keeps():
    torch.manual_seed(0)
    x = torch.rand(3, 5, 7, dtype=torch.float64).transpose(1, 2)[:, ::2].requires_grad_()  # not dense
    y = Dropout(0.25).train()(x)
    y.sum().backward()
    assert y.eq(0).any() and y.ne(0).any()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


def test_dropout_follows_the_global_generator_and_its_mode():
    x = torch.rand(2, 3, 4, 4)
    block = Dropout(0.5)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(block.train()(x))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert block.eval()(x) is x
    assert torch.equal(Dropout(0.999995).train()(x), torch.zeros_like(x))  # but one in 65,536
    assert torch.equal(Dropout(0.0).train()(x), x)
    assert torch.equal(Dropout(1.0).train()(x), torch.zeros_like(x))
    assert Dropout(0.5).train()(x[:0]).shape == (0, 3, 4, 4)
