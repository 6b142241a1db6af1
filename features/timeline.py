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


@dataclass(frozen=True)
class Timeline:
    """Events sorted by (key, instant): `keys` int64 [n] >= 0, `instants` int64 [n]."""

    keys: Int64
    instants: Int64

    def before(self, keys: npt.NDArray[Any], instants: npt.NDArray[Any] | int) -> Int64:
        """Flat position just past each key's last event *strictly* before its instant: [m], [m] -> [m]."""
        ranks = np.searchsorted(self._clock, np.asarray(instants, np.int64), side="left")
        return np.searchsorted(self._codes, self._code(np.asarray(keys, np.int64), ranks), side="left")

    def starts(self, keys: npt.NDArray[Any]) -> Int64:
        """Flat position of each key's first event, or where it would stand: [m] -> [m]."""
        return np.searchsorted(self.keys, np.asarray(keys, np.int64), side="left")

    def knows(self, keys: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether a key has any event, at whatever instant: [m] -> [m]."""
        places = np.searchsorted(self._known, np.asarray(keys, np.int64), side="left")
        known: npt.NDArray[np.bool_] = np.append(self._known, -1)[places] == keys
        return known

    @cached_property
    def _clock(self) -> Int64:
        return _without_repeats(np.sort(self.instants))

    @cached_property
    def _codes(self) -> Int64:
        return self._code(self.keys, np.searchsorted(self._clock, self.instants))

    @cached_property
    def _known(self) -> Int64:
        return _without_repeats(self.keys)

    def _code(self, keys: Int64, ranks: npt.NDArray[Any]) -> Int64:
        # Both as dense ranks: key and instant then fit one int64 for any log that fits in memory.
        places = np.searchsorted(self._known, keys, side="left")
        unknown = np.append(self._known, -1)[places] != keys
        return places * (len(self._clock) + 1) + np.where(unknown, 0, ranks)


def timeline_order(keys: npt.NDArray[Any], instants: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """The stable order that sorts events by key, then instant."""
    return np.lexsort((instants, keys))


def _without_repeats(ascending: Int64) -> Int64:
    distinct: Int64 = ascending[np.diff(ascending, prepend=ascending[:1] - 1) != 0]
    return distinct
