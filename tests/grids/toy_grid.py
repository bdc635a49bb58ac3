"""A small experiment, one with a job that cannot be, and what a job found."""

from lanmsff.experiments import Arm, Experiment, Job
from lanmsff.jobs import Setting
from lanmsff.results import read_record

ARMS = {"full": Arm(), "last": Arm(weights="last"), "cut": Arm(options={"multi_scale": False})}
TOY = Experiment("Toys.", "posefaces", "short", ARMS, seeds=(0, 1))
BROKEN = Experiment(
    "One job cannot be.", "posefaces", "short", {"bad": Arm(options={"mixing": "no"}), **ARMS}, (0,)
)


def figures(job: Job, setting: Setting):
    """What a job found, without the time it took and where."""
    record = read_record(setting.folder(job) / "job.json")
    run = record.pop("run")
    history = [{k: v for k, v in epoch.items() if "seconds" not in k} for epoch in run["history"]]
    return record, history
