"""Records to which several machines add: what is kept, what is joined, and what cannot be."""

import json
import shutil
from dataclasses import replace

import pytest
from toy_grid import TOY

from lanmsff.experiments import Arm, Experiment, select_jobs
from lanmsff.gather import gather, held, update_record
from lanmsff.jobs import JOB, run_job
from lanmsff.results import read_record, write_record


@pytest.fixture
def elsewhere(undisturbed, tmp_path):
    """`elsewhere("seed=0")` is a setting in which only these jobs of `undisturbed` ran."""

    def only(*filters):
        setting = replace(undisturbed, out=tmp_path / "-".join(filters))
        for job in select_jobs(TOY, filters, epochs=1):
            shutil.copytree(undisturbed.folder(job), setting.folder(job))
        return setting

    return only


@pytest.fixture
def update(tmp_path):
    """`update(setting)` is the line about the record, and the record that then lies there."""
    path = tmp_path / "toy.json"

    def run(setting, experiment=TOY):
        line = update_record(path, "toy", experiment, setting, 1)
        assert line.startswith(f"{path}: ")
        return line.removeprefix(f"{path}: "), read_record(path)

    run.path = path
    return run


def test_seeds_of_two_machines_are_one_record(undisturbed, elsewhere, update, assert_close):
    """As if all had run on one; whichever comes first, and though the second has seed 0 as well."""
    expected = json.loads(json.dumps(gather("toy", TOY, undisturbed, 1)))
    line, _ = update(elsewhere("seed=1"))
    assert line == "2 of 4 jobs"
    line, record = update(elsewhere("seed=0"))
    assert line == "4 of 4 jobs, 2 of them as recorded before"
    assert_close(record, expected)
    assert list(record["jobs"]) == list(expected["jobs"])

    update.path.unlink()
    update(elsewhere("seed=0,1", "arm=full"))
    line, record = update(elsewhere("arm=cut,full", "seed=1"))
    assert line == "3 of 4 jobs, 2 of them as recorded before"
    line, record = update(elsewhere("arm=cut", "seed=0"))
    assert line == "4 of 4 jobs, 3 of them as recorded before"
    assert_close(record, expected)


def test_every_place_where_a_job_was_trained_is_named(elsewhere, update):
    setting = elsewhere("seed=0")
    path = setting.folder(select_jobs(TOY, ["seed=0"], 1)[0]) / JOB
    job = read_record(path)
    job["run"]["earlier"] = [{"epochs": 0.5, "environment": {"device": "a GPU"}}]
    write_record(path, job)
    _, record = update(setting)
    assert record["environments"] == [{"device": "a GPU"}, job["run"]["environment"]]


def test_a_record_of_the_same_jobs_is_written_anew(elsewhere, update):
    update(elsewhere("seed=0"))
    write_record(update.path, read_record(update.path) | {"old": True})
    line, record = update(elsewhere("seed=0", "arm=full,cut"))
    assert line == "2 of 4 jobs" and "old" not in record


def test_a_record_of_more_jobs_stays(undisturbed, elsewhere, update):
    update(undisturbed)
    before = update.path.read_bytes()
    line, _ = update(elsewhere("arm=cut", "seed=1"))
    assert line == "kept, it has more than these 1 of 4 jobs"
    assert update.path.read_bytes() == before


@pytest.mark.parametrize("change, reason", [
    ({"settings": {}}, "it has not the same settings"),
    ({"data": {}}, "it has not the same data"),
    ({"arms": None}, "it does not say on which faces its networks are right"),
    ({"jobs": None}, "its full has posefaces/short/split/dropout=0.9/seed0-epochs1"),
])  # fmt: skip
def test_of_two_records_that_cannot_be_joined_that_of_more_jobs_stays(
    change, reason, elsewhere, update
):
    _, record = update(elsewhere("seed=0"))
    if change == {"arms": None}:
        for arm in record["arms"].values():
            for test in arm["tests"].values():
                del test["correct"]
    elif change == {"jobs": None}:
        text = json.dumps(record).replace("/split/full/", "/split/dropout=0.9/")
        record = json.loads(text)
    else:
        record |= change
    write_record(update.path, record)
    line, kept = update(elsewhere("arm=cut", "seed=1"))
    assert kept == record and line == (
        "kept, it has not fewer than these 1 of 4 jobs; cannot be joined with the 2 recorded "
        f"before: {reason}"
    )
    line, record = update(elsewhere("seed=1", "arm=full,cut"))
    assert record == kept and line.startswith("kept, it has not fewer than these 2 of 4 jobs; ")
    kept["jobs"].popitem()
    write_record(update.path, kept)
    line, record = update(elsewhere("seed=1"))
    assert line == f"2 of 4 jobs; cannot be joined with the 1 recorded before: {reason}"
    assert [job["seed"] for job in record["jobs"].values()] == [1, 1]


def test_a_record_of_something_else_is_not_written_over(elsewhere, update):
    setting = elsewhere("seed=1")
    for other in ({"scores": {}}, {"experiment": "another", "jobs": {}}):
        write_record(update.path, other)
        with pytest.raises(ValueError, match="toy.json: no record of toy; move it, or name"):
            update(setting)
        assert read_record(update.path) == other


def test_a_record_with_an_arm_that_is_gone_is_not_joined(elsewhere, update):
    update(elsewhere("seed=1"))
    record = read_record(update.path)
    record["arms"]["old"] = record["arms"].pop("cut")
    write_record(update.path, record)
    line, now = update(elsewhere("seed=0"))
    assert line.startswith("kept, it has not fewer than these 2 of 4 jobs; cannot be joined")
    assert line.endswith("it has old, which is no longer compared") and now == record


def test_folds_of_one_seed_come_from_one_machine(setting, update, tmp_path, assert_close):
    """Those of other seeds may come from another."""
    folded = Experiment("Toys.", "posefaces", "short", {"people": Arm("person-independent")}, (0, 1))
    jobs = [select_jobs(folded, [f"seed={seed}", "fold=2,5"], 1) for seed in (0, 1)]
    for job in sum(jobs, []):
        assert run_job(job, setting).state == "recorded"
    expected = json.loads(json.dumps(gather("toy", folded, setting, 1)))

    def on(name, *jobs):
        machine = replace(setting, out=tmp_path / name)
        for job in jobs:
            shutil.copytree(setting.folder(job), machine.folder(job))
        return machine

    update(on("seed 1", *jobs[1]), folded)
    line, record = update(on("seed 0", *jobs[0]), folded)
    assert line == "4 of 20 jobs, 2 of them as recorded before"
    assert_close(record, expected)

    update.path.unlink()
    update(on("one fold", jobs[0][0]), folded)
    line, _ = update(on("another fold", jobs[0][1]), folded)
    assert line.endswith("cannot be joined with the 1 recorded before: it has seed 0 too")
    update.path.unlink()
    update(on("fold 2", jobs[0][0]), folded)
    line, _ = update(on("fold 5", jobs[1][1]), folded)
    assert line.endswith("cannot be joined with the 1 recorded before: it is of other test faces")


@pytest.mark.parametrize("key, value", [
    ("recipe", "paper"), ("settings", {}), ("start", {"sha256": "0"}),
    ("data", {"posefaces": {"sha256": "0"}}), ("jobs", {"another": {}}),
    ("arms", {"full": {"tests": {"posefaces": {}}}}),
])  # fmt: skip
def test_a_record_of_other_trainings_holds_none(key, value, elsewhere, update):
    setting = elsewhere("seed=1")
    update(setting)
    asked = update.path, "toy", TOY, setting, 1
    assert held(*asked) == set(select_jobs(TOY, ["seed=1"], 1))
    write_record(update.path, read_record(update.path) | {key: value})
    assert held(*asked) == set()


def test_of_folds_a_record_holds_seeds_that_have_them_all(elsewhere, update):
    folded = Experiment("Toys.", "posefaces", "short", {"people": Arm("random")}, (0, 1))
    first, second = (select_jobs(folded, [f"seed={seed}"], 1) for seed in (0, 1))
    setting = elsewhere("seed=1")
    record = update(setting)[1] | {"jobs": {str(job): {} for job in first + second[1:]}}
    write_record(update.path, record)
    assert held(update.path, "toy", folded, setting, 1) == set(first)


def test_a_joined_record_names_the_places_of_both(elsewhere, update):
    for seed, place in ((0, "one"), (1, "another")):
        setting = elsewhere(f"seed={seed}")
        for job in select_jobs(TOY, [f"seed={seed}"], 1):
            path = setting.folder(job) / JOB
            record = read_record(path)
            record["run"]["environment"] = {"device": place}
            write_record(path, record)
        _, record = update(setting)
    assert record["environments"] == [{"device": "one"}, {"device": "another"}]
