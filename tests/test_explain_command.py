"""`python -m lanmsff explain`, end to end on made-up sets, and every way to use it wrongly."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lanmsff import LANMSFF
from lanmsff.__main__ import main
from lanmsff.augment import resize, to_float
from lanmsff.commands.explain import COLUMNS, _agreement
from lanmsff.data import FaceSet
from lanmsff.explain import attention, cam
from lanmsff.explain.faithfulness import KINDS, perturbation_scores, sanity_scores
from lanmsff.explain.perturbation import probabilities
from lanmsff.explain.sanity import CASCADE, rank_correlation
from lanmsff.intervals import bootstrap_over_groups
from lanmsff.weights import save_weights

CLASSES = ["sad", "glad", "calm"]


def run(*words) -> int:
    return main(["explain", *map(str, words), "--device", "cpu"])


def read_rows(folder):
    with open(folder / "faithfulness.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    return {(row["map"], row["measure"], row["part"]): row for row in rows}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = LANMSFF(3).eval()
    model.head.weight.data.abs_()  # else Grad-CAM, cut off at zero, is empty for some faces
    return model


@pytest.fixture(scope="module")
def folder(model, toy_faces, tmp_path_factory):
    """A folder with weights, a set of two people at three yaws, and one with marks of poses."""
    folder = tmp_path_factory.mktemp("explain")
    save_weights(model, folder / "toy.safetensors", CLASSES, {})
    faces = toy_faces(train=0, val=0, test=12)
    turned = replace(
        faces,
        pose30=None,
        labels=np.zeros(12, np.int64),
        subject=np.repeat(["a", "b"], 6),
        session=np.tile(np.repeat(["A", "B"], 3), 2),
        yaw=np.tile([-45, 0, 45], 4).astype(np.float32),
    )
    turned.save(folder / "turned.npz")
    replace(faces, pose45=np.arange(12) == 0).save(folder / "marked.npz")
    return folder


@pytest.fixture(scope="module")
def explained(folder):
    out = folder / "new" / "out"
    words = ("--data", folder / "turned.npz", "--weights", folder / "toy.safetensors")
    assert run(*words, "--out", out, "--sample", 2) == 0
    return out


def test_what_is_written(explained):
    names = {"faces.png", "means.png", "curves.png", "views.png", "faithfulness.csv", "record.json"}
    assert {path.name for path in explained.iterdir()} == names
    for name in names:
        if name.endswith(".png"):
            pixels = np.asarray(Image.open(explained / name).convert("RGB"))
            assert min(pixels.shape[:2]) > 200 and (pixels[0, 0] == 255).all()
            assert pixels.std() > 10, name  # something is drawn


def test_record_and_table_say_the_same(explained):
    record = json.loads((explained / "record.json").read_text())
    rows = read_rows(explained)
    assert len(record["rows"]) == len(rows)
    for row in record["rows"]:
        written = rows[row["map"], row["measure"], row["part"]]
        for key in COLUMNS[3:]:
            assert written[key] == ("" if row.get(key) is None else str(row[key]))
    assert record["weights"]["file"] == "toy.safetensors"
    assert record["data"]["dataset"] == "toy" and record["data"]["split"] == "test"
    assert len(record["sample"]) == 2 and record["seconds"] > 0
    assert record["environment"]["precision"] == "float32"
    assert all(set(of) == {row["part"] for row in record["rows"]} for of in record["mean_maps"].values())


def test_the_table_has_every_measure(explained):
    rows = read_rows(explained)
    kinds = {"MassAtt, block 2", "MassAtt, block 4", "Grad-CAM", "exact map"}
    controls = {"random", "centre", "edges", "Grad-CAM, untrained"}
    found = {}
    for name, measure, part in rows:
        if part == "all":
            found.setdefault(measure, set()).add(name)
    for measure in ("deletion", "insertion", "ROAD"):
        assert found.pop(measure) == kinds | controls
    for measure in ("mirrored", *(f"without {part}" for part in CASCADE)):
        assert found.pop(measure) == kinds
    assert found.pop("agreement with Grad-CAM") == {"MassAtt, block 2", "MassAtt, block 4"}
    assert found.pop("turned by 45 degrees") == kinds - {"exact map"} | {"edges"}
    assert not found


def test_values_are_those_of_the_library(explained, folder, model, toy_faces):
    images = to_float(resize(torch.from_numpy(toy_faces(train=0, val=0, test=12).images)))
    maps = attention(model, images).enlarged(2).numpy()
    means = json.loads((explained / "record.json").read_text())["mean_maps"]
    assert list(means) == ["MassAtt, block 2", "MassAtt, block 4", "Grad-CAM"]
    right = cam(model, images)[2::3].reshape(4, 16, 4, 16, 4).mean((0, 2, 4))
    np.testing.assert_allclose(means["Grad-CAM"]["yaw 45"], right, atol=1e-4)
    agreement = rank_correlation(maps, cam(model, images).numpy())
    yaw, people = np.tile([-45, 0, 45], 4), np.repeat(["a", "b"], 6)
    rows = read_rows(explained)
    for part, mask in (("all", yaw < 90), ("yaw -45", yaw == -45), ("yaw 0", yaw == 0)):
        row = rows["MassAtt, block 2", "agreement with Grad-CAM", part]
        known = mask & ~np.isnan(agreement)
        assert int(row["faces"]) == known.sum()
        assert float(row["mean"]) == pytest.approx(agreement[known].mean(), abs=1e-4)
        low, high = bootstrap_over_groups(agreement[known], people[known])
        assert float(row["low"]) == pytest.approx(low, abs=1e-4)
        assert float(row["high"]) == pytest.approx(high, abs=1e-4)
    first, second = (np.flatnonzero(yaw == at) for at in (0, 45))
    row = rows["MassAtt, block 2", "turned by 45 degrees", "yaw 0"]
    between = rank_correlation(maps[first], maps[second])
    assert float(row["mean"]) == pytest.approx(between.mean(), abs=1e-4)
    last = rows["MassAtt, block 2", "turned by 45 degrees", "yaw 45"]
    assert last["faces"] == "0" and last["mean"] == ""


def test_measures_of_the_sample_are_those_of_the_library(explained, model, toy_faces):
    """Of the faces that the record names, with their own maps and predicted classes."""
    faces = toy_faces(train=0, val=0, test=12)
    record = json.loads((explained / "record.json").read_text())
    rows = [faces.name.tolist().index(name) for name in record["sample"]]
    assert len(set(rows)) == 2 and rows != [0, 1]  # so that no other faces are taken for them
    images = to_float(resize(torch.from_numpy(faces.images)))[rows]
    targets = probabilities(model, images).argmax(1).numpy()
    maps = {name: KINDS[name](model, images, targets) for name in ("MassAtt, block 2", "exact map")}
    found = {}
    for _, values, _ in perturbation_scores(model, images, targets, maps):
        found |= values
    for _, values in sanity_scores(model, images, targets, maps):
        found |= values
    written = read_rows(explained)
    for (name, measure), of in found.items():
        row = written[name, measure, "all"]
        assert row["faces"] == "2", (name, measure)
        assert float(row["mean"]) == pytest.approx(of.mean(), abs=1e-4), (name, measure)
    assert found["exact map", "without head"].mean() < 0.99  # so that other maps would be seen


def test_a_set_with_marks_of_poses(folder, tmp_path, capsys):
    words = ("--data", folder / "marked.npz", "--weights", folder / "toy.safetensors")
    assert run(*words, "--out", tmp_path / "out", "--sample", 1) == 0
    printed = capsys.readouterr()
    assert "maps of 12 faces; deletion, insertion and ROAD on 1 of them" in printed.out
    assert "12/12" in printed.err and "faithfulness" in printed.err  # progress
    rows = read_rows(tmp_path / "out")
    marks = {part: row["faces"] for (_, measure, part), row in rows.items()
             if measure.startswith("agreement")}  # fmt: skip
    assert marks == {"all": "12", "frontal": "9", "beyond 30": "3", "beyond 45": "1"}
    assert not any(measure.startswith("turned") for _, measure, _ in rows)
    assert not (tmp_path / "out" / "views.png").exists()
    assert (tmp_path / "out" / "means.png").exists()


def content(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def test_one_yaw_and_no_attention_leave_no_figure_by_yaw(folder, tmp_path):
    """Nothing to compare with Grad-CAM, and no face that has turned."""
    faces = FaceSet.load(folder / "turned.npz")
    replace(faces, yaw=np.zeros(12, np.float32)).save(tmp_path / "front.npz")
    save_weights(LANMSFF(3, attention="none"), tmp_path / "w.safetensors", CLASSES, {})
    words = ("--data", tmp_path / "front.npz", "--weights", tmp_path / "w.safetensors")
    assert run(*words, "--out", tmp_path / "out", "--sample", 99) == 0
    names = {"faces.png", "means.png", "curves.png", "faithfulness.csv", "record.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["sample"] == faces.name.tolist()  # each once


def test_where_nobody_turns_by_the_smallest_step_no_turn_is_measured(toy_faces):
    """As where angles are measured and not posed."""
    faces = toy_faces(train=0, val=0, test=4)
    faces = replace(faces, subject=np.repeat(["a", "b"], 2), labels=np.zeros(4, np.int64),
                    yaw=np.array([0, 25, 10, 40], np.float32))  # fmt: skip
    maps = {name: np.random.default_rng(0).random((4, 8, 8)) for name in ("Grad-CAM", "other")}
    images = to_float(resize(torch.from_numpy(faces.images)))
    assert list(_agreement(faces, images, maps)) == [("other", "agreement with Grad-CAM")]


def test_a_turn_is_by_the_smallest_step(toy_faces):
    faces = toy_faces(train=0, val=0, test=4)
    faces = replace(faces, subject=np.repeat(["a", "b"], 2), labels=np.zeros(4, np.int64),
                    yaw=np.array([0, 10, 10, 45], np.float32))  # fmt: skip
    maps = {"Grad-CAM": np.random.default_rng(0).random((4, 8, 8))}
    images = to_float(resize(torch.from_numpy(faces.images)))
    found = _agreement(faces, images, maps)
    assert list(found) == [("Grad-CAM", "turned by 10 degrees"), ("edges", "turned by 10 degrees")]
    assert np.isnan(found["Grad-CAM", "turned by 10 degrees"]).tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    "words, parts",
    [
        ("--data none.npz --weights toy.safetensors --out new", ["none.npz: No such file"]),
        ("--data toy.safetensors --weights toy.safetensors --out new", ["not an .npz archive"]),
        ("--data faces.npz --weights none --out new", ["none: no such file, run or shipped"]),
        ("--data faces.npz --weights two.safetensors --out new",
         ["two.safetensors: weights for the classes yes, no; the data has sad, glad, calm"]),
        ("--data faces.npz --weights toy.safetensors --out new --split val",
         ["faces.npz: no faces in split 'val'"]),
        ("--data faces.npz --weights toy.safetensors --out a_file", ["a_file", "is a file"]),
        ("--data faces.npz --weights toy.safetensors --out a_file/x/y", ["a_file", "is a file"]),
        ("--data faces.npz --weights toy.safetensors --out new --device abacus", ["'abacus'"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_files_are_named_in_one_line(words, parts, folder, toy_faces, tmp_path,
                                           monkeypatch, capsys):  # fmt: skip
    (tmp_path / "toy.safetensors").symlink_to(folder / "toy.safetensors")
    (tmp_path / "faces.npz").symlink_to(folder / "marked.npz")
    (tmp_path / "a_file").write_text("text")
    save_weights(LANMSFF(2), tmp_path / "two.safetensors", ["yes", "no"], {})
    monkeypatch.chdir(tmp_path)
    before = content(tmp_path)
    assert main(["explain", *words.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert all(part in printed.err for part in parts), printed.err
    assert content(tmp_path) == before


def test_a_folder_that_must_not_be_written_to(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lanmsff.data.os.access", lambda place, _: place != tmp_path)
    words = ("--data", folder / "marked.npz", "--weights", folder / "toy.safetensors")
    assert run(*words, "--out", tmp_path / "new") == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'new'}: cannot write in {tmp_path}; choose another folder\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, message",
    [
        (["--data", "x", "--out", "y"], "--weights"),
        (["--weights", "x", "--out", "y"], "--data"),
        (["--weights", "x", "--data", "y"], "--out"),
        (["--weights", "x", "--data", "y", "--out", "z", "--sample", "0"], "'0' is not a whole"),
    ],
)
def test_wrong_words(words, message, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["explain", *words])
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
