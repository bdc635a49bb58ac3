"""Intervals: against SciPy and published cases, and where drawing faces is wrong."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lanmsff.intervals import (
    accuracy_interval, bootstrap_over_groups, change_by_leaving_out, difference_interval,
    means_by_yaw, over_faces_and_networks)  # fmt: skip


def test_many_groups_of_one_are_the_plain_bootstrap():
    values = np.random.default_rng(0).normal(size=2000)
    ours = bootstrap_over_groups(values, np.arange(2000), n=4000)
    plain = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1)
    np.testing.assert_allclose(ours, plain.confidence_interval, atol=0.002)


@pytest.mark.parametrize("people", [8, 14, 60])
def test_few_groups_have_the_width_of_student_s_interval(people):
    """Normal scores, in place of a sample, so that nothing depends on a draw."""
    values = stats.norm.ppf((np.arange(people) + 0.5) / people)
    low, high = bootstrap_over_groups(values, np.arange(people), n=40_000)
    expected = stats.t.interval(0.95, people - 1, values.mean(), stats.sem(values))
    assert high - low == pytest.approx(expected[1] - expected[0], rel=0.05)
    plain = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="percentile", rng=1)
    assert high - low > np.ptp(plain.confidence_interval)


def test_it_is_the_statistic_of_whole_groups():
    """Groups of unequal size, out of order; each draw holds all or nothing of a group."""
    groups = np.array(list("abacbbba"))
    values = np.array([{"a": 1.0, "b": 10.0, "c": 100.0}[name] for name in groups])
    sizes = {1.0: 3, 10.0: 4, 100.0: 1}
    seen = []

    def note(rows):
        kinds, counts = np.unique(rows, return_counts=True)
        assert all(count % sizes[kind] == 0 for kind, count in zip(kinds, counts))
        assert sum(count // sizes[kind] for kind, count in zip(kinds, counts)) == 3
        seen.append(tuple(kinds))
        return rows.mean()

    bootstrap_over_groups(values, groups, note, n=200)
    assert len(set(seen)) == 7  # every set of the three groups that three draws can give


@pytest.mark.parametrize("shape", [(30,), (30, 4), (30, 2, 3)])
def test_the_fast_mean_is_the_mean(shape):
    values = np.random.default_rng(0).normal(size=shape)
    groups = np.random.default_rng(1).integers(0, 7, 30)
    fast = bootstrap_over_groups(values, groups, n=500, seed=3)
    plain = bootstrap_over_groups(values, groups, lambda rows: rows.mean(axis=0), n=500, seed=3)
    np.testing.assert_allclose(fast, plain, rtol=1e-12)


def test_faces_of_one_person_are_not_independent():
    """Copies of the same observation must not make the interval narrower."""
    people = np.random.default_rng(1).normal(size=20)
    once = bootstrap_over_groups(people, np.arange(20))
    copied = bootstrap_over_groups(np.repeat(people, 50), np.repeat(np.arange(20), 50))
    np.testing.assert_allclose(copied, once, rtol=1e-12)
    as_faces = bootstrap_over_groups(np.repeat(people, 50), np.arange(1000))
    assert as_faces[1] - as_faces[0] < 0.3 * (once[1] - once[0])


@pytest.mark.parametrize("people", [8, 30])
def test_it_covers_the_truth(people):
    rng = np.random.default_rng(2)
    who = np.repeat(np.arange(people), 5)
    hits = 0
    for trial in range(600):
        values = rng.normal(size=people)[who] + 0.5 * rng.normal(size=len(who))
        low, high = bootstrap_over_groups(values, who, n=600, seed=trial)
        hits += low <= 0 <= high
    # 570 are expected, give or take 2.5 standard deviations; plain percentiles hold 534 for 8 people
    assert 557 <= hits <= 583


def test_rows_may_be_curves():
    values = np.random.default_rng(3).normal(size=(40, 5))
    groups = np.repeat(np.arange(8), 5)
    low, high = bootstrap_over_groups(values, groups, seed=4)
    assert low.shape == high.shape == (5,)
    column = bootstrap_over_groups(values[:, 2], groups, seed=4)
    np.testing.assert_allclose((low[2], high[2]), column)


def test_the_seed_decides_little():
    values, groups = np.random.default_rng(5).normal(size=14), np.arange(14)
    ends = [bootstrap_over_groups(values, groups, seed=seed) for seed in (0, 0, 1, 2)]
    assert ends[0] == ends[1] != ends[2]
    assert np.ptp(ends, axis=0).max() < 0.02 * np.diff(ends[0])


@pytest.mark.parametrize(
    "values, groups, message",
    [
        ([], [], "0 values"),
        ([1.0, 2.0], [1], "2 values in groups of shape"),
        ([1.0, 2.0], ["x", "x"], "at least two groups"),
    ],
)
def test_refused(values, groups, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_over_groups(values, groups)


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilson_s(counts):
    """Wilson (1927): the shares p with |share - p| <= z sqrt(p (1 - p) / n)."""
    correct, n = counts
    share, z = correct / n, 1.959963984540054
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = accuracy_interval(correct, n)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert 0 <= low <= share <= high <= 1


def test_the_interval_of_a_known_case():
    """81 of 263: Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert accuracy_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_the_difference_of_a_known_case():
    """56 of 70 minus 48 of 80: Newcombe, Statistics in Medicine 17 (1998) 873, table II, method 10."""
    shares = [(k / n, accuracy_interval(k, n)) for k, n in ((56, 70), (48, 80))]
    found = difference_interval(*shares[0], *shares[1])
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_interval(*shares[1], *shares[0]) == pytest.approx((-found[1], -found[0]))


def test_an_interval_over_faces_and_networks_has_the_variance_of_both():
    """Means of r networks on n faces: as wide as they spread when both are drawn again."""
    rng = np.random.default_rng(0)
    n, r, trials = 200, 4, 4000
    faces = rng.normal(0, 1, (trials, n)).mean(1)
    networks = rng.normal(0, 0.1, (trials, r)).mean(1)
    half = 1.96 / math.sqrt(n), 1.96 * 0.1 / math.sqrt(r)
    low, high = over_faces_and_networks(0, (-half[0], half[0]), (-half[1], half[1]))
    assert np.mean((low < faces + networks) & (faces + networks < high)) == pytest.approx(
        0.95, abs=0.015
    )
    assert over_faces_and_networks(5, (1, 8), (1, 9)) == pytest.approx((5 - 32**0.5, 10))


def test_leaving_out_some_faces_changes_the_accuracy_by_their_share_of_a_difference():
    """90 of 150 without the last 70, of which 56 are right, is 34 of 80."""
    value, (low, high) = change_by_leaving_out(90, 150, 34, 80)
    assert value == pytest.approx(34 / 80 - 90 / 150)
    apart = difference_interval(34 / 80, accuracy_interval(34, 80), 0.8, accuracy_interval(56, 70))
    assert (low, high) == pytest.approx([end * 70 / 150 for end in apart])
    assert low < value < high < 0
    of_two_networks, _ = change_by_leaving_out(90.5, 150, 34, 80)
    assert of_two_networks == pytest.approx(34 / 80 - 90.5 / 150)


def test_draws_in_blocks_are_the_same_draws(monkeypatch):
    values = np.random.default_rng(1).normal(size=(90, 3))
    groups = np.arange(90) // 2
    whole = bootstrap_over_groups(values, groups, n=500)
    monkeypatch.setattr("lanmsff.intervals.BLOCK", 45 * 7)  # 7 draws, which 500 is no multiple of
    np.testing.assert_allclose(bootstrap_over_groups(values, groups, n=500), whole, rtol=1e-12)
    by_hand = bootstrap_over_groups(values, groups, lambda rows: rows.mean(axis=0), n=500)
    np.testing.assert_allclose(by_hand, whole, rtol=1e-12)


def test_means_by_yaw_group_and_order():
    yaw = np.array([45, -45, 45, -45, 45, -45])
    subject = np.array(["a", "a", "b", "b", "c", "c"])
    values = np.array([[1, 10], [2, 20], [3, 30], [4, 40], [5, np.nan], [6, np.nan]])
    means = means_by_yaw(values, yaw, subject)
    assert means.at.tolist() == [-45, 45]
    np.testing.assert_allclose(means.mean, [[4, 30], [3, 20]])
    assert means.low.shape == means.high.shape == (2, 2)
    assert (means.low < means.mean).all() and (means.mean < means.high).all()


def test_intervals_are_over_people_and_not_over_faces():
    # 2 people with 50 equal faces each: a bootstrap over faces would give a narrow interval
    values, subject = np.repeat([0.0, 1.0], 50), np.repeat(["a", "b"], 50)
    means = means_by_yaw(values, np.zeros(100), subject)
    assert (means.low, means.mean, means.high) == (0, 0.5, 1)


def test_means_of_nothing_known_are_unknown():
    means = means_by_yaw(np.full(4, np.nan), np.zeros(4), np.array(list("aabb")))
    assert np.isnan([means.mean, means.low, means.high]).all()


def test_means_need_a_person_and_a_yaw_for_every_value():
    with pytest.raises(ValueError, match="3 values"):
        means_by_yaw(np.ones(3), np.zeros(3), np.array(["a", "b"]))
