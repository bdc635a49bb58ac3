"""The fast path (channels-last, bfloat16 where the hardware has it) against plain float32."""

import copy
import shutil
from pathlib import Path
from sysconfig import get_paths

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data_prep.kdef import load_posefaces
from lanmsff import LANMSFF, load_pretrained
from lanmsff.blocks.convolution import Conv2d, join_grids, split_grids
from lanmsff.device import autocast, to_device
from lanmsff.evaluate import predict

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def inputs_and_output_gradients(model, images, labels):
    """For every layer, by name: its input and the loss's gradient with respect to its output."""
    seen = {}

    def watch(name):
        def hook(_module, inputs, output):
            given = inputs[0].detach()
            output.register_hook(lambda grad: seen.update({name: (given, grad.detach())}))

        return hook

    layers = {name: m for name, m in model.named_modules() if isinstance(m, LAYERS)}
    hooks = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    F.cross_entropy(model(images), labels).backward()
    for hook in hooks:
        hook.remove()
    assert seen.keys() == layers.keys()
    return {name: (layers[name], *seen[name]) for name in layers}


@pytest.mark.usefixtures("no_tf32")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-4), ("bfloat16", 0.02)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_gradient_of_every_layer(device, precision, tolerance, channels_last):
    """Each layer's gradients, given the same input and output gradient, relative in norm.

    Layer by layer, so that the rounding of one does not hide the error of the next. PyTorch's own
    bfloat16 convolution with dilation misses this by a factor of ten and more on the CPU.
    """
    torch.manual_seed(0)
    device = torch.device(device)
    images, labels = torch.rand(16, 1, 64, 64, device=device), torch.arange(16, device=device) % 7
    layers = inputs_and_output_gradients(LANMSFF(dropout=0.0).to(device), images, labels)
    assert len(layers) == 39

    for name, (layer, given, outgoing) in layers.items():
        plain, fast = copy.deepcopy(layer), copy.deepcopy(layer)
        x, fast_x = given.clone(), given.clone()
        if given.ndim == 4:
            fast = to_device(fast, device, channels_last)
            fast_x = to_device(fast_x, device, channels_last)
        plain.zero_grad()
        fast.zero_grad()
        plain(x.requires_grad_()).backward(outgoing)
        with autocast(device, precision):
            y = fast(fast_x.requires_grad_())
        y.backward(outgoing.to(y.dtype))
        for what, ours, theirs in [
            ("weight", fast.weight.grad, plain.weight.grad),
            ("input", fast_x.grad, x.grad),
        ]:
            error = ((ours - theirs).norm() / theirs.norm()).item()
            assert error < tolerance, f"{name}, {what}: relative error {error:.2g}"


@pytest.mark.parametrize("side, recorded_type", [
    (32, torch.bfloat16), (31, torch.float32), (8, torch.float32),
])  # fmt: skip
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("groups", [1, 72])
def test_a_dilated_convolution_is_right_however_it_is_computed(
    channels_last, groups, side, recorded_type
):
    """Under autocast on a CPU where gradients are recorded: on grids, else in float32."""
    torch.manual_seed(0)
    layer = Conv2d(72, 72, dilation=2, groups=groups)
    x, outgoing = torch.randn(2, 4, 72, side, side)
    exact = layer(x.requires_grad_())
    exact.backward(outgoing)
    wanted = [layer.weight.grad.clone(), layer.bias.grad.clone(), x.grad]
    layer.zero_grad()
    cpu = torch.device("cpu")
    layer, x = to_device(layer, cpu, channels_last), to_device(x.detach(), cpu, channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        recorded = layer(x.requires_grad_())
        with torch.no_grad():
            rough = layer(x)
    recorded.backward(outgoing.to(recorded.dtype))
    assert (recorded.dtype, rough.dtype) == (recorded_type, torch.bfloat16)
    found = [layer.weight.grad, layer.bias.grad, x.grad]
    for ours, theirs in zip((recorded, rough, *found), (exact, exact, *wanted)):
        assert (ours.float() - theirs).norm() / theirs.norm() < 0.01


@pytest.mark.parametrize("step", [2, 3])
def test_a_dilated_convolution_is_one_without_on_each_grid(step):
    """To the bit what PyTorch gives with dilation, in float64."""
    torch.manual_seed(0)
    layer = Conv2d(4, 6, dilation=step).double()
    x = torch.randn(2, 4, 12, 18, dtype=torch.float64)
    grids = split_grids(x, step)
    assert grids.shape == (2 * step**2, 4, 12 // step, 18 // step)
    assert torch.equal(grids[2], x[0, :, ::step, 1::step])  # the second grid of the first picture
    assert torch.equal(join_grids(grids, step), x)
    torch.testing.assert_close(layer._on_grids(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels_last", [True, False])
def test_pixels_are_multiplied_with_sixteen_bits(channels_last):
    """Only what comes out is rounded to autocast's type; plain bfloat16 is off a hundred times more."""
    torch.manual_seed(0)
    plain, layer = Conv2d(1, 66), Conv2d(1, 66, of_pixels=True)
    torch.nn.init.normal_(layer.bias)
    plain.load_state_dict(layer.state_dict())
    x = torch.rand(4, 1, 32, 32, requires_grad=True)
    exact = layer(x)
    exact.square().sum().backward()
    wanted = [each.grad for each in (layer.weight, layer.bias, x)]
    layer, plain, x = (to_device(each.detach() if each is x else each, torch.device("cpu"),
                                 channels_last) for each in (layer, plain, x))
    layer.zero_grad()
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, rough = layer(x), plain(x)
    format = torch.channels_last if channels_last else torch.contiguous_format
    assert found.is_contiguous(memory_format=format)
    assert exact.dtype == torch.float32 and found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.bfloat16(), rtol=2**-7, atol=2**-15)
    assert ((rough - exact).abs() > 2**-7 * exact.abs() + 2**-15).float().mean() > 0.1
    found.float().square().sum().backward()
    for ours, theirs in zip((layer.weight, layer.bias, x), wanted):
        assert ours.grad.dtype == torch.float32
        assert (ours.grad - theirs).norm() / theirs.norm() < 0.01
    pixels = [m for m in LANMSFF(7).modules() if isinstance(m, Conv2d) and m.of_pixels]
    assert len(pixels) == 1 and pixels[0].in_channels == 1


@pytest.mark.skipif(
    not shutil.which("g++") or not Path(get_paths()["include"], "Python.h").exists(),
    reason="torch.compile needs g++ and Python.h on a CPU",
)
def test_compiled_pixels_keep_their_sixteen_bits():
    """Inductor leaves out a cast to bfloat16 and back, so the rest must not be made by one."""
    torch.manual_seed(0)
    layer, x = Conv2d(1, 8, of_pixels=True).requires_grad_(False), torch.rand(2, 1, 16, 16)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found, compiled = layer(x), torch.compile(layer)(x)
        layer.of_pixels = False
        rough = layer(x)
    off, off_compiled, off_rough = ((one.float() - exact).norm() for one in (found, compiled, rough))
    assert off_compiled < 1.01 * off < 0.9 * off_rough


def test_bfloat16_costs_a_trained_network_next_to_nothing():
    """Less than 0.3 points of accuracy, and hardly an answer."""
    faces = load_posefaces().subset("test")
    model, images = load_pretrained("posefaces", faces.classes).model, torch.from_numpy(faces.images)
    cpu = torch.device("cpu")
    exact, fast = (predict(model, images, cpu, p).argmax(1).numpy() for p in ("float32", "bfloat16"))
    right = [(answers == faces.labels).mean() for answers in (exact, fast)]
    assert abs(right[0] - right[1]) < 0.003
    assert (exact != fast).sum() <= 4
