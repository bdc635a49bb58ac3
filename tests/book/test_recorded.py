"""The checks of the executed chapters see what they are there to see."""

import pytest
from nbformat import v4
from recorded import agrees, cited, complaints, entries, recorded


def notebook(*outputs, count=1):
    cell = v4.new_code_cell("1", outputs=list(outputs), execution_count=count)
    return v4.new_notebook(cells=[cell])


def glued(key, text, mime="application/papermill.record/text/plain"):
    return v4.new_output("display_data", {mime: text}, metadata={"scrapbook": {"name": key}})


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        (notebook(count=None), "code cell 1 did not run"),
        (
            notebook(v4.new_output("error", ename="ValueError", evalue="no")),
            "code cell 1: ValueError: no",
        ),
        (
            notebook(v4.new_output("stream", name="stderr", text="UserWarning: old\n")),
            "code cell 1 wrote to stderr: UserWarning: old",
        ),
    ],
)
def test_complaints(cell, complaint):
    assert complaints(cell) == [complaint]


def test_a_clean_notebook_gives_no_complaint():
    assert complaints(notebook(v4.new_output("stream", name="stdout", text="fine"))) == []


def test_recorded_reads_numbers_and_texts_and_leaves_pictures_out():
    cells = notebook(
        glued("a", "0.5"),
        glued("b", "3"),
        glued("c", "'neutral'"),
        glued("picture", "abc", mime="application/papermill.record/image/png"),
        v4.new_output("stream", text="other\n"),
    )
    assert recorded(cells) == {"a": 0.5, "b": 3, "c": "neutral"}


@pytest.mark.parametrize("text", ["np.float64(0.5)", "[1, 2]", "tensor(0.5)"])
def test_only_plain_values_may_be_recorded(text):
    with pytest.raises(AssertionError, match="glue a Python number or str"):
        recorded(notebook(glued("a", text)))


def test_a_key_may_be_recorded_once_only():
    with pytest.raises(AssertionError, match="twice"):
        recorded(notebook(glued("a", "1"), glued("a", "1")))


def test_cited_reads_roles_and_directives():
    text = "{glue}`plain` {glue:text}`number:.2f` {glue:text}`bare`\n```{glue:figure} fig\n```"
    assert cited(text) == {"plain", "number", "bare", "fig"}


@pytest.mark.parametrize(
    ("value", "entry", "same"),
    [
        (1.0, {"value": 1.0}, True),
        (1.001, {"value": 1.0}, False),
        (1.001, {"value": 1.0, "rtol": 1e-2}, True),
        (1.001, {"value": 1.0, "atol": "2e-3"}, True),
        (1.1, {"value": 1.0, "rtol": 1e-2}, False),
        (float("nan"), {"value": 1.0, "rtol": 1e-2}, False),
        (7, {"value": 7}, True),
        (7, {"value": 8}, False),
        (7, {"value": 8, "atol": 1}, True),
        (7, {"value": 7.0}, False),
        (True, {"value": 1}, False),
        ("sad", {"value": "fear"}, False),
    ],
)
def test_agrees(value, entry, same):
    assert agrees(value, entry) is same


def test_entries_keep_what_agrees_and_renew_what_does_not():
    expected = {
        "near": {"value": 1.0, "rtol": 0.1},
        "far": {"value": 1.0, "rtol": 0.1},
        "gone": {"value": 3},
    }
    assert entries({"near": 1.05, "far": 2.0, "new": 0.5, "count": 4}, expected) == {
        "near": {"value": 1.0, "rtol": 0.1},
        "far": {"value": 2.0, "rtol": 0.1},
        "new": {"value": 0.5, "rtol": 1e-6},
        "count": {"value": 4},
    }
