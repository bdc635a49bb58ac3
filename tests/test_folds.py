"""Protocols: nobody on both sides, every face tested once, and only the angle left out."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lanmsff.data import DataError, FaceSet
from lanmsff.folds import leave_one_yaw_out, person_independent, random_k_fold

YAWS = (-90, -45, 0, 45, 90)
PROTOCOLS = {"person_independent": person_independent, "random_k_fold": random_k_fold}


def people(labels, subject, **columns) -> FaceSet:
    """Faces of one pixel, its number."""
    n = len(labels)
    return FaceSet(
        images=np.arange(n, dtype=np.uint8).reshape(n, 1, 1),
        labels=np.asarray(labels, np.int64),
        split=np.full(n, "train"),
        name=np.array([f"face {i}" for i in range(n)]),
        subject=None if subject is None else np.array(subject),
        meta={"dataset": "made up", "rule": "none", "classes": list("abcdefg"), "sources": {}},
        **columns,
    )


def kdef_like(number: int = 70) -> FaceSet:
    """The columns of KDEF: two sessions of 7 expressions at 5 yaws for each person."""
    rows = [(f"{'FM'[who // 35]}{who % 35 + 1:02}", label, yaw)
            for who in range(number) for _ in "AB" for label in range(7) for yaw in YAWS]
    subject, label, yaw = zip(*rows, strict=True)
    return people(label, subject, yaw=np.array(yaw, np.float32))


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    return kdef_like()


def who(faces: FaceSet, rows: np.ndarray) -> set[str]:
    return set(faces.subject[rows].tolist())


@pytest.mark.parametrize("k", [3, 5, 10])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_face_is_tested_once_and_validated_once(protocol, k, faces):
    folds = PROTOCOLS[protocol](faces, k)
    assert len(folds) == k and len({fold.name for fold in folds}) == k
    for part in ("test", "val"):
        rows = np.concatenate([getattr(fold, part) for fold in folds])
        np.testing.assert_array_equal(np.sort(rows), np.arange(len(faces)))
    for fold in folds:
        rows = np.concatenate([fold.train, fold.val, fold.test])
        np.testing.assert_array_equal(np.sort(rows), np.arange(len(faces)))


@pytest.mark.parametrize("k", [3, 5, 10])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_expressions_are_balanced(protocol, k, faces):
    for fold in PROTOCOLS[protocol](faces, k):
        counts = np.bincount(faces.labels[fold.test], minlength=7)
        assert np.ptp(counts) <= 1


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 11)), min_size=3, max_size=150),
    st.integers(3, 10),
    st.integers(0, 2**32 - 1),
)
@example([(label, number) for number in range(12) for label in range(7)], 3, 0)  # is divided
def test_no_person_stands_on_both_sides(rows, k, seed):
    labels, numbers = zip(*rows, strict=True)
    faces = people(labels, [f"F{number:02}" for number in numbers])
    assume(len(set(numbers)) >= k)
    try:
        folds = person_independent(faces, k, seed)
    except DataError as error:  # people too unequal to fill every fold
        assert "has no faces in" in str(error) or "cannot be divided" in str(error)
        return
    for fold in folds:
        parts = [who(faces, rows) for rows in (fold.train, fold.val, fold.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(set(numbers))


def test_random_folds_leak_people(faces):
    """What the protocol of the literature does, so that the comparison is one."""
    for fold in random_k_fold(faces):
        assert who(faces, fold.test) <= who(faces, fold.train)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_seed_is_a_division(protocol, faces):
    first, again, other = (PROTOCOLS[protocol](faces, 5, seed)[0].test for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first.tolist()) != set(other.tolist())


def test_the_default_split_of_seventy_people_stays(faces):
    """Shipped weights were trained on it: another division would test them on known people."""
    fold = person_independent(faces, 5, 0)[0]
    assert sorted(who(faces, fold.test)) == [
        "F01", "F04", "F20", "F21", "F22", "F27",
        "M03", "M05", "M15", "M17", "M22", "M27", "M31", "M34",
    ]  # fmt: skip


@pytest.mark.parametrize("start", [person_independent, random_k_fold])
def test_only_the_yaw_is_left_out(start, faces):
    fold = start(faces, 5)[0]
    divided = fold.apply(faces)
    folds = leave_one_yaw_out(divided)
    assert [fold.name for fold in folds] == [f"yaw {yaw} left out" for yaw in YAWS]
    for yaw, fold in zip(YAWS, folds, strict=True):
        assert set(divided.yaw[fold.test]) == {yaw}
        assert set(divided.yaw[fold.train]) == set(divided.yaw[fold.val]) == set(YAWS) - {yaw}
        for part in ("train", "val", "test"):
            rows = getattr(fold, part)
            share = 0.2 if part == "test" else 0.8
            if start is person_independent:
                assert len(rows) == share * divided.meta["counts"][part]
            assert set(divided.split[rows]) == {part}


def test_left_out_yaws_keep_people_apart(faces):
    divided = person_independent(faces, 5)[2].apply(faces)
    for fold in leave_one_yaw_out(divided):
        parts = [who(faces, rows) for rows in (fold.train, fold.val, fold.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 70


def test_a_fold_applied_is_a_set_with_that_split(faces):
    first = person_independent(faces, 7)[0].apply(faces)
    fold = leave_one_yaw_out(first)[1]
    chosen = fold.apply(first)
    rows = np.sort(np.concatenate([fold.train, fold.val, fold.test]))
    np.testing.assert_array_equal(chosen.name, first.name[rows])
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(chosen.subset(part).name, first.name[getattr(fold, part)])
    assert chosen.meta["fold"] == "yaw -45 left out"
    assert chosen.meta["counts"] == {
        part: len(getattr(fold, part)) for part in ("train", "val", "test")}
    assert "fold" not in faces.meta and set(faces.split) == {"train"}


def test_marks_of_another_split_are_dropped():
    faces = people([0, 1] * 3, list("abcdef"), leaked_from=np.array(["", "train"] * 3))
    assert person_independent(faces, 3)[0].apply(faces).leaked_from is None


@pytest.mark.parametrize("call, message", [
    (lambda f: person_independent(people([0] * 6, None)), "does not say who is who"),
    (lambda f: person_independent(kdef_like(4), 5), "4 people; 5 person-independent folds need"),
    (lambda f: person_independent(f, 2), "2 folds; train, val and test need at least 3"),
    (lambda f: random_k_fold(f, 1), "1 folds; train, val and test need at least 3"),
    (lambda f: random_k_fold(people([0, 1], ["a", "b"]), 3), "2 faces cannot be divided into 3"),
    (lambda f: leave_one_yaw_out(people([0], ["a"])), "has no `yaw`"),
    (lambda f: leave_one_yaw_out(f.select(f.yaw == 0)), "the set has 1 yaw"),
    (lambda f: leave_one_yaw_out(f), "'yaw -90 left out' has no faces in val, test"),
])  # fmt: skip
def test_what_cannot_be_divided_is_refused(call, message, faces):
    with pytest.raises(DataError, match=message):
        call(faces)


@pytest.mark.parametrize("protocol", [person_independent, random_k_fold])
def test_a_fold_validates_on_what_the_next_one_tests(protocol):
    folds = protocol(kdef_like(), 5)
    for fold, following in zip(folds, [*folds[1:], folds[0]]):
        np.testing.assert_array_equal(fold.val, following.test)
