"""KDEF: the tree with all its oddities, PoseFaces by the same reader, and every trap refused.

The pictures are stand-ins, drawn here, since KDEF may not be redistributed.
"""

import io
import json
import os
import struct
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep import jpeg, kdef
from data_prep.__main__ import main
from data_prep.posefaces import build, expressions, pictures
from lanmsff.data import DataError, FaceSet

PEOPLE = ("F01", "F02", "F31", "M01", "M31")
SITTINGS = [f"A{person}" for person in PEOPLE] + ["BF01"]
CODES = ("AF", "AN", "DI", "HA", "NE", "SA", "SU")
ANGLES = {"FL": 90, "HL": 45, "S": 0, "HR": -45, "FR": -90}
SMALL = (56, 76)  # KDEF's shape, a tenth of its size
BLACK_NAME = "AM01DIHR"


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@cache
def draw(seed: int, size: tuple[int, int] = SMALL) -> bytes:
    """A colour JPEG that no other seed gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 220, (5, 4, 3), dtype=np.uint8))
    return encode(np.asarray(coarse.resize(size)))


def tree(size: tuple[int, int] = SMALL) -> dict[str, bytes]:
    """KDEF as named by its own rules: `AF01/AF01ANFL.JPG`, six sittings of five people."""
    names = [f"{who}/{who}{code}{angle}.JPG"
             for who in SITTINGS for code in CODES for angle in ANGLES]
    return {name: draw(seed, size) for seed, name in enumerate(names)}


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


def write_folder(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(files: dict[str, bytes], path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


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


@settings(deadline=None)
@given(SHOTS)
def test_a_name_is_read_as_it_is_written(shot):
    assert kdef.parse_name(f"{shot.name}.JPG") == shot
    assert kdef.parse_name(f"deep/er\\{shot.name.lower()}.jpg") == shot


def test_reader_and_renderer_mean_the_same():
    assert kdef.YAWS == pictures.YAWS == ANGLES
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


# PoseFaces -----------------------------------------------------------------------------------


def square(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    return encode(rng.integers(20, 250, (kdef.SIDE, kdef.SIDE), dtype=np.uint8))


@pytest.fixture
def posefaces(tmp_path, monkeypatch) -> dict[str, bytes]:
    """A stand-in for the embedded set: two further people, yaws of -90, 10 and 90 in the sweep."""
    files = {name: square(seed) for seed, name in enumerate(tree())}
    sweep = [f"sweep/{who}/{who}{code}{yaw:+04d}.JPG"
             for who in ("AF71", "AM72") for code in CODES for yaw in (-90, 10, 90)]
    files |= {name: square(1000 + seed) for seed, name in enumerate(sweep)}
    names = list(files)
    regions = np.random.default_rng(0).integers(0, 2, (len(names), 32, 32), dtype=np.uint8)
    regions[:, 0, 31] = np.arange(len(names)) % 251
    buffer = io.BytesIO()
    np.savez_compressed(buffer, name=np.array(names).astype("S"), regions=regions,
                        labels=np.array(("background", "skin")))
    others = {"regions.npz": buffer.getvalue(), "manifest.csv": b"name,yaw\n"}
    monkeypatch.setattr(kdef, "POSEFACES", write_zip(files | others, tmp_path / "posefaces.zip"))
    return files


def test_posefaces_come_untouched_and_without_the_sweep(posefaces):
    faces = kdef.load_posefaces()
    assert len(faces) == 210 and faces.meta["dataset"] == "PoseFaces"
    assert faces.meta["passed_over"] == {"files": 2, "pictures of the other part": 42}
    assert not {"F71", "M72"} & set(faces.subject.tolist())
    for image, name in zip(faces.images, faces.name, strict=True):
        stored = np.asarray(Image.open(io.BytesIO(posefaces[f"{name[:4]}/{name}.JPG"])))
        np.testing.assert_array_equal(image, stored)


def test_the_sweep_is_a_part_of_its_own_and_all_test(posefaces):
    faces = kdef.load_posefaces("sweep")
    assert faces.meta["dataset"] == "PoseFaces sweep"
    assert set(faces.subject.tolist()) == {"F71", "M72"} and set(faces.yaw) == {-90, 10, 90}
    assert faces.meta["counts"] == {"train": 0, "val": 0, "test": 42}
    i = faces.name.tolist().index("AM72SU+010")
    stored = Image.open(io.BytesIO(posefaces["sweep/AM72/AM72SU+010.JPG"]))
    np.testing.assert_array_equal(faces.images[i], np.asarray(stored))


def test_the_embedded_set():
    """The committed file, whole: what the chapters get."""
    faces, sweep = kdef.load_posefaces(), kdef.load_posefaces("sweep")
    assert faces.meta["counts"] == {"train": 2940, "val": 980, "test": 980}
    assert sweep.meta["counts"] == {"train": 0, "val": 0, "test": 1330}
    assert len(set(faces.subject)) == 70 and len(set(sweep.subject)) == 10
    assert not set(faces.subject) & set(sweep.subject)
    assert sorted(set(sweep.yaw)) == list(range(-90, 91, 10))
    for part in (faces, sweep):
        assert part.meta["black"] == part.meta["skipped"] == []
        assert len(set(zip(part.labels.tolist(), part.yaw.tolist()))) == 7 * len(set(part.yaw))


@pytest.mark.parametrize("part", kdef.PARTS)
def test_embedded_noses_follow_the_yaw(part):
    """Faces, regions and yaws belong together: at negative yaw the nose is on the left."""
    regions, names = kdef.load_regions(part)
    nose, yaw = regions == names.index("nose"), kdef.load_posefaces(part).yaw
    column = [np.nonzero(nose[yaw == degrees])[2].mean() for degrees in np.unique(yaw)]
    assert column == sorted(column) and column[0] < 16 and column[-1] > 48


@pytest.mark.parametrize("load", [kdef.load_posefaces, kdef.load_regions])
def test_an_unknown_part_is_refused(load, posefaces):
    with pytest.raises(DataError, match="part 'all': choose one of main, sweep"):
        load("all")


@pytest.mark.parametrize("part", kdef.PARTS)
def test_regions_stand_in_the_order_of_the_faces(part, posefaces):
    regions, labels = kdef.load_regions(part, size=32)
    row = {Path(name).stem: number for number, name in enumerate(posefaces)}
    faces = kdef.load_posefaces(part)
    assert regions[:, 0, 31].tolist() == [row[name] % 251 for name in faces.name.tolist()]
    assert labels == ["background", "skin"]


def test_regions_are_enlarged_by_repeating(posefaces):
    small, large = (kdef.load_regions(size=size)[0] for size in (32, 64))
    np.testing.assert_array_equal(large, small.repeat(2, axis=1).repeat(2, axis=2))


def test_without_the_embedded_set_the_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(kdef, "POSEFACES", tmp_path / "posefaces.zip")
    with pytest.raises(DataError, match="posefaces.zip: no such file"):
        kdef.load_posefaces()


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


@settings(deadline=None)
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
    assert "3 people; 5 person-independent folds need at least 5" in line


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


@pytest.fixture(autouse=True)
def _needs_the_rendered_set(request):
    """Tests named after the embedded set say so when it has not been rendered here."""
    zip_file = Path(__file__).resolve().parents[2] / "data" / "posefaces.zip"
    if "embedded" in request.node.name and not zip_file.exists():
        pytest.skip(f"{zip_file.name} is not rendered yet: python -m data_prep posefaces")
