"""Tensors as the bytes of a safetensors file: never a pickle."""

from safetensors.torch import save
from torch import Tensor


def to_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """What is to be written to a file, of tensors of any device by their names.

    Not written by `safetensors.torch.save_file`: only their owner may read its files, and where it
    is killed it leaves one of its own behind.
    """
    return save({name: each.detach().contiguous() for name, each in tensors.items()}, metadata)
