"""The environment in a record."""

import platform

import pytest
import torch

from lanmsff.results import device_name, environment, processor_name

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
