"""The declared catalogue of point-in-time (as-of) features: what the ranker is told, in the order
in which it reads it.

A new feature is one entry, and a formula where none fits. From the entries the columns are built
(`features.asof_features`), the leakage check runs over what they build, `ranking.without` is held
against their names, and `docs/features.md` is written. The first paragraph of a formula's docstring
says what the feature means.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from features.arrays import Float64
from features.asof_counts import NEVER
from features.asof_log import GROUP_KEYS, AsOfRows, GroupRows, Need
from features.expected_counts import HALF_LENGTH, HALF_SHOWN, OWN_PRIOR_ROWS, PRIOR_SHOWN, log_ratio
from features.schema import (
    CHANNEL,
    DAY,
    DEVICE,
    DURATION_SECONDS,
    HOUR,
    PUBLISHED_AT,
    SURFACE,
    TOPICS,
)

Values = npt.NDArray[Any]
Formula = Callable[[GroupRows], Values]
BlockName = Literal["user", "item", "pair"]
Kind = Literal["number", "code"]
Unit = Literal[
    "log count",
    "count",
    "share",
    "log share",
    "log ratio",
    "seconds",
    "hours",
    "days",
    "lengths",
    "flag",
    "category",
    "",
]

LATELY = 3 * DAY
# How often two impressions of a user are of one topic is shrunk to a tenth, by ten pairs.
PRIOR_PAIRS, PRIOR_SAME = 10.0, 1.0

# Why a feature is there: where the paper says so, or our own reason.
SIMILAR = "paper, 4.1: how the user met this item and similar ones before is the strongest signal"
CHURN = "paper, 4.1: past impressions, so that what was ignored is not shown again"
ELAPSED = "paper, figure 7: time since the last watch"
EMBEDDED = (
    "paper, 4.1 and figure 7: the item and what was watched before are embedded, in one table"
)
NOMINATED = "paper, 4.1: the scores with which the candidate was nominated"
FRESH = "paper, 3.3: fresh videos are preferred"
SPLIT = "paper, figure 7: properties of the user and of the video"
LANGUAGE = "paper, figure 7: the user's language and the video's"
MEAN = "own: what became of earlier impressions is the strongest baseline of expected seconds"
INTEREST = (
    "own: beside what was expected, interest is told from good items, and good items from "
    "willing users"
)
EXPOSURE = "own: a feed that knows its users tells their interests by what it shows"
TREND = "own: what is popular changes within hours, and what a user is up to within days"
RHYTHM = "own: watching differs by hour and weekday"


@dataclass(frozen=True)
class Measure:
    """A formula that is computed for several groups, where the log knows what it needs beside the
    group.
    """

    name: str
    unit: Unit
    source: str
    values: Formula
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True)
class AsOfFeature:
    """One column: float64, NaN unknown, or an int32 code, 0 unknown.

    `group` is the key by which the log is counted for it; `needs` is what a log must know beside
    the group. Codes of one `id_space` share an embedding.
    """

    name: str
    block: BlockName
    group: str
    unit: Unit
    source: str
    values: Formula
    needs: tuple[Need, ...] = ()
    kind: Kind = "number"
    id_space: str = ""

    @property
    def needed(self) -> frozenset[Need]:
        """All that a log must know for this column."""
        of_group = GROUP_KEYS[self.group].by_item
        if of_group is None or of_group == "item":
            return frozenset(self.needs)
        group: Need = of_group
        return frozenset({*self.needs, group})

    @property
    def meaning(self) -> str:
        """What the column says, one sentence."""
        return _first_paragraph(self.values)

    def columns(self, rows: AsOfRows) -> Mapping[str, Values]:
        """The column of rows by its name, [n]; none where the log does not know what it needs."""
        return (
            {self.name: self.values(rows.by(self.group))} if self.needed <= rows.log.knows else {}
        )


@dataclass(frozen=True)
class OpenFeatures:
    """Columns whose names the incoming tables, or recall, decide: `name` is their pattern, `<...>`
    what differs.
    """

    name: str
    block: BlockName
    group: str
    unit: Unit
    source: str
    made: Callable[[AsOfRows], Mapping[str, Values]]
    kind: Kind = "number"

    @property
    def meaning(self) -> str:
        """What the columns say, one sentence."""
        return _first_paragraph(self.made)

    def columns(self, rows: AsOfRows) -> Mapping[str, Values]:
        """The columns of rows by name, [n] each."""
        return self.made(rows)


Entry = AsOfFeature | OpenFeatures
Entries = tuple[Entry, ...]


def shown(by: GroupRows) -> Float64:
    """Impressions."""
    return np.log1p(by.shown)


def click_rate(by: GroupRows) -> Float64:
    """Clicks over impressions, smoothed towards the whole log's."""
    return by.rates[0]


def seconds_per_click(by: GroupRows) -> Float64:
    """Mean watch seconds of a click, smoothed towards the whole log's."""
    return by.rates[1]


def seconds_per_impression(by: GroupRows) -> Float64:
    """Smoothed click rate times smoothed seconds of a click."""
    rate, seconds = by.rates
    return rate * seconds


def click_log_ratio(by: GroupRows) -> Float64:
    """Clicks over expected clicks."""
    return log_ratio(by.counts["clicks"], by.counts["clicks_expected"], 1)


def seconds_log_ratio(by: GroupRows) -> Float64:
    """Watch seconds over expected seconds."""
    return log_ratio(by.counts["seconds"], by.counts["seconds_expected"], by.rows.overall[1])


def completion_log_ratio(by: GroupRows) -> Float64:
    """Watched shares of the clicked items' durations over expected shares."""
    return log_ratio(by.counts["shares"], by.counts["shares_expected"], HALF_LENGTH)


def hours_since_shown(by: GroupRows) -> Float64:
    """Since the last impression."""
    return _hours_since(by, "last_shown")


def hours_since_click(by: GroupRows) -> Float64:
    """Since the last click."""
    return _hours_since(by, "last_click")


def shown_last_hour(by: GroupRows) -> Float64:
    """Impressions of the last hour."""
    return np.log1p(by.shown_within(HOUR))


def clicks_last_hour(by: GroupRows) -> Float64:
    """Clicks of the last hour."""
    return np.log1p(by.clicks_within(HOUR))


def shown_last_day(by: GroupRows) -> Float64:
    """Impressions of the last day."""
    return np.log1p(by.shown_within(DAY))


def clicks_last_day(by: GroupRows) -> Float64:
    """Clicks of the last day."""
    return np.log1p(by.clicks_within(DAY))


def shown_last_3_days(by: GroupRows) -> Float64:
    """Impressions of the last three days."""
    return np.log1p(by.shown_within(LATELY))


def clicks_last_3_days(by: GroupRows) -> Float64:
    """Clicks of the last three days."""
    return np.log1p(by.clicks_within(LATELY))


def exposure_log_ratio(by: GroupRows) -> Float64:
    """The user's impressions of the group over those that any user had been expected to get."""
    return log_ratio(by.shown, by.rows.by("user").shown * _of_items(by).share_of_log, HALF_SHOWN)


def exposure_log_ratio_last_3_days(by: GroupRows) -> Float64:
    """The same of the last three days."""
    expected = by.rows.by("user").shown_within(LATELY) * _of_items(by).share_of_log
    return log_ratio(by.shown_within(LATELY), expected, HALF_SHOWN)


def exposure_log_ratio_in_topic(by: GroupRows) -> Float64:
    """The user's impressions of the channel over the channel's part of those of its topic."""
    part = np.minimum(_of_items(by).share_of_log / by.rows.by("topic").share_of_log, 1.0)
    return log_ratio(by.shown, by.rows.by("user_topic").shown * part, HALF_SHOWN)


def share_of_user(by: GroupRows) -> Float64:
    """The group's share of the user's impressions."""
    return np.log((by.shown + HALF_SHOWN) / (by.rows.by("user").shown + PRIOR_SHOWN))


def impression_concentration(by: GroupRows) -> Float64:
    """Pairs of the user's impressions that are of one topic, of all pairs."""
    return _concentration(by.shown, by.counts["same_topic_pairs"])


def click_concentration(by: GroupRows) -> Float64:
    """Pairs of the user's clicks that are of one topic, of all pairs."""
    return _concentration(by.counts["clicks"], by.counts["same_topic_click_pairs"])


def hour(by: GroupRows) -> Float64:
    """Hour of the day, UTC, with its fraction."""
    return (by.rows.timestamps_us % DAY) / HOUR


def weekday(by: GroupRows) -> Float64:
    """Day of the week, UTC, 0 is Monday."""
    # 1 January 1970 was a Thursday.
    return ((by.rows.timestamps_us // DAY + 3) % 7).astype(np.float64)


def age_hours(by: GroupRows) -> Float64:
    """Since the item was published, at least 0."""
    return np.maximum(
        (by.rows.timestamps_us - by.rows.log.items.numbers[PUBLISHED_AT][by.rows.items]) / HOUR, 0
    )


def duration_seconds(by: GroupRows) -> Float64:
    """The item's duration."""
    return by.rows.log.items.numbers[DURATION_SECONDS][by.rows.items]


def duration_unknown(by: GroupRows) -> Float64:
    """Whether the item's duration is unknown."""
    return np.isnan(duration_seconds(by)).astype(np.float64)


def completion(by: GroupRows) -> Float64:
    """Mean watch of a click over the duration, smoothed towards that of items in the same duration
    bucket.
    """
    of_bucket = by.rows.by("duration_bucket").rates[1]
    known = by.counts["known"] + OWN_PRIOR_ROWS
    return np.asarray(
        (by.counts["seconds"] + OWN_PRIOR_ROWS * of_bucket)
        / known
        / np.maximum(duration_seconds(by), 1.0)
    )


def ignored(by: GroupRows) -> Float64:
    """Impressions that were not clicked."""
    return np.asarray(by.shown - by.counts["clicks"])


def clicks(by: GroupRows) -> Float64:
    """Clicks."""
    return np.asarray(by.counts["clicks"])


def item(by: GroupRows) -> Values:
    """The item itself."""
    return by.rows.items.astype(np.int32)


def last_item(by: GroupRows) -> Values:
    """The item that the user clicked last."""
    return by.rows.last_clicked


def last_channel(by: GroupRows) -> Values:
    """The channel of the item clicked last."""
    return by.rows.log.items.codes[CHANNEL][last_item(by)]


def last_topic(by: GroupRows) -> Values:
    """The first topic of the item clicked last."""
    return by.rows.log.items.codes[TOPICS][last_item(by)]


def user_numbers(rows: AsOfRows) -> Mapping[str, Values]:
    """Numbers of the table `users`."""
    return {f"user_{name}": values[rows.users] for name, values in rows.log.users.numbers.items()}


def user_categories(rows: AsOfRows) -> Mapping[str, Values]:
    """Categories of the table `users`."""
    return {f"user_{name}": codes[rows.users] for name, codes in rows.log.users.codes.items()}


def item_numbers(rows: AsOfRows) -> Mapping[str, Values]:
    """Other numbers of the table `items`."""
    numbers, declared = rows.log.items.numbers, (DURATION_SECONDS, PUBLISHED_AT)
    return {
        f"item_{name}": values[rows.items]
        for name, values in numbers.items()
        if name not in declared
    }


def item_categories(rows: AsOfRows) -> Mapping[str, Values]:
    """Categories of the table `items`, as the channel and the first topic."""
    return {f"item_{name}": codes[rows.items] for name, codes in rows.log.items.codes.items()}


def contexts(rows: AsOfRows) -> Mapping[str, Values]:
    """`device` and `surface` of the request, else those of the user's last impression."""
    return dict(rows.contexts or rows.log.last_contexts(rows.users, rows.timestamps_us))


def agreements(rows: AsOfRows) -> Mapping[str, Values]:
    """Whether user and item agree in a category of both tables, as the language; NaN where either
    is unknown.
    """
    users, items = rows.log.users.codes, rows.log.items.matches
    pairs = {
        name: (users[name][rows.users], items[name][rows.items]) for name in items if name in users
    }
    return {
        f"same_{name}": np.where((of_user == 0) | (of_item == 0), np.nan, of_user == of_item)
        for name, (of_user, of_item) in pairs.items()
    }


def recall_columns(rows: AsOfRows) -> Mapping[str, Values]:
    """The tower's score of the pair, alone and standardised by the user's, and the merged one where
    it ranks lists.
    """
    return rows.recall


def _first_paragraph(documented: Callable[..., Any]) -> str:
    return " ".join((documented.__doc__ or "").partition("\n\n")[0].split())


def _of_items(by: GroupRows) -> GroupRows:
    """The same rows by their items' group alone, whoever the user is."""
    return by.rows.by(str(by.key.by_item))


def _concentration(events: Float64, pairs: Float64) -> Float64:
    return (pairs + PRIOR_SAME) / (events * (events - 1) / 2 + PRIOR_PAIRS)


def _hours_since(by: GroupRows, event: str) -> Float64:
    """Hours from an event of the counts to the rows' instants, NaN where there was none."""
    last, timestamps_us = by.counts[event], by.rows.timestamps_us
    return np.where(
        last == NEVER, np.nan, (timestamps_us - np.where(last == NEVER, timestamps_us, last)) / HOUR
    )


def _of(block: BlockName, group: str, *measures: Measure, prefix: str = "") -> Entries:
    """Measures of one group, called after it or by a prefix."""
    return tuple(
        AsOfFeature(
            f"{prefix or group}_{m.name}", block, group, m.unit, m.source, m.values, m.needs
        )
        for m in measures
    )


def _rates(source: str) -> tuple[Measure, ...]:
    return (
        Measure("shown", "log count", source, shown),
        Measure("click_rate", "share", source, click_rate),
        Measure("seconds_per_click", "seconds", source, seconds_per_click),
        Measure("seconds_per_impression", "seconds", source, seconds_per_impression),
    )


_LOG_RATIOS = (
    Measure("click_log_ratio", "log ratio", INTEREST, click_log_ratio),
    Measure("seconds_log_ratio", "log ratio", INTEREST, seconds_log_ratio),
    Measure(
        "completion_log_ratio", "log ratio", INTEREST, completion_log_ratio, ("watched shares",)
    ),
)
_RECENCY = (
    Measure("hours_since_shown", "hours", ELAPSED, hours_since_shown, ("clock",)),
    Measure("hours_since_click", "hours", ELAPSED, hours_since_click, ("clock",)),
)
_CONCENTRATION = (
    Measure("impression_concentration", "share", EXPOSURE, impression_concentration, ("topic",)),
    Measure("click_concentration", "share", INTEREST, click_concentration, ("topic",)),
)
_LAST_HOUR_AND_DAY = (
    Measure("shown_last_hour", "log count", TREND, shown_last_hour, ("clock",)),
    Measure("clicks_last_hour", "log count", TREND, clicks_last_hour, ("clock",)),
    Measure("shown_last_day", "log count", TREND, shown_last_day, ("clock",)),
    Measure("clicks_last_day", "log count", TREND, clicks_last_day, ("clock",)),
)
_AFFINITY = (
    *_rates(SIMILAR),
    *_LOG_RATIOS,
    *_RECENCY,
    Measure("exposure_log_ratio", "log ratio", EXPOSURE, exposure_log_ratio),
)
_SHARE = Measure("share", "log share", EXPOSURE, share_of_user)
_IN_TOPIC = Measure(
    "exposure_log_ratio_in_topic", "log ratio", EXPOSURE, exposure_log_ratio_in_topic, ("topic",)
)
_LAST_3_DAYS = (
    Measure("shown_last_3_days", "log count", TREND, shown_last_3_days, ("clock",)),
    Measure("clicks_last_3_days", "log count", TREND, clicks_last_3_days, ("clock",)),
    Measure(
        "exposure_log_ratio_last_3_days",
        "log ratio",
        EXPOSURE,
        exposure_log_ratio_last_3_days,
        ("clock",),
    ),
)

_USER: Entries = (
    OpenFeatures("user_<number>", "user", "user", "", SPLIT, user_numbers),
    *_of(
        "user", "user", *_rates(MEAN), *_LOG_RATIOS, *_RECENCY, *_CONCENTRATION, *_LAST_HOUR_AND_DAY
    ),
    AsOfFeature("hour", "user", "request", "hours", RHYTHM, hour, ("clock",)),
    AsOfFeature("weekday", "user", "request", "days", RHYTHM, weekday, ("clock",)),
    OpenFeatures("user_<category>", "user", "user", "category", SPLIT, user_categories, "code"),
    AsOfFeature(
        "user_last_item", "user", "user", "category", EMBEDDED, last_item, (), "code", "item"
    ),
    AsOfFeature(
        "user_last_channel_id",
        "user",
        "user",
        "category",
        EMBEDDED,
        last_channel,
        ("channel",),
        "code",
        "item_channel_id",
    ),
    AsOfFeature(
        "user_last_topics",
        "user",
        "user",
        "category",
        EMBEDDED,
        last_topic,
        ("topic",),
        "code",
        "item_topics",
    ),
    OpenFeatures("<context>", "user", "request", "category", SPLIT, contexts, "code"),
)
_ITEM: Entries = (
    AsOfFeature(
        "item_duration_seconds",
        "item",
        "item",
        "seconds",
        SPLIT,
        duration_seconds,
        ("duration_bucket",),
    ),
    OpenFeatures("item_<number>", "item", "item", "", SPLIT, item_numbers),
    AsOfFeature(
        "item_age_hours", "item", "item", "hours", FRESH, age_hours, ("clock", "published")
    ),
    AsOfFeature(
        "item_duration_unknown",
        "item",
        "item",
        "flag",
        SPLIT,
        duration_unknown,
        ("duration_bucket",),
    ),
    *_of("item", "item", *_rates(MEAN), *_LOG_RATIOS, *_RECENCY, *_LAST_HOUR_AND_DAY),
    *_of("item", "channel", *_rates(MEAN)),
    *_of("item", "topic", *_rates(MEAN)),
    *_of("item", "duration_bucket", *_rates(MEAN)),
    AsOfFeature(
        "item_completion", "item", "item", "lengths", MEAN, completion, ("watched shares",)
    ),
    AsOfFeature("item", "item", "item", "category", EMBEDDED, item, (), "code", "item"),
    OpenFeatures("item_<category>", "item", "item", "category", SPLIT, item_categories, "code"),
)
_PAIR: Entries = (
    AsOfFeature("pair_ignored", "pair", "user_item", "count", CHURN, ignored),
    AsOfFeature("pair_clicks", "pair", "user_item", "count", SIMILAR, clicks),
    *_of("pair", "user_item", *_RECENCY, prefix="pair"),
    OpenFeatures("same_<category>", "pair", "user_item", "flag", LANGUAGE, agreements),
    *_of("pair", "user_channel", *_AFFINITY),
    *_of("pair", "user_topic", *_AFFINITY),
    *_of("pair", "user_duration_bucket", *_AFFINITY),
    *_of("pair", "user_channel", _SHARE, _IN_TOPIC, *_LAST_3_DAYS),
    *_of("pair", "user_topic", _SHARE, *_LAST_3_DAYS),
    OpenFeatures("recall_<column>", "pair", "user_item", "", NOMINATED, recall_columns),
)

CATALOGUE: Entries = (*_USER, *_ITEM, *_PAIR)
FEATURES: Mapping[str, AsOfFeature] = {
    entry.name: entry for entry in CATALOGUE if isinstance(entry, AsOfFeature)
}


def is_declared(pattern: str) -> bool:
    """Whether a shell pattern may name a column: a feature's, or one whose name the tables or
    recall decide.
    """
    heads = [entry.name.partition("<")[0] for entry in CATALOGUE if isinstance(entry, OpenFeatures)]
    names = (*FEATURES, DEVICE, SURFACE)
    return any(fnmatchcase(name, pattern) for name in names) or any(
        _may_begin(pattern, head) for head in heads if head
    )


def _may_begin(pattern: str, head: str) -> bool:
    """Whether a shell pattern can name what begins with a head and goes on."""
    literal = next((at for at, letter in enumerate(pattern) if letter in "*?["), len(pattern))
    shorter = min(literal, len(head))
    return pattern[:shorter] == head[:shorter] and (literal < len(pattern) or literal > len(head))
