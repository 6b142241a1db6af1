"""Samples as views against a builder that copies every history into every row: seconds and peak memory.

Each line is a process of its own. The peer is the usual published builder: for each position of each user, a padded
list of the last 50 items. Run: `funnel bench samples` (20 million interactions; the peer gets 1 million).
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from features.histories import Histories, histories_of, samples_of

HISTORY = 50
BUILDERS = {"views": 1_000_000, "views of 20 million": 20_000_000, "row by row (peer)": 1_000_000}


def main() -> None:
    """Print the table; called with a builder's name, measure that one."""
    if len(sys.argv) > 1:
        measure(sys.argv[1], BUILDERS[sys.argv[1]])
        return
    table = Table("builder", "interactions", "seconds", "peak memory, GB")
    for name, size in BUILDERS.items():
        line = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True).stdout
        table.add_row(name, f"{size:,}", *line.split())
    Console().print(table)


def measure(name: str, size: int) -> None:
    """Build once and print seconds and the process's peak memory in GB."""
    users, items, instants = log(size)
    began = time.perf_counter()
    if name.startswith("views"):
        write_views(users, items, instants)
    else:
        copied_rows(users, items)
    print(f"{time.perf_counter() - began:.1f}", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f}")


def log(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and instants of a log sorted by user and time, 166 watches a user as in MovieLens-1M."""
    rng = np.random.default_rng(0)
    users = np.sort(rng.integers(1, size // 166, size, dtype=np.int32))
    return users, rng.integers(1, 50_000, size, dtype=np.int32), np.arange(size, dtype=np.int64)


def write_views(users: np.ndarray, items: np.ndarray, instants: np.ndarray) -> None:
    """What the steps `histories` and `samples` do: flat arrays, offsets, one position a sample, written and read."""
    with tempfile.TemporaryDirectory() as folder:
        histories_of(users, items, instants, int(users.max()) + 1).save(Path(folder))
        np.save(Path(folder) / "ends.npy", samples_of(Histories.load(Path(folder))))


def copied_rows(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The peer: a padded copy of the history for every row."""
    rows, history, owner = [], [], 0
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        history = history if user == owner else []
        owner = user
        rows.append((user, history[::-1][:HISTORY], item))
        history.append(item)
    padded = np.zeros((len(rows), HISTORY), np.int32)
    for place, (_, watched, _) in enumerate(rows):
        padded[place, : len(watched)] = watched
    return padded


if __name__ == "__main__":
    main()
