"""The experiments, as data: which networks are trained, on what, and which are compared.

An experiment has arms; an arm is trained once for each seed and fold of its protocol, and each of
these trainings is a job. Arms are compared with the first one, face by face. Equal jobs of two
experiments are one job: the full network of `ferplus-ablations` is that of `ferplus-paper`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lanmsff.recipes import RECIPES

FOLDS = 10
PROTOCOLS = {
    "split": "the prepared set's own split",
    "exchanged": "the prepared set's split with validation and test exchanged",
    "watched": "the prepared set's split, the test faces also serving as validation",
    "validation": "the prepared set's split; validation faces are scored, and no test face",
    "person-independent": f"{FOLDS} folds of people: nobody is in two of train, val and test",
    "random": f"{FOLDS} folds of faces: nearly everybody is in train, val and test",
}
FOLDED = ("person-independent", "random")


@dataclass(frozen=True)
class PreparedSet:
    """A file NAME.npz in the data folder: the command that makes it, and what else is scored.

    `further` names prepared sets whose test faces are scored with every network trained on this.
    """

    command: str
    further: tuple[str, ...] = ()


_PREP = "python -m data_prep {} --out data/{}.npz"
_POSEFACES = "kdef --source data/posefaces.zip"
_FER = "ferplus --source data/raw --rule "
DATA = {
    "posefaces": PreparedSet(_PREP.format(_POSEFACES, "posefaces"), ("posefaces-sweep",)),
    "posefaces-sweep": PreparedSet(_PREP.format(_POSEFACES + " --part sweep", "posefaces-sweep")),
    "ferplus": PreparedSet(_PREP.format(_FER + "majority", "ferplus"), ("ferplus-argmax",)),
    "ferplus-argmax": PreparedSet(_PREP.format(_FER + "argmax", "ferplus-argmax")),
    "fer2013": PreparedSet(_PREP.format("fer2013 --source data/raw", "fer2013")),
    "kdef": PreparedSet(_PREP.format("kdef --source KDEF_and_AKDEF.zip", "kdef")),
}


@dataclass(frozen=True)
class Job:
    """One training and its scores."""

    data: str  # key of DATA
    recipe: str
    protocol: str  # key of PROTOCOLS
    fold: int | None  # 1 .. FOLDS where the protocol has folds
    options: tuple[tuple[str, Any], ...]  # keyword arguments of LANMSFF, sorted
    seed: int
    epochs: int | None  # None: the recipe's
    changes: tuple[tuple[str, Any], ...] = ()  # settings of the recipe that are others, sorted
    start: str | None = None  # name of the weights that it begins with; None: random ones

    @property
    def sets(self) -> tuple[str, ...]:
        """The prepared sets that it reads: the one that it trains on, then further test faces."""
        return (self.data, *(DATA[self.data].further if self.protocol != "validation" else ()))

    @property
    def folder(self) -> Path:
        """Where it lives, below the folder of all runs; the same for equal jobs only."""
        others = (*self.options, *self.changes, *([("start", self.start)] if self.start else []))
        options = "-".join(f"{key}={value}" for key, value in others) or "full"
        parts = [f"fold{self.fold}" if self.fold else "", f"seed{self.seed}"]
        parts.append(f"epochs{self.epochs}" if self.epochs else "")
        return Path(self.data, self.recipe, self.protocol, options, "-".join(filter(None, parts)))

    def __str__(self) -> str:
        return self.folder.as_posix()


@dataclass(frozen=True)
class Arm:
    """One of the things that an experiment compares.

    `options` are keyword arguments of LANMSFF, `changes` settings of the recipe. `weights` says
    which of a run's are scored: "best", the epoch with the lowest validation loss, or "last".
    """

    protocol: str = "split"
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = "best"
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """What is trained and compared, and why. The first arm is what the others are compared with.

    `start` names shipped weights that every training begins with, instead of random ones.
    """

    reason: str
    data: str
    recipe: str
    arms: dict[str, Arm]
    seeds: tuple[int, ...] = (0, 1, 2)
    start: str | None = None

    def jobs(self, arm: str, epochs: int | None = None) -> list[Job]:
        """The jobs of one arm, by seed and then by fold."""
        protocol, options = self.arms[arm].protocol, self.arms[arm].options
        changes = tuple(sorted(self.arms[arm].changes.items()))
        folds = range(1, FOLDS + 1) if protocol in FOLDED else (None,)
        jobs = []
        for seed in self.seeds:
            # the authors' code drew a permutation for each network that it built
            drawn = {"permutation_seed": seed} if options.get("mixing") == "permutation" else {}
            chosen = tuple(sorted({**options, **drawn}.items()))
            jobs += [Job(self.data, self.recipe, protocol, fold, chosen, seed, epochs, changes,
                         self.start) for fold in folds]
        return jobs

    @property
    def sets(self) -> tuple[str, ...]:
        """The prepared sets that its jobs read: the one that they train on, then further ones."""
        return tuple(dict.fromkeys(key for arm in self.arms for job in self.jobs(arm)
                                   for key in job.sets))


_ONE = {"full": Arm()}
_TENFOLD = {"person-independent": Arm("person-independent"), "random": Arm("random")}
_FER2013 = {"PrivateTest": Arm(), "PublicTest": Arm("exchanged")}

# All of MassAtt, PWFS and multi-scale fusion on and off are eight combinations and six networks:
# without multi-scale fusion there is nothing that PWFS could select from.
_ABLATIONS = {
    "full": Arm(),
    "no-massatt": Arm(options={"attention": "none"}),
    "no-pwfs": Arm(options={"selection": False}),
    "no-multi-scale": Arm(options={"multi_scale": False}),
    "no-massatt-no-pwfs": Arm(options={"attention": "none", "selection": False}),
    "no-massatt-no-multi-scale": Arm(options={"attention": "none", "multi_scale": False}),
    "permutation": Arm(options={"mixing": "permutation"}),
    "se": Arm(options={"attention": "se"}),
    "cbam": Arm(options={"attention": "cbam"}),
}
_SELECTION = {
    "honest": Arm(),
    "last-epoch": Arm(weights="last"),
    "best-on-test": Arm("watched"),
    "authors": Arm("watched", weights="last"),
}

# One ingredient of a recipe left out at a time, or the authors' in its place. Scoring without the
# mirror image is not among them: it trains the same network.
_CHANGES: dict[str, dict[str, Any]] = {
    "no-mirror": {"mirror": 0.0},
    "no-geometry": {"degrees": 0.0, "zoom": 0.0, "shift": 0.0},
    "no-light": {"light": 0.0},
    "no-erase": {"erase": 0.0},
    "no-weight-decay": {"weight_decay": 0.0},
    "no-warmup": {"warmup": 0.0},
    "no-dropout": {"dropout": 0.0},
    "no-soft-labels": {"soft_labels": False},
    "no-label-smoothing": {"label_smoothing": 0.0},
    "no-average": {"average": 0.0},
    "authors-augmentation": {"augmentation": "online"},
    "authors-rate": {"learning_rate": 1e-3},
    "authors-dropout": {"dropout": 0.4},
}


def _ingredients(recipe: str, votes: bool) -> dict[str, Arm]:
    """The recipe, and all changes that change it; its last weights, on validation faces.

    Args:
        votes: whether the prepared set has those that soft labels are made of.
    """
    arms = {"full": Arm("validation", weights="last")}
    for name, changes in _CHANGES.items():
        differ = any(getattr(RECIPES[recipe], key) != value for key, value in changes.items())
        if differ and (votes or "soft_labels" not in changes):
            arms[name] = Arm("validation", weights="last", changes=changes)
    return arms


EXPERIMENTS = {
    "ferplus-paper": Experiment(
        "Does 86.96 % on FERPlus reproduce, and on the faces of which label rule?",
        "ferplus", "paper", _ONE,
    ),
    "ferplus-improved": Experiment(
        "How far does the same network get on FERPlus with a better training?",
        "ferplus", "improved", _ONE,
    ),
    "ferplus-short": Experiment(
        "FERPlus as far as a machine without a GPU gets.",
        "ferplus", "short", _ONE, seeds=(0,),
    ),
    "ferplus-continued": Experiment(
        "The short schedule once more, from the weights that it gave: what do warm restarts "
        "(Loshchilov and Hutter 2017) bring where a longer schedule takes too long?",
        "ferplus", "short", _ONE, seeds=(0,), start="ferplus-8epochs",
    ),
    "ferplus-continued-twice": Experiment(
        "And a third time, from what the second gave.",
        "ferplus", "short", _ONE, seeds=(0,), start="ferplus-18epochs",
    ),
    "fer2013-paper": Experiment(
        "Does 70.44 % on FER-2013 reproduce? PrivateTest is scored by networks that PublicTest "
        "validated, PublicTest by others that PrivateTest validated.",
        "fer2013", "paper", _FER2013,
    ),
    "fer2013-improved": Experiment(
        "How far does the same network get on FER-2013 with a better training?",
        "fer2013", "improved", _FER2013,
    ),
    "fer2013-short": Experiment(
        "FER-2013 as far as a machine without a GPU gets.",
        "fer2013", "short", _FER2013, seeds=(0,),
    ),
    "fer2013-continued": Experiment(
        "And once more, from the weights that it gave.",
        "fer2013", "short", {"PrivateTest": Arm()}, seeds=(0,), start="fer2013-8epochs",
    ),
    "posefaces-paper": Experiment(
        "What do folds that share people add on rendered faces, and what does turning cost?",
        "posefaces", "paper", _TENFOLD, seeds=(0,),
    ),
    "posefaces-improved": Experiment(
        "The same with a better training.",
        "posefaces", "improved", _TENFOLD, seeds=(0,),
    ),
    "posefaces-short": Experiment(
        "The same as far as a machine without a GPU gets.",
        "posefaces", "short-rendered", _TENFOLD, seeds=(0,),
    ),
    "posefaces-ablations": Experiment(
        "What does each block bring on rendered faces of people never seen?",
        "posefaces", "paper", _ABLATIONS,
    ),
    "posefaces-ablations-short": Experiment(
        "The same as far as a machine without a GPU gets. Seeds differ by more than blocks do, so "
        "there are more of them.",
        "posefaces", "short-rendered", _ABLATIONS, seeds=(0, 1, 2, 3, 4),
    ),
    "ferplus-ablations": Experiment(
        "What does each block bring on photographs?",
        "ferplus", "paper", _ABLATIONS,
    ),
    "ferplus-selection": Experiment(
        "What is it worth to let the test faces drive the callbacks, and to score the last epoch, "
        "as the authors' code does?",
        "ferplus", "paper", _SELECTION,
    ),
    "posefaces-selection": Experiment(
        "The same on rendered faces.",
        "posefaces", "paper", _SELECTION,
    ),
    "posefaces-selection-short": Experiment(
        "The same as far as a machine without a GPU gets.",
        "posefaces", "short-rendered", _SELECTION,
    ),
    "ferplus-ingredients": Experiment(
        "What does each ingredient of the better training bring? Judged on validation faces.",
        "ferplus", "improved", _ingredients("improved", votes=True), seeds=(0,),
    ),
    "posefaces-ingredients-short": Experiment(
        "The same on rendered faces, as far as a machine without a GPU gets.",
        "posefaces", "short-rendered", _ingredients("short-rendered", votes=False), seeds=(0,),
    ),
    "kdef-paper": Experiment(
        "Does 90.77 % on KDEF reproduce, and on which folds? For whoever has KDEF.",
        "kdef", "paper", _TENFOLD, seeds=(0,),
    ),
    "kdef-improved": Experiment(
        "How far does the same network get on KDEF with a better training?",
        "kdef", "improved", _TENFOLD, seeds=(0,),
    ),
}  # fmt: skip


def pick_experiment(name: str) -> Experiment:
    """The experiment of that name; `ValueError` lists them if there is none."""
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment {name!r}: choose one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def select_jobs(
    experiment: Experiment, only: Iterable[str] = (), epochs: int | None = None
) -> list[Job]:
    """The jobs of an experiment, each once.

    Args:
        only: filters "KEY=VALUE[,VALUE ...]", KEY one of arm, fold, seed; all must hold.
        epochs: instead of the recipe's.

    Raises:
        ValueError: no such key or value, or a key twice.
    """
    known = {
        "arm": list(experiment.arms),
        "seed": [str(seed) for seed in experiment.seeds],
        "fold": [str(fold) for fold in range(1, FOLDS + 1)],
    }
    if not any(arm.protocol in FOLDED for arm in experiment.arms.values()):
        del known["fold"]
    wanted = dict(known)
    for text in only:
        key, _, values = text.partition("=")
        if key not in known:
            raise ValueError(f"--only {text}: expected {' or '.join(f'{k}=...' for k in known)}")
        if wanted[key] is not known[key]:
            raise ValueError(f"--only {text}: {key} is there twice; several values: {key}=A,B")
        wanted[key] = values.split(",")
        if unknown := [value for value in wanted[key] if value not in known[key]]:
            raise ValueError(f"--only {text}: no {key} {unknown[0]!r}; there are "
                             f"{', '.join(known[key])}")
    jobs = [
        job
        for arm in wanted["arm"]
        for job in experiment.jobs(arm, epochs)
        if str(job.seed) in wanted["seed"]
        and (job.fold is None or str(job.fold) in wanted["fold"])
    ]
    return list(dict.fromkeys(jobs))
