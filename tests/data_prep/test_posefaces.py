"""The embedded set as committed, and the renderer that made it."""

import csv
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_prep.posefaces import build, camera, expressions, ict, pictures, rays, skin, subject
from lanmsff.data import DataError
from lanmsff.intervals import accuracy_interval
from lanmsff.results import read_record

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "data" / "posefaces.zip"
MODEL = "data/ictfacekit/ICT-FaceKit-da5f95a.zip"
ALL_SHOTS = pictures.main_shots(pictures.PEOPLE, "AB") + pictures.sweep_shots(pictures.SWEEP_PEOPLE)


def decode(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


@pytest.fixture(scope="module")
def images():
    """Name -> picture, of the committed zip."""
    with zipfile.ZipFile(COMMITTED) as archive:
        return {n: decode(archive.read(n)) for n in archive.namelist() if n.endswith(".JPG")}


@pytest.fixture(scope="module")
def regions():
    """Name -> region map, of the committed zip."""
    with zipfile.ZipFile(COMMITTED) as archive:
        with np.load(io.BytesIO(archive.read("regions.npz"))) as file:
            assert tuple(file["labels"]) == skin.REGIONS
            return dict(zip(file["name"].astype(str), file["regions"]))


@pytest.fixture(scope="module")
def model_path(shared):
    pytest.importorskip("embreex", reason="needs embreex (pip install 'lanmsff[render]')")
    return shared(MODEL)


@pytest.fixture(scope="module")
def model(model_path):
    return ict.load_model(model_path)


@pytest.fixture(scope="module")
def globe(model):
    return skin.survey(model)


# The committed set ---------------------------------------------------------------------------


def test_zip_holds_exactly_the_named_pictures(images):
    assert COMMITTED.stat().st_size <= 8_000_000
    assert set(images) == {shot.name for shot in ALL_SHOTS}
    assert len(images) == 70 * 2 * 7 * 5 + 10 * 7 * 19
    assert {image.shape for image in images.values()} == {(build.SIZE, build.SIZE)}
    assert {image.dtype for image in images.values()} == {np.dtype(np.uint8)}


def test_names_are_those_of_kdef():
    assert pictures.Shot("A", "F01", "AN", -90).name == "AF01/AF01ANFR.JPG"
    assert pictures.Shot("B", "M35", "SU", 0).name == "BM35/BM35SUS.JPG"
    assert pictures.Shot("A", "F71", "NE", -30, sweep=True).name == "sweep/AF71/AF71NE-030.JPG"


def test_no_two_pictures_are_the_same_and_none_is_flat(images):
    assert len({image.tobytes() for image in images.values()}) == len(images)
    assert min(image.std() for image in images.values()) > 8


def test_no_near_duplicates_across_people(images):
    """Light and contrast taken out, no picture is close to one of another person."""
    names = [shot.name for shot in ALL_SHOTS if not shot.sweep]
    shrunk = [Image.fromarray(images[n]).resize((32, 32), Image.Resampling.BOX) for n in names]
    faces = np.array([np.asarray(face).ravel() for face in shrunk], np.float32)
    faces -= faces.mean(axis=1, keepdims=True)
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    people = np.array([shot.person for shot in ALL_SHOTS if not shot.sweep])
    correlation = np.where(people[:, None] == people, 0, faces @ faces.T)
    assert 0.5 < correlation.max() < 0.97


def test_manifest_and_notice_travel_with_the_pictures():
    with zipfile.ZipFile(COMMITTED) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("manifest.csv").decode())))
        people = list(csv.DictReader(io.StringIO(archive.read("people.csv").decode())))
        notice = archive.read("LICENSE-ICT-FaceKit.txt").decode()
    assert [row["name"] for row in rows] == [shot.name for shot in ALL_SHOTS]
    assert all(
        abs(float(row["yaw"]) - shot.yaw) <= 5.05 and 0.5 <= float(row["intensity"]) <= 1
        for row, shot in zip(rows, ALL_SHOTS)
    )
    assert [row["person"] for row in people] == pictures.PEOPLE + pictures.SWEEP_PEOPLE
    assert "Permission is hereby granted" in notice and "Creative Technologies" in notice


def test_every_picture_has_its_regions(images, regions):
    assert list(regions) == [shot.name for shot in ALL_SHOTS]
    assert {r.shape for r in regions.values()} == {(build.REGION_SIZE,) * 2}
    assert max(r.max() for r in regions.values()) < len(skin.REGIONS)


def area(regions: dict, region: str, **where) -> np.ndarray:
    """Pixels of a region in every picture whose shot has the given attributes."""
    number = skin.REGIONS.index(region)
    chosen = [s for s in ALL_SHOTS if all(getattr(s, k) == v for k, v in where.items())]
    return np.array([(regions[shot.name] == number).sum() for shot in chosen])


@pytest.mark.parametrize(
    "region", ["left_eye", "right_eye", "left_brow", "right_brow", "nose", "mouth"]
)
def test_a_frontal_face_shows_all_its_parts(regions, region):
    assert (area(regions, region, yaw=0) > 0).mean() > 0.99


@pytest.mark.parametrize(
    "yaw, near, far", [(-90, "left_eye", "right_eye"), (90, "right_eye", "left_eye")]
)
def test_a_profile_shows_one_eye_and_half_a_mouth(regions, yaw, near, far):
    """At -90 the face is turned to its own right, so that its left side is seen."""
    assert (area(regions, near, yaw=yaw) > 0).mean() > 0.99
    assert (area(regions, far, yaw=yaw) == 0).mean() > 0.99
    whole, half = area(regions, "mouth", yaw=0).mean(), area(regions, "mouth", yaw=yaw).mean()
    assert 0.1 * whole < half < 0.5 * whole  # half a mouth, and foreshortened


def test_the_nose_moves_right_with_growing_yaw(regions):
    """The convention of the project: negative yaw, nose to the left edge of the picture."""
    nose = skin.REGIONS.index("nose")

    def column(shot) -> float:
        return np.nonzero(regions[shot.name] == nose)[1].mean() / build.REGION_SIZE

    sweep = [shot for shot in ALL_SHOTS if shot.sweep]
    mean = [np.mean([column(s) for s in sweep if s.yaw == yaw]) for yaw in pictures.SWEEP_YAWS]
    assert mean[0] < 0.25 and mean[-1] > 0.75
    assert (np.diff(mean) > 0).all()


def test_no_face_is_cut_off_by_the_frame(model):
    """All 68 landmarks (chin, jaw, nose, brows, eyes, lips) of all pictures lie inside."""
    shapes = {name: moved[ict.LANDMARKS] for name, moved in model.expressions.items()}
    marks_only = replace(model, expressions=shapes)
    for name in pictures.PEOPLE + pictures.SWEEP_PEOPLE:
        shots = [shot for shot in ALL_SHOTS if shot.person == name]
        vertices = model.identity(pictures.person_of(shots[0]).identity)
        framing = subject.frame_head(vertices)
        for shot in shots:
            weights = expressions.blendshape_weights(pictures.performance_of(shot))
            marks = marks_only.express(vertices[ict.LANDMARKS], weights)
            where = camera.project(marks, pictures.view_of(shot), *framing)
            assert 0 < where.min() and where.max() < 1, shot.name


def test_projection_inverts_the_rays():
    view, aim = camera.View(yaw=30, pitch=-10, roll=5, shift=(0.4, -0.2)), np.array([0, 1.0, 2.0])
    origin, directions = camera.camera_rays(view, aim, 1.1, size=4, supersample=1)
    centres = [((i % 4 + 0.5) / 4, (i // 4 + 0.5) / 4) for i in range(16)]
    found = camera.project(origin + 120.0 * directions, view, aim, 1.1)
    assert found == pytest.approx(np.array(centres), abs=1e-4)


# Expressions ---------------------------------------------------------------------------------


def test_expressions_name_only_blendshapes_of_the_model(model):
    units = {unit for e in expressions.EXPRESSIONS for v in e.variants for unit in v}
    assert units <= set(expressions.ACTION_UNITS)
    everything = {unit: (1.0, 1.0) for unit in expressions.ACTION_UNITS}
    weights = expressions.blendshape_weights(expressions.Performance(1.0, everything))
    assert set(weights) <= set(model.expressions)
    assert {shape for shapes in skin.WRINKLES.values() for shape in shapes} <= set(
        model.expressions
    )


@pytest.mark.parametrize("expression", expressions.EXPRESSIONS, ids=lambda e: e.code)
def test_performances_vary_within_bounds(expression):
    rng = np.random.default_rng(0)
    played = [expressions.perform(expression, rng) for _ in range(50)]
    weights = [expressions.blendshape_weights(p) for p in played]
    assert all(0 <= w <= 1 for one in weights for w in one.values())
    assert all(0.5 <= p.intensity <= 1 for p in played)
    assert len({tuple(sorted(one.items())) for one in weights}) > 40  # some rest completely


def test_sides_of_a_unit_go_to_their_blendshapes():
    weights = expressions.blendshape_weights(
        expressions.Performance(1.0, {12: (0.8, 0.4), 26: (1.0, 0.0)})
    )
    assert weights == pytest.approx({"mouthSmile_L": 0.96, "mouthSmile_R": 0.48, "jawOpen": 0.325})


# Geometry and rendering ----------------------------------------------------------------------


@pytest.mark.parametrize("view, nose", [
    (camera.View(yaw=-90), (-1, 0, 0)),
    (camera.View(yaw=90), (1, 0, 0)),
    (camera.View(pitch=90), (0, 1, 0)),
    (camera.View(roll=30), (0, 0, 1)),
])  # fmt: skip
def test_rotation_convention(view, nose):
    assert camera.head_rotation(view) @ [0, 0, 1] == pytest.approx(nose, abs=1e-6)
    assert camera.head_rotation(view) @ camera.head_rotation(view).T == pytest.approx(np.eye(3))


def test_model_is_linear_in_its_coefficients(model):
    one = np.eye(100)[3]
    assert model.identity(np.zeros(100)) == pytest.approx(model.neutral)
    assert model.identity(2 * one) - model.neutral == pytest.approx(
        2 * model.identities[3], abs=1e-4
    )
    opened = model.express(model.neutral, {"jawOpen": 1.0})
    assert opened[ict.LANDMARKS[8], 1] < model.neutral[ict.LANDMARKS[8], 1] - 2  # the chin, cm


def test_rays_hit_a_known_triangle():
    pytest.importorskip("embreex", reason="needs embreex (pip install 'lanmsff[render]')")
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    caster = rays.Caster(corners, np.array([[0, 1, 2]], np.int32))
    origins, down = np.array([[0.2, 0.3, 5.0], [2, 2, 5]]), np.array([[0, 0, -1.0]] * 2)
    hits = caster.hits(origins, down)
    assert hits.found.tolist() == [True, False] == caster.blocked(origins, down).tolist()
    assert hits.distance[0] == pytest.approx(5)
    assert hits.weights[0] == pytest.approx([0.5, 0.2, 0.3])


def test_ten_pictures_rendered_again_equal_the_committed_ones(model, globe, images):
    """Same machine or not: pixels may differ by what JPEG coding and rounding make of them."""
    people = {"F03": (0, 90), "M17": (-45, 0, 45), "F35": (-90, 0)}
    shots = [pictures.Shot("AB"[i % 2], p, e.code, yaw)
             for i, (p, yaws) in enumerate(people.items())
             for e, yaw in zip(expressions.EXPRESSIONS[2 * i :], yaws)]  # fmt: skip
    shots += [pictures.Shot("A", "M72", "HA", yaw, sweep=True) for yaw in (-60, 10, 80)]
    assert len(shots) == 10
    for shot, picture in build.render_shots(model, globe, shots):
        again = decode(build.encode(picture.image)).astype(float)
        difference = np.abs(again - images[shot.name])
        assert difference.mean() < 1.5, shot.name
        other = np.abs(again - images[pictures.Shot("A", "M01", "NE", 0).name])
        assert other.mean() > 10  # the comparison can tell pictures apart


def test_a_picture_does_not_depend_on_its_company(model, globe):
    alone = pictures.Shot("A", "M02", "DI", 45)
    shots = [pictures.Shot("A", "M02", "DI", 0), alone]
    together = dict(build.render_shots(model, globe, shots))[alone]
    single = dict(build.render_shots(model, globe, [alone]))[alone]
    assert np.array_equal(together.image, single.image)
    assert np.array_equal(together.regions, single.regions)


def test_same_command_gives_the_same_bytes(model_path, tmp_path):
    shots = [pictures.Shot("A", p, "HA", yaw) for p in ("F01", "M02") for yaw in (0, 90)]
    for name, jobs in (("one.zip", 1), ("two.zip", 2)):
        build.build(model_path, tmp_path / name, shots, jobs)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


# Bad input -----------------------------------------------------------------------------------


def model_zip(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"ICT-FaceKit-x/FaceXModel/{name}.obj", text)
    return path


def test_a_missing_or_foreign_model_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        ict.load_model(tmp_path / "absent.zip")
    (tmp_path / "text.zip").write_text("this is no zip")
    with pytest.raises(DataError, match="a damaged or cut-off archive"):
        ict.load_model(tmp_path / "text.zip")
    with pytest.raises(DataError, match="generic_neutral_mesh.obj is missing"):
        ict.load_model(model_zip(tmp_path / "other.zip", {"cube": "v 0 0 0\n"}))


@pytest.mark.parametrize("text, message", [
    ("v 0 0 0\nf 1 1 1\n", "1 vertices where 26719"),
    ("v 0 zero 0\n", "not three numbers"),
    ("", "no vertices"),
])  # fmt: skip
def test_a_damaged_shape_is_refused_by_name(tmp_path, text, message):
    names = ["generic_neutral_mesh", *(f"identity{i:03d}" for i in range(100))]
    with pytest.raises(DataError, match=message) as error:
        ict.load_model(model_zip(tmp_path / "bad.zip", dict.fromkeys(names, text)))
    assert "generic_neutral_mesh.obj" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("corners", ["1 2 x", "1 2 26720", "0 1 2", "1 2 " + "9" * 5000])
def test_a_corner_that_is_no_vertex_is_refused(corners):
    with pytest.raises(DataError, match="obj: line 2: a corner is not one of the vertices 1 to"):
        ict._triangles(f"f 1 2 3\nf {corners}\n".encode())


def damage_directory(content: bytearray) -> None:
    content[content.index(b"PK\x01\x02")] = 0


def encrypt(content: bytearray) -> None:
    content[content.index(b"PK\x01\x02") + 8] |= 1


@pytest.mark.parametrize("spoil, message", [
    (damage_directory, "a damaged or cut-off archive"),
    (encrypt, "is encrypted"),
])  # fmt: skip
def test_a_damaged_archive_of_the_model_is_refused(tmp_path, spoil, message):
    path = model_zip(tmp_path / "model.zip", {"generic_neutral_mesh": "v 0 0 0\n"})
    spoil(content := bytearray(path.read_bytes()))
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"model.zip: {message}"):
        ict.load_model(path)


@pytest.mark.parametrize("change, message", [
    ({"people": ["F99"]}, "no 'F99'"),
    ({"jobs": 0}, "not a number of processes"),
    ({"out": Path("set.npz")}, r"named \*.zip"),
    ({"out": Path(__file__) / "set.zip"}, "is a file; choose another"),
    ({"model": Path("absent.zip")}, "no such file"),
])  # fmt: skip
def test_bad_arguments_are_one_line_and_write_nothing(tmp_path, change, message):
    args = {"model": tmp_path / "m.zip", "out": tmp_path / "set.zip", "people": ["F01"], "jobs": 1}
    with pytest.raises(DataError, match=message):
        build.run(SimpleNamespace(**args | change))
    assert list(tmp_path.iterdir()) == []


def test_without_embreex_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "embreex.mesh_construction", None)
    with pytest.raises(DataError, match=r"pip install 'lanmsff\[render\]'"):
        rays.Caster(np.zeros((3, 3), np.float32), np.zeros((1, 3), np.int32))


def test_an_output_that_cannot_be_written_leaves_nothing(model_path, tmp_path):
    (tmp_path / "file").write_text("in the way")
    shots = [pictures.Shot("A", "F01", "NE", 0)]
    with pytest.raises(OSError):
        build.build(model_path, tmp_path / "file" / "set.zip", shots, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_network_s_figures_in_the_readme_are_those_of_the_record():
    record = read_record(ROOT / "results" / "posefaces-improved-24epochs.json")

    def written(share, ends):
        return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * number for number in (share, *ends)))

    everyone = record["scores"]["all"]
    found, counts = [written(everyone["accuracy"], everyone["accuracy_over_people_95"])], []
    for turn in (0, 45, 90):
        rows = [row for row in record["yaw"] if abs(row["yaw"]) == turn]
        counts.append(np.sum([(row["correct"], row["n"]) for row in rows], axis=0))
        right, n = map(int, counts[-1])
        found.append(written(right / n, accuracy_interval(right, n)))
    front, _, side = (right / n for right, n in counts)
    spread = 1.96 * sum(p * (1 - p) / n for p, (_, n) in zip((front, side), counts[::2])) ** 0.5
    gap = front - side
    found.append(written(gap, (gap - spread, gap + spread)).replace(" [", " points ["))
    text = (ROOT / "data" / "README.md").read_text("utf8").replace(" %", "")
    assert [figure for figure in found if figure not in text] == []
