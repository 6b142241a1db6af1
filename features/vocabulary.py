"""Raw ids outside, indexes inside; index 0 is padding.

Ids are numbered by first appearance, so what was known before an instant is always the first part:
growing the vocabulary keeps every older index, and a model of an earlier instant reads a later
history by treating the indexes beyond its size as 0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.arrays import Flags, Int32, Int64
from features.schema import CLICKED, CONTRACTS, ITEM, PUBLISHED_AT, USER
from features.split import Split
from features.split_log import timestamp_us_of

NEVER_SHOWN = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one side: `ids[i - 1]` has index i and is known since `first_seen[i - 1]`.

    Known is what was shown or clicked, and an item that was published; `first_shown` [ids] is
    NEVER_SHOWN for what the log does not show (None: everything was shown when first seen).
    """

    ids: pa.Array
    first_seen: Int64
    first_shown: Int64 | None = None

    def __len__(self) -> int:
        """The number of indexes, padding's 0 included."""
        return len(self.ids) + 1

    def size_as_of(self, timestamp_us: int) -> int:
        """How many indexes existed before an instant, 0 included: indexes below it were known."""
        return int(np.searchsorted(self.first_seen, timestamp_us, side="left")) + 1

    def shown_as_of(self, timestamp_us: int) -> Flags:
        """Which indexes had been shown to anybody before an instant, [indexes]; never padding."""
        first = self.first_seen if self.first_shown is None else self.first_shown
        return np.concatenate([[False], first < timestamp_us])

    def before(self, timestamp_us: int) -> "Vocabulary":
        """What was known strictly before an instant."""
        size = self.size_as_of(timestamp_us) - 1
        shown = None if self.first_shown is None else self.first_shown[:size]
        if shown is not None:
            shown = np.where(shown < timestamp_us, shown, NEVER_SHOWN)
        return Vocabulary(self.ids[:size], self.first_seen[:size], shown)

    def index_of(self, ids: pa.Array) -> Int32:
        """Raw ids [n] -> indexes [n]; what is not in the vocabulary is 0."""
        found = pc.index_in(pc.cast(ids, self.ids.type), value_set=self.ids)
        indexes: Int32 = (pc.fill_null(found, -1).to_numpy(zero_copy_only=False) + 1).astype(
            np.int32
        )
        return indexes

    def id_of(self, indexes: npt.NDArray[Any]) -> pa.Array:
        """Indexes [n] -> raw ids [n]; IndexError on 0, which is padding, and on what does not
        exist.
        """
        if len(indexes) and (indexes.min() < 1 or indexes.max() > len(self.ids)):
            raise IndexError(
                f"indexes must lie in 1..{len(self.ids)}, found {indexes.min()}..{indexes.max()}"
            )
        return self.ids.take(pa.array(indexes - 1))

    @property
    def table(self) -> pa.Table:
        """One row an id: `id`, `index`, `first_seen` and, where they differ, `first_shown`."""
        numbers = pa.array(np.arange(1, len(self), dtype=np.int32))
        columns = {"id": self.ids, "index": numbers, "first_seen": self.first_seen}
        shown = {} if self.first_shown is None else {"first_shown": self.first_shown}
        return pa.table(columns | shown)

    def save(self, path: Path) -> None:
        pq.write_table(self.table, path)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        table = pq.read_table(path)
        shown = table["first_shown"].to_numpy() if "first_shown" in table.column_names else None
        return cls(table["id"].combine_chunks(), table["first_seen"].to_numpy(), shown)


def vocabulary_of(interactions: ibis.Table, side: str) -> Vocabulary:
    """The vocabulary of `side` (user_id or item_id) in a log with instants: by first appearance,
    then by id.
    """
    table = _first_shown(interactions, side).order_by("first_shown", side).to_pyarrow()
    return Vocabulary(table[side].combine_chunks(), table["first_shown"].to_numpy())


def item_vocabulary_of(
    interactions: ibis.Table, items: ibis.Table | None, split: Split
) -> Vocabulary:
    """The items of a log with instants and, where hours exist and `items` says when they were
    published, those that nobody was shown: see `catalogue_of`.
    """
    if items is None or PUBLISHED_AT not in items.columns or split.clock == "order":
        return vocabulary_of(interactions, ITEM)
    known = items.filter(items[PUBLISHED_AT].notnull())
    published = known.select(ITEM, timestamp_us=timestamp_us_of(known[PUBLISHED_AT]))
    return catalogue_of(interactions, published, split.start, split.test_end)


def catalogue_of(
    interactions: ibis.Table, published: ibis.Table, since: int, until: int
) -> Vocabulary:
    """The items of a log with instants, and those `published` (item_id, instant) during it that
    nobody was shown.

    During it: since <= instant < until. Such an item is known from its publication, or from its
    first appearance where that came before; any other from its first appearance: of what is older
    only the showing says that it is on offer.
    """
    timestamps_us = published.group_by(ITEM).aggregate(published=published.timestamp_us.min())
    items = timestamps_us.filter(timestamps_us.published >= since, timestamps_us.published < until)
    both = _first_shown(interactions, ITEM).outer_join(items, ITEM)
    known = both.select(
        ibis.coalesce(both[ITEM], both[f"{ITEM}_right"]).name(ITEM),
        both.first_shown.fill_null(NEVER_SHOWN).name("first_shown"),
        ibis.least(
            both.first_shown.fill_null(NEVER_SHOWN), both.published.fill_null(NEVER_SHOWN)
        ).name("first_seen"),
    )
    table = known.order_by("first_seen", ITEM).to_pyarrow()
    return Vocabulary(
        table[ITEM].combine_chunks(),
        table["first_seen"].to_numpy(),
        table["first_shown"].to_numpy(),
    )


def _first_shown(interactions: ibis.Table, side: str) -> ibis.Table:
    return interactions.group_by(side).aggregate(first_shown=interactions.timestamp_us.min())


def impressions_of(interactions: ibis.Table, users: ibis.Table, items: ibis.Table) -> ibis.Table:
    """The log in indexes, one row an impression, sorted by user and time.

    Columns: user, item (indexes), instant, timestamp, clicked, completed, watch_seconds (null =
    unknown) and the context columns of the contract as they came.
    """
    # Only what the contract names: a log may bring columns of its own called user or item.
    carried = [name for name in CONTRACTS["interactions"].kinds if name in interactions.columns]
    rows = interactions.select(*carried, "row", "timestamp_us", "completed")
    coded = rows.join(_coded(users, "user"), "user_id").join(_coded(items, "item"), "item_id")
    kept = [name for name in carried if name not in (USER, ITEM, CLICKED)]
    return coded.order_by("user", "timestamp_us", "row").select(
        "user", "item", "timestamp_us", CLICKED, "completed", *kept
    )


def _coded(vocabulary: ibis.Table, side: str) -> ibis.Table:
    return vocabulary.select(**{f"{side}_id": vocabulary.id, side: vocabulary["index"]})
