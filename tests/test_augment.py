"""The augmentation, each variant against the authors' steps done by other libraries."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage, stats
from torchvision.transforms.v2 import functional as TF

from lanmsff.augment import (
    CROP,
    ENLARGED,
    MAX_DEGREES,
    MIRROR,
    SIDE,
    TURN,
    VARIANTS,
    OfflineVariants,
    OnlineVariants,
    Views,
    resize,
    to_float,
)

ROUNDING = 2e-5  # sampling at float32 coordinates, in units of the pixel range


@pytest.fixture(scope="module")
def faces():
    """40 smooth pictures, uint8: a blurred one forgives no shift, and little interpolation."""
    noise = np.random.default_rng(0).random((40, SIDE, SIDE))
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3), mode="nearest")
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return torch.from_numpy((40 + 215 * smooth).astype(np.uint8))


@pytest.fixture(scope="module")
def variants(faces):
    return OfflineVariants(faces, seed=0)


def show(variants, variant):
    """That variant of every face: (N, 64, 64)."""
    images, faces = variants.batch(torch.arange(len(variants.faces)) * VARIANTS + variant)
    assert torch.equal(faces, torch.arange(len(variants.faces)))
    return images[:, 0]


def degrees(variants):
    return torch.rad2deg(variants.radians)


def offsets(variants):
    """The corner of each cut in the enlarged picture, x and y in pixels."""
    return variants.cut * ENLARGED / 2 + (ENLARGED - SIDE) / 2


# --- the network's size


def test_to_float_is_the_scaling_of_the_weights():
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8)
    scaled = to_float(images)
    assert scaled.shape == (4, 1, 8, 8) and scaled.dtype == torch.float32
    assert torch.equal(scaled.flatten(), torch.arange(256) / 255)


@pytest.mark.parametrize("shape", [(48, 48), (100, 64), (200, 150), (1, 1)])
def test_resize_is_bilinear(shape):
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    resized = resize(images)
    expected = TF.resize(images[:, None].double(), [SIDE, SIDE], antialias=True)[:, 0]
    assert resized.shape == (3, SIDE, SIDE) and resized.dtype == torch.uint8
    assert (resized - expected).abs().max() <= 0.5 + 1e-3  # rounded


def test_resize_keeps_faces_of_the_right_size(faces):
    assert resize(faces) is faces


def test_resize_in_parts_is_resize(monkeypatch):
    images = torch.randint(0, 256, (7, 48, 48), dtype=torch.uint8)
    whole = resize(images)
    monkeypatch.setattr("lanmsff.augment._RESIZE_AT_ONCE", 3)
    assert torch.equal(resize(images), whole)


# --- the four variants


def test_variant_0_is_the_face(variants, faces):
    torch.testing.assert_close(show(variants, 0), to_float(faces)[:, 0], rtol=0, atol=ROUNDING)


def test_variant_1_is_its_mirror(variants, faces):
    mirrored = torch.flip(to_float(faces)[:, 0], dims=[2])
    torch.testing.assert_close(show(variants, MIRROR), mirrored, rtol=0, atol=ROUNDING)


def test_variant_3_is_a_cut_of_the_enlarged_face(variants, faces):
    """Edges included: enlarging repeats the edge pixel."""
    enlarged = F.interpolate(to_float(faces), (ENLARGED, ENLARGED), mode="bilinear")[:, 0]
    for ours, large, (x, y) in zip(show(variants, CROP), enlarged, offsets(variants).round().int()):
        torch.testing.assert_close(ours, large[y : y + SIDE, x : x + SIDE], rtol=0, atol=ROUNDING)


def turned_in_two_steps(face, angle, turn):
    """The authors' order of work: turn at 64x64 with black outside, enlarge, cut the centre."""
    margin = (ENLARGED - SIDE) // 2
    enlarged = TF.resize(turn(face, angle)[None], [ENLARGED, ENLARGED], antialias=False)[0]
    return enlarged[margin : margin + SIDE, margin : margin + SIDE]


def by_torchvision(face, angle):
    bilinear = TF.InterpolationMode.BILINEAR
    return TF.rotate(face[None], angle, interpolation=bilinear, fill=0)[0]


def by_scipy(face, angle):
    turned = ndimage.rotate(face.double().numpy(), angle, reshape=False, order=1)
    return torch.from_numpy(turned).float()


def inside(radians):
    """Points of the output that lie in the face by two pixels and more, turned: (64, 64) bool."""
    u = (torch.arange(SIDE) + 0.5 - SIDE / 2) * SIDE / ENLARGED
    y, x = torch.meshgrid(u, u, indexing="ij")
    cos, sin = radians.cos(), radians.sin()
    reach = torch.maximum((x * cos - y * sin).abs(), (x * sin + y * cos).abs())
    return reach < SIDE / 2 - 2


@pytest.mark.parametrize("turn", [by_torchvision, by_scipy])
def test_variant_2_is_turned_and_enlarged(variants, faces, turn):
    """Within what one bilinear step differs from two, which is less than half a degree."""
    shown, plain = show(variants, TURN), to_float(faces)[:, 0]

    def error(more_degrees):
        differences = [
            (ours - turned_in_two_steps(face, angle + more_degrees, turn))[inside(radians)]
            for ours, face, angle, radians in zip(
                shown, plain, degrees(variants).round().tolist(), variants.radians
            )
        ]
        return torch.cat(differences).abs().mean()

    assert error(0) < 0.001 < min(error(0.5), error(-0.5))


def test_only_a_turned_face_has_black_corners():
    white = torch.full((200, SIDE, SIDE), 255, dtype=torch.uint8)
    variants = OfflineVariants(white, seed=1)
    for variant in (0, MIRROR, CROP):
        assert show(variants, variant).min() == pytest.approx(1, abs=1e-6)
    turned = show(variants, TURN)
    corners = turned[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    far = degrees(variants).abs() > 10
    assert far.any() and corners[far].max() == 0
    assert turned[:, 8:-8, 8:-8].min() == pytest.approx(1, abs=1e-6)
    straight = degrees(variants).abs() < 0.5
    assert straight.any() and turned[straight].min() == pytest.approx(1, abs=1e-6)


# --- the draws


def test_draws_are_whole_numbers_in_their_ranges():
    variants = OfflineVariants(torch.zeros(4000, SIDE, SIDE, dtype=torch.uint8), seed=0)
    angles, corners = degrees(variants), offsets(variants)
    torch.testing.assert_close(angles, angles.round(), rtol=0, atol=1e-4)
    assert set(angles.round().int().tolist()) == set(range(-MAX_DEGREES, MAX_DEGREES + 1))
    torch.testing.assert_close(corners, corners.round(), rtol=0, atol=1e-4)
    pairs = {tuple(pair) for pair in corners.round().int().tolist()}
    assert pairs == {(x, y) for x in range(9) for y in range(9)}


def test_offline_draws_follow_the_seed_alone(faces):
    items = torch.arange(VARIANTS * len(faces))
    first, _ = OfflineVariants(faces, seed=3).batch(items)
    torch.rand(5)  # the global generator has no say
    state = torch.get_rng_state()
    again = OfflineVariants(faces, seed=3)
    assert torch.equal(again.batch(items)[0], first)
    assert torch.equal(again.batch(items)[0], first)  # the same in every epoch
    assert torch.equal(torch.get_rng_state(), state)
    other, _ = OfflineVariants(faces, seed=4).batch(items)
    changed = (other - first).abs().amax(dim=(1, 2, 3)).reshape(-1, VARIANTS) > 0.01
    assert not changed[:, [0, MIRROR]].any()
    assert changed[:, [TURN, CROP]].float().mean() > 0.8


def test_offline_items_are_four_for_each_face_in_any_order(variants):
    assert len(variants) == VARIANTS * len(variants.faces)
    items = torch.tensor([9, 0, 159, 42, 9])
    images, faces = variants.batch(items)
    assert faces.tolist() == [2, 0, 39, 10, 2]
    assert images.shape == (5, 1, SIDE, SIDE) and images.dtype == torch.float32
    for item, image in zip(items, images):
        torch.testing.assert_close(variants.batch(item[None])[0][0], image)


def test_images_stay_in_the_range_of_the_network():
    noise = torch.randint(0, 2, (30, SIDE, SIDE), dtype=torch.uint8) * 255
    images, _ = OfflineVariants(noise, seed=0).batch(torch.arange(120))
    assert images.min() == 0 and images.max() == 1


def test_online_shows_each_face_once_with_new_draws(faces):
    variants = OnlineVariants(faces, seed=0)
    assert len(variants) == len(faces)
    items = torch.arange(len(faces)).flip(0)
    images, shown = variants.batch(items)
    assert torch.equal(shown, items)
    assert images.shape == (len(faces), 1, SIDE, SIDE)
    assert images.min() >= 0 and images.max() <= 1
    # about 20 times the face and 20 its mirror in 80 epochs; hardly two turns or cuts are alike
    seen = set()
    for epoch in range(80):
        variants.start_epoch(epoch)
        seen.add(tuple(variants.batch(torch.tensor([7]))[0].flatten().tolist()))
    assert 25 < len(seen) < 55


def test_online_shows_all_four_alike():
    """A picture that tells its variants apart: how often each of them comes."""
    picture = torch.full((SIDE, SIDE), 255, dtype=torch.uint8)
    picture[:, : SIDE // 2] = 100
    picture[0] = 0  # gone or blurred in what is enlarged
    variants = OnlineVariants(picture.expand(1200, SIDE, SIDE), seed=0)
    images, _ = variants.batch(torch.arange(1200))
    plain = to_float(picture[None])
    is_face = (images - plain).abs().amax(dim=(1, 2, 3)) < 1e-3
    is_mirror = (images - plain.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-3
    counts = [is_face.sum().item(), is_mirror.sum().item()]
    counts.append(1200 - sum(counts))
    # binomial, standard deviation 15 and 17
    assert counts == pytest.approx([300, 300, 600], abs=70)


# --- views: our own recipe's

OFF = dict.fromkeys(("mirror", "degrees", "zoom", "shift", "light", "erase"), 0.0)
ALL = {"mirror": 0.5, "degrees": 12.0, "zoom": 0.15, "shift": 0.08, "light": 0.3, "erase": 0.5}


def views(faces, **strengths):
    """All faces, (N, 64, 64), and the set that shows them."""
    shown = Views(faces, seed=0, **(OFF | strengths))
    return shown.batch(torch.arange(len(faces)))[0][:, 0], shown


def uniform(values, low, high):
    """Whether draws fill their range evenly (Kolmogorov-Smirnov)."""
    return stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


def test_without_strength_a_view_is_the_face(faces):
    images, shown = views(faces)
    torch.testing.assert_close(images, to_float(faces)[:, 0], rtol=0, atol=ROUNDING)
    assert len(shown) == len(faces)


@pytest.mark.parametrize("ingredient", OFF)
def test_every_ingredient_changes_faces_by_itself(faces, ingredient):
    images, _ = views(faces, **{ingredient: ALL[ingredient]})
    changed = (images - to_float(faces)[:, 0]).abs().amax(dim=(1, 2)) > 0.01
    probability = ALL[ingredient] if ingredient in ("mirror", "erase") else 1
    assert changed.float().mean().item() == pytest.approx(probability, abs=0.25)


def test_a_mirrored_view_is_the_mirror_image(faces):
    images, _ = views(faces, mirror=1.0)
    torch.testing.assert_close(images, to_float(faces)[:, 0].flip(2), rtol=0, atol=ROUNDING)


def test_a_view_is_moved_as_torchvision_moves(faces):
    """Mirror, turn, zoom and shift in one step, away from the border."""
    images, shown = views(faces, mirror=0.5, degrees=12.0, zoom=0.15, shift=0.08)
    mirrored, turned, zoomed, right, down = (2 * shown.draws - 1).unbind(1)[:5]
    bilinear = TF.InterpolationMode.BILINEAR
    for k, image in enumerate(images):
        face = to_float(faces[k : k + 1])[0]
        # read there = moved the other way, after turning and enlarging about the centre
        angle, scale = math.radians(12 * turned[k]), 1 + 0.15 * zoomed[k].item()
        x, y = (-2 * 0.08 * way[k].item() * SIDE / 2 for way in (right, down))
        cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
        expected = TF.affine(
            face, -12 * turned[k].item(), [cos * x + sin * y, -sin * x + cos * y], scale, [0.0],
            interpolation=bilinear,
        )  # fmt: skip
        if mirrored[k] < 0:  # before all else, as the output sees it
            expected = expected.flip(2)
        middle = slice(16, 48)
        difference = (image - expected[0])[middle, middle].abs()
        assert difference.max() < 0.01, k


def test_light_is_contrast_about_the_mean_and_brightness(faces):
    images, shown = views(faces, light=0.3)
    plain = to_float(faces)[:, 0].double()
    contrast, brightness = (2 * shown.draws.double() - 1)[:, 5:7].unbind(1)
    mean = plain.mean(dim=(1, 2), keepdim=True)
    expected = (plain - mean) * (1 + 0.3 * contrast)[:, None, None] + mean
    expected = (expected + 0.15 * brightness[:, None, None]).clamp(0, 1)
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=ROUNDING)


def test_erasing_covers_one_rectangle_with_the_mean():
    picture = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    picture[::2] = 200  # no pixel has the mean
    images, _ = views(picture.expand(500, SIDE, SIDE), erase=1.0)
    covered = (images - 100 / 255).abs() < 1e-6
    rows, columns = covered.any(2), covered.any(1)
    assert torch.equal(covered, rows[:, :, None] & columns[:, None, :])
    for lines in (rows, columns):
        length = lines.sum(1)
        first, last = lines.float().argmax(1), SIDE - lines.flip(1).float().argmax(1)
        assert torch.equal(last - first, length)  # without a gap
        assert 0.15 * SIDE - 1 <= length.min() < 0.2 * SIDE < 0.4 * SIDE < length.max()
        assert length.max() <= 0.45 * SIDE + 1
        assert first.min() == 0 and last.max() == SIDE
    assert (images[~covered] * 255).round().unique().tolist() == [0, 200]


def test_draws_of_views_are_uniform_and_independent():
    shown = Views(torch.zeros(4000, SIDE, SIDE, dtype=torch.uint8), seed=0, **ALL)
    assert all(uniform(column, 0, 1) for column in shown.draws.T.numpy())
    correlation = np.corrcoef(shown.draws.T.numpy()) - np.eye(12)
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)


def test_views_stay_in_the_range_of_the_network():
    noise = torch.randint(0, 2, (60, SIDE, SIDE), dtype=torch.uint8) * 255
    images, _ = views(noise, **ALL)
    assert images.min() == 0 and images.max() == 1


@pytest.mark.parametrize("make", [OnlineVariants, lambda faces, seed: Views(faces, seed, **ALL)])
def test_draws_follow_seed_and_epoch_alone(make, faces):
    items = torch.arange(len(faces))
    shown = make(faces, 3)
    first, _ = shown.batch(items)
    torch.rand(5)  # the global generator has no say
    state = torch.get_rng_state()
    assert torch.equal(make(faces, 3).batch(items)[0], first)
    shown.start_epoch(1)
    second, _ = shown.batch(items)
    assert not torch.equal(second, first)
    assert not torch.equal(make(faces, 4).batch(items)[0], first)
    shown.start_epoch(0)
    assert torch.equal(shown.batch(items)[0], first)
    assert torch.equal(torch.get_rng_state(), state)
    for item in (7, 0):  # alone or in a batch
        torch.testing.assert_close(shown.batch(items[item : item + 1])[0][0], first[item])


def test_draws_of_an_epoch_stay_where_they_are(faces):
    """A captured step reads them from the same memory in every epoch."""
    for shown in (OnlineVariants(faces, 0), Views(faces, 0, **ALL)):
        held = [value for value in vars(shown).values() if isinstance(value, torch.Tensor)]
        places = [tensor.data_ptr() for tensor in held]
        shown.start_epoch(1)
        now = [value for value in vars(shown).values() if isinstance(value, torch.Tensor)]
        assert [tensor.data_ptr() for tensor in now] == places


@pytest.mark.parametrize("make", [OnlineVariants, lambda faces, seed: Views(faces, seed, **ALL)])
def test_the_second_epoch_of_a_seed_is_not_the_first_of_the_next(make):
    faces = torch.randint(0, 256, (40, SIDE, SIDE), dtype=torch.uint8)
    items = torch.arange(40)
    shown = make(faces, 3)
    shown.start_epoch(1)
    assert not torch.equal(shown.batch(items)[0], make(faces, 4).batch(items)[0])
