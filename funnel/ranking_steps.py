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
from features.tables import EXPECTED_SECONDS, ITEM, TIMESTAMP, USER
from funnel.epochs import draw_epochs, epoch_text
from funnel.lists import USERS_A_SHARD, Ranked, ranks_of, write_lists
from funnel.work import Impressions, Work, held_out, logs_impressions, saved_candidates, watched
from ranking.audit import refuse_the_future
from ranking.rows import MERGED, Exposures, RankingRows, blocks_of, thinned
from recall.candidates import Candidates
from recall.labelled import LabelledLists
from recall.scores import rolled_columns

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Intp = npt.NDArray[np.intp]
Labelled = tuple[Exposures, npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]


def write_ranking_rows(work: Work) -> None:
    exposures, clicked, seconds, weight = (
        _labelled_impressions(work) if logs_impressions(work) else _labelled_lists(work)
    )
    if clicked.sum() < 2 or clicked.all():
        _refuse_to_rank(work, len(clicked), int(clicked.sum()))
    refuse_the_future(work.ledger, exposures, np.random.default_rng([work.config.seed, 13]))
    positions = exposures.positions if exposures.positions is not None else np.zeros(len(exposures), np.int32)
    rows = RankingRows(blocks_of(work.ledger, exposures), exposures.instants, clicked, seconds, weight, positions)
    rows.save(work.out / "ranking_rows.parquet")
    origin = "impressions" if logs_impressions(work) else "candidates"
    work.write_json(
        "summary.json", {"from": origin, "unit": work.unit, "rows": len(rows), "clicked": int(clicked.sum())}
    )


def write_ranker(work: Work) -> None:
    from ranking.ranker import train

    folder = work.inputs["ranking_rows"]
    unit = json.loads((folder / "summary.json").read_text())["unit"]
    rows = RankingRows.load(folder / "ranking_rows.parquet")
    ranker, epochs = train(
        rows, unit, work.config.ranking, work.config.seed, lambda row: work.tell(epoch_text("ranker", row))
    )
    ranker.save(work.out)
    work.write_json("epochs.json", epochs)
    draw_epochs(work, epochs)


def write_pre_ranker(work: Work) -> None:
    """The light scorer between recall and ranking, and what its cut costs; nothing but that where it is off."""
    from funnel.pre_ranking import distil

    keep = work.config.pre_rank.keep
    work.write_json("pre_ranker.json", {"keep": keep} | (distil(work) if keep else {}))


def write_recommendations(work: Work) -> None:
    """The ordered lists, and every impression of the holdout scored as of its instant."""
    from funnel.ordering import ordered, recommender_at
    from funnel.pre_ranking import pre_ranked

    recommender, candidates = recommender_at(work), saved_candidates(work.inputs["candidates"])
    items, seconds = ordered(work, recommender, pre_ranked(work, candidates))
    np.save(work.out / "items.npy", items)
    write_lists(
        work.out / "recommendations.parquet", work.ids, _ranked(candidates, items, seconds), {"unit": work.unit}
    )
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
    return (
        exposures_of(work, rows),
        rows.clicked,
        watched(work, rows),
        np.ones(len(rows.users)),
    )


def _labelled_lists(work: Work) -> Labelled:
    """Recall's lists as of the towers' instants, positive where clicked until the next one; the others are thinned, or
    replaced by any items."""
    lists, config = LabelledLists.load(work.inputs["candidates"]), work.config.ranking
    row, column = np.nonzero(lists.items)
    items, merged = lists.items[row, column], lists.scores[row, column].astype(np.float64)
    clicked, seconds = _clicked_next(work, lists, row, items)
    rng = np.random.default_rng([work.config.seed, 7])
    if config.hard_negatives:
        kept, weight = thinned(clicked, row, config.negatives_per_user, rng)
        exposures = _listed(work, lists, row[kept], items[kept])
        recall = exposures.recall | {MERGED: merged[kept]}
        return replace(exposures, recall=recall), clicked[kept], seconds[kept], weight
    others, any_items, stands_for = _any_items(work, lists, config.negatives_per_user, rng)
    order = np.argsort(np.append(row[clicked], others), kind="stable")

    def together(positives: npt.NDArray[Any], negatives: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.append(positives, negatives)[order]

    exposures = _listed(work, lists, together(row[clicked], others), together(items[clicked], any_items))
    count, nothing = int(clicked.sum()), np.zeros(len(others))
    weight = together(np.ones(count), stands_for)
    return exposures, together(np.ones(count, bool), nothing > 0), together(seconds[clicked], nothing), weight


def _listed(work: Work, lists: LabelledLists, row: Intp, items: Int32) -> Exposures:
    """Items [n] as if they had been shown to the users of lists row [n], when these were made."""
    return _exposures(work, lists.users[row], items, lists.since[row])


def _any_items(
    work: Work, lists: LabelledLists, most: int, rng: np.random.Generator
) -> tuple[Intp, Int32, npt.NDArray[np.float64]]:
    """Up to `most` random items for each list that its user did not go on to click: list, item, how many it stands for.

    They are of the catalogue as it was when the list was made, uniformly, and stand for all of it.
    """
    row = np.repeat(np.arange(len(lists.users)), most)
    sizes = np.searchsorted(work.ids.items.first_seen, lists.since)[row]
    items = rng.integers(1, np.maximum(sizes, 1), endpoint=True).astype(np.int32)
    left = np.flatnonzero(~_clicked_next(work, lists, row, items)[0])
    return row[left], items[left], sizes[left] / most


def _clicked_next(
    work: Work, lists: LabelledLists, row: Intp, items: Int32
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Whether the users of lists row [n] clicked the items between the lists' instants, and T of the first click."""
    log, clicked, seconds = work.impressions, np.zeros(len(row), bool), np.zeros(len(row))
    for since, until in np.unique(np.stack([lists.since, lists.until], axis=1), axis=0):
        inside = log.take(np.flatnonzero(log.clicked & (log.instants >= since) & (log.instants < until)))
        pairs, first = np.unique(_pairs(inside.users, inside.items), return_index=True)
        rows = np.flatnonzero(lists.since[row] == since)
        wanted = _pairs(lists.users[row[rows]], items[rows])
        place = np.searchsorted(pairs, wanted)
        found = np.append(pairs, -1)[place] == wanted
        clicked[rows] = found
        seconds[rows[found]] = watched(work, inside.take(first))[place[found]]
    return clicked, seconds


def _pairs(users: Int32, items: Int32) -> Int64:
    return (users.astype(np.int64) << 32) | items


def _exposures(work: Work, users: Int32, items: Int32, instants: Int64) -> Exposures:
    recall = rolled_columns(work.towers, work.readings, users, items, instants)
    return Exposures(users, items, instants, recall)


def exposures_of(work: Work, rows: Impressions) -> Exposures:
    """Impressions as exposures, in their own contexts and positions; no list that was merged is known of them."""
    unplaced = _exposures(work, rows.users, rows.items, rows.instants)
    contexts = {name: getattr(rows, name) for name in work.ledger.contexts}
    unmerged = {} if logs_impressions(work) else {MERGED: np.full(len(rows.users), np.nan)}
    return replace(unplaced, recall=unplaced.recall | unmerged, contexts=contexts, positions=rows.positions)


def _ranked(candidates: Candidates, items: Int32, seconds: npt.NDArray[np.float64]) -> Iterator[Ranked]:
    """Recommended items [n, top_k] in shards, with what the channels had said of them."""
    for at in range(0, max(len(items), 1), USERS_A_SHARD):
        rows = slice(at, at + USERS_A_SHARD)
        part = candidates.take(rows)
        yield Ranked(part.users, items[rows], seconds[rows], ranks_of(items[rows], part.items, part.ranks))


def _write_scored(work: Work, ranker: Any) -> None:
    """scored.parquet: every impression of the holdout with its expected seconds, features as of its own instant."""
    log = work.impressions
    rows = log.take(np.flatnonzero(held_out(log, work.windows)))
    blocks = blocks_of(work.ledger, exposures_of(work, rows))
    seconds = ranker.scores(blocks["user"], blocks["item"], blocks["pair"])
    table = _timestamps(work, held_out(log, work.windows))
    table = table.add_column(0, USER, work.ids.users.id_of(rows.users))
    table = table.add_column(1, ITEM, work.ids.items.id_of(rows.items))
    pq.write_table(
        table.append_column(EXPECTED_SECONDS, pa.array(seconds.astype(np.float32))), work.out / "scored.parquet"
    )


def _timestamps(work: Work, rows: npt.NDArray[np.bool_]) -> pa.Table:
    return pq.read_table(work.inputs["impressions"] / "impressions.parquet", columns=[TIMESTAMP]).filter(pa.array(rows))
