"""Weights on disk: safetensors with everything that is needed to use them, and never a pickle.

Class order and pixel scaling are part of a model: the same file read with the classes in another
order, or fed with other pixel values, is right a third of the time. So both travel in the header,
as one JSON text under the key `lanmsff`:

    config      arguments of `LANMSFF` (a drawn permutation is among the tensors)
    classes     class names in the order of the logits
    image       side in pixels, channels, and the values that pixels have
    recipe, settings    how they were trained: the recipe's name and every one of its settings
    dataset, accuracy, version, commit ...   where the weights come from
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from safetensors import SafetensorError, safe_open

from lanmsff.data import replacing
from lanmsff.model import LANMSFF
from lanmsff.results import package_version
from lanmsff.tensors import to_bytes

PRETRAINED = Path(__file__).parent / "pretrained"
IMAGE = {"side": 64, "channels": 1, "values": "[0, 1], bytes divided by 255"}
HEADER = "lanmsff"


@dataclass(frozen=True)
class Weights:
    """A network as read from disk: the model (in evaluation mode, on the CPU) and its header.

    `file` is the name of the file, `sha256` that of its bytes.
    """

    model: LANMSFF
    info: dict[str, Any]
    file: str
    sha256: str

    @property
    def origin(self) -> dict[str, Any]:
        """What a record says of them: name, hash and header."""
        return {"file": self.file, "sha256": self.sha256, **self.info}

    @property
    def classes(self) -> list[str]:
        return self.info["classes"]

    @property
    def mirror(self) -> bool:
        """Whether their recipe scores the mean of each face and its mirror image; see `predict`."""
        return bool(self.info.get("settings", {}).get("test_mirror", False))


def save_weights(
    model: LANMSFF, path: str | Path, classes: list[str], origin: dict[str, Any]
) -> None:
    """Write `model` to `path` (.safetensors), aside first and then moved into place.

    Args:
        classes: class names in the order of the logits.
        origin: where the weights come from, JSON values; goes into the header as it is.

    Raises:
        ValueError: the number of classes is not the model's.
    """
    if len(classes) != model.config["num_classes"]:
        raise ValueError(f"{len(classes)} class names for {model.config['num_classes']} logits")
    info = {
        **origin,
        "config": model.config,
        "classes": list(classes),
        "image": IMAGE,
        "version": package_version(),
    }
    with replacing(path) as aside:
        aside.write_bytes(to_bytes(model.state_dict(), {HEADER: json.dumps(info)}))


def load_weights(path: str | Path, classes: list[str] | None = None) -> Weights:
    """Read what `save_weights` wrote.

    Args:
        path: a `.safetensors` file, the folder of a training run (its best weights), or the name
            of weights that come with the package (`pretrained_names()`).
        classes: class names, in order, of the data that the network is to be used on.

    Raises:
        FileNotFoundError: nothing by that name.
        ValueError: not weights of this package, values that are not finite, or weights for other
            classes than `classes`.
    """
    path = find_weights(path)
    try:
        with safe_open(path, "pt") as file:
            headers = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); no other is read") from None
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{path}: {broken[0]} holds values that are not finite numbers")
    if HEADER not in headers:
        what = "a checkpoint of a run, whose folder is to be named" if "run" in headers else (
            f"safetensors without the header '{HEADER}': not our weights")
        raise ValueError(f"{path}: {what}")
    try:
        info = json.loads(headers[HEADER])
        model = LANMSFF(**info["config"])
        model.load_state_dict(tensors)
        side, names = info["image"], info["classes"]
        settings = info.get("settings", {})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = shorten(str(error), 160)
        raise ValueError(f"{path}: header and tensors are no LANMSFF ({reason})") from None
    different = isinstance(names, list) and {name for name in names if isinstance(name, str)}
    fits = side == IMAGE and different and len(different) == len(names)
    if not fits or len(names) != model.config["num_classes"] or not isinstance(settings, dict):
        raise ValueError(f"{path}: header does not fit: image {side}, classes {names}, settings "
                         f"{settings}")  # fmt: skip
    if classes is not None and list(classes) != names:
        raise ValueError(
            f"{path}: weights for the classes {', '.join(names)}; "
            f"the data has {', '.join(classes)}"
        )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Weights(model.eval(), info, path.name, sha256)


def find_weights(name: str | Path) -> Path:
    """The file meant by a path, a run's folder or the name of shipped weights.

    Raises:
        FileNotFoundError: nothing by that name.
        ValueError: a run's folder here has the name of shipped weights.
    """
    path = Path(name)
    best = path / "best.safetensors"
    if name in pretrained_names():  # a text; a `Path`, as "./NAME", is always one
        if best.is_file():
            raise ValueError(
                f"{name}: both a run in this folder and shipped weights; write ./{name} for the "
                "run, or call from elsewhere for the shipped ones"
            )
        return PRETRAINED / f"{name}.safetensors"
    if path.is_dir():
        if not best.is_file():
            raise FileNotFoundError(f"{best}: no weights yet: let the run finish its first epoch")
        return best
    if path.is_file():
        return path
    known = ", ".join(pretrained_names()) or "none"
    raise FileNotFoundError(f"{name}: no such file, run or shipped weights (shipped: {known})")


def load_pretrained(name: str, classes: list[str] | None = None) -> Weights:
    """Weights that come with the package, as `load_weights` returns them.

    Args:
        name: one of `pretrained_names()`.
        classes: as in `load_weights`.

    Raises:
        FileNotFoundError: no weights by that name are shipped; the text lists those that are.
        ValueError: as in `load_weights`.
    """
    if name not in pretrained_names():
        known = ", ".join(pretrained_names()) or "none"
        raise FileNotFoundError(f"{name}: no such shipped weights (shipped: {known})")
    return load_weights(PRETRAINED / f"{name}.safetensors", classes)


def pretrained_names() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(path.stem for path in PRETRAINED.glob("*.safetensors"))
