"""The benchmark: turns that alternate, what is left out, and a record that holds together."""

import platform
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lanmsff import bench as module
from lanmsff.__main__ import main
from lanmsff.bench import Work, bench, compare, noise, take_turns
from lanmsff.commands.bench import file_name, table
from lanmsff.cost import memory_traffic
from lanmsff.model import LANMSFF
from lanmsff.results import read_record
from lanmsff.step import Speed

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for `clock.tick(seconds)`."""

    class Clock:
        now = 0.0

        def tick(self, seconds):
            self.now += seconds

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_turns_alternate_and_short_calls_are_repeated(clock):
    order = []

    def work(name, seconds):
        return Work(lambda: (order.append(name), clock.tick(seconds)))

    turns = take_turns({"plain": work("p", 0.15), "library": work("l", 1.0)}, CPU, 100)
    # each turn begins with a call that is not timed; 2 x 0.15 s make one
    assert "".join(order) == "ppll" + 7 * "pppll"
    assert turns["plain"] == pytest.approx(7 * [0.15])
    assert turns["library"] == pytest.approx(7 * [1.0])


@pytest.mark.parametrize("seconds, turns", [(0, 3), (20, 4), (1000, 7)])
def test_turns_end_with_the_time_but_not_before_three(seconds, turns, clock):
    works = {"plain": Work(lambda: clock.tick(2)), "library": Work(lambda: clock.tick(1))}
    assert len(take_turns(works, CPU, seconds)["library"]) == turns


def test_a_turn_begins_with_a_call_that_is_not_timed(clock):
    seen = []

    @contextmanager
    def context():
        seen.append("in")
        yield
        seen.append("out")

    def call():
        clock.tick(3 if seen[-1] == "in" else 1)
        seen.append("call")

    assert take_turns({"library": Work(call, context)}, CPU, 0) == {"library": [1.0, 1.0, 1.0]}
    assert seen == 4 * ["in", "call", "call", "out"]  # the first tells how many calls are a turn


@pytest.mark.parametrize("wanted", [True, False])
def test_training_is_timed_with_what_an_epoch_switches_on(wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(module.Run, "train_step", lambda run, items: None)
    kept = []

    @contextmanager
    def kept_memory(wanted):
        kept.append(wanted)
        yield

    monkeypatch.setattr(module, "kept_memory", kept_memory)
    speed = Speed(kept_memory=wanted)
    with module._library_training(2, CPU, "float32", tmp_path, speed).turn():
        assert kept == [wanted]


def test_compare_takes_medians_and_pairs_the_turns():
    found = compare({"plain": [1.0, 4.0, 2.0], "library": [0.5, 1.0, 2.0]}, images=8)
    assert (found["plain"], found["library"]) == (4.0, 8.0)
    assert found["ratio"] == 2.0  # of 2, 4 and 1
    assert found["ms"] == {"plain": 2000.0, "library": 1000.0} and found["turns"] == 3


@pytest.fixture
def quick(monkeypatch):
    """Small batches, one turn, and no new processes."""
    monkeypatch.setattr(module, "BATCHES", (1, 2))
    monkeypatch.setattr(module, "PAPER_BATCH", 2)
    monkeypatch.setattr(module, "TURNS", 1)
    monkeypatch.setattr(module, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(module, "startup", lambda *_: {"import": 1.5, "train_first_step": 4.5})
    monkeypatch.setattr(module, "_onnx_ms", lambda: 7.25)


def test_the_record_holds_together(quick):
    said = []
    record = bench(CPU, "bfloat16", seconds=1000, say=said.append)
    assert said[0] == "training at batch 1" and len(said) == 7
    for kind in ("training", "inference"):
        assert list(record[kind]) == ["1", "2"]
        for of in record[kind].values():
            assert of["ratio"] == pytest.approx(of["library"] / of["plain"])
            assert all(value is None or value > 50 for value in of["peak_memory_mb"].values())
    without = ["nothing", "bfloat16", "channels_last", "fused", "kept_memory"]
    assert list(record["without"]) == without
    assert record["without"]["nothing"]["ratio"] == 1
    assert record["latency_ms"]["onnxruntime_cpu"] == 7.25
    assert record["latency_ms"]["library"] == record["inference"]["1"]["ms"]["library"]
    assert record["left_out"] == [] and "bandwidth" not in record
    lines = table(record)
    assert any(f"{record['training']['2']['library']:,.1f}" in line for line in lines)
    assert "start-up   import 1.5 s, train first step 4.5 s" in lines


def test_what_takes_too_long_is_left_out_and_said(quick):
    record = bench(CPU, "float32", seconds=1e-6)
    assert list(record["training"]) == list(record["inference"]) == ["1"]
    assert [line.split(":")[0] for line in record["left_out"]] == [
        "training at batch 2", "inference at batch 2"
    ]  # fmt: skip
    assert "bfloat16" not in record["without"]
    assert table(record)[-1].startswith("left out   inference at batch 2: would take ")


def test_a_figure_that_fails_leaves_the_others(quick, monkeypatch):
    def fail(*_):
        raise RuntimeError("no kernel image\nfor this device")

    for name in ("_without", "startup"):
        monkeypatch.setattr(module, name, fail)
    record = bench(CPU, "float32", seconds=1e-6)
    assert record["without"] == record["startup_seconds"] == {}
    assert record["latency_ms"]["onnxruntime_cpu"] == 7.25
    assert record["left_out"][-2:] == [
        "each means left out: no kernel image", "start-up: no kernel image"
    ]  # fmt: skip
    assert table(record)[-1] == "left out   start-up: no kernel image"


def test_why_a_new_python_failed_is_told():
    with pytest.raises(RuntimeError, match="^KeyError: 'gpu'$"):
        module._median_run(lambda turn: ["-c", "{}['gpu']"])


def test_what_is_left_out_on_a_gpu(monkeypatch):
    monkeypatch.setattr(module, "_library_training", lambda *work: work)
    monkeypatch.setattr(module, "take_turns", lambda works, *_: dict.fromkeys(works, [0.5, 0.25]))
    found = module._without(torch.device("cuda"), "bfloat16", 1.0)
    assert list(found) == ["nothing", "bfloat16", "channels_last", "fused", "captured", "compiled"]


def test_the_memory_of_a_graph_is_counted_without_it():
    called = []
    work = Work(lambda: called.append("replayed"), uncaptured=lambda: called.append("computed"))
    module._peak_memory(work, CPU)
    assert called == ["replayed", "computed"]  # a turn begins with the call that is timed


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to return memory")
def test_the_peak_of_a_call_is_not_what_was_freed_before():
    """The last block stays, so that the heap below it is not returned by itself."""
    blocks = [np.ones(12_000) for _ in range(3000)]  # of 96 kB, 288 MB in all
    last = blocks.pop()
    before = module._peak_memory(Work(lambda: None), CPU)
    del blocks
    after = module._peak_memory(Work(lambda: None), CPU)
    assert len(last) == 12_000 and after < before - 200


def test_without_onnx_the_rest_is_measured(quick, monkeypatch):
    def missing():
        raise ValueError("ONNX needs onnx; install with: pip install 'lanmsff[export]'")

    monkeypatch.setattr(module, "_onnx_ms", missing)
    record = bench(CPU, "float32", seconds=1e-6)
    assert record["latency_ms"]["onnxruntime_cpu"] is None
    assert "ONNX Runtime: ONNX needs onnx" in record["left_out"][-1]
    assert any("onnxruntime_cpu - ms" in line for line in table(record))


def test_the_first_step_of_train_is_the_last(tmp_path):
    """What is timed as start-up ends after one step, before an epoch does."""
    noise(40).save(tmp_path / "noise.npz")
    words = ["train", "--data", "noise.npz", "--out", "run", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", module._FIRST_STEP, *words], cwd=tmp_path,
                          env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run").is_dir() and not (tmp_path / "run" / "record.json").exists()


@pytest.mark.parametrize("where, file", [("", "cpu-[a-z0-9-]+.json"), ("x.json", "x.json")])
def test_the_command_writes_the_record(where, file, quick, tmp_path, capsys):
    words = ["bench", "--device", "cpu", "--seconds", "0", "--json", str(tmp_path / where)]
    assert main(words) == 0
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    assert re.fullmatch(file, path.name)
    assert read_record(path)["seconds"] == 0


@pytest.mark.parametrize("about, name", [
    ({"device": "CPU x86_64, 2 cores", "processor": "AMD EPYC: avx2, avx512_f"},
     "cpu-x86-64-2-cores-amd-epyc"),
    ({"device": "CPU x86_64, 2 cores", "processor": "Intel Xeon: avx2"},
     "cpu-x86-64-2-cores-intel-xeon"),
    ({"device": "NVIDIA H200"}, "nvidia-h200"),
])  # fmt: skip
def test_processors_have_records_of_their_own(about, name):
    assert file_name(about) == name


def test_what_does_not_fit_is_left_out_and_said(quick, monkeypatch):
    def full(batch, *_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "_training_calls", full)
    record = bench(CPU, "float32", seconds=1000)
    assert record["training"] == {} and list(record["inference"]) == ["1", "2"]
    assert record["left_out"] == [
        f"training at batch {batch}: too little memory on the device" for batch in (1, 2)
    ]  # fmt: skip


def test_a_batch_size_that_fails_leaves_the_others(quick, monkeypatch):
    whole = module._inference_calls

    def calls(batch, *arguments):
        if batch == 1:
            raise RuntimeError("no kernel image")
        return whole(batch, *arguments)

    monkeypatch.setattr(module, "_inference_calls", calls)
    record = bench(CPU, "float32", seconds=1000)
    assert list(record["training"]) == ["1", "2"] and list(record["inference"]) == ["2"]
    assert record["left_out"] == ["inference at batch 1: no kernel image"]


def test_the_share_of_the_bandwidth_counts_what_is_moved(monkeypatch):
    """Every value that a layer reads or writes; thrice in training, and without batch norm after."""
    monkeypatch.setattr(module, "COPIED", 2**20)
    monkeypatch.setattr(module, "TURNS", 1)
    record = {"training": {"32": {"library": 100.0}}, "inference": {"1": {"library": 300.0}}}
    for precision, size in (("float32", 4), ("bfloat16", 2)):
        found = module._bandwidth(record, CPU, precision)
        network, norms = LANMSFF().eval(), []
        moved = memory_traffic(network, size)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(lambda _, inputs, found: norms.append(found.numel()))
        network(torch.zeros(1, 1, 64, 64))
        expected = {"training": 3 * moved, "inference": moved - 2 * size * sum(norms)}
        assert found["bytes_per_image"] == expected
        for kind, batch, speed in (("training", "32", 100), ("inference", "1", 300)):
            share = speed * expected[kind] / found["bytes_per_second"]
            assert found["share_of_bound"][kind] == {batch: pytest.approx(share)}


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "bench", None)  # is not called
    assert main(["bench", "--device", "cpu", "--json", str(tmp_path / "file" / "x.json")]) == 2
    assert "is a file; choose another file" in capsys.readouterr().err


def test_a_ratio_above_1_is_what_a_means_saves(monkeypatch):
    monkeypatch.setattr(module, "_library_training", lambda *work: work)
    monkeypatch.setattr(module, "take_turns", lambda works, *_: {
        name: [0.25, 0.5] if name == "nothing" else [0.5, 1.0] for name in works})  # fmt: skip
    found = module._without(torch.device("cpu"), "float32", 1.0)
    assert found["nothing"]["ratio"] == 1 and found["fused"]["ratio"] == 2
    assert found["nothing"]["images_per_second"] == module.PAPER_BATCH / 0.375
