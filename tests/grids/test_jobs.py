"""Jobs: the faces that a protocol tests on, what a job records, and which records count."""

import hashlib
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_grid import TOY, figures

from lanmsff import LANMSFF
from lanmsff import jobs as jobs_module
from lanmsff import train as train_module
from lanmsff.data import FaceSet
from lanmsff.evaluate import predict
from lanmsff.experiments import FOLDED, Arm, Experiment, select_jobs
from lanmsff.gather import gather
from lanmsff.jobs import divide, load_logits, mark_leaks, run_job, state
from lanmsff.report import report
from lanmsff.results import read_record
from lanmsff.step import Speed
from lanmsff.weights import load_weights, save_weights

CPU = torch.device("cpu")


# --- protocols


@pytest.fixture(scope="module")
def faces(toys):
    return FaceSet.load(toys / "posefaces.npz")


@pytest.mark.parametrize(
    "protocol, fold", [("split", None), ("exchanged", None), ("watched", None),
                       ("person-independent", 3), ("random", 10)],
)  # fmt: skip
def test_rows_lead_to_the_test_faces(faces, protocol, fold):
    divided, rows = divide(faces, protocol, fold)
    test = divided.subset("test")
    assert (faces.name[rows] == test.name).all() and (faces.images[rows] == test.images).all()
    train = divided.subset("train")
    assert not set(train.name) & set(test.name)
    if protocol == "person-independent":
        assert not set(train.subject) & set(test.subject)


def test_the_authors_way_validates_on_the_test_faces(faces):
    divided, _ = divide(faces, "watched")
    assert (divided.subset("val").name == faces.subset("test").name).all()
    assert (divided.subset("test").name == faces.subset("test").name).all()
    assert (divided.subset("train").name == faces.subset("train").name).all()


def test_exchanged_means_val_for_test(faces):
    divided, _ = divide(faces, "exchanged")
    assert (divided.subset("val").name == faces.subset("test").name).all()
    assert (divided.subset("test").name == faces.subset("val").name).all()


def test_leaked_means_other_faces_when_splits_change_their_roles(faces):
    """Test and validation faces that are equal: a leak both ways, and none for `watched`."""
    images = faces.images.copy()
    train, val, test = (np.flatnonzero(faces.split == split) for split in ("train", "val", "test"))
    images[test[0]] = images[val[0]]
    images[test[1]] = images[train[0]]
    leaked = faces.leaked_from.copy()
    leaked[test[:2]] = "val", "train"
    twins = replace(faces, images=images, leaked_from=leaked)

    exchanged, rows = divide(twins, "exchanged")
    marked = exchanged.subset("test").leaked_from != ""
    assert rows[marked].tolist() == [val[0]]
    watched, rows = divide(twins, "watched")
    marked = watched.subset("test").leaked_from != ""
    assert rows[marked].tolist() == [row for row in test if leaked[row] == "train"]
    assert (divide(twins, "split")[0].leaked_from == leaked).all()
    for protocol in FOLDED:  # the marks speak of splits that folds mix
        assert mark_leaks(twins, protocol).leaked_from is None


def test_validation_scores_the_validation_faces_and_no_test_face(faces):
    divided, rows = divide(faces, "validation")
    assert (divided.subset("test").name == faces.subset("val").name).all()
    assert (divided.subset("val").name == faces.subset("val").name).all()
    assert (faces.name[rows] == faces.subset("val").name).all()
    assert not set(divided.name) & set(faces.subset("test").name)


# --- one job


def test_a_job_s_record_is_what_its_weights_score(undisturbed, faces):
    job = TOY.jobs("full", 1)[0]
    folder = undisturbed.folder(job)
    record = read_record(folder / "job.json")
    assert record["run"]["finished"] == "1 epochs done"
    test = faces.subset("test")
    for which in ("best", "last"):
        weights = load_weights(folder / f"{which}.safetensors")
        logits = predict(weights.model, test.images, CPU, mirror=weights.mirror)
        kept, rows = load_logits(folder, which, "posefaces")
        torch.testing.assert_close(kept.softmax(1), logits.softmax(1), atol=1e-3, rtol=0)
        assert (kept.argmax(1) == logits.argmax(1)).all()
        assert (faces.name[rows] == test.name).all()

        # of the logits as they are kept: a rounding can put a face into another bin of confidence
        found = record["scores"][which]["tests"]["posefaces"]
        expected = report(test, kept, record["scores"][which]["temperature"])
        assert found == json.loads(json.dumps(expected))
        assert found["parts"].keys() > {"all", "pose30"}
        assert sum(row["n"] for row in found["yaw"]) == len(test)
    assert record["scores"]["best"]["tests"]["posefaces-sweep"]["parts"]["all"]["n"] == 8


def test_a_recipe_with_changes_is_judged_on_validation_faces(setting, faces):
    arms = {"full": Arm("validation", weights="last"),
            "bare": Arm("validation", weights="last", changes={"average": 0.0})}  # fmt: skip
    experiment = Experiment("Changes.", "posefaces", "short", arms, seeds=(0,))
    for job in select_jobs(experiment, epochs=1):
        assert run_job(job, setting).state == "recorded"
    settings = [read_record(setting.folder(job) / "job.json")["settings"]
                for job in select_jobs(experiment, epochs=1)]  # fmt: skip
    assert {key for key in settings[0] if settings[0][key] != settings[1][key]} == {"average"}

    record = gather("changes", experiment, setting, 1)
    assert record["data"].keys() == record["arms"]["bare"]["tests"].keys() == {"posefaces"}
    assert record["arms"]["bare"]["changes"] == {"average": 0.0}
    val = faces.subset("val")
    for label in arms:
        (job,) = experiment.jobs(label, 1)
        weights = load_weights(setting.folder(job) / "last.safetensors")
        logits = predict(weights.model, torch.from_numpy(val.images), CPU, mirror=weights.mirror)
        found = record["arms"][label]["tests"]["posefaces"]["parts"]["all"]
        assert found["n"] == len(val)
        assert found["accuracy"]["mean"] == (logits.argmax(1).numpy() == val.labels).mean()


def test_a_job_that_begins_with_shipped_weights(undisturbed, setting, tmp_path, monkeypatch):
    """A record that began with others by that name does not count."""
    shipped = tmp_path / "toy.safetensors"
    first = undisturbed.folder(TOY.jobs("full", 1)[0])
    shipped.write_bytes((first / "last.safetensors").read_bytes())
    monkeypatch.setattr("lanmsff.weights.PRETRAINED", tmp_path)
    experiment = replace(TOY, arms={"full": Arm()}, seeds=(0,), start="toy")
    (job,) = experiment.jobs("full", 1)
    assert job not in TOY.jobs("full", 1) and run_job(job, setting).state == "recorded"

    origin = load_weights(setting.folder(job)).info
    sha256 = hashlib.sha256(shipped.read_bytes()).hexdigest()
    assert origin["start"] == {"weights": "toy", "sha256": sha256}
    assert gather("continued", experiment, setting, 1)["start"] == origin["start"]

    save_weights(LANMSFF(3), shipped, ["sad", "glad", "calm"], {})
    assert state(job, setting) != "recorded"


def test_a_finished_job_is_not_run_again(undisturbed, monkeypatch):
    monkeypatch.setattr(jobs_module, "Run", None)
    for job in select_jobs(TOY, epochs=1):
        assert state(job, undisturbed) == "recorded"
        outcome = run_job(job, undisturbed)
        assert outcome.state == "recorded" and "of 12 faces, 1 epochs" in outcome.note


@pytest.mark.parametrize("name", ["job.json", "logits.npz"])
@pytest.mark.parametrize("content", [b"{", b"[]", None])
def test_a_job_with_a_damaged_file_is_scored_again(name, content, undisturbed):
    job = TOY.jobs("full", 1)[0]
    path = undisturbed.folder(job) / name
    before = figures(job, undisturbed)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert state(job, undisturbed) != "recorded"
    assert run_job(job, undisturbed).state == "recorded"
    assert figures(job, undisturbed) == before


def test_a_spoilt_byte_among_the_logits_is_found(undisturbed):
    job = TOY.jobs("full", 1)[0]
    path = undisturbed.folder(job) / "logits.npz"
    before, content = figures(job, undisturbed), bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    assert state(job, undisturbed) != "recorded"
    assert run_job(job, undisturbed).state == "recorded"
    assert figures(job, undisturbed) == before


def test_what_makes_training_fast_reaches_the_run_and_the_scores(setting, monkeypatch):
    speed, given, scored = Speed(channels_last=False), [], []
    predict = jobs_module.predict

    def watched(*words, **options):
        scored.append((options["channels_last"], options["keep_memory"]))
        return predict(*words, **options)

    class Watched(jobs_module.Run):
        def __init__(self, *words, speed, **options):
            given.append(speed)
            super().__init__(*words, speed=speed, **options)

    monkeypatch.setattr(jobs_module, "Run", Watched)
    monkeypatch.setattr(jobs_module, "predict", watched)
    job = TOY.jobs("full", 1)[0]
    assert run_job(job, replace(setting, speed=speed, deadline=time.time() + 60)).state == "recorded"
    assert given == [speed] and set(scored) == {(False, True)}


def test_a_failure_is_told_until_it_is_mended(setting):
    job = TOY.jobs("full", 1)[0]
    other = replace(setting, hashes=setting.hashes | {"posefaces-sweep": "00"})
    assert run_job(job, other).state == "failed"
    assert run_job(job, replace(setting, deadline=time.time())).note == "not begun: out of time"
    assert state(job, setting) == "failed"
    assert run_job(job, setting).state == "recorded"
    assert not (setting.folder(job) / "error.txt").exists()


def test_scoring_a_run_again_leaves_where_it_was_trained(undisturbed, monkeypatch):
    job = TOY.jobs("full", 1)[0]
    path = undisturbed.folder(job) / "job.json"
    before = read_record(path)
    path.unlink()
    monkeypatch.setattr(train_module, "environment", lambda *_: {"device": "another"})
    assert run_job(job, undisturbed).state == "recorded"
    assert read_record(path) == before


@pytest.mark.parametrize("what", ["data", "settings"])
def test_a_record_of_something_else_does_not_count(what, undisturbed, monkeypatch):
    job, setting = TOY.jobs("full", 1)[0], undisturbed
    if what == "data":
        setting = replace(setting, hashes=setting.hashes | {"posefaces": "00"})
    else:
        recipe = replace(jobs_module.pick_recipe("short"), batch_size=7)
        monkeypatch.setattr(jobs_module, "pick_recipe", lambda *_: recipe)
    assert state(job, setting) != "recorded"


def test_faces_that_change_under_a_grid_stop_the_job(setting):
    setting = replace(setting, hashes=setting.hashes | {"posefaces-sweep": "00"})
    outcome = run_job(TOY.jobs("full", 1)[0], setting)
    assert outcome.state == "failed" and "other faces than when the grid began" in outcome.note


def test_a_job_that_is_out_of_time_goes_on_from_its_checkpoint(undisturbed, setting, monkeypatch):
    job = TOY.jobs("full", 1)[0]
    given = []

    class OutOfTime(jobs_module.Run):
        def train(self, progress, max_minutes):
            given.append(max_minutes)
            return super().train(progress, max_minutes)

        def train_step(self, items):
            super().train_step(items)
            self.stop("the time is up")

    late = replace(setting, deadline=time.time() + 600)
    with monkeypatch.context() as patch:
        patch.setattr(jobs_module, "Run", OutOfTime)
        outcome = run_job(job, late)
    assert (outcome.state, outcome.note) == ("unfinished", "out of time after epoch 0")
    assert 9 < given[0] <= 10 and (setting.folder(job) / "checkpoint.safetensors").is_file()
    assert run_job(job, replace(setting, deadline=time.time())).note == "not begun: out of time"
    assert run_job(job, setting).state == "recorded"
    assert figures(job, setting) == figures(job, undisturbed)


def test_logits_are_the_mean_of_both_looks_where_the_recipe_says_so(undisturbed, faces):
    folder, test = undisturbed.folder(TOY.jobs("full", 1)[0]), faces.subset("test").images
    for which in ("best", "last"):
        weights = load_weights(folder / f"{which}.safetensors")
        assert weights.mirror  # as the recipe says
        both, once = (predict(weights.model, test, CPU, mirror=looks).log_softmax(1)
                      for looks in (True, False))  # fmt: skip
        kept, _ = load_logits(folder, which, "posefaces")
        off, apart = ((found - both).abs().max() for found in (kept.log_softmax(1), once))
        assert off < apart / 4


def test_temperatures_are_fitted_on_validation_faces(undisturbed, faces, monkeypatch):
    job, seen = TOY.jobs("full", 1)[0], []
    folder, val = undisturbed.folder(job), faces.subset("val")
    before = read_record(folder / "job.json")
    with monkeypatch.context() as patch:
        patch.setattr(jobs_module, "fit_temperature", lambda *given: seen.append(given) or 1.5)
        (folder / "job.json").unlink()
        assert run_job(job, undisturbed).state == "recorded"
    scores = read_record(folder / "job.json")["scores"]
    for which, (logits, labels) in zip(("best", "last"), seen, strict=True):
        weights = load_weights(folder / f"{which}.safetensors")
        expected = predict(weights.model, val.images, CPU, mirror=weights.mirror)
        assert labels.tolist() == val.labels.tolist()
        torch.testing.assert_close(logits.softmax(1), expected.softmax(1), atol=1e-3, rtol=0)
        assert scores[which]["temperature"] == 1.5
    (folder / "job.json").unlink()
    run_job(job, undisturbed)
    assert read_record(folder / "job.json")["scores"] == before["scores"]


def test_a_run_has_the_seed_of_its_job(undisturbed):
    for job in select_jobs(TOY, epochs=1):
        record = read_record(undisturbed.folder(job) / "job.json")
        assert record["run"]["asked"]["seed"] == job.seed


def test_a_fold_is_that_of_its_number(faces):
    for number in (1, 10):
        divided, _ = divide(faces, "person-independent", number)
        assert divided.meta["fold"].endswith(f", {number} of 10")


def test_leaks_are_the_protocol_s_in_every_set_that_is_scored(setting):
    """Of two marked faces each, one stands in a validation split that `watched` does not use."""
    experiment = replace(TOY, arms={"best-on-test": Arm("watched")}, seeds=(0,))
    (job,) = select_jobs(experiment, epochs=1)
    assert run_job(job, setting).state == "recorded"
    tests = read_record(setting.folder(job) / "job.json")["scores"]["best"]["tests"]
    kept = {name: test["parts"]["all_without_leaked"]["n"] for name, test in tests.items()}
    assert kept == {"posefaces": 12 - 1, "posefaces-sweep": 8 - 1}
