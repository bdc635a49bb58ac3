"""A network while it is trained: its weights and their average, the optimiser, the images."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lanmsff import checkpoint
from lanmsff.augment import make_images, resize
from lanmsff.average import Average
from lanmsff.data import FaceSet
from lanmsff.device import to_device
from lanmsff.labels import soft_labels
from lanmsff.model import LANMSFF
from lanmsff.processes import Alone
from lanmsff.recipes import Recipe
from lanmsff.schedule import Schedule
from lanmsff.step import CapturedStep, Speed, Step, can_capture, can_compile, make_optimizer


class Learner:
    """Everything that changes from step to step, but for the figures; as before the first step.

    Args:
        faces: those to train on, N of them.
        model_options: keyword arguments of `LANMSFF`.
        epochs: of the whole run.
        seed: of the initial weights, the augmentation, the order of the images and dropout.
        start: a network whose weights are begun with instead of random ones.

    Raises:
        ValueError: `start` is another network than `model_options` say.

    Attributes:
        model: the network that is trained.
        average: the moving average of its weights, or None.
        images: the training images on the device.
        targets: what is learned, class numbers (N,) or distributions (N, K).
        steps: in an epoch.
    """

    def __init__(
        self,
        faces: FaceSet,
        recipe: Recipe,
        model_options: dict[str, Any],
        *,
        epochs: int,
        seed: int,
        device: torch.device,
        precision: str,
        speed: Speed,
        processes: Alone,
        start: LANMSFF | None = None,
    ):
        self.recipe, self.seed, self.device, self.processes = recipe, seed, device, processes
        torch.manual_seed(seed)
        model = LANMSFF(**model_options)
        if start:
            _begin_with(start, model)
        model = processes.share_statistics(model)
        self.model = to_device(model, device, speed.channels_last)
        if processes.rank:  # other faces, other dropout
            # mixed, since the generator of a CPU takes no more than 32 bits of a seed
            mixed = np.random.SeedSequence((seed, processes.rank)).generate_state(1)
            torch.manual_seed(int(mixed[0]))
        self.average = Average(self.model, recipe.average) if recipe.average else None
        captured = can_capture(device, speed, processes.count)
        self.optimizer = make_optimizer(self.model, recipe, speed.fused, capturable=captured)

        self.images = make_images(resize(torch.from_numpy(faces.images).to(device)), recipe, seed)
        labels = torch.from_numpy(faces.labels).to(device)
        votes = soft_labels(faces) if recipe.soft_labels else None
        self.targets = labels if votes is None else torch.from_numpy(votes).to(device)
        step = Step(
            processes.share_gradients(self.model),
            self.optimizer,
            self.images,
            labels,
            self.targets,
            label_smoothing=recipe.label_smoothing,
            precision=precision,
            channels_last=speed.channels_last,
        )
        self.step = step
        if captured:
            compiled = speed.compiled and can_compile()
            self.step = CapturedStep(step, recipe.batch_size, compiled)
        self.steps = len(self.batches(0))
        self.schedule = Schedule(self.optimizer, recipe, epochs * self.steps)

    @property
    def scored_model(self) -> LANMSFF:
        """The network that is validated and saved: the averaged one, where there is one."""
        return self.average.model if self.average else self.model

    def batches(self, epoch: int) -> list[Tensor]:
        """The batches of an epoch, on the device; the order is drawn from (seed, epoch) alone."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        order = torch.randperm(len(self.images), generator=generator).to(self.device)
        return self.processes.batches(order, self.recipe.batch_size)

    def learn(self, items: Tensor, done: int) -> Tensor:
        """One step, when `done` steps of the run are behind it.

        Args:
            items: a batch of all processes, int64 (B,) on the device, numbers in `images`.

        Returns:
            float32 (2,): sum of the losses, and number right, of this process's part.
        """
        self.schedule.before_step(done)
        mine = self.processes.mine(items)
        # gradients are averaged over processes, which must count as much as they have images
        figures = self.step(mine, share=len(mine) * self.processes.count / len(items))
        if self.average:
            self.average.update(done + 1)
        return figures

    def tensors(self) -> dict[str, Tensor]:
        """What must be saved to go on, by name; with `random_state` and the schedule's state."""
        tensors = checkpoint.named("model", self.model.state_dict())
        if self.average:
            tensors |= checkpoint.named("average", self.average.model.state_dict())
        moments = checkpoint.optimizer_tensors(self.optimizer)
        return tensors | checkpoint.named("optimizer", moments)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.model.load_state_dict(checkpoint.part("model", tensors))
        if self.average:
            self.average.model.load_state_dict(checkpoint.part("average", tensors))
        checkpoint.restore_optimizer(self.optimizer, checkpoint.part("optimizer", tensors))

    def is_finite(self) -> bool:
        """Whether all weights and what the optimiser remembers are numbers."""
        sums = [tensor.double().sum().to(self.device) for tensor in self.tensors().values()]
        return bool(torch.stack(sums).isfinite().all())

    def random_state(self) -> dict[str, Tensor]:
        """Of the generators that dropout draws from, by kind of device."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def set_random_state(self, states: dict[str, Tensor]) -> None:
        """Take back what `random_state` gave."""
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "cuda" in states:  # not in a run begun on a CPU
            torch.cuda.set_rng_state(states["cuda"], self.device)


def _begin_with(start: LANMSFF, model: LANMSFF) -> None:
    """Copy the weights of a network that may differ in its dropout, which has none."""
    theirs, ours = ({**each.config, "dropout": None} for each in (start, model))
    if others := [key for key in ours if theirs[key] != ours[key]]:
        raise ValueError("the weights to start with are of another network: " + ", ".join(
            f"{key} {theirs[key]!r}, not {ours[key]!r}" for key in others))
    model.load_state_dict(start.state_dict())
