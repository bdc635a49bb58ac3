"""Sanity checks of maps, the controls, and maps of a trained network against the controls."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from lanmsff import LANMSFF
from lanmsff.blocks.convolution import BN_MOMENTUM
from lanmsff.data import FaceSet
from lanmsff.experiments import EXPERIMENTS
from lanmsff.explain import cam
from lanmsff.explain.controls import (
    UNTRAINED_SEED,
    centre_maps,
    collect_statistics,
    edge_maps,
    random_maps,
    swapped_maps,
    untrained,
)
from lanmsff.explain.faithfulness import (
    CONTROLS,
    KINDS,
    perturbation_scores,
    sanity_scores,
    table,
)
from lanmsff.explain.maps import BATCH_SIZE
from lanmsff.explain.perturbation import STEPS, probabilities
from lanmsff.explain.sanity import (
    CASCADE,
    cascade,
    mirror_agreement,
    rank_correlation,
    turned_pairs,
)
from lanmsff.weights import load_weights, pretrained_names

SIDE = 32


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


def parameters(model):
    """Its weights and buffers but the statistics of batch normalization."""
    return {key: value for key, value in model.state_dict().items()
            if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))}  # fmt: skip


def test_cascade_forgets_from_the_head_down(trained, planted):
    images = planted(40, seed=3)[0]
    before = copy.deepcopy(trained.state_dict())
    stages = dict(cascade(trained, images, seed=4))
    assert tuple(stages) == CASCADE == ("head", "block4", "block3", "block2", "block1")
    fresh = parameters(untrained(trained, images, seed=4))
    forgotten = ()
    for part, network in stages.items():
        forgotten += (part,)
        assert not network.training
        for name, tensor in network.state_dict().items():
            if not name.startswith(forgotten):
                assert torch.equal(tensor, before[name]), (part, name)
            elif name in fresh:
                assert torch.equal(tensor, fresh[name]), (part, name)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), trained.state_dict().values()))
    whole = untrained(trained, images, seed=4)(images)
    torch.testing.assert_close(network(images), whole)


def test_fresh_parts_see_the_statistics_of_the_images(trained, planted):
    """So that what is normalised has mean 0 and variance 1 in them."""
    images = planted(BATCH_SIZE, seed=3)[0]
    for part, network in cascade(trained, images, seed=4):
        norm = [m for m in getattr(network, part).modules() if isinstance(m, nn.BatchNorm2d)]
        seen = {}
        for module in norm:
            module.register_forward_hook(lambda m, _, out: seen.update({m: out}))
        network(images)
        assert len(seen) == len(norm) and (part == "head") == (not norm)
        for module, out in seen.items():
            assert not module.training
            assert out.mean((0, 2, 3)).abs().max() < 0.01
            # Not quite 1: epsilon, and layers before it that normalise by N - 1 now, by N then.
            left = module.running_var / (module.running_var + module.eps)
            torch.testing.assert_close(out.var((0, 2, 3)), left, rtol=0.01, atol=0)


def test_maps_change_with_what_they_depend_on(trained, planted):
    images, labels, _ = planted(6, seed=2)
    maps = {name: KINDS[name](trained, images, labels.numpy()) for name in KINDS}
    found = {key: value for _, part in sanity_scores(trained, images, labels.numpy(), maps)
             for key, value in part.items()}  # fmt: skip
    assert set(found) == {(name, measure) for name in KINDS
                          for measure in ("mirrored", *(f"without {p}" for p in CASCADE))}
    assert found["exact map", "without head"].mean() < 0.5  # an unchanged map has 1
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
    images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    fresh = untrained(model, images, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert fresh.config == model.config
    assert not any(module.training for module in fresh.modules())
    norms = [module for module in fresh.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {BN_MOMENTUM}
    assert not torch.allclose(fresh(images), model(images), atol=1e-3)
    assert torch.equal(fresh(images), untrained(model, images, seed=1)(images))


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


def test_maps_of_a_trained_network_beat_the_random_map(trained, planted):
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


def test_the_controls_are_what_their_names_say(trained, planted):
    images, labels, _ = planted(4, seed=2)
    targets = labels.numpy()
    made = CONTROLS["Grad-CAM, untrained"](trained, images, targets)
    wanted = cam(untrained(trained, images), images, targets).numpy()
    np.testing.assert_allclose(made, wanted, atol=1e-6)
    assert not np.allclose(made, cam(trained, images, targets).numpy(), atol=1e-3)
    for name, maps in (("random", random_maps(4, SIDE)), ("centre", centre_maps(4, SIDE)),
                       ("edges", edge_maps(images))):  # fmt: skip
        np.testing.assert_array_equal(CONTROLS[name](trained, images, targets), maps)


def test_the_kinds_are_what_their_names_say(trained, planted):
    images, labels, _ = planted(2, seed=2)
    whole = cam(trained, images, labels, layer="all", method="exact").numpy()
    np.testing.assert_array_equal(KINDS["exact map"](trained, images, labels.numpy()), whole)
    grad_cam = cam(trained, images, labels, layer="block4", method="gradcam").numpy()
    np.testing.assert_array_equal(KINDS["Grad-CAM"](trained, images, labels.numpy()), grad_cam)


def test_nobody_trains_with_the_seed_of_the_untrained():
    """Else it would begin where the network began whose maps it controls."""
    assert all(UNTRAINED_SEED not in experiment.seeds for experiment in EXPERIMENTS.values())


def test_the_blob_in_the_middle_is_a_gaussian_of_a_quarter_of_the_side():
    (blob,) = centre_maps(1, size=65)
    assert blob[32, 32] == 1
    assert blob[32, 32 + 16] == pytest.approx(np.exp(-0.5), abs=0.01)
    np.testing.assert_array_equal(blob, blob.T)


def test_edges_are_seen_in_both_directions():
    images = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    turned = edge_maps(images.transpose(2, 3))
    np.testing.assert_allclose(turned, edge_maps(images).transpose(0, 2, 1), atol=1e-5)
    np.testing.assert_allclose(edge_maps(1 - images), edge_maps(images), atol=1e-5)  # rise or fall
    assert (turned.max(axis=(1, 2)) == 1).all()  # each on its own scale


def test_a_random_map_is_as_coarse_as_the_attention_of_block_4():
    fine = random_maps(20, 64, cells=64)
    for maps, cells in ((random_maps(20), 8), (fine, 64)):
        step = 64 // cells
        near = np.mean((maps[:, :, :-1] - maps[:, :, 1:]) ** 2)
        far = np.mean((maps[:, :, : -2 * step] - maps[:, :, 2 * step :]) ** 2)
        assert near / far == pytest.approx(1 if cells == 64 else 2 / step**2, rel=0.5), cells


def test_statistics_are_those_of_all_batches():
    torch.manual_seed(0)
    model = LANMSFF(3).eval()
    images = torch.rand(2 * BATCH_SIZE, 1, SIDE, SIDE)
    images[BATCH_SIZE:] /= 2
    first = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    means = []
    for part in (images[:BATCH_SIZE], images[BATCH_SIZE:], images):
        collect_statistics(model, model, part)
        means.append(first.running_mean.clone())
    torch.testing.assert_close(means[2], (means[0] + means[1]) / 2)
