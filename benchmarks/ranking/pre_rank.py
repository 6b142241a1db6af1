"""What pre-rank saves and what it loses: requests of thousands of candidates, with and without the
cut, on one core.

Each request is a user's own candidates as recall named them, `recall.k` of them: all ranked;
`pre_rank.keep`, half and twice as many left by the light scorer, then ranked; as many of recall's
first, then ranked. Milliseconds are of a request, scoring, cut and ranking together; what recall
says of the candidates comes with them, and what depends on the item alone has been made once.
`lost@10` is the share of the seconds expected of the ranker's first ten of all candidates that its
first ten of the kept ones lack, for users whose candidates did not teach the light scorer. Run:

    funnel simulate --out world
    funnel bench ranking pre_rank --source simulated --data world
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.shared.clocks import milliseconds, timed
from benchmarks.shared.options import Options, start
from benchmarks.shared.processes import in_own_process, one_core
from benchmarks.shared.rankers import Row, add_log_options, folder_of, ranking_context
from benchmarks.shared.tables import publish
from features.arrays import Float64
from features.errors import InputError
from funnel.context import StepContext, saved_candidates
from funnel.pipeline import Request
from funnel.steps.ordering import COSTS_AT, lists_of, recommender_at
from funnel.steps.pre_ranking import in_order, items_of
from ranking.list_order import ListOrder
from ranking.pre_rank import PreRanker, kept, seconds_lost
from ranking.recommend import Lists, Recommender

Scorer = Callable[[Lists], Float64]

SIZES = ("recall.k=2000", "pre_rank.keep=200")
WARM_UP = 20
# What the cut loses is told in seconds, so the kept are ordered by them.
BY_SECONDS = ListOrder(chance_weight=0)


def main(arguments: Sequence[str]) -> list[Row]:
    """Measure in a process of its own on one core, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    with one_core():
        rows = in_own_process(measured, options)
    publish(f"pre-rank on one core, {options.source}", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    add_log_options(parser)
    parser.add_argument("--requests", type=int, default=500)
    options = parser.parse_args(arguments)
    options.overrides = [*SIZES, *options.overrides]
    return options


def measured(options: argparse.Namespace) -> list[Row]:
    """Every line: who cut, how many were left, milliseconds of a request, the seconds lost."""
    with folder_of(options) as home:
        request, context = ranking_context(options, home, "pre_ranker")
        if not request.config.pre_rank.keep:
            raise InputError(
                "pre_rank.keep = 0 leaves nothing to compare; give it candidates to keep."
            )
        return list(lines(bench_of(request, context), options.requests))


@dataclass(frozen=True)
class Bench:
    """A ranker and a light scorer, and the lists of users on whom neither of them was fitted to the
    other.
    """

    recommender: Recommender
    light: Scorer
    lists: Lists
    keep: int
    top_k: int


def bench_of(request: Request, context: StepContext) -> Bench:
    folder, candidates = (
        request.store.path("pre_ranker"),
        saved_candidates(context.inputs["candidates"]),
    )
    pre_ranker = PreRanker.load(folder)
    worth = pre_ranker.worth(items_of(context))
    rows = np.searchsorted(candidates.users, np.load(folder / "check_users.npy"))
    lists, config = lists_of(context, candidates.take(rows)), request.config
    return Bench(
        recommender_at(context),
        lambda some: pre_ranker.scores(worth, some),
        lists,
        config.pre_rank.keep,
        config.ranking.top_k,
    )


def lines(bench: Bench, requests: int) -> Iterator[Row]:
    """All candidates, then each cut, request by request in turn, so that what disturbs one disturbs
    all.
    """
    width = bench.lists.items.shape[1]
    cuts: dict[str, tuple[Scorer, int]] = {"none": (_in_order, width)}
    keeps = sorted(
        {min(max(n, bench.top_k), width) for n in (bench.keep // 2, bench.keep, 2 * bench.keep)}
    )
    cuts |= {f"pre-rank, {keep} left": (bench.light, keep) for keep in keeps}
    cuts |= {f"recall's first {bench.keep}": (_in_order, bench.keep)}
    times = _times(bench, cuts, requests)
    seconds = bench.recommender.expected_seconds(bench.lists)
    for name, (scorer, keep) in cuts.items():
        lost = seconds_lost(
            seconds, scorer(bench.lists), keep, sorted({min(COSTS_AT, bench.top_k), bench.top_k})
        )
        row: Row = {"cut": name, "candidates": width, "left": keep} | milliseconds(times[name])
        yield row | {f"lost@{k}": round(share, 4) for k, share in lost.items()}


def _times(
    bench: Bench, cuts: dict[str, tuple[Scorer, int]], requests: int
) -> dict[str, list[Any]]:
    """Seconds of every request under each cut, after some to warm up, [requests, 2]."""
    rng = np.random.default_rng(0)
    times: dict[str, list[Any]] = {name: [] for name in cuts}
    for row in rng.integers(0, len(bench.lists.users), WARM_UP + requests).tolist():
        one = bench.lists.take(slice(row, row + 1))
        for name, (scorer, keep) in cuts.items():
            times[name].append(timed(partial(_answer, bench, one, scorer, keep))[0])
    return {name: of[WARM_UP:] for name, of in times.items()}


def _answer(bench: Bench, one: Lists, scorer: Scorer, keep: int) -> Any:
    left = kept(one, scorer(one), keep) if keep < one.items.shape[1] else one
    return bench.recommender.recommend(left, BY_SECONDS, bench.top_k)


def _in_order(lists: Lists) -> Float64:
    return in_order(lists.items)


if __name__ == "__main__":
    start(main)
