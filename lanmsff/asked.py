"""What is asked of a training run; to resume it, the same must be asked again."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lanmsff.data import FaceSet
from lanmsff.recipes import Recipe

MAX_SEED = 2**32


class RunError(ValueError):
    """A run cannot be started, resumed or gone on with; the text is one line."""


def describe(
    faces: FaceSet,
    name: str,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    precision: str,
    processes: int,
    model_options: dict[str, Any],
) -> dict[str, Any]:
    """It in JSON values, once it is seen to be possible.

    Args:
        faces: with the splits "train" and "val".
        name: that `recipe` was picked by.
        precision: "float32" or "bfloat16".
        processes: how many train together.
        model_options: keyword arguments of `LANMSFF`, but for those that data and recipe set.

    Raises:
        RunError: it is not possible.
    """
    if twice := {"num_classes", "dropout"} & set(model_options):
        raise RunError(f"{min(twice)} is no option of a run: the recipe has the dropout, the data "
                       "the classes")  # fmt: skip
    if not 0 <= seed < MAX_SEED:
        raise RunError(f"seed must lie in 0 .. {MAX_SEED - 1}, got {seed}")
    if not isinstance(epochs, int) or epochs < 1:
        raise RunError(f"epochs must be a whole number above 0, got {epochs}")
    counts = faces.meta["counts"]
    for split in ("train", "val"):
        if counts[split] < processes:
            few = "fewer faces than processes" if counts[split] else "no faces"
            raise RunError(f"the data has {few} in split '{split}'")
    # a schedule that is drawn over all epochs cannot be given more of them later
    fixed = None if recipe.schedule == "plateau" else epochs
    return {
        "recipe": name,
        "settings": asdict(recipe) | {"epochs": fixed},
        "seed": seed,
        "precision": precision,
        "processes": processes,
        "model": {"num_classes": len(faces.classes), "dropout": recipe.dropout, **model_options},
        "dataset": faces.meta["dataset"],
        "rule": faces.meta["rule"],
        "data_sha256": faces.sha256,
        "counts": counts,
    }


def refuse_another(folder: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """See that a run which is resumed is the one that is asked for.

    Args:
        then, now: what was asked and what is, JSON values; of dictionaries in them only those
            entries are named that differ.

    Raises:
        RunError: they differ.
    """
    for key in then | now:
        was, wanted = then.get(key), now.get(key)
        if was == wanted:
            continue
        if isinstance(was, dict) and isinstance(wanted, dict):
            others = [name for name in was | wanted if was.get(name) != wanted.get(name)]
            was, wanted = ({name: of.get(name) for name in others} for of in (was, wanted))
        way = "ask for that with --precision, or " if key == "precision" else ""
        raise RunError(
            f"{folder}: this run has {key} {was}, asked is {wanted}; {way}name another folder"
        )
