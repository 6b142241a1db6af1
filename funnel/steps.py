"""What each step of the line reads, calls and writes: files in, one call into a package, files out."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features import ingest as ingestion
from features.errors import Refused
from features.histories import Histories, histories_of, samples_of
from features.profiles import Events, Side, category_values, profiles, side_of, tally_of
from features.tables import EXPECTED_SECONDS, ITEM, PUBLISHED_AT, TIMESTAMP, USER, Table, table_at
from features.tokens import token_histories
from features.vocabulary import catalogue_of, impressions_of, vocabulary_of
from features.windows import instant_column, instants, windows_of
from funnel.lists import USERS_A_SHARD, ArrayFile, Ranked, ranks_of, write_lists
from funnel.plots import data_profile, index_sweep, loss_curves
from funnel.store import MEASURED
from funnel.work import Impressions, Work, held_out, listed_users, logs_impressions, saved_candidates, watched
from ranking.audit import refuse_the_future
from ranking.rows import Exposures, RankingRows, blocks_of, thinned
from recall.candidates import Candidates
from recall.channels import Channels, Log, channels_as_of, switched_off
from recall.config import RecallConfig
from recall.learning import Learned, Merge, learn, merged_shards
from recall.scores import rolled_columns
from recall.vectors import Tower

if TYPE_CHECKING:
    from recall.training import Course

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Labelled = tuple[Exposures, npt.NDArray[np.bool_], npt.NDArray[np.float64], npt.NDArray[np.float64]]

# Users whose vectors the index is tried with: half choose its parameters, half must agree.
INDEX_QUERIES = 2000


def write_interactions(work: Work) -> None:
    summary = ingestion.ingest(work.source, work.data, work.out, work.config.cleaning, datetime.now(UTC))
    work.write_json("summary.json", summary)


def write_windows(work: Work) -> None:
    log = _table(work, "interactions", "interactions")
    windows_of(log, work.config.windows, work.config.features.clock).save(work.out)


def write_vocabulary(work: Work) -> None:
    log, windows = _log_with_instants(work), work.windows
    vocabulary_of(log, USER).save(work.out / "users.parquet")
    published = _published(work, log.get_backend()) if windows.clock == "time" else None
    items = (
        vocabulary_of(log, ITEM)
        if published is None
        else catalogue_of(log, published, windows.start, windows.holdout_end)
    )
    items.save(work.out / "items.parquet")


def write_impressions(work: Work) -> None:
    log = _log_with_instants(work)
    users, items = (_table(work, "vocabulary", side, log.get_backend()) for side in ("users", "items"))
    log.get_backend().to_parquet(impressions_of(log, users, items), work.out / "impressions.parquet")
    _draw_log(work)


def write_histories(work: Work) -> None:
    """Completed watches (what towers read and predict), clicks (what is seen), what was ignored, search tokens."""
    log, users = work.impressions, len(work.ids.users)
    for name, rows in (("watches", log.completed), ("clicks", log.clicked)):
        kept = log.take(rows)
        histories_of(kept.users, kept.items, kept.instants, users).save(work.out / name)
    if logs_impressions(work):
        ignored = log.take(~log.clicked)
        histories_of(ignored.users, ignored.items, ignored.instants, users).save(work.out / "ignored")
    searches = work.inputs["interactions"] / "searches.parquet"
    if searches.exists() and work.windows.clock == "time":
        tokens, histories = token_histories(table_at(searches), work.ids.users)
        tokens.save(work.out / "tokens.parquet")
        histories.save(work.out / "searches")


def write_samples(work: Work) -> None:
    watches = Histories.load(work.inputs["histories"] / "watches")
    np.save(work.out / "ends.npy", samples_of(watches))


def write_profiles(work: Work) -> None:
    log, ids = work.impressions, work.ids
    seconds = np.where(log.clicked, log.seconds, 0.0)
    events = Events(log.users, log.items, log.instants, log.clicked, seconds)
    users, items = _optional_table(work, "users"), _optional_table(work, "items")
    sides = {
        "users": (side_of(users, USER, ids.users), log.users, ids.users),
        "items": (side_of(items, ITEM, ids.items, category_values(users, USER, ids.users)), log.items, ids.items),
    }
    for name, (side, keys, vocabulary) in sides.items():
        frame = profiles(side, tally_of(keys, events), len(vocabulary), work.windows.labels_end)
        frame.to_parquet(work.out / f"{name}.parquet", index=False)


def course_of(work: Work) -> "Course":
    """What the towers of a run are trained on."""
    from recall.checkpoints import Checkpoints
    from recall.training import Course

    ignored, warm_start = work.inputs["histories"] / "ignored", work.config.recall.warm_start
    return Course(
        knowledge=work.knowledge,
        ends=np.load(work.inputs["samples"] / "ends.npy"),
        windows=work.windows,
        config=work.config.recall,
        seed=work.config.seed,
        shown=Histories.load(ignored) if ignored.exists() else None,
        previous=earlier_towers(Path(warm_start)) if warm_start else (),
        checkpoints=Checkpoints(work.scratch),
        on_epoch=lambda row: work.tell(_epoch_text("tower", row)),
    )


def write_towers(work: Work) -> None:
    from recall.training import roll

    _refuse_long_lists(work)
    towers, epochs = roll(course_of(work))
    for number, tower in enumerate(towers):
        tower.save(work.out, f"tower_{number:02d}")
    work.write_json("epochs.json", epochs)
    _draw_epochs(work, epochs)


def write_item_vectors(work: Work) -> None:
    np.save(work.out / "item_vectors.npy", work.towers[-1].item_vectors)


def write_index(work: Work) -> None:
    """The index, what it is, and the sweep it was chosen by; users as of labels_end are the sweep's queries."""
    from recall.guard import guarded_index

    users, tower = _sample(listed_users(work), INDEX_QUERIES, work.config.seed), work.towers[-1]
    queries = tower.user_vectors(work.readings.inputs_at(tower.shape, users, work.windows.labels_end))
    item_vectors = np.load(work.inputs["item_vectors"] / "item_vectors.npy")
    index, trials = guarded_index(item_vectors, tower.catalogue, queries, work.config.recall)
    index.save(work.out / "items.faiss")
    (chosen,) = [trial for trial in trials if trial.chosen]
    names = ("kind", "parameters", "overlap", "overlap_held_out")
    work.write_json("index.json", {"items": len(index)} | {name: getattr(chosen, name) for name in names})
    (work.out / MEASURED).mkdir()
    table = pd.DataFrame([asdict(trial) for trial in trials])
    table.to_csv(work.out / MEASURED / "index_sweep.csv", index=False)
    index_sweep(table, work.config.recall.index_overlap, work.out / MEASURED / "index_sweep.png")


def write_candidates(work: Work) -> None:
    """Candidates as of labels_end for the users who get lists, and as of history_end for a sample with labels."""
    from recall.index import ItemIndex, index_of

    windows, config, log = work.windows, work.config.recall, _channel_log(work)
    for name, reason in switched_off(config, log).items():
        work.tell(f"channel {name} is off: {reason}")
    learned = learn(config, log, work.towers, work.config.seed)
    work.write_json("merge.json", learned.described())
    work.tell(_merge_text(learned))
    index, users = ItemIndex.load(work.inputs["index"] / "items.faiss"), listed_users(work)
    channels = channels_as_of(config, log, work.towers[-1], index, windows.labels_end, users, learned.merge.popularity)
    _write_merged(work, users, channels, learned.merge)
    tower, labelled = newest(work.towers, windows.history_end), _users_with_labels(work, config.label_users)
    channels = channels_as_of(
        config,
        log,
        tower,
        index_of(tower.item_vectors, tower.catalogue),
        windows.history_end,
        labelled,
        learned.merge.popularity,
    )
    shards = [part.items for part in merged_shards(channels, learned.merge, labelled, config)]
    np.save(work.out / "label_users.npy", labelled)
    np.save(work.out / "label_items.npy", np.concatenate(shards))


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
        rows, unit, work.config.ranking, work.config.seed, lambda row: work.tell(_epoch_text("ranker", row))
    )
    ranker.save(work.out)
    work.write_json("epochs.json", epochs)
    _draw_epochs(work, epochs)


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
    origin = "impressions before labels_end" if logs_impressions(work) else "candidates as of history_end"
    raise Refused(
        f"The ranker has {rows} rows from {origin}, {clicked} of them watched; it needs at least two watched and one "
        f"not. The windows are {work.windows.described()}: choose others, or give it more of the log."
    )


def _refuse_long_lists(work: Work) -> None:
    """A k of one's own beyond the catalogue is a mistake; the default one gives short lists, which are reported."""
    k, items = work.config.recall.k, work.ids.items.size_as_of(work.windows.labels_end) - 1
    if k > items and k != RecallConfig.model_fields["k"].default:
        raise Refused(
            f"recall.k = {k} but the catalogue has {items:,} items before labels_end; choose at most as many as items."
        )


def earlier_towers(folder: Path) -> list[Tower]:
    """The towers of an earlier run, oldest first; Refused where the folder holds none."""
    paths = sorted(folder.glob("tower_*.json"))
    if not paths:
        raise Refused(
            f"recall.warm_start = {folder}: there is no tower here; give the folder of an artefact `towers`, "
            "as in OUT/artefacts/towers/VERSION."
        )
    return [Tower.load(folder, path.stem) for path in paths]


def newest(towers: list[Tower], instant: int) -> Tower:
    """The newest tower finished by an instant; the first is finished by history_end."""
    return [tower for tower in towers if tower.shape.as_of <= instant][-1]


def _draw_log(work: Work) -> None:
    """A picture of the log, for those who would rather look than read."""
    log = Impressions.load(work.out)
    moments = pq.read_table(work.out / "impressions.parquet", columns=[TIMESTAMP])[TIMESTAMP].to_numpy()
    data_profile(moments, log.clicked, log.seconds, log.users, work.out / "log.png")


def _draw_epochs(work: Work, epochs: list[dict[str, Any]]) -> None:
    counts = ("tower", "epoch", "after", "examples")
    loss_curves([{k: v for k, v in row.items() if k not in counts} for row in epochs], work.out / "loss.png")


def _table(work: Work, artefact: str, name: str, backend: Any = None) -> Table:
    return table_at(work.inputs[artefact] / f"{name}.parquet", backend)


def _optional_table(work: Work, name: str) -> Table | None:
    exists = (work.inputs["interactions"] / f"{name}.parquet").exists()
    return _table(work, "interactions", name) if exists else None


def _published(work: Work, backend: Any) -> Table | None:
    """When each item was published, as item_id and instant; None where the log does not say."""
    if not (work.inputs["interactions"] / "items.parquet").exists():
        return None
    items = _table(work, "interactions", "items", backend)
    if PUBLISHED_AT not in items.columns:
        return None
    known = items.filter(items[PUBLISHED_AT].notnull())
    return known.select(ITEM, instant=instant_column(known[PUBLISHED_AT]))


def _log_with_instants(work: Work) -> Table:
    """The log up to the holdout's end, each row with its instant."""
    log = instants(_table(work, "interactions", "interactions"), work.windows)
    return log.filter(log.instant < work.windows.holdout_end)


def _channel_log(work: Work) -> Log:
    """What channels are made of."""
    clicks = Histories.load(work.inputs["histories"] / "clicks")
    items = Side.load(work.inputs["profiles"] / "items.parquet")
    ledger = work.ledger if logs_impressions(work) else None
    return Log(work.readings, clicks, work.ids.items, items, work.windows, ledger)


def _merge_text(learned: Learned) -> str:
    rates = [f"{name} {', '.join(f'{rate:.3f}' for rate in by_k.values())}" for name, by_k in learned.rates.items()]
    lengths = next(iter(learned.rates.values()), {})
    return f"merge: {learned.merge.order}; {', '.join(lengths)} of checking users: {'; '.join(rates)}"


def _write_merged(work: Work, users: Int32, channels: Channels, merge: Merge) -> None:
    """Merged lists of users as arrays and as candidates.parquet, in one pass over shards of users."""
    k, names = work.config.recall.k, list(channels.by_name)
    np.save(work.out / "users.npy", users)
    work.write_json("channels.json", names)
    kinds = {"items": "<i4", "scores": "<f4", "tower_scores": "<f4"}
    kinds |= {f"rank_{name}": "<u2" for name in names} | {f"score_{name}": "<f4" for name in names}
    files = {name: ArrayFile(work.out / f"{name}.npy", len(users), k, kind) for name, kind in kinds.items()}

    def written() -> Iterator[Ranked]:
        for part in merged_shards(channels, merge, users, work.config.recall):
            arrays: dict[str, Any] = {"items": part.items, "scores": part.scores, "tower_scores": part.tower_scores}
            arrays |= {f"rank_{name}": part.ranks[name] for name in names}
            arrays |= {f"score_{name}": part.channel_scores[name] for name in names}
            for name, values in arrays.items():
                files[name].append(values)
            yield Ranked(part.users, part.items, part.scores, part.ranks)

    write_lists(work.out / "candidates.parquet", work.ids, written(), {}, ranks=True)
    for file in files.values():
        file.close()


def _ranked(candidates: Candidates, items: Int32, seconds: npt.NDArray[np.float64]) -> Iterator[Ranked]:
    """Recommended items [n, top_k] in shards, with what the channels had said of them."""
    for at in range(0, max(len(items), 1), USERS_A_SHARD):
        rows = slice(at, at + USERS_A_SHARD)
        part = candidates.take(rows)
        yield Ranked(part.users, items[rows], seconds[rows], ranks_of(items[rows], part.items, part.ranks))


def _users_with_labels(work: Work, most: int) -> Int32:
    """A sample of the users with a watch in the label window; nobody where impressions are logged."""
    if logs_impressions(work):
        return np.zeros(0, np.int32)
    log, windows = work.impressions, work.windows
    inside = log.clicked & (log.instants >= windows.history_end) & (log.instants < windows.labels_end)
    users = np.unique(log.users[inside])
    return _sample(users, most, work.config.seed)


def _sample(users: Int32, most: int, seed: int) -> Int32:
    """At most so many of the users, ascending."""
    return np.sort(np.random.default_rng([seed, len(users)]).permutation(users)[:most])


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
    """Candidates as of history_end, positive where watched in the label window, the others thinned."""
    log, windows, folder = work.impressions, work.windows, work.inputs["candidates"]
    lists, users = np.load(folder / "label_items.npy"), np.load(folder / "label_users.npy")
    row, column = np.nonzero(lists)
    who, what = users[row], lists[row, column]
    inside = log.take(
        np.flatnonzero(log.clicked & (log.instants >= windows.history_end) & (log.instants < windows.labels_end))
    )
    pairs = _pairs(inside.users, inside.items)
    first, at = np.unique(pairs, return_index=True)
    place = np.minimum(np.searchsorted(first, _pairs(who, what)), max(len(first) - 1, 0))
    clicked = first[place] == _pairs(who, what) if len(first) else np.zeros(len(who), bool)
    seconds = np.where(clicked, watched(work, inside)[at[place]], 0.0) if len(first) else np.zeros(len(who))
    rng = np.random.default_rng([work.config.seed, 7])
    kept, weight = thinned(clicked, who, work.config.ranking.negatives_per_user, rng)
    instants = np.full(len(kept), windows.history_end)
    return _exposures(work, who[kept], what[kept], instants), clicked[kept], seconds[kept], weight


def _pairs(users: Int32, items: Int32) -> Int64:
    return (users.astype(np.int64) << 32) | items


def _exposures(work: Work, users: Int32, items: Int32, instants: Int64) -> Exposures:
    recall = rolled_columns(work.towers, work.readings, users, items, instants)
    return Exposures(users, items, instants, recall)


def exposures_of(work: Work, rows: Impressions) -> Exposures:
    """Impressions as exposures, in their own contexts and positions."""
    unplaced = _exposures(work, rows.users, rows.items, rows.instants)
    contexts = {name: getattr(rows, name) for name in work.ledger.contexts}
    return replace(unplaced, contexts=contexts, positions=rows.positions)


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


def _epoch_text(name: str, row: Mapping[str, Any]) -> str:
    return f"{name}: " + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
