"""The pre-rank of a run: a light scorer distilled from the ranker, what its cut costs, and the
cut.
"""

from typing import Any

import numpy as np

from features.arrays import Float64, Int32, Intp
from features.asof_features import Block
from features.random_streams import Stream, rng_of
from funnel.context import StepContext, saved_candidates
from funnel.steps.ordering import COSTS_AT, lists_of, order_of, recommender_at
from ranking.pre_rank import PreRanker, distilled, kept, seconds_lost
from ranking.recommend import Lists
from recall.candidates import Candidates

# Users on whose candidates the ranker teaches, and as many others on whose candidates the cut is
# evaluated.
USERS = 500


def distil(context: StepContext) -> dict[str, Any]:
    """Write the light scorer, and `check_users.npy`, whose candidates did not teach it; what the
    cut costs them.

    `seconds_lost` is the share of the seconds that the ranker expects of its own first k of all
    candidates which its first k of the kept ones lack, `seconds_lost.recall` the same where
    recall's first candidates are kept.
    """
    recommender, candidates = (
        recommender_at(context),
        saved_candidates(context.inputs["candidates"]),
    )
    teachers, checkers = _halves(
        len(candidates.users), rng_of(context.config.seed, Stream.PRE_RANKER)
    )
    taught, checked = (lists_of(context, candidates.take(rows)) for rows in (teachers, checkers))
    pre_ranker = distilled(items_of(context), taught, recommender.expected_seconds(taught))
    pre_ranker.save(context.out)
    np.save(context.out / "check_users.npy", checked.users)
    seconds, top_k, keep = (
        recommender.expected_seconds(checked),
        context.config.ranking.top_k,
        context.config.pre_rank.keep,
    )
    orders = {
        "": pre_ranker.scores(pre_ranker.worth(items_of(context)), checked),
        ".recall": in_order(checked.items),
    }
    ks = sorted({min(COSTS_AT, top_k), top_k})
    lost = {
        f"seconds_lost{name}": seconds_lost(seconds, scores, keep, ks)
        for name, scores in orders.items()
    }
    return {"taught_users": len(teachers), "checked_users": len(checkers)} | lost


def pre_ranked(context: StepContext, candidates: Candidates) -> Lists:
    """What pre-rank leaves of candidates, in the order of final lists but by its own seconds, kept
    as `pre_ranked_items.npy`; all of them where it is off.
    """
    keep, order = context.config.pre_rank.keep, order_of(context)
    lists = lists_of(context, candidates, chance_of=order.chance_of)
    if not keep:
        return lists
    pre_ranker = PreRanker.load(context.inputs["pre_ranker"])
    log_seconds = pre_ranker.scores(pre_ranker.worth(items_of(context)), lists)
    left = kept(lists, order.scores(log_seconds, lists.log_chances), keep)
    np.save(context.out / "pre_ranked_items.npy", left.items)
    return left


def items_of(context: StepContext) -> Block:
    """All items as of test_start."""
    return context.features.item_block(
        np.arange(len(context.ids.items), dtype=np.int32), context.split.test_start
    )


def _halves(users: int, rng: np.random.Generator) -> tuple[Intp, Intp]:
    """Rows of users who teach and of those who check, ascending."""
    order = rng.permutation(users)
    size = min(USERS, users // 2)
    return np.sort(order[:size]), np.sort(order[size:][:USERS])


def in_order(items: Int32) -> Float64:
    """Scores of lists [n, k] that leave them in their own order."""
    return np.where(items > 0, -np.arange(items.shape[1], dtype=np.float64), -np.inf)
