"""Events of many keys in time order, which can be asked what came before an instant.

One structure answers every as-of question of the funnel: training asks at the instant of each impression,
serving at the instant of the request, and both run the same two binary searches.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

# A table of all keys is kept where it is no larger than so many times the events.
KEYS_AN_EVENT = 4
FAR = 2**62


@dataclass(frozen=True)
class Timeline:
    """Events sorted by (key, instant): `keys` int64 [n] >= 0, `instants` int64 [n]."""

    keys: Int64
    instants: Int64

    def spans(self, keys: npt.NDArray[Any], instants: npt.NDArray[Any]) -> tuple[Int64, Int64, Int64]:
        """For the keys that have any event: their rows [m], and the flat positions of their first event and just past
        the last one strictly before their instant, [m] each. The others have no row.
        """
        places = self._places(np.asarray(keys, np.int64))
        rows = np.flatnonzero(places >= 0)
        places = places[rows]
        codes = places * self._length + self._ticks(np.asarray(instants, np.int64)[rows])
        return rows, self._firsts[places], _sought(self._codes, codes)

    def before(self, keys: npt.NDArray[Any], instants: npt.NDArray[Any] | int) -> Int64:
        """Flat position just past each key's last event *strictly* before its instant: [m], [m] -> [m]."""
        ticks = self._ticks(np.asarray(instants, np.int64))
        return _sought(self._codes, self._code(np.asarray(keys, np.int64), ticks))

    def starts(self, keys: npt.NDArray[Any]) -> Int64:
        """Flat position of each key's first event, or where it would stand: [m] -> [m]."""
        return np.searchsorted(self.keys, np.asarray(keys, np.int64), side="left")

    def _places(self, keys: Int64) -> Int64:
        """Which of the known keys each one is, -1 for one without events: [m] -> [m]."""
        if self._table is None:
            places = np.searchsorted(self._known, keys, side="left")
            return np.where(np.append(self._known, -1)[places] == keys, places, -1)
        inside = (keys >= 0) & (keys < len(self._table))
        return np.where(inside, self._table[np.where(inside, keys, 0)], -1)

    @cached_property
    def _table(self) -> Int64 | None:
        """The place of each key by the key itself, -1 unknown, where keys are about as many as events; else None."""
        if not len(self._known) or self._known[-1] > KEYS_AN_EVENT * len(self.keys):
            return None
        table = np.full(int(self._known[-1]) + 1, -1, np.int64)
        table[self._known] = np.arange(len(self._known))
        return table

    @cached_property
    def _firsts(self) -> Int64:
        """Flat position of the first event of each known key."""
        return np.searchsorted(self.keys, self._known, side="left")

    @cached_property
    def _codes(self) -> Int64:
        return self._code(self.keys, self._ticks(self.instants))

    def _ticks(self, instants: Int64) -> Int64:
        """Instants, [m] or one, as numbers in their order from 0 up, below `_length`."""
        if self._clock is not None:
            return np.searchsorted(self._clock, instants, side="left")
        return np.clip(instants - self._start, 0, self._length - 1)

    @cached_property
    def _clock(self) -> Int64 | None:
        """The distinct instants, whose ranks are the ticks where a key and microseconds do not fit one int64."""
        fits = len(self._known) * (self._stretch + 2) < np.iinfo(np.int64).max
        return None if fits else _without_repeats(np.sort(self.instants))

    @cached_property
    def _length(self) -> int:
        return self._stretch + 2 if self._clock is None else len(self._clock) + 1

    @cached_property
    def _start(self) -> int:
        return int(self.instants.min(initial=FAR))

    @property
    def _stretch(self) -> int:
        """From the first instant to the last."""
        return max(int(self.instants.max(initial=-FAR)) - self._start, 0)

    @cached_property
    def _known(self) -> Int64:
        return _without_repeats(self.keys)

    def _code(self, keys: Int64, ticks: npt.NDArray[Any]) -> Int64:
        """Key and tick in one int64; the key as a dense rank."""
        places = np.searchsorted(self._known, keys, side="left")
        unknown = np.append(self._known, -1)[places] != keys
        return places * self._length + np.where(unknown, 0, ticks)


def timeline_order(keys: npt.NDArray[Any], instants: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """The stable order that sorts events by key, then instant."""
    return np.lexsort((instants, keys))


def _sought(ascending: Int64, codes: Int64) -> Int64:
    """Where codes [m] would stand in an ascending array; in their own order, which finds its way in the cache."""
    order = np.argsort(codes)
    places = np.empty(len(codes), np.int64)
    places[order] = np.searchsorted(ascending, codes[order], side="left")
    return places


def _without_repeats(ascending: Int64) -> Int64:
    distinct: Int64 = ascending[np.diff(ascending, prepend=ascending[:1] - 1) != 0]
    return distinct
