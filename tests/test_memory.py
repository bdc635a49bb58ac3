"""Keeping main memory: in force while it is wanted, and not longer."""

import platform
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from lanmsff.evaluate import BATCH_SIZE, Predictor
from lanmsff.model import LANMSFF

RESIDENT = """
import resource
import torch
from lanmsff.memory import kept_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

def use(megabytes, times=1):
    for _ in range(times):
        torch.ones(megabytes * 2**20, dtype=torch.uint8)
    return resident() - at_first

torch.ones(2**26, dtype=torch.uint8)  # the first call starts PyTorch's threads
at_first = resident()
with kept_memory(False):
    print(use(64, times=20))
with kept_memory(True):
    with kept_memory(True):  # scoring within a training
        use(64)
    print(use(64, times=20))
print(resident() - at_first)
print(use(512))  # more than fits into a gap that the lines above have left
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, whose memory it keeps")
def test_memory_is_kept_while_wanted_and_returned():
    # in a process of its own: what other tests have left free in this one would be used again
    child = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    unwanted, kept, returned, later = map(float, child.stdout.split())  # MB more than at first
    assert unwanted < 32
    assert 60 < kept < 20 * 64 / 2  # a few of the blocks, used again and again
    assert returned < 32
    assert later < 32


@pytest.mark.parametrize(
    "faces, asked, kept", [(BATCH_SIZE + 1, True, True), (BATCH_SIZE, True, False),
                           (BATCH_SIZE + 1, False, False)]
)  # fmt: skip
def test_scoring_keeps_memory_while_there_are_several_batches(faces, asked, kept, monkeypatch):
    seen = []

    @contextmanager
    def watched(wanted):
        seen.append(wanted)
        yield

    monkeypatch.setattr("lanmsff.evaluate.kept_memory", watched)
    score = Predictor(LANMSFF().eval(), torch.device("cpu"), keep_memory=asked)
    score(torch.zeros(faces, 8, 8, dtype=torch.uint8))
    assert seen == [kept]
