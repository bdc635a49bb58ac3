"""Records of experiments: from jobs, and joined with what was recorded before."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lanmsff.experiments import Arm, Experiment
from lanmsff.gather import collect, gather
from lanmsff.jobs import JOB, LOGITS, Setting, _asked, divide
from lanmsff.results import write_record

CLASSES = 3


# --- from jobs


FOLDED = Experiment("Toys.", "posefaces", "short", {"people": Arm("person-independent")}, (0, 1))


def write_jobs(setting, jobs, faces, temperature=2.0):
    """Folds that deal out the faces in turn; network i says class i everywhere."""
    for job in jobs:
        rows = np.arange(job.fold - 1, len(faces), 10)
        predicted = torch.full((len(rows),), (job.fold + job.seed) % CLASSES)
        folder = setting.folder(job)
        folder.mkdir(parents=True)
        logits = 4 * (F.one_hot(predicted, CLASSES).numpy().astype(np.float16) - 1)
        every = np.arange(len(faces))
        on_every = np.repeat(logits[:1], len(faces), axis=0)
        np.savez(folder / LOGITS, **{
            "rows posefaces": rows, "best posefaces": logits,
            "rows posefaces-sweep": every, "best posefaces-sweep": on_every,
        })  # fmt: skip
    return {job: {"scores": {"best": {"temperature": temperature}}} for job in jobs}


def test_folds_are_put_together_seed_by_seed(faces, tmp_path):
    setting = Setting(tmp_path, tmp_path, {})
    jobs = write_jobs(setting, FOLDED.jobs("people"), faces)
    found = collect(jobs, "best", "posefaces", faces, setting)
    assert found.networks == ("seed 0", "seed 1")
    assert (found.faces.name == faces.name).all()
    fold = np.arange(60) % 10 + 1
    for seed in (0, 1):
        assert (found.correct[seed] == ((fold + seed) % CLASSES == found.faces.labels)).all()
    sure = [np.exp(4 / t) / (np.exp(4 / t) + CLASSES - 1) for t in (1, 2)]
    for diagram, expected in zip((found.calibration, found.calibration_scaled), sure):
        assert [c for c in diagram["confidence"] if c is not None] == pytest.approx([expected])
        shares = [a for a in diagram["accuracy"] if a is not None]
        assert shares == pytest.approx([found.correct.mean()])


def test_faces_of_no_fold_are_scored_by_every_network(faces, tmp_path):
    setting = Setting(tmp_path, tmp_path, {})
    jobs = write_jobs(setting, FOLDED.jobs("people"), faces)
    found = collect(jobs, "best", "posefaces-sweep", faces, setting)
    assert len(found.networks) == 20 and found.networks[12] == "seed 1, fold 3"
    assert found.correct.shape == (20, 60)


def test_folds_that_one_seed_lacks_are_left_out(faces, tmp_path):
    setting = Setting(tmp_path, tmp_path, {})
    jobs = write_jobs(setting, FOLDED.jobs("people")[:13], faces)  # three folds of seed 1
    found = collect(jobs, "best", "posefaces", faces, setting)
    assert found.networks == ("seed 0", "seed 1")
    fold = np.arange(60) % 10 + 1
    assert (found.faces.name == faces.name[fold <= 3]).all()


@pytest.mark.parametrize("protocol, marked", [("split", [1, 2]), ("watched", [2]),
                                              ("exchanged", [0])])  # fmt: skip
def test_leaked_is_what_leaked_under_the_protocol(protocol, marked, toy_faces, tmp_path):
    """The first validation face is also a test face, the next training face another one."""
    faces = toy_faces(train=4, val=4, test=4)
    images = faces.images.copy()
    images[[9, 10]] = images[[4, 0]]
    leaked = np.where(np.isin(np.arange(12), [9, 10]), ["val"] * 10 + ["train"] * 2, "")
    faces = replace(faces, images=images, leaked_from=leaked)
    setting = Setting(tmp_path, tmp_path, {})
    (job,) = Experiment("Toys.", "ferplus", "short", {"one": Arm(protocol)}, (0,)).jobs("one")
    tested, rows = divide(faces, protocol)
    setting.folder(job).mkdir(parents=True)
    logits = np.zeros((4, CLASSES), np.float16)
    np.savez(setting.folder(job) / LOGITS, **{"rows ferplus": rows, "best ferplus": logits})
    jobs = {job: {"scores": {"best": {"temperature": 1.0}}}}
    found = collect(jobs, "best", "ferplus", faces, setting).faces.leaked_from
    assert np.flatnonzero(found != "").tolist() == marked
    assert (found == tested.subset("test").leaked_from).all()


def test_nothing_done_is_no_record(tmp_path):
    setting = Setting(tmp_path, tmp_path, {"posefaces": "", "posefaces-sweep": ""})
    with pytest.raises(ValueError, match="^toy: no job is done yet$"):
        gather("toy", FOLDED, setting)


@pytest.fixture
def done(faces, tmp_path):
    """A record of an experiment whose jobs give these logits: (job) -> best, last (60, 3)."""
    faces.save(tmp_path / "fer2013.npz")
    setting = Setting(tmp_path, tmp_path, {"fer2013": faces.sha256})
    run = {"history": [], "epochs": 1, "finished": "", "best": None, "images_per_epoch": 60,
           "seconds": 1.0, "environment": {}}  # fmt: skip
    scores = {which: {"temperature": temperature, "tests": {}}
              for which, temperature in (("best", 1.0), ("last", 0.5))}  # fmt: skip

    def make(experiment, logits):
        for arm in experiment.arms:
            for job in experiment.jobs(arm):
                folder = setting.folder(job)
                folder.mkdir(parents=True, exist_ok=True)
                best, last = (of.numpy().astype(np.float16) for of in logits(job))
                np.savez(folder / LOGITS, **{"rows fer2013": np.arange(60),
                                             "best fer2013": best, "last fer2013": last})  # fmt: skip
                write_record(folder / JOB, {**_asked(job, setting), "run": run, "scores": scores})
        arms = gather("toy", experiment, setting)["arms"]
        return {label: (arm, arm["tests"]["fer2013"]) for label, arm in arms.items()}

    return make


def test_an_arm_is_scored_by_the_weights_that_it_names(done, faces):
    right = F.one_hot(torch.from_numpy(faces.labels), CLASSES).float()
    experiment = Experiment("Toys.", "fer2013", "short", {
        "best": Arm(), "last": Arm(weights="last")}, (0,))  # fmt: skip
    found = done(experiment, lambda job: (-right, right))
    for label, share, sure in (("best", 0, 0.42), ("last", 1, 0.79)):  # the softmax at T = 1, 0.5
        arm, test = found[label]
        assert test["parts"]["all"]["accuracy"]["mean"] == share
        scaled = [c for c in test["calibration_scaled"]["confidence"] if c is not None]
        assert np.round(scaled, 2).tolist() == [sure]
    assert found["last"][0]["minus best"]["fer2013"]["all"]["mean"] == 1


def test_a_record_says_how_much_better_an_arm_is_than_the_first(done, faces):
    right = F.one_hot(torch.from_numpy(faces.labels), CLASSES).float()
    worse = torch.cat([right[:15].roll(1, 1), right[15:]])  # a quarter of the faces
    experiment = Experiment("Toys.", "fer2013", "short", {
        "full": Arm(), "cut": Arm(options={"multi_scale": False})}, (0,))  # fmt: skip
    found = done(experiment, lambda job: 2 * (worse if job.options else right,))
    (full, _), (cut, _) = found.values()
    assert cut["minus full"]["fer2013"]["all"]["mean"] == -0.25 and "minus full" not in full
    for cost in ("parameters", "multiply_accumulates"):
        assert cut[cost] < full[cost]
