"""Records by name, shares with their intervals, and tables that Markdown reads."""

import pytest
from markdown_it import MarkdownIt

from lanmsff.results import write_record
from lanmsff.tables import load_results, percent, table


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


@pytest.mark.parametrize("given, text", [
    ((0.85,), "85.0"),
    ((0.85, [0.82627, 0.87098]), "85.0 [82.6, 87.1]"),
    ((0.12345, (0.1, 0.2), 2), "12.35 [10.00, 20.00]"),
    ((-0.0123, [-0.03, 0.0049]), "-1.2 [-3.0, 0.5]"),
    ((-0.0001, [-0.0004, 0.0]), "0.0 [0.0, 0.0]"),
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
        ["FERPlus", 3153, "85.0 [82.6, 87.1]", "1 of 3"], ["a|b", None, percent(-0.5), 2]
    ])  # fmt: skip
    assert cells(text) == [
        [("set", "left"), ("faces", "right"), ("accuracy", "right"), ("seeds", "left")],
        [("FERPlus", "left"), ("3,153", "right"), ("85.0 [82.6, 87.1]", "right"),
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
