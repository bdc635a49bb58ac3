"""Grids: jobs in processes and on a Dask cluster, what is lost when one dies, and their records."""

import hashlib
import itertools
import json
import os
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from data_prep.__main__ import main as data_prep
from lanmsff import LANMSFF
from lanmsff import grid as grid_module
from lanmsff import jobs as jobs_module
from lanmsff import train as train_module
from lanmsff.__main__ import main
from lanmsff.data import FaceSet
from lanmsff.evaluate import evaluate, predict
from lanmsff.experiments import DATA, EXPERIMENTS, Arm, Experiment, Job, select_jobs
from lanmsff.gather import gather
from lanmsff.grid import hashes, run_grid
from lanmsff.jobs import Outcome, Setting, divide, load_logits, run_job, state
from lanmsff.report import report
from lanmsff.results import read_record
from lanmsff.weights import load_weights, save_weights

CPU = torch.device("cpu")
ARMS = {"full": Arm(), "last": Arm(weights="last"), "cut": Arm(options={"multi_scale": False})}
TOY = Experiment("Toys.", "posefaces", "short", ARMS, seeds=(0, 1))
BROKEN = Experiment(
    "One job cannot be.", "posefaces", "short", {"bad": Arm(options={"mixing": "no"}), **ARMS}, (0,)
)


@pytest.fixture(scope="module")
def toys(toy_faces, tmp_path_factory):
    """A data folder with two made-up sets of 12 people, seen from two sides."""
    folder = tmp_path_factory.mktemp("data")

    def save(name, **sizes):
        faces = toy_faces(**sizes)
        people = np.array([f"F{row % 12:02}" for row in range(len(faces))])
        yaw = np.where(np.arange(len(faces)) // 2 % 2, 45, -45).astype(np.float32)
        replace(faces, subject=people, yaw=yaw).save(folder / f"{name}.npz")

    save("posefaces", train=20, val=8, test=12)
    save("posefaces-sweep", train=0, val=0, test=8, seed=1)
    return folder


@pytest.fixture
def setting(toys, tmp_path):
    setting = Setting(tmp_path / "runs", toys, {}, device="cpu", precision="float32")
    return replace(setting, hashes=hashes(TOY, setting))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums are the same to the bit only in the same number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(toys, tmp_path_factory):
    """The setting of all jobs of TOY, done one after the other in this process."""
    setting = Setting(tmp_path_factory.mktemp("runs"), toys, {}, "cpu", "float32")
    setting = replace(setting, hashes=hashes(TOY, setting))
    for job in select_jobs(TOY, epochs=1):
        assert run_job(job, setting).state == "recorded"
    return setting


def figures(job: Job, setting: Setting):
    """What a job found, without the time it took and where."""
    record = read_record(setting.folder(job) / "job.json")
    run = record.pop("run")
    history = [{k: v for k, v in epoch.items() if "seconds" not in k} for epoch in run["history"]]
    return record, history


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
        model = load_weights(folder / f"{which}.safetensors").model
        logits = predict(model, torch.from_numpy(test.images), CPU)
        found = record["scores"][which]["tests"]["posefaces"]
        temperature = record["scores"][which]["temperature"]
        expected = json.loads(json.dumps(report(test, logits, temperature)))
        assert found["parts"].keys() == expected["parts"].keys() > {"all", "pose30"}
        for name, part in evaluate(test, logits).items():
            assert found["parts"][name]["correct"] == part["correct"]
            assert found["parts"][name]["loss"] == pytest.approx(part["loss"], abs=1e-3)
        assert found["yaw"] == expected["yaw"]
        assert sum(row["n"] for row in found["yaw"]) == len(test)
        for diagram in ("calibration", "calibration_scaled"):
            assert found[diagram]["error"] == pytest.approx(expected[diagram]["error"], abs=1e-3)
        kept, rows = load_logits(folder, which, "posefaces")
        torch.testing.assert_close(kept.softmax(1), logits.softmax(1), atol=1e-3, rtol=0)
        assert (kept.argmax(1) == logits.argmax(1)).all()
        assert (faces.name[rows] == test.name).all()
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
        assert outcome.state == "recorded" and "of 12 test faces, 1 epochs" in outcome.note


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


# --- grids


def test_a_grid_in_processes_and_a_job_that_fails(undisturbed, setting):
    """The others find what one process finds, in one thread each."""
    jobs = select_jobs(BROKEN, epochs=1)
    outcomes = {outcome.job: outcome for outcome in run_grid(jobs, setting, workers=2)}
    bad, *good = jobs
    assert outcomes[bad].state == "failed" == state(bad, setting)
    assert outcomes[bad].note.startswith("mixing must be one of")
    assert "Traceback" in (setting.folder(bad) / "error.txt").read_text()
    for job in good:
        assert outcomes[job].state == "recorded"
        assert figures(job, setting) == figures(job, undisturbed)
        assert read_record(setting.folder(job) / "job.json")["run"]["environment"]["threads"] == 1
    record = gather("broken", BROKEN, setting, epochs=1)
    assert (record["jobs_done"], record["jobs_all"]) == (2, 3)
    assert record["arms"].keys() == ARMS.keys()


def test_nothing_is_lost_with_a_process(undisturbed, setting):
    jobs = select_jobs(TOY, epochs=1)
    outcomes = {}
    for outcome in run_grid(jobs, setting, workers=2):
        if not outcomes:
            below = psutil.Process().children(recursive=True)
            workers = [process for process in below if "LokyProcess" in " ".join(process.cmdline())]
            workers[0].kill()
        outcomes[outcome.job] = outcome.state
    assert outcomes == dict.fromkeys(jobs, "recorded")
    assert all(figures(job, setting) == figures(job, undisturbed) for job in jobs)


def test_processes_that_die_again_and_again_are_told(setting, monkeypatch):
    """Nothing that was done is asked for again, and the rest is reported in the end."""
    jobs, asked = select_jobs(TOY, epochs=1), []

    def parallel(**_):
        def run(tasks):
            asked.append([job for _, (job, _), _ in tasks])
            if len(asked) == 1:
                yield Outcome(jobs[0], "recorded", "")
            raise grid_module.BrokenProcessPool

        return run

    monkeypatch.setattr(grid_module.joblib, "Parallel", parallel)
    outcomes = {outcome.job: outcome for outcome in run_grid(jobs, setting, workers=2)}
    assert asked == [jobs, jobs[1:], jobs[1:]]
    assert [outcomes[job].state for job in jobs] == ["recorded", *["failed"] * 3]
    assert "killed again and again" in outcomes[jobs[1]].note


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


def test_nothing_is_lost_with_a_worker_of_a_cluster(undisturbed, setting, cluster):
    jobs = select_jobs(TOY, epochs=1)
    outcomes = {}
    for outcome in run_grid(jobs, setting, scheduler=cluster.scheduler_address):
        if not outcomes:
            with cluster.get_client() as client:
                pids = list(client.run(os.getpid).values())
            assert len(pids) == 2
            os.kill(pids[0], signal.SIGKILL)
        outcomes[outcome.job] = outcome.state
    assert outcomes == dict.fromkeys(jobs, "recorded")
    assert not psutil.pid_exists(pids[0]) or psutil.Process(pids[0]).status() == "zombie"
    assert all(figures(job, setting) == figures(job, undisturbed) for job in jobs)


def test_workers_with_several_threads_are_refused(setting, monkeypatch):
    from contextlib import nullcontext

    client = SimpleNamespace(nthreads=lambda: {"tcp://a": 1, "tcp://b": 4})
    monkeypatch.setattr(grid_module, "_client", lambda scheduler: nullcontext(client))
    with pytest.raises(ValueError, match="--nthreads 1"):
        list(run_grid(select_jobs(TOY), setting, scheduler="tcp://a"))


# --- the command


@pytest.fixture
def command(toys, tmp_path, monkeypatch, capsys):
    """`command("--only ...")` gives (status, output, errors) of a grid over TOY."""
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    monkeypatch.setitem(EXPERIMENTS, "broken", BROKEN)

    def run(words: str, name="toy", out=tmp_path / "runs"):
        where = ["--data-dir", toys, "--out", out, "--results", tmp_path / "results"]
        where += ["--device", "cpu", "--precision", "float32", "--epochs", "1", "--jobs", "1"]
        status = main(["grid", name, *map(str, where), *words.split()])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    run.results = tmp_path / "results"
    return run


def test_the_command_writes_the_record_of_the_experiment(command, undisturbed):
    status, output, _ = command("", out=undisturbed.out)
    assert status == 0
    assert output.count("recorded ") == 4
    assert "toy-1epochs.json: 4 of 4 jobs" in output
    record = read_record(command.results / "toy-1epochs.json")
    assert record == json.loads(json.dumps(gather("toy", TOY, undisturbed, 1)))


def test_a_record_does_not_give_way_to_one_of_fewer_jobs(command, undisturbed):
    command("", out=undisturbed.out)
    before = (command.results / "toy-1epochs.json").read_bytes()
    status, output, _ = command("--only arm=cut seed=1")
    assert status == 0 and "kept, it has more than these 1 of 4 jobs" in output
    assert (command.results / "toy-1epochs.json").read_bytes() == before


def test_list_runs_nothing(command, tmp_path):
    status, output, _ = command("--list")
    assert status == 0
    assert [line.split()[:2] for line in output.splitlines()] == 4 * [["to", "do"]]
    assert output.splitlines()[2].split()[-1] == (
        "posefaces/short/split/multi_scale=False/seed0-epochs1"
    )
    assert not (tmp_path / "runs").exists() and not command.results.exists()


def test_a_failed_job_shows_in_the_status(command):
    status, output, _ = command("--only arm=bad", name="broken")
    assert status == 1
    assert "failed " in output and "1 failed; each has its traceback in error.txt" in output
    assert not command.results.exists()


def test_a_grid_that_is_out_of_time_says_how_it_goes_on(command):
    status, output, _ = command("--max-minutes 0")
    assert status == 75
    assert output.count("unfinished ") == 4 and "the same command goes on" in output
    assert not command.results.exists()


def test_the_commands_for_kdef_on_stand_ins(tmp_path, monkeypatch):
    """Noise by KDEF's names, of 10 people: from the folder to a record, as results/README.md says."""
    rng = np.random.default_rng(0)
    for person, code in itertools.product(range(1, 11), ("HA", "NE", "SU")):
        path = tmp_path / "KDEF" / f"AF{person:02}" / f"AF{person:02}{code}S.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (76, 56, 3), dtype=np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    prepare = DATA["kdef"].command.replace("KDEF_and_AKDEF.zip", "KDEF").split()
    assert prepare[:3] == ["python", "-m", "data_prep"]
    assert data_prep([*prepare[3:], "--skip-bad"]) == 0
    words = "grid kdef-paper --only arm=person-independent fold=1 --epochs 1 --device cpu"
    assert main(words.split()) == 0
    record = read_record("results/kdef-paper-1epochs.json")
    assert (record["jobs_done"], record["jobs_all"]) == (1, 20)
    assert record["data"]["kdef"]["dataset"] == "KDEF" and record["data"]["kdef"]["people_known"]
    (test,) = record["arms"]["person-independent"]["tests"].values()
    assert test["parts"]["all"]["n"] == 3 and [row["yaw"] for row in test["yaw"]] == [0]


@pytest.mark.parametrize(
    "words, message",
    [
        (["nothing"], "experiment 'nothing': choose one of ferplus-paper, "),
        (["posefaces-short", "--only", "arm=none"], "no arm 'none'"),
        (["kdef-paper"], "kdef.npz: not there; make it with: python -m data_prep kdef"),
        (["posefaces-short", "--scheduler", "nowhere"], "nowhere: no Dask scheduler answers there"),
    ],
)
def test_wrong_words_in_one_line(words, message, toys, tmp_path, capsys):
    where = ["--data-dir", str(toys), "--out", str(tmp_path / "runs")]
    assert main(["grid", *words, *where]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert list(tmp_path.iterdir()) == []
