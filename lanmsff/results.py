"""The JSON records that runs leave behind, and the environment that they ran in."""

import json
import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lanmsff.data import replacing

# what PyTorch multiplies with on a CPU, which decides how a sum is rounded
INSTRUCTIONS = ("neon", "sve", "avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16")
PACKAGES = ("torch", "numpy", "safetensors", "scikit-learn")
# a list of numbers as `json` indents it; a text cannot look like it, for it has no line breaks
_NUMBER = r"(?:-?\d[\d.eE+-]*|null)"
_NUMBERS = re.compile(rf"\[\n\s+{_NUMBER}(?:,\n\s+{_NUMBER})*\n\s*\]")


def package_version() -> str:
    """The installed version of this package; "source" where it runs without being installed."""
    try:
        return version("lanmsff")
    except PackageNotFoundError:
        return "source"


@cache
def git_commit() -> str | None:
    """The commit of the source tree when this was first asked for, with "+changes" if it differs.

    Outside of git, and where the package is installed inside of another project's repository, it is
    what the environment variable LANMSFF_COMMIT says, or None: a copy of the tree does not know.
    """

    def git(*words: str) -> str:
        here = Path(__file__).parent
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--", "..") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("LANMSFF_COMMIT")


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """What a figure depends on besides its seed: versions, device, threads, precision, commit.

    The same seed on a processor with other instructions is another training; see the chapter "What
    a number is worth". On a GPU `tf32` says whether cuDNN rounds what it convolves in float32 to 10
    bits of mantissa, as it does by default.
    """
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "lanmsff": package_version(),
        "commit": git_commit(),
        "device": device_name(device),
        **({"processor": processor_name()} if device.type == "cpu" else
           {"tf32": torch.backends.cudnn.allow_tf32}),
        "precision": precision,
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """A device in words: "NVIDIA H200", or "CPU x86_64, 2 cores"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{device.type.upper()} {platform.machine()}, {cores} core{'s' * (cores != 1)}"


def processor_name() -> str:
    """The CPU in words: "Intel Xeon: avx2, avx512_f, avx512_bf16, amx_bf16"."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older PyTorch
        return torch.backends.cpu.get_cpu_capability()
    found = torch.cpu.get_capabilities()
    cpu = found.get("cpu_name") or platform.machine()
    return f"{cpu}: {', '.join(name for name in INSTRUCTIONS if found.get(name))}"


def write_record(path: str | Path, record: dict[str, Any]) -> None:
    """Write `record` as JSON, aside first and then moved into place; a list of numbers is a line.

    Raises:
        ValueError: a number in it is not finite, which JSON cannot say.
    """
    try:
        text = json.dumps(record, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: not written, for a number in it is not finite") from error
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
    with replacing(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def pack_bits(mask: np.ndarray) -> str:
    """Booleans (N,) as text for a record: eight of them in a byte, bytes in hexadecimal."""
    return np.packbits(mask).tobytes().hex()


def unpack_bits(text: str, count: int) -> np.ndarray:
    """Those booleans again, bool (count,)."""
    packed = np.frombuffer(bytes.fromhex(text), np.uint8)
    return np.unpackbits(packed, count=count).astype(bool)


def read_record(path: str | Path) -> dict[str, Any]:
    """Read a JSON record; `ValueError` names the file if it is not one."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("not an object")
    except ValueError as error:  # of the text, or of its encoding
        raise ValueError(f"{path}: not a JSON record ({error})") from None
    return record
