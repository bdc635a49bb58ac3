"""Grids: the jobs of an experiment, several at a time, in processes of one machine or on a cluster.

A job is one thing that can be lost: it writes its record at its end, begins from its checkpoint
when it is run again, and is not run again once it is recorded. A job whose process dies again and
again fails alone.

On one machine loky, which joblib brings along, has the processes: each is a pool of its own, since
a pool is broken as a whole when one of its processes dies. `joblib.Parallel` knows only whole
pools, and on Dask it waits for ever for a job that killed its worker; so Dask is asked itself.
"""

from __future__ import annotations

import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

from lanmsff.experiments import Experiment, Job
from lanmsff.jobs import Outcome, Setting, fail, run_job

ATTEMPTS = 3  # how often a job is begun whose process is killed; Dask has a number of its own


class KilledError(RuntimeError):
    """The process of a job was killed each time that it was begun."""

    def __init__(self) -> None:
        super().__init__("its process was killed again and again; out of memory?")


def run_grid(
    jobs: Sequence[Job], setting: Setting, workers: int = 1, scheduler: str | None = None
) -> Iterator[Outcome]:
    """Run jobs that do not depend on each other; yields how each ended, as they end.

    Args:
        setting: its `threads` are set here: the cores are divided among the workers. With a `stop`,
            SIGINT and SIGTERM in a process of a job make that file.
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
    yield from _run_in_processes(jobs, setting, workers)


def hashes(experiment: Experiment, setting: Setting) -> dict[str, str]:
    """Name -> sha256 of the prepared sets of an experiment; `FileNotFoundError` if one is missing."""
    return {name: setting.load(name).sha256 for name in experiment.sets}


def _run_in_processes(jobs: Sequence[Job], setting: Setting, workers: int) -> Iterator[Outcome]:
    waiting, deaths = deque(jobs), Counter()
    running: dict[Any, tuple[Job, ProcessPoolExecutor]] = {}

    def begin(pool: ProcessPoolExecutor) -> None:
        if waiting:
            job = waiting.popleft()
            running[pool.submit(run_job, job, setting)] = job, pool
        else:
            pool.shutdown(wait=False)

    try:
        for _ in range(min(workers, len(jobs))):
            begin(_process(setting))
        while running:
            ended = []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, pool = running.pop(future)
                killed = isinstance(future.exception(), BrokenProcessPool)
                if killed:
                    pool = _process(setting)
                    deaths[job] += 1
                if again := killed and deaths[job] < ATTEMPTS:
                    waiting.appendleft(job)  # it goes on from its checkpoint
                else:
                    ended.append(_outcome(future, job, setting, BrokenProcessPool))
                begin(pool)
            yield from ended  # once all are busy again
    finally:
        for _, pool in running.values():
            pool.shutdown(kill_workers=True)


def _process(setting: Setting) -> ProcessPoolExecutor:
    """A process for one job at a time."""
    return ProcessPoolExecutor(
        1,
        env={"OMP_NUM_THREADS": str(setting.threads)},  # for what is not PyTorch
        initializer=_pass_on if setting.stop else None,
        initargs=(setting.stop,),
    )


def _pass_on(stop: Path) -> None:
    """Make the file `stop` at a signal: Ctrl-C reaches all processes, and none should die of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.touch())


def _run_on_dask(jobs: Sequence[Job], setting: Setting, scheduler: str) -> Iterator[Outcome]:
    with _client(scheduler) as client:
        from distributed import KilledWorker, as_completed

        threads = client.nthreads()
        if not threads:
            raise ValueError(f"{scheduler}: a Dask scheduler without workers")
        if max(threads.values()) > 1:
            raise ValueError(
                f"{scheduler}: workers with several threads, but PyTorch's random state belongs "
                "to the process; start them with: dask worker --nthreads 1 --nworkers N"
            )

        def begin(job: Job) -> Any:
            return client.submit(run_job, job, setting, pure=False)

        futures, suspects = {begin(job): job for job in jobs}, []
        for future in as_completed(futures):
            job = futures.pop(future)
            if isinstance(future.exception(), KilledWorker):
                suspects.append(job)
            else:
                outcome = _outcome(future, job, setting, KilledWorker)
                future.release()  # else Dask runs it again should the worker that ran it die
                yield outcome
        # Dask also blames the jobs that waited at a worker which another one killed: each alone now
        for job in suspects:
            yield _outcome(begin(job), job, setting, KilledWorker)


def _outcome(future: Any, job: Job, setting: Setting, killed: type[Exception]) -> Outcome:
    """Of a job that has ended, or will; `killed` is what its future raises if its process died."""
    try:
        return future.result()
    except killed as error:
        failure = KilledError()
        failure.__cause__ = error
        return fail(job, setting, failure)
    except Exception as error:  # it could not be sent there, or its outcome not back
        return fail(job, setting, error)


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
