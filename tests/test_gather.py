"""What a record says over several networks: against scipy, by hand, and where there is no answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn import metrics

from lanmsff.evaluate import evaluate
from lanmsff.experiments import Arm, Experiment
from lanmsff.gather import Answers, collect, difference, gather, spread, summary, write_result
from lanmsff.jobs import LOGITS, Setting, divide
from lanmsff.results import read_record

CLASSES = 3


@pytest.fixture
def faces(toy_faces):
    """60 test faces of 12 people, seen from two sides."""
    test = toy_faces(train=0, val=0, test=60)
    people = np.array([f"F{row % 12:02}" for row in range(60)])
    yaw = np.where(np.arange(60) // 12 % 2, 45, -45).astype(np.float32)
    return replace(test, subject=people, yaw=yaw)


def answers(faces, rights, names=None, temperature=1.0):
    """Networks that are right where `rights` (R, N) says so, else one class off."""
    rights = np.array(rights, bool)
    predicted = torch.from_numpy((faces.labels + ~rights) % CLASSES)
    logits = 4 * (F.one_hot(predicted, CLASSES).float() - 1)
    names = names or tuple(f"seed {seed}" for seed in range(len(rights)))
    return Answers(faces, tuple(names), logits, logits / temperature)


def random_rights(networks=3, n=60, share=0.7, seed=0):
    return np.random.default_rng(seed).random((networks, n)) < share


# --- spread


def test_spread_over_networks_is_student_s():
    values = random_rights()
    found = spread(values, np.arange(60))
    each = values.mean(1)
    assert found["each"] == pytest.approx(each) and found["mean"] == pytest.approx(each.mean())
    assert found["sd"] == pytest.approx(np.std(each, ddof=1))
    expected = stats.t.interval(0.95, 2, each.mean(), stats.sem(each))
    assert found["over_networks_95"] == pytest.approx(expected)


def test_spread_over_faces_is_scipy_s_bootstrap():
    values = random_rights(n=2000)
    found = spread(values, np.arange(2000))
    expected = stats.bootstrap((values.mean(0),), np.mean, method="percentile",
                               rng=np.random.default_rng(1)).confidence_interval  # fmt: skip
    assert found["over_faces_95"] == pytest.approx(expected, abs=0.002)


def test_faces_of_a_person_go_together():
    """Twelve people who are always or never right are twelve observations, not sixty."""
    values = np.tile(np.arange(12) < 8, 5)[None]
    by_person = spread(values, np.tile(np.arange(12), 5))["over_faces_95"]
    by_face = spread(values, np.arange(60))["over_faces_95"]
    assert np.diff(by_person) / np.diff(by_face) == pytest.approx(np.sqrt(5), rel=0.15)


def test_one_network_or_one_person_has_no_spread():
    found = spread(random_rights(1), np.zeros(60))
    assert found["sd"] is found["over_networks_95"] is found["over_faces_95"] is None


# --- summary


def test_summary_of_one_network_is_evaluate(faces):
    one = answers(faces, random_rights(1))
    found, expected = summary(one), evaluate(faces, one.logits[0])
    assert found["parts"].keys() == expected.keys() == {
        "all", "all_without_leaked", "pose30", "pose30_without_leaked"
    }  # fmt: skip
    for name, part in expected.items():
        assert found["parts"][name]["n"] == part["n"]
        assert found["parts"][name]["accuracy"]["mean"] == pytest.approx(part["accuracy"])
        assert found["parts"][name]["macro_f1"] == pytest.approx(part["macro_f1"])
    assert found["confusion"] == expected["all"]["confusion"]
    for name, scores in expected["all"]["per_class"].items():
        assert found["per_class"][name] == pytest.approx(scores)


def test_summary_of_several_networks(faces):
    several = answers(faces, random_rights(3), temperature=2.0)
    found = summary(several)
    predicted = several.logits.argmax(2).flatten().numpy()
    labels = np.tile(faces.labels, 3)
    assert found["confusion"] == metrics.confusion_matrix(labels, predicted).tolist()
    accuracy = found["parts"]["all"]["accuracy"]
    assert accuracy["mean"] == pytest.approx((predicted == labels).mean())
    assert [row["yaw"] for row in found["yaw"]] == [-45, 45]
    assert sum(row["n"] * row["accuracy"]["mean"] for row in found["yaw"]) == pytest.approx(
        60 * accuracy["mean"]
    )
    sure = [found[key]["confidence"] for key in ("calibration", "calibration_scaled")]
    top = [1 / (1 + 2 * np.exp(-4 / t)) for t in (1, 2)]
    for bins, expected in zip(sure, top):
        assert [c for c in bins if c is not None] == pytest.approx([expected])
    assert sum(found["calibration"]["n"]) == 180


# --- difference


def test_difference_is_paired_over_faces_and_networks(faces):
    """Networks that differ on the same six faces differ for sure, however much they vary."""
    theirs = random_rights(3)
    ours = theirs.copy()
    theirs[:, :6], ours[:, :6] = False, True
    found = difference(answers(faces, ours), answers(faces, theirs))["all"]
    assert found["mean"] == pytest.approx(0.1) and found["each"] == pytest.approx(3 * [0.1])
    assert found["sd"] == pytest.approx(0) and found["over_networks_95"] == pytest.approx([0.1, 0.1])
    assert 0 < found["over_faces_95"][0] < 0.1 < found["over_faces_95"][1] < 0.25
    other = difference(answers(faces, theirs), answers(faces, ours))["all"]
    assert other["mean"] == pytest.approx(-0.1)


def test_a_network_does_not_differ_from_itself(faces):
    one = answers(faces, random_rights(3))
    found = difference(one, one)
    assert all(part["mean"] == 0 for part in found.values())
    assert found["all"]["over_faces_95"] == [0, 0]


def test_networks_of_other_names_are_compared_by_their_means(faces):
    a = answers(faces, random_rights(2, seed=1), ["seed 0, fold 1", "seed 0, fold 2"])
    b = answers(faces, random_rights(3, seed=2))
    found = difference(a, b)["all"]
    assert found["mean"] == pytest.approx(a.correct.mean() - b.correct.mean())
    assert found["sd"] is None and len(found["each"]) == 1


def test_networks_of_one_seed_s_folds_count_as_one(faces):
    """They share most of their training faces, so they say little of other seeds."""
    rights = random_rights(4)
    several = answers(faces, rights, [f"seed {s}, fold {f}" for s in (0, 1) for f in (1, 2)])
    found = summary(several)["parts"]["all"]["accuracy"]
    assert found["each"] == pytest.approx([rights[:2].mean(), rights[2:].mean()])
    half = stats.t.ppf(0.975, 1) * np.std(found["each"], ddof=1) / np.sqrt(2)
    assert found["over_networks_95"] == pytest.approx([rights.mean() - half, rights.mean() + half])
    others = answers(faces, ~rights, several.networks)
    assert len(difference(others, several)["all"]["each"]) == 2


def test_other_faces_have_no_difference(faces):
    rights = random_rights(1)
    others = faces.select(np.arange(60)[::-1])
    assert difference(answers(faces, rights), answers(others, rights)) is None


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
        assert (found.logits[seed].argmax(1).numpy() == (fold + seed) % CLASSES).all()
    torch.testing.assert_close(found.scaled, found.logits / 2)


def test_faces_of_no_fold_are_scored_by_every_network(faces, tmp_path):
    setting = Setting(tmp_path, tmp_path, {})
    jobs = write_jobs(setting, FOLDED.jobs("people"), faces)
    found = collect(jobs, "best", "posefaces-sweep", faces, setting)
    assert len(found.networks) == 20 and found.networks[12] == "seed 1, fold 3"
    assert found.logits.shape == (20, 60, CLASSES)


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


def test_what_leaked_for_either_is_left_out_of_their_difference(faces):
    marked = [replace(faces, leaked_from=np.where(np.arange(60) < n, "val", "")) for n in (0, 20)]
    rights = np.zeros((2, 1, 60), bool)
    rights[0, :, :30] = True
    for one, other in ((0, 1), (1, 0)):
        found = difference(answers(marked[one], rights[0]), answers(marked[other], rights[1]))
        assert found["all"]["mean"] == 30 / 60
        assert found["all_without_leaked"]["mean"] == 10 / 40


def test_nothing_done_is_no_record(tmp_path):
    setting = Setting(tmp_path, tmp_path, {"posefaces": "", "posefaces-sweep": ""})
    with pytest.raises(ValueError, match="^toy: no job is done yet$"):
        gather("toy", FOLDED, setting)


@pytest.mark.parametrize("before, now, written", [(None, 1, True), (2, 2, True), (2, 3, True),
                                                  (3, 2, False)])  # fmt: skip
def test_a_record_of_more_jobs_stays(before, now, written, tmp_path):
    path = tmp_path / "toy.json"
    if before:
        assert write_result(path, {"jobs_done": before, "old": True})
    assert write_result(path, {"jobs_done": now}) == written
    assert ("old" in read_record(path)) != written
