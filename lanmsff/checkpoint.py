"""Checkpoints: everything that a run needs to go on, in two generations.

The newest one and the one before it are kept, so that a file damaged after it was written costs
one checkpoint, not the run. Each is a safetensors file: tensors and a JSON header, never a pickle.
"""

import errno
import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lanmsff.asked import RunError, refuse_another
from lanmsff.data import replacing
from lanmsff.tensors import to_bytes

NEWEST, BEFORE = "checkpoint.safetensors", "checkpoint-before.safetensors"
LOCK = "run.lock"
FORMAT = 2  # the first, which does not say so, lacks the best weights

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
# Newer versions fall back to a lock file that outlives a killed process, unless told not to.
_FALLS_BACK = "fallback_to_soft" in inspect.signature(filelock.FileLock.__init__).parameters


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` against other processes; the system frees it when this one ends, or is killed.

    By flock on Linux and macOS and its like on Windows. A network file system without locks is
    used without, after a line on stderr.

    Raises:
        RunError: another process, or another `lock` in this one, holds it.
    """
    held = filelock.FileLock(
        folder / LOCK, **({"fallback_to_soft": False} if _FALLS_BACK else {})
    )
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        raise RunError(f"{folder}: another process trains in this folder") from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        print(f"{folder}: no locks on this file system; start one run only", file=sys.stderr)
    try:
        yield
    finally:
        held.release()


class RunFolder:
    """The folder of a run, as this process found it.

    Args:
        results: names of the files that a run leaves there beside its checkpoints.
    """

    def __init__(self, path: Path, results: tuple[str, ...]):
        self.path, self.results = path, results
        self._read = self._signature()

    def find(
        self, asked: dict[str, Any], resume: bool
    ) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Header and tensors of the checkpoint to go on from, None if there is none.

        Raises:
            RunError: there is one and `resume` is not set, it is of something else than asked or of
                another `FORMAT`, or there is none beside results, which a new run would overwrite.
        """
        self._read = self._signature()
        if not any((self.path / name).exists() for name in (NEWEST, BEFORE)):
            if left := [name for name in self.results if (self.path / name).exists()]:
                raise RunError(
                    f"{self.path}: holds {left[0]} of a run whose checkpoint is gone; name another "
                    "folder"
                )
            return None
        if not resume:
            raise RunError(
                f"{self.path}: holds a run; go on with it (--resume, resume=True), or name another "
                "folder"
            )
        header, tensors = read_checkpoint(self.path)
        if header.get("format") != FORMAT:
            raise RunError(
                f"{self.path}: the checkpoint is of another version of this package; go on with "
                "that version, or name another folder"
            )
        refuse_another(self.path, header["asked"], json.loads(json.dumps(asked)))
        return header, tensors

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder, and see that nobody trained in it since the checkpoint was read.

        Raises:
            RunError: another process trains there or has done so, or what is done meanwhile cannot
                write its files.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with lock(self.path):
            if self._signature() != self._read:
                raise RunError(f"{self.path}: another process has trained here; start again")
            for left_by_a_kill in self.path.glob(".*.part"):
                left_by_a_kill.unlink()
            try:
                yield
            except OSError as error:
                raise RunError(
                    f"{self.path}: cannot be written ({error.strerror or error}); the last good "
                    "checkpoint is kept: make room, then go on with --resume"
                ) from error
            finally:
                self._read = self._signature()

    def restore(self, name: str, content: bytes) -> None:
        """Let the file `name` have that content, whatever a hand or a cut-off epoch left there."""
        path = self.path / name
        if not path.is_file() or path.read_bytes() != content:
            with replacing(path) as aside:
                aside.write_bytes(content)

    def _signature(self) -> tuple[int, ...] | None:
        """Tells one newest checkpoint from another; None if there is none."""
        try:
            found = (self.path / NEWEST).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def write_checkpoint(folder: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write the newest checkpoint; what was the newest is then the one before.

    A kill at any moment leaves at least one whole checkpoint, if there was one.

    Args:
        header: JSON values.
        tensors: of any device, by name.
    """
    with replacing(folder / NEWEST) as aside:
        aside.write_bytes(to_bytes(tensors, {"run": json.dumps(header | {"format": FORMAT})}))
        if _is_whole(folder / NEWEST):  # a damaged one must not take the place of a good one
            os.replace(folder / NEWEST, folder / BEFORE)


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors (on the CPU) of the newest whole checkpoint in `folder`.

    If that is not the newest file, a line on stderr says so.

    Raises:
        RunError: there is none.
    """
    damaged = []
    for name in (NEWEST, BEFORE):
        path = folder / name
        if not path.exists():
            continue
        try:
            header, tensors = _read(path)
        except _DAMAGED as error:
            damaged.append(f"{path}: not a whole checkpoint ({error})")
            continue
        if damaged:
            print(f"{damaged[0]}; going on from the one before, {name}", file=sys.stderr)
        return header, tensors
    raise RunError(f"{'; '.join(damaged)}; remove the folder to start anew")


_DAMAGED = (SafetensorError, OSError, TypeError, KeyError, ValueError)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of one file; one of `_DAMAGED` if it is not whole."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["run"])
        header["asked"], header["history"], header["step"]
        return header, {key: file.get_tensor(key) for key in file.keys()}


def _is_whole(path: Path) -> bool:
    try:
        _read(path)
    except _DAMAGED:
        return False
    return True


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with `prefix` and a dot before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `named` made of this prefix, under its own names."""
    start = prefix + "."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory, "INDEX.NAME" -> tensor, index of the parameter in its groups."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": tensor
        for index, moments in state.items()
        for name, tensor in moments.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimiser that memory back. Its settings stay those of now."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor.clone()  # no part of the mapped file
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        for key, tensor in moments.get(index, {}).items():
            # The fused optimiser walks through memory: moments must lie as their weights do.
            if tensor.shape == parameter.shape:
                moments[index][key] = torch.empty_like(parameter).copy_(tensor)
    # `load_state_dict` would put copies in the place of rates that a captured step reads
    rates = [group["lr"] for group in optimizer.param_groups]
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate
