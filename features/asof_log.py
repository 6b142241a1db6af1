"""The log counted by group keys, and rows that are read from it together: what every as-of feature
is computed from.

Whatever a row reads came strictly before its own instant, so one reading serves training, at the
instant of each impression, and serving, at the instant of the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from features.arrays import Float64, Int32, Int64, Intp
from features.asof_counts import (
    NO_COLUMNS,
    NOTHING_SUMMED,
    AsOfCounts,
    Counts,
    Events,
    Summed,
    count_events,
)
from features.expected_counts import (
    PRIOR_ROWS,
    PRIOR_SHOWN,
    ExpectedCounts,
    Rates,
    overall_rates,
    smoothed_rates,
)
from features.schema import DURATION_SECONDS, PUBLISHED_AT
from features.side_features import SideFeatures, group_codes
from features.timeline import Spans, Timeline, pair_keys, timeline_order

Contexts = Mapping[str, Int32]

ItemGroup = Literal["item", "channel", "topic", "duration_bucket"]
SummedName = Literal[
    "expected by item", "expected by item, same topic", "expected by user", "watched shares"
]
# What a log must know for a feature to be made of it.
Need = Literal["clock", "published", "channel", "topic", "duration_bucket", "watched shares"]


@dataclass(frozen=True)
class GroupKey:
    """What events are counted by: their user, a group of their item, both, or all of them together.

    Nothing is counted for what is the `request`'s own.

    `summed` says what is summed of the events beside the counts.
    """

    name: str
    by_user: bool = False
    by_item: ItemGroup | None = None
    summed: SummedName | None = None


GROUP_KEYS = {
    key.name: key
    for key in (
        GroupKey("request"),
        GroupKey("all", summed="watched shares"),
        GroupKey("user", by_user=True, summed="expected by item, same topic"),
        GroupKey("item", by_item="item", summed="expected by user"),
        GroupKey("channel", by_item="channel"),
        GroupKey("topic", by_item="topic"),
        GroupKey("duration_bucket", by_item="duration_bucket"),
        GroupKey("user_item", by_user=True, by_item="item"),
        GroupKey("user_channel", by_user=True, by_item="channel", summed="expected by item"),
        GroupKey("user_topic", by_user=True, by_item="topic", summed="expected by item"),
        GroupKey(
            "user_duration_bucket",
            by_user=True,
            by_item="duration_bucket",
            summed="expected by item",
        ),
    )
}


@dataclass(frozen=True)
class AsOfLog:
    """The log and the side columns of users and items, counted by group keys as they are asked for.

    `timed` is False where the log's clock is order only: then nothing reads an hour, an age or a
    recency. `contexts` are codes of each event, [n] by column, 0 unknown: on which device and
    surface it was shown. Where the events' T is not `in_seconds`, nothing is measured by items'
    durations.
    """

    events: Events
    users: SideFeatures
    items: SideFeatures
    timed: bool
    contexts: Contexts = field(default_factory=dict)
    in_seconds: bool = True

    @cached_property
    def knows(self) -> frozenset[Need]:
        """What of all that features may need there is."""
        durations = DURATION_SECONDS in self.items.numbers
        there: dict[Need, bool] = {
            "clock": self.timed,
            "published": PUBLISHED_AT in self.items.numbers,
            "channel": "channel" in self.group_codes,
            "topic": "topic" in self.group_codes,
            "duration_bucket": durations,
            "watched shares": durations and self.in_seconds,
        }
        return frozenset(need for need, known in there.items() if known)

    @cached_property
    def group_codes(self) -> dict[str, Int32]:
        """The groups of items: codes [items] by group, -1 for none."""
        return group_codes(self.items)

    def rows(
        self,
        users: Int32,
        items: Int32,
        timestamps_us: Int64 | int,
        contexts: Contexts | None = None,
        recall: Mapping[str, Float64] = NO_COLUMNS,
    ) -> "AsOfRows":
        """Rows [n] of users and items at instants, in the contexts of their requests, else in their
        users' last.

        `recall` {name: float64 [n]} are the columns that come with the candidates.
        """
        codes = {group: codes[items] for group, codes in self.group_codes.items()}
        return AsOfRows(
            self, users, codes | {"item": items}, per_row(timestamps_us, users), contexts, recall
        )

    def rows_of_users(
        self, users: Int32, timestamps_us: Int64 | int, contexts: Contexts | None = None
    ) -> "AsOfRows":
        """Rows [n] of users alone."""
        return AsOfRows(self, users, {}, per_row(timestamps_us, users), contexts)

    def rows_of_items(self, items: Int32, timestamps_us: Int64 | int) -> "AsOfRows":
        """Rows [n] of items alone."""
        codes = {group: codes[items] for group, codes in self.group_codes.items()}
        return AsOfRows(
            self, np.zeros(0, np.int32), codes | {"item": items}, per_row(timestamps_us, items)
        )

    def rows_of_groups(
        self, group: str, users: Int32, codes: Int32, timestamps_us: Int64 | int
    ) -> "AsOfRows":
        """Rows [n] of users and codes (-1 none) of a group of items, whichever items those are."""
        return AsOfRows(self, users, {group: codes}, per_row(timestamps_us, users))

    def counts_by(self, group: str) -> AsOfCounts:
        """The log's events counted by a group key."""
        if group not in self._counts:
            keys = self._event_rows.keys(GROUP_KEYS[group])
            self._counts[group] = count_events(
                keys, self.events, self._summed(GROUP_KEYS[group].summed)
            )
        return self._counts[group]

    def last_clicked(self, users: Int32, timestamps_us: Int64 | int, length: int) -> Int32:
        """Items that users [n] last clicked strictly before instants [n], newest first: [n,
        length], 0 for none.
        """
        timeline, rows = self._clicked
        ends, starts = timeline.before(users, per_row(timestamps_us, users)), timeline.starts(users)
        positions = ends[:, None] - 1 - np.arange(length)
        present = positions >= starts[:, None]
        padded = self.events.items[rows] if len(rows) else np.zeros(1, np.int32)
        return np.where(present, padded[np.where(present, positions, 0)], 0).astype(np.int32)

    def last_contexts(self, users: Int32, timestamps_us: Int64) -> Contexts:
        """Contexts of users' last impressions strictly before instants, 0 where there was none."""
        timeline, rows = self._shown
        spans = timeline.spans(users, timestamps_us)
        some = spans.ends > spans.starts
        asked, last = spans.rows[some], rows[spans.ends[some] - 1]
        columns = {name: np.zeros(len(users), np.int32) for name in self.contexts}
        for name, codes in self.contexts.items():
            columns[name][asked] = codes[last]
        return columns

    def _summed(self, summed: SummedName | None) -> Summed:
        """Columns of the events that are summed beside their counts."""
        if summed == "expected by item":
            return self.expected.by_item
        if summed == "expected by item, same topic":
            return self.expected.by_item | self.expected.same_topic_pairs
        if summed == "expected by user":
            return self.expected.by_user
        return self.expected.watched_shares if summed == "watched shares" else NOTHING_SUMMED

    @cached_property
    def expected(self) -> ExpectedCounts:
        """What had been expected of each event."""
        groups = ("all", "user", "item", *(["user_topic"] if "topic" in self.group_codes else []))
        lengths = self.items.numbers.get(DURATION_SECONDS) if self.in_seconds else None
        keys = {group: self._event_rows.keys(GROUP_KEYS[group]) for group in groups}
        return ExpectedCounts(
            self.events, keys, None if lengths is None else lengths[self.events.items]
        )

    @cached_property
    def _counts(self) -> dict[str, AsOfCounts]:
        return {}

    @cached_property
    def _event_rows(self) -> "AsOfRows":
        return self.rows(self.events.users, self.events.items, self.events.timestamps_us)

    @cached_property
    def _shown(self) -> tuple[Timeline, Intp]:
        """Each user's impressions in time order, and their rows."""
        return self._by_user(np.arange(len(self.events.users)))

    @cached_property
    def _clicked(self) -> tuple[Timeline, Intp]:
        """Each user's clicks in time order, and their rows."""
        return self._by_user(np.flatnonzero(self.events.clicked))

    def _by_user(self, some: Intp) -> tuple[Timeline, Intp]:
        """Some rows of the events by user and time, and which those are."""
        rows = some[timeline_order(self.events.users[some], self.events.timestamps_us[some])]
        return Timeline(
            self.events.users[rows].astype(np.int64), self.events.timestamps_us[rows]
        ), rows


@dataclass(frozen=True)
class AsOfRows:
    """Rows [n] that are read together: their users, the codes of their items by group (-1 none),
    their instants.

    Rows of users alone have no codes, rows of items alone no users. `contexts` are codes by column,
    None where the request has not come with any, and `recall` are the columns that came with the
    candidates.
    """

    log: AsOfLog
    users: Int32
    codes: Contexts
    timestamps_us: Int64
    contexts: Contexts | None = None
    recall: Mapping[str, Float64] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.timestamps_us)

    @property
    def items(self) -> Int32:
        """The rows' items, [n]."""
        return self.codes["item"]

    def by(self, group: str) -> "GroupRows":
        """The rows by a group key."""
        if group not in self._groups:
            self._groups[group] = GroupRows(self, GROUP_KEYS[group])
        return self._groups[group]

    def keys(self, key: GroupKey) -> npt.NDArray[Any]:
        """The rows' keys in a group, [n]; negative where there is none."""
        if key.by_item is None:
            return self.users if key.by_user else np.zeros(len(self), np.int64)
        codes = self.codes[key.by_item]
        return pair_keys(self.users, codes) if key.by_user else codes

    @cached_property
    def overall(self) -> Rates:
        """The whole log's click rate and seconds a click so far, [n] each."""
        return overall_rates(self.by("all").counts)

    @cached_property
    def last_clicked(self) -> Int32:
        """The item that each row's user last clicked, 0 for none: [n]."""
        return self.log.last_clicked(self.users, self.timestamps_us, 1)[:, 0]

    @cached_property
    def _groups(self) -> dict[str, "GroupRows"]:
        return {}


@dataclass(frozen=True)
class GroupRows:
    """Rows [n] by one group key: what was known of each one's group strictly before its instant,
    [n] each.
    """

    rows: AsOfRows
    key: GroupKey

    @cached_property
    def counts(self) -> Counts:
        """All counts of the group."""
        return self._log_counts.counts(self._spans)

    @cached_property
    def shown(self) -> Float64:
        """The group's impressions."""
        return self._spans.counted

    @cached_property
    def rates(self) -> Rates:
        """The group's click rate and seconds a click, smoothed: shrunk towards the whole log's."""
        return smoothed_rates(self.counts, self.rows.overall, PRIOR_ROWS)

    @property
    def share_of_log(self) -> Float64:
        """The share of all impressions that were of the group."""
        return (self.shown + 1) / (self.rows.by("all").shown + PRIOR_SHOWN)

    def shown_within(self, span: int) -> Float64:
        """The group's impressions in the last microseconds before the rows' instants."""
        return self.shown - self._before(span)[0]

    def clicks_within(self, span: int) -> Float64:
        """The group's clicks in the last microseconds before the rows' instants."""
        return np.asarray(self.counts["clicks"] - self._before(span)[1])

    def _before(self, span: int) -> tuple[Float64, Float64]:
        """Impressions and clicks up to a span before the rows' instants."""
        if span not in self._earlier:
            spans = self._log_counts.timeline.spans(
                self.rows.keys(self.key), self.rows.timestamps_us - span
            )
            self._earlier[span] = self._log_counts.shown_and_clicked(spans)
        return self._earlier[span]

    @cached_property
    def _earlier(self) -> dict[int, tuple[Float64, Float64]]:
        return {}

    @cached_property
    def _spans(self) -> Spans:
        return self._log_counts.timeline.spans(self.rows.keys(self.key), self.rows.timestamps_us)

    @property
    def _log_counts(self) -> AsOfCounts:
        return self.rows.log.counts_by(self.key.name)


def per_row(timestamps_us: Int64 | int, rows: npt.NDArray[Any]) -> Int64:
    """An instant for each row: one for all, or [n]."""
    return np.broadcast_to(np.asarray(timestamps_us, np.int64), rows.shape)
