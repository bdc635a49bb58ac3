"""Every chapter has the form that book/README.md asks for."""

import re

import pytest
from recorded import code_cells
from stated import READMES, captions, cells, prose, unsourced, words_of

from book import build

NOT_CHAPTERS = {"book/status"}
CHAPTERS = [name for name in build.chapters() if name not in NOT_CHAPTERS]
CARD = ("You will learn", "You need", "Reading time", "Run time on 2 CPU cores", "Data", "GPU")
CARD_BLOCK = re.compile(
    r"^# .+\n\n:::\{admonition\} At a glance\n:class: at-a-glance\n(.*?)^:::$",
    re.DOTALL | re.MULTILINE,
)

SOLUTION = re.compile(
    r"^:::\{solution-start\} (\S+)\n:class: dropdown\n:::\n(.*?)^:::\{solution-end\}\n:::$",
    re.DOTALL | re.MULTILINE,
)


@pytest.fixture(params=CHAPTERS)
def chapter(request):
    """The name of a chapter and its text."""
    return request.param, (build.ROOT / f"{request.param}.md").read_text("utf8")


def test_card_comes_first(chapter):
    _, text = chapter
    card = CARD_BLOCK.search(text)
    assert card, "a chapter opens with its title and the card, see book/README.md"
    assert tuple(re.findall(r"^- \*\*(.+?)\*\*", card[1], re.MULTILINE)) == CARD


def test_first_code_cell_holds_the_parameters(chapter):
    _, text = chapter
    first = cells(text)[0]
    assert first.metadata.get("tags") == ["parameters"]
    assert first.source == 'profile = "quick"\ndata_dir = "../data"'
    assert "cell_metadata_filter" not in text, "it drops the tag of the parameters cell"


def test_code_comes_in_short_cells(chapter):
    _, text = chapter
    lengths = [len(cell.source.splitlines()) for cell in cells(text)]
    assert 6 <= len(cells(SOLUTION.sub("", text))) <= 25
    assert max(lengths) <= 40
    assert sum(length <= 12 for length in lengths) > len(lengths) / 2


def test_length_of_the_prose(chapter, record_property):
    _, text = chapter
    words = len(prose(text).split())
    record_property("words", words)
    assert 800 <= words <= 3500


def test_it_ends_with_summary_exercises_and_what_comes_next(chapter):
    _, text = chapter
    sections = re.findall(r"^## (.+)$", prose(text), re.MULTILINE)
    assert sections[-3:] == ["Summary", "Exercises", "What comes next"]


def test_every_exercise_has_a_hidden_solution_that_runs(chapter):
    _, text = chapter
    exercises = re.findall(r"^:::\{exercise\}.*?^:label: (\S+)$", text, re.DOTALL | re.MULTILINE)
    solutions = dict(SOLUTION.findall(text))
    assert 3 <= len(exercises) <= 5
    assert list(solutions) == exercises
    for label, solution in solutions.items():
        assert "```{code-cell}" in solution, f"the solution of {label} has no code that runs"


def test_every_figure_has_caption_name_and_description(chapter, run):
    name, _ = chapter
    for number, cell in enumerate(code_cells(run(name).notebook), start=1):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            about = cell.metadata.get("mystnb", {})
            figure = about.get("figure", {})
            assert figure.get("caption"), f"the figure of code cell {number} has no caption"
            assert figure.get("name", "").startswith("fig-"), f"code cell {number}: name: fig-..."
            assert about.get("image", {}).get("alt"), f"the figure of code cell {number} has no alt"


def test_measured_numbers_in_prose_are_computed_or_stated_with_their_source(chapter):
    name, text = chapter
    assert unsourced(name, prose(text)) == set()
    assert unsourced(name, captions(text)) == set()


@pytest.mark.parametrize("name", READMES)
def test_measured_numbers_in_a_readme_are_stated_with_their_source(name):
    assert unsourced(name, words_of(name)) == set()
