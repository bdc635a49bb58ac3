"""Scores of a network on a prepared set, each with its interval, in total and on what matters.

An accuracy alone hides the classes that fail, the test images that were in training, and the faces
that are turned. So a report has them apart.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor, nn
from tqdm import tqdm

from lanmsff.augment import resize, to_float
from lanmsff.data import MARKS, FaceSet
from lanmsff.device import autocast, pick_precision, to_device
from lanmsff.folding import cast_weights, folded
from lanmsff.intervals import accuracy_interval, bootstrap_over_groups
from lanmsff.memory import kept_memory

BATCH_SIZE = 32  # on a CPU, where larger ones leave its caches
GPU_BATCH_SIZE = 1024  # takes 3.3 GB in float32


class Predictor:
    """A network made ready to be asked again and again.

    What runs is a copy in evaluation mode, in the layout that is fast, with batch norm folded into
    its convolutions and the weights in `precision`. That takes a CPU as long as looking at one
    face, so it is done once; later changes of `model` do not reach the copy.

    Args:
        model: takes (N, 1, 64, 64) in [0, 1]; is moved to `device`, and left as it is else.
        precision: "float32", "bfloat16" or "auto".
        mirror: give the mean of a face's logits and those of its mirror image.
        channels_last: the memory layout of the network and of the images.
        keep_memory: on a CPU, while there are several batches; see `lanmsff.memory`.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str,
        precision: str = "float32",
        mirror: bool = False,
        channels_last: bool = True,
        keep_memory: bool = True,
    ):
        device = torch.device(device)
        precision = pick_precision(precision, device)
        self.network = folded(to_device(model, device, channels_last))
        if precision == "bfloat16":
            cast_weights(self.network, torch.bfloat16)
        self.device, self.precision = device, precision
        self.mirror, self.channels_last = mirror, channels_last
        self.keep_memory = keep_memory and device.type == "cpu"

    def __call__(self, images: Tensor | np.ndarray, progress: bool = False) -> Tensor:
        """Logits of faces.

        Args:
            images: uint8 (N, H, W), any size, on any device.

        Returns:
            float32 (N, K) on the CPU.

        Raises:
            TypeError: the images are not bytes.
        """
        size = BATCH_SIZE if self.device.type == "cpu" else GPU_BATCH_SIZE
        batches = torch.as_tensor(images).split(size)
        # to return it costs more than a single batch gains
        keep = kept_memory(self.keep_memory and len(batches) > 1)
        logits = []
        with torch.inference_mode(), autocast(self.device, self.precision), keep:
            for batch in tqdm(batches, unit="batch", desc="scoring", disable=not progress):
                faces = to_float(resize(batch.to(self.device)))
                faces = to_device(faces, self.device, self.channels_last)
                found = self.network(faces).float()
                if self.mirror:
                    found = (found + self.network(faces.flip(3)).float()) / 2
                logits.append(found)
        return torch.cat(logits).cpu()


def predict(
    model: nn.Module,
    images: Tensor | np.ndarray,
    device: torch.device | str,
    precision: str = "float32",
    progress: bool = False,
    mirror: bool = False,
    channels_last: bool = True,
    keep_memory: bool = True,
) -> Tensor:
    """Logits of faces, float32 (N, K) on the CPU: a `Predictor` that is asked once."""
    predictor = Predictor(model, device, precision, mirror, channels_last, keep_memory)
    return predictor(images, progress)


def score(logits: Tensor, labels: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """Scores of N faces.

    Args:
        logits: float (N, K).
        labels: int (N,), indices into `classes`.
        classes: K names.

    Returns:
        Fractions in [0, 1]: `n`, `correct`, `accuracy`, `accuracy_95` (low, high), `macro_f1` (mean
        over the classes that occur in `labels`), `loss` (mean cross-entropy, nats), `per_class`
        (precision, recall, f1, n) and `confusion` (row = true class, column = predicted).
    """
    predicted = logits.argmax(1).numpy()
    correct = int((predicted == labels).sum())
    confusion = confusion_matrix(labels, predicted, labels=range(len(classes)))
    per_class = confused(confusion, classes)
    return {
        "n": len(labels),
        "correct": correct,
        "accuracy": correct / len(labels),
        "accuracy_95": accuracy_interval(correct, len(labels)),
        "macro_f1": float(np.mean([of["f1"] for of in per_class.values() if of["n"]])),
        "loss": F.cross_entropy(logits, torch.from_numpy(labels)).item(),
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def confused(confusion: np.ndarray, classes: list[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, f1 and n of each class; 0 where there is nothing to divide by.

    Args:
        confusion: int (K, K), row = true class, column = predicted.
        classes: K names.
    """
    labels, predicted = (np.repeat(of.ravel(), confusion.ravel())
                         for of in np.indices(confusion.shape))  # fmt: skip
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), average=None, zero_division=0.0
    )
    names = ("precision", "recall", "f1", "n")
    return {name: dict(zip(names, of)) for name, *of in zip(classes, *(c.tolist() for c in columns))}


def subsets(faces: FaceSet) -> Iterator[tuple[str, np.ndarray]]:
    """Names and masks (N,) of the parts of a set that are scored apart, where it marks them.

    All faces, the members of `MARKS`, and each of these without the leaked images, those that also
    stand in an earlier split.
    """
    parts = {"all": np.ones(len(faces), bool)}
    for mark in MARKS:
        if mark in faces.columns:
            parts[mark] = faces.columns[mark]
    for name, mask in parts.items():
        yield name, mask
        if faces.leaked_from is not None:
            yield f"{name}_without_leaked", mask & (faces.leaked_from == "")


def evaluate(faces: FaceSet, logits: Tensor) -> dict[str, Any]:
    """The `score` of every part of `faces` that is not empty, by name; see `subsets`.

    Where people are known, `accuracy_over_people_95` stands beside the interval over faces.

    Args:
        faces: N faces, usually one split.
        logits: float (N, K), of these faces in their order.

    Raises:
        ValueError: `logits` does not have a row for each face and a column for each class.
    """
    wanted = (len(faces), len(faces.classes))
    if tuple(logits.shape) != wanted:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, the faces need {wanted}")
    correct = logits.argmax(1).numpy() == faces.labels
    return {
        name: score(logits[torch.from_numpy(mask)], faces.labels[mask], faces.classes)
        | over_people(faces, correct, mask)
        for name, mask in subsets(faces)
        if mask.any()
    }


def over_people(faces: FaceSet, correct: np.ndarray, mask: np.ndarray) -> dict[str, list[float]]:
    """`accuracy_over_people_95` of a part of N faces, by the bootstrap over people.

    Empty where people are not known, or all faces of the part are of one.

    Args:
        correct: bool (N,).
        mask: bool (N,), the part.
    """
    if faces.subject is None or len(np.unique(faces.subject[mask])) < 2:
        return {}
    low, high = bootstrap_over_groups(correct[mask], faces.subject[mask])
    return {"accuracy_over_people_95": [float(low), float(high)]}
