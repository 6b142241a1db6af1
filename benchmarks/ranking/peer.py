r"""Our ranker beside LightGBM on the same rows and features, and what counts and means can do.

The pipeline is run once up to its ranking rows. Every model is trained on them (theirs tuned on the
last rows by instant, where ours chooses its epoch), and evaluated on all impressions of the test
window, features as of each one's instant. Figures are means over the seeds, with standard
deviations. A second table says how true the seconds of each are for short and long items. Run:

    funnel bench ranking peer --source kuairand --data kuairand \
        --set split.test_start=2022-04-16T16:00:00Z
    funnel simulate --out world
    funnel bench ranking peer --source simulated --data world --seeds 3
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.shared.lightgbm_peer import OBJECTIVES, chosen, fitted
from benchmarks.shared.options import Options, start
from benchmarks.shared.rankers import (
    Contest,
    Row,
    add_log_options,
    contest_of,
    figures,
    folder_of,
    ours,
    ranking_context,
    scores,
    summary,
)
from benchmarks.shared.tables import publish
from features.arrays import Float64, Intp
from ranking import metrics
from ranking.metrics import by_duration

DURATION = "item_duration_seconds"
DURATION_BUCKETS = 50
# What a column of the second table is called in the rows of both.
SLICE = "ratio/"


def main(arguments: Sequence[str]) -> list[Row]:
    """Train and judge every line, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    rows = []
    with folder_of(options) as home:
        for row in lines(contest_of(*ranking_context(options, home)), options):
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    overall = [
        {name: value for name, value in row.items() if not name.startswith(SLICE)} for row in rows
    ]
    publish(f"rankers on the same rows, {options.source}", overall, options.tracking)
    if sliced := [row for row in map(_ratios, rows) if len(row) > 1]:
        publish(
            f"predicted over true seconds by duration, {options.source}", sliced, options.tracking
        )
    return rows


def _ratios(row: Row) -> Row:
    return {"line": row["line"]} | {
        n.removeprefix(SLICE): v for n, v in row.items() if n.startswith(SLICE)
    }


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    add_log_options(parser)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--objectives",
        nargs="+",
        default=["exact"],
        help="of ours: exact, paper, click, multi_task",
    )
    parser.add_argument(
        "--leaves", type=int, nargs="+", default=(7, 15, 31, 63), help="sizes of a tree to try"
    )
    return parser.parse_args(arguments)


def lines(contest: Contest, options: argparse.Namespace) -> Iterator[Row]:
    """One line a model: ours, LightGBM's, then what needs no training."""
    for objective in options.objectives:
        rankers = (ours(contest, seed, objective=objective) for seed in range(options.seeds))
        seeds = [evaluated(contest, scores(ranker, contest.blocks)) for ranker in rankers]
        yield {"line": f"ours, {objective}"} | summary(seeds)
    for objective in OBJECTIVES:
        choice = chosen(contest.rows, objective, contest.config.validation_share, options.leaves)
        models = (fitted(contest.rows, choice, seed) for seed in range(options.seeds))
        seeds = [evaluated(contest, model.scores(contest.blocks)) for model in models]
        yield {"line": f"LightGBM, {objective}"} | summary(seeds) | {"chosen": choice.described()}
    yield from plain_lines(contest)


def plain_lines(contest: Contest) -> Iterator[Row]:
    """Baselines: how often the item was clicked, its mean seconds, and the mean seconds of its
    duration.
    """
    item = contest.blocks["item"].numbers
    clicks = item["item_shown"] + np.log(item["item_click_rate"])
    yield {"line": "popularity"} | summary([figures(contest.truth, clicks, in_seconds=False)])
    yield {"line": "item's mean"} | summary(
        [evaluated(contest, item["item_seconds_per_impression"])]
    )
    if DURATION in item:
        yield {"line": "duration alone"} | summary([evaluated(contest, duration_means(contest))])


def evaluated(contest: Contest, predicted: Float64) -> Row:
    """The figures of predicted seconds [n], and predicted over true seconds by the items'
    duration.
    """
    row, item = figures(contest.truth, predicted), contest.blocks["item"].numbers
    slices = by_duration(item[DURATION]) if DURATION in item else {}
    seconds = contest.truth.seconds
    ratios = {
        n: metrics.calibration_ratio(seconds[some], predicted[some])
        for n, some in slices.items()
        if some.any()
    }
    return row | {f"{SLICE}{name}": ratio for name, ratio in ratios.items()}


def duration_means(contest: Contest) -> Float64:
    """The mean seconds of the training rows of like duration, [n]: fifty buckets, and one for the
    unknown.
    """
    known = contest.rows.blocks["item"].numbers[DURATION]
    edges = np.unique(np.nanquantile(known, np.linspace(0, 1, DURATION_BUCKETS + 1)[1:-1]))
    bucket = _buckets(known, edges)
    size = len(edges) + 2
    rows, seconds = (
        np.bincount(bucket, minlength=size),
        np.bincount(bucket, contest.rows.seconds, size),
    )
    means: Float64 = seconds / np.maximum(rows, 1)
    return means[_buckets(contest.blocks["item"].numbers[DURATION], edges)]


def _buckets(durations: Float64, edges: Float64) -> Intp:
    return np.where(
        np.isnan(durations), len(edges) + 1, np.searchsorted(edges, durations, side="right")
    )


if __name__ == "__main__":
    start(main)
