"""Training in one process, or in several that were started with torchrun, one for each device.

    torchrun --nproc-per-node 2 -m lanmsff train ...

Every process takes its part of each batch, so a batch is `batch_size` images times the number of
processes. Batch norm takes its statistics over the whole batch, gradients are averaged with the
weight of their images, and figures are summed exactly: the result is that of one process with the
larger batch, up to the order of sums. Dropout is not equal, for each process draws its own.
"""

import os
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

STEPS_BETWEEN_TALKS = 16  # to ask the others takes time


class Alone:
    """The only process: nothing to share."""

    rank, count = 0, 1
    device: torch.device | None = None  # that of this process, if it is not up to the caller

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def share_statistics(self, model: nn.Module) -> nn.Module:
        """`model` with batch norm over the batches of all processes."""
        return model

    def share_gradients(self, model: nn.Module) -> nn.Module:
        """What is called in `model`'s place, so that gradients are those of all processes."""
        return model

    def batches(self, order: Tensor, batch_size: int) -> list[Tensor]:
        """`order` (N,) in batches of all processes, of `batch_size` for each of them.

        A rest that is too small for every process to have an image joins the batch before.
        """
        batches = list(order.split(batch_size * self.count))
        if len(batches) > 1 and len(batches[-1]) < self.count:
            rest = batches.pop()
            batches[-1] = torch.cat([batches[-1], rest])
        return batches

    def mine(self, rows: Tensor) -> Tensor:
        """This process's part of rows (N, ...): as many as the others', or one more or less."""
        return rows.tensor_split(self.count)[self.rank]

    def sum(self, figures: Tensor) -> Tensor:
        """The sum over all processes; `figures` stays as it is."""
        return figures

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        return [value]

    def any(self, flag: bool, step: int) -> bool:
        """Whether it is true in any process, asked after so many steps of the epoch.

        Several ask each other only after every `STEPS_BETWEEN_TALKS` steps; in between it is False.
        """
        return flag

    def wait(self) -> None:
        """Return once all processes have come here."""


class Joined(Alone):
    """One of several processes that torchrun started; by Hugging Face's Accelerate."""

    def __init__(self, device: torch.device):
        from accelerate import Accelerator  # not needed, and slow to import, in a single process

        self._accelerator = Accelerator(cpu=device.type == "cpu")
        self.device = self._accelerator.device
        self.rank = self._accelerator.process_index
        self.count = self._accelerator.num_processes

    def share_statistics(self, model: nn.Module) -> nn.Module:
        if self.device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return _with_shared_batch_norm(model)

    def share_gradients(self, model: nn.Module) -> nn.Module:
        return self._accelerator.prepare_model(model)

    def sum(self, figures: Tensor) -> Tensor:
        return self._accelerator.reduce(figures.clone(), reduction="sum")

    def gather(self, value: Any) -> list[Any]:
        values = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def any(self, flag: bool, step: int) -> bool:
        if step % STEPS_BETWEEN_TALKS:
            return False
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


def join(device: torch.device) -> Alone:
    """The processes that this one trains with: those of torchrun, or none."""
    return Joined(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Alone()


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; so its gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over all processes, on a CPU; PyTorch's `SyncBatchNorm` is for GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        count = exact.new_tensor([exact.numel() // exact.shape[1]])
        total = _SumOverProcesses.apply(torch.cat([exact.sum(dim=(0, 2, 3)), count]))
        n = total[-1].detach()
        mean = total[:-1] / n
        centred = exact - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum(dim=(0, 2, 3))) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight / torch.sqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def _with_shared_batch_norm(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                shared = SharedBatchNorm2d(
                    layer.num_features, eps=layer.eps, momentum=layer.momentum
                ).to(layer.weight.dtype)
                shared.load_state_dict(layer.state_dict())
                setattr(parent, name, shared)
    return model
