"""Grids: the jobs of an experiment, several at a time, in processes of one machine or on a cluster.

joblib runs them, in processes of its own (loky) or on Dask. A job is one thing that can be lost: it
writes its record at its end, begins from its checkpoint when it is run again, and is not run again
once it is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace

import joblib

from lanmsff.experiments import Experiment, Job
from lanmsff.jobs import Outcome, Setting, run_job

ATTEMPTS = 3  # how often a pool is begun again whose process was killed from outside


def run_grid(
    jobs: Sequence[Job], setting: Setting, workers: int = 1, scheduler: str | None = None
) -> Iterator[Outcome]:
    """Run jobs that do not depend on each other; yields how each ended, as they end.

    Args:
        setting: its `threads` are set here: the cores are divided among the workers.
        workers: jobs at a time on this machine.
        scheduler: address of a Dask scheduler, "tcp://host:port", whose workers run the jobs
            instead. They need one thread each, this package, and `out` and `data_dir` at the same
            paths.

    Raises:
        ValueError: the scheduler does not answer, or its workers are not fit for this.
    """
    if scheduler:
        yield from _run_on_dask(jobs, setting, scheduler)
        return
    setting = replace(setting, threads=max(1, joblib.cpu_count() // workers))
    if workers == 1:
        yield from (run_job(job, setting) for job in jobs)
        return
    with joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=setting.threads):
        yield from _run_parallel(jobs, setting, BrokenProcessPool)


def hashes(experiment: Experiment, setting: Setting) -> dict[str, str]:
    """Name -> sha256 of the prepared sets of an experiment; `FileNotFoundError` if one is missing."""
    return {name: setting.load(name).sha256 for name in experiment.sets}


def _run_parallel(
    jobs: Sequence[Job], setting: Setting, killed: type[Exception]
) -> Iterator[Outcome]:
    """Run jobs on joblib's current backend, which raises `killed` when it lost a process."""
    waiting = dict.fromkeys(jobs)
    for _ in range(ATTEMPTS):
        tasks = [joblib.delayed(run_job)(job, setting) for job in waiting]
        parallel = joblib.Parallel(
            return_as="generator_unordered", batch_size=1, pre_dispatch="all"
        )
        try:
            for outcome in parallel(tasks):
                del waiting[outcome.job]
                yield outcome
            return
        except killed:
            pass  # what ran goes on from its checkpoint
    for job in waiting:
        yield Outcome(job, "failed", "a process was killed again and again; out of memory?")


def _run_on_dask(jobs: Sequence[Job], setting: Setting, scheduler: str) -> Iterator[Outcome]:
    with _client(scheduler) as client:
        from distributed import KilledWorker

        threads = client.nthreads()
        if not threads:
            raise ValueError(f"{scheduler}: a Dask scheduler without workers")
        if max(threads.values()) > 1:
            raise ValueError(
                f"{scheduler}: workers with several threads, but PyTorch's random state belongs "
                "to the process; start them with: dask worker --nthreads 1 --nworkers N"
            )
        with joblib.parallel_config("dask", client=client):
            yield from _run_parallel(jobs, setting, KilledWorker)


@contextmanager
def _client(scheduler: str) -> Iterator:
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(
            f"--scheduler needs Dask ({error}); pip install 'lanmsff[cluster]'"
        ) from None
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{scheduler}: no Dask scheduler answers there ({reason})") from None
    with client:
        yield client
