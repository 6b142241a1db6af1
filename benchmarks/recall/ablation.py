r"""What each choice of the tower is worth: one switch at a time, three seeds, mean and spread.

Every line trains a tower on what came before the label window with the same number of examples, and
is evaluated on that window's watches over the full catalogue, what was watched before left out; the
test window is not read. Run:

    funnel bench recall ablation --source canonical --data ml-1m \
        --set split.mode=last
    funnel bench recall ablation --source globo --data globo \
        --set split.test_start=2017-10-12T12:00:00Z
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shared.options import Options, start
from benchmarks.shared.tables import publish
from benchmarks.shared.towers import trained, training_job_at, validator_at
from features.arrays import Int64
from recall.train import TrainingJob

Row = dict[str, Any]

KS = (10, 20, 50, 100, 150, 200)
SWITCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "depth 0": {"depth": 0},
    "depth 1": {"depth": 1},
    "depth 2": {"depth": 2},
    "depth 3": {"depth": 3},
    "one window of 50": {"recency_windows": ()},
    "dot product": {"metric": "dot"},
    "word2vec input": {"pretraining": "word2vec"},
    "no dropout": {"dropout": 0.0},
    "negatives uniform": {"sampler": "uniform"},
    "negatives unigram^.75 (word2vec)": {"sampler": "unigram"},
    "negatives in batch": {"sampler": "in_batch"},
    "64 uniform beside the batch": {"negatives": 64},
    "5 shown and not clicked": {"shown_negatives": 5},
    "popular positives damped, .001": {"damping": 1e-3},
    "20 examples a user": {"examples_per_user": 20},
    "no cap a user": {"examples_per_user": 1_000_000},
    "no example age": {"example_age": "none"},
    "example age in hours": {"example_age": "hours"},
    "example age in days": {"example_age": "days"},
}
TIMED = ("no example age", "example age in hours", "example age in days")


def main(arguments: Sequence[str]) -> list[Row]:
    """Train and judge every line, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    with tempfile.TemporaryDirectory() as home:
        rows = _rows(training_job_at(options, Path(home)), options)
    publish(f"ablation of the tower, {options.source}", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    parser.add_argument("--source", default="canonical")
    parser.add_argument("--data", required=True, help="folder of the log")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="stage.field=value"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--examples", type=int, default=1_500_000, help="examples each tower is trained on"
    )
    parser.add_argument("--only", nargs="*", choices=SWITCHES, metavar="LINE", help="default: all")
    return parser.parse_args(arguments)


def _rows(job: TrainingJob, options: argparse.Namespace) -> list[Row]:
    rows, validator = [], validator_at(job)
    for name in options.only or _fitting(job):
        towers = [
            validator.ranks(trained(job, SWITCHES[name], options.examples, seed)[0])
            for seed in range(options.seeds)
        ]
        rows.append({"line": name} | _summary(towers))
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _fitting(job: TrainingJob) -> list[str]:
    """The lines that say something on this log: what it has no columns for is what the default has
    none of either.
    """
    ignored = {
        *(() if job.model_inputs.timed else TIMED),
        *(() if job.shown else ("5 shown and not clicked",)),
    }
    default = job.config.model_dump()
    ignored |= {
        name for name, switch in SWITCHES.items() if switch and switch.items() <= default.items()
    }
    return [name for name in SWITCHES if name not in ignored]


def _summary(towers: Sequence[Int64]) -> Row:
    """Mean over the seeds of HR at each K and NDCG@10, and the spread (standard deviation) of two
    of them.
    """
    hit_rates = {k: [float((ranks <= k).mean()) for ranks in towers] for k in KS}
    ndcg = [float(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean()) for ranks in towers]
    row: Row = {f"HR@{k}": round(float(np.mean(values)), 4) for k, values in hit_rates.items()}
    row |= {"NDCG@10": round(float(np.mean(ndcg)), 4)}
    return row | {
        "spread HR@50": round(float(np.std(hit_rates[50])), 4),
        "spread NDCG@10": round(float(np.std(ndcg)), 4),
    }


if __name__ == "__main__":
    start(main)
