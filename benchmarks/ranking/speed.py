"""Rows and requests a second of ranking, on one core.

Feature rows: all blocks of impressions of the log, each as of its instant, once with the counts
still to be built and once more. Training rows: of an epoch, its look at the validation rows
included. Requests: 500 random candidates of one user ranked as of the cut, the user's and the
pairs' features and the net included; what recall says of the candidates comes with them, and what
depends on the item alone has been made once for the catalogue. On a machine that does other things
too, processor time says what an idle one would take. Run:

    funnel simulate --out world
    funnel bench ranking speed --source simulated --data world
"""

import argparse
import gc
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.shared.clocks import Clocks, clocks, milliseconds, timed
from benchmarks.shared.options import Options, start
from benchmarks.shared.processes import in_own_process, one_core
from benchmarks.shared.rankers import (
    Row,
    add_log_options,
    folder_of,
    ranking_context,
    switched,
    training_rows,
)
from benchmarks.shared.tables import publish
from funnel.context import StepContext, listed_users
from funnel.steps.ranking_steps import exposures_of
from ranking.config import RankingConfig
from ranking.examples import Exposures, RankingRows, blocks_of
from ranking.list_order import ListOrder
from ranking.model import Ranker
from ranking.recommend import Lists, recommender_of

CANDIDATES, TOP_K, WARM_UP, EPOCHS = 500, 50, 20, 4


def main(arguments: Sequence[str]) -> list[Row]:
    """Measure in a process of its own on one core, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    with one_core():
        rows = in_own_process(measured, options)
    publish(f"speed of ranking on one core, {options.source}", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    add_log_options(parser)
    parser.add_argument(
        "--rows", type=int, default=500_000, help="impressions whose features are made, at most"
    )
    parser.add_argument("--requests", type=int, default=1_000)
    return parser.parse_args(arguments)


def measured(options: argparse.Namespace) -> list[Row]:
    """Every line: what, how many, and rows a second or milliseconds."""
    with folder_of(options) as home:
        request, context = ranking_context(options, home)
        log = context.impressions
        some = np.sort(np.random.default_rng(0).permutation(len(log.users))[: options.rows])
        exposures = exposures_of(context, log.take(some))
        rows = list(feature_lines(context, exposures))
        ranker, line = training_line(training_rows(request), context.unit, request.config.ranking)
        return [*rows, line, *request_lines(context, ranker, exposures, options.requests)]


def feature_lines(context: StepContext, exposures: Exposures) -> Iterator[Row]:
    """All blocks of the exposures, twice."""
    features = context.features
    for counts in ("counts to be built", "counts built"):
        took = timed(lambda: blocks_of(features, exposures))[0]
        yield {"what": f"features, {counts}"} | _pace(len(exposures), took)


def training_line(rows: RankingRows, unit: str, config: RankingConfig) -> tuple[Ranker, Row]:
    """A ranker, and the median epoch but the first, in which things are compiled."""
    from ranking.train import train_ranker
    from ranking.training_state import RankerCallbacks

    laps: list[Clocks] = []
    short = switched(config, epochs=EPOCHS, patience=EPOCHS, refit=False)
    callbacks = RankerCallbacks(lambda _: laps.append(clocks()))
    ranker = train_ranker(rows, unit, short, 0, callbacks).ranker
    took = np.median(np.diff(laps, axis=0), axis=0)
    return ranker, {"what": "training, one epoch"} | _pace(
        round(len(rows) * (1 - config.validation_share)), took
    )


def request_lines(
    context: StepContext, ranker: Ranker, exposures: Exposures, requests: int
) -> Iterator[Row]:
    """The catalogue's part, made once, and single requests of random users: median and p99."""
    catalogue = context.ids.items.size_as_of(context.split.test_start)
    took, recommender = timed(
        lambda: recommender_of(ranker, context.features, context.split.test_start, catalogue)
    )
    yield {"what": "items of the catalogue"} | _pace(catalogue, took)
    rng, users = np.random.default_rng(0), listed_users(context)
    lists = [
        asked(rng, rng.choice(users, 1), catalogue, exposures) for _ in range(WARM_UP + requests)
    ]
    # As a server does: what was made before the first request is no garbage, and is not looked
    # through again and again.
    gc.collect()
    gc.freeze()
    times = [timed(partial(recommender.recommend, one, ListOrder(), TOP_K))[0] for one in lists][
        WARM_UP:
    ]
    what: Row = {
        "what": f"one user's {lists[0].items.shape[1]} candidates ranked",
        "rows": requests,
    }
    yield what | milliseconds(times)


def asked(rng: np.random.Generator, user: Any, catalogue: int, exposures: Exposures) -> Lists:
    """Random candidates of one user, with what recall has said of random exposures."""
    items = rng.permutation(np.arange(1, catalogue, dtype=np.int32))[None, :CANDIDATES]
    recall = {name: rng.choice(values, items.shape) for name, values in exposures.recall.items()}
    return Lists(user, items, recall, np.log(np.full(items.shape, 1 / CANDIDATES)))


def _pace(rows: int, took: Any) -> Row:
    """How many, and how many a second by the wall's clock and by the processor's."""
    return {
        "rows": rows,
        "rows/s": round(rows / took[0]),
        "rows/processor s": round(rows / took[1]),
    }


if __name__ == "__main__":
    start(main)
