"""As-of counts: events counted by a key (users, items, user x channel, ...), read as of any
instant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from features.arrays import Flags, Float64, Int32, Int64, Intp
from features.compiled import seek
from features.schema import SECOND
from features.timeline import Spans, Timeline, timeline_order

Counts = Mapping[str, npt.NDArray[Any]]
RunningSums = tuple[tuple[str, ...], Float64]

NEVER = np.iinfo(np.int64).min
NO_COLUMNS: Mapping[str, Float64] = MappingProxyType({})


@dataclass(frozen=True)
class Events:
    """The log in flat arrays, [n] each: who was shown what and when, whether it was clicked,
    seconds watched, and when that became known.

    `seconds` is 0 where not clicked and NaN where clicked with unknown seconds. `requests_us` is
    when the page that holds the event was asked for: what it was chosen by came strictly before.
    `ended_us` is when the seconds were known: the end of a watch, else the event itself.
    """

    users: Int32
    items: Int32
    timestamps_us: Int64
    clicked: Flags
    seconds: Float64
    requests_us: Int64
    ended_us: Int64

    @classmethod
    def of(
        cls,
        users: Int32,
        items: Int32,
        timestamps_us: Int64,
        clicked: Flags,
        seconds: Float64,
        requests_us: Int64 | None = None,
    ) -> "Events":
        """Events of known requests, else each a request of its own; a watch ends its seconds after
        it began.
        """
        requests_us = timestamps_us if requests_us is None else requests_us
        ended_us = timestamps_us + np.ceil(np.nan_to_num(seconds) * SECOND).astype(np.int64)
        return cls(users, items, timestamps_us, clicked, seconds, requests_us, ended_us)

    def take(self, rows: Intp) -> "Events":
        """Some of the events."""
        return Events(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})

    def known_before(self, as_of: int) -> "Events":
        """What a server knew strictly before an instant: of a watch that still ran, no seconds."""
        some = self.take(np.flatnonzero(self.timestamps_us < as_of))
        running = some.ended_us >= as_of
        return replace(some, seconds=np.where(running, np.nan, some.seconds))


@dataclass(frozen=True)
class Summed:
    """Columns of events whose sums are read beside the counts, {name: float64 [n]}: what is known
    at the event, and what only when its watch has ended.
    """

    at_event: Mapping[str, Float64] = field(default_factory=dict)
    at_end: Mapping[str, Float64] = field(default_factory=dict)

    def __or__(self, other: "Summed") -> "Summed":
        return Summed({**self.at_event, **other.at_event}, {**self.at_end, **other.at_end})


NOTHING_SUMMED = Summed()


@dataclass(frozen=True)
class AsOfCounts:
    """Counts of one key (users, items, user x channel ...) that can be read as of any instant.

    `clicked` [n] and `sums_at_event` are in the order of the timeline; `ended_us` and `sums_at_end`
    stand by key and by the end of the watch. Sums are over the first i events, [n + 1, names], with
    what they sum: clicks first at the event; known (clicks of known seconds) and their seconds at
    the end.
    """

    timeline: Timeline
    clicked: Flags
    ended_us: Int64
    sums_at_event: RunningSums
    sums_at_end: RunningSums

    def as_of(
        self, keys: npt.NDArray[Any], timestamps_us: npt.NDArray[Any] | int
    ) -> dict[str, npt.NDArray[Any]]:
        """What was known of each key strictly before its instant, `counts` of [m], [m] -> [m]
        each.
        """
        return self.counts(self.timeline.spans(keys, timestamps_us))

    def counts(self, spans: Spans) -> dict[str, npt.NDArray[Any]]:
        """What is known of keys by their events in spans, [size] each.

        shown, clicks, known (clicks whose watch has ended with known seconds), seconds (of these),
        the sums of `summed`, last_shown and last_click (instants, NEVER where there was none).
        """
        starts, ends = spans.starts, spans.ends
        # A watch ends after it began: what has ended lies among the first so many of its key.
        ended = np.empty(len(ends), np.int64)
        seek(self.ended_us, starts, ends, spans.as_of, ended)
        found = _totals(*self.sums_at_event, starts, ends) | _totals(
            *self.sums_at_end, starts, ended
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
        so_far = self.sums_at_event[1][:, 0]
        clicks = np.take(so_far, spans.ends) - np.take(so_far, spans.starts)
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
    def _last_click(self) -> Int64:
        """Position of the last click among the first i events, -1 where there is none: [n + 1]."""
        positions = np.where(self.clicked, np.arange(len(self.clicked)), -1)
        return (
            np.concatenate([[-1], np.maximum.accumulate(positions)])
            if len(positions)
            else np.array([-1])
        )


def count_events(
    keys: npt.NDArray[Any], events: Events, summed: Summed = NOTHING_SUMMED
) -> AsOfCounts:
    """Events counted by a key each: keys [n], int64 >= 0; a negative key leaves its event out."""
    kept = np.flatnonzero(keys >= 0)
    order = kept[timeline_order(keys[kept], events.timestamps_us[kept])]
    at_end = kept[timeline_order(keys[kept], events.ended_us[kept])]
    timeline = Timeline(
        np.asarray(keys, np.int64)[order], np.asarray(events.timestamps_us, np.int64)[order]
    )
    clicked = events.clicked[order]
    # What was not clicked has no seconds to be known.
    known = (events.clicked & ~np.isnan(events.seconds))[at_end]
    seconds = np.where(events.clicked, np.nan_to_num(events.seconds), 0.0)[at_end]
    shown, ended = (
        {name: values[rows] for name, values in columns.items()}
        for columns, rows in ((summed.at_event, order), (summed.at_end, at_end))
    )
    return AsOfCounts(
        timeline,
        clicked,
        events.ended_us[at_end],
        _running_sums({"clicks": clicked, **shown}),
        _running_sums({"known": known, "seconds": seconds, **ended}),
    )


def _running_sums(columns: Mapping[str, npt.NDArray[Any]]) -> RunningSums:
    """What is summed, and its sums over the first i events, side by side as they are read: [n + 1,
    names].
    """
    sums = np.zeros((len(next(iter(columns.values()))) + 1, len(columns)))
    for place, values in enumerate(columns.values()):
        np.cumsum(values, dtype=np.float64, out=sums[1:, place])
    return tuple(columns), sums


def _totals(
    names: tuple[str, ...], sums: Float64, starts: Int64, ends: Int64
) -> dict[str, npt.NDArray[Any]]:
    """The sums over the events from starts to ends, by name, [m] each."""
    totals = np.take(sums, ends, axis=0)
    totals -= np.take(sums, starts, axis=0)
    return dict(zip(names, np.ascontiguousarray(totals.T), strict=True))
