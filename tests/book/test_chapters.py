"""The chapters as regression notebooks: every cell runs, none complains, the numbers stay."""

import jupytext
import pytest
import yaml
from recorded import cited, code_cells, complaints, entries, recorded

from book import build

CHAPTERS = build.chapters()
EXPECTED = build.ROOT / "tests" / "book" / "expected.yml"


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_cell_ran_and_none_complains(name, run):
    notebook = run(name).notebook
    source = jupytext.read(build.ROOT / f"{name}.md")
    executed = [cell.source for cell in code_cells(notebook)]
    assert executed == [cell.source for cell in code_cells(source)]
    assert complaints(notebook) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_cited_numbers_are_recorded_in_the_chapter(name, run):
    keys = cited((build.ROOT / f"{name}.md").read_text("utf8"))
    assert keys <= recorded(run(name).notebook).keys()


def test_recorded_numbers_are_the_expected_ones(run, data_regression):
    """`make test-update` renews the file; its tolerances are kept."""
    expected = yaml.safe_load(EXPECTED.read_text("utf8")) if EXPECTED.exists() else {}
    found = {name: recorded(run(name).notebook) for name in CHAPTERS}
    data_regression.check(
        {name: entries(values, expected.get(name, {})) for name, values in found.items() if values},
        fullpath=EXPECTED,
    )
