"""What each step of ingest and features reads, calls and writes: files in, one call into a package,
files out.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from features.asof_features import AsOfFeatures
from features.data import ingest as ingestion
from features.errors import InputError
from features.histories import Histories, samples_of
from features.impressions import Impressions
from features.requests import with_requests
from features.schema import ITEM, TIMESTAMP, USER
from features.search_tokens import token_histories
from features.side_features import category_values, side_features_of
from features.split_log import SplitFacts, facts_of, log_until_test_end, split_of
from features.tables import Table, table_at
from features.vocabulary import impressions_of, item_vocabulary_of, vocabulary_of
from funnel.context import StepContext, logs_impressions
from funnel.evaluation.plots import data_profile

# From these shares on a cut is told to ask for something else than lists of unseen items for known
# users; of fewer users than FEW_USERS no share is told.
MOST_REPEATS, MOSTLY_NEW, FEW_USERS = 0.5, 0.9, 20
REWATCH = "rewatch"


def write_interactions(context: StepContext) -> None:
    summary = ingestion.ingest(
        context.source, context.data, context.out, context.config.cleaning, datetime.now(UTC)
    )
    context.write_json("summary.json", summary)
    context.write_json("figures.json", _figures_of(summary))
    context.tell(f"the log: {ingestion.in_words(summary)}")


def _figures_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Counts of the cleaned log: rows, rows rejected and dropped, users, items, share clicked, mean
    seconds.
    """
    rejected, dropped = summary["rejected"].get("interactions", {}), summary["dropped"]
    names = (
        *("rows", "rows_read", "users", "items", "clicked_share", "mean_seconds"),
        *("null_seconds_share", "completed_share", "repeat_share"),
    )
    known = {name: float(summary[name]) for name in names if summary[name] is not None}
    set_aside = {"rejected_rows": rejected, "dropped_rows": dropped}
    return known | {name: float(sum(counts.values())) for name, counts in set_aside.items()}


def write_split(context: StepContext) -> None:
    """The cut, and what it leaves; InputError where nothing is left to learn from."""
    log = _table(context, "interactions", "interactions")
    split = split_of(log, context.config.split, context.config.features.clock)
    facts = facts_of(log, split)
    if not facts.history:
        raise InputError(
            "No completed watch lies before split.label_start = "
            f"{split.described().get('label_start')}, so there is nothing to learn from; choose a "
            "later instant, a longer log, or a lower cleaning.completed_seconds."
        )
    for sentence in advice_on(facts, context.config.recall.generators):
        context.tell(sentence)
    split.save(context.out)


def advice_on(facts: SplitFacts, generators: Sequence[str]) -> list[str]:
    """What somebody should know of a cut before hours are spent on it, in sentences."""
    told = []
    if facts.repeats >= MOST_REPEATS and REWATCH not in generators:
        told.append(
            f"the watches to be found: {facts.repeats:.0%} are repeats of what their user had "
            "clicked, and lists leave that out; where repeats are wanted add the generator "
            f"{REWATCH}: recall.generators={','.join([*generators, REWATCH])}"
        )
    if facts.new >= MOSTLY_NEW and facts.users >= FEW_USERS:
        told.append(
            f"the watches to be found: {facts.new:.0%} of their {facts.users:,} users have no "
            "watch before, and get what is popular; if user_id is a session, take the id of who "
            "comes back, or cut within sessions: split.mode=last"
        )
    return told


def write_vocabulary(context: StepContext) -> None:
    log, split = _log_with_instants(context), context.split
    vocabulary_of(log, USER).save(context.out / "users.parquet")
    items = _optional_table(context, "items", log.get_backend())
    item_vocabulary_of(log, items, split).save(context.out / "items.parquet")


def write_impressions(context: StepContext) -> None:
    log = _log_with_instants(context)
    users, items = (
        _table(context, "vocabulary", side, log.get_backend()) for side in ("users", "items")
    )
    indexed = impressions_of(log, users, items).to_pyarrow()
    # In the order clock a second means nothing, and each row is a request of its own.
    within = context.config.features.request_seconds if context.split.clock == "time" else 0
    pq.write_table(with_requests(indexed, within), context.out / "impressions.parquet")
    _draw_log(context)


def write_histories(context: StepContext) -> None:
    """Completed watches (what towers read and predict), clicks (what is seen), what was ignored,
    search tokens.
    """
    log, users = context.impressions, len(context.ids.users)
    for name, rows in (("watches", log.completed), ("clicks", log.clicked)):
        log.histories(rows, users).save(context.out / name)
    if logs_impressions(context):
        log.histories(~log.clicked, users).save(context.out / "ignored")
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


def _optional_table(context: StepContext, name: str, backend: Any = None) -> Table | None:
    exists = (context.inputs["interactions"] / f"{name}.parquet").exists()
    return _table(context, "interactions", name, backend) if exists else None


def _log_with_instants(context: StepContext) -> Table:
    return log_until_test_end(_table(context, "interactions", "interactions"), context.split)
