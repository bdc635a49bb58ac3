"""Every chapter has the form that book/README.md asks for."""

import re

import jupytext
import pytest
import yaml
from recorded import code_cells

from book import build

NOT_CHAPTERS = {"book/status"}
CHAPTERS = [name for name in build.chapters() if name not in NOT_CHAPTERS]
STATED = build.ROOT / "tests" / "book" / "stated.yml"
CARD = ("You will learn", "You need", "Reading time", "Run time on 2 CPU cores", "Data", "GPU")
CARD_BLOCK = re.compile(
    r"^# .+\n\n:::\{admonition\} At a glance\n:class: at-a-glance\n(.*?)^:::$",
    re.DOTALL | re.MULTILINE,
)

# A figure that somebody measured: a decimal, a percentage, or thousands with a comma.
MEASURED = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+(?=\s?%))(?![\w.]*\w)"
)
SOLUTION = re.compile(
    r"^:::\{solution-start\} (\S+)\n:class: dropdown\n:::\n(.*?)^:::\{solution-end\}\n:::$",
    re.DOTALL | re.MULTILINE,
)
NOT_PROSE = re.compile(
    r"\A---\n.*?\n---\n"  # front matter
    r"|^(`{3,})\{code-cell\}.*?^\1$"
    r"|^(`{3,})(?:\{math\}|\w).*?^\2$"
    r"|^:\w[\w-]*:.*?$"  # options of directives
    r"|\$\$.*?\$\$|\$[^$\n]+\$"
    r"|\{[\w:-]+\}`[^`]*`|`[^`]*`"
    r"|\]\([^)]*\)|https?://\S+",
    re.DOTALL | re.MULTILINE,
)


@pytest.fixture(params=CHAPTERS)
def chapter(request):
    """The name of a chapter and its text."""
    return request.param, (build.ROOT / f"{request.param}.md").read_text("utf8")


def cells(text):
    return code_cells(jupytext.reads(text, fmt="md:myst"))


def prose(text):
    return NOT_PROSE.sub(" ", text)


def captions(text):
    """Captions and descriptions of the figures, which stand in the heads of cells."""
    about = [cell.metadata.get("mystnb", {}) for cell in cells(text)]
    said = [(a.get("figure", {}).get("caption"), a.get("image", {}).get("alt")) for a in about]
    return prose("\n".join(words for pair in said for words in pair if words))


def unsourced(name, text):
    """The measured-looking numbers of a text that `stated.yml` has no source for."""
    stated = yaml.safe_load(STATED.read_text("utf8"))
    known = {str(number) for number in {**stated["everywhere"], **stated.get(name, {})}}
    return set(MEASURED.findall(text)) - known


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


@pytest.mark.parametrize("name", ["README.md", "results/README.md"])
def test_measured_numbers_in_a_readme_are_stated_with_their_source(name):
    assert unsourced(name, prose((build.ROOT / name).read_text("utf8"))) == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It reaches 90.77 % on KDEF.", ["90.77"]),
        ("All of 28,709 images, or 5%.", ["28,709", "5"]),
        ("A 3x3 kernel, 64 pixels, four blocks, `0.5`, $x = 0.5$, {glue:text}`a:.2f`.", []),
        ("See [this](https://example.org/1.5) and v1.2.3.", []),
        ("```{code-cell} ipython3\nx = 0.25\n```\n", []),
    ],
)
def test_measured_sees_what_it_is_there_to_see(text, found):
    assert MEASURED.findall(prose(text)) == found


FIGURE = """\
```{code-cell} ipython3
---
mystnb:
  figure:
    caption: >-
      It reaches 85.0 % on 5,000 faces, with $x = 0.5$.
    name: fig-a
  image:
    alt: A line that rises to 0.85.
---
x = 0.25
```
"""


@pytest.mark.parametrize("text, found", [
    (FIGURE, {"85.0", "5,000", "0.85"}),
    (":::{note}\nIt has 85.0 %.\n:::\n| a | 3.5 |\n", {"85.0", "3.5"}),
    ("The level is 95 %, the paper's figure 86.96 %.", set()),
])  # fmt: skip
def test_a_number_without_a_source_is_seen_wherever_it_stands(text, found):
    assert unsourced("book/none", prose(text) + captions(text)) == found
