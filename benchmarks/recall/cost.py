"""What one training example costs as the catalogue grows: microseconds, and times those of the smallest catalogue.

Every size trains a tower of its own on a synthetic log (20 thousand users, about 100 watches each, popularity like
Zipf's law, indexes in random order). The towers take turns, a window of steps each, so that all of them meet the
machine as it is; figures are medians over the windows. Batches are made as in training. Run:

    funnel bench recall cost
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import median
from typing import Any

import numpy as np

from benchmarks.shared.options import Options, start
from benchmarks.shared.tables import publish
from features.histories import Histories, histories_of, samples_of
from features.profiles import Side
from recall.config import RecallConfig
from recall.examples import Examples
from recall.inputs import Readings
from recall.tower import Batch, TowerTrainer, new_tower
from recall.vectors import ItemFacts, TowerShape

Row = dict[str, Any]
Turn = tuple[TowerTrainer, Iterator[Batch]]

WATCHES_A_USER = 100
SECOND = 1_000_000
CHOICES = {"defaults": RecallConfig(), "dim 32, 255 negatives": RecallConfig(dim=32, negatives=255)}


def main(arguments: Sequence[str]) -> list[Row]:
    """Measure every choice at every size, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    rows = [row for name, config in CHOICES.items() for row in _rows(name, config, options)]
    publish("cost of a training step", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=(4_000, 100_000, 1_000_000), help="catalogue sizes")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--warm-up", type=int, default=40, help="steps before the clock starts")
    parser.add_argument("--windows", type=int, default=25, help="windows of each tower; the median is shown")
    parser.add_argument("--steps", type=int, default=10, help="steps of a window")
    return parser.parse_args(arguments)


def _rows(choice: str, config: RecallConfig, options: argparse.Namespace) -> list[Row]:
    turns = [_turn(items, options.users, config) for items in options.items]
    for turn in turns:
        _window(turn, options.warm_up)
    windows = [[_window(turn, options.steps) for turn in turns] for _ in range(options.windows)]
    costs = [median(column) for column in zip(*windows, strict=True)]
    # Each turn against the smallest catalogue's in the same round, as the machine was then.
    ratios = [median(window[i] / window[0] for window in windows) for i in range(len(turns))]
    return [
        {"training": f"{items:,} items, {choice}", "microseconds an example": round(cost, 2), "ratio": round(ratio, 3)}
        for items, cost, ratio in zip(options.items, costs, ratios, strict=True)
    ]


def _window(turn: Turn, steps: int) -> float:
    """Microseconds an example over so many steps, their batches being made included."""
    trainer, batches = turn
    began = time.perf_counter()
    _, examples = trainer.fit(islice(batches, steps))
    return SECOND * (time.perf_counter() - began) / max(examples, 1)


def _turn(items: int, users: int, config: RecallConfig) -> Turn:
    """A new tower with its trainer, and its batches without end."""
    log = synthetic(users, items, np.random.default_rng(0))
    shape = TowerShape(
        as_of=len(log.items),
        items=items + 1,
        dim=config.dim,
        hidden=config.hidden,
        recency_windows=config.recency_windows,
        metric=config.metric,
        temperature=config.temperature,
        example_age=True,
    )
    readings = Readings(log, None, Side({}, {}, {}))
    examples = Examples(readings, samples_of(log), None, shape, config, since=0, start=0)
    tower = new_tower(shape, ItemFacts.plain(items + 1), np.random.default_rng(0))
    return TowerTrainer(tower, config, 0), _endless(examples, np.random.default_rng(0))


def _endless(examples: Examples, rng: np.random.Generator) -> Iterator[Batch]:
    while True:
        yield from examples.batches(rng)


def synthetic(users: int, items: int, rng: np.random.Generator) -> Histories:
    """Histories of a Poisson number of watches each, the instants being their flat positions."""
    owners = np.repeat(np.arange(1, users + 1, dtype=np.int32), rng.poisson(WATCHES_A_USER, users))
    cumulative = np.cumsum(1 / np.arange(1, items + 1))
    places = np.searchsorted(cumulative, rng.random(len(owners)) * cumulative[-1])
    watched = rng.permutation(np.arange(1, items + 1, dtype=np.int32))[np.minimum(places, items - 1)]
    return histories_of(owners, watched, np.arange(len(owners)), users + 1)


if __name__ == "__main__":
    start(main)
