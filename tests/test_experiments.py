"""The table of experiments: what it holds, what jobs it comes to, and filters."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from lanmsff import LANMSFF
from lanmsff.experiments import (
    DATA,
    EXPERIMENTS,
    FOLDS,
    PROTOCOLS,
    Arm,
    Experiment,
    pick_experiment,
    select_jobs,
)
from lanmsff.recipes import RECIPES, Recipe, pick_recipe

ROOT = Path(__file__).resolve().parents[1]
TOY = Experiment(
    "", "posefaces", "short", {"a": Arm(), "b": Arm("random"), "c": Arm(weights="last")}, (0, 5)
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_made_of_what_there_is(name):
    experiment = EXPERIMENTS[name]
    assert experiment.reason.endswith((".", "?"))
    assert experiment.data in DATA and experiment.recipe in RECIPES
    assert set(DATA[experiment.data].further) <= DATA.keys()
    assert name == name.lower() and name.startswith(experiment.data)
    for arm in experiment.arms.values():
        assert arm.protocol in PROTOCOLS and arm.weights in ("best", "last")
        LANMSFF(7, **arm.options)
        pick_recipe(experiment.recipe, arm.changes)


def test_results_readme_has_a_line_for_each():
    text = (ROOT / "results" / "README.md").read_text()
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE)) == set(EXPERIMENTS)
    for prepared in DATA.values():
        assert prepared.command in text


@pytest.mark.parametrize(
    "name, jobs",
    [
        ("ferplus-paper", 3),
        ("fer2013-improved", 2 * 3),
        ("posefaces-paper", 2 * 10),
        ("ferplus-ablations", 9 * 3),
        ("ferplus-selection", 2 * 3),  # two trainings, each scored twice
        ("kdef-paper", 2 * 10),
    ],
)
def test_number_of_trainings(name, jobs):
    assert len(select_jobs(EXPERIMENTS[name])) == jobs


def test_what_two_experiments_share_is_one_job():
    paper, ablations, selection = (
        set(select_jobs(EXPERIMENTS[f"ferplus-{name}"]))
        for name in ("paper", "ablations", "selection")
    )
    assert paper < ablations and paper < selection and paper == ablations & selection


def test_equal_folders_mean_equal_jobs():
    jobs = [job for experiment in EXPERIMENTS.values() for epochs in (None, 3)
            for job in select_jobs(experiment, epochs=epochs)]  # fmt: skip
    assert len({str(job) for job in jobs}) == len(set(jobs))


def test_ablations_are_different_networks():
    """All of {MassAtt, PWFS, multi-scale} on and off, but for PWFS with nothing to select from."""
    arms = EXPERIMENTS["posefaces-ablations"].arms
    assert arms.keys() == EXPERIMENTS["ferplus-ablations"].arms.keys()
    assert list(arms)[0] == "full" and arms["full"].options == {}
    switches = {
        (config["attention"], config["selection"] and config["multi_scale"], config["multi_scale"])
        for config in (LANMSFF(7, **arm.options).config for arm in arms.values())
    }
    on_and_off = {(a, s, m) for a in ("massatt", "none") for s in (0, 1) for m in (0, 1) if s <= m}
    assert switches == on_and_off | {("se", True, True), ("cbam", True, True)}


def test_a_permutation_is_drawn_for_each_seed():
    jobs = EXPERIMENTS["ferplus-ablations"].jobs("permutation")
    assert [dict(job.options)["permutation_seed"] for job in jobs] == [0, 1, 2]


@pytest.mark.parametrize("name", ["ferplus-ingredients", "posefaces-ingredients-short"])
def test_ingredients_are_judged_on_validation_faces_alone(name):
    """Every arm trains by another recipe, and no arm leaves out what is not in."""
    experiment = EXPERIMENTS[name]
    jobs = select_jobs(experiment)
    assert experiment.sets == (experiment.data,)
    assert {job.protocol for job in jobs} == {"validation"}
    recipes = {pick_recipe(job.recipe, dict(job.changes)) for job in jobs}
    assert len(recipes) == len(jobs) == len(experiment.arms)
    assert RECIPES[experiment.recipe] in recipes


def test_every_ingredient_of_the_better_training_is_tried():
    tried = {key for arm in EXPERIMENTS["ferplus-ingredients"].arms.values() for key in arm.changes}
    differ = {field.name for field in fields(Recipe)
              if getattr(RECIPES["improved"], field.name) != getattr(RECIPES["paper"], field.name)}
    # what belongs to a schedule or its optimiser, and is not an ingredient of its own
    frame = {"epochs", "adam_eps", "schedule", "stop_patience", "plateau_factor",
             "plateau_patience", "plateau_min_delta"}
    frame.add("test_mirror")  # trains nothing else
    assert tried == differ - frame


@pytest.mark.parametrize(
    "only, count",
    [
        ([], 2 + 2 * FOLDS),
        (["arm=a"], 2),
        (["arm=a,c"], 2),
        (["seed=5"], 1 + FOLDS),
        (["fold=1,10", "arm=b"], 4),
        (["fold=1"], 2 + 2),  # jobs without folds are not of another fold
    ],
)
def test_filters(only, count):
    jobs = select_jobs(TOY, only)
    assert len(jobs) == len(set(jobs)) == count


@pytest.mark.parametrize(
    "only, message",
    [
        ("arms=a", "--only arms=a: expected arm=... or seed=... or fold=..."),
        ("arm=d", "no arm 'd'; there are a, b, c"),
        ("seed=0,1", "no seed '1'; there are 0, 5"),
        ("fold=0", "no fold '0'; there are 1, 2"),
        ("fold", "no fold ''"),
    ],
)
def test_filters_that_cannot_be(only, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        select_jobs(TOY, [only])


def test_a_filter_given_twice_is_refused():
    with pytest.raises(ValueError, match="--only arm=b: arm is there twice"):
        select_jobs(TOY, ["arm=a", "arm=b"])


def test_there_are_folds_only_where_there_are_folds():
    with pytest.raises(ValueError, match="expected arm=... or seed=...$"):
        select_jobs(EXPERIMENTS["ferplus-paper"], ["fold=1"])


def test_an_experiment_that_is_none():
    with pytest.raises(ValueError, match="'ferplus': choose one of ferplus-paper, "):
        pick_experiment("ferplus")


def test_the_arms_of_a_selection_differ_in_who_validates_and_which_epoch_is_scored():
    for name in ("ferplus-selection", "posefaces-selection", "posefaces-selection-short"):
        arms = EXPERIMENTS[name].arms
        assert {label: (arm.protocol, arm.weights) for label, arm in arms.items()} == {
            "honest": ("split", "best"), "last-epoch": ("split", "last"),
            "best-on-test": ("watched", "best"), "authors": ("watched", "last"),
        }  # fmt: skip


@pytest.mark.parametrize("kind", ["paper", "improved", "short"])
def test_each_half_of_fer2013_is_tested_by_networks_that_the_other_validated(kind):
    arms = EXPERIMENTS[f"fer2013-{kind}"].arms  # PrivateTest is the set's split "test"
    assert {label: arm.protocol for label, arm in arms.items()} == {
        "PrivateTest": "split", "PublicTest": "exchanged"}  # fmt: skip


@pytest.mark.parametrize("name", ["ferplus-ingredients", "posefaces-ingredients-short"])
def test_ingredients_are_scored_by_their_last_weights(name):
    """Their best would be chosen on the very faces that are scored."""
    assert {arm.weights for arm in EXPERIMENTS[name].arms.values()} == {"last"}
