"""Records: what stands in them of the environment, how they are written, and packed bits."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from lanmsff import results
from lanmsff.results import (
    device_name, environment, pack_bits, processor_name, read_record, unpack_bits, write_record,
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "found, words",
    [
        ({"cpu_name": "A CPU", "avx2": True, "amx_bf16": False, "sse": True}, "A CPU: avx2"),
        ({"neon": True, "sve": True}, f"{platform.machine()}: neon, sve"),
    ],
)
def test_the_processor_in_words(found, words, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert processor_name() == words == environment(CPU, "float32")["processor"]


def test_the_processor_under_an_older_pytorch(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert processor_name() == torch.backends.cpu.get_cpu_capability()


@pytest.mark.parametrize("cores, words", [({0}, "1 core"), ({0, 1}, "2 cores")])
def test_one_core_is_not_cores(cores, words, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: cores, raising=False)
    assert device_name(CPU) == f"CPU {platform.machine()}, {words}"


def test_the_commit_is_this_project_s_and_no_other_s(tmp_path, monkeypatch):
    """Inside of another repository, as an installed package is, there is none to tell."""

    def git(*words):
        names = ["-c", "user.name=A", "-c", "user.email=a@b"]
        subprocess.run(["git", *names, "-C", tmp_path, *words], check=True, capture_output=True)

    (tmp_path / "lanmsff").mkdir()
    copy = Path(shutil.copy(ROOT / "lanmsff" / "results.py", tmp_path / "lanmsff"))
    monkeypatch.setattr(results, "__file__", str(copy))
    ask = results.git_commit.__wrapped__
    monkeypatch.setenv("LANMSFF_COMMIT", "told")
    assert ask() == "told"
    monkeypatch.delenv("LANMSFF_COMMIT")
    assert ask() is None
    git("init")
    git("commit", "--allow-empty", "-m", "a thesis")
    assert ask() is None
    git("add", "lanmsff")
    git("commit", "-m", "the source")
    assert len(ask()) == 40
    copy.write_text("changed")
    assert ask().endswith("+changes")


@pytest.mark.parametrize("count", [0, 1, 8, 13])
def test_packed_bits_come_back(count):
    mask = np.random.default_rng(count).random(count) < 0.5
    assert np.array_equal(unpack_bits(pack_bits(mask), count), mask)
    assert pack_bits(np.array([True, False, True])) == "a0"  # the first in the highest place


def test_a_record_with_a_number_that_is_none_is_not_written(tmp_path):
    path = tmp_path / "record.json"
    write_record(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="record.json: not written"):
        write_record(path, {"loss": [0.5, float("nan")]})
    assert read_record(path) == {"loss": 1.0}
    assert [*tmp_path.iterdir()] == [path]
