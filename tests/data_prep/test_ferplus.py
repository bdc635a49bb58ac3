"""FERPlus: rules, pairing with FER-2013, subsets, and the sizes that the real votes must give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import ferplus
from data_prep.__main__ import main
from lanmsff import duplicates
from lanmsff.data import FaceSet

NAMES = [f"fer{1000 + row:07d}.png" for row in range(28)]  # names are no row numbers


def one_hot_votes():
    """28 rows of ten equal votes, row r for class r % 8."""
    return 10 * np.eye(10, dtype=np.uint8)[np.arange(28) % 8]


# votes -> class under (majority, argmax, argmax-no-ties, soft); None is dropped
EXAMPLES = {
    "all agree": ([0, 10, 0, 0, 0, 0, 0, 0, 0, 0], (1, 1, 1, 1)),
    "just half": ([5, 5, 0, 0, 0, 0, 0, 0, 0, 0], (None, 0, None, 0)),
    "half of nine": ([5, 0, 2, 2, 1, 0, 0, 0, 0, 0], (0, 0, 0, 0)),
    "half of ten": ([5, 0, 2, 3, 0, 0, 0, 0, 0, 0], (None, 0, 0, 0)),
    "single votes do not count": ([4, 1, 1, 1, 1, 1, 1, 0, 0, 0], (0, 0, 0, 0)),
    "four emotions": ([0, 4, 2, 2, 2, 0, 0, 0, 0, 0], (None, 1, 1, None)),
    "unknown wins": ([2, 0, 0, 0, 0, 0, 0, 0, 8, 0], (None, None, None, None)),
    "not a face": ([0, 0, 0, 0, 0, 0, 0, 0, 0, 10], (None, None, None, None)),
    "unknown ties": ([0, 0, 5, 0, 0, 0, 0, 0, 5, 0], (None, 2, None, None)),
    "unknown second": ([0, 6, 0, 0, 0, 0, 0, 0, 4, 0], (1, 1, 1, 1)),
    "all single": ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], (None, 0, None, None)),
}


@pytest.mark.parametrize("case", EXAMPLES)
@pytest.mark.parametrize(("rule", "place"), [(rule, i) for i, rule in enumerate(ferplus.RULES)])
def test_a_rule_on_one_face(case, rule, place):
    votes, expected = EXAMPLES[case]
    weights = ferplus.RULES[rule](np.array([votes], np.uint8))[0]
    assert weights.shape == (8,)
    assert (int(weights.argmax()) if weights.any() else None) == expected[place]


def test_soft_weights():
    votes = np.array([[6, 2, 0, 0, 0, 0, 0, 0, 0, 2], [5, 3, 2, 0, 0, 0, 0, 0, 0, 0],
                      [8, 2, 0, 0, 0, 0, 0, 0, 0, 0]], np.uint8)
    # NF's turn comes with happiness, equal in votes: it ends the taking and is left out;
    # three quarters are reached by two emotions; by one
    expected = np.array([[6, 2, 0], [5, 3, 0], [8, 0, 0]]) / [[8], [8], [8]]
    np.testing.assert_allclose(ferplus.soft(votes)[:, :3], expected)
    assert not ferplus.soft(votes)[:, 3:].any()


ten_votes = st.lists(st.integers(0, 9), min_size=10, max_size=10).map(
    lambda picks: np.bincount(picks, minlength=10)[None].astype(np.uint8)
)


@given(ten_votes)
def test_a_majority_is_a_majority_and_every_rule_agrees_with_it(votes):
    weights = ferplus.majority(votes)[0]
    counted = np.where(votes[0] > 1, votes[0], 0)
    if weights.any():
        winner = int(weights.argmax())
        assert 2 * counted[winner] > counted.sum()
        assert all(ferplus.RULES[rule](votes)[0].argmax() == winner for rule in ferplus.RULES)
        assert all(ferplus.RULES[rule](votes)[0].any() for rule in ferplus.RULES)
    else:
        assert 2 * counted[:8].max() <= counted.sum()


@given(ten_votes)
def test_argmax_without_ties_is_a_part_of_argmax(votes):
    strict, loose = ferplus.argmax_no_ties(votes)[0], ferplus.argmax(votes)[0]
    tied = (votes[0] == votes[0].max()).sum() > 1
    assert strict.any() == (loose.any() and not tied)
    assert not strict.any() or strict.argmax() == loose.argmax()


def soft_by_the_book(votes):
    """The rule of `soft` for one face, level by level of equal counts."""
    counted = {place: int(n) for place, n in enumerate(votes) if n > 1}
    total, taken = sum(counted.values()), {}
    for level in sorted(set(counted.values()), reverse=True):
        if sum(taken.values()) >= 0.75 * total or len(taken) >= 3:
            break
        here = [place for place, n in counted.items() if n == level]
        taken |= {place: level for place in here if place < 8}
        if any(place >= 8 for place in here):
            break
    if 2 * sum(taken.values()) <= total or len(taken) > 3:
        return np.zeros(8)
    return np.array([taken.get(place, 0) for place in range(8)]) / sum(taken.values())


@given(ten_votes)
def test_soft_is_the_rule_level_by_level(votes):
    weights = ferplus.soft(votes)[0]
    np.testing.assert_allclose(weights, soft_by_the_book(votes[0]))
    assert np.count_nonzero(weights) <= 3
    assert not weights[votes[0, :8] <= 1].any()


@pytest.fixture
def source(standin, tmp_path):
    folder = tmp_path / "source"
    standin.fer2013(folder)
    standin.votes(folder, one_hot_votes(), NAMES)
    (folder / ferplus.LISTS["pose30"]).write_text("0/fer0001021.jpg\n3/fer0001022.jpg\n")
    (folder / ferplus.LISTS["pose45"]).write_text("3/fer0001022.jpg\n")
    (folder / ferplus.LISTS["occlusion"]).write_bytes(b"1_fer0001027.png 8 0\r\n")
    (folder / ferplus.LISTS["ran"]).write_text("0/fer0001020 6\n7/fer0001023 6\n")
    return folder


def test_faces_pair_by_row_and_lists_join_by_name(source, standin, capsys):
    faces = ferplus.prepare(source, "majority")
    assert faces.classes == ferplus.CLASSES and len(faces) == 28
    assert faces.labels.tolist() == [row % 8 for row in range(28)]
    assert faces.name.tolist() == NAMES
    assert np.flatnonzero(faces.pose30).tolist() == [21, 22]
    assert np.flatnonzero(faces.pose45).tolist() == [22]
    assert np.flatnonzero(faces.occlusion).tolist() == [27]
    assert faces.meta["subsets"]["pose30"] == {"listed": 2, "found": 2, "kept": 2}
    assert np.flatnonzero(faces.leaked_from != "").tolist() == [15, 22, 23]
    np.testing.assert_array_equal(faces.votes, one_hot_votes())
    lists = {ferplus.LISTS[mark] for mark in ("pose30", "pose45", "occlusion")}
    assert set(faces.meta["sources"]) == {"fer2013.csv", "fer2013new.csv", *lists}
    assert faces.target is None and faces.ran is None
    assert "no " not in capsys.readouterr().out


def test_the_list_of_ran_is_marked_under_the_rule_that_it_fits(source):
    faces = ferplus.prepare(source, "argmax")
    assert np.flatnonzero(faces.ran).tolist() == [20, 23]
    assert faces.meta["subsets"]["ran"] == {"listed": 2, "found": 2, "kept": 2}
    assert ferplus.LISTS["ran"] in faces.meta["sources"]


def test_soft_keeps_the_distribution(source):
    faces = ferplus.prepare(source, "soft")
    np.testing.assert_array_equal(faces.target, np.eye(8, dtype=np.float32)[faces.labels])


def test_a_leak_counts_though_the_rule_drops_its_copy(source, standin):
    votes = one_hot_votes()
    votes[1] = [1] * 10  # the copy in train of faces 15 and 22
    standin.votes(source, votes, NAMES)
    faces = ferplus.prepare(source, "majority")
    assert "fer0001001.png" not in faces.name
    assert faces.leaked_from[faces.name == "fer0001022.png"].tolist() == ["train"]


def test_rows_without_a_name_are_dropped_and_doubled_names_are_kept(source, standin):
    names = NAMES.copy()
    names[0], names[26] = "", NAMES[21]
    standin.votes(source, one_hot_votes(), names)
    faces = ferplus.prepare(source, "argmax")
    assert len(faces) == 27 and faces.meta["dropped"] == 1
    assert (faces.name == NAMES[21]).sum() == 2
    assert faces.meta["subsets"]["pose30"] == {"listed": 2, "found": 2, "kept": 3}
    assert faces.meta["duplicates"]["all rows"]["surplus"] == 4


def test_without_lists_the_marks_are_absent_and_said_so(source, capsys):
    for file in ferplus.LISTS.values():
        (source / file).unlink()
    faces = ferplus.prepare(source, "argmax")
    assert all(getattr(faces, mark) is None for mark in ferplus.LISTS)
    printed = capsys.readouterr().out
    assert all(f"no {file}" in printed for file in ferplus.LISTS.values())
    assert "download pose-lists" in printed


def test_skipping_a_bad_row_keeps_the_rest_aligned(source, standin, tmp_path):
    whole = ferplus.prepare(source, "majority")
    standin.pixels[4] = "7"
    standin.fer2013(source)
    votes = source / "fer2013new.csv"
    votes.write_text(votes.read_text().replace("fer0001010.png,0", "fer0001010.png,many"))
    out = tmp_path / "faces.npz"
    arguments = ["ferplus", "--source", str(source), "--out", str(out), "--rule", "majority"]
    assert main([*arguments, "--skip-bad"]) == 0
    faces = FaceSet.load(out)
    rest = whole.select(np.delete(np.arange(28), [4, 10]))
    for name in ("images", "labels", "split", "name", "votes"):
        np.testing.assert_array_equal(getattr(faces, name), getattr(rest, name))
    assert [("row 5 (line 6)" in text, "row 11 (line 12)" in text)
            for text in faces.meta["skipped"]] == [(False, True), (True, False)]


@pytest.mark.parametrize("change", [
    lambda text: text[: text.index("PrivateTest")],
    lambda text: text + "PrivateTest,fer0009999.png,10,0,0,0,0,0,0,0,0,0\n",
])
def test_votes_of_another_length_are_refused(change, source, refused):
    votes = source / "fer2013new.csv"
    votes.write_text(change(votes.read_text()))
    line = refused("ferplus", source, "--rule", "majority")
    assert f"{votes}: " in line and "rows of votes, fer2013.csv has 28" in line


def test_rows_in_another_order_are_refused(source, standin, refused):
    standin.usage.reverse()
    standin.votes(source, one_hot_votes(), NAMES)
    line = refused("ferplus", source, "--rule", "majority")
    assert "row 1 (line 2): Usage 'PrivateTest', fer2013.csv has 'Training'" in line


@pytest.mark.parametrize(("old", "new", "message"), [
    ("contempt", "scorn", "header (line 1): missing column contempt"),
    ("fer0001002.png,0", "fer0001002.png,x", "row 3 (line 4): not 10 votes of 0..10"),
    ("fer0001002.png,0", "fer0001002.png,11", "row 3 (line 4): not 10 votes of 0..10"),
    ("fer0001002.png,0,", "fer0001002.png,", "row 3 (line 4): not 10 votes of 0..10"),
])
def test_bad_votes_are_named(old, new, message, source, refused):
    votes = source / "fer2013new.csv"
    votes.write_text(votes.read_text().replace(old, new))
    line = refused("ferplus", source, "--rule", "soft")
    assert f"{votes}: {message}" in line


@pytest.mark.parametrize("vote", ['"', '"0', "9" * 5000, "9" * 200_000, "٣", "05"])
def test_a_bad_vote_costs_one_row_and_no_other(vote, source, refused):
    whole = ferplus.prepare(source, "majority")
    votes = source / "fer2013new.csv"
    text = votes.read_text().replace("fer0001002.png,0,", f"fer0001002.png,{vote},")
    votes.write_text(text, encoding="utf-8")
    line = refused("ferplus", source, "--rule", "majority")
    assert f"{votes}: row 3 (line 4): not 10 votes of 0..10" in line and len(line) < 400
    faces = ferplus.prepare(source, "majority", skip_bad=True)
    np.testing.assert_array_equal(faces.name, np.delete(whole.name, 2))
    np.testing.assert_array_equal(faces.labels, np.delete(whole.labels, 2))


def test_a_stray_quote_in_the_header_is_a_missing_column(source, refused):
    votes = source / "fer2013new.csv"
    votes.write_text('"' + votes.read_text())
    line = refused("ferplus", source, "--rule", "majority")
    assert f"{votes}: header (line 1): missing column Usage" in line


def test_a_bad_list_is_named(source, refused):
    (source / ferplus.LISTS["pose45"]).write_text("3/fer0001022.jpg\n<html>\n")
    line = refused("ferplus", source, "--rule", "majority")
    assert "pose_45_ferplus_list.txt: line 2: no image name" in line


def test_missing_votes_are_named(source, refused):
    (source / "fer2013new.csv").unlink()
    assert "no fer2013new.csv; `python -m data_prep download ferplus`" in refused(
        "ferplus", source, "--rule", "majority")


def test_jpegs_are_not_paired_with_votes(source, standin, refused):
    (source / "fer2013.csv").unlink()
    standin.jpegs(source)
    assert "cannot be paired with the votes" in refused("ferplus", source, "--rule", "majority")


# --- the real votes ---

SIZES = {
    "majority": (25_060, 3_199, 3_153),
    "argmax": (28_389, 3_553, 3_546),
    "argmax-no-ties": (26_940, 3_396, 3_376),
    "soft": (27_956, 3_505, 3_505),
}
KEPT = {  # of the subsets under each rule: pose30, pose45, occlusion
    "majority": (1_167, 630, 600),
    "argmax": (1_170, 633, 605),
    "argmax-no-ties": (1_169, 632, 602),
    "soft": (1_170, 633, 603),
}


@pytest.mark.parametrize("rule", SIZES)
def test_real_sizes(rule, real_ferplus):
    faces = ferplus.label(*real_ferplus, rule, [])
    assert tuple(faces.meta["counts"].values()) == SIZES[rule]
    kept = tuple(faces.meta["subsets"][mark]["kept"] for mark in ("pose30", "pose45", "occlusion"))
    assert kept == KEPT[rule]
    for mark, listed in (("pose30", 1_170), ("pose45", 633), ("occlusion", 605)):
        assert faces.meta["subsets"][mark]["listed"] == listed
        assert faces.meta["subsets"][mark]["found"] == listed
        assert set(faces.split[getattr(faces, mark)]) == {"test"}
    assert not (faces.pose45 & ~faces.pose30).any()
    assert not faces.black.any()
    if rule == "majority":
        private = np.bincount(faces.labels[faces.split == "test"], minlength=8)
        assert dict(zip(faces.classes, private.tolist(), strict=True)) == {
            "neutral": 1090, "happiness": 893, "surprise": 396, "sadness": 384,
            "anger": 273, "disgust": 18, "fear": 83, "contempt": 16,
        }


def test_real_duplicates(real_ferplus):
    """All 35,887 rows; the 35,714 rows that FERPlus names; and each name once."""
    rows, votes, _ = real_ferplus
    group = duplicates.group_identical(rows.images)
    named = votes.name != ""
    once = np.zeros(len(named), bool)
    once[np.unique(votes.name, return_index=True)[1]] = True
    keys = ("groups", "surplus", "conflicting", "val in train", "test in train",
            "test in train or val")
    for of, expected in (
        (named | True, (1518, 1855, 59, 280, 288, 314)),
        (named, (1517, 1844, 58, 279, 288, 314)),
        (named & once, (1513, 1840, 56, 279, 288, 314)),
    ):
        found = duplicates.statistics(group[of], rows.split[of], rows.labels[of])
        assert found == dict(zip(keys, expected, strict=True))
    black = ~rows.images.any(axis=(1, 2))
    assert black.sum() == 12 and not (black & named).any() and (~named).sum() == 173


def test_real_names(real_ferplus):
    """The number in a name is no row number; four names stand twice, none of them in a list."""
    _, votes, members = real_ferplus
    named = np.flatnonzero(votes.name != "")
    numbers = np.array([int(votes.name[row][3:10]) for row in named])
    assert named[-1] - numbers[-1] == 85
    names, times = np.unique(votes.name[named], return_counts=True)
    doubled = {name.removesuffix(".png") for name in names[times == 2]}
    assert doubled == {"fer0006953", "fer0008403", "fer0011785", "fer0033120"}
    assert times.max() == 2
    assert not any(doubled & listed for listed in members.values())


@pytest.mark.parametrize("rule", ferplus.RULES)
def test_a_row_without_votes_has_no_label_under_any_rule(rule, standin, tmp_path):
    """Its zeros would be as many for neutral as for the rest."""
    standin.fer2013(tmp_path)
    votes = standin.votes(tmp_path, one_hot_votes(), NAMES)
    whole = ferplus.prepare(tmp_path, rule)
    votes.write_text(votes.read_text().replace("fer0001002.png,0", "fer0001002.png,many"))
    faces = ferplus.prepare(tmp_path, rule, skip_bad=True)
    np.testing.assert_array_equal(faces.name, np.delete(whole.name, 2))
    np.testing.assert_array_equal(faces.labels, np.delete(whole.labels, 2))
