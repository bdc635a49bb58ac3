"""One step of training: images, forward pass, loss, backward pass, update.

On a GPU the steps of a network as small as this one are limited by the time that Python takes to
launch its hundreds of kernels. `CapturedStep` launches them once, as one CUDA graph.
"""

import copy
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanmsff.augment import Images
from lanmsff.device import autocast, to_device
from lanmsff.recipes import Recipe

WARM_UP = 3  # steps before the capture, in which libraries allocate and choose
COMPILED = 64  # networks, batch sizes and layouts of one process; by default PyTorch stops at 8


@dataclass(frozen=True)
class Speed:
    """What makes training fast, each used where it can be; precision is a setting of its own.

    None of them changes what is computed, but the order of sums, so the last digits.
    """

    channels_last: bool = True  # the memory layout in which convolutions are fast
    fused: bool = True  # the optimiser's update of all weights in one kernel
    captured: bool = True  # on one GPU: a step is replayed as a CUDA graph
    compiled: bool = True  # of a captured step: torch.compile joins what is done point by point
    kept_memory: bool = True  # on a CPU under Linux: see lanmsff.memory


def can_capture(device: torch.device, speed: Speed, processes: int) -> bool:
    return speed.captured and device.type == "cuda" and processes == 1


def can_compile() -> bool:
    """Whether torch.compile can write kernels for a GPU here; if not, a line on stderr says why."""
    if importlib.util.find_spec("triton") is None:
        lacking = "this PyTorch comes without Triton"
    elif not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        lacking = "there is no C compiler; install gcc, or name one in the environment variable CC"
    elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
        lacking = "the headers of Python are missing; install python3-dev, or its like"
    else:
        return True
    print(f"the training step is not compiled, so it is slower: {lacking}", file=sys.stderr)
    return False


def can_keep_memory(device: torch.device, speed: Speed) -> bool:
    return speed.kept_memory and device.type == "cpu"


def make_optimizer(
    model: nn.Module, recipe: Recipe, fused: bool = True, capturable: bool = False
) -> torch.optim.AdamW:
    """AdamW, which without weight decay is Adam.

    Kernels and matrices decay; biases and the scales of batch norm do not, since pulling those to
    zero limits nothing but the fit (He et al., "Bag of tricks", CVPR 2019).

    Args:
        fused: update all weights in one kernel; else as PyTorch chooses for the device.
        capturable: keep learning rate and step count on the device of `model`.
    """
    parameters = list(model.parameters())
    decayed = [p for p in parameters if p.ndim > 1]
    kept = [p for p in parameters if p.ndim <= 1]
    rate = recipe.learning_rate
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept}],
        lr=torch.tensor(rate, device=parameters[0].device) if capturable else rate,
        eps=recipe.adam_eps,
        weight_decay=0.0,
        fused=fused or None,  # False would also forbid what PyTorch does by itself on a GPU
        capturable=capturable,
    )


class Step:
    """One step of the optimiser, with nothing that waits for the device or copies to it.

    Args:
        network: makes logits of images; `LANMSFF`, or what trains it in several processes.
        images: of N faces.
        labels: int64 (N,), what counts as right.
        targets: what is learned: `labels`, or distributions, float32 (N, K).
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: Images,
        labels: Tensor,
        targets: Tensor,
        *,
        label_smoothing: float,
        precision: str,
        channels_last: bool,
    ):
        self.network, self.optimizer = network, optimizer
        self.images, self.labels, self.targets = images, labels, targets
        self.label_smoothing, self.precision = label_smoothing, precision
        self.channels_last = channels_last

    def __call__(self, items: Tensor, share: float = 1.0) -> Tensor:
        """Learn from `items`, int64 (B,) on the device.

        Args:
            share: what the mean loss over the items counts, against 1 for a whole batch.

        Returns:
            float32 (2,): the sum of the losses of the items, and how many are classified right.
        """
        images, faces = self.images.batch(items)
        device = images.device
        with autocast(device, self.precision):
            logits = self.network(to_device(images, device, self.channels_last))
        loss = F.cross_entropy(
            logits.float(), self.targets[faces], label_smoothing=self.label_smoothing
        )
        self.optimizer.zero_grad()
        (loss * share).backward()
        self.optimizer.step()
        correct = (logits.argmax(1) == self.labels[faces]).sum()
        return torch.stack([loss.detach() * len(items), correct])


class CapturedStep:
    """A `Step` on a GPU as a CUDA graph, for batches of one size; others are plain steps.

    The first steps are plain ones on a side stream, as a capture asks for, and train like any
    other. A capture computes nothing; from then on the graph is replayed on the items that are
    copied to where it reads them. Everything else that it reads stays in its place too: faces and
    draws, weights, the optimiser's memory, the learning rate as a tensor, the generator of dropout
    (PyTorch registers the default one with every graph).

    Args:
        step: its optimizer is made with `capturable`.
        batch_size: of the batches that are captured.
        compiled: let torch.compile write kernels for what is captured, for which it needs Triton
            (part of PyTorch for CUDA) and a C compiler. That takes a minute, seconds where the
            machine has done it before; batches of other sizes go without.
    """

    def __init__(self, step: Step, batch_size: int, compiled: bool):
        self.step = step
        self.captured = copy.copy(step)
        if compiled:
            dynamo = importlib.import_module("torch._dynamo")  # takes a second, so only here
            dynamo.config.recompile_limit = max(COMPILED, dynamo.config.recompile_limit)
            self.captured.network = torch.compile(step.network, dynamic=False)
        self.items = torch.zeros(batch_size, dtype=torch.int64, device=step.labels.device)
        self.stream = torch.cuda.Stream(self.items.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.result = torch.zeros(2)
        self.warmed_up = 0

    def __call__(self, items: Tensor, share: float = 1.0) -> Tensor:
        """See `Step`; what is returned is overwritten by the next step."""
        if len(items) != len(self.items) or share != 1.0:
            return self.step(items, share)
        if self.warmed_up < WARM_UP:
            self.warmed_up += 1
            return self._on_a_side_stream(items)
        if self.graph is None:
            self._capture()
        self.items.copy_(items)
        self.graph.replay()
        return self.result

    def _on_a_side_stream(self, items: Tensor) -> Tensor:
        current = torch.cuda.current_stream(items.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = self.captured(items)
        current.wait_stream(self.stream)
        return result

    def _capture(self) -> None:
        # gradients must be allocated anew by the capture, in the memory of the graph
        self.step.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        # a stream of this GPU: PyTorch's own is made once, on the GPU that is current then
        with torch.cuda.device(self.items.device), torch.cuda.graph(self.graph, stream=self.stream):
            self.result = self.captured(self.items)
