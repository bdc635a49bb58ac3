"""Measures of maps, on networks of which the truth is known, and against the libraries' own."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from lanmsff import LANMSFF
from lanmsff.data import FaceSet
from lanmsff.explain import attention
from lanmsff.explain.controls import random_maps
from lanmsff.explain.faithfulness import KINDS, kinds_of, parts, sanity_scores, table
from lanmsff.explain.perturbation import (
    STEPS,
    Perturbation,
    area,
    blurred,
    probabilities,
    rank_pixels,
)
from lanmsff.intervals import bootstrap_over_groups

SIDE = 32


class Brightness(nn.Module):
    """A network whose probability of class 1 is the mean of the pixels under a known mask."""

    def __init__(self, mask: np.ndarray):
        super().__init__()
        self.mask = nn.Parameter(torch.from_numpy(mask).float(), requires_grad=False)

    def forward(self, images):
        p = (images[:, 0] * self.mask).sum(dim=(1, 2)) / self.mask.sum()
        return torch.stack([1 - p, p], dim=1).log()


EVERYWHERE = np.ones((SIDE, SIDE))
ONES, ZEROS = torch.ones(64, 1, SIDE, SIDE), torch.zeros(64, 1, SIDE, SIDE)
CLASS_1 = np.ones(64, np.int64)


# --- curves


def test_curves_begin_and_end_with_what_the_network_says():
    torch.manual_seed(0)
    model = LANMSFF(3).eval()
    images, targets = torch.rand(5, 1, 32, 64), np.array([2, 0, 1, 1, 0])
    for baseline in (None, torch.full_like(images, 0.5)):
        perturbation = Perturbation(model, images, targets, baseline)
        gone = blurred(images) if baseline is None else baseline
        with torch.no_grad():
            whole, none = (
                model(x).softmax(1)[range(5), targets].numpy() for x in (images, gone)
            )
        assert np.abs(whole - none).max() > 1e-3
        maps = random_maps(5, 64)[:, :32]
        for curve, first, last in (
            (perturbation.deletion(maps, steps=3), whole, none),
            (perturbation.insertion(maps, steps=3), none, whole),
        ):
            assert curve.shape == (5, 4) and curve.dtype == np.float32
            np.testing.assert_allclose(curve[:, 0], first, atol=1e-6)
            np.testing.assert_allclose(curve[:, -1], last, atol=1e-6)


def test_curves_of_a_network_that_sums_pixels():
    """Deleting the brightest pixels first leaves the sum of the darkest, to rounding."""
    images = torch.rand(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    perturbation = Perturbation(Brightness(EVERYWHERE), images, np.ones(4, int), ZEROS[:4])
    dark_first = np.sort(images.flatten(1).numpy(), axis=1)
    below = np.pad(dark_first.cumsum(axis=1), ((0, 0), (1, 0))) / SIDE**2
    counts = np.arange(0, SIDE**2 + 1, SIDE**2 // 8)
    deleted = perturbation.deletion(images[:, 0].numpy(), steps=8)
    np.testing.assert_allclose(deleted, below[:, counts[::-1]], atol=1e-5)
    inserted = perturbation.insertion(images[:, 0].numpy(), steps=8)
    np.testing.assert_allclose(inserted, below[:, -1:] - below[:, counts[::-1]], atol=1e-5)


@pytest.mark.parametrize("cells", [8, SIDE])
def test_a_random_map_runs_down_the_diagonal(cells):
    corner = np.zeros((SIDE, SIDE))
    corner[:8, :8] = 1
    perturbation = Perturbation(Brightness(corner), ONES, CLASS_1, ZEROS)
    down = np.linspace(1, 0, STEPS + 1)
    maps = random_maps(64, SIDE, cells, seed=3)
    falling, rising = perturbation.deletion(maps).mean(0), perturbation.insertion(maps).mean(0)
    # a corner of 8x8 pixels holds four cells of 64, or 64 of 1,024
    tolerance = 4 * np.sqrt(0.25 / (4 if cells == 8 else 64) / 64)
    np.testing.assert_allclose(falling, down, atol=tolerance)
    np.testing.assert_allclose(rising, 1 - down, atol=tolerance)


def test_the_true_map_is_the_best():
    patch = np.zeros((SIDE, SIDE))
    patch[4:12, 16:24] = 1  # a sixteenth of the pixels
    perturbation = Perturbation(Brightness(patch), ONES, CLASS_1, ZEROS)
    true, wrong = (np.repeat(x[None], 64, axis=0) for x in (patch, -patch))
    best, worst = perturbation.deletion(true, 16)[0], perturbation.deletion(wrong, 16)[0]
    np.testing.assert_allclose(best, [1] + 16 * [0], atol=1e-5)
    np.testing.assert_allclose(worst, 16 * [1] + [0], atol=1e-5)
    random = random_maps(64, SIDE)
    for curve, sign in ((perturbation.deletion, -1), (perturbation.insertion, 1)):
        gains = sign * (area(curve(true)) - area(curve(random)))
        assert bootstrap_over_groups(gains, np.arange(64))[0] > 0.3


def test_area():
    np.testing.assert_allclose(area(np.array([[0, 0, 1], [1, 0.5, 0], [1, 1, 1]])), [0.25, 0.5, 1])


def test_what_does_not_fit_is_refused():
    model = Brightness(EVERYWHERE)
    with pytest.raises(ValueError, match="do not fit"):
        Perturbation(model, ONES, CLASS_1[:5])
    with pytest.raises(ValueError, match="do not fit"):
        Perturbation(model, ONES, CLASS_1, ZEROS[:3])
    with pytest.raises(ValueError, match="NaN"):
        Perturbation(model, ONES, CLASS_1).deletion(np.full((64, SIDE, SIDE), np.nan))


def test_baseline_has_no_detail_and_the_same_light():
    images = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    soft = blurred(images)
    assert soft.shape == images.shape and soft.min() >= 0 and soft.max() <= 1
    assert soft.diff(dim=-1).abs().max() < 0.02 < images.diff(dim=-1).abs().max()
    torch.testing.assert_close(soft.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.02, rtol=0)


# --- the order of pixels


def test_rank_pixels():
    maps = np.random.default_rng(0).normal(size=(3, 4, 5))
    ranks = rank_pixels(maps).reshape(3, -1)
    np.testing.assert_allclose(np.sort(ranks), np.tile(np.arange(1, 21) / 20, (3, 1)))
    np.testing.assert_array_equal(np.argsort(ranks), np.argsort(maps.reshape(3, -1)))


def test_equal_pixels_go_in_a_random_order():
    """A map cut off at zero: the upper half is flat, and must not go from one side to the other."""
    maps = np.zeros((50, 16, 16))
    maps[:, 8:] = np.arange(128).reshape(8, 16) + 1
    ranks = rank_pixels(maps)
    assert ranks[:, :8].max() <= 0.5 < ranks[:, 8:].min()
    assert abs(ranks[:, :8].mean(axis=(0, 2)) - 0.25).max() < 0.05
    np.testing.assert_array_equal(ranks, rank_pixels(maps))
    assert (ranks[:, :8] != rank_pixels(maps, seed=1)[:, :8]).mean() > 0.9


# --- ROAD


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_road_is_that_of_grad_cam(trained, planted):
    images, labels, _ = planted(3, seed=3)
    maps, targets = random_maps(3, SIDE), labels.numpy()
    state = torch.get_rng_state()
    ours = Perturbation(trained, images, targets).road(maps, percentiles=(20, 50, 80), seed=5)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    wanted = [ClassifierOutputTarget(k) for k in targets]
    theirs = ROADCombined([20, 50, 80])(
        images, rank_pixels(maps, 5), wanted, lambda x: probabilities(trained, x.clamp(0, 1))
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.abs(ours).max() > 0.01


def test_road_of_maps_with_ties():
    """A map that is zero nearly everywhere would lose all pixels at once, and divide by nothing."""
    maps = np.zeros((2, SIDE, SIDE), np.float32)
    maps[:, 3, 4] = 1
    images = torch.rand(2, 1, SIDE, SIDE)
    perturbation = Perturbation(Brightness(EVERYWHERE), images, np.ones(2, int))
    assert np.isfinite(perturbation.road(maps)).all()


# --- the table


def test_table_by_parts(toy_faces):
    faces = toy_faces(train=0, val=0, test=9)
    assert list(parts(faces)) == ["all"]
    marks = np.arange(9) < 3
    faces = FaceSet(**{**vars(faces), "pose45": marks & (np.arange(9) > 0)})
    counts = {name: mask.sum() for name, mask in parts(faces).items()}
    assert counts == {"all": 9, "frontal": 6, "beyond 30": 3, "beyond 45": 2}
    listed = faces.subset("test").pose30
    assert list(parts(faces.select(~listed))) == ["all"]  # the lists of poses are of test faces

    value, chance = np.arange(9.0), np.full(9, 2.0)
    value[8] = np.nan
    values = {("cam", "deletion"): value, ("random", "deletion"): chance, ("cam", "x"): value,
              ("centre", "deletion"): chance - 5}  # fmt: skip
    rows = {(row["map"], row["measure"], row["part"]): row for row in table(values, faces)}
    assert len(rows) == 16
    row = rows["cam", "deletion", "beyond 30"]
    assert row["mean"] == 1 and row["gain"] == 1  # below the random one is better
    low, high = bootstrap_over_groups(value[:3], np.arange(3))
    assert (row["low"], row["high"]) == (low, high)
    assert (row["gain_low"], row["gain_high"]) == pytest.approx((2 - high, 2 - low))
    assert rows["cam", "deletion", "all"]["faces"] == 8
    assert "gain" not in rows["cam", "x", "all"]
    assert row["over_centre"] == -4 and rows["random", "deletion", "all"]["over_centre"] == -5
    assert rows["centre", "deletion", "all"]["gain"] == 5
    assert "over_centre" not in rows["centre", "deletion", "all"]


def test_yaws_of_half_a_degree_are_parts_of_their_own(toy_faces):
    faces = replace(toy_faces(train=0, val=0, test=4), pose30=None,
                    yaw=np.array([22, 22.5, 22, -0.5], np.float32))  # fmt: skip
    counts = {name: mask.sum() for name, mask in parts(faces).items()}
    assert counts == {"all": 4, "yaw -0.5": 1, "yaw 22": 2, "yaw 22.5": 1}


def test_table_by_yaw_with_one_person(toy_faces):
    faces = toy_faces(train=0, val=0, test=4)
    faces = FaceSet(**{**vars(faces), "subject": np.array(["a", "b", "a", "a"]),
                       "yaw": np.array([-90, -90, 0, 0], np.float32)})  # fmt: skip
    rows = {row["part"]: row for row in table({("cam", "x"): np.arange(4.0)}, faces)}
    assert list(rows) == ["all", "yaw -90", "yaw 0"]
    assert rows["yaw -90"]["low"] is not None
    assert rows["yaw 0"] | {"mean": 2.5, "low": None, "high": None} == rows["yaw 0"]


def test_a_network_without_massatt_has_two_kinds_of_maps():
    assert list(kinds_of(LANMSFF(2))) == list(KINDS)
    assert list(kinds_of(LANMSFF(2, attention="none"))) == ["Grad-CAM", "exact map"]


def test_the_network_is_left_as_it_came(trained, planted):
    model = copy.deepcopy(trained).train()
    before = copy.deepcopy(model.state_dict())
    images, labels, _ = planted(2, seed=0)
    list(sanity_scores(model, images, labels.numpy(), {"Grad-CAM": random_maps(2, SIDE)}))
    Perturbation(model, images, labels.numpy()).deletion(random_maps(2, SIDE), steps=2)
    attention(model, images)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))


def test_by_default_a_fifth_of_the_pixels_goes():
    images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    perturbation = Perturbation(LANMSFF(2).eval(), images, np.zeros(2, int))
    maps = random_maps(2, SIDE)
    found, named, other = (perturbation.road(maps, *p) for p in ((), ((80,),), ((20,),)))
    np.testing.assert_array_equal(found, named)
    assert (found != other).all()


def test_blurred_is_a_gaussian_of_an_eighth_of_the_side():
    image = torch.zeros(1, 1, 64, 64)
    image[..., 32, 32] = 1
    row = blurred(image)[0, 0, 32]
    assert row[32 + 8] / row[32] == pytest.approx(np.exp(-0.5), abs=0.01)


def test_intervals_of_the_table_are_over_people(faces):
    faces = replace(faces, yaw=None)
    rng = np.random.default_rng(0)
    habit = np.unique(faces.subject, return_inverse=True)[1] / 4  # of the person
    value, chance = habit + rng.random(60), rng.random(60)
    rows = table({("cam", "insertion"): value, ("random", "insertion"): chance}, faces)
    (row,) = [row for row in rows if row["map"] == "cam" and row["part"] == "all"]
    for name, of in (("", value), ("gain_", value - chance)):
        ends = bootstrap_over_groups(of, faces.subject)
        assert (row[f"{name}low"], row[f"{name}high"]) == pytest.approx(tuple(map(float, ends)))
