"""Training samples as views into the histories, against a builder that gives every row a history of
its own.

The peer is DeepMatch's example as `benchmarks.shared.deepmatch_peer` has it: for every user and
position a tuple with the reversed history, shuffled, then padded to 50 and stacked into arrays. The
views are measured as they are and with every padded history read once, since the peer's lie ready.
Each side is a process of its own that loads the same sorted log; memory is what the process took at
its peak above the loaded log. Run:

    funnel bench recall samples --data ml-1m
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks.shared.processes import peak_gigabytes
from features.arrays import Int32, Int64
from features.errors import InputError
from features.histories import Histories, histories_of, samples_of

Log = tuple[Int32, Int32, Int64]
Row = dict[str, Any]

HISTORY, BATCH = 50, 1024
VIEWS, BATCHES, PEER = "views", "views, every batch read once", "row by row"
MEGABYTE, GIGABYTE = 2**20, 1e9
NAMES = ("users", "items", "timestamps_us")


def main(arguments: Sequence[str]) -> list[Row]:
    """Measure every side, print the table and log it; returns its rows."""
    if arguments[:1] == ["--side"]:
        print(json.dumps(measured(arguments[1], Path(arguments[2]))))
        return []
    # Not loaded in the processes that are measured.
    from benchmarks.shared.tables import publish

    options = _parsed(arguments)
    rows = compared(options.data, options.runs) + large(options.rows, options.runs)
    publish("samples", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> Any:
    from benchmarks.shared.options import Options

    parser = Options(__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of a canonical log; default: a synthetic one like MovieLens",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=20_000_000,
        help="rows of the large log, which the peer is spared",
    )
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of each side; seconds and memory are medians"
    )
    return parser.parse_args(arguments)


def compared(data: Path | None, runs: int) -> list[Row]:
    """Both sides on one log, the peer last, and how many times as much it takes as ours."""
    log = synthetic(1_000_000) if data is None else canonical(data)
    *ours, peer = sides(log, (VIEWS, BATCHES, PEER), runs)
    ratios = {"peer's seconds, times": "seconds", "peer's memory, times": "above the log, MB"}
    return [
        row | {name: round(peer[of] / row[of], 1) for name, of in ratios.items()} for row in ours
    ] + [peer]


def large(rows: int, runs: int) -> list[Row]:
    """Our side alone on a synthetic log."""
    return [
        row | {"builder": f"{VIEWS}, {rows:,} rows"}
        for row in sides(synthetic(rows), (VIEWS,), runs)
    ]


def sides(log: Log, names: Sequence[str], runs: int) -> list[Row]:
    """Medians of each side's runs on a log that lies in a folder as arrays."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in zip(NAMES, log, strict=True):
            np.save(Path(folder) / f"{name}.npy", array, allow_pickle=False)
        return [
            {"builder": name, "rows": len(log[0])} | _medians(name, Path(folder), runs)
            for name in names
        ]


def _medians(side: str, folder: Path, runs: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.recall.samples", "--side", side, str(folder)]
    root = Path(__file__).parents[2]
    found = [
        json.loads(
            subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
        )
        for _ in range(runs)
    ]
    return {name: round(median(run[name] for run in found), 3) for name in found[0]}


def measured(side: str, folder: Path) -> dict[str, float]:
    """Seconds of one build in this process, and its memory before it and at the peak, in MB."""
    users, items, timestamps_us = (
        np.load(folder / f"{name}.npy", allow_pickle=False) for name in NAMES
    )
    # Imported before the clock starts and memory is read: what a library takes is not the
    # builder's.
    from benchmarks.shared.deepmatch_peer import examples_of, fed_by, frame_of
    from benchmarks.shared.logs import Log

    before, began = psutil.Process().memory_info().rss / MEGABYTE, time.perf_counter()
    if side == PEER:
        log = Log(users, items, int(items.max()) + 1)
        kept = [
            len(fed_by(part, log, HISTORY)["movie_id"])
            for part in examples_of(frame_of(log), HISTORY)
        ]
    else:
        kept = [len(views(users, items, timestamps_us, folder / "views", side == BATCHES))]
    seconds, peak = time.perf_counter() - began, peak_gigabytes() * GIGABYTE / MEGABYTE
    if not sum(kept):
        raise InputError(f"{folder}: no sample came of {len(users)} rows.")
    return {
        "seconds": seconds,
        "before, MB": before,
        "peak, MB": peak,
        "above the log, MB": peak - before,
    }


def views(users: Int32, items: Int32, timestamps_us: Int64, folder: Path, read: bool) -> Int64:
    """What the steps `histories` and `samples` do: flat arrays and offsets written and read, one
    position a sample.

    With `read` every padded history is read once as well, in batches, as an epoch of training does.
    """
    histories_of(users, items, timestamps_us, int(users.max()) + 1).save(folder)
    histories = Histories.load(folder)
    ends = samples_of(histories)
    np.save(folder / "ends.npy", ends, allow_pickle=False)
    for at in range(0, len(ends) if read else 0, BATCH):
        histories.bags(histories.users[at : at + BATCH], ends[at : at + BATCH], HISTORY)
    return ends


def canonical(data: Path) -> Log:
    """Users, items and instants of a canonical log, numbered from 1 and sorted by user and time."""
    import pandas as pd

    path = data / "interactions.parquet"
    if not path.exists():
        raise InputError(
            f"{path}: there is no such file; --data is the folder of a log in canonical form."
        )
    log = pd.read_parquet(path, columns=["user_id", "item_id", "timestamp"])
    log = log.sort_values(["user_id", "timestamp"], kind="stable")
    users, items = (
        pd.factorize(log[name])[0].astype(np.int32) + 1 for name in ("user_id", "item_id")
    )
    return users, items, log["timestamp"].astype("int64").to_numpy()


def synthetic(size: int) -> Log:
    """A log sorted by user and time, 166 watches a user as in MovieLens-1M."""
    rng = np.random.default_rng(0)
    users = np.sort(rng.integers(1, max(size // 166, 2), size, dtype=np.int32))
    return users, rng.integers(1, 50_000, size, dtype=np.int32), np.arange(size, dtype=np.int64)


if __name__ == "__main__":
    from benchmarks.shared.options import start

    start(main)
