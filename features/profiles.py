"""What is known of users and items: their side columns in indexes, and their tallies as of any instant."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ibis
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.tables import AGE, DURATION_SECONDS, PUBLISHED_AT, TOPICS
from features.timeline import Spans, Timeline, timeline_order
from features.vocabulary import Vocabulary

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

NEVER = np.iinfo(np.int64).min
MAX_CATEGORIES = 10_000
NUMBERS = (AGE, DURATION_SECONDS)
NO_VALUES: Mapping[str, pd.Index] = MappingProxyType({})
NOTHING_DUE: Mapping[str, Float64] = MappingProxyType({})


@dataclass(frozen=True)
class Side:
    """Side columns of one vocabulary, one row an index (row 0 is nobody).

    `codes[name]` int32 [n]: category codes by first appearance, 0 unknown, `sizes[name]` codes in all;
    `numbers[name]` float64 [n], NaN unknown. Topics stand as their first one. `matches[name]` int32 [n] is an item's
    value in the users' codes of the column of that name, 0 where no user has it: a viewer's language and a video's.
    """

    codes: dict[str, npt.NDArray[np.int32]]
    sizes: dict[str, int]
    numbers: dict[str, Float64]
    matches: dict[str, npt.NDArray[np.int32]] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """One row an index: columns `code:<name>`, `number:<name>` and `match:<name>`."""
        kinds: dict[str, Mapping[str, npt.NDArray[Any]]]
        kinds = {"code": self.codes, "number": self.numbers, "match": self.matches}
        return pd.DataFrame({f"{kind}:{n}": values for kind, columns in kinds.items() for n, values in columns.items()})

    @classmethod
    def load(cls, path: Path) -> "Side":
        table = pq.read_table(path)
        codes, numbers, matches = (_of_kind(table, kind) for kind in ("code", "number", "match"))
        return cls(codes, {name: int(code.max(initial=0)) + 1 for name, code in codes.items()}, numbers, matches)


def _of_kind(table: pa.Table, kind: str) -> dict[str, npt.NDArray[Any]]:
    names = [name for name in table.column_names if name.startswith(f"{kind}:")]
    return {name.removeprefix(f"{kind}:"): table[name].to_numpy() for name in names}


def side_of(
    table: ibis.Table | None, key: str, vocabulary: Vocabulary, values: Mapping[str, pd.Index] = NO_VALUES
) -> Side:
    """The side columns of a table (users or items) in a vocabulary's order; no table, no columns.

    `values` are the other side's categories, in the order of their codes, by column: what `matches` is made with.
    """
    columns = _aligned(table, key, vocabulary)
    numbers = {name: _numbers(column) for name, column in columns.items() if _is_number(name, column)}
    categories = {name: _categories(column) for name, column in columns.items() if _is_category(name, column)}
    codes = {name: _codes(column) for name, column in categories.items()}
    shared = {name: column for name, column in categories.items() if name in values}
    matches = {
        name: (values[name].get_indexer(pd.Index(column)) + 1).astype(np.int32) for name, column in shared.items()
    }
    sizes = {name: int(code.max(initial=0)) + 1 for name, code in codes.items()}
    kept = [name for name, size in sizes.items() if 2 <= size - 1 <= MAX_CATEGORIES or name == "channel_id"]
    return Side({name: codes[name] for name in kept}, {name: sizes[name] for name in kept}, numbers, matches)


def category_values(table: ibis.Table | None, key: str, vocabulary: Vocabulary) -> dict[str, pd.Index]:
    """The distinct values of each category column of a table, in the order of their codes."""
    columns = _aligned(table, key, vocabulary)
    return {
        name: pd.factorize(_categories(column))[1] for name, column in columns.items() if _is_category(name, column)
    }


def _aligned(table: ibis.Table | None, key: str, vocabulary: Vocabulary) -> dict[str, pa.ChunkedArray]:
    """A table's columns but its key, one row an index of the vocabulary."""
    if table is None:
        return {}
    rows = table.to_pyarrow()
    aligned = rows.take(_row_of_each_id(rows[key], vocabulary))
    return {name: aligned[name] for name in rows.column_names if name != key}


def _row_of_each_id(ids: pa.ChunkedArray, vocabulary: Vocabulary) -> pa.Array:
    """The table's row for every index, null for nobody and for ids without a row."""
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
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    return text or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or name == TOPICS


def _numbers(column: pa.ChunkedArray) -> Float64:
    if pa.types.is_timestamp(column.type):
        micros = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        return _floats(micros)
    return _floats(column.cast(pa.float64()))


def _floats(column: pa.ChunkedArray) -> Float64:
    values: Float64 = column.to_pandas().to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def _categories(column: pa.ChunkedArray) -> pd.Series:
    values = column.combine_chunks()
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = _first_of_each(values)
    categories: pd.Series = values.to_pandas()
    return categories


def _codes(column: pd.Series) -> npt.NDArray[np.int32]:
    # In the order of the vocabulary, so that a later id with a new category changes no older code.
    codes, _ = pd.factorize(column)
    indexes: npt.NDArray[np.int32] = (codes + 1).astype(np.int32)
    return indexes


def _first_of_each(lists: pa.Array) -> pa.Array:
    lengths = lists.value_lengths().to_pandas().to_numpy(dtype=np.int64, na_value=0)
    starts = np.asarray(lists.offsets)[:-1].astype(np.int64)
    return lists.values.take(pa.array(starts, mask=lengths == 0))


@dataclass(frozen=True)
class Events:
    """The log in flat arrays, [n] each: who was shown what and when, whether it was clicked, seconds watched.

    `seconds` is 0 where not clicked and NaN where clicked with unknown seconds.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    instants: Int64
    clicked: npt.NDArray[np.bool_]
    seconds: Float64


@dataclass(frozen=True)
class Tally:
    """Counts of one key space (users, items, user x channel ...) that can be read as of any instant.

    `due` {name: float64 [n]} are further columns of the events to be summed beside them; `left` {name: float64 [n]}
    is what each event left behind it.
    """

    timeline: Timeline
    clicked: npt.NDArray[np.bool_]
    seconds: Float64
    due: Mapping[str, Float64] = field(default_factory=dict)
    left: Mapping[str, Float64] = field(default_factory=dict)

    def as_of(self, keys: npt.NDArray[Any], instants: npt.NDArray[Any] | int) -> dict[str, npt.NDArray[Any]]:
        """What was known of each key strictly before its instant, `counts` of [m], [m] -> [m] each."""
        return self.counts(self.timeline.spans(keys, instants))

    def counts(self, spans: Spans) -> dict[str, npt.NDArray[Any]]:
        """What is known of keys by their events in spans, [size] each.

        shown, clicks, seconds (of the clicks with known seconds), known (their number), the sums of what was due,
        last_shown and last_click (instants, NEVER where there was none).
        """
        starts, ends = spans.starts, spans.ends
        names, sums = self._sums
        totals = np.take(sums, ends, axis=0)
        totals -= np.take(sums, starts, axis=0)
        found: dict[str, npt.NDArray[Any]] = dict(zip(names, np.ascontiguousarray(totals.T), strict=True))
        found["shown"] = (ends - starts).astype(np.float64)
        # Most pairs of a candidate list never met: only the keys that have events were looked up.
        columns = {name: spans.spread(values) for name, values in found.items()}
        columns["last_shown"] = spans.spread(self._instant_at(ends - 1, starts), NEVER)
        columns["last_click"] = spans.spread(self._instant_at(np.take(self._last_click, ends), starts), NEVER)
        return columns

    def shown_and_clicked(self, spans: Spans) -> tuple[Float64, Float64]:
        """How many events there are in spans, and how many of them are clicks: [size] each."""
        clicks = np.take(self._clicks, spans.ends) - np.take(self._clicks, spans.starts)
        return spans.counted, spans.spread(clicks)

    def left_by_last(self, spans: Spans) -> dict[str, Float64]:
        """What the last event in each span left, 0 where there is none: [size] each."""
        some, last = spans.ends > spans.starts, np.maximum(spans.ends - 1, 0)
        return {name: spans.spread(np.where(some, np.take(x, last), 0.0)) for name, x in self.left.items() if len(x)}

    def _instant_at(self, positions: Int64, starts: Int64) -> Int64:
        if not len(self.timeline.instants):
            return np.full(len(positions), NEVER)
        return np.where(positions >= starts, np.take(self.timeline.instants, np.maximum(positions, 0)), NEVER)

    @cached_property
    def _clicks(self) -> Float64:
        """Clicks among the first i events, [n + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.clicked, dtype=np.float64)])

    @cached_property
    def _sums(self) -> tuple[tuple[str, ...], Float64]:
        """What is summed, and its sums over the first i events, side by side as they are read: [n + 1, names]."""
        known = self.clicked & ~np.isnan(self.seconds)
        columns = {"clicks": self.clicked, "known": known, "seconds": np.where(known, self.seconds, 0.0), **self.due}
        sums = np.zeros((len(known) + 1, len(columns)))
        for place, values in enumerate(columns.values()):
            np.cumsum(values, dtype=np.float64, out=sums[1:, place])
        return tuple(columns), sums

    @cached_property
    def _last_click(self) -> Int64:
        """Position of the last click among the first i events, -1 where there is none: [n + 1]."""
        positions = np.where(self.clicked, np.arange(len(self.clicked)), -1)
        return np.concatenate([[-1], np.maximum.accumulate(positions)]) if len(positions) else np.array([-1])


def tally_of(
    keys: npt.NDArray[Any],
    events: Events,
    due: Mapping[str, Float64] = NOTHING_DUE,
    left: Mapping[str, Float64] = NOTHING_DUE,
) -> Tally:
    """The tally of a key for each event: keys [n], int64 >= 0; a negative key leaves its event out.

    `due` {name: float64 [n]} are columns of the events that are summed too, `left` what each of them leaves.
    """
    kept = np.flatnonzero(keys >= 0)
    order = kept[timeline_order(keys[kept], events.instants[kept])]
    timeline = Timeline(np.asarray(keys, np.int64)[order], np.asarray(events.instants, np.int64)[order])
    sums, traces = ({name: values[order] for name, values in columns.items()} for columns in (due, left))
    return Tally(timeline, events.clicked[order], events.seconds[order], sums, traces)


def profiles(side: Side, tally: Tally, size: int, as_of: int) -> pd.DataFrame:
    """One row for each of `size` indexes: side columns, and `tally:<name>` counts strictly before an instant."""
    counts = tally.as_of(np.arange(size), as_of)
    names = ("shown", "clicks", "known", "seconds")
    return side.frame.reindex(range(size)).assign(**{f"tally:{name}": counts[name] for name in names})
