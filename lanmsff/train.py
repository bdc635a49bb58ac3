"""Training: one loop, resumable at any moment, with the whole set on the device.

A run is a folder:

    checkpoint.safetensors   everything that is needed to go on (no pickle: tensors and a header)
    best.safetensors         the weights of the epoch with the lowest validation loss
    last.safetensors         the weights of the last epoch, which the authors score
    record.json              what was asked, the history, the environment

Where the recipe averages weights, these are the averaged ones, and so are those validated.

A run that is killed and resumed ends with the same weights, to the bit, as one that was not, on
the same machine: every draw comes from a generator that is either seeded by (seed, epoch) or
saved, and a checkpoint is moved into place whole.
"""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from lanmsff.augment import Images, OfflineVariants, OnlineVariants, Views, resize
from lanmsff.average import Average
from lanmsff.data import FaceSet, replacing
from lanmsff.device import autocast, to_device
from lanmsff.evaluate import predict
from lanmsff.labels import soft_labels
from lanmsff.model import LANMSFF
from lanmsff.recipes import Recipe, learning_rate, pick_recipe
from lanmsff.results import environment, git_commit, write_record
from lanmsff.weights import save_weights

CHECKPOINT, BEST, LAST = "checkpoint.safetensors", "best.safetensors", "last.safetensors"
RECORD = "record.json"
MAX_SEED = 2**32
CHECKPOINT_SECONDS = 60  # at most this much work is lost; one checkpoint takes about 0.05 s


class RunError(ValueError):
    """A run cannot be started or resumed as asked; the text is one line."""


class Run:
    """The state of one training run, from its folder if that is to be resumed.

    Args:
        faces: a prepared set with the splits "train" and "val".
        recipe: a key of `RECIPES`.
        out: the folder of the run.
        epochs: ends the run earlier or later than the recipe's number of epochs.
        seed: of the initial weights, the augmentation, the order of the images and dropout.
        resume: go on with the run in `out` if there is one.
        changes: settings of the recipe that are to be others, by name; see `Recipe`.
        model_options: keyword arguments of `LANMSFF`, for ablations.

    Raises:
        RunError: a split is missing, `out` holds a run and `resume` is not set, or it holds a
            run of something else.
    """

    def __init__(
        self,
        faces: FaceSet,
        recipe: str,
        out: str | Path,
        *,
        device: torch.device,
        precision: str,
        epochs: int | None = None,
        seed: int = 0,
        resume: bool = False,
        changes: dict[str, Any] | None = None,
        **model_options: Any,
    ):
        if not 0 <= seed < MAX_SEED:
            raise RunError(f"seed must lie in 0 .. {MAX_SEED - 1}, got {seed}")
        self.out = Path(out)
        self.recipe = pick_recipe(recipe, changes)
        self.epochs = epochs or self.recipe.epochs
        self.device, self.precision, self.seed = device, precision, seed
        self.classes = faces.classes
        # What a resumed run must have in common with the one that it goes on with; a schedule that
        # is drawn over all epochs cannot be given more of them later.
        open_ended = self.recipe.schedule == "plateau"
        self.asked = {
            "recipe": recipe,
            "settings": asdict(self.recipe) | {"epochs": None if open_ended else self.epochs},
            "seed": seed,
            "precision": precision,
            "model": {
                "num_classes": len(faces.classes),
                "dropout": self.recipe.dropout,
                **model_options,
            },
            "dataset": faces.meta["dataset"],
            "rule": faces.meta["rule"],
            "data_sha256": faces.sha256,
            "counts": faces.meta["counts"],
        }
        train, val = faces.subset("train"), faces.subset("val")
        for name, split in (("train", train), ("val", val)):
            if not len(split):
                raise RunError(f"the data has no faces in split '{name}'")
        checkpoint = self._find_checkpoint(resume)

        torch.manual_seed(seed)
        self.model = to_device(LANMSFF(**self.asked["model"]), device)
        decay = self.recipe.average
        self.average = Average(self.model, decay) if decay else None
        self.optimizer = make_optimizer(self.model, self.recipe)
        self.plateau = ReduceLROnPlateau(
            self.optimizer,
            factor=self.recipe.plateau_factor,
            patience=self.recipe.plateau_patience,
            threshold=self.recipe.plateau_min_delta,
            threshold_mode="abs",
            eps=0.0,  # however small, a reduction is made, as in Keras
        )
        images = resize(torch.from_numpy(train.images).to(device))
        self.images = make_images(images, self.recipe, seed)
        self.labels = torch.from_numpy(train.labels).to(device)
        votes = soft_labels(train) if self.recipe.soft_labels else None
        # class numbers (N,), or distributions (N, K)
        self.targets = self.labels if votes is None else torch.from_numpy(votes).to(device)
        self.val_images = resize(torch.from_numpy(val.images))
        self.val_labels = torch.from_numpy(val.labels)
        self.history: list[dict[str, float]] = []
        self.step = 0  # in the current epoch
        # of the current epoch, over images: loss and correct; on the device, so that no step waits
        self.sums = torch.zeros(2, device=device)
        self.seconds = 0.0  # spent in this and earlier sittings
        if checkpoint:
            self._restore(*checkpoint)

    @property
    def scored_model(self) -> LANMSFF:
        """The network that is validated and saved: the averaged one, where there is one."""
        return self.average.model if self.average else self.model

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

    def train(self, progress: bool = True) -> dict[str, Any]:
        """Run epochs until the recipe is done and return the record.

        Raises:
            RunError: loss or weights are not finite; the last good checkpoint stays.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        for left_by_a_kill in self.out.glob(".*.part"):
            left_by_a_kill.unlink()
        self._started = time.monotonic() - self.seconds
        while not self.finished:
            self._train_epoch(progress)
            self._end_epoch(progress)
        return self.record()

    def record(self) -> dict[str, Any]:
        """What was asked, what came out and where, as JSON values."""
        return {
            "asked": self.asked | {"epochs": self.epochs},
            "finished": self.finished,
            "epochs": self.epoch,
            "best": self.best,
            "images_per_epoch": len(self.images),
            "seconds": self.seconds,
            "environment": environment(self.device, self.precision),
            "history": self.history,
        }

    def _train_epoch(self, progress: bool) -> None:
        """The rest of the current epoch, from `self.step` on."""
        self.images.start_epoch(self.epoch)
        order = torch.randperm(len(self.images), generator=self._generator(self.epoch))
        batches = order.to(self.device).split(self.recipe.batch_size)
        bar = tqdm(
            desc=f"epoch {self.epoch + 1}/{self.epochs}",
            total=len(order),
            initial=self.step * self.recipe.batch_size,
            unit=" images",
            mininterval=0.5,
            disable=not progress,
        )
        self.model.train()
        saved = time.monotonic()
        with bar:
            for items in batches[self.step :]:
                done = self.epoch * len(batches) + self.step
                if self.recipe.schedule == "cosine":  # the rate at the middle of the step
                    share = (done + 0.5) / (self.epochs * len(batches))
                    self._set_rate(learning_rate(self.recipe, share))
                self.train_step(items)
                if self.average:
                    self.average.update(done + 1)
                self.step += 1
                drawn = bar.update(len(items))
                if drawn or self.step == len(batches):  # read the device only then
                    loss, accuracy = self._means()
                    bar.set_postfix(loss=f"{loss:.3f}", acc=f"{accuracy:.3f}", refresh=False)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save_checkpoint()
                    saved = time.monotonic()

    def train_step(self, items: Tensor) -> None:
        """One step of the optimizer on `items`, int64 (B,) on the device, of `self.images`."""
        images, faces = self.images.batch(items)
        labels = self.labels[faces]
        with autocast(self.device, self.precision):
            logits = self.model(to_device(images, self.device))
        loss = F.cross_entropy(
            logits.float(), self.targets[faces], label_smoothing=self.recipe.label_smoothing
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        correct = (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss.detach() * len(items), correct])

    def _end_epoch(self, progress: bool) -> None:
        """Validate, note the epoch, adapt the learning rate, write weights and checkpoint."""
        trained = self._clock()
        loss, accuracy = self._means()
        logits = predict(
            self.scored_model, self.val_images, self.device, self.precision,
            mirror=self.recipe.test_mirror,
        )  # fmt: skip
        val_loss = F.cross_entropy(logits, self.val_labels).item()
        if not math.isfinite(val_loss):
            raise self._broken(f"the validation loss is {val_loss}")
        val_accuracy = (logits.argmax(1) == self.val_labels).double().mean().item()
        epoch = {
            "epoch": self.epoch + 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "loss": loss,
            "accuracy": accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "train_seconds": trained - (self.history[-1]["seconds"] if self.history else 0.0),
            "seconds": self._clock(),
        }
        self.history.append(epoch)
        if self.recipe.schedule == "plateau":
            self.plateau.step(val_loss)
        self.step = 0
        self.sums.zero_()
        origin = self.asked | {"epoch": self.epoch, "val_accuracy": val_accuracy}
        origin["commit"] = git_commit()
        if self.best is epoch:
            save_weights(self.scored_model, self.out / BEST, self.classes, origin)
        save_weights(self.scored_model, self.out / LAST, self.classes, origin)
        self._save_checkpoint()
        write_record(self.out / RECORD, self.record())
        if progress:
            tqdm.write(
                f"epoch {self.epoch}: loss {loss:.4f}, accuracy {accuracy:.4f}; validation loss "
                f"{val_loss:.4f}, accuracy {val_accuracy:.4f}{' (best)' * (self.best is epoch)}"
            )

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _means(self) -> tuple[float, float]:
        """Loss and accuracy of the current epoch so far."""
        done = max(1, min(self.step * self.recipe.batch_size, len(self.images)))
        loss, accuracy = (self.sums / done).tolist()
        if not math.isfinite(loss):
            raise self._broken(f"the loss is {loss}")
        return loss, accuracy

    def _broken(self, what: str) -> RunError:
        where = f"epoch {self.epoch + 1}, step {self.step}"
        return RunError(f"{self.out}: {what} in {where}; the last good checkpoint is kept")

    def _generator(self, epoch: int) -> torch.Generator:
        """Of the order of the images in one epoch; independent of every other draw."""
        return torch.Generator().manual_seed(self.seed * 100_003 + epoch)

    def _clock(self) -> float:
        """Seconds spent on this run so far, in this and earlier sittings."""
        self.seconds = time.monotonic() - self._started
        return self.seconds

    def _save_checkpoint(self) -> None:
        self._means()  # raises if the loss is not finite
        self._clock()
        state = self.optimizer.state_dict()
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average:
            averaged = self.average.model.state_dict()
            tensors |= {f"average.{name}": value for name, value in averaged.items()}
        for index, moments in state["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        tensors["sums"] = self.sums
        # the loss was that of the weights before the last step: look at those of now
        if not all(value.isfinite().all() for value in tensors.values()):
            raise self._broken("a weight is not finite")
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        header = {
            "asked": self.asked,
            "param_groups": state["param_groups"],
            "plateau": self.plateau.state_dict(),
            "history": self.history,
            "step": self.step,
            "seconds": self.seconds,
        }
        tensors = {name: value.detach().contiguous() for name, value in tensors.items()}
        with replacing(self.out / CHECKPOINT) as aside:
            save_file(tensors, aside, metadata={"run": json.dumps(header)})

    def _find_checkpoint(self, resume: bool) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Header and tensors of the checkpoint to go on from; `RunError` if that is not allowed."""
        path = self.out / CHECKPOINT
        if not path.exists():
            return None
        if not resume:
            raise RunError(f"{self.out}: holds a run; add --resume to go on, or name another folder")
        try:
            with safe_open(path, "pt") as file:
                header = json.loads(file.metadata()["run"])
                asked_then = header["asked"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
            raise RunError(f"{path}: not a whole checkpoint ({error}); remove it") from None
        asked = json.loads(json.dumps(self.asked))
        for key in asked | asked_then:
            if asked.get(key) != asked_then.get(key):
                raise RunError(
                    f"{self.out}: this run has {key} {asked_then.get(key)}, "
                    f"asked is {asked.get(key)}; name another folder"
                )
        return header, tensors

    def _restore(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        def parts(kind: str) -> dict[str, Tensor]:
            return {n.removeprefix(kind): t for n, t in tensors.items() if n.startswith(kind)}

        self.model.load_state_dict(parts("model."))
        if self.average:
            self.average.model.load_state_dict(parts("average."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts("optimizer.").items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for index, parameter in enumerate(parameters):
            for key, tensor in moments[index].items():
                # The fused optimiser walks through memory: moments must lie as their weights do.
                if tensor.shape == parameter.shape:
                    moments[index][key] = torch.empty_like(parameter).copy_(tensor)
        groups = header["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.plateau.load_state_dict(header["plateau"])
        self.history, self.step = header["history"], header["step"]
        self.seconds = header["seconds"]
        self.sums = tensors["sums"].to(self.device)
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in tensors:  # not in one begun on a CPU
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)


def make_images(faces: Tensor, recipe: Recipe, seed: int) -> Images:
    """The training images that the recipe makes of faces, uint8 (N, 64, 64)."""
    if recipe.augmentation == "offline":
        return OfflineVariants(faces, seed)
    if recipe.augmentation == "online":
        return OnlineVariants(faces, seed)
    return Views(
        faces, seed, mirror=recipe.mirror, degrees=recipe.degrees, zoom=recipe.zoom,
        shift=recipe.shift, light=recipe.light, erase=recipe.erase,
    )  # fmt: skip


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW, which without weight decay is Adam.

    Kernels and matrices decay; biases and the scales of batch norm do not, since pulling those to
    zero limits nothing but the fit (He et al., "Bag of tricks", CVPR 2019).
    """
    parameters = list(model.parameters())
    decayed = [p for p in parameters if p.ndim > 1]
    kept = [p for p in parameters if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept}],
        lr=recipe.learning_rate, eps=recipe.adam_eps, weight_decay=0.0, fused=True,
    )  # fmt: skip
