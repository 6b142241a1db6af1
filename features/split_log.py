"""Cut a log: the instants that part it, derived where they are not given, and what each part
holds.
"""

from datetime import datetime
from typing import NamedTuple, cast

import ibis
import ibis.expr.types as ir

from features.calendar import floored, nearest_length
from features.config import Clock, SplitConfig
from features.errors import InputError
from features.schema import ITEM, TIMESTAMP, USER
from features.split import PART, Split, text_of, timestamp_us_from


def split_of(interactions: ibis.Table, config: SplitConfig, clock: Clock | None = None) -> Split:
    """The cut of a log: what the configuration names, the rest derived. InputError where it cannot
    be cut so.

    Derived (time): the test window is the last `test_share` of the time span, and so much more that
    it begins on the calendar: one more day of log moves it by a day. The label window is as long
    before it, and from the last row before it where the log has none in there, as one of dates
    may not. Mode `none` holds nothing out: test_start lies just after the log's last row.
    """
    clock = clock or ("order" if config.mode == "last" else "time")
    if clock == "order":
        return _order_split(config)
    if config.mode == "last":
        raise InputError(
            'features.clock = "time" with split.mode = "last": leave-last-out cuts each user at '
            "another moment, "
            'so times do not compare; leave features.clock out, or use split.mode = "time".'
        )
    span = interactions.aggregate(
        first=interactions[TIMESTAMP].min(), last=interactions[TIMESTAMP].max()
    )
    first, last = map(timestamp_us_from, span.to_pyarrow().to_pylist()[0].values())
    if first == last:
        raise InputError(
            f"Every row lies at {text_of(first)}, so time cannot cut the log; cut by order: "
            "split.mode = last holds out each user's last watch, features.clock = order with "
            "split.mode = none holds nothing out."
        )
    split = _time_split(config, first, last)
    if config.label_start is None:
        earlier = timestamp_us_of(interactions[TIMESTAMP])
        newest = int(earlier.max(where=earlier < split.test_start).execute())
        if first < newest < split.label_start:
            split = split.model_copy(update={"label_start": newest})
    _require_order(split)
    return split


class SplitFacts(NamedTuple):
    """What a cut leaves to learn from, and what it asks for: `history` completed watches before
    label_start; of those that lists are to find (the test window's, in mode `none` the labels') how
    many there are (`watches`), which share is of items that their user had clicked before
    (`repeats`), how many `users` they are of, and which share of these has no watch before (`new`).
    """

    history: int
    watches: int
    repeats: float
    users: int
    new: float


def facts_of(interactions: ibis.Table, split: Split) -> SplitFacts:
    """What a cut leaves of a log with the columns `clicked` and `completed`."""
    rows = timestamps_us(interactions, split)
    since = split.label_start if split.mode == "none" else split.test_start
    earlier, later = rows.filter(rows.timestamp_us < since), rows.filter(rows.timestamp_us >= since)
    watches = later.filter(later.completed).select(USER, ITEM)
    seen = earlier.filter(earlier.clicked).select(USER, ITEM).distinct()
    known = earlier.filter(earlier.completed).select(USER).distinct()
    users = watches.select(USER).distinct()
    counts = [
        rows.filter(rows.completed & (rows.timestamp_us < split.label_start)).count(),
        watches.count(),
        watches.semi_join(seen, [USER, ITEM]).count(),
        users.count(),
        users.anti_join(known, USER).count(),
    ]
    history, all_watches, repeats, all_users, new = (int(count.execute()) for count in counts)
    return SplitFacts(
        history, all_watches, repeats / max(all_watches, 1), all_users, new / max(all_users, 1)
    )


def timestamps_us(interactions: ibis.Table, split: Split) -> ibis.Table:
    """The log with its `row` number in file order and its `instant` on the clock in force.

    In the order clock a user's last completed watch starts the test window (`last`) or the labels
    (`none`); rows at and after it belong to that part.
    """
    rows = interactions.mutate(row=ibis.row_number())
    if split.clock == "time":
        return rows.mutate(timestamp_us=timestamp_us_of(rows[TIMESTAMP]))
    of_user = ibis.window(group_by=USER, order_by=[TIMESTAMP, "row"])
    up_to_here = ibis.cumulative_window(group_by=USER, order_by=[TIMESTAMP, "row"])
    rows = rows.mutate(
        _position=ibis.row_number().over(of_user).cast("int64"),
        _watches=rows.completed.cast("int64").sum().over(up_to_here),
        _all_watches=rows.completed.cast("int64").sum().over(ibis.window(group_by=USER)),
    )
    parts = 2 if split.mode == "last" else 1
    all_watches = rows["_all_watches"]
    part = ibis.greatest(parts - (all_watches - rows["_watches"]), 0)
    # DuckDB's sums are wider than 64 bits, and would be written as doubles.
    part = ibis.ifelse(all_watches == 0, 0, part).cast("int32")
    return rows.mutate(timestamp_us=part * PART + rows["_position"]).drop(
        "_position", "_watches", "_all_watches"
    )


def log_until_test_end(interactions: ibis.Table, split: Split) -> ibis.Table:
    """`timestamps_us` of the rows before the test window's end: all that anybody may read."""
    log = timestamps_us(interactions, split)
    return log.filter(log.timestamp_us < split.test_end)


def timestamp_us_of(as_of: ir.TimestampValue) -> ir.IntegerValue:
    """A column of timestamps as instants of the time clock: microseconds since 1970 UTC."""
    # DuckDB's epoch has a fraction and Spark's has none: cut to whole seconds, both say the same.
    seconds = as_of.truncate("s").epoch_seconds().cast("float64").cast("int64")
    return cast(ir.IntegerValue, seconds * 1_000_000 + as_of.microsecond())


def _order_split(config: SplitConfig) -> Split:
    given = [
        name
        for name in ("label_start", "test_start", "test_end")
        if getattr(config, name) is not None
    ]
    if given:
        raise InputError(
            f"split.{given[0]} is an instant, but the clock is order only; leave it out or cut by "
            "time."
        )
    if config.mode == "time":
        raise InputError(
            'split.mode = "time" needs features.clock = "time"; for order-only logs use mode '
            '"last".'
        )
    test_start = 2 * PART
    test_end = 3 * PART if config.mode == "last" else test_start
    return Split(
        mode=config.mode,
        clock="order",
        start=0,
        label_start=PART,
        test_start=test_start,
        test_end=test_end,
    )


def _time_split(config: SplitConfig, first: int, last: int) -> Split:
    share = round((last - first) * config.test_share)
    test_end = _given(config, "test_end", last + 1)
    if config.mode == "none":
        test_start = _given(config, "test_start", test_end)
        test_end = test_start
        length = share
    else:
        test_start = _given(config, "test_start", floored(test_end - share, share))
        length = test_end - test_start
    derived = max(test_start - (nearest_length(length) or length), (first + test_start) // 2)
    label_start = _given(config, "label_start", derived)
    split = Split(
        mode=config.mode,
        clock="time",
        start=first,
        label_start=label_start,
        test_start=test_start,
        test_end=test_end,
    )
    _require_inside(split, last)
    return split


def _given(config: SplitConfig, name: str, derived: int) -> int:
    as_of: datetime | None = getattr(config, name)
    return derived if as_of is None else timestamp_us_from(as_of)


def _require_inside(split: Split, last: int) -> None:
    if split.test_start <= split.start or (split.mode == "time" and split.test_start > last):
        raise InputError(
            f"split.test_start = {text_of(split.test_start)} lies outside the log, which goes from "
            f"{text_of(split.start)} to {text_of(last)}; choose an instant inside it, or "
            "split.mode = none to "
            "hold nothing out."
        )


def _require_order(split: Split) -> None:
    first, history, labels = "the log's first row", "split.label_start", "split.test_start"
    at = {first: split.start, history: split.label_start, labels: split.test_start}
    pairs = [(first, history), (history, labels)]
    if split.mode == "time":
        # Before label_start, which where it is derived goes wrong with it.
        at["split.test_end"] = split.test_end
        pairs.insert(0, (labels, "split.test_end"))
    for name, later in pairs:
        if at[name] >= at[later]:
            raise InputError(
                f"{later} = {text_of(at[later])} does not lie after {name} = {text_of(at[name])}; "
                "the instants must increase inside the log. Where its timestamps are too coarse "
                "for that, cut by order: split.mode = last."
            )
