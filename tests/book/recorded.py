"""What an executed chapter says about itself: the numbers it recorded and what went wrong."""

import ast
import math
import re

from nbformat import NotebookNode

DEFAULT_RTOL = 1e-6
CITED = re.compile(r"\{glue(?::(?P<kind>\w+))?\}(?:`(?P<role>[^`]+)`|\s+(?P<directive>\S+))")

Scalar = bool | int | float | str


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells that hold code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def complaints(notebook: NotebookNode) -> list[str]:
    """Return a line for every cell that did not run to its end, failed, or warned."""
    lines = []
    for number, cell in enumerate(code_cells(notebook), start=1):
        if cell.execution_count is None:
            lines.append(f"code cell {number} did not run")
        for output in cell.outputs:
            if output.output_type == "error":
                lines.append(f"code cell {number}: {output.ename}: {output.evalue}")
            if output.output_type == "stream" and output.name == "stderr":
                lines.append(f"code cell {number} wrote to stderr: {output.text.strip()}")
    return lines


def recorded(notebook: NotebookNode) -> dict[str, Scalar]:
    """Return the numbers and texts that the chapter recorded with `glue`; pictures are left out."""
    found: dict[str, Scalar] = {}
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    for output in outputs:
        key = output.get("metadata", {}).get("scrapbook", {}).get("name")
        if key is None or any("image/" in mime for mime in output.data):
            continue
        assert key not in found, f"{key!r} is recorded twice"
        text = next(text for mime, text in output.data.items() if mime.endswith("text/plain"))
        try:
            found[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[key] = None
        assert isinstance(found[key], Scalar), f"{key!r}: glue a Python number or str, not {text}"
    return found


def cited(text: str) -> set[str]:
    """Return the keys that the text of a chapter cites through `{glue}`."""
    keys = set()
    for match in CITED.finditer(text):
        key = match["directive"] or match["role"]
        keys.add(key.rsplit(":", 1)[0] if match["role"] and match["kind"] else key)
    return keys


def agrees(value: Scalar, entry: dict) -> bool:
    """Return whether a recorded value is the expected one, within the tolerances of its entry."""
    expected = entry["value"]
    if type(value) is not type(expected):
        return False
    if isinstance(value, float) or "rtol" in entry or "atol" in entry:
        rtol, atol = float(entry.get("rtol", 0)), float(entry.get("atol", 0))
        return math.isclose(value, expected, rel_tol=rtol, abs_tol=atol)
    return value == expected


def entries(values: dict[str, Scalar], expected: dict[str, dict]) -> dict[str, dict]:
    """Return what the expected file should hold for these values.

    A value that agrees leaves its entry as it is; one that does not replaces the value in it and
    keeps the tolerances; a new float gets the default tolerance.
    """
    result = {}
    for key, value in values.items():
        entry = expected.get(key, {"rtol": DEFAULT_RTOL} if isinstance(value, float) else {})
        known = "value" in entry and agrees(value, entry)
        result[key] = entry if known else {**entry, "value": value}
    return result
