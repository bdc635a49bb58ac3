"""Counts of prepared sets, on made-up faces, and the committed record against the real files."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep import fer2013, ferplus
from data_prep.__main__ import main
from data_prep.kdef import load_posefaces
from data_prep.statistics import compare, describe, describe_votes, statistics
from lanmsff import duplicates
from lanmsff.data import DataError, FaceSet

RECORD = Path(__file__).resolve().parents[2] / "results" / "data-statistics.json"


def made_up(
    greys: list[int], labels: list[int], dataset: str = "one", classes: tuple = ("a", "b", "c"),
    **columns,
) -> FaceSet:  # fmt: skip
    """Flat faces of 2x2 pixels; the first half is train, the rest test."""
    n = len(greys)
    return FaceSet(
        images=np.repeat(np.array(greys, np.uint8), 4).reshape(n, 2, 2),
        labels=np.array(labels),
        split=np.repeat(["train", "test"], [n // 2, n - n // 2]),
        name=np.array([f"{dataset}{row}" for row in range(n)]),
        meta={"dataset": dataset, "rule": "none", "classes": list(classes),
              "sources": {"file": "00"}},
        **columns,
    )  # fmt: skip


def test_counts_by_split_class_person_and_yaw():
    faces = made_up([1, 2, 3, 4], [0, 0, 1, 2], subject=np.array(["x", "x", "y", "z"]),
                    yaw=np.array([0, 45, 45, 45], np.float32),
                    leaked_from=np.array(["", "", "train", ""]),
                    black=np.array([True, False, False, False]))  # fmt: skip
    found = describe(faces)
    assert found["faces"] == {
        "train": {"a": 2, "b": 0, "c": 0},
        "val": {"a": 0, "b": 0, "c": 0},
        "test": {"a": 0, "b": 1, "c": 1},
    }
    assert found["people"] == {"train": 1, "val": 0, "test": 2}
    assert found["yaw"] == {"0": {"train": 1, "val": 0, "test": 0},
                            "45": {"train": 1, "val": 0, "test": 2}}  # fmt: skip
    assert found["leaked"] == {"train": 0, "val": 0, "test": 1}
    assert found["black"] == 1 and found["n"] == 4 and found["size"] == [2, 2]
    assert not {"votes", "subsets", "duplicates", "dropped"} & set(found)
    json.dumps(found)


def test_votes_by_hand():
    votes = np.zeros((3, 10), np.uint8)
    votes[0, 0] = 10  # all agree: no entropy
    votes[1, :2] = 5  # two halves: one bit
    votes[2] = 1  # ten tenths
    found = describe_votes(votes, np.array([0, 1, 1]), ["a", "b", "c"])
    assert found["for_winner"] == [0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert found["entropy"] == pytest.approx((1 + np.log2(10)) / 3)
    assert found["entropy_of"] == pytest.approx({"a": 0, "b": (1 + np.log2(10)) / 2})


def test_labels_are_compared_on_faces_that_stand_once_in_both():
    one = made_up([1, 2, 3, 4, 4], [0, 1, 2, 0, 1])
    other = made_up([3, 2, 4, 9, 1, 1], [2, 0, 0, 1, 0, 2], dataset="two")
    found = compare(one, other)  # 4 stands twice in one, 1 twice in the other, 9 not in one
    assert found["n"] == 2
    assert found["table"] == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert (found["test_shared"], found["test_same"]) == ("80", "80")  # of 3, 4, 4 the first
    assert compare(one, made_up([7, 8], [0, 1], dataset="two")) is None
    assert list(statistics([one, other])["compared"]) == ["one, none / two, none"]


def test_classes_of_other_names_are_compared():
    """Test faces 3 and 4; 4 is happy in the one and fear in the other."""
    one = made_up([1, 2, 3, 4], [0, 1, 0, 1], classes=["angry", "happy"])
    other = made_up([3, 4, 5, 6], [2, 1, 0, 0], dataset="two", classes=["happiness", "fear", "anger"])
    found = compare(one, other)
    assert (found["test_shared"], found["test_same"]) == ("c0", "80")


def test_the_same_set_twice_is_refused():
    with pytest.raises(DataError, match="'one, none' is given twice"):
        statistics([made_up([1, 2], [0, 1]), made_up([3, 4], [0, 1])])


def test_command_writes_the_record_or_nothing(tmp_path, capsys):
    made_up([1, 2], [0, 1]).save(tmp_path / "one.npz")
    out = tmp_path / "out" / "found.json"
    assert main(["statistics", "--data", str(tmp_path / "one.npz"), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["sets"]["one, none"]["n"] == 2
    out.unlink()
    absent = str(tmp_path / "absent.npz")
    assert main(["statistics", "--data", absent, "--json", str(out)]) == 2
    assert "absent.npz" in capsys.readouterr().err and not out.exists()


def test_a_record_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    assert main(["statistics", "--data", "absent.npz", "--json", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: is a folder; name a file\n"


def test_a_file_that_cannot_be_moved_into_place_is_named(tmp_path, capsys, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link", str(source), None, str(target))

    made_up([1, 2], [0, 1]).save(tmp_path / "one.npz")
    monkeypatch.setattr("os.replace", refuse)
    out = tmp_path / "found.json"
    assert main(["statistics", "--data", str(tmp_path / "one.npz"), "--json", str(out)]) == 2
    assert capsys.readouterr().err == f"error: {out}: Invalid cross-device link\n"


def test_posefaces_is_balanced():
    found = describe(load_posefaces())
    assert found["people"] == {"train": 42, "val": 14, "test": 14}
    assert {sum(counts.values()) for counts in found["yaw"].values()} == {980}
    assert {count for count in found["faces"]["test"].values()} == {140}


def test_the_committed_record_follows_from_the_real_files(real_ferplus):
    """Counts of the rows under every rule; `sources` differ from one copy of a file to the next."""
    record = json.loads(RECORD.read_text())
    recorded = record["sets"]
    rows, votes, members = real_ferplus
    for rule in ferplus.RULES:
        again = json.loads(json.dumps(describe(ferplus.label(rows, votes, members, rule, []))))
        assert again == recorded[f"FERPlus, {rule}"] | {"sources": again["sources"]}
    meta = {"dataset": "FER-2013", "rule": "published label", "classes": fer2013.CLASSES,
            "sources": {}}  # fmt: skip
    published = FaceSet(rows.images, rows.labels, rows.split, rows.number.astype(str), meta)
    majority = ferplus.label(rows, votes, members, "majority", [])
    pair = "FER-2013, published label / FERPlus, majority"
    assert compare(published, majority) == record["compared"][pair]
    group = duplicates.group_identical(rows.images)
    assert recorded["FER-2013, published label"]["duplicates"] == duplicates.statistics(
        group, rows.split, rows.labels
    )


def test_the_record_of_ran_s_list_adds_up():
    sets = json.loads(RECORD.read_text())["sets"]
    record = json.loads((RECORD.parent / "ran-list.json").read_text())
    assert record["rules"].keys() == ferplus.RULES.keys()
    for rule, found in record["rules"].items():
        faces = sets[f"FERPlus, {rule}"]["faces"]["test"]
        assert found["listed"] + found["others"] == found["test"] == sum(faces.values())
    assert record["listed"] == record["rules"]["argmax"]["listed"]


def test_a_face_that_only_one_set_has_is_not_the_same():
    """Of the test faces 3, 4 and 5 both sets have the first; of 4 and 5 no label is known."""
    one = made_up([1, 2, 3, 4, 5], [0, 0, 0, 0, 0])
    found = compare(one, made_up([3, 9], [0, 0], dataset="two"))
    assert (found["test_shared"], found["test_same"]) == ("80", "80")


@pytest.mark.parametrize("name, other", [("angry", "anger"), ("happy", "happiness"),
                                         ("sad", "sadness"), ("fear", "fear")])  # fmt: skip
def test_a_class_is_the_same_by_either_name(name, other):
    one = made_up([1, 2], [0, 1], classes=["x", name])
    two = made_up([2, 3], [1, 0], dataset="two", classes=["y", other])
    assert compare(one, two)["test_same"] == "80"
