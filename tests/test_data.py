"""FaceSet: what goes in comes out, and what is off is refused with its reason."""

import errno
import json
import os
import stat
from contextlib import nullcontext
from zipfile import ZipFile

import numpy as np
import pytest

from lanmsff.data import DataError, FaceSet, replacing


def columns(n=6):
    rng = np.random.default_rng(0)
    target = np.eye(3, dtype=np.float32)[np.arange(n) % 3]
    return {
        "images": rng.integers(0, 256, (n, 5, 4), dtype=np.uint8),
        "labels": np.arange(n) % 3,
        "split": np.array(["train", "val", "test"])[np.arange(n) * 3 // n],
        "name": np.array([f"face {row}" for row in range(n)]),
        "target": target,
        "votes": rng.integers(0, 11, (n, 10), dtype=np.uint8),
        "subject": np.array(["F01", "M02"])[np.arange(n) % 2],
        "session": np.array(["A", "B"])[np.arange(n) % 2],
        "yaw": np.linspace(-90, 90, n, dtype=np.float32),
        "leaked_from": np.array(["", "train", "val"])[np.arange(n) * 3 // n],
        "black": np.arange(n) == 1,
        "pose30": np.arange(n) > 3,
        "pose45": np.arange(n) > 4,
        "occlusion": np.arange(n) == 5,
    }


META = {"dataset": "made up", "rule": "none", "classes": ["b", "a", "c"], "sources": {"x": "00"}}


def faces(**changed):
    return FaceSet(**(columns() | {"meta": META} | changed))


@pytest.mark.parametrize("optional", [True, False])
def test_what_is_saved_is_loaded(optional, tmp_path):
    saved = faces()
    if not optional:
        required = ("images", "labels", "split", "name")
        saved = FaceSet(**{name: columns()[name] for name in required}, meta=META)
    saved.save(tmp_path / "new" / "faces.npz")
    loaded = FaceSet.load(tmp_path / "new" / "faces.npz")
    assert list(loaded.columns) == list(saved.columns)
    for name, column in saved.columns.items():
        np.testing.assert_array_equal(getattr(loaded, name), column)
        assert getattr(loaded, name).dtype == column.dtype
    assert loaded.meta == saved.meta and loaded.sha256 == saved.sha256
    assert loaded.meta["counts"] == {"train": 2, "val": 2, "test": 2}
    assert loaded.classes == ["b", "a", "c"] and len(loaded) == 6
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["faces.npz"]


def test_the_same_faces_give_the_same_file(tmp_path):
    for name in ("a.npz", "b.npz"):
        faces().save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("index", [
    np.array([True, False, True, False, False, True]), np.array([4, 0]), [3, 3], [], slice(0),
], ids=["mask", "indices", "list", "empty list", "empty mask"])
def test_select_takes_every_column_along(index):
    index = np.zeros(6, bool) if isinstance(index, slice) else index
    whole = faces()
    part = whole.select(index)
    at = np.asarray(index, dtype=None if len(index) else int)
    at = np.flatnonzero(at) if at.dtype == bool else at
    assert len(part) == len(at)
    for name, column in part.columns.items():
        np.testing.assert_array_equal(column, getattr(whole, name)[at])
    assert sum(part.meta["counts"].values()) == len(at)
    assert part.meta["dataset"] == "made up"


def test_subset():
    assert faces().subset("val").name.tolist() == ["face 2", "face 3"]
    with pytest.raises(DataError, match="'validation': choose one of train, val, test"):
        faces().subset("validation")


def test_a_mask_of_another_length_is_no_selection():
    with pytest.raises(IndexError):
        faces().select(np.ones(5, bool))


def test_the_hash_sees_every_column_and_the_class_order():
    seen = {faces().sha256, faces(meta=META | {"classes": ["a", "b", "c"]}).sha256}
    for name in columns():
        changed = columns()
        turned = changed[name][::-1].copy()
        if name == "labels":
            turned, changed["target"] = np.array([1, 1, 2, 0, 1, 2]), None
        if name == "target":
            turned = changed[name] * np.float32(0.8) + np.float32(0.2 / 3)
        seen.add(faces(**changed | {name: turned}).sha256)
    assert len(seen) == len(columns()) + 2


def test_the_hash_does_not_see_how_wide_text_is_kept():
    wide = columns()["name"].astype("U99")
    assert faces(name=wide).sha256 == faces().sha256


WRONG = {
    "images float": ({"images": np.zeros((6, 5, 4))}, "images is float64, must be uint8"),
    "images of colour": ({"images": np.zeros((6, 5, 4, 3), np.uint8)}, "images has shape"),
    "labels int32": ({"labels": np.zeros(6, np.int32)}, "labels is int32, must be int64"),
    "short labels": ({"labels": np.zeros(5, np.int64)}, "labels has 5 rows, images has 6"),
    "label 3": ({"labels": np.full(6, 3), "target": None}, "row 0: label 3 is not 0..2"),
    "label -1": ({"labels": np.full(6, -1), "target": None}, "label -1"),
    "split": ({"split": np.array(["train"] * 5 + ["dev"])}, "row 5: split 'dev'"),
    "name bytes": ({"name": np.array([b"x"] * 6)}, "name is |S1, must be text"),
    "names as objects": ({"name": np.array(["x"] * 6, object)}, "name is object"),
    "target float64": ({"target": np.eye(3)[np.arange(6) % 3]}, "target is float64"),
    "target width": ({"target": np.ones((6, 1), np.float32)}, "target has 1 columns for 3"),
    "target sum": ({"target": np.ones((6, 3), np.float32)}, "is not a distribution"),
    "target nan": ({"target": np.full((6, 3), np.nan, np.float32)}, "is not a distribution"),
    "target argmax": ({"labels": np.zeros(6, np.int64)}, "row 1: label 0 is not argmax"),
    "votes width": ({"votes": np.zeros((6, 8), np.uint8)}, "votes has 8 columns, must have 10"),
    "yaw": ({"yaw": np.full(6, 270, np.float32)}, "yaw 270.0 is not"),
    "yaw nan": ({"yaw": np.full(6, np.nan, np.float32)}, "yaw nan is not"),
    "leaked_from": ({"leaked_from": np.array(["test"] * 6)}, "leaked_from 'test'"),
    "black": ({"black": np.zeros(6, np.uint8)}, "black is uint8, must be bool"),
    "counts": ({"meta": META | {"counts": {"train": 6, "val": 0, "test": 0}}}, "meta counts"),
    "format": ({"meta": META | {"format": 99}}, "format 99, this version reads 1"),
    "no classes": ({"meta": META | {"classes": []}}, "list of different names"),
    "class twice": ({"meta": META | {"classes": ["a", "a", "b"]}}, "list of different names"),
    "no rule": ({"meta": {k: v for k, v in META.items() if k != "rule"}}, "meta lacks rule"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_set_that_is_off_is_refused(case):
    changed, message = WRONG[case]
    with pytest.raises(DataError) as caught:
        faces(**changed)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def stored(path):
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def change_meta(arrays, **changed):
    meta = json.loads(str(arrays["meta"])) | changed
    return arrays | {"meta": np.array(json.dumps(meta))}


TAMPERED = {
    "no labels": (lambda a: {k: v for k, v in a.items() if k != "labels"}, "missing field labels"),
    "no meta": (lambda a: {k: v for k, v in a.items() if k != "meta"}, "missing field meta"),
    "another field": (lambda a: a | {"age": np.zeros(6)}, "unknown field age"),
    "fewer labels": (lambda a: a | {"labels": a["labels"][:3]}, "labels has 3 rows"),
    "a label out of range": (lambda a: a | {"labels": a["labels"] + 5}, "label 5 is not 0..2"),
    "other counts": (lambda a: change_meta(a, counts={"train": 1, "val": 2, "test": 3}), "counts"),
    "a later format": (lambda a: change_meta(a, format=2), "format 2"),
    "meta no JSON": (lambda a: a | {"meta": np.array("{")}, "meta is no JSON"),
    "meta no object": (lambda a: a | {"meta": np.array("[]")}, "meta lacks counts"),
    "pickled names": (lambda a: a | {"name": a["name"].astype(object)}, "not a whole prepared set"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_file_that_was_changed_is_refused(case, tmp_path):
    path = tmp_path / "faces.npz"
    faces().save(path)
    change, message = TAMPERED[case]
    np.savez(path, **change(stored(path)))
    with pytest.raises(DataError) as caught:
        FaceSet.load(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def spoil_byte(content):
    at = content.index(columns()["images"].tobytes()) + 3
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def encrypted(content):
    """The flag that says so, in the directory of the archive."""
    at = content.index(b"PK\x01\x02") + 8
    return content[:at] + bytes([content[at] | 1]) + content[at + 1 :]


def test_a_member_that_is_no_array_is_refused(tmp_path):
    path = tmp_path / "faces.npz"
    faces().save(path)
    with ZipFile(path, "a") as archive:
        archive.writestr("ran.npy", b"faces")
    with pytest.raises(DataError, match="field ran is no array; prepare it again"):
        FaceSet.load(path)


@pytest.mark.parametrize("spoil", [
    lambda c: c[: len(c) // 2], lambda c: c[:-1], spoil_byte, encrypted,
], ids=["half", "last byte", "one bit", "encrypted"])
def test_a_damaged_file_is_refused(spoil, tmp_path):
    path = tmp_path / "faces.npz"
    faces().save(path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match="not a whole prepared set"):
        FaceSet.load(path)


@pytest.mark.parametrize("content", [b"", b"emotion,pixels", b"\x80\x04K\x01."],
                         ids=["empty", "a csv", "a pickle"])  # fmt: skip
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / "faces.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="faces.npz: not an .npz archive; prepare it again"):
        FaceSet.load(path)


def test_an_array_alone_is_refused(tmp_path):
    with open(tmp_path / "faces.npz", "wb") as file:
        np.save(file, columns()["images"])
    with pytest.raises(DataError, match="not an .npz archive"):
        FaceSet.load(tmp_path / "faces.npz")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        FaceSet.load(tmp_path / "nowhere.npz")


def test_a_stopped_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as aside:
        aside.write_text("half")
        assert aside.parent == path.parent
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_the_hash_sees_the_shape_of_the_images():
    assert faces(images=faces().images.reshape(6, 4, 5)).sha256 != faces().sha256


def test_a_negative_share_is_no_distribution():
    target = np.tile(np.float32([1.5, -0.5, 0]), (6, 1))
    with pytest.raises(DataError, match="is not a distribution"):
        faces(labels=np.zeros(6, np.int64), target=target)


def test_a_write_is_on_the_disk_before_it_is_in_its_place(tmp_path, monkeypatch):
    """Else a power failure could leave the new name with no content, or undo the move."""
    done, fsync, move = [], os.fsync, os.replace

    def flushed(descriptor):
        fsync(descriptor)
        there = os.fstat(descriptor)
        done.append(next(p for p in ("folder", *os.listdir("folder")) if os.path.samestat(
            there, os.stat(p if p == "folder" else f"folder/{p}"))))  # fmt: skip

    def moved(*paths):
        move(*paths)
        done.append("moved")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", moved)
    with replacing("folder/file") as aside:
        aside.write_text("new")
    assert done == [aside.name, "moved", "folder"][: 3 if os.name == "posix" else 2]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_disk_that_does_not_take_what_was_written(kind, tmp_path, monkeypatch):
    """A file must be on it; not every file system can say so of a folder."""
    fsync = os.fsync

    def failing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (kind == "folder"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="file") if kind == "file" else nullcontext():
        with replacing(path) as aside:
            aside.write_text("new")
    assert path.read_text() == ("old" if kind == "file" else "new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_takes_the_place_of_what_was_there(tmp_path):
    for text in ("old", "new"):
        with replacing(tmp_path / "file") as aside:
            aside.write_text(text)
    assert (tmp_path / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
