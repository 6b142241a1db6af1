"""What each step of ingest and features reads, calls and writes: files in, one call into a package, files out."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from features import ingest as ingestion
from features.asof_features import AsOfFeatures
from features.errors import Refused
from features.histories import Histories, histories_of, samples_of
from features.sides import category_values, side_of
from features.tables import ITEM, PUBLISHED_AT, TIMESTAMP, USER, Table, table_at
from features.tokens import token_histories
from features.vocabulary import catalogue_of, impressions_of, vocabulary_of
from features.windows import instant_column, instants, windows_of
from funnel.plots import data_profile
from funnel.work import Impressions, Work, logs_impressions


def write_interactions(work: Work) -> None:
    summary = ingestion.ingest(work.source, work.data, work.out, work.config.cleaning, datetime.now(UTC))
    work.write_json("summary.json", summary)
    work.tell(f"the log: {ingestion.in_words(summary)}")


def figures_of_log(folder: Path) -> dict[str, float]:
    """Counts of the cleaned log: rows, rows rejected and dropped, users, items, share clicked, mean seconds."""
    summary = json.loads((folder / "summary.json").read_text())
    figures = {"rejected_rows": summary["rejected"].get("interactions", {}), "dropped_rows": summary["dropped"]}
    names = ("rows", "rows_read", "users", "items", "clicked_share", "mean_seconds", "null_seconds_share")
    known = {name: float(summary[name]) for name in names if summary[name] is not None}
    return known | {name: float(sum(by_reason.values())) for name, by_reason in figures.items()}


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
    users, items, ids = _optional_table(work, "users"), _optional_table(work, "items"), work.ids
    of_users = side_of(users, USER, ids.users)
    of_items = side_of(items, ITEM, ids.items, category_values(users, USER, ids.users))
    of_users.save(work.out / "users.parquet", len(ids.users))
    of_items.save(work.out / "items.parquet", len(ids.items))
    _refuse_name_clashes(work.features_of(of_users, of_items))


def _refuse_name_clashes(features: AsOfFeatures) -> None:
    for column in features.name_clashes():
        side, _, name = column.partition("_")
        raise Refused(
            f"The {side}s table has a column {name}, and {column} is a feature that is made of the log: rename the "
            "column, or leave it out."
        )


def _draw_log(work: Work) -> None:
    """A picture of the log, for those who would rather look than read."""
    log = Impressions.load(work.out)
    moments = pq.read_table(work.out / "impressions.parquet", columns=[TIMESTAMP])[TIMESTAMP].to_numpy()
    data_profile(moments, log.clicked, log.seconds, log.users, work.out / "log.png")


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
