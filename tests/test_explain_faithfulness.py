"""Measures of maps, on networks of which the truth is known, and against the libraries' own."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import spearmanr
from torch import nn

from lanmsff import LANMSFF
from lanmsff.data import FaceSet
from lanmsff.explain import attention, cam
from lanmsff.explain.controls import (
    centre_maps,
    edge_maps,
    random_maps,
    swapped_maps,
    untrained,
)
from lanmsff.explain.faithfulness import (
    CONTROLS,
    KINDS,
    kinds_of,
    parts,
    perturbation_scores,
    sanity_scores,
    table,
)
from lanmsff.explain.perturbation import (
    STEPS,
    Perturbation,
    area,
    blurred,
    probabilities,
    rank_pixels,
)
from lanmsff.explain.sanity import (
    CASCADE,
    cascade,
    mirror_agreement,
    rank_correlation,
    turned_pairs,
)
from lanmsff.intervals import bootstrap_over_groups
from lanmsff.weights import load_weights, pretrained_names

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


def planted(count: int, seed: int):
    """Noise with stripes in it: images, class 0 upright or 1 level, and where the stripes are."""
    rng = np.random.default_rng(seed)
    images = rng.random((count, SIDE, SIDE), dtype=np.float32) / 2
    labels = rng.integers(0, 2, count)
    where = np.zeros(images.shape, bool)
    stripes = np.tile(np.array([0, 1], np.float32), (12, 6))
    for image, label, place in zip(images, labels, where):
        row, column = rng.integers(0, SIDE - 11, 2)
        patch = slice(row, row + 12), slice(column, column + 12)
        image[patch] = stripes.T if label else stripes
        place[patch] = True
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels), where


@pytest.fixture(scope="module")
def trained():
    """LANMSFF after twenty steps on planted stripes: it is right on all new ones."""
    torch.manual_seed(0)
    model = LANMSFF(2, dropout=0.0)
    images, labels, _ = planted(320, seed=0)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for x, y in zip(images.split(16), labels.split(16)):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:  # twenty steps are too few for the running averages
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for x in images[:128].split(16):
            model(x)
    return model.eval()


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
def test_road_is_that_of_grad_cam(trained):
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


# --- sanity


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6, 8, 8))
    first[:3] = first[:3].clip(0)  # with ties
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second)]
    np.testing.assert_allclose(rank_correlation(first, second), expected)
    np.testing.assert_allclose(rank_correlation(first, first), 1)
    np.testing.assert_allclose(rank_correlation(first, np.exp(-second)), -np.array(expected))
    second[2] = 0.5
    assert np.isnan(rank_correlation(first, second)).tolist() == [k == 2 for k in range(6)]
    with pytest.raises(ValueError, match="cannot be compared"):
        rank_correlation(first, second[:2])


def test_mirror_agreement():
    images = torch.rand(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(mirror_agreement(edge_maps, images), 1, atol=1e-4)
    fixed = random_maps(4, SIDE, cells=SIDE)  # looks at the same places whatever it sees
    agreement = mirror_agreement(lambda _: fixed, images)
    np.testing.assert_allclose(agreement, rank_correlation(fixed, fixed[..., ::-1]))
    assert abs(agreement).max() < 0.2


def test_cascade_forgets_from_the_head_down(trained):
    before = copy.deepcopy(trained.state_dict())
    stages = dict(cascade(trained, seed=4))
    assert tuple(stages) == CASCADE == ("head", "block4", "block3", "block2", "block1")
    fresh = untrained(trained, seed=4).state_dict()
    forgotten = ()
    for part, network in stages.items():
        forgotten += (part,)
        assert not network.training
        for name, tensor in network.state_dict().items():
            wanted = fresh if name.startswith(forgotten) else before
            assert torch.equal(tensor, wanted[name]), (part, name)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), trained.state_dict().values()))


def test_maps_change_with_what_they_depend_on(trained):
    images, labels, _ = planted(6, seed=2)
    maps = {name: KINDS[name](trained, images, labels.numpy()) for name in KINDS}
    found = {key: value for _, part in sanity_scores(trained, images, labels.numpy(), maps)
             for key, value in part.items()}  # fmt: skip
    assert set(found) == {(name, measure) for name in KINDS
                          for measure in ("mirrored", *(f"without {p}" for p in CASCADE))}
    assert found["exact map", "without head"].max() < 0.9
    for name in ("Grad-CAM", "exact map"):
        assert np.nanmean(found[name, "without block1"]) < 0.5
    # attention does not see what comes after it
    np.testing.assert_allclose(found["MassAtt, block 4", "without head"], 1)
    assert found["MassAtt, block 4", "without block4"].max() < 0.99
    np.testing.assert_allclose(found["MassAtt, block 2", "without block3"], 1)
    assert found["MassAtt, block 2", "without block2"].max() < 0.99


def test_turned_pairs(toy_faces):
    faces = toy_faces(train=0, val=0, test=8)
    columns = {
        "subject": np.array(list("aaabbbaa")),
        "yaw": np.array([0, 10, 20, 0, 10, 30, 10, 20], np.float32),
        "session": np.array(list("AAAAAABB")),
    }
    labels = np.array([0, 0, 0, 1, 2, 1, 0, 0])
    faces = FaceSet(**{**vars(faces), **columns, "labels": labels})
    assert [rows.tolist() for rows in turned_pairs(faces, 10)] == [[0, 1, 6], [1, 2, 7]]
    assert [rows.tolist() for rows in turned_pairs(faces, 30)] == [[3], [5]]
    assert [rows.tolist() for rows in turned_pairs(faces, 90)] == [[], []]
    with pytest.raises(ValueError, match="toy does not say who is seen"):
        turned_pairs(toy_faces(), 10)


# --- controls


def test_controls_are_maps():
    images = torch.rand(5, 1, 64, 64)
    for maps in (random_maps(5), centre_maps(5), edge_maps(images)):
        assert maps.shape == (5, 64, 64) and maps.dtype == np.float32
        assert maps.min() >= 0 and maps.max() <= 1
    np.testing.assert_array_equal(random_maps(5), random_maps(5))
    assert abs(rank_correlation(random_maps(50), random_maps(50, seed=1)).mean()) < 0.1
    assert abs(rank_correlation(random_maps(50)[1:], random_maps(50)[:-1]).mean()) < 0.1
    row, column = np.unravel_index(centre_maps(1)[0].argmax(), (64, 64))
    assert row in (31, 32) and column in (31, 32)


def test_edges_are_where_the_brightness_changes():
    images = torch.zeros(2, 1, SIDE, SIDE)
    images[1, 0, :, 20:] = 1
    flat, step = edge_maps(images)
    assert (flat == 0).all()  # the other image of the batch does not leak in
    assert set(step.argmax(axis=1)) <= {19, 20} and step[:, :14].max() < 1e-3


def test_swapped_maps_come_from_somebody_else():
    people = np.array(list("aabbbc"))
    own = np.arange(6.0)[:, None, None] * np.ones((1, 2, 2))
    found = {tuple(swapped_maps(own, people, seed)[:, 0, 0].astype(int)) for seed in range(20)}
    assert len(found) > 10
    assert all((people[list(rows)] != people).all() for rows in found)
    with pytest.raises(ValueError, match="at least two groups"):
        swapped_maps(own, np.zeros(6))


def test_untrained_is_another_network_of_the_same_kind():
    model = LANMSFF(3, mixing="permutation", permutation_seed=5, selection=False).eval()
    state = torch.get_rng_state()
    fresh = untrained(model, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert fresh.config == model.config and not fresh.training
    images = torch.rand(2, 1, SIDE, SIDE)
    assert not torch.allclose(fresh(images), model(images), atol=1e-3)
    assert torch.equal(fresh(images), untrained(model, seed=1)(images))


# --- a trained network against the controls


def gains(model, images, groups, kinds):
    """Scores of maps for the predicted classes, as `table` gives them: (map, measure) -> row."""
    targets = probabilities(model, images).argmax(1).numpy()
    maps = {name: make(model, images, targets) for name, make in kinds.items()}
    values = {}
    for _, found, curves in perturbation_scores(model, images, targets, maps):
        values |= found
        assert {curve.shape for curve in curves.values()} == {(len(images), STEPS + 1)}
    count = len(images)
    faces = FaceSet(
        images=np.zeros((count, 1, 1), np.uint8), labels=targets, split=np.full(count, "test"),
        name=np.arange(count).astype(str), subject=groups,
        meta={"dataset": "", "rule": "", "sources": {}, "classes": list("abcdefg")},
    )  # fmt: skip
    return {(row["map"], row["measure"]): row for row in table(values, faces)}


def test_maps_of_a_trained_network_beat_the_random_map(trained):
    images, labels, where = planted(24, seed=1)
    assert (probabilities(trained, images).argmax(1) == labels).float().mean() > 0.95
    kinds = {
        "exact map": KINDS["exact map"],
        "block 2": lambda model, x, targets: cam(model, x, targets, layer="block2").numpy(),
        "truth": lambda *_: where.astype(np.float32),
    }
    controls = {name: CONTROLS[name] for name in ("random", "edges")}
    rows = gains(trained, images, np.arange(24).astype(str), kinds | controls)
    for name in kinds:
        for measure in ("deletion", "insertion", "ROAD"):
            row = rows[name, measure]
            assert 0.05 < row["gain_low"] < row["gain"] < row["gain_high"], (name, measure)
            assert row["low"] < row["mean"] < row["high"] and row["faces"] == 24
            near = rows["truth", measure]["mean"]
            assert row["mean"] == pytest.approx(near, abs=0.1), (name, measure)
    for measure in ("deletion", "insertion", "ROAD"):
        assert "gain" not in rows["random", measure]
        assert rows["edges", measure]["gain"] < 0  # smoothing wipes these stripes out


def test_maps_of_the_shipped_network_beat_the_random_map():
    if "posefaces" not in pretrained_names():
        pytest.skip("the weights 'posefaces' are not shipped yet")
    from data_prep.kdef import load_posefaces
    from lanmsff.augment import resize, to_float

    faces = load_posefaces().subset("test")
    drawn = np.random.default_rng(0).choice(len(faces), 42, replace=False)
    faces = faces.select(drawn)
    images = to_float(resize(torch.from_numpy(faces.images)))
    model = load_weights("posefaces", faces.classes).model
    rows = gains(model, images, faces.subject, {
        "Grad-CAM": KINDS["Grad-CAM"], "random": CONTROLS["random"]})  # fmt: skip
    for measure in ("deletion", "insertion"):
        assert rows["Grad-CAM", measure]["gain_low"] > 0, rows["Grad-CAM", measure]


# --- the table


def test_table_by_parts(toy_faces):
    faces = toy_faces(train=0, val=0, test=9)
    assert list(parts(faces)) == ["all"]
    marks = np.arange(9) < 3
    faces = FaceSet(**{**vars(faces), "pose45": marks & (np.arange(9) > 0)})
    counts = {name: mask.sum() for name, mask in parts(faces).items()}
    assert counts == {"all": 9, "frontal": 6, "beyond 30": 3, "beyond 45": 2}

    value, chance = np.arange(9.0), np.full(9, 2.0)
    value[8] = np.nan
    values = {("cam", "deletion"): value, ("random", "deletion"): chance, ("cam", "x"): value}
    rows = {(row["map"], row["measure"], row["part"]): row for row in table(values, faces)}
    assert len(rows) == 12
    row = rows["cam", "deletion", "beyond 30"]
    assert row["mean"] == 1 and row["gain"] == 1  # below the random one is better
    low, high = bootstrap_over_groups(value[:3], np.arange(3))
    assert (row["low"], row["high"]) == (low, high)
    assert (row["gain_low"], row["gain_high"]) == pytest.approx((2 - high, 2 - low))
    assert rows["cam", "deletion", "all"]["faces"] == 8
    assert "gain" not in rows["cam", "x", "all"]


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


def test_the_network_is_left_as_it_came(trained):
    model = copy.deepcopy(trained).train()
    before = copy.deepcopy(model.state_dict())
    images, labels, _ = planted(2, seed=0)
    list(sanity_scores(model, images, labels.numpy(), {"Grad-CAM": random_maps(2, SIDE)}))
    Perturbation(model, images, labels.numpy()).deletion(random_maps(2, SIDE), steps=2)
    attention(model, images)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
