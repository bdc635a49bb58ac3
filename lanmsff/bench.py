"""How fast the library is where it runs, against a plain float32 loop in the same process.

The plain loop is what a first PyTorch tutorial writes; the library is what `train` and `predict` do
by themselves: layout, precision, optimiser, captured steps. Both run in alternating turns, so that
whatever else the machine does meets both, and a ratio is a median over the turns.
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lanmsff.augment import SIDE
from lanmsff.cost import memory_traffic
from lanmsff.data import FaceSet
from lanmsff.evaluate import Predictor
from lanmsff.folding import folded
from lanmsff.memory import kept_memory, return_free_memory
from lanmsff.model import LANMSFF
from lanmsff.results import environment
from lanmsff.step import CapturedStep, Speed, can_keep_memory
from lanmsff.train import Run
from lanmsff.weights import load_weights, save_weights

BATCHES = (1, 32, 256, 1024)
PAPER_BATCH = 32
TURNS = 7
FEWEST_TURNS = 3
TURN_SECONDS = 0.3  # at least; short calls are repeated
COPIED = 2**30  # bytes, to measure a GPU's bandwidth
WARM_UP = 5  # calls on a GPU, where the first ones choose kernels and capture the step
CLASSES = list("abcdefg")
FER2013 = (28_709, 3_589)  # faces to train and to validate on
ON_GPU_ONLY = ("captured", "compiled")  # switches of `Speed`
ON_CPU_ONLY = ("kept_memory",)

_FIRST_STEP = """
import os, sys, torch
from lanmsff import train
step = train.Run.train_step
def first(run, items):
    step(run, items)
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    os._exit(0)
train.Run.train_step = first
from lanmsff.__main__ import main
sys.exit(main(sys.argv[1:]) or 1)
"""


@dataclass(frozen=True)
class Work:
    """What is timed: a call, and the context in which one turn calls it.

    A turn begins with a call that is not timed: in it takes effect what the context switches on, and
    memory that the turn before gave back is asked for again.

    Attributes:
        uncaptured: the same call where `call` replays a graph, whose memory nobody counts.
    """

    call: Callable[[], object]
    context: Callable[[], AbstractContextManager] = nullcontext
    uncaptured: Callable[[], object] | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self.context():
            self.call()
            yield


def bench(
    device: torch.device,
    precision: str,
    seconds: float = 90.0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure all there is to measure on `device`, as JSON values.

    Args:
        precision: of the library; the plain loop is float32.
        seconds: for each figure, about; a batch size that takes longer is left out.
        say: told a line before each figure.

    Returns:
        `training` and `inference`: for each batch size images/s of `plain` and `library`, their
        `ratio`, and peak memory; `without`: training at the paper's batch size with one of the
        library's means left out; `latency_ms` of one face; `startup_seconds`; on a GPU `bandwidth`;
        and `left_out`, with reasons: what failed is empty or None.
    """
    record: dict[str, Any] = {
        "environment": environment(device, precision), "seconds": seconds, "left_out": []
    }  # fmt: skip

    def attempt(what: str, measure: Callable[[], Any]) -> Any:
        """What it measures; None if it fails, so that minutes of other figures are not lost."""
        say(what)
        try:
            return measure()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            reason = "too little memory on the device"
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
        record["left_out"].append(f"{what}: {reason}")
        return None

    for kind, make in (("training", _training_calls), ("inference", _inference_calls)):
        record[kind], slowest = {}, 0.0  # seconds of an image, plain, at the batch size before
        for batch in BATCHES:
            what = f"{kind} at batch {batch}"
            if (expected := slowest * batch * (FEWEST_TURNS + 1)) > seconds:
                record["left_out"].append(f"{what}: would take {expected:.0f} s")
                continue
            figures = attempt(what, lambda: _figures(make, batch, device, precision, seconds))
            if figures:
                record[kind][str(batch)] = figures
                slowest = 1 / figures["plain"]

    without = attempt("each means left out", lambda: _without(device, precision, seconds))
    record["without"] = without or {}
    one = record["inference"].get("1", {}).get("ms", {})
    record["latency_ms"] = one | {"onnxruntime_cpu": attempt("ONNX Runtime", _onnx_ms)}
    record["startup_seconds"] = attempt("start-up", lambda: startup(device, precision)) or {}
    if device.type == "cuda":
        record["bandwidth"] = attempt("bandwidth", lambda: _bandwidth(record, device, precision))
    return record


def _figures(
    make: Callable[..., dict[str, Work]], batch: int, device: torch.device, precision: str,
    seconds: float,
) -> dict[str, Any]:
    """Speed and memory of what `make` makes, at one batch size."""
    with TemporaryDirectory() as folder:
        works = make(batch, device, precision, Path(folder))
        turns = take_turns(works, device, seconds)
        memory = {name: _peak_memory(work, device) for name, work in works.items()}
    return compare(turns, batch) | {"peak_memory_mb": memory}


def take_turns(works: dict[str, Work], device: torch.device, seconds: float) -> dict[str, list]:
    """Seconds of one call of each, in every turn; the turns alternate.

    Ends after `TURNS` turns, or after `FEWEST_TURNS` once `seconds` are over.
    """
    repeats = {}
    for name, work in works.items():
        if device.type == "cuda":
            _seconds(work, WARM_UP, device)
        once = _seconds(work, 1, device)
        repeats[name] = max(1, round(TURN_SECONDS / max(once, 1e-6)))
    turns: dict[str, list[float]] = {name: [] for name in works}
    end = time.perf_counter() + seconds
    for turn in range(TURNS):
        if turn >= FEWEST_TURNS and time.perf_counter() > end:
            break
        for name, work in works.items():
            turns[name].append(_seconds(work, repeats[name], device) / repeats[name])
    return turns


def compare(turns: dict[str, list[float]], images: int) -> dict[str, Any]:
    """Images/s and ms a call of each (medians), and the ratio of "library" to "plain"."""
    found: dict[str, Any] = {
        name: images / statistics.median(seconds) for name, seconds in turns.items()
    }
    found["ratio"] = statistics.median(
        plain / library for plain, library in zip(turns["plain"], turns["library"])
    )
    found["ms"] = {name: 1000 * statistics.median(seconds) for name, seconds in turns.items()}
    found["turns"] = len(turns["plain"])
    return found


def noise(train: int, val: int = 7) -> FaceSet:
    """Faces of noise at FER-2013's size."""
    random = np.random.default_rng(0)
    n = train + val
    return FaceSet(
        images=random.integers(0, 256, (n, 48, 48), dtype=np.uint8),
        labels=np.arange(n) % len(CLASSES),
        split=np.repeat(["train", "val"], [train, val]),
        name=np.arange(n).astype(str),
        meta={"dataset": "noise", "rule": "none", "classes": CLASSES, "sources": {}},
    )


def startup(device: torch.device, precision: str) -> dict[str, float]:
    """Seconds of a new Python: to import the library; to finish the first step of `train`.

    The latter trains by the recipe `paper` on a set of FER-2013's size. Medians of three.
    """
    with TemporaryDirectory() as folder:
        data = Path(folder, "noise.npz")
        noise(*FER2013).save(data)
        train = ["-c", _FIRST_STEP, "train", "--data", str(data), "--device", str(device),
                 "--precision", precision]  # fmt: skip
        return {
            "import": _median_run(lambda turn: ["-c", "import lanmsff"]),
            "train_first_step": _median_run(
                lambda turn: [*train, "--out", str(Path(folder, f"run{turn}"))]
            ),
        }


def _median_run(words: Callable[[int], list[str]]) -> float:
    seconds = []
    for turn in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, *words(turn)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "no word of why").splitlines()[-1])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _training_calls(
    batch: int, device: torch.device, precision: str, folder: Path
) -> dict[str, Work]:
    return {
        "plain": _plain_training(batch, device),
        "library": _library_training(batch, device, precision, folder, Speed()),
    }


def _plain_training(batch: int, device: torch.device) -> Work:
    model = LANMSFF().to(device).train()
    optimizer = torch.optim.Adam(model.parameters())
    images = torch.rand(batch, 1, SIDE, SIDE, device=device)
    labels = torch.arange(batch, device=device) % len(CLASSES)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return Work(step)


def _library_training(
    batch: int, device: torch.device, precision: str, folder: Path, speed: Speed
) -> Work:
    """A step of `Run`, augmentation included, with what is switched on in an epoch."""
    run = Run(noise(batch), "paper", folder, device=device, precision=precision, speed=speed,
              changes={"batch_size": batch})  # fmt: skip
    run.model.train()
    items = torch.arange(batch, device=device)
    learn = run.learner.step
    step = learn.captured if isinstance(learn, CapturedStep) else learn
    return Work(
        lambda: run.train_step(items),
        lambda: kept_memory(can_keep_memory(device, speed)),
        lambda: step(items),
    )


def _inference_calls(
    batch: int, device: torch.device, precision: str, folder: Path
) -> dict[str, Work]:
    """From images on the device to logits on the CPU; the library also resizes and scales them."""
    plain, ours = LANMSFF().to(device).eval(), LANMSFF().eval()
    images = torch.rand(batch, 1, SIDE, SIDE, device=device)
    pixels = torch.from_numpy(noise(batch).images[:batch]).to(device)

    def plain_step() -> None:
        with torch.no_grad():
            plain(images).cpu()

    library = Predictor(ours, device, precision)
    return {"plain": Work(plain_step), "library": Work(lambda: library(pixels))}


def _without(device: torch.device, precision: str, seconds: float) -> dict[str, Any]:
    """Training at the paper's batch size, with everything and with one thing left out each time."""
    elsewhere = ON_CPU_ONLY if device.type == "cuda" else ON_GPU_ONLY
    switches = [field.name for field in fields(Speed) if field.name not in elsewhere]
    with TemporaryDirectory() as folder:

        def work(name: str, precision: str, speed: Speed) -> Work:
            return _library_training(PAPER_BATCH, device, precision, Path(folder, name), speed)

        works = {"nothing": work("nothing", precision, Speed())}
        if precision != "float32":
            works[precision] = work(precision, "float32", Speed())
        for name in switches:
            works[name] = work(name, precision, Speed(**{name: False}))
        turns = take_turns(works, device, seconds)
    found = {
        name: {
            "images_per_second": PAPER_BATCH / statistics.median(of),
            "ratio": statistics.median(b / a for a, b in zip(turns["nothing"], of)),
        }
        for name, of in turns.items()
    }
    return found


def _onnx_ms() -> float:
    """Milliseconds of ONNX Runtime for one face, on the CPU."""
    from lanmsff.export import INPUT, export_onnx, open_session

    with TemporaryDirectory() as folder:
        path = Path(folder, "noise.safetensors")
        save_weights(LANMSFF(), path, CLASSES, {"dataset": "noise"})
        file = path.with_suffix(".onnx")
        export_onnx(load_weights(path), file)
        session = open_session(file)
    face = {INPUT: np.random.default_rng(0).random((1, 1, SIDE, SIDE), dtype=np.float32)}
    cpu = torch.device("cpu")
    work = Work(lambda: session.run(None, face))
    (turns,) = take_turns({"onnx": work}, cpu, TURN_SECONDS).values()
    return 1000 * statistics.median(turns)


def _bandwidth(record: dict[str, Any], device: torch.device, precision: str) -> dict[str, Any]:
    """Images/s that copying the features of an image would allow, and the share that is reached.

    Every layer has to read its input and write its output; in training each of its two gradients
    reads and writes as much again. Inference has no batch norm, which is folded into the layer
    before. Bandwidth is that of copying `COPIED` bytes on the device.
    """
    source = torch.empty(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    (turns,) = take_turns({"copy": Work(lambda: target.copy_(source))}, device, 5.0).values()
    rate = 2 * source.numel() / statistics.median(turns)  # read and written
    size = 2 if precision == "bfloat16" else 4
    traffic = {
        "training": 3 * memory_traffic(LANMSFF(), size),
        "inference": memory_traffic(folded(LANMSFF()), size),
    }
    found: dict[str, Any] = {"bytes_per_second": rate, "bytes_per_image": {}, "share_of_bound": {}}
    for kind, count in traffic.items():
        found["bytes_per_image"][kind] = count
        found["share_of_bound"][kind] = {
            batch: of["library"] * count / rate for batch, of in record[kind].items()
        }
    return found


def _seconds(work: Work, repeats: int, device: torch.device) -> float:
    """Of one turn of so many calls, the device's work included."""
    with work.turn():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            work.call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started


def _peak_memory(work: Work, device: torch.device) -> float | None:
    """MB in use at most during a call, of the device or of this process; None if nobody counts.

    What was freed before is returned first, or the peak of a small batch would be what the process
    still holds of a larger one.
    """
    call = work.uncaptured or work.call
    gc.collect()
    return_free_memory()
    with work.turn():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            call()
            return torch.cuda.max_memory_allocated(device) / 1e6
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        except OSError:
            return None
        call()
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 / 1e6
