"""What the log tells of users, items and pairs as of an instant: the same code for training and for serving.

Three blocks. The user's is computed once a request and the item's once a candidate (paper, section 4.1); only the
pair's is computed for each row. Every tally is of what came strictly before the instant.

A *lift* compares what became of impressions with what was due: of a user's, what their items had led to expect, and of
an item's, what their users had. So a taste is told from good items, and a good item from willing viewers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.due import HALF_LENGTH, OWN_PRIOR_ROWS, PRIOR_ROWS, Due, Rates, rates_of_all
from features.instants import DAY, HOUR
from features.sides import Side
from features.tables import CHANNEL, DURATION_SECONDS, PUBLISHED_AT, TOPICS
from features.tallies import NEVER, NOTHING_DUE, Events, Tally, tally_of
from features.timeline import Spans, Timeline, pair_keys, timeline_order

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Contexts = Mapping[str, Int32]
Counts = Mapping[str, npt.NDArray[Any]]

# An exposure lift is drawn to 0 as by half an impression, the shares of the log to nothing as by ten.
HALF_SHOWN, PRIOR_SHOWN = 0.5, 10.0
SPANS = {"hour": HOUR, "day": DAY}
# Tastes change within days: what was shown of the like lately is counted apart.
LATELY = 3 * DAY
# How often two impressions of a user are of one topic is drawn to a tenth, as by ten pairs.
PRIOR_PAIRS, PRIOR_ALIKE = 10.0, 1.0
# Lengths at which watching changes: what is watched of five seconds and of five minutes is not one habit.
DURATION_EDGES = np.array([5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 2400, 4800], np.float64)
LAST_ITEM = "user_last_item"
# The side columns of the item last clicked, as columns of its user, and the columns that they are of.
LAST = {f"user_last_{name}": f"item_{name}" for name in (CHANNEL, TOPICS)}
HISTORY, LONGEST_HISTORY = "user_history_", 100
NOBODY = np.zeros(0, np.int32)
TASTES = ("channel", "topic")


@dataclass(frozen=True)
class Block:
    """Columns of `size` rows: `numbers` {name: float64 [n]}, NaN unknown; `codes` {name: int32 [n]}, 0 unknown."""

    size: int
    numbers: Mapping[str, Float64]
    codes: Mapping[str, Int32]

    def take(self, rows: npt.NDArray[np.intp]) -> "Block":
        numbers = {name: values[rows] for name, values in self.numbers.items()}
        return Block(len(rows), numbers, {name: values[rows] for name, values in self.codes.items()})

    def with_numbers(self, numbers: Mapping[str, Float64]) -> "Block":
        """The same rows with more columns."""
        return Block(self.size, {**self.numbers, **numbers}, self.codes)

    def with_numbers_of(self, names: Sequence[str]) -> "Block":
        """The same rows with these of their numbers."""
        return Block(self.size, {name: self.numbers[name] for name in names}, self.codes)


Blocks = dict[str, Block]


@dataclass(frozen=True)
class Ledger:
    """The log as tallies that can be read as of any instant, with the side columns of users and items.

    `timed` is False where the log's clock is order only: then nothing reads an hour, an age or a recency. `contexts`
    are codes of each event, [n] by column, 0 unknown: on which device and surface it was shown. So many clicks of the
    `history` are in the user's block. Where the events' T is not `in_seconds`, nothing is measured by how long items
    last.
    """

    events: Events
    users: Side
    items: Side
    timed: bool
    contexts: Contexts = field(default_factory=dict)
    history: int = 0
    in_seconds: bool = True

    def blocks(self, users: Int32, items: Int32, instants: Int64 | int, contexts: Contexts | None = None) -> Blocks:
        """The three blocks of rows [n], as they are alone; what they have in common is looked up once."""
        reading = self._reading(users, items, _moments(instants, users))
        return {
            "user": self._user_block(reading, contexts),
            "item": self._item_block(reading),
            "pair": self._pair_block(reading),
        }

    def user_block(self, users: Int32, instants: Int64 | int, contexts: Contexts | None = None) -> Block:
        """Columns of users [n] at instants [n], in the contexts of their requests, else in those they were last in."""
        return self._user_block(self._reading(users, NOBODY, _moments(instants, users)), contexts)

    def item_block(self, items: Int32, instants: Int64 | int) -> Block:
        """Columns of items [n] at instants [n]."""
        return self._item_block(self._reading(NOBODY, items, _moments(instants, items)))

    def pair_block(self, users: Int32, items: Int32, instants: Int64 | int) -> Block:
        """Columns of user x item pairs [n] at instants [n]: past exposures, watches of the like, what they share."""
        return self._pair_block(self._reading(users, items, _moments(instants, users)))

    def affinity(self, side: str, users: Int32, codes: Int32, instants: Int64 | int) -> dict[str, Float64]:
        """What users [n] did with items of a side's codes [n] (-1 none) before instants: rates, lifts, recency."""
        return self._affinity(side, _Reading(self, _Rows(users, NOBODY, {side: codes}), _moments(instants, users)))

    def _reading(self, users: Int32, items: Int32, moments: Int64) -> "_Reading":
        return _Reading(self, self._rows(users, items), moments)

    def _rows(self, users: Int32, items: Int32) -> "_Rows":
        return _Rows(users, items, {name: side[items] for name, side in self.sides.items()})

    def ambiguous(self) -> list[str]:
        """Side columns that are called like one which is made of the log, as `user_<name>` and `item_<name>`."""
        needed = (CHANNEL, TOPICS, DURATION_SECONDS, PUBLISHED_AT)
        codes = {name: codes for name, codes in self.items.codes.items() if name in needed}
        numbers = {name: numbers for name, numbers in self.items.numbers.items() if name in needed}
        nothing = Events(NOBODY, NOBODY, NOBODY.astype(np.int64), NOBODY.astype(bool), NOBODY.astype(np.float64))
        bare = Ledger(nothing, Side({}, {}, {}), Side(codes, {}, numbers), self.timed, history=LONGEST_HISTORY)
        made = {name for block in bare.blocks(NOBODY, NOBODY, 0).values() for name in (*block.numbers, *block.codes)}
        users = [f"user_{name}" for name in (*self.users.numbers, *self.users.codes)]
        items = [f"item_{name}" for name in (*self.items.numbers, *self.items.codes) if name not in needed]
        return [name for name in users + items if name in made]

    def _user_block(self, reading: "_Reading", contexts: Contexts | None) -> Block:
        users, moments, counts = reading.rows.users, reading.moments, reading.counts("user")
        numbers = {f"user_{name}": values[users] for name, values in self.users.numbers.items()}
        numbers |= self._rates("user", counts, reading.whole) | _lifts("user", counts, reading.whole)
        numbers |= self._since("user", counts, moments)
        numbers |= _focus(counts) if "topic" in self.sides else {}
        numbers |= self._lately("user", reading) | self._clock(moments)
        codes = {f"user_{name}": codes[users] for name, codes in self.users.codes.items()}
        codes |= self._past(users, moments) | dict(contexts or self._last_contexts(users, moments))
        return Block(len(users), numbers, codes)

    def _item_block(self, reading: "_Reading") -> Block:
        items, moments, counts = reading.rows.items, reading.moments, reading.counts("item")
        numbers = self._static_item_numbers(items, moments)
        numbers |= self._rates("item", counts, reading.whole) | _lifts("item", counts, reading.whole)
        numbers |= self._since("item", counts, moments)
        numbers |= self._lately("item", reading)
        for name in self.sides:
            numbers |= self._rates(name, reading.counts(name), reading.whole)
        if "like_length" in self.sides and self.in_seconds:
            numbers |= _completion(counts, numbers)
        codes = {f"item_{name}": codes[items] for name, codes in self.items.codes.items()}
        return Block(len(items), numbers, {"item": items.astype(np.int32)} | codes)

    def _pair_block(self, reading: "_Reading") -> Block:
        users, items, counts = reading.rows.users, reading.rows.items, reading.counts("pair")
        numbers = {"pair_ignored": counts["shown"] - counts["clicks"], "pair_clicks": counts["clicks"]}
        numbers |= self._since("pair", counts, reading.moments) | self.matches(users, items)
        for name in self.sides:
            numbers |= self._affinity(name, reading)
        for name in (side for side in TASTES if side in self.sides):
            numbers |= self._taste(name, reading)
        return Block(len(users), numbers, {})

    def _affinity(self, side: str, reading: "_Reading") -> dict[str, Float64]:
        """The exposure lift is how much oftener than others a user was shown the like: a feed knows its viewers."""
        name, counts = f"user_{side}", reading.counts(f"user_{side}")
        columns = self._rates(name, counts, reading.whole) | _lifts(name, counts, reading.whole)
        due = reading.shown("user") * reading.share(side)
        lift = {f"{name}_exposure_lift": _exposure_lift(counts["shown"], due)}
        return columns | self._since(name, counts, reading.moments) | lift

    def _taste(self, side: str, reading: "_Reading") -> dict[str, Float64]:
        """The side's share of what the user was shown, and what the last days say of it.

        Of a channel also whether it was shown oftener than its part of the topic: a favourite among the like.
        """
        name, counts, shown = f"user_{side}", reading.counts(f"user_{side}"), reading.shown("user")
        columns = {f"{name}_share": np.log((counts["shown"] + HALF_SHOWN) / (shown + PRIOR_SHOWN))}
        if side == "channel" and "topic" in self.sides:
            of_topic = reading.counts("user_topic")["shown"]
            part = np.minimum(reading.share(side) / reading.share("topic"), 1.0)
            columns["user_channel_lift_in_topic"] = _exposure_lift(counts["shown"], of_topic * part)
        if not self.timed:
            return columns
        before, clicked = reading.shown_and_clicked_before(name, LATELY)
        lately = counts["shown"] - before
        return columns | {
            f"{name}_shown_lately": np.log1p(lately),
            f"{name}_clicks_lately": np.log1p(counts["clicks"] - clicked),
            f"{name}_exposure_lift_lately": _exposure_lift(lately, reading.shown_lately * reading.share(side)),
        }

    def last_clicked(self, users: Int32, instants: Int64 | int, length: int) -> Int32:
        """Items that users [n] last clicked strictly before instants [n], newest first: [n, length], 0 for none."""
        timeline, items = self._clicks
        ends, starts = timeline.before(users, _moments(instants, users)), timeline.starts(users)
        positions = ends[:, None] - 1 - np.arange(length)
        present = positions >= starts[:, None]
        padded = items if len(items) else np.zeros(1, np.int32)
        return np.where(present, padded[np.where(present, positions, 0)], 0).astype(np.int32)

    def _past(self, users: Int32, moments: Int64) -> dict[str, Int32]:
        """The item last clicked with its side columns, and the history."""
        clicked = self.last_clicked(users, moments, max(self.history, 1))
        columns = {LAST_ITEM: clicked[:, 0]}
        sides = [name for name in (CHANNEL, TOPICS) if name in self.items.codes]
        columns |= {f"user_last_{name}": self.items.codes[name][clicked[:, 0]] for name in sides}
        return columns | dict(zip(history_columns(self.history), clicked.T, strict=False))

    def _last_contexts(self, users: Int32, moments: Int64) -> Contexts:
        """Contexts of users' last impressions strictly before instants, 0 where there was none."""
        timeline, rows = self._shown
        spans = timeline.spans(users, moments)
        some = spans.ends > spans.starts
        asked, last = spans.rows[some], rows[spans.ends[some] - 1]
        columns = {name: np.zeros(len(users), np.int32) for name in self.contexts}
        for name, codes in self.contexts.items():
            columns[name][asked] = codes[last]
        return columns

    @cached_property
    def _shown(self) -> tuple[Timeline, npt.NDArray[np.intp]]:
        """Each user's impressions in time order, and their rows."""
        rows = timeline_order(self.events.users, self.events.instants)
        return Timeline(self.events.users[rows].astype(np.int64), self.events.instants[rows]), rows

    @cached_property
    def _clicks(self) -> tuple[Timeline, Int32]:
        """Each user's clicks in time order, and their items."""
        rows = np.flatnonzero(self.events.clicked)
        rows = rows[timeline_order(self.events.users[rows], self.events.instants[rows])]
        return Timeline(self.events.users[rows].astype(np.int64), self.events.instants[rows]), self.events.items[rows]

    @cached_property
    def sides(self) -> dict[str, Int32]:
        """The item columns whose watches by the same user, and by all, tell of an item: codes [items], -1 for none."""
        sides = {"channel": CHANNEL, "topic": TOPICS}
        known = {name: self.items.codes[column] for name, column in sides.items() if column in self.items.codes}
        if DURATION_SECONDS in self.items.numbers:
            known["like_length"] = duration_groups(self.items.numbers[DURATION_SECONDS])
        # Items without a channel do not share one: a negative key has no events.
        return {name: np.where(codes > 0, codes, -1) for name, codes in known.items()}

    def _tally(self, name: str) -> Tally:
        if name not in self._tallies:
            self._tallies[name] = tally_of(self._event_rows.keys(name), self.events, self._summed(name))
        return self._tallies[name]

    def _summed(self, name: str) -> Mapping[str, Float64]:
        """What is summed of each event beside its clicks: what was due by its item for what is counted by user, by its
        user for the item's. For the user also how many earlier impressions, and clicks, its topic makes a pair with.
        """
        if name == "user" and "topic" in self.sides:
            return self.due.by_item | self.due.alike
        if name.startswith("user"):
            return self.due.by_item
        if name == "item":
            return self.due.by_user
        return self.due.watched if name == "all" else NOTHING_DUE

    @cached_property
    def due(self) -> Due:
        """What had been due of each event."""
        names = ("all", "user", "item", *(["user_topic"] if "topic" in self.sides else []))
        lengths = self.items.numbers.get(DURATION_SECONDS) if self.in_seconds else None
        of_events = None if lengths is None else lengths[self.events.items]
        return Due(self.events, {name: self._event_rows.keys(name) for name in names}, of_events)

    @cached_property
    def _tallies(self) -> dict[str, Tally]:
        return {}

    @cached_property
    def _event_rows(self) -> "_Rows":
        return self._rows(self.events.users, self.events.items)

    def _rates(self, name: str, counts: Counts, whole: Rates) -> dict[str, Float64]:
        """Shown, click rate, seconds a click and seconds an impression, drawn towards the whole log's so far."""
        click_rate, seconds = whole
        rate = (counts["clicks"] + PRIOR_ROWS * click_rate) / (counts["shown"] + PRIOR_ROWS)
        mean = (counts["seconds"] + PRIOR_ROWS * seconds) / (counts["known"] + PRIOR_ROWS)
        columns = {"shown": np.log1p(counts["shown"]), "click_rate": rate, "seconds": mean, "yield": rate * mean}
        return {f"{name}_{column}": values for column, values in columns.items()}

    def _since(self, name: str, counts: Counts, moments: Int64) -> dict[str, Float64]:
        """Hours since the last impression and since the last click, NaN where there was none."""
        if not self.timed:
            return {}
        last = {what: counts[f"last_{what}"] for what in ("shown", "click")}
        return {f"{name}_hours_since_{what}": _hours_since(instants, moments) for what, instants in last.items()}

    def _lately(self, name: str, reading: "_Reading") -> dict[str, Float64]:
        """Impressions and clicks of the last hour and of the last day, as logarithms."""
        if not self.timed:
            return {}
        columns, counts = {}, reading.counts(name)
        for span, length in SPANS.items():
            shown, clicks = reading.shown_and_clicked_before(name, length)
            columns[f"{name}_shown_last_{span}"] = np.log1p(counts["shown"] - shown)
            columns[f"{name}_clicks_last_{span}"] = np.log1p(counts["clicks"] - clicks)
        return columns

    def _clock(self, moments: Int64) -> dict[str, Float64]:
        """Hour of the day and day of the week (0 = Monday), UTC."""
        if not self.timed:
            return {}
        # 1 January 1970 was a Thursday.
        return {"hour": (moments % DAY) / HOUR, "weekday": ((moments // DAY + 3) % 7).astype(np.float64)}

    def matches(self, users: Int32, items: Int32) -> dict[str, Float64]:
        """Whether user and item agree in a column that both have, as the language; NaN where either is unknown."""
        shared = {name: codes for name, codes in self.items.matches.items() if name in self.users.codes}
        pairs = {name: (self.users.codes[name][users], codes[items]) for name, codes in shared.items()}
        return {
            f"same_{name}": np.where((user == 0) | (item == 0), np.nan, user == item)
            for name, (user, item) in pairs.items()
        }

    def _static_item_numbers(self, items: Int32, moments: Int64) -> dict[str, Float64]:
        numbers = {f"item_{name}": x[items] for name, x in self.items.numbers.items() if name != PUBLISHED_AT}
        if self.timed and PUBLISHED_AT in self.items.numbers:
            age = (moments - self.items.numbers[PUBLISHED_AT][items]) / HOUR
            numbers["item_age_hours"] = np.maximum(age, 0)
        if DURATION_SECONDS in self.items.numbers:
            numbers["item_duration_unknown"] = np.isnan(numbers[f"item_{DURATION_SECONDS}"]).astype(np.float64)
        return numbers


@dataclass(frozen=True)
class _Rows:
    """Rows [n] by what they are counted by: their users, their items (or none), and the items' codes by side."""

    users: Int32
    items: Int32
    codes: Contexts

    def keys(self, name: str) -> npt.NDArray[Any]:
        """The rows' keys in the tally of that name, [n]; negative where there is none."""
        if name == "all":
            return np.zeros(max(len(self.users), len(self.items)), np.int64)
        if name in ("user", "item"):
            return self.users if name == "user" else self.items
        if name == "pair":
            return pair_keys(self.users, self.items)
        codes = self.codes[name.removeprefix("user_")]
        return pair_keys(self.users, codes) if name.startswith("user_") else codes


class _Reading:
    """Rows [n] that are asked together as of their moments, and what several of their blocks read."""

    def __init__(self, ledger: Ledger, rows: _Rows, moments: Int64) -> None:
        self.ledger, self.rows, self.moments = ledger, rows, moments
        self._spans: dict[str, Spans] = {}
        self._counts: dict[str, Counts] = {}

    def spans(self, name: str) -> Spans:
        """The events of the rows' keys so far in the tally of that name."""
        if name not in self._spans:
            self._spans[name] = self.ledger._tally(name).timeline.spans(self.rows.keys(name), self.moments)
        return self._spans[name]

    def counts(self, name: str) -> Counts:
        """The tally of that name as of the rows' moments."""
        if name not in self._counts:
            self._counts[name] = self.ledger._tally(name).counts(self.spans(name))
        return self._counts[name]

    def shown_and_clicked_before(self, name: str, span: int) -> tuple[Float64, Float64]:
        """Impressions and clicks up to a span before the rows' moments, [n]."""
        tally = self.ledger._tally(name)
        return tally.shown_and_clicked(tally.timeline.spans(self.rows.keys(name), self.moments - span))

    def shown(self, name: str) -> Float64:
        """Impressions so far by that tally, [n]."""
        return self._counts[name]["shown"] if name in self._counts else self.spans(name).counted

    def share(self, side: str) -> Float64:
        """The share of all impressions so far that were of the rows' codes of a side, [n]."""
        return (self.shown(side) + 1) / (self.shown_to_all + PRIOR_SHOWN)

    @cached_property
    def shown_lately(self) -> Float64:
        """Impressions of the user in the last days, [n]."""
        return self.shown("user") - self.shown_and_clicked_before("user", LATELY)[0]

    @cached_property
    def whole(self) -> Rates:
        """The whole log's rates so far."""
        return rates_of_all(self._all)

    @property
    def shown_to_all(self) -> Float64:
        """Impressions so far of everybody, [n]."""
        return self._all["shown"]

    @property
    def _all(self) -> Counts:
        return self.counts("all")


def _lifts(name: str, counts: Counts, whole: Rates) -> dict[str, Float64]:
    """Logarithms of clicks and of seconds over what was due, drawn to 0 as by one click of the whole log's.

    And where lengths are known, of how much was watched of them given a click.
    """
    mean = whole[1]
    clicks = np.log((counts["clicks"] + 1) / (counts["clicks_due"] + 1))
    seconds = np.log((counts["seconds"] + mean) / (counts["seconds_due"] + mean))
    columns = {f"{name}_click_lift": clicks, f"{name}_seconds_lift": seconds}
    if "shares" in counts:
        shares = np.log((counts["shares"] + HALF_LENGTH) / (counts["shares_due"] + HALF_LENGTH))
        columns[f"{name}_completion_lift"] = shares
    return columns


def _exposure_lift(shown: Float64, due: Float64) -> Float64:
    """Logarithm of impressions over how many were due, drawn to 0 as by half an impression."""
    return np.log((shown + HALF_SHOWN) / (due + HALF_SHOWN))


def _focus(counts: Counts) -> dict[str, Float64]:
    """How often two impressions of a user, and two clicks, are of one topic: few tastes or many."""
    columns = {}
    for name, alike, of in (("focus", "alike", "shown"), ("click_focus", "clicks_alike", "clicks")):
        pairs = counts[of] * (counts[of] - 1) / 2
        columns[f"user_{name}"] = (counts[alike] + PRIOR_ALIKE) / (pairs + PRIOR_PAIRS)
    return columns


def _completion(counts: Counts, numbers: Mapping[str, Float64]) -> dict[str, Float64]:
    """Mean seconds a click over the item's length, drawn to those of like length; NaN where the length is unknown."""
    known = counts["known"] + OWN_PRIOR_ROWS
    mean = (counts["seconds"] + OWN_PRIOR_ROWS * numbers["like_length_seconds"]) / known
    return {"item_completion": mean / np.maximum(numbers[f"item_{DURATION_SECONDS}"], 1.0)}


def history_columns(length: int) -> list[str]:
    """Names of the code columns that hold the items last clicked, newest first."""
    return [f"{HISTORY}{place:02d}" for place in range(length)]


def duration_groups(seconds: Float64) -> Int32:
    """Which stretch of lengths each duration falls in: 1 unknown, 2 under 5 s, and so on, [n]."""
    groups = np.searchsorted(DURATION_EDGES, seconds, side="right") + 2
    return np.where(np.isnan(seconds), 1, groups).astype(np.int32)


def _hours_since(last: Int64, moments: Int64) -> Float64:
    return np.where(last == NEVER, np.nan, (moments - np.where(last == NEVER, moments, last)) / HOUR)


def _moments(instants: Int64 | int, like: npt.NDArray[Any]) -> Int64:
    return np.broadcast_to(np.asarray(instants, np.int64), like.shape)
