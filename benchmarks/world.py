"""Seconds to simulate a million impressions, and what they are written in. Run: `funnel bench world`."""

import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from features.simulated import simulate, write
from features.world import WorldConfig

RUNS = 3


def main() -> None:
    """Print the median of three runs of the default world, and of one of about a million impressions."""
    table = Table("world", "impressions", "seconds to simulate", "seconds to write")
    for name, config in {"default": WorldConfig(), "larger": WorldConfig(impressions_a_day=72_000)}.items():
        runs = [timed(config) for _ in range(RUNS)]
        table.add_row(name, f"{runs[0][0]:,}", *(f"{median(run[i] for run in runs):.1f}" for i in (1, 2)))
    Console().print(table)


def timed(config: WorldConfig) -> tuple[int, float, float]:
    """Impressions, seconds to simulate them, seconds to write them."""
    began = time.perf_counter()
    world, log = simulate(config)
    simulated = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write(world, log, Path(folder))
        return len(log.user_id), simulated - began, time.perf_counter() - simulated


if __name__ == "__main__":
    main()
