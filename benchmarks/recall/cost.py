"""What one training example costs as the catalogue grows: microseconds, and times those of the
smallest catalogue.

Every size trains a tower of its own on a synthetic log of about 100 watches a user, in which the
r-th most watched item has weight r^-skew: the flatter, the more rows a batch names. `with channels`
every item has a channel (20 items each) and a duration; elsewhere items have no side columns. The
towers take turns, a window of steps each, so that all of them meet the machine as it is; figures
are medians over the windows. Batches are made as in training. Run:

    funnel bench recall cost
"""

import argparse
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmarks.shared.logs import synthetic
from benchmarks.shared.options import Options, start
from benchmarks.shared.ours import Ours
from benchmarks.shared.tables import publish
from features.schema import CHANNEL, DURATION_SECONDS, SECOND
from features.side_features import SideFeatures
from recall.config import RecallConfig

Row = dict[str, Any]

ITEMS_A_CHANNEL = 20
CHANNELS = "with channels"
CHOICES = {"defaults": {}, CHANNELS: {}, "dim 32, 255 negatives": {"dim": 32, "negatives": 255}}


def main(arguments: Sequence[str]) -> list[Row]:
    """Measure every choice at every size, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    rows = [row for name in CHOICES for row in _rows(name, options)]
    publish("cost of a training step", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    parser.add_argument(
        "--items", type=int, nargs="+", default=(4_000, 100_000, 1_000_000), help="catalogue sizes"
    )
    parser.add_argument("--watches", type=int, default=2_000_000, help="watches of each log")
    parser.add_argument(
        "--skew", type=float, default=1.0, help="how steeply popularity falls; 1 is Zipf's law"
    )
    parser.add_argument("--warm-up", type=int, default=40, help="steps before the clock starts")
    parser.add_argument(
        "--windows", type=int, default=25, help="windows of each tower; the median is shown"
    )
    parser.add_argument("--steps", type=int, default=10, help="steps of a window")
    return parser.parse_args(arguments)


def _rows(choice: str, options: argparse.Namespace) -> list[Row]:
    towers = [_tower(choice, items, options) for items in options.items]
    for tower in towers:
        _window(tower, options.warm_up)
    windows = [[_window(tower, options.steps) for tower in towers] for _ in range(options.windows)]
    costs = [median(column) for column in zip(*windows, strict=True)]
    # Each turn against the smallest catalogue's in the same round, as the machine was then.
    ratios = [median(window[i] / window[0] for window in windows) for i in range(len(towers))]
    return [
        {"training": f"{items:,} items, {choice}", "items a step": tower.items_a_step()}
        | {"microseconds an example": round(cost, 2), "ratio": round(ratio, 3)}
        for items, tower, cost, ratio in zip(options.items, towers, costs, ratios, strict=True)
    ]


def _tower(choice: str, items: int, options: argparse.Namespace) -> Ours:
    log = synthetic(items, options.watches, options.skew)
    return Ours(
        log, RecallConfig(**CHOICES[choice]), 0, item_side(items) if choice == CHANNELS else None
    )


def _window(tower: Ours, steps: int) -> float:
    """Microseconds an example over so many steps, their batches being made included."""
    began = time.perf_counter()
    examples = tower.train(steps)
    return SECOND * (time.perf_counter() - began) / max(examples, 1)


def item_side(items: int) -> SideFeatures:
    """A channel and a duration for every item; nobody's are unknown."""
    rng = np.random.default_rng(0)
    channels = np.append(0, rng.integers(1, items // ITEMS_A_CHANNEL + 2, items)).astype(np.int32)
    durations = np.append(np.nan, rng.lognormal(4, 1, items))
    return SideFeatures(
        {CHANNEL: channels}, {CHANNEL: int(channels.max()) + 1}, {DURATION_SECONDS: durations}
    )


if __name__ == "__main__":
    start(main)
