"""Class activation maps: equal to captum and pytorch-grad-cam, exact where they claim to be."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from lanmsff import LANMSFF
from lanmsff.explain import LAYERS, METHODS, cam, enlarge, normalise, spread
from lanmsff.model import evaluating

LIBRARY = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
}
CLOSE = {"rtol": 0, "atol": 1e-5}


def network(seed: int = 7, **config) -> LANMSFF:
    """A network in evaluation mode whose features and logits are of order 1.

    With this seed no logit or map that is compared lies near zero, as with some others.
    """
    torch.manual_seed(seed)
    model = LANMSFF(**config)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # its statistics become those of one batch
    with torch.no_grad():
        model.train()(faces(8, seed=9))
        nn.init.normal_(model.head.bias)
    return model.eval()


def faces(count: int, seed: int = 0, width: int = 64) -> Tensor:
    """Noise; small, and wider than high, so that no axis is taken for another."""
    return torch.rand(count, 1, 32, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def images():
    return faces(3)


TARGETS = [1, 4, 0]


@pytest.mark.parametrize("config", [
    {}, {"num_classes": 8}, {"selection": False}, {"multi_scale": False}, {"attention": "none"},
])  # fmt: skip
def test_exact_maps_sum_to_the_logit_without_its_bias(config, images):
    model = network(**config)
    with torch.no_grad():
        wanted = (model(images) - model.head.bias)[range(3), TARGETS]
    assert wanted.abs().min() > 0.05
    total = cam(model, images, TARGETS, "all", "exact").sum((1, 2))
    torch.testing.assert_close(total, wanted, **CLOSE)
    names = LAYERS if model.config["multi_scale"] else LAYERS[-1:]
    for full_size in (True, False):
        scales = [cam(model, images, TARGETS, name, "exact", full_size=full_size) for name in names]
        total = sum(scale.sum((1, 2)) for scale in scales)
        torch.testing.assert_close(total, wanted, **CLOSE)


@pytest.mark.parametrize("layer", LAYERS)
def test_exact_maps_are_captums_gradient_times_activation_of_what_is_fused(layer, model, images):
    fused = [*model.fusion.selections, model.block4][LAYERS.index(layer)]
    theirs = LayerGradientXActivation(model, fused).attribute(images, TARGETS).sum(1).detach()
    ours = cam(model, images, TARGETS, layer, "exact", full_size=False)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert theirs.abs().max() > 1e-3


def test_exact_map_of_block4_is_grad_cam_before_its_relu(model, images):
    theirs = LayerGradCam(model, model.block4).attribute(images, TARGETS)[:, 0].detach()
    ours = cam(model, images, TARGETS, "block4", "exact", full_size=False)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert theirs.min() < -1e-3 and theirs.max() > 1e-3
    grad_cam = cam(model, images, TARGETS, "block4", "gradcam", full_size=False)
    torch.testing.assert_close(grad_cam, ours.clamp(min=0), **CLOSE)


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_is_captums(layer, model, images):
    captums = LayerGradCam(model, getattr(model, layer))
    theirs = captums.attribute(images, TARGETS, relu_attributions=True)[:, 0].detach()
    assert theirs.max() > 1e-3
    ours = cam(model, images, TARGETS, layer, full_size=False)
    torch.testing.assert_close(ours, theirs, **CLOSE)


def theirs_at_input_size(tool: type, model: LANMSFF, layer: str, images: Tensor, **options):
    targets = [ClassifierOutputTarget(target) for target in TARGETS[: len(images)]]
    with tool(model, [getattr(model, layer)], **options) as library:
        return torch.from_numpy(library(images, targets))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", LIBRARY)
def test_maps_are_those_of_pytorch_grad_cam(method, layer, images):
    model = network()
    # its normalisation adds 1e-7 to each range, which must be far below the values
    nn.init.normal_(model.head.weight, std=30)
    theirs = theirs_at_input_size(LIBRARY[method], model, layer, images)
    ours = cam(model, images, TARGETS, layer, method)
    torch.testing.assert_close(normalise(ours), theirs, **CLOSE)


def test_ablation_cam_is_that_of_pytorch_grad_cam(images):
    model = network()
    nn.init.normal_(model.head.weight, std=30)
    theirs = theirs_at_input_size(AblationCAM, model, "block4", images[:1], batch_size=84)
    ours = cam(model, images[:1], TARGETS[:1], "block4", "ablationcam")
    torch.testing.assert_close(normalise(ours), theirs, rtol=0, atol=1e-4)


def test_ablation_cam_of_an_early_block_weighs_a_channel_by_what_its_loss_costs(model, images):
    with torch.no_grad():
        found = model.maps(images[:1])
        losses = []
        for channel in range(78):
            ablated = found["block3"].clone()
            ablated[:, channel] = 0
            scales = [found["block1"], found["block2"], ablated, model.block4(ablated)]
            losses.append(found["logits"] - model.head(model.fusion(scales)))
        weights = torch.cat(losses) / found["logits"]  # channel, class
        wanted = torch.einsum("ct,chw->thw", weights, found["block3"][0]).clamp(min=0)
    every_class = images[:1].expand(7, -1, -1, -1)
    ours = cam(model, every_class, range(7), "block3", "ablationcam", full_size=False)
    # 78 small differences of logits in float32, over a logit
    assert wanted.max() > 0.05
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_batches_give_what_single_images_give(method, model):
    images = faces(3, seed=1)
    together = cam(model, images, [0, 1, 2], "block3", method, batch_size=2)
    single = [cam(model, image[None], k, "block3", method) for k, image in enumerate(images)]
    assert together.dtype == torch.float32 and together.shape == (3, 32, 64)
    off = (together - torch.cat(single)).abs().amax((1, 2))
    assert (off <= 1e-3 * together.abs().amax((1, 2))).all()
    assert together.abs().max() > 1e-4


def test_target_is_the_predicted_class_or_one_for_all_or_one_for_each(model, images):
    with torch.no_grad():
        predicted = model(images).argmax(1)
    default = cam(model, images, batch_size=2)
    for same in (predicted, predicted.tolist(), predicted.numpy(), predicted.numpy().astype("u1")):
        torch.testing.assert_close(default, cam(model, images, same))
    for for_all in (2, np.int64(2), torch.tensor(2)):
        torch.testing.assert_close(cam(model, images, [2, 2, 2]), cam(model, images, for_all))
    assert not torch.equal(cam(model, images, 2), cam(model, images, 3))


@pytest.mark.parametrize("target, said", [
    (7, "0..6"), (-1, "0..6"), ([0, 1], "3 images"), (1.0, "indices"), ([True] * 3, "indices"),
    ([[0, 1, 2]], "shape"),
])  # fmt: skip
def test_a_target_that_is_no_class_is_refused(target, said, model, images):
    with pytest.raises(ValueError, match=said):
        cam(model, images, target)


@pytest.mark.parametrize("options, said", [
    ({"method": "scorecam"}, "method must be one of gradcam"),
    ({"layer": "block5"}, "layer must be one of block1"),
    ({"layer": "all"}, "for 'gradcam'"),
    ({"layer": "all", "method": "exact", "full_size": False}, "different sizes"),
    ({"batch_size": 0}, "batch_size"),
])  # fmt: skip
def test_what_cannot_be_explained_is_refused(options, said, model, images):
    with pytest.raises(ValueError, match=said):
        cam(model, images, **options)


def test_images_that_do_not_fit_are_refused(model, images):
    for bad in (images[:0], images[:, 0], images * 255, images[..., :48], images.tile(1, 3, 1, 1)):
        with pytest.raises(ValueError):
            cam(model, bad)


def test_a_scale_that_the_head_does_not_see_has_no_exact_map(images):
    with pytest.raises(ValueError, match="sees block4 only"):
        cam(network(multi_scale=False), images, layer="block2", method="exact")


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def state(model: nn.Module) -> tuple:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    asked = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return gradients, asked, modes, tensors, list(model.modules()), hooks(model)


def assert_untouched(model: nn.Module, before: tuple) -> None:
    gradients, asked, modes, tensors, modules, hooked = before
    for name, parameter in model.named_parameters():
        assert parameter.grad is gradients[name], name
        assert parameter.grad is None or torch.all(parameter.grad == 3), name
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert list(model.modules()) == modules
    assert hooks(model) == hooked


def half_trained() -> LANMSFF:
    """A network in training, with one block frozen, gradients in half of it, and a user's hook."""
    model = network().train()
    model.block1.eval()
    model.block2.requires_grad_(False)
    for parameter in model.block4.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    model.block3.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_it_came(method, images):
    model = half_trained()
    before = state(model)
    made = cam(model, images[:1], 2, "block4", method)
    assert_untouched(model, before)
    # and it was explained in evaluation mode, without dropout and with frozen statistics
    torch.testing.assert_close(made, cam(network(), images[:1], 2, "block4", method))


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_left_as_it_came_also_when_explaining_fails(method, images):
    model = half_trained()

    class Failing(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > (0 if method == "exact" else 2):
                raise RuntimeError("on the way")
            return x[:, :7]

    model.head = Failing()
    model.head.out_features = 7
    before = state(model)
    with pytest.raises(RuntimeError, match="on the way"):
        cam(model, images, 2, "block3", method, batch_size=1)
    assert_untouched(model, before)


def test_frozen_parameters_and_a_caller_without_gradients_are_no_obstacle(model, images):
    wanted = cam(model, images, layer="block2")
    with torch.no_grad():
        torch.testing.assert_close(cam(model, images, layer="block2"), wanted)
    with torch.inference_mode():
        torch.testing.assert_close(cam(model, images.clone(), layer="block2"), wanted)
    frozen = network().requires_grad_(False)
    torch.testing.assert_close(cam(frozen, images, layer="block2"), wanted)


def test_nothing_is_written_while_channels_are_ablated(model, images, capfd):
    cam(model, images[:1], method="ablationcam")
    assert capfd.readouterr() == ("", "")


# A network set by hand: every feature is the brightness above one half, nothing else.


def bright_patch_network() -> LANMSFF:
    """Every feature of every block is how much brighter than 0.5 its pixel is; class 1 wants it."""
    model = LANMSFF(2).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.bias.zero_() if module.bias is not None else None
                module.weight.zero_()
                centre = tuple(side // 2 for side in module.kernel_size)
                module.weight[..., *centre] = 1 / module.weight.shape[1]
        model.block1.layers[0][0].bias.fill_(-0.5)
        model.head.weight[0] = -1.0
        model.head.weight[1] = 1.0
    return model


def planted(row: int, column: int) -> tuple[Tensor, Tensor]:
    """A dim, noisy image with a bright patch in one cell of 16x16, and the mask of the cell."""
    image = 0.45 * faces(1, seed=row + 4 * column)
    mask = torch.zeros(1, 32, 64, dtype=torch.bool)
    mask[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = True
    return torch.where(mask[:, None], 0.9, image), mask


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", METHODS)
def test_the_map_finds_a_planted_patch_and_nothing_else(method, layer):
    model = bright_patch_network()
    images, masks = map(torch.cat, zip(planted(0, 0), planted(1, 2)))
    made = spread(cam(model, images, 1, layer, method, full_size=False), (32, 64))
    assert made[masks].min() > 0
    assert made[~masks].abs().max() < 1e-6 * made[masks].min()


def test_what_speaks_for_one_of_two_classes_speaks_against_the_other():
    model, (image, mask) = bright_patch_network(), planted(1, 3)
    exact = cam(model, image, 1, "all", "exact")
    assert exact[mask].min() > 0
    torch.testing.assert_close(cam(model, image, 0, "all", "exact"), -exact)


def test_a_mirrored_face_gives_a_mirrored_map_where_the_network_is_symmetric(images):
    # without MassAtt, whose strided convolutions favour one side
    model = network(attention="none")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
    for method in ("gradcam", "exact"):
        for layer in LAYERS:
            made = cam(model, images, None, layer, method)
            mirrored = cam(model, images.flip(-1), None, layer, method).flip(-1)
            largest = made.abs().max()
            assert (mirrored - made).abs().max() < 1e-3 * largest
            assert (made - made.flip(-1)).abs().max() > 0.1 * largest


# What the maps share.


def test_spread_keeps_sums_and_enlarge_keeps_means():
    maps = torch.rand(2, 4, 8)
    large = spread(maps, (64, 64))
    assert large.shape == (2, 64, 64)
    torch.testing.assert_close(large.sum((1, 2)), maps.sum((1, 2)))
    torch.testing.assert_close(large[0, 16, 8], maps[0, 1, 1] / 128)
    torch.testing.assert_close(
        enlarge(maps, (64, 64)).mean((1, 2)), maps.mean((1, 2)), rtol=0.05, atol=0
    )


def test_normalise_goes_from_0_to_1_and_leaves_even_maps_at_0():
    maps = torch.stack([torch.arange(16.0).reshape(4, 4) - 7, torch.full((4, 4), 2.0)])
    made = normalise(maps)
    assert made[0].min() == 0 and made[0].max() == 1
    torch.testing.assert_close(made[0], torch.arange(16.0).reshape(4, 4) / 15)
    assert torch.all(made[1] == 0)


def test_evaluating_restores_each_modules_own_mode_after_an_error():
    model = half_trained()
    modes = [module.training for module in model.modules()]
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == modes
