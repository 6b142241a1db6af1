"""As-of counts: events counted by a key (users, items, user x channel, ...), read as of any
instant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from features.timeline import Spans, Timeline, timeline_order

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Counts = Mapping[str, npt.NDArray[Any]]

NEVER = np.iinfo(np.int64).min
NO_COLUMNS: Mapping[str, Float64] = MappingProxyType({})


@dataclass(frozen=True)
class Events:
    """The log in flat arrays, [n] each: who was shown what and when, whether it was clicked,
    seconds watched.

    `seconds` is 0 where not clicked and NaN where clicked with unknown seconds.
    """

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    timestamps_us: Int64
    clicked: npt.NDArray[np.bool_]
    seconds: Float64


@dataclass(frozen=True)
class AsOfCounts:
    """Counts of one key (users, items, user x channel ...) that can be read as of any instant.

    `summed` {name: float64 [n]} are further columns of the events whose sums are read beside the
    counts.
    """

    timeline: Timeline
    clicked: npt.NDArray[np.bool_]
    seconds: Float64
    summed: Mapping[str, Float64] = field(default_factory=dict)

    def as_of(
        self, keys: npt.NDArray[Any], timestamps_us: npt.NDArray[Any] | int
    ) -> dict[str, npt.NDArray[Any]]:
        """What was known of each key strictly before its instant, `counts` of [m], [m] -> [m]
        each.
        """
        return self.counts(self.timeline.spans(keys, timestamps_us))

    def counts(self, spans: Spans) -> dict[str, npt.NDArray[Any]]:
        """What is known of keys by their events in spans, [size] each.

        shown, clicks, seconds (of the clicks with known seconds), known (their number), the sums of
        `summed`, last_shown and last_click (instants, NEVER where there was none).
        """
        starts, ends = spans.starts, spans.ends
        names, sums = self._sums
        totals = np.take(sums, ends, axis=0)
        totals -= np.take(sums, starts, axis=0)
        found: dict[str, npt.NDArray[Any]] = dict(
            zip(names, np.ascontiguousarray(totals.T), strict=True)
        )
        found["shown"] = (ends - starts).astype(np.float64)
        # Most pairs of a candidate list never met: only the keys that have events were looked up.
        columns = {name: spans.spread(values) for name, values in found.items()}
        columns["last_shown"] = spans.spread(self._timestamp_at(ends - 1, starts), NEVER)
        columns["last_click"] = spans.spread(
            self._timestamp_at(np.take(self._last_click, ends), starts), NEVER
        )
        return columns

    def shown_and_clicked(self, spans: Spans) -> tuple[Float64, Float64]:
        """How many events there are in spans, and how many of them are clicks: [size] each."""
        clicks = np.take(self._clicks, spans.ends) - np.take(self._clicks, spans.starts)
        return spans.counted, spans.spread(clicks)

    def _timestamp_at(self, positions: Int64, starts: Int64) -> Int64:
        if not len(self.timeline.timestamps_us):
            return np.full(len(positions), NEVER)
        return np.where(
            positions >= starts,
            np.take(self.timeline.timestamps_us, np.maximum(positions, 0)),
            NEVER,
        )

    @cached_property
    def _clicks(self) -> Float64:
        """Clicks among the first i events, [n + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.clicked, dtype=np.float64)])

    @cached_property
    def _sums(self) -> tuple[tuple[str, ...], Float64]:
        """What is summed, and its sums over the first i events, side by side as they are read: [n +
        1, names].
        """
        known = self.clicked & ~np.isnan(self.seconds)
        columns = {
            "clicks": self.clicked,
            "known": known,
            "seconds": np.where(known, self.seconds, 0.0),
            **self.summed,
        }
        sums = np.zeros((len(known) + 1, len(columns)))
        for place, values in enumerate(columns.values()):
            np.cumsum(values, dtype=np.float64, out=sums[1:, place])
        return tuple(columns), sums

    @cached_property
    def _last_click(self) -> Int64:
        """Position of the last click among the first i events, -1 where there is none: [n + 1]."""
        positions = np.where(self.clicked, np.arange(len(self.clicked)), -1)
        return (
            np.concatenate([[-1], np.maximum.accumulate(positions)])
            if len(positions)
            else np.array([-1])
        )


def count_events(
    keys: npt.NDArray[Any], events: Events, summed: Mapping[str, Float64] = NO_COLUMNS
) -> AsOfCounts:
    """Events counted by a key each: keys [n], int64 >= 0; a negative key leaves its event out.

    `summed` {name: float64 [n]} are columns of the events that are summed too.
    """
    kept = np.flatnonzero(keys >= 0)
    order = kept[timeline_order(keys[kept], events.timestamps_us[kept])]
    timeline = Timeline(
        np.asarray(keys, np.int64)[order], np.asarray(events.timestamps_us, np.int64)[order]
    )
    sums = {name: values[order] for name, values in summed.items()}
    return AsOfCounts(timeline, events.clicked[order], events.seconds[order], sums)
