"""Numbers that are typed into the prose: what their sources say, and what the tests would see."""

import pytest
import stated
from stated import COUNTED, MEASURED, READMES, STATED, agrees, captions, compare, prose, unsourced
from test_format import CHAPTERS

FIELDS = {"record", "at", "over", "times", "digits", "source", "near"}
TEXTS = [*READMES, *CHAPTERS]
ENTRIES = [(name, number) for name, entries in STATED.items() for number in entries]
RECORDED = [pair for pair in ENTRIES if "record" in STATED[pair[0]][pair[1]]
            and isinstance(STATED[pair[0]][pair[1]], dict)]  # fmt: skip


@pytest.mark.parametrize("name, number", ENTRIES)
def test_an_entry_is_a_text_or_leads_to_a_record(name, number):
    entry = STATED[name][number]
    assert isinstance(number, str) and name in ("everywhere", *TEXTS)
    if isinstance(entry, str):
        assert entry and ".json" not in entry, "a number of a record needs `record` and `at`"
    else:
        assert set(entry) <= FIELDS and ("source" in entry) != ({"record", "at"} <= set(entry))
        assert entry.get("record", "results/").startswith(("results/", "benchmarks/"))


@pytest.mark.parametrize("name, number", RECORDED)
def test_a_record_holds_the_number_as_it_is_typed(name, number):
    entry = STATED[name][number]
    assert agrees(number, entry), f"{entry['record']} holds {stated.value(entry)}"


def test_no_entry_is_stale():
    used = set().union(*(compare(name, stated.words_of(name))[1] for name in TEXTS))
    assert set(ENTRIES) - used == set()


PEER = {"record": "results/peers.json", "at": ["peers", {"name": "LetheSec"}, "accuracy"]}


@pytest.mark.parametrize("number, more, right", [
    ("73.7", {"times": 100}, True),
    ("73.8", {"times": 100}, False),
    ("74", {"times": 100}, True),
    ("3,589", {"at": ["peers", {"name": "LetheSec"}, "n"]}, True),
    ("3,598", {"at": ["peers", {"name": "LetheSec"}, "n"]}, False),
    ("3,600", {"at": ["peers", {"name": "LetheSec"}, "n"], "digits": -2}, True),
    ("1.0", {"over": PEER}, True),
])  # fmt: skip
def test_a_number_is_compared_with_its_record(number, more, right):
    assert agrees(number, PEER | more) == right


def test_an_entry_that_leads_nowhere_is_refused():
    with pytest.raises(KeyError):
        agrees("1", PEER | {"at": ["peers", 0, "no such field"]})
    with pytest.raises(ValueError, match="not enough values"):
        agrees("1", PEER | {"at": ["peers", {"name": "nobody"}, "n"]})
    with pytest.raises(ValueError, match="too many values"):
        agrees("1", PEER | {"at": ["peers", {"data": "FERPlus"}, "n"]})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It reaches 90.77 % on KDEF.", ["90.77"]),
        ("All of 28,709 images, or 5%.", ["28,709", "5"]),
        ("It has 31\ntimes as many, 5 points more, 0 to 12 epochs.", ["31", "5", "0", "12"]),
        ("They are 42, 14 and 14 people; between 80 and 97 %.", ["42", "14", "14", "80", "97"]),
        ("A 3x3 kernel, 64 pixels, four blocks, `0.5`, $x = 0.5$, {glue:text}`a:.2f`.", []),
        ("On FER-2013 and KDEF 5 %, on FER-2013 and FERPlus.", ["5"]),
        ("It has 70.44 % on FER-2013 and 86.96 % on FERPlus.", ["70.44", "86.96"]),
        ("On 32×32 points, or 7 by 7 points, in 3 pointsets.", []),
        ("See [this](https://example.org/1.5) and v1.2.3.", []),
        ("```{code-cell} ipython3\nx = 0.25\n```\n", []),
    ],
)
def test_measured_sees_what_it_is_there_to_see(text, found):
    assert MEASURED.findall(prose(text)) == found


@pytest.mark.parametrize("word", COUNTED.split("|"))
def test_a_whole_number_before_a_word_is_seen(word):
    assert MEASURED.findall(f"It has 12 {word}.") == ["12"]


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
    ("With 95 % intervals; the paper's figure is 86.96 %.", set()),
    ("Of the faces 95 % are read, and 86.96 % of others.", {"95", "86.96"}),
])  # fmt: skip
def test_a_number_without_a_source_is_seen_wherever_it_stands(text, found):
    assert unsourced("book/none", prose(text) + captions(text)) == found
