"""Training samples as views into the histories, against a builder that gives every row a history of its own.

The peer works like DeepMatch's example (`gen_data_set` and `gen_model_input`): for every user and position a tuple
with the reversed history, shuffled, then padded to 50 and stacked into arrays. The views are measured as they are and
with every padded history read once, since the peer's lie ready. Each side is a process of its own that
loads the same sorted log; memory is what the process took at its peak above the loaded log. Run:

    funnel bench recall samples --data ml-1m
"""

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from features.errors import Refused
from features.histories import Histories, histories_of, samples_of

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Log = tuple[Int32, Int32, Int64]
Row = dict[str, Any]

HISTORY, BATCH = 50, 1024
VIEWS, BATCHES, PEER = "views", "views, every batch read once", "row by row"
MEGABYTE = 2**20
NAMES = ("users", "items", "instants")


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
    parser.add_argument("--data", type=Path, help="folder of a canonical log; default: a synthetic one like MovieLens")
    parser.add_argument("--rows", type=int, default=20_000_000, help="rows of the large log, which the peer is spared")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side; seconds and memory are medians")
    return parser.parse_args(arguments)


def compared(data: Path | None, runs: int) -> list[Row]:
    """Both sides on one log, the peer last, and how many times as much it takes as ours."""
    log = synthetic(1_000_000) if data is None else canonical(data)
    *ours, peer = sides(log, (VIEWS, BATCHES, PEER), runs)
    ratios = {"peer's seconds, times": "seconds", "peer's memory, times": "above the log, MB"}
    return [row | {name: round(peer[of] / row[of], 1) for name, of in ratios.items()} for row in ours] + [peer]


def large(rows: int, runs: int) -> list[Row]:
    """Our side alone on a synthetic log."""
    return [row | {"builder": f"{VIEWS}, {rows:,} rows"} for row in sides(synthetic(rows), (VIEWS,), runs)]


def sides(log: Log, names: Sequence[str], runs: int) -> list[Row]:
    """Medians of each side's runs on a log that lies in a folder as arrays."""
    with tempfile.TemporaryDirectory() as folder:
        for name, array in zip(NAMES, log, strict=True):
            np.save(Path(folder) / f"{name}.npy", array, allow_pickle=False)
        return [{"builder": name, "rows": len(log[0])} | _medians(name, Path(folder), runs) for name in names]


def _medians(side: str, folder: Path, runs: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.recall.samples", "--side", side, str(folder)]
    root = Path(__file__).parents[2]
    found = [
        json.loads(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)
        for _ in range(runs)
    ]
    return {name: round(median(run[name] for run in found), 3) for name in found[0]}


def measured(side: str, folder: Path) -> dict[str, float]:
    """Seconds of one build in this process, and its memory before it and at the peak, in MB."""
    users, items, instants = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in NAMES)
    random.seed(0)
    before, began = psutil.Process().memory_info().rss, time.perf_counter()
    kept = (
        row_by_row(users, items) if side == PEER else views(users, items, instants, folder / "views", side == BATCHES)
    )
    seconds, peak = time.perf_counter() - began, highest()
    if not len(kept):
        raise Refused(f"{folder}: no sample came of {len(users)} rows.")
    figures = {"before, MB": before, "peak, MB": peak, "above the log, MB": peak - before}
    return {"seconds": seconds} | {name: size / MEGABYTE for name, size in figures.items()}


def highest() -> int:
    """Most memory that this process has had resident so far, in bytes."""
    # Not getrusage, whose figure begins with what the process was forked from.
    status = Path("/proc/self/status")
    if not status.exists():
        raise Refused("memory is read from /proc/self/status, which only Linux has; run this benchmark there.")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024


def views(users: Int32, items: Int32, instants: Int64, folder: Path, read: bool) -> Int64:
    """What the steps `histories` and `samples` do: flat arrays and offsets written and read, one position a sample.

    With `read` every padded history is read once as well, in batches, as an epoch of training does.
    """
    histories_of(users, items, instants, int(users.max()) + 1).save(folder)
    histories = Histories.load(folder)
    ends = samples_of(histories)
    np.save(folder / "ends.npy", ends, allow_pickle=False)
    for at in range(0, len(ends) if read else 0, BATCH):
        histories.bags(histories.users[at : at + BATCH], ends[at : at + BATCH], HISTORY)
    return ends


def row_by_row(users: Int32, items: Int32) -> Int32:
    """The peer: a tuple for every user and position, then arrays of them; returns the padded histories."""
    rows = []
    edges = [0, *(np.flatnonzero(np.diff(users)) + 1).tolist(), len(users)]
    for first, last in pairwise(edges):
        user, watched = int(users[first]), items[first:last].tolist()
        for place in range(1, len(watched)):
            history = watched[:place][::-1]
            rows.append((user, history, watched[place], 1, len(history)))
    random.shuffle(rows)
    columns = [np.array([row[column] for row in rows]) for column in (0, 2, 3, 4)]
    padded = np.zeros((len(columns[0]), HISTORY), np.int32)
    for place, row in enumerate(rows):
        recent = row[1][:HISTORY]
        padded[place, : len(recent)] = recent
    return padded


def canonical(data: Path) -> Log:
    """Users, items and instants of a canonical log, numbered from 1 and sorted by user and time."""
    import pandas as pd

    path = data / "interactions.parquet"
    if not path.exists():
        raise Refused(f"{path}: there is no such file; --data is the folder of a log in canonical form.")
    log = pd.read_parquet(path, columns=["user_id", "item_id", "timestamp"])
    log = log.sort_values(["user_id", "timestamp"], kind="stable")
    users, items = (pd.factorize(log[name])[0].astype(np.int32) + 1 for name in ("user_id", "item_id"))
    return users, items, log["timestamp"].astype("int64").to_numpy()


def synthetic(size: int) -> Log:
    """A log sorted by user and time, 166 watches a user as in MovieLens-1M."""
    rng = np.random.default_rng(0)
    users = np.sort(rng.integers(1, max(size // 166, 2), size, dtype=np.int32))
    return users, rng.integers(1, 50_000, size, dtype=np.int32), np.arange(size, dtype=np.int64)


if __name__ == "__main__":
    from benchmarks.shared.options import start

    start(main)
