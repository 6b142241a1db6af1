"""What each step of ranking reads, calls and writes: files in, one call into a package, files
out.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import InputError
from features.impressions import Impressions
from features.random_streams import Stream, rng_of
from features.schema import CHANCE, EXPECTED_SECONDS, ITEM, TIMESTAMP, USER
from funnel.context import (
    VALIDATION,
    StepContext,
    in_test,
    logs_impressions,
    saved_candidates,
    watched,
)
from funnel.epochs import draw_epochs
from funnel.evaluation.plots import draw_choice
from funnel.lists import USERS_A_SHARD, Ranked, ranks_of, write_lists
from funnel.steps.list_validation import FLAGS, choice_text, choose_order, validation_rows
from funnel.steps.listed_rows import rows_of_lists
from funnel.steps.ordering import CHOICE, order_of, re_ranked_lists, recommender_at, taking_part
from ranking.examples import MERGED, Exposures, RankingRows, blocks_of
from ranking.leakage_check import check_leakage
from ranking.recommend import Ordered
from recall.candidates import Candidates
from recall.tower_scores import rolled_columns


def write_ranking_rows(context: StepContext) -> None:
    if logs_impressions(context):
        ended_us = context.features.log.events.ended_us
        past = context.impressions.ended_by(context.split.test_start, ended_us)
        exposures, requests_us = exposures_of(context, past), past.requests_us
        clicked, seconds = past.clicked, watched(context, past)
        weight = np.ones(len(exposures))
    else:
        exposures, clicked, seconds, weight = rows_of_lists(context)
        requests_us = exposures.timestamps_us
    if clicked.sum() < 2 or clicked.all():
        _refuse_to_rank(context, len(clicked), int(clicked.sum()))
    rng = rng_of(context.config.seed, Stream.LEAKAGE_CHECK)
    check_leakage(context.features, exposures, requests_us, rng)
    rows = RankingRows.of(context.features, exposures, clicked, seconds, weight)
    rows.save(context.out / "ranking_rows.parquet")
    flags, validates = validation_rows(context, exposures.users, exposures.timestamps_us, clicked)
    np.save(context.out / FLAGS, flags)
    origin = "impressions" if logs_impressions(context) else "candidates"
    summary = {
        "from": origin,
        "unit": context.unit,
        "rows": len(rows),
        "clicked": int(clicked.sum()),
    }
    context.write_json("summary.json", summary | {"validates": validates})


def write_ranker(context: StepContext) -> None:
    from ranking.train import train_ranker
    from ranking.training_state import RankerCallbacks

    folder = context.inputs["ranking_rows"]
    unit = json.loads((folder / "summary.json").read_text())["unit"]
    rows = RankingRows.load(folder / "ranking_rows.parquet")
    flags = np.load(folder / FLAGS)
    trained = train_ranker(
        rows,
        unit,
        context.config.ranking,
        context.config.seed,
        RankerCallbacks(context.on_epoch, context.scratch),
        flags if flags.any() else None,
    )
    trained.ranker.save(context.out)
    (context.out / VALIDATION).mkdir()
    trained.validation.save(context.out / VALIDATION)
    context.write_json("epochs.json", trained.epochs)
    draw_epochs(context, trained.epochs)


def write_list_order(context: StepContext) -> None:
    """How final lists are ordered, chosen on the validation window's lists."""
    choice = choose_order(context)
    context.write_json(CHOICE, choice)
    context.tell(choice_text(choice))
    draw_choice(choice, context.out / "list_order.png")


def write_pre_ranker(context: StepContext) -> None:
    """The light scorer between recall and ranking, and what its cut costs; nothing but that where
    it is off.
    """
    from funnel.steps.pre_ranking import distil

    keep = context.config.pre_rank.keep
    context.write_json("pre_ranker.json", {"keep": keep} | (distil(context) if keep else {}))


def write_recommendations(context: StepContext) -> None:
    """The ordered lists, and every impression of the test window scored as of its request."""
    from funnel.steps.pre_ranking import pre_ranked

    order, saved = order_of(context), saved_candidates(context.inputs["candidates"])
    recommender, candidates = recommender_at(context), taking_part(saved, order)
    lists = re_ranked_lists(context, recommender, pre_ranked(context, candidates))
    np.save(context.out / "items.npy", lists.items)
    write_lists(
        context.out / "recommendations.parquet",
        context.ids,
        _ranked(candidates, lists),
        {"unit": context.unit},
    )
    _write_scored(context, recommender.ranker)


def write_report(context: StepContext) -> None:
    from funnel.evaluation.report import draw, report_of

    report = report_of(context)
    context.write_json("report.json", report)
    draw(context, report)


def _refuse_to_rank(context: StepContext, rows: int, clicked: int) -> None:
    origin = (
        "impressions before test_start"
        if logs_impressions(context)
        else "recall's lists as of its towers' instants"
    )
    raise InputError(
        f"The ranker has {rows} rows from {origin}, {clicked} of them watched; it needs at least "
        "two watched and one "
        f"not. The split is {context.split.described()}: choose others, or give it more of the log."
    )


def exposures_of(context: StepContext, rows: Impressions) -> Exposures:
    """Impressions as exposures as of their requests, in their own contexts and positions; no list
    that was merged is known of them.
    """
    recall = rolled_columns(
        context.towers, context.user_inputs, rows.users, rows.items, rows.requests_us
    )
    unmerged = {} if logs_impressions(context) else {MERGED: np.full(len(rows.users), np.nan)}
    return Exposures.of(rows, context.features, recall | unmerged)


def _ranked(candidates: Candidates, lists: Ordered) -> Iterator[Ranked]:
    """Final lists [n, top_k] in shards, with what the generators had said of their items."""
    for at in range(0, max(len(lists.items), 1), USERS_A_SHARD):
        rows = slice(at, at + USERS_A_SHARD)
        part, of_part = candidates.take(rows), lists.take(rows)
        numbers = {EXPECTED_SECONDS: of_part.seconds, CHANCE: of_part.chances}
        ranks = ranks_of(of_part.items, part.items, part.ranks)
        yield Ranked(part.users, of_part.items, of_part.scores, ranks, numbers)


def _write_scored(context: StepContext, ranker: Any) -> None:
    """scored.parquet: every impression of the test window with its expected seconds, features as of
    its request.
    """
    log = context.impressions
    inside = in_test(log, context.split)
    rows = log.take(np.flatnonzero(inside))
    blocks = blocks_of(context.features, exposures_of(context, rows))
    seconds = ranker.scores(blocks["user"], blocks["item"], blocks["pair"])
    path = context.inputs["impressions"] / "impressions.parquet"
    table = pq.read_table(path, columns=[TIMESTAMP]).filter(pa.array(inside))
    table = table.add_column(0, USER, context.ids.users.id_of(rows.users))
    table = table.add_column(1, ITEM, context.ids.items.id_of(rows.items))
    pq.write_table(
        table.append_column(EXPECTED_SECONDS, pa.array(seconds.astype(np.float32))),
        context.out / "scored.parquet",
    )
