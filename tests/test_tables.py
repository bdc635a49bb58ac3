"""Records by name, shares with their intervals, and tables that Markdown reads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt

from lanmsff.evaluate import evaluate
from lanmsff.answers import Answers, summary
from lanmsff.report import by_yaw
from lanmsff.results import write_record
from lanmsff.tables import correct_faces, load_results, percent, preferred, single_run, table


def test_records_come_by_name_in_order(tmp_path):
    for name in ("b-24epochs", "a.v2"):
        write_record(tmp_path / f"{name}.json", {"name": name})
    (tmp_path / "README.md").write_text("no record")
    found = load_results(tmp_path)
    names = ["a.v2", "b-24epochs"]
    assert list(found.items()) == [(name, {"name": name}) for name in names]


def test_a_folder_that_is_not_there_and_a_file_that_is_no_record_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: no such folder of records"):
        load_results(tmp_path / "gone")
    (tmp_path / "half.json").write_text('{"n": 1')
    with pytest.raises(ValueError, match="half.json: not a JSON record"):
        load_results(tmp_path)


def test_a_single_run_has_the_form_of_a_summary(toy_faces):
    """The same logits, recorded by `evaluate` and by `grid`."""
    yaw = np.tile(np.float32([-45, 45]), 20)
    faces = replace(toy_faces(train=0, val=0, test=40), yaw=yaw)
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    logits[range(40), faces.labels] += 1
    expected = summary(Answers.of(faces, ("seed 0",), logits[None], logits[None]))
    scores = evaluate(faces, logits)
    rows = by_yaw(faces, logits.argmax(1).numpy() == faces.labels)
    found = single_run({"scores": scores, "yaw": rows})
    missing = {"networks", "correct", "calibration", "calibration_scaled"}
    assert set(expected) - set(found) == missing
    assert found["confusion"] == expected["confusion"]
    assert found["per_class"].keys() == expected["per_class"].keys()
    assert found["parts"].keys() == expected["parts"].keys() > {"all", "pose30"}
    for ours, theirs in zip([*found["parts"].values(), *found["yaw"]],
                            [*expected["parts"].values(), *expected["yaw"]]):  # fmt: skip
        for key in ("n", "macro_f1", "loss", "yaw"):
            assert (key in ours) == (key in theirs)
            assert ours.get(key) == pytest.approx(theirs.get(key))
        assert ours["accuracy"]["mean"] == pytest.approx(theirs["accuracy"]["mean"])
        assert ours["accuracy"].keys() < theirs["accuracy"].keys()
    wilson = scores["pose30"]["accuracy_95"]
    assert found["parts"]["pose30"]["accuracy"]["over_faces_95"] == wilson


def test_the_interval_of_a_single_run_is_over_people_where_they_are_known(toy_faces):
    faces = replace(toy_faces(train=0, val=0, test=40), subject=np.repeat(list("abcde"), 8))
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    expected = summary(Answers.of(faces, ("seed 0",), logits[None], logits[None]))
    found = single_run({"scores": evaluate(faces, logits), "yaw": None})
    ours, theirs = (one["parts"]["all"]["accuracy"]["over_faces_95"] for one in (found, expected))
    assert ours == pytest.approx(theirs)


def test_a_single_run_of_faces_whose_yaw_is_not_known(toy_faces):
    faces = toy_faces(train=0, val=0, test=9)
    scores = evaluate(faces, torch.eye(3)[faces.labels])
    assert "yaw" not in single_run({"scores": scores, "yaw": None})


@pytest.mark.parametrize("given, text", [
    ((0.85,), "85.0"),
    ((0.85, [0.82627, 0.87098]), "85.0 [82.6,\u00a087.1]"),
    ((0.12345, (0.1, 0.2), 2), "12.35 [10.00,\u00a020.00]"),
    ((-0.0123, [-0.03, 0.0049]), "-1.2 [-3.0,\u00a00.5]"),
    ((-0.0001, [-0.0004, 0.0]), "0.0 [0.0,\u00a00.0]"),
    ((0.5, None), "50.0"),
    ((1, None, 0), "100"),
])  # fmt: skip
def test_percent(given, text):
    assert percent(*given) == text


def cells(text: str) -> list[list[tuple[str, str]]]:
    """Rows of (text, alignment) as a Markdown reader sees them."""
    rows, align = [], ""
    for token in MarkdownIt().enable("table").parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            align = token.attrs["style"].removeprefix("text-align:")
        elif token.type == "inline":
            rows[-1].append((token.content, align))
    return rows


def test_numbers_stand_to_the_right_and_the_rest_to_the_left():
    text = table(["set", "faces", "accuracy", "seeds"], [
        ["FERPlus", 3153, "85.0 [82.6,\u00a087.1]", "1 of 3"], ["a|b", None, percent(-0.5), 2]
    ])  # fmt: skip
    assert cells(text) == [
        [("set", "left"), ("faces", "right"), ("accuracy", "right"), ("seeds", "left")],
        [("FERPlus", "left"), ("3,153", "right"), ("85.0 [82.6,\u00a087.1]", "right"),
         ("1 of 3", "left")],
        [("a|b", "left"), ("–", "right"), ("-50.0", "right"), ("2", "left")],
    ]  # fmt: skip


def test_a_column_of_dashes_is_no_column_of_numbers():
    assert cells(table(["a"], [[None], [""]]))[1:] == [[("–", "left")], [("", "left")]]


def test_a_table_without_rows_has_its_head():
    assert cells(table(["a", "b"], [])) == [[("a", "left"), ("b", "left")]]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"^3 cells under 2 heads: 1 \| x \| –$"):
        table(["a", "b"], [[1, "x", None]])


def test_the_preferred_record_is_of_the_longest_training():
    def record(experiment, epochs):
        return {"experiment": experiment, "settings": {"epochs": epochs}}

    results = {
        "a": record("ferplus-short", 8), "b": record("ferplus-continued", 8),
        "c": record("ferplus-continued", 10), "d": record("ferplus-selection", 60), "e": {},
    }  # fmt: skip
    assert preferred(results, "ferplus") is results["c"]
    results["f"] = record("ferplus-paper", 100)
    assert preferred(results, "ferplus") is results["f"]
    with pytest.raises(KeyError, match="no record of a training on fer2013"):
        preferred(results, "fer2013")


def test_a_record_says_on_which_faces_each_network_is_right(toy_faces):
    faces = toy_faces(train=0, val=0, test=41)  # no multiple of 8
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 41, 3)).astype(np.float32))
    answers = Answers.of(faces, ("seed 0", "seed 1"), logits, logits)
    found = correct_faces(json.loads(json.dumps(summary(answers))))
    np.testing.assert_array_equal(found, answers.correct)
    assert found.shape == (2, 41) and found.dtype == bool


def test_each_kind_of_training_is_preferred_to_shorter_ones():
    def record(experiment, epochs):
        return {"experiment": experiment, "settings": {"epochs": epochs}}

    kinds = ("short", "continued", "continued-twice", "paper", "improved")
    results = {kind: record(f"ferplus-{kind}", 8) for kind in kinds}
    for kind in reversed(kinds):
        assert preferred(results, "ferplus") is results.pop(kind)
