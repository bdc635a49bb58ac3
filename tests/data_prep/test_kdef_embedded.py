"""PoseFaces by the reader of KDEF: its two parts, its regions, and the embedded set as it is."""

import io
from pathlib import Path

import numpy as np
import pytest
from kdef_standin import CODES, encode, tree, write_zip
from PIL import Image

from data_prep import kdef
from data_prep.__main__ import main
from lanmsff.data import DataError, FaceSet


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


def test_the_sweep_by_a_command(posefaces, tmp_path, capsys):
    words = ["kdef", "--source", str(kdef.POSEFACES), "--part", "sweep"]
    assert main([*words, "--out", str(tmp_path / "sweep.npz")]) == 0
    assert FaceSet.load(tmp_path / "sweep.npz").sha256 == kdef.load_posefaces("sweep").sha256
    assert "warning" not in capsys.readouterr().out  # fewer people than KDEF has, as it should be


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
    with pytest.raises(DataError, match="posefaces.zip: no such file; it comes with the repository"):
        kdef.load_posefaces()


@pytest.fixture(autouse=True)
def _needs_the_rendered_set(request):
    """Tests named after the embedded set say so when it has not been rendered here."""
    zip_file = Path(__file__).resolve().parents[2] / "data" / "posefaces.zip"
    if "embedded" in request.node.name and not zip_file.exists():
        pytest.skip(f"{zip_file.name} is not rendered yet: python -m data_prep posefaces")
