"""What each step of ingest and features reads, calls and writes: files in, one call into a package,
files out.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from features.asof_features import AsOfFeatures
from features.data import ingest as ingestion
from features.errors import InputError
from features.histories import Histories, histories_of, samples_of
from features.requests import requests_us
from features.schema import ITEM, PUBLISHED_AT, REQUEST, SECOND, TIMESTAMP, USER, Table, table_at
from features.search_tokens import token_histories
from features.side_features import category_values, side_features_of
from features.split import split_of, timestamp_us_of, timestamps_us
from features.vocabulary import catalogue_of, impressions_of, vocabulary_of
from funnel.context import REQUESTS, Impressions, StepContext, logs_impressions
from funnel.evaluation.plots import data_profile


def write_interactions(context: StepContext) -> None:
    summary = ingestion.ingest(
        context.source, context.data, context.out, context.config.cleaning, datetime.now(UTC)
    )
    context.write_json("summary.json", summary)
    context.tell(f"the log: {ingestion.in_words(summary)}")


def figures_of_log(folder: Path) -> dict[str, float]:
    """Counts of the cleaned log: rows, rows rejected and dropped, users, items, share clicked, mean
    seconds.
    """
    summary = json.loads((folder / "summary.json").read_text())
    figures = {
        "rejected_rows": summary["rejected"].get("interactions", {}),
        "dropped_rows": summary["dropped"],
    }
    names = (
        "rows",
        "rows_read",
        "users",
        "items",
        "clicked_share",
        "mean_seconds",
        "null_seconds_share",
    )
    known = {name: float(summary[name]) for name in names if summary[name] is not None}
    return known | {name: float(sum(by_reason.values())) for name, by_reason in figures.items()}


def write_split(context: StepContext) -> None:
    log = _table(context, "interactions", "interactions")
    split_of(log, context.config.split, context.config.features.clock).save(context.out)


def write_vocabulary(context: StepContext) -> None:
    log, split = _log_with_instants(context), context.split
    vocabulary_of(log, USER).save(context.out / "users.parquet")
    published = _published(context, log.get_backend()) if split.clock == "time" else None
    items = (
        vocabulary_of(log, ITEM)
        if published is None
        else catalogue_of(log, published, split.start, split.test_end)
    )
    items.save(context.out / "items.parquet")


def write_impressions(context: StepContext) -> None:
    log = _log_with_instants(context)
    users, items = (
        _table(context, "vocabulary", side, log.get_backend()) for side in ("users", "items")
    )
    log.get_backend().to_parquet(
        impressions_of(log, users, items), context.out / "impressions.parquet"
    )
    _write_requests(context)
    _draw_log(context)


def write_histories(context: StepContext) -> None:
    """Completed watches (what towers read and predict), clicks (what is seen), what was ignored,
    search tokens.
    """
    log, users = context.impressions, len(context.ids.users)
    for name, rows in (("watches", log.completed), ("clicks", log.clicked)):
        kept = log.take(rows)
        histories_of(kept.users, kept.items, kept.timestamps_us, users).save(context.out / name)
    if logs_impressions(context):
        ignored = log.take(~log.clicked)
        histories_of(ignored.users, ignored.items, ignored.timestamps_us, users).save(
            context.out / "ignored"
        )
    searches = context.inputs["interactions"] / "searches.parquet"
    if searches.exists() and context.split.clock == "time":
        tokens, histories = token_histories(table_at(searches), context.ids.users)
        tokens.save(context.out / "tokens.parquet")
        histories.save(context.out / "searches")


def write_samples(context: StepContext) -> None:
    watches = Histories.load(context.inputs["histories"] / "watches")
    np.save(context.out / "ends.npy", samples_of(watches))


def write_profiles(context: StepContext) -> None:
    users, items, ids = (
        _optional_table(context, "users"),
        _optional_table(context, "items"),
        context.ids,
    )
    of_users = side_features_of(users, USER, ids.users)
    of_items = side_features_of(items, ITEM, ids.items, category_values(users, USER, ids.users))
    of_users.save(context.out / "users.parquet", len(ids.users))
    of_items.save(context.out / "items.parquet", len(ids.items))
    _refuse_name_clashes(context.features_of(of_users, of_items))


def _write_requests(context: StepContext) -> None:
    """When each impression was asked for, beside the table of impressions."""
    path = context.out / "impressions.parquet"
    known = REQUEST in pq.read_schema(path).names
    table = pq.read_table(path, columns=["user", "timestamp_us", *([REQUEST] if known else [])])
    codes = np.full(len(table), -1, np.int32)
    if known:
        codes = pd.factorize(table[REQUEST].to_pandas())[0].astype(np.int32)
    within_us = round(context.config.features.request_seconds * SECOND)
    asked = requests_us(
        table["user"].to_numpy(),
        table["timestamp_us"].to_numpy(),
        codes,
        within_us if context.split.clock == "time" else 0,
    )
    np.save(context.out / REQUESTS, asked)


def _refuse_name_clashes(features: AsOfFeatures) -> None:
    for column in features.name_clashes():
        side, _, name = column.partition("_")
        raise InputError(
            f"The {side}s table has a column {name}, and {column} is a feature that is made of the "
            "log: rename the "
            "column, or leave it out."
        )


def _draw_log(context: StepContext) -> None:
    """A picture of the log, for those who would rather look than read."""
    log = Impressions.load(context.out)
    as_of = pq.read_table(context.out / "impressions.parquet", columns=[TIMESTAMP])[
        TIMESTAMP
    ].to_numpy()
    data_profile(as_of, log.clicked, log.seconds, log.users, context.out / "log.png")


def _table(context: StepContext, artefact: str, name: str, backend: Any = None) -> Table:
    return table_at(context.inputs[artefact] / f"{name}.parquet", backend)


def _optional_table(context: StepContext, name: str) -> Table | None:
    exists = (context.inputs["interactions"] / f"{name}.parquet").exists()
    return _table(context, "interactions", name) if exists else None


def _published(context: StepContext, backend: Any) -> Table | None:
    """When each item was published, as item_id and instant; None where the log does not say."""
    if not (context.inputs["interactions"] / "items.parquet").exists():
        return None
    items = _table(context, "interactions", "items", backend)
    if PUBLISHED_AT not in items.columns:
        return None
    known = items.filter(items[PUBLISHED_AT].notnull())
    return known.select(ITEM, timestamp_us=timestamp_us_of(known[PUBLISHED_AT]))


def _log_with_instants(context: StepContext) -> Table:
    """The log up to the test window's end, each row with its instant."""
    log = timestamps_us(_table(context, "interactions", "interactions"), context.split)
    return log.filter(log.timestamp_us < context.split.test_end)
