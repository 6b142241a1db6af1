"""What clickbait costs a ranking by clicks: true expected seconds of the first ten items, beside a
ranking by seconds.

Worlds with more and more clickbait are simulated (it is clicked much and watched little); the
pipeline is walked once in each, and rankers of both objectives order the same candidates as of the
cut. What a list is worth is what the world says of it: the sum of E[seconds] of its first ten
items, a user. Run:

    funnel bench ranking clickbait
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.shared.options import Options, start
from benchmarks.shared.rankers import (
    Contest,
    Row,
    contest_of,
    folder_of,
    ours,
    ranking_context,
    summary,
)
from benchmarks.shared.tables import publish
from features.arrays import Int32
from features.simulation.simulated_log import load_ground_truth, simulate, write
from features.simulation.world import WorldConfig, expected_seconds
from funnel.context import StepContext, saved_candidates
from funnel.evaluation.simulation_report import best_lists
from funnel.pipeline import Request
from funnel.steps.ordering import lists_of as recalled_lists
from ranking.list_order import ListOrder
from ranking.recommend import Lists, recommender_of

K = 10
WEIGHTED, CLICKS = "exact", "click"


def main(arguments: Sequence[str]) -> list[Row]:
    """Simulate, train and judge every world, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    rows = []
    with folder_of(options) as folder:
        for share in options.shares:
            for row in lines(share, options, folder / f"clickbait_{share:g}"):
                print(row, file=sys.stderr, flush=True)
                rows.append(row)
    publish("expected seconds of the first ten, by clickbait and objective", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    parser.add_argument(
        "--shares", type=float, nargs="+", default=(0.1, 0.3), help="of clickbait among the items"
    )
    parser.add_argument("--users", type=int, default=WorldConfig().users)
    parser.add_argument("--impressions-a-day", type=int, default=WorldConfig().impressions_a_day)
    parser.add_argument("--days", type=int, default=WorldConfig().days)
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="stage.field=value"
    )
    parser.add_argument(
        "--out", type=Path, help="keep worlds and artefacts here, and take what is there already"
    )
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args(arguments)


def lines(share: float, options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """One world: a line an objective, and the best that its unseen items allow."""
    data = world_at(folder / "world", share, options)
    request, context = ranking_context(
        argparse.Namespace(**vars(options) | {"source": "simulated", "data": data}), folder
    )
    contest, lists = contest_of(request, context), lists_of(request, context)
    of = {
        objective: [
            _worth(context, data, lists, contest, objective, n) for n in range(options.seeds)
        ]
        for objective in (CLICKS, WEIGHTED)
    }
    found = {objective: summary(seeds, ("seconds@10",)) for objective, seeds in of.items()}
    found["oracle"] = summary([best_of(context, data, lists.users)])
    for name, row in found.items():
        gain = row["seconds@10"] / found[CLICKS]["seconds@10"] - 1
        yield (
            {"ranked by": f"{name}, clickbait {share:.0%}"}
            | row
            | {"against clicks": round(gain, 4)}
        )


def world_at(folder: Path, share: float, options: argparse.Namespace) -> Path:
    """A world with this share of clickbait, written unless it is there."""
    config = WorldConfig(
        clickbait_share=share,
        users=options.users,
        impressions_a_day=options.impressions_a_day,
        days=options.days,
    )
    if not (folder / "interactions.parquet").exists():
        write(*simulate(config), folder)
    return folder


def lists_of(request: Request, context: StepContext) -> Lists:
    """The pipeline's candidates as of the cut, as its ranker reads them."""
    return recalled_lists(context, saved_candidates(request.store.path("candidates")))


def _worth(
    context: StepContext, data: Path, lists: Lists, contest: Contest, objective: str, seed: int
) -> Row:
    """Seconds a user of the first ten by one ranker, and the share of clickbait among them."""
    ranker = ours(contest, seed, objective=objective)
    recommender = recommender_of(
        ranker, context.features, context.split.test_start, len(context.ids.items)
    )
    return worth_of(
        context,
        data,
        lists.users,
        recommender.recommend(lists, ListOrder(chance_weight=0), K).items,
    )


def worth_of(context: StepContext, data: Path, users: Int32, items: Int32) -> Row:
    """Sum of E[seconds] at the cut of users' items [users, K], a user, and clickbait's share of
    them.
    """
    world = load_ground_truth(data)
    row, column = np.nonzero(items)
    who = context.ids.users.id_of(users[row]).to_numpy()
    what = context.ids.items.id_of(items[row, column]).to_numpy()
    seconds = expected_seconds(world, who, what, context.split.test_start)
    bait = world.items.clickbait[world.item_index(what)]
    return {"seconds@10": float(seconds.sum() / len(users)), "clickbait": float(bait.mean())}


def best_of(context: StepContext, data: Path, users: Int32) -> Row:
    """The same of the best ten unseen items that the pipeline knows."""
    ids = context.ids.users.id_of(users).to_numpy()
    return worth_of(
        context, data, users, best_lists(data, ids, context.ids.items, context.split.test_start, K)
    )


if __name__ == "__main__":
    start(main)
