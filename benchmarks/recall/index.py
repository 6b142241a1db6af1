"""Sweep of the item index: overlap with exact, queries a second, memory, seconds to build, by
catalogue size.

Every kind's parameters are raised until it passes; `chosen` is what `auto` would publish. The
queries come 1,000 at a time, the exact index answers the same ones in the same run, speeds are
medians of three. Vectors are a mixture of Gaussians around 1,000 centres, as far apart within a
group as given by `spread`: 0.5 is well grouped, 1.0 has half of its variance inside the groups.
Speeds stand beside two exact indexes: this project's, and that of faiss as it comes, which compares
row by row up to some 2,000 queries. Run: `funnel bench recall index`.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import faiss
import numpy as np

from benchmarks.shared.options import Options, start
from benchmarks.shared.tables import publish
from recall.config import RecallConfig
from recall.index import ItemIndex
from recall.index_tuning import AUTO, EXACT_UP_TO, FEWEST, IndexTuner

DIM, CENTRES, QUERIES, REPEATS = 64, 1000, 2000, 3
SIZES = (10_000, 200_000, 1_000_000)
SHOWN_FROM = 0.97
# faiss 1.15.1's own distance_compute_blas_threshold.
FAISS_THRESHOLD = 128_000


def main(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Sweep every size, print the trials that came near or passed and log them; returns all of
    them.
    """
    options = _parsed(arguments)
    found = rows(options.items, options.spread, options.k)
    publish(
        f"index sweep, {DIM} dimensions",
        [shown(row, options.k) for row in found if near(row)],
        options.tracking,
    )
    return found


def rows(sizes: Sequence[int], spreads: Sequence[float], k: int) -> list[dict[str, Any]]:
    """A row for every trial: of each size and spread first exact, then each kind; `auto` marks what
    it chooses.
    """
    found = []
    for spread in spreads:
        for size in sizes:
            items, queries = world(size, spread)
            found += [{"items": size, "spread": spread, **row} for row in sweep(items, queries, k)]
    return found


def sweep(items: np.ndarray, queries: np.ndarray, k: int) -> list[dict[str, Any]]:
    """The trials of every kind on one catalogue, [n, dim] vectors and [q, dim] queries."""
    config = RecallConfig(k=k)
    tuner = IndexTuner(items, None, queries, config, REPEATS)
    tried = [tuner.raised(kind)[1] for kind in (AUTO if len(tuner.exact) >= FEWEST else ())]
    passing = [trials[-1].kind for trials in tried if trials[-1].chosen]
    published = passing[0] if passing and len(tuner.exact) > EXACT_UP_TO else "exact"
    trials = [
        replace(tuner.exact_trial, chosen=True),
        *(trial for trials in tried for trial in trials),
    ]
    plain = plain_speed(tuner.exact, tuner.choosing, k)
    return [
        asdict(trial)
        | {
            "ratio_to_plain_faiss": trial.queries_per_second / plain,
            "auto": trial.chosen and trial.kind == published,
        }
        for trial in trials
    ]


def plain_speed(exact: ItemIndex, queries: np.ndarray, k: int) -> float:
    """Queries a second of the exact index with faiss's settings as they come."""
    ours, seconds = faiss.cvar.distance_compute_blas_threshold, []
    faiss.cvar.distance_compute_blas_threshold = FAISS_THRESHOLD
    for _ in range(REPEATS):
        began = time.perf_counter()
        exact.search(queries, k)
        seconds.append(time.perf_counter() - began)
    faiss.cvar.distance_compute_blas_threshold = ours
    return len(queries) / median(seconds)


def world(size: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Item vectors [size + 1, dim], row 0 padding, of norms that vary by a quarter; users' vectors
    [q, dim].
    """
    rng = np.random.default_rng(seed)
    centres, share = (
        rng.standard_normal((CENTRES, DIM), np.float32),
        rng.dirichlet(np.full(CENTRES, 0.5)),
    )

    def around(rows: int) -> np.ndarray:
        noise = rng.standard_normal((rows, DIM), np.float32)
        return centres[rng.choice(CENTRES, rows, p=share)] + np.float32(spread) * noise

    lengths = np.exp(0.25 * rng.standard_normal((size + 1, 1), np.float32))
    return around(size + 1) * lengths, around(QUERIES)


def near(row: dict[str, Any]) -> bool:
    """Whether a trial is worth a line: it came near or passed."""
    return bool(row["overlap"] >= SHOWN_FROM)


def shown(row: dict[str, Any], k: int) -> dict[str, Any]:
    """A trial for people: what it is, what it came to, and whether it passes and is what `auto`
    would publish.
    """
    asked = f"{row['items']:,} items, spread {row['spread']:g}, {row['kind']} {row['parameters']}"
    return {
        "index": asked.strip(),
        f"overlap@{k}": row["overlap"],
        "held out": row["overlap_held_out"],
        "queries/s": row["queries_per_second"],
        "x exact": row["ratio_to_exact"],
        "x plain faiss": row["ratio_to_plain_faiss"],
        "MB": row["megabytes"],
        "build s": row["build_seconds"],
        "": "published" if row["auto"] else "passes" if row["chosen"] else "",
    }


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    parser.add_argument(
        "--items", type=int, nargs="+", default=SIZES, help="sizes of the catalogue"
    )
    parser.add_argument(
        "--spread", type=float, nargs="+", default=(0.5, 1.0), help="spread within a group"
    )
    parser.add_argument("--k", type=int, default=200, help="neighbours asked for")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    start(main)
