"""KDEF: what its names say, the tree with all its oddities, the split, and the boxes."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdef_standin import ANGLES, PEOPLE, draw, encode, tree, write_folder, write_zip
from PIL import Image

from data_prep import kdef
from data_prep.__main__ import main
from data_prep.posefaces import build, expressions, pictures
from lanmsff.data import DataError, FaceSet

BLACK_NAME = "AM01DIHR"


def shipped() -> dict[str, bytes]:
    """KDEF as it comes: deeper, two names slipped, one picture black, other files beside."""
    files = {f"KDEF_and_AKDEF/KDEF/{name}": content for name, content in tree().items()}
    top = "KDEF_and_AKDEF/KDEF/"
    files[f"{top}AF31/AF31V.JPG"] = files.pop(f"{top}AF31/AF31SAHL.JPG")
    files[f"{top}AM31/AM31H.JPG"] = files.pop(f"{top}AM31/AM31SUHR.JPG")
    files[f"{top}AF02/AF02NES.jpg"] = files.pop(f"{top}AF02/AF02NES.JPG")
    files[f"{top}AM01/{BLACK_NAME}.JPG"] = encode(np.full((76, 56, 3), 3, np.uint8))
    beside = ("KDEF/AF01/Thumbs.db", "KDEF/.DS_Store", "KDEF/AF01/._AF01ANFL.JPG",
              "ReadThis/readme.txt", "AKDEF/FAFFL.JPG", "KDEFmap/map1.jpg")
    files |= {f"KDEF_and_AKDEF/{name}": b"none of KDEF's pictures" for name in beside}
    return files | {"__MACOSX/KDEF/AF01/AF01ANFL.JPG": b"clutter"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> FaceSet:
    """What every form of the stand-in gives."""
    return kdef.prepare(write_folder(shipped(), tmp_path_factory.mktemp("kdef")))


def assert_same(faces: FaceSet, other: FaceSet) -> None:
    for name, column in other.columns.items():
        np.testing.assert_array_equal(getattr(faces, name), column, err_msg=name)
    assert faces.meta["sources"] == other.meta["sources"]


# Names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("file, subject, session, expression, yaw", [
    ("AF01ANFL.JPG", "F01", "A", "angry", 90),
    ("KDEF/BF01/BF01AFHL.JPG", "F01", "B", "afraid", 45),
    ("AM35SAS.JPG", "M35", "A", "sad", 0),
    ("bm07sus.jpeg", "M07", "B", "surprised", 0),
    ("x\\AM10DIHR.jpg", "M10", "A", "disgusted", -45),
    ("AF22NEFR.JPG", "F22", "A", "neutral", -90),
    ("AF31V.JPG", "F31", "A", "sad", 45),
    ("am31h.jpg", "M31", "A", "surprised", -45),
    ("sweep/AF71/AF71HA-030.JPG", "F71", "A", "happy", -30),
    ("sweep/AM75/AM75HA+000.JPG", "M75", "A", "happy", 0),
])  # fmt: skip
def test_a_name_says_who_what_and_how(file, subject, session, expression, yaw):
    shot = kdef.parse_name(file)
    said = (shot.subject, shot.session, kdef.CLASSES[shot.label], shot.yaw)
    assert said == (subject, session, expression, yaw)
    assert shot.sweep == file.startswith("sweep")


@pytest.mark.parametrize("file", [
    "portrait.jpg", "CF01ANFL.JPG", "AX01ANFL.JPG", "AF1ANFL.JPG", "AF01XXFL.JPG", "AF01AN.JPG",
    "AF01ANXL.JPG", "AF01ANFL2.JPG", "xAF01ANFL.JPG", "AF٠١ANFL.JPG", "AF01AN30.JPG", ".JPG",
])  # fmt: skip
def test_an_alien_name_is_no_shot(file):
    with pytest.raises(DataError, match="as in AF01ANFL.JPG"):
        kdef.parse_name(file)


SHOTS = st.one_of(
    st.builds(kdef.Shot, st.from_regex("[FM][0-9]{2}", fullmatch=True), st.sampled_from("AB"),
              st.integers(0, 6), st.sampled_from(list(ANGLES.values()))),
    st.builds(kdef.Shot, st.from_regex("[FM][0-9]{2}", fullmatch=True), st.sampled_from("AB"),
              st.integers(0, 6), st.integers(-180, 180), st.just(True)),
)  # fmt: skip


@given(SHOTS)
def test_a_name_is_read_as_it_is_written(shot):
    assert kdef.parse_name(f"{shot.name}.JPG") == shot
    assert kdef.parse_name(f"deep/er\\{shot.name.lower()}.jpg") == shot


def test_reader_and_renderer_mean_the_same():
    assert kdef.YAWS == ANGLES
    assert kdef.SIDE == build.SIZE
    assert list(kdef.CODES.items()) == [(e.code, e.name) for e in expressions.EXPRESSIONS]
    for shot in (pictures.Shot("B", "M35", "SU", -45),
                 pictures.Shot("A", "F71", "NE", -30, sweep=True)):
        read = kdef.parse_name(shot.name)
        assert (read.session, read.subject, read.yaw) == (shot.session, shot.person, shot.yaw)
        assert list(kdef.CODES)[read.label] == shot.expression and read.sweep == shot.sweep


@pytest.mark.parametrize("yaw, angle", [
    (-90, "FR"), (-70, "FR"), (-60, "HR"), (-20, "S"), (0, "S"), (30, "HL"), (60, "HL"), (80, "FL"),
])  # fmt: skip
def test_the_nearest_angle(yaw, angle):
    assert kdef.angle_of(yaw) == angle


# The tree ------------------------------------------------------------------------------------


def test_what_is_known_of_each_face(expected):
    assert expected.classes == ["afraid", "angry", "disgusted", "happy", "neutral", "sad",
                                "surprised"]
    assert len(expected) == 6 * 35 - 1
    assert expected.images.shape == (209, kdef.SIDE, kdef.SIDE)
    row = {name: i for i, name in enumerate(expected.name.tolist())}
    assert len(row) == 209
    for name, person, session, expression, yaw in (
        ("AF01ANFL", "F01", "A", "angry", 90), ("BF01NEFR", "F01", "B", "neutral", -90),
        ("AF31SAHL", "F31", "A", "sad", 45), ("AM31SUHR", "M31", "A", "surprised", -45),
        ("AF02NES", "F02", "A", "neutral", 0),
    ):  # fmt: skip
        i = row[name]
        assert (expected.subject[i], expected.session[i]) == (person, session)
        assert (expected.classes[expected.labels[i]], expected.yaw[i]) == (expression, yaw)
    drawn = Image.open(io.BytesIO(tree()["AF31/AF31SAHL.JPG"])).convert("L")
    crop = drawn.crop((0, 10, 56, 66)).resize((kdef.SIDE, kdef.SIDE), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(expected.images[row["AF31SAHL"]], np.asarray(crop))


def test_black_pictures_are_dropped_by_content_and_listed(expected):
    assert expected.meta["black"] == [BLACK_NAME]
    assert BLACK_NAME not in expected.name
    assert expected.meta["skipped"] == []


def test_other_files_are_passed_over_and_counted(expected):
    assert expected.meta["passed_over"]["files"] == 3  # clutter of the system is never seen


def lower(files):
    return {name.lower(): content for name, content in files.items() if "MACOSX" not in name}


def flat(files):
    return {Path(name).name: content for name, content in files.items()
            if name.startswith("KDEF_and_AKDEF/KDEF/")}


def backslashes(files):
    return {name.replace("/", "\\"): content for name, content in files.items()
            if "MACOSX" not in name and "._" not in name and "Thumbs" not in name}


def backwards(files):
    return dict(reversed(files.items()))


@pytest.mark.parametrize("change", [dict, lower, flat])
@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
def test_every_form_gives_the_same_faces(form, change, tmp_path, pack, expected):
    source = write_folder(change(shipped()), tmp_path / "tree")
    if form != "folder":
        source = pack(source, f"kdef.{form}")
    assert_same(kdef.prepare(source), expected)


@pytest.mark.parametrize("change", [backslashes, backwards])
def test_a_zip_may_be_written_by_other_programs(change, tmp_path, expected):
    assert_same(kdef.prepare(write_zip(change(shipped()), tmp_path / "kdef.zip")), expected)


def test_the_split_keeps_people_apart(expected):
    people = {split: set(expected.subject[expected.split == split].tolist())
              for split in ("train", "val", "test")}
    assert sorted(len(who) for who in people.values()) == [1, 1, 3]
    assert set.union(*people.values()) == set(PEOPLE)
    assert expected.meta["fold"] == "person-independent, seed 0, 1 of 5"


def test_the_command_writes_and_says_what_is_in_it(tmp_path, capsys, expected):
    source = write_zip(shipped(), tmp_path / "kdef.zip")
    out = tmp_path / "new" / "kdef.npz"
    assert main(["kdef", "--source", str(source), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "209 faces of 80x80" in printed
    assert f"black, left out: {BLACK_NAME}" in printed
    assert "passed over: 3 files" in printed
    assert "test: 1 people: " in printed
    assert "warning: " in printed and "all of KDEF, and of PoseFaces, is 70 in 140" in printed
    faces = FaceSet.load(out)
    assert_same(faces, expected)
    assert faces.meta == expected.meta and faces.meta["dataset"] == "KDEF"


def test_the_record_of_the_source_follows_every_picture(tmp_path, expected):
    files = shipped()
    files["KDEF_and_AKDEF/KDEF/AF02/AF02HAS.JPG"] = draw(999)
    other = kdef.prepare(write_zip(files, tmp_path / "kdef.zip"))
    assert list(other.meta["sources"]) == list(expected.meta["sources"]) == ["KDEF pictures"]
    assert other.meta["sources"] != expected.meta["sources"]


# Boxes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_size(tmp_path_factory) -> Path:
    """KDEF at its real size: dark at the top, grey in the middle square, bright below."""
    pixels = np.zeros((762, 562, 3), np.uint8)
    pixels[100:662, :281], pixels[100:662, 281:], pixels[662:] = 100, 160, 250
    files = {name: encode(pixels + np.uint8(i % 5)) for i, name in enumerate(tree())}
    for i, name in enumerate(files):  # a comment makes each a picture of its own
        files[name] = files[name][:2] + struct.pack(">BBHI", 255, 254, 6, i) + files[name][2:]
    return write_zip(files, tmp_path_factory.mktemp("full") / "kdef.zip")


def test_the_default_box_is_the_central_square(full_size):
    images = kdef.prepare(full_size).images.astype(int)
    left, right = images[:, 2:-2, :38], images[:, 2:-2, 42:]
    assert 95 < left.min() and left.max() < 110 and 155 < right.min() and right.max() < 170


def test_boxes_of_each_angle_are_cropped(full_size, tmp_path):
    table = {"FL": [0, 0, 1, 100 / 762], "HR": [0.5, 0.2, 1, 0.6], "S": [0, 700 / 762, 0.2, 1]}
    (tmp_path / "boxes.json").write_text(json.dumps(table))
    out = tmp_path / "kdef.npz"
    command = ["kdef", "--source", str(full_size), "--out", str(out)]
    assert main([*command, "--boxes", str(tmp_path / "boxes.json")]) == 0
    faces = FaceSet.load(out)
    inner = faces.images[:, 4:-4, 4:-4].astype(int)
    for yaw, low, high in ((90, 0, 10), (-45, 155, 170), (0, 245, 255)):
        assert low <= inner[faces.yaw == yaw].min() and inner[faces.yaw == yaw].max() <= high
    assert np.ptp(inner[faces.yaw == 45][0]) > 50  # the central square, which has two halves
    assert faces.meta["boxes"] == table | {"HL": "central square", "FR": "central square"}


@pytest.mark.parametrize("text, message", [
    ("{", "not JSON"),
    ("[1]", "keys FR, HR, S, HL, FL"),
    ('{"XX": [0, 0, 1, 1]}', "keys FR, HR, S, HL, FL"),
    ('{"S": [0, 0, 1]}', "box S is [0, 0, 1]; expected [left, top, right, bottom]"),
    ('{"S": [0.5, 0, 0.5, 1]}', "box S"),
    ('{"S": [0, 0, 562, 762]}', "fractions"),
    ('{"S": [0, 0, 1.1, 1]}', "box S"),
    ('{"S": [0, 0, 1, 1.1]}', "box S"),
    ('{"S": [-0.1, 0, 1, 1]}', "box S"),
    ('{"S": [0, -0.1, 1, 1]}', "box S"),
    ('{"S": [0, 0, NaN, 1]}', "box S"),
    ('{"S": "wide"}', "box S"),
])  # fmt: skip
def test_a_bad_table_of_boxes_is_refused(text, message, tmp_path, refused):
    (tmp_path / "boxes.json").write_text(text)
    line = refused("kdef", tmp_path, "--boxes", str(tmp_path / "boxes.json"))
    assert f"{tmp_path / 'boxes.json'}: " in line and message in line


def test_a_box_without_a_pixel_is_refused(tmp_path, refused):
    (tmp_path / "boxes.json").write_text('{"S": [0.5, 0, 0.501, 1]}')
    source = write_zip(tree(), tmp_path / "kdef.zip")
    line = refused("kdef", source, "--boxes", str(tmp_path / "boxes.json"))
    assert "AF01/AF01AFS.JPG: box [0.5, 0, 0.501, 1] is empty in 56x76" in line


def test_an_absent_table_of_boxes_is_refused(tmp_path, refused):
    assert "boxes.json: No such file" in refused("kdef", tmp_path, "--boxes", "boxes.json")
