"""Shares of face regions, and the pointing game."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lanmsff.explain import pointing_game, region_lift, region_shares

NAMES = ["background", "eye", "mouth", "ear"]
REGIONS = np.zeros((2, 6, 8), np.uint8)
REGIONS[:, 1, 1:3] = 1  # an eye of 2 pixels
REGIONS[:, 4, 3:6] = 2  # a mouth of 3 pixels; no ear


def point(row: int, column: int) -> np.ndarray:
    maps = np.zeros((2, 6, 8))
    maps[:, row, column] = 1
    return maps


@given(
    maps=arrays(np.float32, (3, 4, 5), elements=st.floats(0, 1e6, width=32)),
    regions=arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3)),
)
def test_shares_sum_to_1(maps, regions):
    shares = region_shares(maps, regions, NAMES)
    assert shares.shape == (3, 4)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    assert (shares >= 0).all()


def test_shares_are_masses_over_the_whole():
    maps = point(1, 1) + 3 * point(4, 4)
    np.testing.assert_allclose(region_shares(maps, REGIONS, NAMES), [[0, 0.25, 0.75, 0]] * 2)
    # on its own scale or not, a map has the same shares
    np.testing.assert_allclose(region_shares(7 * maps, REGIONS, NAMES)[0], [0, 0.25, 0.75, 0])


def test_lift_is_the_share_over_the_area_and_unknown_where_nothing_is_seen():
    lift = region_lift(np.ones((2, 6, 8)), REGIONS, NAMES)
    np.testing.assert_allclose(lift[0], [1, 1, 1, np.nan])
    lift = region_lift(point(4, 4), REGIONS, NAMES)
    np.testing.assert_allclose(lift[0], [0, 0, 48 / 3, np.nan])


def test_a_map_of_zeros_counts_as_an_even_one():
    shares = region_shares(np.zeros((2, 6, 8)), REGIONS, NAMES)
    np.testing.assert_allclose(shares[0], [43 / 48, 2 / 48, 3 / 48, 0])


@pytest.mark.parametrize("maps, names, said", [
    (np.ones((2, 6, 7)), NAMES, "must both be"),
    (np.ones((6, 8)), NAMES, "must both be"),
    (-np.ones((2, 6, 8)), NAMES, "not negative; the lowest is -1"),
    (np.full((2, 6, 8), np.nan), NAMES, "NaN"),
    (np.ones((2, 6, 8)), NAMES[:2], "regions hold 0 to 2, but there are 2 names"),
    (np.ones((0, 6, 8)), NAMES, "must both be"),
])  # fmt: skip
def test_what_has_no_shares_is_refused(maps, names, said):
    with pytest.raises(ValueError, match=said):
        region_shares(maps, REGIONS, names)


def test_a_region_below_the_first_is_refused():
    """It would be counted as the last one of the map before."""
    regions = REGIONS.astype(int)
    regions[1, 0, 0] = -1
    with pytest.raises(ValueError, match="regions hold -1 to 2, but there are 4 names, from 0 on"):
        region_shares(np.ones((2, 6, 8)), regions, NAMES)


def test_no_maps_are_refused():
    with pytest.raises(ValueError, match="no maps"):
        region_shares(np.ones((0, 6, 8)), REGIONS[:0], NAMES)


def test_the_pointing_game_counts_maxima_inside_what_is_wanted():
    maps = np.concatenate([point(1, 2)[:1], point(4, 0)[:1] - 5])  # signed maps have maxima too
    for wanted, hits in ((["eye"], [1, 0]), (["mouth"], [0, 0]), (["eye", "background"], [1, 1])):
        found = pointing_game(maps, REGIONS, NAMES, wanted)
        assert found.tolist() == [bool(hit) for hit in hits]


@pytest.mark.parametrize("tolerance, hit", [(0, False), (1, False), (1.5, True), (2, True)])
def test_the_pointing_game_forgives_a_distance_in_pixels(tolerance, hit):
    # (2, 3) lies one row and one column off the eye's end at (1, 2): 1.41 pixels
    hits = pointing_game(point(2, 3), REGIONS, NAMES, ["eye"], tolerance)
    assert hits.tolist() == [hit, hit]


def test_a_region_that_is_not_in_the_picture_is_never_hit():
    assert not pointing_game(point(0, 0), REGIONS, NAMES, ["ear"], tolerance=100).any()


def test_the_maximum_of_a_plateau_is_its_middle():
    plateau = np.zeros((2, 6, 8))
    plateau[:, 3:6, 3:6] = 2  # its first pixel is not in the mouth, its middle is
    assert pointing_game(plateau, REGIONS, NAMES, ["mouth"]).all()


def test_a_wanted_region_without_a_name_is_refused():
    with pytest.raises(ValueError, match="no region beak; there are background, eye"):
        pointing_game(point(0, 0), REGIONS, NAMES, ["beak", "eye"])
