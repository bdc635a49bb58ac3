"""The numbers that stand typed in the prose, and what `stated.yml` says of where each is from."""

import re
from functools import cache

import jupytext
import yaml
from recorded import code_cells

from book import build
from lanmsff.results import read_record

STATED = yaml.safe_load((build.ROOT / "tests" / "book" / "stated.yml").read_text("utf8"))
READMES = ["README.md", "results/README.md", "benchmarks/README.md", "data/README.md",
           "data_prep/README.md", "CHANGELOG.md"]  # fmt: skip

# A number that somebody measured or counted: a decimal, thousands with a comma, and a whole number
# before "%" or one of these words, also as a part of a list such as "42, 14 and 14 people".
COUNTED = "points|times|answers|faces|people|epochs"
LIST = r"(?:(?:,|\s+and|\s+or|\s+to|\s+/|-)\s*\d[\d,.]*)*"
MEASURED = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+"
    rf"|(?<!×)(?<!\bby )(?<![A-Z]-)\d+(?={LIST}(?:\s?%|\s+(?:{COUNTED})\b)))(?![\w.]*\w)"
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
INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
AROUND = 100  # characters before and after a number in which `near` is looked for


def cells(text):
    """The code cells of a chapter."""
    return code_cells(jupytext.reads(text, fmt="md:myst"))


def prose(text):
    """A text without its code, formulas, roles and links."""
    return NOT_PROSE.sub(" ", text)


def captions(text):
    """Captions and descriptions of the figures, which stand in the heads of cells."""
    about = [cell.metadata.get("mystnb", {}) for cell in cells(text)]
    said = [(a.get("figure", {}).get("caption"), a.get("image", {}).get("alt")) for a in about]
    return prose("\n".join(words for pair in said for words in pair if words))


@cache
def words_of(name):
    """What is to be read in a chapter, figures included, or in a file whose name ends in .md."""
    if name.endswith(".md"):
        return INDENTED.sub(" ", prose((build.ROOT / name).read_text("utf8")))
    text = (build.ROOT / f"{name}.md").read_text("utf8")
    return prose(text) + "\n" + captions(text)


def compare(name, text):
    """The numbers of a text that have no source, and the entries of `stated.yml` that it uses.

    Returns:
        set of numbers, and set of pairs of a section of `stated.yml` and a number.
    """
    missing, used = set(), set()
    for found in MEASURED.finditer(text):
        around = text[max(0, found.start() - AROUND) : found.end() + AROUND]
        pairs = [(section, found[0]) for section in (name, "everywhere")
                 if fits(STATED.get(section, {}).get(found[0]), around)]  # fmt: skip
        missing |= set() if pairs else {found[0]}
        used |= set(pairs[:1])
    return missing, used


def unsourced(name, text):
    """The measured-looking numbers of a text that `stated.yml` has no source for."""
    return compare(name, text)[0]


def fits(entry, around):
    """Whether an entry is one, and may speak of a number with these words around it."""
    if isinstance(entry, dict) and "near" in entry:
        return re.search(entry["near"], around) is not None
    return entry is not None


record_of = cache(read_record)


def value(entry):
    """What the record of an entry holds; several counts, such as those of classes, are added up."""
    here = record_of(build.ROOT / entry["record"])
    for key in entry["at"]:
        if isinstance(key, dict):
            (here,) = (row for row in here if key.items() <= row.items())
        else:
            here = here[key]
    here = sum(here.values()) if isinstance(here, dict) else here
    if "over" in entry:
        here = here / value(entry["over"])
    return here * entry.get("times", 1)


def agrees(number, entry):
    """Whether a number, as it is typed, is the rounded one of its record."""
    typed = number.replace(",", "")
    digits = entry.get("digits", len(typed.partition(".")[2]))
    return float(typed) == round(value(entry), digits)
