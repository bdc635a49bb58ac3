"""The attention maps: those that the blocks make, and a network that does not notice."""

import pytest
import torch
from torch import nn

from lanmsff import LANMSFF
from lanmsff.explain import attention
from lanmsff.explain.maps import in_batches


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LANMSFF(7).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 1, 32, 64, generator=torch.Generator().manual_seed(0))


def test_maps_are_those_that_the_blocks_make(model, images):
    made = attention(model, images)
    with torch.no_grad():
        found = model.maps(images)
        for number, block in ((2, model.block2), (4, model.block4)):
            channel, spatial = block.massatt.maps(found[f"two_path{number}"])
            torch.testing.assert_close(getattr(made, f"channel{number}"), channel[:, :, 0, 0])
            torch.testing.assert_close(getattr(made, f"spatial{number}"), spatial[:, 0])
        torch.testing.assert_close(made.logits, model(images))


def test_shapes_and_ranges_are_those_of_the_docstring(model, images):
    made = attention(model, images)
    shapes = {
        "channel2": (3, 72), "spatial2": (3, 16, 32), "channel4": (3, 84), "spatial4": (3, 4, 8),
    }  # fmt: skip
    for name, shape in shapes.items():
        values = getattr(made, name)
        assert values.shape == shape and values.dtype == torch.float32, name
        assert 0 < values.min() and values.max() < 1, name
        assert not values.is_inference(), name  # so that it can be used in training


def test_enlarged_maps_lie_over_the_image(model, images):
    made = attention(model, images)
    for block, maps in ((2, made.spatial2), (4, made.spatial4)):
        large = made.enlarged(block)
        assert large.shape == (3, 32, 64)
        # half-way between the centres of two pixels of the map, their mean
        factor = 32 // maps.shape[1]
        row, column = 3 * factor // 2, 2 * factor
        middle = large[:, row - 1 : row + 1, column - 1 : column + 1].mean((1, 2))
        torch.testing.assert_close(middle, (maps[:, 1, 1] + maps[:, 1, 2]) / 2)
    with pytest.raises(ValueError, match="only blocks 2 and 4"):
        made.enlarged(3)


def test_batches_give_what_single_images_give(model, images):
    together = attention(model, images, batch_size=2)
    for k in range(3):
        alone = attention(model, images[k : k + 1])
        for name in ("channel2", "spatial2", "channel4", "spatial4", "logits"):
            expected = getattr(alone, name)[0]
            torch.testing.assert_close(getattr(together, name)[k], expected, rtol=1e-5, atol=1e-6)


def test_the_network_is_left_as_it_came(model, images):
    quiet = attention(model, images)
    model.train()
    model.block1.eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    modes = [module.training for module in model.modules()]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    in_training = attention(model, images)
    # no dropout, and the statistics of the network instead of the batch's
    torch.testing.assert_close(in_training.logits, quiet.logits)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert torch.all(model.head.weight.grad == 1) and model.block1.layers[0][0].weight.grad is None
    assert not any(module._forward_hooks for module in model.modules())


def test_the_network_is_left_as_it_came_also_when_it_fails(model, images):
    model.train()
    model.head = nn.Linear(3, 7)  # does not fit
    with pytest.raises(RuntimeError):
        attention(model, images)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("instead", ["none", "se"])
def test_a_network_without_massatt_is_refused(instead, images):
    if instead != "none":
        pytest.importorskip("timm", reason="squeeze-and-excitation comes from timm")
    with pytest.raises(ValueError, match=f"no MassAtt to show: it was built with '{instead}'"):
        attention(LANMSFF(7, attention=instead), images)


def test_images_that_do_not_fit_are_refused(model, images):
    with pytest.raises(ValueError, match="no images to explain"):
        attention(model, images[:0])
    with pytest.raises(ValueError, match="must lie in"):
        attention(model, images * 255)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        attention(model, images, batch_size=0)


def test_an_image_is_not_asked_for_gradients(model, images):
    (batch,) = in_batches(model, images.clone().requires_grad_(), 8)
    assert not batch.requires_grad


def test_the_spatial_map_finds_a_planted_patch():
    """An hourglass whose kernels all add up brightness must weigh the bright place most.

    In block 2: the map of block 4 passes through 2x2 points, too few to place anything.
    """
    torch.manual_seed(0)
    model = LANMSFF(2).eval()
    with torch.no_grad():
        for module in (*model.block1.modules(), *model.block2.two_path.modules()):
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(1 / module.weight[0].numel())
        for module in list(model.block2.massatt.spatial)[0:7:2]:
            module.weight.fill_(0.1)
    images = torch.zeros(3, 1, 64, 64)
    corners = [(8, 8), (24, 40), (48, 16)]
    for image, (row, column) in zip(images[:, 0], corners):
        image[row : row + 12, column : column + 12] = 1
    places = attention(model, images).enlarged(2).flatten(1).argmax(1)
    for place, (row, column) in zip(places.tolist(), corners):
        assert row <= place // 64 < row + 12 and column <= place % 64 < column + 12
