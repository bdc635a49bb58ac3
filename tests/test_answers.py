"""Figures of several networks: against scipy, by hand, and where there is no answer."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn import metrics

from lanmsff.answers import Answers, difference, spread, summary
from lanmsff.evaluate import evaluate
from lanmsff.intervals import bootstrap_over_groups

CLASSES = 3


def sure_logits(faces, rights):
    """(R, N, K) of networks that are right where `rights` (R, N) says so, else one class off."""
    predicted = torch.from_numpy((faces.labels + ~np.array(rights, bool)) % CLASSES)
    return 4 * (F.one_hot(predicted, CLASSES).float() - 1)


def answers(faces, rights, names=None, temperature=1.0):
    names = names or tuple(f"seed {seed}" for seed in range(len(rights)))
    logits = sure_logits(faces, rights)
    return Answers.of(faces, tuple(names), logits, logits / temperature)


def random_rights(networks=3, n=60, share=0.7, seed=0):
    return np.random.default_rng(seed).random((networks, n)) < share


# --- spread


def test_spread_over_networks_is_student_s():
    values = random_rights()
    found = spread(values, np.arange(60))
    each = values.mean(1)
    assert found["each"] == pytest.approx(each) and found["mean"] == pytest.approx(each.mean())
    assert found["sd"] == pytest.approx(np.std(each, ddof=1))
    expected = stats.t.interval(0.95, 2, each.mean(), stats.sem(each))
    assert found["over_networks_95"] == pytest.approx(expected)


def test_spread_over_faces_is_scipy_s_bootstrap():
    values = random_rights(n=2000)
    found = spread(values, np.arange(2000))
    expected = stats.bootstrap((values.mean(0),), np.mean, method="percentile",
                               rng=np.random.default_rng(1)).confidence_interval  # fmt: skip
    assert found["over_faces_95"] == pytest.approx(expected, abs=0.002)


def test_faces_of_a_person_go_together():
    """Twelve people who are always or never right are twelve observations, not sixty."""
    values = np.tile(np.arange(12) < 8, 5)[None]
    by_person = spread(values, np.tile(np.arange(12), 5))["over_faces_95"]
    by_face = spread(values, np.arange(60))["over_faces_95"]
    assert np.diff(by_person) / np.diff(by_face) == pytest.approx(np.sqrt(5), rel=0.15)


def test_one_network_or_one_person_has_no_spread():
    found = spread(random_rights(1), np.zeros(60))
    assert found["sd"] is found["over_networks_95"] is found["over_faces_95"] is None


# --- summary


def test_summary_of_one_network_is_evaluate(faces):
    rights = random_rights(1)
    found, expected = summary(answers(faces, rights)), evaluate(faces, sure_logits(faces, rights)[0])
    assert found["parts"].keys() == expected.keys() == {
        "all", "all_without_leaked", "pose30", "pose30_without_leaked"
    }  # fmt: skip
    for name, part in expected.items():
        assert found["parts"][name]["n"] == part["n"]
        assert found["parts"][name]["accuracy"]["mean"] == pytest.approx(part["accuracy"])
        assert found["parts"][name]["macro_f1"] == pytest.approx(part["macro_f1"])
    assert found["confusion"] == expected["all"]["confusion"]
    for name, scores in expected["all"]["per_class"].items():
        assert found["per_class"][name] == pytest.approx(scores)


def test_summary_of_several_networks(faces):
    rights = random_rights(3)
    found = summary(answers(faces, rights, temperature=2.0))
    predicted = sure_logits(faces, rights).argmax(2).flatten().numpy()
    labels = np.tile(faces.labels, 3)
    assert found["confusion"] == metrics.confusion_matrix(labels, predicted).tolist()
    accuracy = found["parts"]["all"]["accuracy"]
    assert accuracy["mean"] == pytest.approx((predicted == labels).mean())
    assert [row["yaw"] for row in found["yaw"]] == [-45, 45]
    assert sum(row["n"] * row["accuracy"]["mean"] for row in found["yaw"]) == pytest.approx(
        60 * accuracy["mean"]
    )
    sure = [found[key]["confidence"] for key in ("calibration", "calibration_scaled")]
    top = [1 / (1 + 2 * np.exp(-4 / t)) for t in (1, 2)]
    for bins, expected in zip(sure, top):
        assert [c for c in bins if c is not None] == pytest.approx([expected])
    assert sum(found["calibration"]["n"]) == 180


# --- difference


def test_difference_is_paired_over_faces_and_networks(faces):
    """Networks that differ on the same six faces differ for sure, however much they vary."""
    theirs = random_rights(3)
    ours = theirs.copy()
    theirs[:, :6], ours[:, :6] = False, True
    found = difference(answers(faces, ours), answers(faces, theirs))["all"]
    assert found["mean"] == pytest.approx(0.1) and found["each"] == pytest.approx(3 * [0.1])
    assert found["sd"] == pytest.approx(0) and found["over_networks_95"] == pytest.approx([0.1, 0.1])
    assert 0 < found["over_faces_95"][0] < 0.1 < found["over_faces_95"][1] < 0.25
    other = difference(answers(faces, theirs), answers(faces, ours))["all"]
    assert other["mean"] == pytest.approx(-0.1)


def test_a_network_does_not_differ_from_itself(faces):
    one = answers(faces, random_rights(3))
    found = difference(one, one)
    assert all(part["mean"] == 0 for part in found.values())
    assert found["all"]["over_faces_95"] == [0, 0]


@pytest.mark.parametrize("networks", [2, 3])
def test_networks_of_other_names_are_compared_by_their_means(networks, faces):
    a = answers(faces, random_rights(2, seed=1), ["seed 0, fold 1", "seed 0, fold 2"])
    b = answers(faces, random_rights(networks, seed=2))
    found = difference(a, b)["all"]
    assert found["mean"] == pytest.approx(a.correct.mean() - b.correct.mean())
    assert found["sd"] is None and len(found["each"]) == 1


def test_networks_of_one_seed_s_folds_count_as_one(faces):
    """They share most of their training faces, so they say little of other seeds."""
    rights = random_rights(4)
    several = answers(faces, rights, [f"seed {s}, fold {f}" for s in (0, 1) for f in (1, 2)])
    found = summary(several)["parts"]["all"]["accuracy"]
    assert found["each"] == pytest.approx([rights[:2].mean(), rights[2:].mean()])
    half = stats.t.ppf(0.975, 1) * np.std(found["each"], ddof=1) / np.sqrt(2)
    assert found["over_networks_95"] == pytest.approx([rights.mean() - half, rights.mean() + half])
    others = answers(faces, ~rights, several.networks)
    assert len(difference(others, several)["all"]["each"]) == 2


def test_other_faces_have_no_difference(faces):
    rights = random_rights(1)
    others = faces.select(np.arange(60)[::-1])
    assert difference(answers(faces, rights), answers(others, rights)) is None


def test_what_leaked_for_either_is_left_out_of_their_difference(faces):
    marked = [replace(faces, leaked_from=np.where(np.arange(60) < n, "val", "")) for n in (0, 20)]
    rights = np.zeros((2, 1, 60), bool)
    rights[0, :, :30] = True
    for one, other in ((0, 1), (1, 0)):
        found = difference(answers(marked[one], rights[0]), answers(marked[other], rights[1]))
        assert found["all"]["mean"] == 30 / 60
        assert found["all_without_leaked"]["mean"] == 10 / 40


# --- joined


def noisy(faces, names, seed, temperature):
    """Networks of any logits."""
    shape = len(names), len(faces), CLASSES
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32))
    return names, logits, logits / temperature


def test_answers_from_two_records_are_those_of_all_networks(faces, assert_close):
    """In the order of the seeds; the second record came through JSON."""
    names, logits, scaled = noisy(faces, ("seed 2", "seed 10", "seed 0"), 0, 1.7)
    order = [2, 0, 1]
    together = Answers.of(faces, ("seed 0", "seed 2", "seed 10"), logits[order], scaled[order])
    one = Answers.of(faces, names[:2], logits[:2], scaled[:2])
    other = Answers.of(faces, names[2:], logits[2:], scaled[2:])
    written = json.loads(json.dumps(summary(other)))
    found, expected = summary(one + Answers.recorded(faces, written)), summary(together)
    assert found["networks"] == expected["networks"] and found["correct"] == expected["correct"]
    assert_close(found, expected)


def test_what_cannot_be_joined(faces):
    one = answers(faces, random_rights(2))
    with pytest.raises(ValueError, match="^it has seed 1 too$"):
        one + answers(faces, random_rights(1), ["seed 1"])
    others = answers(faces.select(np.arange(60)[::-1]), random_rights(1), ["seed 2"])
    with pytest.raises(ValueError, match="^it is of other test faces$"):
        one + others
    with pytest.raises(ValueError, match="^it is of other test faces$"):
        Answers.recorded(faces.select(np.arange(59)), summary(one))
    old = {key: value for key, value in summary(one).items() if key != "correct"}
    with pytest.raises(ValueError, match="does not say on which faces"):
        Answers.recorded(faces, old)


def test_intervals_of_each_yaw_and_of_differences_are_over_people(faces):
    ours, theirs = answers(faces, random_rights(2)), answers(faces, random_rights(2, seed=1))
    for row in summary(ours)["yaw"]:
        mine = faces.yaw == row["yaw"]
        people = bootstrap_over_groups(ours.correct[:, mine].mean(0), faces.subject[mine])
        assert row["accuracy"]["over_faces_95"] == pytest.approx(list(people))
    apart = (ours.right - theirs.right).mean(0)
    for part, mask in {"all": slice(None), "pose30": faces.pose30}.items():
        people = bootstrap_over_groups(apart[mask], faces.subject[mask])
        assert difference(ours, theirs)[part]["over_faces_95"] == pytest.approx(list(people))
