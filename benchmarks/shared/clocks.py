"""Seconds by the wall's clock and by the processor's: on a machine that does other things too, the
latter says what an idle one would take.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
Clocks = tuple[float, float]

MILLISECONDS = 1_000


def clocks() -> Clocks:
    return time.perf_counter(), time.process_time()


def timed(function: Callable[[], T]) -> tuple[Any, T]:
    """Seconds that a call took by both clocks, [2], and its answer."""
    began = clocks()
    answer = function()
    return np.subtract(clocks(), began), answer


def milliseconds(times: Sequence[Any]) -> dict[str, float]:
    """Median and p99 of calls' seconds by both clocks [n, 2], as a row of a table."""
    (p50, of_processor), (p99, of_processor_99) = MILLISECONDS * np.quantile(
        times, [0.5, 0.99], axis=0
    )
    row = {
        "ms p50": p50,
        "ms p99": p99,
        "processor ms p50": of_processor,
        "processor ms p99": of_processor_99,
    }
    return {name: round(float(value), 2) for name, value in row.items()}
