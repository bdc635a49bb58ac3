"""Weights on disk: what comes back is what was saved, and nothing else is read."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lanmsff
from lanmsff import LANMSFF, weights
from lanmsff.results import read_record
from lanmsff.weights import (
    Weights,
    find_weights,
    load_pretrained,
    load_weights,
    pretrained_names,
    save_weights,
)

RESULTS = Path(__file__).resolve().parents[1] / "results"
CLASSES = ["sad", "glad", "calm"]
ORIGIN = {"recipe": "paper", "dataset": "toy", "accuracy": 0.5}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "toy.safetensors"
    save_weights(LANMSFF(3), path, CLASSES, ORIGIN)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mixing": "permutation", "permutation_seed": 5},
        {"attention": "none", "selection": False},
        {"multi_scale": False, "dropout": 0.1},
    ],
    ids=str,
)
def test_round_trip(options, tmp_path):
    torch.manual_seed(0)
    model = LANMSFF(3, **options)
    images = torch.rand(2, 1, 64, 64)
    model(images)  # running statistics that are not those of the start
    if "mixing" in options:  # a permutation that no seed would draw again
        model.block2.two_path.permutation.order = torch.arange(65, -1, -1)
    save_weights(model, tmp_path / "deep" / "w.safetensors", CLASSES, ORIGIN)

    found = load_weights(tmp_path / "deep" / "w.safetensors", CLASSES)
    assert isinstance(found, Weights) and found.classes == CLASSES
    assert not found.model.training and found.model.config == model.config
    state = model.state_dict()
    assert found.model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(found.model(images), model.eval()(images))


def test_channels_last_weights_are_saved_as_they_are(tmp_path):
    model = LANMSFF(3).to(memory_format=torch.channels_last)
    save_weights(model, tmp_path / "w.safetensors", CLASSES, {})
    state = load_weights(tmp_path / "w.safetensors").model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_header_holds_what_a_user_needs(saved):
    with safe_open(saved, "pt") as file:
        info = json.loads(file.metadata()["lanmsff"])
    assert info == load_weights(saved).info
    assert info["classes"] == CLASSES
    assert info["image"] == {"side": 64, "channels": 1, "values": "[0, 1], bytes divided by 255"}
    assert info["config"] == LANMSFF(3).config
    assert ORIGIN.items() <= info.items() and info["version"]


def test_the_origin_cannot_hide_what_the_file_is(tmp_path):
    save_weights(LANMSFF(3), tmp_path / "w.safetensors", CLASSES, {"classes": ["x"], "config": {}})
    assert load_weights(tmp_path / "w.safetensors").classes == CLASSES


def test_class_names_for_every_logit(tmp_path):
    with pytest.raises(ValueError, match="2 class names for 3 logits"):
        save_weights(LANMSFF(3), tmp_path / "w.safetensors", CLASSES[:2], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "classes", [["glad", "sad", "calm"], ["sad", "glad"], ["sad", "glad", "calm", "x"], []]
)
def test_other_classes_are_refused(classes, saved):
    """A wrong order among them: it is right a third of the time and looks like a weak model."""
    with pytest.raises(ValueError) as refused:
        load_weights(saved, classes)
    assert f"{saved}: weights for the classes sad, glad, calm" in str(refused.value)
    assert f"the data has {', '.join(classes)}" in str(refused.value)


def as_torch_save(path):
    torch.save(LANMSFF(3).state_dict(), path)


def as_pickle(path):
    path.write_bytes(pickle.dumps({"head.bias": [0.0]}))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:500])


def emptied(path):
    path.write_bytes(b"")


def replaced(tensors=lambda tensors: tensors, info=lambda info: info, key="lanmsff"):
    """Write the file anew with other tensors or another header."""

    def spoil(path):
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["lanmsff"])
        changed = info(header)
        text = changed if isinstance(changed, str) else json.dumps(changed)
        save_file(tensors(load_file(path)), path, metadata={key: text})

    return spoil


def without_metadata(path):
    save_file(load_file(path), path)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (as_torch_save, "not a safetensors file"),
        (as_pickle, "not a safetensors file"),
        (truncated, "not a safetensors file"),
        (cut_in_the_header, "not a safetensors file"),
        (emptied, "not a safetensors file"),
        (without_metadata, "without the header 'lanmsff'"),
        (replaced(key="format"), "without the header 'lanmsff'"),
        (replaced(info=lambda i: "{not JSON"), "no LANMSFF"),
        (replaced(info=lambda i: []), "no LANMSFF"),
        (replaced(info=lambda i: {"classes": i["classes"]}), "no LANMSFF.*config"),
        (replaced(info=lambda i: i | {"config": {"colour": "red"}}), "no LANMSFF.*colour"),
        (replaced(info=lambda i: i | {"config": {"mixing": "none"}}), "no LANMSFF.*mixing"),
        (replaced(info=lambda i: i | {"config": {"num_classes": 7}}), "no LANMSFF.*size mismatch"),
        (replaced(info=lambda i: i | {"config": {"num_classes": "3"}}), "no LANMSFF"),
        (replaced(tensors=lambda t: {"head.bias": t["head.bias"]}), "no LANMSFF.*Missing"),
        (replaced(tensors=lambda t: t | {"head.bias": t["head.bias"] * torch.nan}),
         "head.bias holds values that are not finite"),
        (replaced(tensors=lambda t: t | {"more": torch.ones(1)}), "no LANMSFF.*more"),
        (replaced(info=lambda i: i | {"classes": CLASSES[:2]}), "header does not fit.*classes"),
        (replaced(info=lambda i: i | {"classes": None}), "no LANMSFF|header does not fit"),
        (replaced(info=lambda i: i | {"classes": "abc"}), "header does not fit.*classes abc"),
        (replaced(info=lambda i: i | {"classes": 3 * ["sad"]}), "header does not fit.*classes"),
        (replaced(info=lambda i: i | {"settings": None}), "header does not fit.*settings None"),
        (replaced(info=lambda i: i | {"image": i["image"] | {"side": 48}}), "header does not fit"),
        (replaced(info=lambda i: {k: v for k, v in i.items() if k != "image"}), "no LANMSFF"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_other_files_are_refused(spoil, message, saved):
    spoil(saved)
    with pytest.raises(ValueError, match=message) as refused:
        load_weights(saved)
    assert str(saved) in str(refused.value) and "\n" not in str(refused.value)


def test_no_pickle_is_ever_run(saved, monkeypatch):
    """A file that would do harm when unpickled does none."""

    class Harm:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    for write in (torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))):
        write(Harm(), saved)
        with pytest.raises(ValueError, match="not a safetensors file"):
            load_weights(saved)


# --- by which name


def test_a_run_is_its_best_weights(saved, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(FileNotFoundError, match="no weights yet"):
        load_weights(run)
    saved.rename(run / "best.safetensors")
    assert load_weights(run).info["dataset"] == "toy"
    assert find_weights(str(run)) == run / "best.safetensors"


def test_unknown_names_list_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "PRETRAINED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing: no such file.*\(shipped: none\)"):
        load_weights("nothing")
    for name in ("kdef", "ferplus"):
        save_weights(LANMSFF(3), tmp_path / f"{name}.safetensors", CLASSES, {"name": name})
    assert pretrained_names() == ["ferplus", "kdef"]
    assert load_weights("kdef").info["name"] == "kdef"
    with pytest.raises(FileNotFoundError, match=r"nothing: .*\(shipped: ferplus, kdef\)"):
        load_weights("nothing")


def test_a_folder_here_with_the_name_of_shipped_weights(saved, tmp_path, monkeypatch):
    (tmp_path / "shipped").mkdir()
    save_weights(LANMSFF(3), tmp_path / "shipped/kdef.safetensors", CLASSES, {"name": "shipped"})
    monkeypatch.setattr(weights, "PRETRAINED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    Path("kdef").mkdir()
    assert load_weights("kdef").info["name"] == "shipped"  # nothing else can be meant
    shutil.copy(saved, "kdef/best.safetensors")
    with pytest.raises(ValueError, match="kdef: both a run in this folder and shipped weights; wr"):
        load_weights("kdef")
    for run in ("./kdef", Path("kdef")):
        assert load_weights(run).info["dataset"] == "toy"


def test_others_may_read_what_is_written(tmp_path):
    before = os.umask(0o022)
    try:
        save_weights(LANMSFF(3), tmp_path / "w.safetensors", CLASSES, {})
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o644


def test_what_is_shipped_can_be_read():
    for name in pretrained_names():
        found = load_pretrained(name)
        assert len(found.classes) == found.model.head.out_features


@pytest.mark.parametrize("name, record", [
    ("ferplus", "ferplus-improved-40epochs"), ("fer2013", "fer2013-improved-40epochs"),
    ("ferplus-8epochs", "ferplus-short-8epochs"), ("fer2013-8epochs", "fer2013-short-8epochs"),
    ("ferplus-18epochs", "ferplus-continued-10epochs"),
    ("posefaces", "posefaces-improved-24epochs"),
])  # fmt: skip
def test_what_is_shipped_is_what_the_record_scored(name, record):
    of, origin = read_record(RESULTS / f"{record}.json"), load_pretrained(name).info
    if "jobs" in of:
        (job,) = [job for job in of["jobs"].values() if job["seed"] == 0]
        assert (origin["epoch"], origin["val_accuracy"]) == (
            job["best"]["epoch"], job["best"]["val_accuracy"]
        )  # fmt: skip
        data, recipe = of["data"][record.split("-")[0]]["sha256"], of["recipe"]
    else:
        assert of["weights"] == load_pretrained(name).origin | {"file": of["weights"]["file"]}
        data, recipe = of["data"]["sha256"], of["weights"]["recipe"]
    assert (origin["seed"], origin["recipe"], origin["data_sha256"]) == (0, recipe, data)


def test_load_pretrained_takes_names_alone(saved, monkeypatch):
    monkeypatch.setattr(weights, "PRETRAINED", saved.parent)
    found = lanmsff.load_pretrained("toy", CLASSES)
    assert isinstance(found, Weights) and found.info["dataset"] == "toy"
    with pytest.raises(ValueError, match="weights for the classes sad, glad, calm"):
        lanmsff.load_pretrained("toy", CLASSES[::-1])
    for name in ("other", str(saved), "../toy", str(saved.parent)):
        with pytest.raises(FileNotFoundError, match=r"no such shipped weights \(shipped: toy\)"):
            lanmsff.load_pretrained(name)


@pytest.mark.parametrize(
    "origin, mirror",
    [({}, False), ({"settings": {"test_mirror": True}}, True), ({"settings": {}}, False)],
)
def test_scoring_with_the_mirror_image_travels_with_the_weights(origin, mirror, tmp_path):
    save_weights(LANMSFF(3), tmp_path / "w.safetensors", CLASSES, origin)
    assert load_weights(tmp_path / "w.safetensors").mirror is mirror


# --- writing


def test_a_failing_disk_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    before = saved.read_bytes()

    def full_disk(path, content):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left") as refused:
        save_weights(LANMSFF(3), saved, CLASSES, {})
    assert refused.value.filename == str(saved)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
