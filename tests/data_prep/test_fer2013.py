"""FER-2013: every shipped form gives the same faces; every defect is one clear line."""

import csv
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_prep import fer2013
from data_prep.__main__ import main
from data_prep.sources import BadRows
from lanmsff.data import DataError, FaceSet

FORMS = ("fer2013.csv", "the file itself", "nested folder", "icml_face_data.csv", "JPEG folder",
         "tar.gz", "tar.gz in a folder", "zip of csv", "zip of all csv", "zip of JPEGs",
         "tar.gz of JPEGs")


def write_form(form, standin, folder, pack):
    """Write the stand-in in one form and return what --source names."""
    if "JPEG" in form:
        standin.jpegs(folder)
        (folder / "train" / "angry" / ".DS_Store").write_bytes(b"clutter")
        (folder / "README.md").write_text("not a face")
    elif form == "icml_face_data.csv":
        standin.icml(folder)
    elif form == "nested folder":
        standin.fer2013(folder / "fer2013")
    else:
        standin.fer2013(folder)
    if form == "zip of all csv":
        standin.train(folder)
        standin.icml(folder)
    if form == "the file itself":
        return folder / "fer2013.csv"
    if form == "tar.gz in a folder":
        return pack(folder, "fer2013.tar.gz").parent
    if form.startswith("tar.gz"):
        return pack(folder, "fer2013.tar.gz")
    return pack(folder, "archive.zip") if form.startswith("zip") else folder


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_faces(form, standin, tmp_path, pack):
    standin.fer2013(tmp_path / "reference")
    expected = fer2013.prepare(tmp_path / "reference")
    faces = fer2013.prepare(write_form(form, standin, tmp_path / "source", pack))
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(getattr(faces, name), column, err_msg=name)
    assert faces.meta["counts"] == {"train": 14, "val": 7, "test": 7}
    assert faces.meta["duplicates"] == expected.meta["duplicates"]
    assert len(faces.meta["sources"]) == 1


def test_labels_leaks_and_black(standin, tmp_path):
    standin.fer2013(tmp_path)
    faces = fer2013.prepare(tmp_path)
    assert faces.classes == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    assert faces.labels.tolist() == standin.labels
    assert faces.name[0] == "Training/0" and faces.name[-1] == "PrivateTest/27"
    assert np.flatnonzero(faces.black).tolist() == [3]
    leaked = {int(i): str(faces.leaked_from[i]) for i in np.flatnonzero(faces.leaked_from != "")}
    assert leaked == {15: "train", 22: "train", 23: "val"}
    assert faces.meta["duplicates"] == {
        "groups": 3, "surplus": 4, "conflicting": 1,
        "val in train": 1, "test in train": 1, "test in train or val": 2,
    }


def test_train_alone_says_that_there_is_no_test(standin, tmp_path, capsys):
    standin.train(tmp_path)
    out = tmp_path / "new" / "faces.npz"
    assert main(["fer2013", "--source", str(tmp_path), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "test: none; the source has no such rows" in printed
    assert "warning: unknown checksum, train.csv" in printed
    assert FaceSet.load(out).meta["counts"] == {"train": 14, "val": 0, "test": 0}


def test_a_known_checksum_is_no_warning(standin, tmp_path, capsys, monkeypatch):
    path = standin.fer2013(tmp_path)
    with fer2013.open_source(path) as source:
        monkeypatch.setitem(fer2013.KNOWN_MD5, "fer2013.csv", source.checksums("fer2013.csv")[1])
    fer2013.read(path, BadRows(skip=False))
    assert capsys.readouterr().out == ""


def set_pixels(text):
    def spoil(standin):
        standin.pixels[2] = text
    return spoil


def set_label(label):
    def spoil(standin):
        standin.labels[2] = label
    return spoil


def set_usage(standin):
    standin.usage[2] = "Train"


BAD_ROWS = {
    "2303 pixels": (set_pixels("7 " * 2302 + "7"), "2,303 pixels, must be 48 x 48 = 2,304"),
    "2305 pixels": (set_pixels("7 " * 2304 + "7"), "2,305 pixels"),
    "no pixels": (set_pixels(""), "0 pixels"),
    "a word": (set_pixels("7 " * 2303 + "x7"), "pixel value 'x7' is not a whole number 0..255"),
    "256": (set_pixels("7 " * 2303 + "256"), "pixel value '256'"),
    "negative": (set_pixels("7 " * 2303 + "-1"), "pixel value '-1'"),
    "a fraction": (set_pixels("7 " * 2303 + "1.5"), "pixel value '1.5'"),
    "label 9": (set_label(9), "label '9' is not 0..6"),
    "no label": (set_label(""), "label ''"),
    "alien usage": (set_usage, "Usage 'Train' is not one of Training, PublicTest, PrivateTest"),
    "too long a field": (set_pixels("7" * 200_000), "field larger than field limit"),
}


@pytest.mark.parametrize("defect", BAD_ROWS)
@pytest.mark.parametrize("form", ["fer2013", "icml"])
def test_a_bad_row_is_named(defect, form, standin, tmp_path, refused):
    spoil, message = BAD_ROWS[defect]
    spoil(standin)
    path = getattr(standin, form)(tmp_path / "source")
    line = refused("fer2013", path.parent)
    assert f"{path}: row 3 (line 4): " in line and message in line and "--skip-bad" in line


@pytest.mark.parametrize("defect", BAD_ROWS)
def test_a_bad_row_is_skipped_and_listed_when_asked(defect, standin, tmp_path, capsys):
    whole = fer2013.prepare(standin.fer2013(tmp_path / "whole"))
    BAD_ROWS[defect][0](standin)
    out = tmp_path / "faces.npz"
    source = standin.fer2013(tmp_path / "source")
    assert main(["fer2013", "--source", str(source), "--out", str(out), "--skip-bad"]) == 0
    faces = FaceSet.load(out)
    np.testing.assert_array_equal(faces.name, np.delete(whole.name, 2))
    np.testing.assert_array_equal(faces.images, np.delete(whole.images, 2, axis=0))
    assert len(faces.meta["skipped"]) == 1 and "row 3 (line 4)" in faces.meta["skipped"][0]
    printed = capsys.readouterr().out
    assert "1 bad rows left out" in printed and faces.meta["skipped"][0] in printed


@pytest.mark.parametrize("lost", [1, 5, 12, 3000])
@pytest.mark.parametrize("form", ["fer2013", "icml"])
def test_a_cut_off_csv_names_its_last_row(lost, form, standin, tmp_path, refused):
    # icml_face_data.csv ends in pixels: of "...7 225" one digit less still leaves 2,304 figures
    path = getattr(standin, form)(tmp_path / "source")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 1 - lost])
    line = refused("fer2013", path)
    assert "row 28 (line 29)" in line


def test_blank_lines_and_a_byte_order_mark_are_no_rows(standin, tmp_path):
    path = standin.fer2013(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert len(fer2013.prepare(path)) == 28


@pytest.mark.parametrize("header", ["emotion,Usage", "pixels,Usage", "emotion,pixels", "", "junk"])
def test_a_missing_column_is_named(header, tmp_path, refused):
    path = tmp_path / "fer2013.csv"
    path.write_text(header + "\n")
    assert f"{path}: header (line 1): missing column" in refused("fer2013", path)


def test_a_file_without_lines_is_refused(tmp_path, refused):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(bytes(range(1, 10)) * 20_000)
    assert "missing column" in refused("fer2013", path)


def test_a_header_alone_is_refused(tmp_path, refused):
    path = tmp_path / "fer2013.csv"
    path.write_text("emotion,pixels,Usage\n")
    assert "no rows" in refused("fer2013", path)


def corrupt(path):
    path.write_bytes(path.read_bytes()[:200])


def another_size(path):
    Image.new("L", (47, 48)).save(path)


def a_png(path):
    Image.new("L", (48, 48)).save(path, format="PNG")


@pytest.mark.parametrize(("spoil", "message"), [
    (corrupt, "corrupt JPEG"),
    (another_size, "picture of 47x48, must be 48x48"),
    (a_png, "corrupt JPEG"),
    (lambda path: path.write_bytes(b""), "corrupt JPEG"),
    (lambda path: path.write_bytes(bytes(2**20 + 1)), "is larger than 1,048,576 bytes"),
    (lambda path: path.rename(path.with_name("face.jpg")), "unknown file"),
    (lambda path: path.with_name("notes.txt").write_text("?"), "unknown file"),
])
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_jpeg_is_named_or_skipped(spoil, message, packed, standin, tmp_path, pack, refused):
    source = standin.jpegs(tmp_path / "source")
    spoil(source / "test" / "happy" / "PublicTest_17.jpg")
    if packed:
        source = pack(source, "archive.zip")
    line = refused("fer2013", source)
    assert f"{source}: test/happy/" in line and message in line
    faces = fer2013.prepare(source, skip_bad=True)
    assert len(faces.meta["skipped"]) == 1 and message in faces.meta["skipped"][0]
    assert len(faces) == (28 if "notes.txt" in faces.meta["skipped"][0] else 27)


def test_a_name_that_is_no_text_is_skipped_and_listed(standin, tmp_path, capsys):
    source = standin.jpegs(tmp_path / "source")
    (source / "train" / "happy" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    out = tmp_path / os.fsdecode(b"\xe9.npz")
    assert main(["fer2013", "--source", str(source), "--out", str(out), "--skip-bad"]) == 0
    printed = capsys.readouterr().out
    assert "train/happy/caf\\udce9.jpg: unknown file" in printed
    assert "udce9.npz: 28 faces" in printed and len(FaceSet.load(out)) == 28


def test_a_misnamed_class_folder_is_named(standin, tmp_path, refused):
    source = standin.jpegs(tmp_path / "source")
    (source / "train" / "happy").rename(source / "train" / "hapy")
    assert "folder 'hapy' is not one of angry" in refused("fer2013", source)


def test_an_empty_folder_is_refused(tmp_path, refused):
    (tmp_path / "source").mkdir()
    assert "no FER-2013 here" in refused("fer2013", tmp_path / "source")


def test_a_missing_source_is_refused(tmp_path, refused):
    assert "no such file or folder" in refused("fer2013", tmp_path / "nowhere")


def test_an_archive_of_something_else_is_refused(tmp_path, pack, refused):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "holiday.txt").write_text("sun")
    line = refused("fer2013", pack(tmp_path / "source", "archive.zip"))
    assert "no FER-2013 here" in line and "holiday.txt" in line


@pytest.mark.parametrize("name", ["fer2013.tar.gz", "archive.zip"])
@pytest.mark.parametrize("part", [0.5, 0.98])
def test_a_cut_off_archive_is_refused(name, part, standin, tmp_path, pack, refused):
    rng = np.random.default_rng(0)  # pictures that do not compress to nothing
    standin.pixels = [" ".join(map(str, face)) for face in rng.integers(0, 256, (28, 2304))]
    standin.fer2013(tmp_path / "source")
    archive = pack(tmp_path / "source", name)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * part)])
    assert "damaged or cut-off archive" in refused("fer2013", archive)


def test_a_changed_byte_in_a_zip_is_refused(standin, tmp_path, refused):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        packed.write(standin.fer2013(tmp_path / "source"), "fer2013.csv")
    content = bytearray(archive.read_bytes())
    content[500] = ord("8") if content[500] == ord(" ") else ord(" ")
    archive.write_bytes(content)
    refused("fer2013", archive)


def test_a_name_in_a_zip_that_is_no_text_is_refused(standin, tmp_path, refused):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(standin.fer2013(tmp_path / "source"), "gesichtä.csv")
    archive.write_bytes(archive.read_bytes().replace("ä".encode(), b"\xff\xff"))
    assert "archive.zip: a damaged or cut-off archive ('utf-8'" in refused("fer2013", archive)


def test_names_that_climb_out_are_only_streams(standin, tmp_path):
    archive = tmp_path / "in" / "x.tar.gz"
    archive.parent.mkdir()
    path = standin.fer2013(tmp_path / "source")
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(path, "../../fer2013.csv")
    shutil.rmtree(path.parent)
    assert len(fer2013.prepare(archive)) == 28
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "x.tar.gz"]


def test_a_file_that_declares_too_much_is_refused(standin, tmp_path, pack, refused, monkeypatch):
    monkeypatch.setattr("data_prep.sources.MAX_BYTES", 1000)
    standin.fer2013(tmp_path / "source")
    archive = pack(tmp_path / "source", "archive.zip")
    assert "bytes, more than 1,000" in refused("fer2013", archive)


@pytest.mark.parametrize("out", ["file/faces.npz", "folder.npz", "faces.npy"])
def test_an_output_that_cannot_be_written_is_refused_first(out, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder.npz").mkdir()
    before = sorted(tmp_path.rglob("*"))
    status = main(["fer2013", "--source", str(tmp_path / "nowhere"), "--out", str(tmp_path / out)])
    line = capsys.readouterr().err
    assert status == 2 and line.startswith(f"error: {tmp_path / out}: ") and line.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    out = tmp_path / "locked" / "faces.npz"
    assert main(["fer2013", "--source", str(tmp_path), "--out", str(out)]) == 2
    assert f"cannot write in {out.parent}" in capsys.readouterr().err


def test_a_write_that_fails_leaves_the_old_file(standin, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out" / "faces.npz"
    out.parent.mkdir()
    out.write_bytes(b"old")
    monkeypatch.setattr(np, "savez", full)
    assert main(["fer2013", "--source", str(standin.fer2013(tmp_path)), "--out", str(out)]) == 2
    assert capsys.readouterr().err.endswith("faces.npz: No space left on device\n")
    assert out.read_bytes() == b"old" and list(out.parent.iterdir()) == [out]


@given(st.integers(2302, 2306), st.dictionaries(st.integers(0, 2301), st.integers(-3, 260)))
def test_a_row_is_taken_exactly_when_it_is_48x48_bytes(size, changed):
    values = [changed.get(place, 200) for place in range(size)]
    row = ["3", " ".join(map(str, values)), "PublicTest"]
    column = {"emotion": 0, "pixels": 1, "usage": 2}
    fine = len(values) == 2304 and all(0 <= value <= 255 for value in values)
    if fine:
        assert fer2013._parse(row, column) == (bytes(values), 3, "PublicTest")
    else:
        with pytest.raises(fer2013.BadRow):
            fer2013._parse(row, column)


def test_an_unreadable_label_never_becomes_a_class(tmp_path, standin):
    standin.labels[0] = "٣"  # a digit to str.isdecimal and int, not to the distributor
    with pytest.raises(DataError, match="label"):
        fer2013.prepare(standin.fer2013(tmp_path))


# --- the real rows ---

COUNTS = {"train": 28_709, "val": 3_589, "test": 3_589}


def test_real_counts(real_rows):
    assert {split: int((real_rows.split == split).sum()) for split in COUNTS} == COUNTS
    per_class = np.bincount(real_rows.labels).tolist()  # Goodfellow et al. 2013, section 3
    assert per_class == [4953, 547, 5121, 8989, 6077, 4002, 6198]


def as_icml(raw, folder, rows):
    with open(raw, newline="") as old, open(folder / "icml_face_data.csv", "w", newline="") as new:
        next(old)
        new.write("emotion, Usage, pixels\n")
        new.writelines(f"{e},{u},{p}\n" for e, p, u in csv.reader(old))
    return folder


def as_tar(raw, folder, rows):
    with tarfile.open(folder / "fer2013.tar.gz", "w:gz", compresslevel=1) as packed:
        packed.add(raw, "fer2013/fer2013.csv")
    return folder / "fer2013.tar.gz"


def as_zip(raw, folder, rows):
    with zipfile.ZipFile(folder / "archive.zip", "w", zipfile.ZIP_STORED) as packed:
        packed.write(raw, "fer2013.csv")
    return folder / "archive.zip"


def as_jpegs(raw, folder, rows):
    columns = (rows.images, rows.labels, rows.usage, rows.number)
    for image, label, usage, n in zip(*columns, strict=True):
        top = "train" if usage == "Training" else "test"
        path = folder / top / fer2013.CLASSES[label]
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / f"{usage}_{n}.jpg")
    return folder


@pytest.mark.parametrize("form", [as_icml, as_tar, as_zip, as_jpegs])
def test_every_form_of_the_real_rows_is_the_same(form, fer2013_raw, real_rows, tmp_path):
    source = form(fer2013_raw / "fer2013.csv", tmp_path, real_rows)
    rows = fer2013.read(source, BadRows(skip=False))
    for column in ("labels", "usage", "number"):
        np.testing.assert_array_equal(getattr(rows, column), getattr(real_rows, column))
    off = np.abs(rows.images.astype(np.int16) - real_rows.images).mean()
    assert off < 5 if form is as_jpegs else off == 0
    shutil.rmtree(tmp_path)


def test_a_face_with_black_pixels_is_not_black(standin, tmp_path):
    standin.pixels[6] = " ".join(["0"] * 2303 + ["7"])
    faces = fer2013.prepare(standin.fer2013(tmp_path))
    assert np.flatnonzero(faces.black).tolist() == [3]


def test_of_two_files_of_one_name_that_nearest_to_the_top_is_read(standin, tmp_path):
    standin.fer2013(tmp_path / "a" / "old")
    standin.labels.reverse()
    standin.fer2013(tmp_path / "z")
    assert fer2013.prepare(tmp_path).labels.tolist() == standin.labels
