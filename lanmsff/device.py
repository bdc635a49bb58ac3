"""Where and in which precision the network runs."""

import os
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "float32", "bfloat16")


def pick_device(name: str = "auto") -> torch.device:
    """The device by that name; "auto" is the first CUDA GPU if there is one, else the CPU.

    Raises:
        ValueError: no such device here, or one that training does not know.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda can")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used ({reason}); try 'auto'") from None
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """ "auto" is bfloat16 where the hardware multiplies it, else float32."""
    if name not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name != "auto":
        return name
    if device.type == "cuda":
        with torch.cuda.device(device):  # PyTorch asks about the current GPU
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if fast else "float32"
    # oneDNN also runs bfloat16 on CPUs without instructions for it, several times slower
    fast = device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return "bfloat16" if fast else "float32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context for a forward pass in `precision` ("float32" or "bfloat16")."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def to_device(
    x: Tensor | nn.Module, device: torch.device, channels_last: bool = True
) -> Tensor | nn.Module:
    """Move images or a network to `device`, by default in the layout in which it is fast."""
    return x.to(device, memory_format=torch.channels_last) if channels_last else x.to(device)


def be_deterministic() -> None:
    """Make what this process computes from now on repeat to the bit (`train --deterministic`).

    What it guarantees: on one machine, with the same versions, number of threads and number of
    processes, the same data, recipe and seed give the same weights to the bit, on a CPU (where this
    is so without it) and on one CUDA GPU; a run that was killed and resumed gives those of one that
    was not. PyTorch then picks the deterministic form of every operation that has one. Where an
    operation has none PyTorch warns and goes on, and with that warning the guarantee for a GPU
    lapses. What it does not: another processor or GPU, another number of threads, another version
    of PyTorch, CUDA or oneDNN, another precision or memory layout add in another order and give
    other last digits, which training enlarges; nor do several processes promise the order in which
    they add gradients. Call it before anything runs on the GPU: cuBLAS reads its setting once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
