"""What each step of ranking reads, calls and writes: files in, one call into a package, files out."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import Refused
from features.tables import CHANCE, EXPECTED_SECONDS, ITEM, TIMESTAMP, USER
from funnel.epochs import draw_epochs
from funnel.list_validation import FLAGS, choice_text, choose_order, validation_rows
from funnel.listed_rows import Labelled, exposures_at, rows_of_lists
from funnel.lists import USERS_A_SHARD, Ranked, ranks_of, write_lists
from funnel.ordering import CHOICE, order_of, re_ranked_lists, recommender_at, taking_part
from funnel.plots import draw_choice
from funnel.work import VALIDATION, Impressions, Work, held_out, logs_impressions, saved_candidates, watched
from ranking.examples import MERGED, Exposures, RankingRows, blocks_of
from ranking.leakage_check import check_leakage
from ranking.recommend import Ordered
from recall.candidates import Candidates

Int32 = npt.NDArray[np.int32]


def write_ranking_rows(work: Work) -> None:
    exposures, clicked, seconds, weight = _labelled_impressions(work) if logs_impressions(work) else rows_of_lists(work)
    if clicked.sum() < 2 or clicked.all():
        _refuse_to_rank(work, len(clicked), int(clicked.sum()))
    check_leakage(work.features, exposures, np.random.default_rng([work.config.seed, 13]))
    positions = exposures.positions if exposures.positions is not None else np.zeros(len(exposures), np.int32)
    rows = RankingRows(blocks_of(work.features, exposures), exposures.instants, clicked, seconds, weight, positions)
    rows.save(work.out / "ranking_rows.parquet")
    flags, validates = validation_rows(work, exposures.users, exposures.instants, clicked)
    np.save(work.out / FLAGS, flags)
    origin = "impressions" if logs_impressions(work) else "candidates"
    summary = {"from": origin, "unit": work.unit, "rows": len(rows), "clicked": int(clicked.sum())}
    work.write_json("summary.json", summary | {"validates": validates})


def write_ranker(work: Work) -> None:
    from ranking.train import train_ranker

    folder = work.inputs["ranking_rows"]
    unit = json.loads((folder / "summary.json").read_text())["unit"]
    rows = RankingRows.load(folder / "ranking_rows.parquet")
    flags = np.load(folder / FLAGS)
    trained = train_ranker(
        rows,
        unit,
        work.config.ranking,
        work.config.seed,
        work.on_epoch,
        flags if flags.any() else None,
    )
    trained.ranker.save(work.out)
    (work.out / VALIDATION).mkdir()
    trained.validation.save(work.out / VALIDATION)
    work.write_json("epochs.json", trained.epochs)
    draw_epochs(work, trained.epochs)


def write_list_order(work: Work) -> None:
    """How final lists are ordered, chosen on the validation window's lists."""
    choice = choose_order(work)
    work.write_json(CHOICE, choice)
    work.tell(choice_text(choice))
    draw_choice(choice, work.out / "list_order.png")


def write_pre_ranker(work: Work) -> None:
    """The light scorer between recall and ranking, and what its cut costs; nothing but that where it is off."""
    from funnel.pre_ranking import distil

    keep = work.config.pre_rank.keep
    work.write_json("pre_ranker.json", {"keep": keep} | (distil(work) if keep else {}))


def write_recommendations(work: Work) -> None:
    """The ordered lists, and every impression of the holdout scored as of its instant."""
    from funnel.pre_ranking import pre_ranked

    order, saved = order_of(work), saved_candidates(work.inputs["candidates"])
    recommender, candidates = recommender_at(work), taking_part(saved, order)
    lists = re_ranked_lists(work, recommender, pre_ranked(work, candidates))
    np.save(work.out / "items.npy", lists.items)
    write_lists(work.out / "recommendations.parquet", work.ids, _ranked(candidates, lists), {"unit": work.unit})
    _write_scored(work, recommender.ranker)


def write_report(work: Work) -> None:
    from funnel.report import draw, report_of

    report = report_of(work)
    work.write_json("report.json", report)
    draw(work, report)


def _refuse_to_rank(work: Work, rows: int, clicked: int) -> None:
    origin = "impressions before labels_end" if logs_impressions(work) else "recall's lists as of its towers' instants"
    raise Refused(
        f"The ranker has {rows} rows from {origin}, {clicked} of them watched; it needs at least two watched and one "
        f"not. The windows are {work.windows.described()}: choose others, or give it more of the log."
    )


def _labelled_impressions(work: Work) -> Labelled:
    """Every impression before labels_end, with T."""
    log = work.impressions
    rows = log.take(np.flatnonzero(log.instants < work.windows.labels_end))
    return exposures_of(work, rows), rows.clicked, watched(work, rows), np.ones(len(rows.users))


def exposures_of(work: Work, rows: Impressions) -> Exposures:
    """Impressions as exposures, in their own contexts and positions; no list that was merged is known of them."""
    unplaced = exposures_at(work, rows.users, rows.items, rows.instants)
    contexts = {name: getattr(rows, name) for name in work.features.log.contexts}
    unmerged = {} if logs_impressions(work) else {MERGED: np.full(len(rows.users), np.nan)}
    return replace(unplaced, recall=unplaced.recall | unmerged, contexts=contexts, positions=rows.positions)


def _ranked(candidates: Candidates, lists: Ordered) -> Iterator[Ranked]:
    """Final lists [n, top_k] in shards, with what the generators had said of their items."""
    for at in range(0, max(len(lists.items), 1), USERS_A_SHARD):
        rows = slice(at, at + USERS_A_SHARD)
        part, of_part = candidates.take(rows), lists.take(rows)
        numbers = {EXPECTED_SECONDS: of_part.seconds, CHANCE: of_part.chances}
        ranks = ranks_of(of_part.items, part.items, part.ranks)
        yield Ranked(part.users, of_part.items, of_part.scores, ranks, numbers)


def _write_scored(work: Work, ranker: Any) -> None:
    """scored.parquet: every impression of the holdout with its expected seconds, features as of its own instant."""
    log = work.impressions
    rows = log.take(np.flatnonzero(held_out(log, work.windows)))
    blocks = blocks_of(work.features, exposures_of(work, rows))
    seconds = ranker.scores(blocks["user"], blocks["item"], blocks["pair"])
    table = _timestamps(work, held_out(log, work.windows))
    table = table.add_column(0, USER, work.ids.users.id_of(rows.users))
    table = table.add_column(1, ITEM, work.ids.items.id_of(rows.items))
    pq.write_table(
        table.append_column(EXPECTED_SECONDS, pa.array(seconds.astype(np.float32))), work.out / "scored.parquet"
    )


def _timestamps(work: Work, rows: npt.NDArray[np.bool_]) -> pa.Table:
    return pq.read_table(work.inputs["impressions"] / "impressions.parquet", columns=[TIMESTAMP]).filter(pa.array(rows))
