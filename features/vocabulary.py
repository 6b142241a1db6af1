"""Raw ids outside, indexes inside; index 0 is nobody.

Ids are numbered by first appearance, so what was known before an instant is always the first part: growing the
vocabulary keeps every older index, and a model of an earlier instant reads a later history by treating the
indexes beyond its size as 0.
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

from features.tables import CLICKED, CONTRACTS, ITEM, USER

Indexes = npt.NDArray[np.int32]
Instants = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one side: `ids[i - 1]` has index i and was first seen (shown or clicked) at `first_seen[i - 1]`."""

    ids: pa.Array
    first_seen: Instants

    def __len__(self) -> int:
        """The number of indexes, nobody's 0 included."""
        return len(self.ids) + 1

    def size_as_of(self, instant: int) -> int:
        """How many indexes existed before an instant, 0 included: indexes below it were known."""
        return int(np.searchsorted(self.first_seen, instant, side="left")) + 1

    def index_of(self, ids: pa.Array) -> Indexes:
        """Raw ids [n] -> indexes [n]; what is not in the vocabulary is 0."""
        found = pc.index_in(pc.cast(ids, self.ids.type), value_set=self.ids)
        indexes: Indexes = (pc.fill_null(found, -1).to_numpy(zero_copy_only=False) + 1).astype(np.int32)
        return indexes

    def id_of(self, indexes: npt.NDArray[Any]) -> pa.Array:
        """Indexes [n] -> raw ids [n]; IndexError on 0, which is nobody, and on what does not exist."""
        if len(indexes) and (indexes.min() < 1 or indexes.max() > len(self.ids)):
            raise IndexError(f"indexes must lie in 1..{len(self.ids)}, found {indexes.min()}..{indexes.max()}")
        return self.ids.take(pa.array(indexes - 1))

    def save(self, path: Path) -> None:
        numbers = pa.array(np.arange(1, len(self), dtype=np.int32))
        pq.write_table(pa.table({"id": self.ids, "index": numbers, "first_seen": self.first_seen}), path)

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        table = pq.read_table(path)
        return cls(table["id"].combine_chunks(), table["first_seen"].to_numpy())


def vocabulary_of(interactions: ibis.Table, side: str) -> Vocabulary:
    """The vocabulary of `side` (user_id or item_id) in a log with instants: by first appearance, then by id."""
    first = interactions.group_by(side).aggregate(first_seen=interactions.instant.min())
    table = first.order_by("first_seen", side).to_pyarrow()
    return Vocabulary(table[side].combine_chunks(), table["first_seen"].to_numpy())


def impressions_of(interactions: ibis.Table, users: ibis.Table, items: ibis.Table) -> ibis.Table:
    """The log in indexes, one row an impression, sorted by user and time.

    Columns: user, item (indexes), instant, timestamp, clicked, completed, watch_seconds (null = unknown) and the
    context columns of the contract as they came.
    """
    # Only what the contract names: a log may bring columns of its own called user or item.
    carried = [name for name in CONTRACTS["interactions"].kinds if name in interactions.columns]
    rows = interactions.select(*carried, "row", "instant", "completed")
    coded = rows.join(_coded(users, "user"), "user_id").join(_coded(items, "item"), "item_id")
    kept = [name for name in carried if name not in (USER, ITEM, CLICKED)]
    return coded.order_by("user", "instant", "row").select("user", "item", "instant", CLICKED, "completed", *kept)


def _coded(vocabulary: ibis.Table, side: str) -> ibis.Table:
    return vocabulary.select(**{f"{side}_id": vocabulary.id, side: vocabulary["index"]})
