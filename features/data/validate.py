"""The door: rows that cannot be true are set aside with a reason; too many of them refuse the whole
log.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, cast

import ibis
import ibis.expr.types as ir

from features.data.fields import MILLISECONDS, Field, is_blank
from features.data.files import FILE, ROW, Page, Sheet, names_of
from features.data.partitions import file_name
from features.errors import InputError
from features.schema import (
    CLICKED,
    DURATION_SECONDS,
    ITEM,
    PROPENSITY,
    QUERY,
    TIMESTAMP,
    USER,
    WATCH_SECONDS,
)

REASON, VALUE = "_reason", "_value"
KEYS = (USER, ITEM, TIMESTAMP)
NEVER_NULL = {USER, ITEM, TIMESTAMP, CLICKED, QUERY}
DUPLICATE = "duplicate"
NO_USER = f"{USER} is null"
MOST_ANONYMOUS = 0.5
UNKNOWN_CLICK = f"{CLICKED} is not in its file"
STRAY_CLOCK = f"{TIMESTAMP} lies years from all others"
STRAY_SPANS, SHORTEST_SPAN_SECONDS = 10, 30 * 86_400
# What two rows of one table must not share; of other tables it is the item.
UNIQUE = {"interactions": KEYS, "users": (USER,), "searches": (USER, TIMESTAMP, QUERY)}
LONGEST_WATCH_SECONDS = 86_400
TOO_LONG = f"is above {LONGEST_WATCH_SECONDS}"
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
# 1990 and 2100 in milliseconds since 1970: read as seconds, both lie tens of thousands of years
# ahead.
MILLISECONDS_FROM, MILLISECONDS_TO = 631_152_000_000, 4_102_444_800_000


@dataclass(frozen=True)
class Fault:
    """One way a cell can be wrong: when, what the `rejected` table calls it, what was expected
    instead.
    """

    condition: ir.BooleanValue
    reason: str
    column: str
    expected: str


class Checked(NamedTuple):
    """Rows in the contract's types, those set aside, how many of these by reason, and how many were
    read.
    """

    kept: ir.Table
    rejected: ir.Table
    counts: dict[str, int]
    rows: int


class Limits(NamedTuple):
    """The share of rows that may be set aside, the instant nothing can be later than, and the log's
    habits.

    With `repeats` duplicates are set aside as ever, but not counted against the share; with
    `capped` watches of any length are sound, since a rule of cleaning cuts them.
    """

    max_rejected_share: float
    now: datetime
    repeats: bool = False
    capped: bool = False


def evaluation(sheet: Sheet, limits: Limits) -> ir.Table:
    """The typed columns of a sheet and, where a row is at fault, the reason, the value and the keys
    as text.
    """
    return sheet.united(lambda page: _evaluated(sheet, page, limits))


def _evaluated(sheet: Sheet, page: Page, limits: Limits) -> dict[str, ir.Value]:
    faults = list(_faults(page, limits))
    conditions = [(fault.condition, fault.reason) for fault in faults]
    if CLICKED in sheet.schema and CLICKED not in names_of(page.fields):
        # Neither a click nor none: other files of the log say which of its rows are clicks.
        conditions.append((ibis.literal(True), UNKNOWN_CLICK))
    reason = ibis.cases(*conditions) if conditions else ibis.null("string")
    values = [(fault.condition, _text(page.raw[fault.column])) for fault in faults]
    value = ibis.cases(*values) if values else ibis.null("string")
    raw_keys = {taken.name: page.raw[taken.raw] for taken in page.fields if taken.name in KEYS}
    keys = {
        f"_{name}": ibis.ifelse(reason.notnull(), _text(raw), ibis.null("string"))
        for name, raw in raw_keys.items()
    }
    return page.typed(sheet.schema) | {REASON: reason, VALUE: value} | keys


def _text(value: ir.Value) -> ir.Value:
    return value.cast("string")


def _faults(page: Page, limits: Limits) -> Iterator[Fault]:
    for taken in page.fields:
        raw, expected = page.raw[taken.raw], _expected(taken, limits.now)
        for condition, problem in _problems(taken, raw, limits):
            yield Fault(condition, f"{taken.name} {problem}", taken.raw, expected)


def _problems(
    taken: Field, raw: ir.Column, limits: Limits
) -> Iterator[tuple[ir.BooleanValue, str]]:
    value = taken.value(raw)
    if taken.name in NEVER_NULL:
        yield is_blank(raw), "is null"
    in_seconds = taken.kind == "timestamp" and taken.unit != MILLISECONDS
    if in_seconds and not raw.type().is_temporal() and not raw.type().is_null():
        number = cast(ir.FloatingValue, raw.try_cast("float64"))
        yield number.between(MILLISECONDS_FROM, MILLISECONDS_TO), "looks like milliseconds"
    yield value.isnull() & ~is_blank(raw), "cannot be read"
    if taken.name == TIMESTAMP:
        yield value > ibis.literal(limits.now, "timestamp('UTC')"), "lies in the future"
        yield value < ibis.literal(EARLIEST, "timestamp('UTC')"), "lies before 1990"
    if taken.name in (WATCH_SECONDS, DURATION_SECONDS):
        yield value < 0, "is negative"
    if taken.kind == "number":
        yield cast(ir.FloatingValue, value).isinf(), "is infinite"
    if taken.name == WATCH_SECONDS and not limits.capped:
        yield value > LONGEST_WATCH_SECONDS, TOO_LONG
    if taken.name == PROPENSITY:
        yield value <= 0, "is not above 0"
        yield value > 1, "is above 1"


def _expected(taken: Field, now: datetime) -> str:
    milliseconds = taken.unit == MILLISECONDS
    if taken.kind == "timestamp":
        form = "milliseconds" if milliseconds else "ISO text or whole seconds"
        span = f" between 1990 and {now:%Y-%m-%d}" if taken.name == TIMESTAMP else ""
        return (
            f"{form} since 1970{span} (seconds times 1000)"
            if milliseconds
            else f"{form} since 1970{span}"
        )
    if taken.name == WATCH_SECONDS:
        return (
            f"{'milliseconds' if milliseconds else 'seconds'} worth 0 to "
            f"{LONGEST_WATCH_SECONDS} s, or blank"
        )
    if taken.name == PROPENSITY:
        return "a chance above 0 and at most 1, or blank"
    if taken.kind == "id":
        return "a whole number in every row" if taken.whole else "an id in every row"
    return {"flag": "0 or 1, true or false", "number": "a number >= 0 or blank"}.get(
        taken.kind, "readable text"
    )


def check(name: str, sheet: Sheet, rows: ir.Table, limits: Limits) -> Checked:
    """Part `checked` rows into kept and rejected; InputError where more are rejected than the
    limits allow.
    """
    total = int(rows.count().execute())
    if name == "interactions":
        rows = with_stray_clocks(rows)
    faulty = rows.filter(rows[REASON].notnull())
    sound = rows.filter(rows[REASON].isnull())
    repeated = duplicates(sound, list(UNIQUE.get(name, (ITEM,))))
    counts = _counted(faulty) | ({DUPLICATE: n} if (n := int(repeated.count().execute())) else {})
    held_against = {
        reason: n for reason, n in counts.items() if _is_held(name, reason, n / total, limits)
    }
    if sum(held_against.values()) > limits.max_rejected_share * total:
        worst = max(held_against, key=lambda reason: held_against[reason])
        bad = repeated if worst == DUPLICATE else faulty.filter(faulty[REASON] == worst)
        (first,) = bad.order_by([FILE, ROW]).limit(1).to_pyarrow().to_pylist()
        raise InputError(_refusal(sheet, worst, first, (sum(held_against.values()), total), limits))
    kept = sound.anti_join(repeated, [FILE, ROW]) if DUPLICATE in counts else sound
    rejected = ibis.union(_rejected(name, sheet, faulty), _rejected(name, sheet, repeated))
    marks = [column for column in kept.columns if column.startswith("_")]
    kept = kept.drop(*(mark for mark in marks if mark not in (FILE, ROW)))
    return Checked(kept, rejected, counts, total)


def duplicates(rows: ir.Table, keys: list[str]) -> ir.Table:
    """The rows whose keys an earlier row (of an earlier file, or higher up) already had; held in
    memory.
    """
    marked = rows.mutate(**{REASON: ibis.literal(DUPLICATE)})
    repeated = rows.group_by(keys).agg(_times=rows.count()).filter(ibis._["_times"] > 1)
    # Only rows that share their keys are numbered: a window over the whole log would sort all of
    # it.
    again = marked.semi_join(repeated, keys)
    place = ibis.row_number().over(ibis.window(group_by=keys, order_by=[FILE, ROW]))
    later = again.mutate(_place=place).filter(ibis._["_place"] > 0).drop("_place")
    return ibis.memtable(later.to_pyarrow())


def with_stray_clocks(rows: ir.Table) -> ir.Table:
    """Evaluated interactions, those at fault too whose clock stood years from where the rows are.

    Far is more than STRAY_SPANS times the time that nine tenths of the sound rows take, so that the
    long tail of a log that grew, or dried up, for years is kept.
    """
    sound = rows.filter(rows[REASON].isnull())
    seconds = sound[TIMESTAMP].epoch_seconds().cast("float64")
    early, late = (
        sound.agg(early=seconds.quantile(0.05), late=seconds.quantile(0.95))
        .to_pyarrow()
        .to_pylist()[0]
        .values()
    )
    if early is None:
        return rows
    reach = STRAY_SPANS * max(late - early, SHORTEST_SPAN_SECONDS)
    at = rows[TIMESTAMP].epoch_seconds()
    strays = rows[REASON].isnull() & ~at.between(early - reach, late + reach)
    return rows.mutate(
        **{
            REASON: ibis.ifelse(strays, STRAY_CLOCK, rows[REASON]),
            VALUE: ibis.ifelse(strays, _text(rows[TIMESTAMP]), rows[VALUE]),
        }
    )


def _is_held(name: str, reason: str, share: float, limits: Limits) -> bool:
    """Whether rows set aside for a reason, a share of all, are held against the table."""
    if reason == DUPLICATE:
        return name == "interactions" and not limits.repeats
    # Visitors who are not logged in are no fault of a log, unless they are most of it.
    anonymous = reason == NO_USER and name == "interactions" and share <= MOST_ANONYMOUS
    return not anonymous and reason != UNKNOWN_CLICK


def _counted(faulty: ir.Table) -> dict[str, int]:
    counted = faulty.group_by(REASON).agg(n=faulty.count()).order_by(REASON).execute()
    return {str(reason): int(n) for reason, n in zip(counted[REASON], counted["n"], strict=True)}


def _refusal(
    sheet: Sheet, reason: str, first: dict[str, object], share: tuple[int, int], limits: Limits
) -> str:
    file = file_name(sheet.files[cast(int, first[FILE])])
    if reason == DUPLICATE:
        keys = ", ".join(str(first[key]) for key in KEYS)
        column, found = ", ".join(KEYS), f"{keys} a second time"
        expected = "one row for each user, item and instant"
    elif reason == STRAY_CLOCK:
        column, found = TIMESTAMP, f"{first[VALUE]!r} ({reason})"
        expected = "an instant near the others"
    else:
        page = sheet.page_of(cast(int, first[FILE]))
        fault = next(fault for fault in _faults(page, limits) if fault.reason == reason)
        shown = "a blank" if first[VALUE] is None else repr(first[VALUE])
        column, found, expected = fault.column, f"{shown} ({reason})", fault.expected
    remedy = "repair or drop these rows"
    if "milliseconds" in reason:
        remedy = "divide the column by 1000"
    elif reason == f"{WATCH_SECONDS} {TOO_LONG}":
        remedy = (
            "if these are milliseconds divide the column by 1000, if they add up many sittings cap "
            "them with cleaning.max_watch_seconds, else repair or drop these rows"
        )
    return (
        f"{file}, column {column}: row {first[ROW]} holds {found}, expected {expected}; "
        f"{share[0]} of {share[1]} rows are at fault, tolerated are "
        f"{limits.max_rejected_share:.2%} "
        f"(cleaning.max_rejected_share): {remedy}"
    )


def _rejected(name: str, sheet: Sheet, rows: ir.Table) -> ir.Table:
    files = ibis.cases(
        *((rows[FILE] == index, file_name(path)) for index, path in enumerate(sheet.files))
    )
    return rows.select(
        table=ibis.literal(name),
        file=files,
        row=rows[ROW].cast("int64"),
        reason=rows[REASON],
        value=rows[VALUE],
        **{key: _key_text(rows, key) for key in KEYS},
    )


def _key_text(rows: ir.Table, key: str) -> ir.Value:
    if key not in rows.columns:
        return ibis.null("string")
    return ibis.coalesce(rows[f"_{key}"], _text(rows[key]))
