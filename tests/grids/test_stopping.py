"""Grids that are stopped: by a file, by signals, and by a process that trains in the same folder."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import psutil
import pytest
from toy_grid import TOY, figures

from lanmsff import jobs as jobs_module
from lanmsff.checkpoint import lock, read_checkpoint
from lanmsff.experiments import select_jobs
from lanmsff.jobs import run_job, state
from lanmsff.results import read_record

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from toy_grid import TOY
from lanmsff.__main__ import main
from lanmsff.experiments import EXPERIMENTS
if __name__ == "__main__":
    EXPERIMENTS["toy"] = TOY
    sys.exit(main(["grid", "toy", *sys.argv[1:]]))
"""
EPOCHS = 12  # of about half a second, so that a signal comes in the middle


def test_a_job_ends_after_its_step_once_the_file_is_there(undisturbed, setting, monkeypatch):
    job, steps, told = TOY.jobs("full", 1)[0], [], Event()
    stopped = replace(setting, stop=setting.out / ".stop")

    class Told(jobs_module.Run):
        def train_step(self, items):
            super().train_step(items)
            steps.append(items)
            stopped.stop.touch()
            assert told.wait(60)

        def stop(self, reason):
            super().stop(reason)
            told.set()

    with monkeypatch.context() as patch:
        patch.setattr(jobs_module, "Run", Told)
        outcome = run_job(job, stopped)
    assert (outcome.state, outcome.note) == ("unfinished", "stopped after epoch 0")
    assert len(steps) == 1 and read_checkpoint(setting.folder(job))[0]["step"] == 1
    assert run_job(job, stopped).note == "not begun: stopped"
    assert run_job(job, setting).state == "recorded"
    assert figures(job, setting) == figures(job, undisturbed)


def test_a_job_that_another_process_trains_is_no_failure(setting, command):
    job = TOY.jobs("full", 1)[0]
    folder = setting.folder(job)
    folder.mkdir(parents=True)
    with lock(folder):
        status, output, _ = command("--only arm=full seed=0")
        assert status == 75 and "1 unfinished; the same command goes on" in output
        assert f"unfinished {job}: another process trains in its folder" in output
        assert state(job, setting) == "to do" and not (folder / "error.txt").exists()
    assert run_job(job, setting).state == "recorded"


@pytest.fixture
def grid(toys, tmp_path):
    """`grid(number, group, options)` is the status, output and errors of two jobs of TOY.

    A signal is sent once one of them has done another epoch, to the group of processes or to the
    first alone.
    """
    words = [sys.executable, "-c", CODE, "--only", "arm=full", "--epochs", str(EPOCHS)]
    words += ["--data-dir", toys, "--out", tmp_path / "runs", "--results", tmp_path / "results"]
    words += ["--device", "cpu", "--precision", "float32"]
    path = os.pathsep.join(map(str, [ROOT, Path(__file__).parent]))

    def epochs() -> int:
        records = (tmp_path / "runs").rglob("record.json")
        return sum(read_record(record)["epochs"] for record in records)

    def run(*numbers, group=False, options=("--jobs", "2")):
        before = epochs()
        process = subprocess.Popen(
            [*map(str, words), *options], env=os.environ | {"PYTHONPATH": path},
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for number in numbers:
            while process.poll() is None and epochs() == before:
                time.sleep(0.02)
            below = psutil.Process(process.pid).children(recursive=True)
            (os.killpg if group else os.kill)(process.pid, number)
            time.sleep(0.1)  # a second one is another one
        output, errors = process.communicate(timeout=300)
        if numbers:
            _, alive = psutil.wait_procs(below, timeout=30)
            assert not alive
        return process.returncode, output, errors

    return run


@pytest.mark.skipif(os.name == "nt", reason="no signals to groups of processes on Windows")
def test_a_grid_that_is_stopped_twice_loses_nothing(grid, cluster, setting, tmp_path):
    """Ctrl-C, which reaches all processes, then SIGTERM to a grid on a cluster, then to the end."""
    threads, jobs = replace(setting, threads=1), select_jobs(TOY, ["arm=full"], EPOCHS)
    on_cluster = ("--scheduler", cluster.scheduler_address)
    for status, output, errors in (
        grid(signal.SIGINT, group=True),
        grid(signal.SIGTERM, options=on_cluster),
    ):
        assert status == 75, errors
        assert "unfinished; the same command goes on" in output
        assert ": stopped after epoch " in output and "Traceback" not in errors
        assert not list((tmp_path / "runs").glob(".stop-*"))
    status, output, errors = grid()
    assert status == 0 and output.count("recorded ") == 2, errors
    undisturbed = replace(threads, out=tmp_path / "undisturbed")
    for job in jobs:
        assert run_job(job, undisturbed).state == "recorded"
        assert figures(job, setting) == figures(job, undisturbed)


@pytest.mark.skipif(os.name == "nt", reason="no SIGTERM on Windows")
def test_a_second_signal_ends_at_once(grid):
    status, output, errors = grid(signal.SIGTERM, signal.SIGINT)
    assert status == 130 and "stopped; no file is half written" in errors
    assert "unfinished" not in output
