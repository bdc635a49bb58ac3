"""FaceSet, the one format between the stages: what `data_prep` writes and everything else reads.

A prepared set is an `.npz` of plain arrays and one JSON text, `meta`. It needs numpy only, holds
the images at their native size, and is checked on every load, so that a model is never trained on
a file whose fields, counts or labels are off.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

FORMAT = 1
_ZIP = b"PK"  # what an .npz begins with
SPLITS = ("train", "val", "test")
REQUIRED_META = ("dataset", "rule", "classes", "sources")

# lists of FERPlus test faces that are scored apart; see `FaceSet`
MARKS = ("pose30", "pose45", "occlusion", "ran")

# field -> (dtype kind, dtype or None for text of any width, number of axes after the first)
_ARRAYS: dict[str, tuple[str, type | None, int]] = {
    "images": ("u", np.uint8, 2),
    "labels": ("i", np.int64, 0),
    "split": ("U", None, 0),
    "name": ("U", None, 0),
    "target": ("f", np.float32, 1),
    "votes": ("u", np.uint8, 1),
    "subject": ("U", None, 0),
    "session": ("U", None, 0),
    "yaw": ("f", np.float32, 0),
    "leaked_from": ("U", None, 0),
    "black": ("b", np.bool_, 0),
    **{mark: ("b", np.bool_, 0) for mark in MARKS},
}


class DataError(ValueError):
    """A data file, or a set of faces, is not what it should be; the text is one line."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; move it onto `path` if all went well, else delete it.

    So `path` holds either its old content or the whole new one, whenever the process is killed or
    the power fails. Folders on the way are made. Raises `OSError`, with the name of `path`, where
    it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        _to_disk(aside, os.O_RDWR)  # else the name could reach the disk before the content
        os.replace(aside, path)
        with suppress(OSError):  # Windows opens no folder, and not every file system flushes one
            _to_disk(path.parent, os.O_RDONLY)
    except OSError as error:
        if error.filename is None:  # a full disk does not say where
            error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


def _to_disk(path: Path, flags: int) -> None:
    """Return once what was written to a file or a folder is on the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: str | Path, kind: Literal["file", "folder"] = "file") -> None:
    """Refuse what cannot be written, before the work and without making anything.

    Args:
        path: a file to be written, or a folder to write files to; it need not exist.

    Raises:
        DataError: `path` is of the other kind, or lies where nothing can be written.
    """
    path = Path(path)
    if kind == "file" and path.is_dir():
        raise DataError(f"{path}: is a folder; name a file")
    folders = ([path] if kind == "folder" else []) + [*path.absolute().parents]
    there = next(folder for folder in folders if folder.exists())
    if not there.is_dir():
        what = "is a file" if there == path else f"{there} is a file"
        raise DataError(f"{path}: {what}; choose another {kind}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"{path}: cannot write in {there}; choose another {kind}")


@dataclass(frozen=True, eq=False)
class FaceSet:
    """N faces with what is known of each; columns that the source does not have are None.

    Attributes:
        images: (N, H, W) uint8, grey, at the native size of the source.
        labels: (N,) int64, index into `classes`; for rule "soft" the argmax of `target`.
        split: (N,) text, "train", "val" or "test".
        name: (N,) text, the source's own name of the picture; not always unique.
        meta: dataset, rule, classes (in the data set's own order), sources (file name -> sha256),
            and what else its maker records; `counts` (faces in each split) and `format` are kept
            right by this class.
        target: (N, K) float32, label distribution, rows sum to 1 (rule "soft" only).
        votes: (N, 10) uint8, the raw FERPlus votes.
        subject: (N,) text, the person.
        session: (N,) text, the sitting.
        yaw: (N,) float32, degrees, negative = the face is turned to its right.
        leaked_from: (N,) text, the earliest earlier split ("train" or "val") in which a
            pixel-identical image stands, else "".
        black: (N,) bool, every pixel is 0.
        pose30, pose45, occlusion, ran: (N,) bool, member of Pose-FERPlus beyond 30 / 45 degrees,
            of Occlusion-FERPlus and of RAN's test list (Wang et al., TIP 2020).

    Raises:
        DataError: on a length, dtype, label, split or count that does not fit.
    """

    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    name: np.ndarray
    meta: dict[str, Any]
    target: np.ndarray | None = None
    votes: np.ndarray | None = None
    subject: np.ndarray | None = None
    session: np.ndarray | None = None
    yaw: np.ndarray | None = None
    leaked_from: np.ndarray | None = None
    black: np.ndarray | None = None
    pose30: np.ndarray | None = None
    pose45: np.ndarray | None = None
    occlusion: np.ndarray | None = None
    ran: np.ndarray | None = None

    def __post_init__(self) -> None:
        self._check_meta()
        for name, array in self.columns.items():
            self._check_array(name, array)
        self._check_values()
        counts = {s: int(np.count_nonzero(self.split == s)) for s in SPLITS}
        if self.meta.get("counts", counts) != counts:
            raise DataError(f"meta counts {self.meta['counts']}, the split column has {counts}")
        object.__setattr__(self, "meta", {**self.meta, "format": FORMAT, "counts": counts})

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> list[str]:
        """Class names in the data set's own order: `classes[labels[i]]` names face i."""
        return self.meta["classes"]

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The arrays that this set has, by field name, `images` first."""
        present = ((name, getattr(self, name)) for name in _ARRAYS)
        return {name: array for name, array in present if array is not None}

    @cached_property
    def sha256(self) -> str:
        """Hash of the class names and of every array; the same for the same faces in any file."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for name, array in self.columns.items():
            digest.update(f"{name}{array.shape}".encode())
            # text is hashed as text: its width in memory depends on rows that may be gone
            is_text = array.dtype.kind == "U"
            digest.update(json.dumps(array.tolist()).encode() if is_text else array.tobytes())
        return digest.hexdigest()

    @property
    def groups(self) -> np.ndarray:
        """(N,): the person of each face, or a number of its own where people are not known."""
        return np.arange(len(self)) if self.subject is None else self.subject

    def select(self, index: np.ndarray) -> FaceSet:
        """The faces of a boolean mask (N,) or of integer indices, in that order, as a new set.

        Raises `IndexError` for a mask of another length or an index out of range.
        """
        index = np.asarray(index)
        if index.size == 0 and index.dtype != bool:
            index = index.astype(np.int64)
        meta = {k: v for k, v in self.meta.items() if k != "counts"}
        return replace(self, meta=meta, **{n: a[index] for n, a in self.columns.items()})

    def subset(self, split: str) -> FaceSet:
        """The faces of one split, "train", "val" or "test"; `DataError` for any other word."""
        if split not in SPLITS:
            raise DataError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
        return self.select(self.split == split)

    def save(self, path: str | Path) -> None:
        """Write the set to `path` (.npz), aside first and then moved into place."""
        with replacing(path) as aside, open(aside, "wb") as file:
            # not compressed: FER-2013 would shrink by a tenth and take 18 times as long to load
            np.savez(file, **self.columns, meta=np.array(json.dumps(self.meta)))

    @classmethod
    def load(cls, path: str | Path) -> FaceSet:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            DataError: it is no prepared set, is cut off or damaged, or does not pass the checks.
        """
        path = Path(path)
        try:
            with open(path, "rb") as file:
                if file.read(len(_ZIP)) != _ZIP:  # else NumPy would take it for a pickle
                    raise DataError("not an .npz archive")
                file.seek(0)
                archive = np.load(file, allow_pickle=False)
                arrays = {name: archive[name] for name in archive.files}
            bare = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
            if bare:
                raise DataError(f"field {bare[0]} is no array")
            return cls(**_parse(arrays))
        except FileNotFoundError:
            raise
        except DataError as error:
            raise DataError(f"{path}: {error}; prepare it again with `data_prep`") from None
        except (ValueError, EOFError, OSError, RuntimeError, BadZipFile, zlib.error) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{path}: not a whole prepared set ({reason})") from None

    def _check_meta(self) -> None:
        missing = [key for key in REQUIRED_META if key not in self.meta]
        if missing:
            raise DataError(f"meta lacks {', '.join(missing)}")
        if self.meta.get("format", FORMAT) != FORMAT:
            raise DataError(f"format {self.meta['format']}, this version reads {FORMAT}")
        classes = self.meta["classes"]
        texts = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        if not texts or not classes or len(set(classes)) != len(classes):
            raise DataError(f"classes must be a list of different names, got {classes!r}")

    def _check_array(self, name: str, array: np.ndarray) -> None:
        kind, dtype, axes = _ARRAYS[name]
        if array.dtype.kind != kind or (dtype is not None and array.dtype != dtype):
            wanted = np.dtype(dtype).name if dtype is not None else "text"
            raise DataError(f"{name} is {array.dtype}, must be {wanted}")
        if array.ndim != axes + 1:
            raise DataError(f"{name} has shape {array.shape}, must have {axes + 1} axes")
        if len(array) != len(self.images):
            raise DataError(f"{name} has {len(array)} rows, images has {len(self.images)}")

    def _check_values(self) -> None:
        k = len(self.classes)
        _refuse(self.labels, (self.labels < 0) | (self.labels >= k), "label", f"0..{k - 1}")
        _refuse(self.split, ~np.isin(self.split, SPLITS), "split", "/".join(SPLITS))
        if self.target is not None:
            if self.target.shape[1] != k:
                raise DataError(f"target has {self.target.shape[1]} columns for {k} classes")
            off = ~(np.abs(self.target.sum(1) - 1) <= 1e-4)  # true for NaN too
            _refuse(self.target, off | (self.target < 0).any(1), "target", "a distribution")
            _refuse(self.labels, self.labels != self.target.argmax(1), "label", "argmax of target")
        if self.votes is not None and self.votes.shape[1] != 10:
            raise DataError(f"votes has {self.votes.shape[1]} columns, must have 10")
        if self.yaw is not None:
            _refuse(self.yaw, ~(np.abs(self.yaw) <= 180), "yaw", "-180..180 degrees")
        if self.leaked_from is not None:
            bad = ~np.isin(self.leaked_from, ("", *SPLITS[:2]))
            _refuse(self.leaked_from, bad, "leaked_from", "empty, train or val")


def _refuse(values: np.ndarray, bad: np.ndarray, what: str, wanted: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"row {row}: {what} {values[row].tolist()!r} is not {wanted}")


def _parse(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Fields of a FaceSet from the arrays of an archive; `DataError` where one is off."""
    known = {field.name for field in fields(FaceSet)}
    missing = [name for name in ("images", "labels", "split", "name", "meta") if name not in arrays]
    extra = sorted(set(arrays) - known)
    if missing or extra:
        raise DataError("; ".join(f"{word} field {', '.join(names)}" for word, names in
                                  (("missing", missing), ("unknown", extra)) if names))
    try:
        meta = json.loads(str(arrays["meta"][()]))
    except json.JSONDecodeError as error:
        raise DataError(f"meta is no JSON ({error})") from None
    if not isinstance(meta, dict) or "counts" not in meta or "format" not in meta:
        raise DataError("meta lacks counts or format")
    return {**arrays, "meta": meta}
