"""KDEF damaged: a bad picture is named, or skipped when asked; a bad source is refused."""

import os
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdef_standin import CODES, draw, tree, write_folder, write_zip

from data_prep import jpeg, kdef
from data_prep.__main__ import main
from lanmsff.data import DataError, FaceSet

# Bad pictures: each is named, and left out when asked ----------------------------------------


def replaced(content):
    def spoil(files):
        files["AF02/AF02HAS.JPG"] = content
    return spoil


def resized(width, height):
    """A JPEG whose header claims another size."""
    content = bytearray(draw(5))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return replaced(bytes(content))


def renamed(name):
    def spoil(files):
        files[name] = files.pop("AF02/AF02HAS.JPG")
    return spoil


def twice(name):
    def spoil(files):
        files[name] = files["AF02/AF02HAS.JPG"]
    return spoil


BAD_PICTURES = {
    "truncated": (replaced(draw(5)[:-200]), "AF02/AF02HAS.JPG: corrupt JPEG (image file is trunc"),
    "empty": (replaced(b""), "AF02/AF02HAS.JPG: corrupt JPEG (cannot identify image file"),
    "no JPEG": (replaced(b"GIF89a" + bytes(99)), "AF02/AF02HAS.JPG: corrupt JPEG"),
    "81 megapixels": (resized(9_000, 9_000), "AF02HAS.JPG: picture of more than 16,777,216 pixels"),
    "100 megapixels": (resized(10_000, 10_000), "picture of more than 16,777,216 pixels"),
    "4 gigapixels": (resized(65_000, 65_000), "picture of more than 16,777,216 pixels"),
    "another size": (replaced(draw(5, (60, 76))),
                     "AF02HAS.JPG: picture of 60x76, others are of 56x76"),
    "alien name": (renamed("AF02/IMG_0815.JPG"), "AF02/IMG_0815.JPG: not a name of KDEF"),
    "alien angle": (renamed("AF02/AF02HASS.JPG"), "AF02/AF02HASS.JPG: not a name of KDEF"),
    "a name twice": (twice("XX/af02has.jpg"), "XX/af02has.jpg: a second AF02HAS, beside AF02/AF02"),
    "a picture twice": (twice("AF03/AF03HAS.JPG"), ": the same picture as AF0"),
}


@pytest.mark.parametrize("defect", BAD_PICTURES)
def test_a_bad_picture_is_named(defect, tmp_path, refused):
    spoil, message = BAD_PICTURES[defect]
    spoil(files := tree())
    source = write_zip(files, tmp_path / "kdef.zip")
    line = refused("kdef", source)
    assert f"{source}: " in line and message in line and "--skip-bad" in line


@pytest.mark.parametrize("defect", BAD_PICTURES)
def test_a_bad_picture_is_skipped_and_listed_when_asked(defect, tmp_path, capsys):
    spoil, message = BAD_PICTURES[defect]
    spoil(files := tree())
    source = write_folder(files, tmp_path / "kdef")
    out = tmp_path / "faces.npz"
    assert main(["kdef", "--source", str(source), "--out", str(out), "--skip-bad"]) == 0
    assert f"left out: {source}: " in capsys.readouterr().out
    faces = FaceSet.load(out)
    assert len(faces) == (210 if "twice" in defect else 209)
    assert message in faces.meta["skipped"][0]


def test_the_commonest_size_is_right_though_another_comes_first(tmp_path, refused):
    files = tree()
    first = min(files)
    files[first] = draw(5, (60, 76))
    source = write_zip(dict(sorted(files.items())), tmp_path / "kdef.zip")
    assert f"{source}: {first}: picture of 60x76, others are of 56x76" in refused("kdef", source)
    faces = kdef.prepare(source, skip_bad=True)
    assert len(faces) == 209 and Path(first).stem not in faces.name
    del files[first]
    without = kdef.prepare(write_zip(files, tmp_path / "without.zip"), skip_bad=True)
    assert faces.meta["sources"] == without.meta["sources"]


@pytest.mark.parametrize("lost, message", [
    (["AF02/AF02HAS.JPG"], "AF02 lacks 1 of 35 pictures: AF02HAS; --skip-bad goes on without"),
    ([f"AM31/AM31{code}FL.JPG" for code in CODES],
     "AM31 lacks 7 of 35 pictures: AM31AFFL, AM31ANFL, AM31DIFL, ...;"),
])  # fmt: skip
def test_a_missing_angle_is_named(lost, message, tmp_path, refused):
    files = {name: content for name, content in tree().items() if name not in lost}
    source = write_folder(files, tmp_path / "kdef")
    assert message in refused("kdef", source)
    faces = kdef.prepare(source, skip_bad=True)
    assert len(faces) == 210 - len(lost)
    assert [f"lacks {len(lost)} of 35" in line for line in faces.meta["skipped"]] == [True]


@given(st.lists(st.tuples(st.integers(2, len(draw(5)) - 1), st.integers(0, 255)), max_size=20))
def test_a_damaged_jpeg_is_a_picture_or_refused(changes):
    content = bytearray(draw(5))
    for place, value in changes:
        content[place] = value
    try:
        assert jpeg.decode_grey(bytes(content)).mode == "L"
    except DataError as error:
        assert "\n" not in str(error)


# Bad sources ---------------------------------------------------------------------------------


def test_an_empty_zip_is_refused(tmp_path, refused):
    line = refused("kdef", write_zip({}, tmp_path / "empty.zip"))
    assert "empty.zip: no pictures here; expected KDEF's folders" in line and "nothing" in line


def test_a_source_without_pictures_says_what_it_found(tmp_path, refused):
    source = write_folder({"fer2013.csv": b"emotion"}, tmp_path / "raw")
    assert "no pictures here" in (line := refused("kdef", source)) and "found fer2013.csv" in line


def test_a_source_that_is_not_there_is_refused(tmp_path, refused):
    assert "nowhere: no such file" in refused("kdef", tmp_path / "nowhere")


def test_a_set_of_bad_pictures_only_is_refused(tmp_path, refused):
    source = write_folder({"AF01/AF01ANS.JPG": b"none", "AF01/x.jpg": b"none"}, tmp_path / "bad")
    assert f"{source}: no good picture among 2" in refused("kdef", source, "--skip-bad")


def test_too_few_people_to_split_are_refused(tmp_path, refused):
    files = {name: content for name, content in tree().items() if name.startswith("AF")}
    line = refused("kdef", write_folder(files, tmp_path / "few"))
    assert f"{tmp_path / 'few'}: 3 people; 5 person-independent folds need at least 5" in line


@pytest.mark.parametrize("name", [
    "../AF01/AF01ANS.JPG", "AF01/../../AF01ANS.JPG", "/AF01ANS.JPG", "x\\..\\..\\AF01ANS.JPG",
    "C:\\AF01ANS.JPG", "../notes.txt",
])  # fmt: skip
@pytest.mark.parametrize("options", [[], ["--skip-bad"]])
def test_a_name_that_leaves_the_archive_is_refused(name, options, tmp_path, refused):
    line = refused("kdef", write_zip(tree() | {name: b"trap"}, tmp_path / "trap.zip"), *options)
    assert f"trap.zip: holds {name!r}, which points outside the archive" in line


@pytest.mark.parametrize("options", [[], ["--skip-bad"]])
def test_a_picture_that_unpacks_to_far_too_much_is_refused(options, tmp_path, refused):
    files = tree() | {"AF02/AF02HAS.JPG": bytes(2**24 + 1)}
    bomb = write_zip(files, tmp_path / "bomb.zip", zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 2**20
    line = refused("kdef", bomb, *options)
    assert "AF02/AF02HAS.JPG has 16,777,217 bytes, more than 16,777,216" in line


def test_pictures_that_unpack_to_too_much_together_are_refused(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(kdef, "MAX_TOTAL", 100_000)
    line = refused("kdef", write_zip(tree(), tmp_path / "bomb.zip"))
    assert "bytes of pictures, more than 100,000" in line


def test_a_size_that_is_a_lie_is_refused(tmp_path, refused):
    """The directory of the zip claims 1,000 bytes, the stream goes on."""
    files = {"AF02/AF02HAS.JPG": draw(5) + bytes(2**20)} | tree()
    path = write_zip(files, tmp_path / "lie.zip", zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 1_000)
    path.write_bytes(content)
    assert "lie.zip: a damaged or cut-off archive" in refused("kdef", path, "--skip-bad")


def test_a_cut_off_zip_is_refused(tmp_path, refused):
    path = write_zip(tree(), tmp_path / "kdef.zip")
    path.write_bytes(path.read_bytes()[:-5_000])
    assert "kdef.zip: a damaged or cut-off archive" in refused("kdef", path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_without_permission_is_refused(tmp_path, refused):
    source = write_folder(tree(), tmp_path / "kdef")
    (source / "AF31").chmod(0)
    assert f"{source / 'AF31'}: Permission denied" in refused("kdef", source)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, refused, monkeypatch):
    """The same for root, who has every permission."""
    source = write_folder(tree(), tmp_path / "kdef")
    listed = os.scandir

    def scandir(folder):
        if Path(folder).name == "AF31":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert f"{source / 'AF31'}: Permission denied" in refused("kdef", source)
