"""DeepMatch's YoutubeDNN and our tower: examples a second, minutes to HR@50 = .50, memory at the
peak.

Both have 32 dimensions, hidden layers of 128 and 64, histories of 50, batches of 1,024 and 255
drawn negatives. Each line is a process of its own, from a log to trained vectors. `same` is our
tower with the peer's choices: one mean of the history, negatives by popularity, no dropout, no cap
a user; `ours` has the project's defaults for what is not named above.

Examples a second are medians over laps of training, the first left out, and over turns: the machine
changes while it measures, so every side has several short turns, one after the other, and `x the
peer` is the median of the turns' own ratios. Both sides run with TensorFlow's default threads. The
peer's laps read arrays that its builder has padded before and shuffle them; ours build bags from
flat histories, draw negatives and shuffle. Minutes are of training alone, compiling included, what
comes before (`seconds to prepare`) and judging left out. HR@50 is of last watches, over the full
catalogue, without what the user had watched before. The peer is trained on all watches but each
user's first and last, ours on the first too.

    funnel bench recall peer --data ml-1m
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.shared.logs import Log, movielens, synthetic
from benchmarks.shared.options import Options, start
from benchmarks.shared.pace import Pace
from benchmarks.shared.processes import in_own_process, peak_gigabytes
from benchmarks.shared.tables import publish
from features.arrays import Float32

Row = dict[str, Any]

AT, TARGET = 50, 0.5
DIM, HISTORY = 32, 50
OURS = {"dim": DIM, "depth": 2, "width": 64, "history": HISTORY}
SAME = {"recency_windows": (), "sampler": "unigram", "dropout": 0.0, "examples_per_user": 1_000_000}
TOWERS: dict[str, dict[str, Any]] = {"ours": OURS, "same": OURS | SAME}
PEER = "DeepMatch"
SHORT_LAPS = 6
Vectors = Callable[[], tuple[Float32, Float32]]
Fit = Callable[[Pace], None]


def main(arguments: Sequence[str]) -> list[Row]:
    """Train every tower on every log, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    rows: list[Row] = []
    if options.data is None or not (options.data / "interactions.parquet").exists():
        print("MovieLens-1M is left out: --data names no folder with its interactions.parquet.")
    else:
        rows += compared("MovieLens-1M", options, evaluated=True)
    rows += compared(f"synthetic, {options.items:,} items", options, evaluated=False)
    publish(f"recall against DeepMatch's YoutubeDNN, seed {options.seed}", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    parser.add_argument("--data", type=Path, help="folder of MovieLens-1M in canonical form")
    parser.add_argument(
        "--towers", nargs="+", choices=TOWERS, default=list(TOWERS), help="which of ours"
    )
    parser.add_argument(
        "--items", type=int, default=1_000_000, help="catalogue of the synthetic log"
    )
    parser.add_argument("--watches", type=int, default=200_000, help="size of the synthetic log")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--negatives", type=int, default=255)
    parser.add_argument(
        "--lap",
        type=int,
        default=50,
        help="steps timed at once; HR is taken after every second lap",
    )
    parser.add_argument(
        "--short-lap",
        type=int,
        default=8,
        help="the same on the synthetic log, of which there are six",
    )
    parser.add_argument(
        "--turns", type=int, default=3, help="turns of each side at examples a second"
    )
    parser.add_argument(
        "--minutes", type=float, default=8, help="training at most, where HR is taken"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def compared(name: str, options: argparse.Namespace, evaluated: bool) -> list[Row]:
    """The lines of one log, ours beside the peer's."""
    towers = (PEER, *options.towers)
    turns = [
        {t: in_own_process(measure, t, options, evaluated, False) for t in towers}
        for _ in range(options.turns)
    ]
    rows = (
        [in_own_process(measure, tower, options, evaluated, True) for tower in towers]
        if evaluated
        else turns[0].values()
    )
    return [{"log": name} | row | _speed(turns, row["tower"]) for row in rows]


def _speed(turns: Sequence[dict[str, Row]], tower: str) -> Row:
    """The medians over the turns of a tower's examples a second, and of its ratio to the peer's of
    the same turn.
    """
    paces = [(turn[tower]["examples/s"], turn[PEER]["examples/s"]) for turn in turns]
    return {
        "examples/s": median(own for own, _ in paces),
        "x the peer": median(own / peer for own, peer in paces),
    }


def measure(tower: str, options: argparse.Namespace, real: bool, evaluated: bool) -> Row:
    """One line: prepare, train on the real log or the synthetic one, evaluated or for a few laps;
    what it took.
    """
    log = movielens(options.data) if real else synthetic(options.items, options.watches, skew=0.0)
    began = time.perf_counter()
    fit, vectors = _peer(log, options) if tower == PEER else _ours(tower, log, options)
    prepared = time.perf_counter() - began
    validator = partial(_evaluated, log, vectors) if evaluated else None
    pace = Pace(
        options.lap if real else options.short_lap, validator=validator, target=TARGET, every=2
    )
    fit(pace.start(minutes=options.minutes) if evaluated else pace.start(laps=SHORT_LAPS))
    return {
        "tower": tower,
        "examples/s": pace.examples_per_second,
        "minutes to .50": _minutes(pace),
        "best HR@50": max(pace.evaluated, default=None),
        "seconds to prepare": prepared,
        "peak GB": peak_gigabytes(),
    }


def _minutes(pace: Pace) -> float | str | None:
    if not pace.evaluated:
        return None
    return pace.trained_minutes if pace.reached else f"not in {pace.trained_minutes:.1f}"


def _peer(log: Log, options: argparse.Namespace) -> tuple[Fit, Vectors]:
    from benchmarks.shared.deepmatch_peer import Peer, examples_of, fed_by, frame_of

    train, test = (
        fed_by(examples, log, HISTORY) for examples in examples_of(frame_of(log), HISTORY)
    )
    peer = Peer(log, train, DIM, options.negatives, options.seed)
    return partial(peer.fit, batch=options.batch), partial(peer.vectors, test)


def _ours(tower: str, log: Log, options: argparse.Namespace) -> tuple[Fit, Vectors]:
    from benchmarks.shared.ours import Ours
    from recall.config import RecallConfig

    config = RecallConfig(batch=options.batch, negatives=options.negatives, **TOWERS[tower])
    ours = Ours(log, config, options.seed)
    return ours.fit, ours.vectors


def _evaluated(log: Log, vectors: Vectors) -> float:
    return hit_rate(log, *vectors())


def hit_rate(log: Log, users: Float32, items: Float32) -> float:
    """Share of users whose last watch is among the first 50 of what they had not watched before.

    User vectors [users with two watches, dim] in the order of the log, item vectors [items, dim];
    nobody is left out.
    """
    counts = np.bincount(log.users, minlength=log.user_count)
    several = np.flatnonzero(counts > 1)
    ends = np.cumsum(counts)[several] - 1
    scores = users @ items.T
    own = scores[np.arange(len(ends)), log.items[ends]]
    scores[:, 0] = -np.inf
    earlier = np.isin(log.users, several) & (log.timestamps_us < log.timestamps_us.max())
    scores[np.searchsorted(several, log.users[earlier]), log.items[earlier]] = -np.inf
    return float(((scores >= own[:, None]).sum(axis=1) <= AT).mean())


if __name__ == "__main__":
    start(main)
