"""Measuring in a process of its own, and its memory at the peak."""

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
STATUS = Path("/proc/self/status")


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """What a function of a module returns when a fresh process calls it: nothing else counts to its
    memory.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and those it starts, to one core, where the system can; libraries then
    start one thread.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def peak_gigabytes() -> float:
    """The most memory this process has held."""
    # On Linux ru_maxrss of a new process begins with what its parent held; the status file counts
    # its own.
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
