"""Main memory that is used again instead of being returned: faster training and scoring on a CPU."""

import ctypes
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Settings of glibc's allocator, from its header malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
MMAPS = 65_536  # its default of M_MMAP_MAX
LARGEST = 32 * 2**20  # bytes: the highest M_MMAP_THRESHOLD, to which it adapts by itself

_lock = threading.Lock()
_wanted_by = 0  # contexts that are open: they may lie in one another, scoring in a training


@contextmanager
def kept_memory(wanted: bool) -> Iterator[None]:
    """Let this process keep the main memory that it frees meanwhile, where the C library is glibc.

    By itself glibc gets every block of more than 32 MB from the kernel and returns it when it is
    freed. The features of block 1 are such blocks from batch 64 on, in float32 from 32 on, and in
    every step the kernel fills each with zeros anew: at batch 256 a quarter of the time of a step,
    seen on two cores. What lies free at the end of its heap it returns as well, if that is more than
    64 MB, which is the same for scoring in batches of 32. Peak memory grows by up to a half.

    When the last of these contexts ends, all that is free is returned, and the thresholds are those
    to which glibc adapts by itself; what they were cannot be asked. Threads other than the main one
    have heaps of their own, where large blocks are returned all the same.
    """
    if not wanted or platform.libc_ver()[0] != "glibc":
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def return_free_memory() -> None:
    """Give the kernel all memory that this process has freed, where the C library is glibc."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _enter() -> None:
    global _wanted_by
    with _lock:
        _wanted_by += 1
        if _wanted_by == 1:
            glibc = ctypes.CDLL(None)
            glibc.mallopt(M_MMAP_MAX, 0)
            glibc.mallopt(M_TRIM_THRESHOLD, -1)


def _leave() -> None:
    global _wanted_by
    with _lock:
        _wanted_by -= 1
        if _wanted_by == 0:
            glibc = ctypes.CDLL(None)
            glibc.mallopt(M_MMAP_MAX, MMAPS)
            glibc.mallopt(M_MMAP_THRESHOLD, LARGEST)
            glibc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST)
            return_free_memory()
