"""`python -m lanmsff grid`: the jobs of an experiment, several at a time, and its record.

Exit status: 0 when all of them are done, 1 when one failed, 75 when some are only unfinished (by
Ctrl-C, SIGTERM or `--max-minutes`, or another process trains them) and the same command goes on.
"""

import argparse
import time
from pathlib import Path
from uuid import uuid4

from lanmsff.commands.arguments import add_device, add_without, duration, positive, speed
from lanmsff.commands.train import STOPPED
from lanmsff.console import stopping
from lanmsff.experiments import EXPERIMENTS, pick_experiment, select_jobs


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "grid",
        help="run an experiment: trainings over seeds, folds and variants, and their record",
        description="Experiments: " + ", ".join(EXPERIMENTS) + ". See results/README.md. Ctrl-C, "
        "SIGTERM and --max-minutes end all trainings after a step, with checkpoints, and the same "
        "command goes on; a second Ctrl-C ends at once.",
        epilog=f"Exit status: 0 all done, 1 a job failed, 2 an error, {STOPPED} to be gone on with.",
    )
    parser.add_argument("experiment", metavar="NAME", help="of an experiment")
    parser.add_argument("--list", action="store_true", help="only show the jobs and their state")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="KEY=VALUE",
        help="only some jobs: arm=full,se seed=0 fold=1,2",
    )  # fmt: skip
    parser.add_argument("--epochs", type=positive, help="at most; default: the recipe's")
    parser.add_argument(
        "--jobs", type=positive,
        help="at a time; several can share a GPU (default: 1 on a GPU, else one for each core)",
    )  # fmt: skip
    parser.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="run them on a Dask cluster")
    parser.add_argument(
        "--max-minutes", type=duration, metavar="M",
        help="end with checkpoints after M minutes, to go on later",
    )  # fmt: skip
    parser.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR",
                        help="folder of the prepared sets (default: data)")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR",
                        help="folder of all runs (default: runs)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                        help="folder of the record (default: results)")
    add_without(parser)
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    experiment = pick_experiment(arguments.experiment)
    jobs = select_jobs(experiment, arguments.only, arguments.epochs)

    import joblib
    from tqdm import tqdm

    from lanmsff.data import check_writable
    from lanmsff.device import pick_device
    from lanmsff.gather import held, update_record
    from lanmsff.grid import hashes, run_grid
    from lanmsff.jobs import Setting, recorded, state

    limit = arguments.max_minutes
    setting = Setting(
        arguments.out.resolve(),
        arguments.data_dir.resolve(),
        hashes(experiment, Setting(arguments.out, arguments.data_dir, {})),
        arguments.device,
        arguments.precision,
        deadline=time.time() + 60 * limit if limit is not None else None,
        stop=arguments.out.resolve() / f".stop-{uuid4().hex}",
        speed=speed(arguments),
    )
    cut = f"-{arguments.epochs}epochs" if arguments.epochs else ""
    path = arguments.results / f"{arguments.experiment}{cut}.json"
    # what is no record is refused now, not after the work
    there = held(path, arguments.experiment, experiment, setting, arguments.epochs)
    if arguments.list:
        for job in jobs:
            print(f"{'recorded' if job in there else state(job, setting):10} {job}")
        return 0
    check_writable(path)
    check_writable(arguments.out, "folder")
    # those that ran here as well are gathered again, for how they are scored may have changed
    chosen, jobs = jobs, [job for job in jobs if job not in there or recorded(job, setting)]
    if not jobs:
        print(f"{path}: has all {len(chosen)} jobs; name another folder with --results to train "
              "them again")
        return 0
    if len(jobs) < len(chosen):
        print(f"{path}: has {len(chosen) - len(jobs)} of {len(chosen)} jobs, which are not run again")
    workers = arguments.jobs
    if workers is None and not arguments.scheduler:
        workers = 1 if pick_device(arguments.device).type == "cuda" else joblib.cpu_count()

    def stop(_: str) -> None:
        setting.out.mkdir(parents=True, exist_ok=True)
        setting.stop.touch()

    ended = []
    with stopping(stop), tqdm(total=len(jobs), unit=" job", desc=arguments.experiment) as bar:
        for outcome in run_grid(jobs, setting, min(workers or 1, len(jobs)), arguments.scheduler):
            tqdm.write(f"{outcome.state:10} {outcome.job}: {outcome.note}")
            ended.append(outcome.state)
            bar.update()
    # after a second Ctrl-C it stays, for what still runs on a cluster
    setting.stop.unlink(missing_ok=True)

    if "recorded" in ended:
        print(update_record(path, arguments.experiment, experiment, setting, arguments.epochs))
    if unfinished := ended.count("unfinished"):
        print(f"{unfinished} unfinished; the same command goes on")
    if failed := ended.count("failed"):
        print(f"{failed} failed; each has its traceback in error.txt in its folder in "
              f"{arguments.out}")
        return 1
    return STOPPED if unfinished else 0
