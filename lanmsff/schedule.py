"""The learning rate over a run: the authors' plateaus, or a cosine over all steps."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lanmsff.recipes import Recipe


def cosine(recipe: Recipe, done: float) -> float:
    """The rate of a "cosine" recipe when the share `done` of the run is behind it, in [0, 1].

    It rises linearly over the first `warmup` of the run, then falls to 0 on half a cosine
    (Loshchilov and Hutter, ICLR 2017, without restarts).
    """
    if done < recipe.warmup:
        return recipe.learning_rate * done / recipe.warmup
    fallen = (done - recipe.warmup) / max(1 - recipe.warmup, 1e-9)
    return recipe.learning_rate * (1 + math.cos(math.pi * fallen)) / 2


class Schedule:
    """Sets the learning rate of `optimizer` as the recipe says.

    Args:
        steps: of the whole run.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int):
        self._optimizer, self._recipe, self._steps = optimizer, recipe, steps
        # The plateau has an optimiser of its own, whose rate is a plain number: that of the real
        # one may be a tensor which a captured step reads, and must stay in its place.
        self._stand_in = torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate)
        self._plateau = ReduceLROnPlateau(
            self._stand_in,
            factor=recipe.plateau_factor,
            patience=recipe.plateau_patience,
            threshold=recipe.plateau_min_delta,
            threshold_mode="abs",
            eps=0.0,  # however small, a reduction is made, as in Keras
        )

    @property
    def rate(self) -> float:
        """The rate of the last step, or of the next one before there was any."""
        return self._stand_in.param_groups[0]["lr"]

    def before_step(self, done: int) -> None:
        """Set the rate of the next step when `done` steps of the run are behind it."""
        if self._recipe.schedule == "cosine":  # as it is at the middle of the step
            self._set(cosine(self._recipe, (done + 0.5) / self._steps))

    def after_epoch(self, val_loss: float) -> None:
        """Set the rate of the next epoch."""
        if self._recipe.schedule == "plateau":
            self._plateau.step(val_loss)
            self._set(self.rate)

    def _set(self, rate: float) -> None:
        for group in (*self._optimizer.param_groups, *self._stand_in.param_groups):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"rate": self.rate, "plateau": self._plateau.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._plateau.load_state_dict(state["plateau"])
        self._set(state["rate"])
