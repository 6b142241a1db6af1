"""Events of many keys in time order, which can be asked what came before an instant.

One structure answers every as-of question of the funnel: training asks at the instant of each
impression, serving at the instant of the request, and both run the same two searches, for the key
and then for the instant.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.arrays import Float64, Int64, Intp
from features.compiled import seek

# A table of all keys is kept where it is no larger than so many times the events.
KEYS_AN_EVENT = 4


@dataclass(frozen=True)
class Spans:
    """Of `size` keys that were asked as of an instant each, those that have any event: their rows
    [m], the flat positions of their first event and just past the last one strictly before their
    instant, and the instants, [m] each.
    """

    size: int
    rows: Intp
    starts: Int64
    ends: Int64
    as_of: Int64

    @property
    def counted(self) -> Float64:
        """How many events of each key there are, [size]."""
        return self.spread((self.ends - self.starts).astype(np.float64))

    def spread(self, values: npt.NDArray[Any], missing: float = 0.0) -> npt.NDArray[Any]:
        """Values of the rows among all that were asked, the others missing: [m] -> [size]."""
        if len(self.rows) == self.size:
            return values
        spread = np.full(self.size, missing, values.dtype)
        spread[self.rows] = values
        return spread


@dataclass(frozen=True)
class Timeline:
    """Events sorted by (key, instant): `keys` int64 [n] >= 0, `instants` int64 [n]."""

    keys: Int64
    timestamps_us: Int64

    def spans(self, keys: npt.NDArray[Any], timestamps_us: npt.NDArray[Any] | int) -> Spans:
        """Where the events of each key strictly before its instant stand: [n], [n]."""
        places = self._places(np.asarray(keys, np.int64))
        rows = np.flatnonzero(places >= 0)
        found = places[rows]
        as_of = np.broadcast_to(np.asarray(timestamps_us, np.int64), places.shape)[rows]
        ends = np.empty(len(found), np.int64)
        seek(self.timestamps_us, self._firsts[found], self._firsts[found + 1], as_of, ends)
        return Spans(len(places), rows, self._firsts[found], ends, as_of)

    def before(self, keys: npt.NDArray[Any], timestamps_us: npt.NDArray[Any] | int) -> Int64:
        """Flat position just past each key's last event *strictly* before its instant: [m], [m] ->
        [m].
        """
        spans, positions = self.spans(keys, timestamps_us), self.starts(keys)
        positions[spans.rows] = spans.ends
        return positions

    def starts(self, keys: npt.NDArray[Any]) -> Int64:
        """Flat position of each key's first event, or where it would stand: [m] -> [m]."""
        return np.searchsorted(self.keys, np.asarray(keys, np.int64), side="left")

    def _places(self, keys: Int64) -> Int64:
        """Which of the known keys each one is, -1 for one without events: [m] -> [m]."""
        if self._table is None:
            places = np.searchsorted(self._known, keys, side="left")
            return np.where((keys >= 0) & (self._known_and_none[places] == keys), places, -1)
        inside = (keys >= 0) & (keys < len(self._table))
        return np.where(inside, self._table[np.where(inside, keys, 0)], -1)

    @cached_property
    def _table(self) -> Int64 | None:
        """The place of each key by the key itself, -1 unknown, where keys are about as many as
        events; else None.
        """
        if not len(self._known) or self._known[-1] > KEYS_AN_EVENT * len(self.keys):
            return None
        table = np.full(int(self._known[-1]) + 1, -1, np.int64)
        table[self._known] = np.arange(len(self._known))
        return table

    @cached_property
    def _firsts(self) -> Int64:
        """Flat position of the first event of each known key, and then of none: [known + 1]."""
        return np.append(np.searchsorted(self.keys, self._known, side="left"), len(self.keys))

    @cached_property
    def _known(self) -> Int64:
        """The keys that have events, ascending."""
        keys: Int64 = self.keys[np.diff(self.keys, prepend=self.keys[:1] - 1) != 0]
        return keys

    @cached_property
    def _known_and_none(self) -> Int64:
        return np.append(self._known, -1)


def timeline_order(keys: npt.NDArray[Any], timestamps_us: npt.NDArray[Any]) -> Intp:
    """The stable order that sorts events by key, then instant."""
    return np.lexsort((timestamps_us, keys))


def pair_keys(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Int64:
    """One int64 key for a pair of indexes below 2^31, in the order of the first, then the second;
    both broadcast.

    A negative second index makes a negative key, which no event has.
    """
    return (np.asarray(first, np.int64) << 32) | np.asarray(second, np.int64)


def pairs_of(keys: Int64) -> tuple[Int64, Int64]:
    """The first and the second indexes that `pair_keys` made keys of, none of them negative."""
    return keys >> 32, keys & 0xFFFFFFFF
