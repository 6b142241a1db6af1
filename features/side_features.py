"""Side columns of users and of items, in the order of their indexes, and the groups of items that
they make.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ibis
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.arrays import Float64, Int32
from features.schema import AGE, CHANNEL, DURATION_SECONDS, ITEM, PUBLISHED_AT, TITLE, TOPICS
from features.vocabulary import Vocabulary

MAX_CATEGORIES = 10_000
NUMBERS = (AGE, DURATION_SECONDS)
# Durations between which watching changes: what is watched of five seconds and of five minutes is
# not one habit.
DURATION_EDGES = np.array(
    [5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 2400, 4800], np.float64
)
NO_VALUES: Mapping[str, pd.Index] = MappingProxyType({})


@dataclass(frozen=True)
class SideFeatures:
    """Side columns of one vocabulary, one row an index (row 0 is padding).

    `codes[name]` int32 [n]: category codes by first appearance, 0 unknown, `sizes[name]` codes in
    all; `numbers[name]` float64 [n], NaN unknown. Topics stand as their first one. `matches[name]`
    int32 [n] is an item's value in the users' codes of the column of that name, 0 where no user has
    it: a viewer's language and a video's.
    """

    codes: dict[str, Int32]
    sizes: dict[str, int]
    numbers: dict[str, Float64]
    matches: dict[str, Int32] = field(default_factory=dict)

    def first(self, size: int) -> "SideFeatures":
        """The columns of the first so many indexes."""
        codes = {name: values[:size] for name, values in self.codes.items()}
        numbers = {name: values[:size] for name, values in self.numbers.items()}
        matches = {name: values[:size] for name, values in self.matches.items()}
        sizes = {name: int(code.max(initial=0)) + 1 for name, code in codes.items()}
        return SideFeatures(codes, sizes, numbers, matches)

    def save(self, path: Path, size: int) -> None:
        """One row for each of `size` indexes: `index`, `code:<name>`, `number:<name>` and
        `match:<name>`.
        """
        kinds: dict[str, Mapping[str, npt.NDArray[Any]]]
        kinds = {"code": self.codes, "number": self.numbers, "match": self.matches}
        columns = {
            f"{kind}:{name}": values
            for kind, named in kinds.items()
            for name, values in named.items()
        }
        # A table without any column has no rows, and DuckDB does not read it.
        pq.write_table(pa.table({"index": np.arange(size, dtype=np.int32), **columns}), path)

    @classmethod
    def load(cls, path: Path) -> "SideFeatures":
        table = pq.read_table(path)
        codes, numbers, matches = (_of_kind(table, kind) for kind in ("code", "number", "match"))
        return cls(
            codes,
            {name: int(code.max(initial=0)) + 1 for name, code in codes.items()},
            numbers,
            matches,
        )


def _of_kind(table: pa.Table, kind: str) -> dict[str, npt.NDArray[Any]]:
    columns = {column: column.partition(":") for column in table.column_names}
    return {
        name: table[column].to_numpy() for column, (of, _, name) in columns.items() if of == kind
    }


def side_features_of(
    table: ibis.Table | None,
    key: str,
    vocabulary: Vocabulary,
    values: Mapping[str, pd.Index] = NO_VALUES,
) -> SideFeatures:
    """The side columns of a table (users or items) in a vocabulary's order; no table, no columns.

    `values` are the other side's categories, in the order of their codes, by column: what `matches`
    is made with.
    """
    columns = _aligned(table, key, vocabulary)
    numbers = {
        name: _numbers(column) for name, column in columns.items() if _is_number(name, column)
    }
    categories = {
        name: _categories(column) for name, column in columns.items() if _is_category(name, column)
    }
    codes = {name: _codes(column) for name, column in categories.items()}
    shared = {name: column for name, column in categories.items() if name in values}
    matches = {
        name: (values[name].get_indexer(pd.Index(column)) + 1).astype(np.int32)
        for name, column in shared.items()
    }
    sizes = {name: int(code.max(initial=0)) + 1 for name, code in codes.items()}
    kept = [
        name
        for name, size in sizes.items()
        if 2 <= size - 1 <= MAX_CATEGORIES or name == "channel_id"
    ]
    return SideFeatures(
        {name: codes[name] for name in kept}, {name: sizes[name] for name in kept}, numbers, matches
    )


def group_codes(items: SideFeatures) -> dict[str, Int32]:
    """The groups that items are counted by, as their columns allow: channel, topic, duration
    bucket.

    Codes int32 [items] by group, -1 for none: items without a channel do not share one.
    """
    columns = {"channel": CHANNEL, "topic": TOPICS}
    known = {
        group: items.codes[column] for group, column in columns.items() if column in items.codes
    }
    if DURATION_SECONDS in items.numbers:
        known["duration_bucket"] = duration_buckets(items.numbers[DURATION_SECONDS])
    return {group: np.where(codes > 0, codes, -1) for group, codes in known.items()}


def duration_buckets(seconds: Float64) -> Int32:
    """Which bucket each duration in seconds falls in: 1 unknown, 2 under 5 s, and so on, [n]."""
    buckets = np.searchsorted(DURATION_EDGES, seconds, side="right") + 2
    return np.where(np.isnan(seconds), 1, buckets).astype(np.int32)


def category_values(
    table: ibis.Table | None, key: str, vocabulary: Vocabulary
) -> dict[str, pd.Index]:
    """The distinct values of each category column of a table, in the order of their codes."""
    columns = _aligned(table, key, vocabulary)
    return {
        name: pd.factorize(_categories(column))[1]
        for name, column in columns.items()
        if _is_category(name, column)
    }


def _aligned(
    table: ibis.Table | None, key: str, vocabulary: Vocabulary
) -> dict[str, pa.ChunkedArray]:
    """A table's columns but its key and an item's title, one row an index of the vocabulary."""
    if table is None:
        return {}
    if key == ITEM and TITLE in table.columns:
        # As a category it would be the item's id a second time; people read it, models do not.
        table = table.drop(TITLE)
    rows = table.to_pyarrow()
    aligned = rows.take(_row_of_each_id(rows[key], vocabulary))
    return {name: aligned[name] for name in rows.column_names if name != key}


def _row_of_each_id(ids: pa.ChunkedArray, vocabulary: Vocabulary) -> pa.Array:
    """The table's row for every index, null for padding and for ids without a row."""
    rows = np.full(len(vocabulary), -1, np.int64)
    index = vocabulary.index_of(ids.combine_chunks())
    rows[index] = np.arange(len(index))
    rows[0] = -1
    return pa.array(rows, mask=rows < 0)


def _is_number(name: str, column: pa.ChunkedArray) -> bool:
    return name in (*NUMBERS, PUBLISHED_AT) or pa.types.is_floating(column.type)


def _is_category(name: str, column: pa.ChunkedArray) -> bool:
    kind = column.type
    if _is_number(name, column):
        return False
    text = (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    )
    return text or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or name == TOPICS


def _numbers(column: pa.ChunkedArray) -> Float64:
    if pa.types.is_timestamp(column.type):
        micros = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        return _floats(micros)
    return _floats(column.cast(pa.float64()))


def _floats(column: pa.ChunkedArray) -> Float64:
    values: Float64 = column.to_pandas().to_numpy(dtype=np.float64, na_value=np.nan)
    # A column of a log's own may hold infinities, which no scale survives.
    return np.where(np.isfinite(values), values, np.nan)


def _categories(column: pa.ChunkedArray) -> pd.Series:
    values = column.combine_chunks()
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = _first_of_each(values)
    categories: pd.Series = values.to_pandas()
    return categories


def _codes(column: pd.Series) -> Int32:
    # In the order of the vocabulary, so that a later id with a new category changes no older code.
    codes, _ = pd.factorize(column)
    indexes: Int32 = (codes + 1).astype(np.int32)
    return indexes


def _first_of_each(lists: pa.Array) -> pa.Array:
    lengths = lists.value_lengths().to_pandas().to_numpy(dtype=np.int64, na_value=0)
    starts = np.asarray(lists.offsets)[:-1].astype(np.int64)
    return lists.values.take(pa.array(starts, mask=lengths == 0))
