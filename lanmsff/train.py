"""Training: one loop, resumable at any moment, with the whole set on the device.

A run is a folder:

    checkpoint.safetensors          everything that is needed to go on (no pickle)
    checkpoint-before.safetensors   the same of the checkpoint before, should the newest be damaged
    best.safetensors                the weights of the epoch with the lowest validation loss; the
                                    checkpoint has them too and puts this file right
    last.safetensors                the weights of the last epoch, which the authors score
    record.json                     what was asked, the history, the environment
    run.lock                        locked while a process trains; a killed one leaves no lock

Where the recipe averages weights, these are the averaged ones, and so are those validated.

A run that is killed and resumed ends with the same weights, to the bit, as one that was not, on
the same machine: every draw comes from a generator that is either seeded by (seed, epoch) or
saved, and a checkpoint is moved into place whole. On a GPU see `lanmsff.device.be_deterministic`.
"""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lanmsff import checkpoint
from lanmsff.asked import RunError, describe
from lanmsff.augment import resize
from lanmsff.data import FaceSet
from lanmsff.device import pick_precision
from lanmsff.evaluate import predict
from lanmsff.labels import soft_labels
from lanmsff.learner import Learner
from lanmsff.memory import kept_memory
from lanmsff.model import LANMSFF
from lanmsff.processes import Alone
from lanmsff.recipes import pick_recipe
from lanmsff.results import environment, git_commit, write_record
from lanmsff.step import Speed, can_keep_memory
from lanmsff.weights import load_weights, save_weights

BEST, LAST, RECORD = "best.safetensors", "last.safetensors", "record.json"
NOT_FINITE = "not-finite.json"
CHECKPOINT_SECONDS = 60  # at most this much work is lost; one checkpoint takes about 0.05 s


class Run:
    """The state of one training run, from its folder if that is to be resumed.

    Args:
        faces: a prepared set with the splits "train" and "val".
        recipe: a key of `RECIPES`.
        out: the folder of the run.
        precision: "float32", "bfloat16" or "auto".
        epochs: ends the run earlier or later than the recipe's number of epochs.
        seed: of the initial weights, the augmentation, the order of the images and dropout.
        resume: go on with the run in `out` if there is one.
        start: weights to begin with instead of random ones; see `load_weights`. The optimizer and
            the schedule begin anew.
        changes: settings of the recipe that are to be others, by name; see `Recipe`.
        speed: what is used to be fast.
        processes: those that train together; `out` must be the same folder for all of them.
        model_options: keyword arguments of `LANMSFF`, for ablations.

    Raises:
        RunError: a split is missing, `out` holds a run and `resume` is not set, it holds a run of
            something else, or results without a checkpoint; or an option that data or recipe set;
            or the processes do not begin at the same checkpoint.
        ValueError: a setting that cannot be, or `start` is of another network or other classes.

    Attributes:
        stopped: why `train` ended the last time, where it was stopped, else None.
    """

    def __init__(
        self,
        faces: FaceSet,
        recipe: str,
        out: str | Path,
        *,
        device: torch.device | str,
        precision: str,
        epochs: int | None = None,
        seed: int = 0,
        resume: bool = False,
        start: str | Path | None = None,
        changes: dict[str, Any] | None = None,
        speed: Speed = Speed(),
        processes: Alone = Alone(),
        **model_options: Any,
    ):
        self.out = Path(out)
        self.recipe = pick_recipe(recipe, changes)
        self.epochs = self.recipe.epochs if epochs is None else epochs
        self.device = device = torch.device(device)
        self.precision, self.seed = pick_precision(precision, device), seed
        git_commit()  # now, since the tree may change while a long run goes on
        self.speed, self.processes = speed, processes
        self.classes = faces.classes
        self.asked = describe(
            faces, recipe, self.recipe, epochs=self.epochs, seed=seed, precision=self.precision,
            processes=processes.count, model_options=model_options,
        )  # fmt: skip
        first = load_weights(start, faces.classes) if start else None
        if first:
            self.asked["start"] = {"weights": Path(start).name, "sha256": first.sha256}
        train, val = faces.subset("train"), faces.subset("val")
        if (changes or {}).get("soft_labels") and soft_labels(train) is None:
            raise RunError("soft_labels: the data has no votes to make them of")
        self._folder = checkpoint.RunFolder(self.out, (BEST, LAST, RECORD))
        found = self._folder.find(self.asked, resume)
        self.learner = Learner(
            train, self.recipe, self.asked["model"], epochs=self.epochs, seed=seed, device=device,
            precision=self.precision, speed=speed, processes=processes,
            start=first.model if first else None,
        )  # fmt: skip
        self.steps = self.learner.steps  # in an epoch
        self.names = train.name
        self.val_images = resize(torch.from_numpy(val.images).to(device))
        self.val_labels = torch.from_numpy(val.labels)
        self.history: list[dict[str, float]] = []
        self.step = 0  # in the current epoch
        # of every step of the current epoch: sum of losses, number right; on the device, so that
        # no step waits
        self.tally = torch.zeros(self.steps, 2, device=device)
        self.seconds = 0.0  # spent in this and earlier sittings
        self.sittings: list[dict[str, Any]] = []  # where it was trained, and up to which epoch
        self.stopped: str | None = None
        self._word: str | None = None  # that of `stop`, for the `train` that runs or comes next
        self._best: bytes | None = None  # content of BEST
        self._broken_off = False  # inside `train`, so that files and memory may not agree
        if found:
            self._restore(*found)
        if len(set(processes.gather((self.epoch, self.step, self.seconds)))) > 1:
            raise RunError(f"{self.out}: the processes do not begin at the same checkpoint; --out "
                           "must be the same folder for all processes")  # fmt: skip
        self._random = self.learner.random_state()

    @property
    def model(self) -> LANMSFF:
        """The network that is trained."""
        return self.learner.model

    @property
    def epoch(self) -> int:
        """The number of whole epochs so far."""
        return len(self.history)

    @property
    def best(self) -> dict[str, float] | None:
        """The epoch with the lowest validation loss, the first of equals."""
        return min(self.history, key=lambda epoch: epoch["val_loss"], default=None)

    @property
    def finished(self) -> str | None:
        """Why there is nothing left to do, or None."""
        patience = self.recipe.stop_patience
        if patience and self.best and self.epoch - self.best["epoch"] >= patience:
            return f"validation loss did not fall for {patience} epochs"
        if self.epoch >= self.epochs:
            return f"{self.epochs} epochs done"
        return None

    def stop(self, reason: str) -> None:
        """Let `train` end after the current step, with a checkpoint; also from a signal handler.

        One that is only called later ends at once.
        """
        self._word = reason

    def train(self, progress: bool = True, max_minutes: float | None = None) -> dict[str, Any]:
        """Run epochs until the recipe is done, or `stop` is called, and return the record.

        Args:
            progress: show a bar, and a line for every epoch.
            max_minutes: call `stop` after so many minutes.

        Raises:
            RunError: another process trains in this folder, loss or weights are not finite, or
                the disk is full; the last good checkpoint stays. There is one of the very start.
                Also where an earlier call was broken off: a new `Run` goes on from the checkpoint.
        """
        progress = progress and self.processes.first
        self._started = time.monotonic() - self.seconds
        minutes = math.inf if max_minutes is None else max_minutes
        self._deadline = time.monotonic() + 60 * minutes
        held = self._folder.held() if self.processes.first else nullcontext()
        with held, kept_memory(can_keep_memory(self.device, self.speed)):
            if self._broken_off:
                raise RunError(f"{self.out}: an earlier call was broken off in the middle; make a "
                               "new Run of this folder, with resume=True")  # fmt: skip
            self._broken_off = True
            if not self.finished:
                self._sit_down()
            self.learner.set_random_state(self._random)  # whatever was drawn since
            if self._best and self.processes.first:
                self._folder.restore(BEST, self._best)
            if not self.epoch and not self.step:  # what cannot be written is told now
                self._save_checkpoint()
            while not self.finished and not self._all_stop():
                if self._train_epoch(progress):
                    self._end_epoch(progress)
            self._broken_off = False
        self.stopped, self._word = self._word, None
        self._random = self.learner.random_state()
        return self.record()

    def record(self) -> dict[str, Any]:
        """What was asked, what came out and where, as JSON values.

        `environment`, `deterministic` and `speed` are of where it was trained last; `earlier` has
        them of before, where they were others, with the `epochs` that were done by then.
        """
        *earlier, last = self.sittings or [self._sitting()]
        return {
            "asked": self.asked | {"epochs": self.epochs},
            "finished": self.finished,
            "epochs": self.epoch,
            "best": self.best,
            "images_per_epoch": len(self.learner.images),
            "seconds": self.seconds,
            **{key: value for key, value in last.items() if key != "epochs"},
            "earlier": earlier,
            "history": self.history,
        }

    def train_step(self, items: Tensor) -> None:
        """One step of the optimizer on a batch of all processes.

        Args:
            items: int64 (B,) on the device, numbers in `self.learner.images`.
        """
        done = self.epoch * self.steps + self.step
        self.tally[self.step].copy_(self.learner.learn(items, done))

    def _sitting(self) -> dict[str, Any]:
        """Where and how this process trains."""
        return {
            "epochs": self.epoch + self.step / self.steps,
            "environment": environment(self.device, self.precision),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "speed": asdict(self.speed),
        }

    def _sit_down(self) -> None:
        """Go on with the last sitting if this one is like it, else begin another."""
        now = self._sitting()
        if not self.sittings or self.sittings[-1] | {"epochs": now["epochs"]} != now:
            self.sittings.append(now)

    def _train_epoch(self, progress: bool) -> bool:
        """The rest of the current epoch, from `self.step` on; False if the run is stopped in it."""
        self.learner.images.start_epoch(self.epoch)
        batches = self.learner.batches(self.epoch)
        begun, before = self.step, sum(map(len, batches[: self.step]))
        seen = before
        bar = tqdm(
            desc=f"epoch {self.epoch + 1}/{self.epochs}",
            total=len(self.learner.images),
            initial=seen,
            unit=" images",
            mininterval=0.5,
            disable=not progress,
        )
        self.model.train()
        saved = time.monotonic()
        with bar:
            for items in batches[self.step :]:
                self.train_step(items)
                self.step += 1
                seen += len(items)
                if bar.update(len(items)) or self.step == self.steps:  # read the device only then
                    own = self.tally[begun:].sum(0) / (seen - before)  # of this sitting and process
                    loss, accuracy = (own * self.processes.count).tolist()
                    bar.set_postfix(loss=f"{loss:.3f}", acc=f"{accuracy:.3f}", refresh=False)
                if self._all_stop():
                    self._save_checkpoint()
                    return False
                if self.processes.any(time.monotonic() - saved > CHECKPOINT_SECONDS, self.step):
                    self._save_checkpoint()
                    saved = time.monotonic()
        return True

    def _all_stop(self) -> bool:
        if time.monotonic() > self._deadline:
            self.stop("the time is up")
        stop = self.processes.any(self._word is not None, self.step)
        if stop and not self._word:
            self.stop("another process was stopped")
        return stop

    def _end_epoch(self, progress: bool) -> None:
        """Validate, note the epoch, adapt the learning rate, write weights and checkpoint."""
        trained = self._clock()
        loss, accuracy = self._means()
        self._check_weights()  # before they are written
        parts = self.processes.gather(
            predict(
                self.learner.scored_model, self.processes.mine(self.val_images), self.device,
                self.precision, mirror=self.recipe.test_mirror,
                channels_last=self.speed.channels_last, keep_memory=self.speed.kept_memory,
            )
        )  # fmt: skip
        logits = torch.cat(parts)
        val_loss = F.cross_entropy(logits, self.val_labels).item()
        if not math.isfinite(val_loss):
            raise self._broken(f"the validation loss is {val_loss}", self.step - 1)
        val_accuracy = (logits.argmax(1) == self.val_labels).double().mean().item()
        epoch = {
            "epoch": self.epoch + 1,
            "learning_rate": self.learner.schedule.rate,
            "loss": loss,
            "accuracy": accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "train_seconds": trained - (self.history[-1]["seconds"] if self.history else 0.0),
            "seconds": self._clock(),
        }
        self.history.append(epoch)
        self.learner.schedule.after_epoch(val_loss)
        self.step = 0
        self.tally.zero_()
        if self.processes.first:
            origin = self.asked | {"epoch": self.epoch, "val_accuracy": val_accuracy}
            origin["commit"] = git_commit()
            if self.best is epoch:
                save_weights(self.learner.scored_model, self.out / BEST, self.classes, origin)
                self._best = (self.out / BEST).read_bytes()
            save_weights(self.learner.scored_model, self.out / LAST, self.classes, origin)
            # before the checkpoint, after which a finished run is not taken up again
            write_record(self.out / RECORD, self.record())
        self._save_checkpoint()
        if progress:
            tqdm.write(
                f"epoch {self.epoch}: loss {loss:.4f}, accuracy {accuracy:.4f}; validation loss "
                f"{val_loss:.4f}, accuracy {val_accuracy:.4f}{' (best)' * (self.best is epoch)}"
            )

    def _means(self) -> tuple[float, float]:
        """Loss and accuracy of the current epoch so far, over all processes.

        Raises:
            RunError: a loss is not finite.
        """
        tally = self.processes.sum(self.tally).cpu().double()
        bad = ~tally[:, 0].isfinite()
        if bad.any():
            step = int(bad.int().argmax())
            raise self._broken(f"the loss is {tally[step, 0].item()}", step)
        done = sum(map(len, self.learner.batches(self.epoch)[: self.step]))
        loss, accuracy = (tally.sum(0) / max(done, 1)).tolist()
        return loss, accuracy

    def _check_weights(self) -> None:
        """Raise `RunError` if a weight of now is not finite; the loss was that of those before."""
        if not self.learner.is_finite():
            raise self._broken("a weight is not finite after the batch", max(self.step - 1, 0))

    def _broken(self, what: str, step: int) -> RunError:
        """The error, after the batch of that step has been written down."""
        items = self.learner.batches(self.epoch)[step]
        faces = self.learner.images.batch(items)[1].tolist()
        batch = {
            "what": what,
            "epoch": self.epoch + 1,
            "step": step + 1,
            "items": items.tolist(),  # numbers in the epoch's images
            "faces": faces,  # rows of the training split
            "names": [str(self.names[face]) for face in faces],
        }
        listed = f"its images are listed in {NOT_FINITE}"
        try:
            if self.processes.first:
                write_record(self.out / NOT_FINITE, batch)
        except OSError as error:  # a full disk, perhaps: this is told in any case
            listed = f"{NOT_FINITE}, its images, cannot be written ({error.strerror or error})"
        return RunError(
            f"{self.out}: {what} in epoch {self.epoch + 1}, step {step + 1}; {listed}, the last "
            "good checkpoint is kept"
        )

    def _clock(self) -> float:
        """Seconds spent on this run so far, in this and earlier sittings."""
        self.seconds = time.monotonic() - self._started
        return self.seconds

    def _save_checkpoint(self) -> None:
        self._means()  # raises if the loss is not finite
        self._clock()
        self._check_weights()
        tensors = self.learner.tensors() | {"tally": self.processes.sum(self.tally)}
        for rank, states in enumerate(self.processes.gather(self.learner.random_state())):
            tensors |= checkpoint.named(f"random.{rank}", states)
        if self._best:
            tensors["best"] = torch.frombuffer(bytearray(self._best), dtype=torch.uint8)
        self.sittings[-1]["epochs"] = self.epoch + self.step / self.steps
        header = {
            "asked": self.asked,
            "schedule": self.learner.schedule.state_dict(),
            "history": self.history,
            "step": self.step,
            "seconds": self.seconds,
            "sittings": self.sittings,
        }
        if self.processes.first:
            checkpoint.write_checkpoint(self.out, header, tensors)

    def _restore(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.learner.restore(tensors)
        self.learner.schedule.load_state_dict(header["schedule"])
        self.history, self.step = header["history"], header["step"]
        self.seconds = header["seconds"]
        self.sittings = header["sittings"]
        if self.best:
            self._best = tensors["best"].numpy().tobytes()
        if self.processes.first:  # the others' shares are in it
            self.tally.copy_(tensors["tally"])
        self.learner.set_random_state(checkpoint.part(f"random.{self.processes.rank}", tensors))
