"""Records as text: all of a folder by name, shares as percent with intervals, Markdown tables."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lanmsff.results import read_record, unpack_bits

# an integer, a decimal or a percentage with or without its interval: what is set to the right
_NUMBER = re.compile(r"[+-]?[\d,]+(\.\d+)?( \[[^\]]*\])?( %)?")
_NOTHING = ("", "–")

# The trainings of one data set as the experiments are named, DATA-KIND, the longest first.
PREFERRED = ("improved", "paper", "continued-twice", "continued", "short")


def load_results(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The records of a folder: name of the file without `.json` -> record, in order of the names.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a file in it is not a JSON record.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of records")
    return {path.stem: read_record(path) for path in sorted(folder.glob("*.json"))}


def preferred(results: dict[str, dict[str, Any]], data: str) -> dict[str, Any]:
    """The record to speak of where there are several on one data set: see `PREFERRED`.

    Of two of the same experiment it is that of more epochs. No score is looked at.

    Args:
        results: see `load_results`.
        data: "ferplus", "fer2013" ...

    Raises:
        KeyError: there is none.
    """
    for kind in PREFERRED:
        found = [r for r in results.values() if r.get("experiment") == f"{data}-{kind}"]
        if found:
            return max(found, key=lambda record: record["settings"]["epochs"])
    raise KeyError(f"no record of a training on {data}")


def single_run(record: dict[str, Any]) -> dict[str, Any]:
    """What `python -m lanmsff evaluate` recorded of one network, in the form of `answers.summary`.

    The intervals are over people where the record has these, else Wilson's, over faces; `per_class`
    and `confusion` are of all faces. Such a record has no calibration.
    """

    def renamed(scores: dict[str, Any]) -> dict[str, Any]:
        share = scores["accuracy"]
        interval = scores.get("accuracy_over_people_95", scores["accuracy_95"])
        spread = {"mean": share, "over_faces_95": interval, "over_networks_95": None}
        return {"n": scores["n"], "accuracy": spread}

    everything = record["scores"]["all"]
    found = {
        "parts": {
            name: renamed(part) | {key: part[key] for key in ("macro_f1", "loss")}
            for name, part in record["scores"].items()
        },
        "per_class": everything["per_class"],
        "confusion": everything["confusion"],
    }
    if record["yaw"]:
        found["yaw"] = [{"yaw": row["yaw"]} | renamed(row) for row in record["yaw"]]
    return found


def correct_faces(test: dict[str, Any]) -> np.ndarray:
    """Which faces of a test set the networks of an arm are right on, from a record of `grid`.

    So what depends on more than the accuracies, such as a paired difference of two records, can be
    computed without a network.

    Args:
        test: what stands under the arm's `tests` by the name of the prepared set.

    Returns:
        bool (R, N): R networks, and N test faces in the order of the prepared set.
    """
    n = test["parts"]["all"]["n"]
    return np.stack([unpack_bits(row, n) for row in test["correct"]])


def percent(mean: float, interval: Sequence[float] | None = None, digits: int = 1) -> str:
    """A share as percent without its sign: 0.85 is "85.0", with an interval "85.0 [82.6, 87.1]".

    The space in the brackets does not break.

    Args:
        mean: share in [0, 1], or a difference of shares in [-1, 1].
        interval: low and high, likewise; None where there is none, as some records have it.
        digits: decimal places.
    """
    text = _rounded(mean, digits)
    if interval is None:
        return text
    low, high = interval
    return f"{text} [{_rounded(low, digits)},\N{NO-BREAK SPACE}{_rounded(high, digits)}]"


def _rounded(share: float, digits: int) -> str:
    text = f"{100 * share:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text  # no -0.0


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; a column that holds only numbers is set to the right.

    Args:
        header: C texts.
        rows: C cells each. Whole numbers get thousands commas, None is a dash, the rest `str`.

    Raises:
        ValueError: a row has not as many cells as the header.
    """
    lines = [[_cell(value) for value in row] for row in rows]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"{len(line)} cells under {len(header)} heads: {' | '.join(line)}")
    columns = list(zip(*lines)) or [()] * len(header)
    rules = ["--:" if _numbers(column) else ":--" for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(header), rules, *lines])


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", r"\|").replace("\n", " ")


def _numbers(column: Sequence[str]) -> bool:
    filled = [text for text in column if text not in _NOTHING]
    return bool(filled) and all(_NUMBER.fullmatch(text) for text in filled)
