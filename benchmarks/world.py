"""Seconds to simulate a million impressions, and what they are written in. Run: `funnel bench
world`.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.shared.options import Options, start
from benchmarks.shared.tables import publish
from features.simulation.simulated_log import simulate, write
from features.simulation.world import WorldConfig

RUNS = 3


def main(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Print the median of three runs of the default world, and of one of about a million
    impressions.
    """
    options = _parsed(arguments)
    worlds = {
        "default": WorldConfig(),
        "larger": WorldConfig(impressions_a_day=options.impressions_a_day),
    }
    rows = [{"world": name} | measured(config) for name, config in worlds.items()]
    publish("world", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> Any:
    parser = Options(__doc__)
    parser.add_argument("--impressions-a-day", type=int, default=72_000, help="of the larger world")
    return parser.parse_args(arguments)


def measured(config: WorldConfig) -> dict[str, float]:
    """Impressions, and medians of the seconds to simulate and to write them."""
    runs = [timed(config) for _ in range(RUNS)]
    columns = ("impressions", "seconds to simulate", "seconds to write")
    return {column: round(median(run[i] for run in runs), 2) for i, column in enumerate(columns)}


def timed(config: WorldConfig) -> tuple[int, float, float]:
    """Impressions, seconds to simulate them, seconds to write them."""
    began = time.perf_counter()
    world, log = simulate(config)
    simulated = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write(world, log, Path(folder))
        return len(log.user_id), simulated - began, time.perf_counter() - simulated


if __name__ == "__main__":
    start(main)
