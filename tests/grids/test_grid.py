"""Grids: jobs in processes and on a Dask cluster, what is lost when one dies, and the command."""

import itertools
import json
import os
import shutil
import signal
from threading import Thread
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image
from toy_grid import ARMS, BROKEN, TOY, figures

from data_prep.__main__ import main as data_prep
from lanmsff import grid as grid_module
from lanmsff.__main__ import main
from lanmsff.experiments import DATA, EXPERIMENTS, select_jobs
from lanmsff.gather import gather
from lanmsff.grid import run_grid
from lanmsff.jobs import Outcome, state
from lanmsff.results import read_record


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


@pytest.fixture
def killer(monkeypatch, tmp_path):
    """Jobs, of which the first kills its process whenever it is run; and the list of those begun.

    The others find nothing.
    """
    jobs, begun = select_jobs(TOY, epochs=1), tmp_path / "begun"
    begun.touch()

    def run(job, setting):
        with open(begun, "a") as file:
            file.write(f"{job}\n")
        if job == jobs[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(job, "recorded", "")

    monkeypatch.setattr(grid_module, "run_job", run)
    return jobs, lambda: begun.read_text().splitlines()


def test_a_job_that_kills_its_process_fails_alone(setting, killer):
    jobs, begun = killer
    outcomes = {outcome.job: outcome for outcome in run_grid(jobs, setting, workers=2)}
    assert [outcomes[job].state for job in jobs] == ["failed", *["recorded"] * 3]
    assert sorted(begun()) == sorted(map(str, [jobs[0], jobs[0], *jobs]))
    assert outcomes[jobs[0]].note == "its process was killed again and again; out of memory?"
    assert outcomes[jobs[0]].note in (setting.folder(jobs[0]) / "error.txt").read_text()


def test_a_job_that_kills_its_worker_of_a_cluster_fails_alone(setting, killer):
    """One worker, so that Dask blames a job that waits behind the one that kills it."""
    dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
    (jobs, begun), outcomes = killer, {}

    def run(address):
        for outcome in run_grid(jobs, setting, scheduler=address):
            outcomes[outcome.job] = outcome

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
    ):
        thread = Thread(target=run, args=[cluster.scheduler_address], daemon=True)
        thread.start()
        thread.join(timeout=300)
        assert not thread.is_alive()
    assert [outcomes[job].state for job in jobs] == ["failed", *["recorded"] * 3]
    assert begun().count(str(jobs[0])) == 4  # two deaths, and two when it is alone
    assert outcomes[jobs[0]].note == "its process was killed again and again; out of memory?"
    assert "KilledWorker" in (setting.folder(jobs[0]) / "error.txt").read_text()


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


def test_the_command_writes_the_record_of_the_experiment(command, undisturbed):
    status, output, _ = command("", out=undisturbed.out)
    assert status == 0
    assert output.count("recorded ") == 4
    assert "toy-1epochs.json: 4 of 4 jobs" in output
    record = read_record(command.results / "toy-1epochs.json")
    assert record == json.loads(json.dumps(gather("toy", TOY, undisturbed, 1)))


def test_list_runs_nothing(command, tmp_path):
    status, output, _ = command("--list")
    assert status == 0
    assert [line.split()[:2] for line in output.splitlines()] == 4 * [["to", "do"]]
    assert output.splitlines()[2].split()[-1] == (
        "posefaces/short/split/multi_scale=False/seed0-epochs1"
    )
    assert not (tmp_path / "runs").exists() and not command.results.exists()


def test_what_the_record_holds_is_not_trained_again_elsewhere(command, undisturbed, tmp_path):
    path = command.results / "toy-1epochs.json"
    for job in select_jobs(TOY, ["arm=full"], 1):  # two, which two arms share
        shutil.copytree(undisturbed.folder(job), tmp_path / "first" / job.folder)
    command("--only arm=full", out=tmp_path / "first")
    before = read_record(path)
    status, output, _ = command("--only seed=0 arm=full")
    assert status == 0 and "toy-1epochs.json: has all 1 jobs; name another folder" in output
    assert read_record(path) == before and not (tmp_path / "runs" / "posefaces").exists()
    _, output, _ = command("--list")
    assert [line[:9].strip() for line in output.splitlines()] == 2 * ["recorded"] + 2 * ["to do"]

    status, output, _ = command("")
    assert status == 0
    assert "toy-1epochs.json: has 2 of 4 jobs, which are not run again" in output
    assert "4 of 4 jobs, 2 of them as recorded before" in output
    assert len(list((tmp_path / "runs").rglob("job.json"))) == 2


def test_a_folder_of_records_that_cannot_be_written_is_refused_before_the_work(command, tmp_path):
    command.results.touch()  # a file
    status, _, errors = command("")
    assert status == 2 and "is a file; choose another file" in errors
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_runs_that_is_a_file_is_refused_before_the_work(command, tmp_path):
    (tmp_path / "runs").touch()
    status, _, errors = command("")
    assert status == 2 and "runs: is a file; choose another folder" in errors
    assert not command.results.exists()


def test_what_is_no_record_is_refused_before_the_work(command, tmp_path):
    command.results.mkdir()
    (command.results / "toy-1epochs.json").write_text("[]")
    status, _, errors = command("")
    assert status == 2 and "toy-1epochs.json: not a JSON record" in errors
    assert not (tmp_path / "runs").exists()


def test_a_failed_job_shows_in_the_status(command):
    status, output, _ = command("--only arm=bad", name="broken")
    assert status == 1
    assert "failed " in output and "1 failed; each has its traceback in error.txt" in output
    assert not command.results.exists()


def test_a_grid_that_is_out_of_time_says_how_it_goes_on(command):
    status, output, _ = command("--max-minutes 0")
    assert status == 75
    assert output.count("unfinished ") == 4 and "4 unfinished; the same command goes on" in output
    assert not command.results.exists()


def test_the_commands_for_kdef_on_stand_ins(tmp_path, monkeypatch):
    """Noise by KDEF's names, of 10 people: from the folder to a record, as in results/README.md."""
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


def test_the_command_for_a_missing_set_writes_where_it_is_missing(toys, tmp_path, capsys):
    assert main(["grid", "kdef-paper", "--data-dir", str(toys), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip().endswith(f"--out {toys / 'kdef.npz'}")


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
