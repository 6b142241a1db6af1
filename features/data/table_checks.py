"""The door looks at tables as wholes: do they belong together, do seconds fit durations, was
anything watched.

Every cell may be sound and the table still be worthless: ids that lost their zeros, seconds that
are milliseconds. What cannot be right is refused before anything is trained; what is odd is told.
"""

from dataclasses import dataclass
from typing import Any, cast

import ibis.expr.types as ir

from features.config import CleaningConfig
from features.data.clean import COMPLETED
from features.errors import InputError
from features.schema import CLICKED, DURATION_SECONDS, ITEM, USER, WATCH_SECONDS
from features.tables import Tables

# The key by which each side table belongs to the log.
SIDE_KEYS = {"items": ITEM, "users": USER, "searches": USER}
# Below this share of the log's rows a side table that matches them is told to be thin.
THIN_MATCH = 0.9
# Nobody watches fifty durations in one sitting; milliseconds taken for seconds look like hundreds.
MOST_DURATIONS = 50.0
# Half of all clicks ending within a two hundredth of the item are told: durations in milliseconds
# look like thousandths.
LEAST_DURATIONS = 0.005


@dataclass(frozen=True)
class Match:
    """Which share of the log's rows a side table describes, and an id of the log and one of the
    table that the other has not, where there are such.
    """

    share: float
    log_id: str | None
    table_id: str | None

    @property
    def examples(self) -> str:
        """For people: `42.0` in the log, `42` in the table."""
        if self.table_id is None:
            return f"such as `{self.log_id}` are missing"
        return f"`{self.log_id}` in the log, `{self.table_id}` in the table"


def matches_of(tables: Tables) -> dict[str, Match]:
    """How well each side table matches the log; InputError where one matches nothing."""
    found = {
        name: _match(tables.interactions, side, key)
        for name, key in SIDE_KEYS.items()
        if (side := getattr(tables, name)) is not None
    }
    for name, match in found.items():
        if match.share == 0:
            raise InputError(
                f"table {name}: no {SIDE_KEYS[name]} of it is in the log ({match.examples}); ids "
                "must be written alike in all tables: repair one of the two, or take the table away"
            )
    return found


def _match(log: ir.Table, side: ir.Table, key: str) -> Match:
    in_log = log.group_by(key).agg(_rows=log.count())
    in_side = side.select(key).distinct()
    rows = in_log.agg(
        total=in_log["_rows"].sum(),
        known=in_log["_rows"].sum(where=in_log[key].isin(in_side[key])),
    )
    counted = rows.to_pyarrow().to_pylist()[0]
    return Match(
        share=int(counted["known"] or 0) / max(int(counted["total"] or 0), 1),
        log_id=_example(in_log.anti_join(in_side, key), key),
        table_id=_example(in_side.anti_join(in_log, key), key),
    )


def _example(rows: ir.Table, key: str) -> str | None:
    least: Any = rows[key].min().execute()
    return None if least is None or least != least else str(least)


def durations_watched(tables: Tables) -> float | None:
    """The median click's seconds over its item's duration; None where no click has both.

    InputError where the seconds must be milliseconds.
    """
    items, log = tables.items, tables.interactions
    if items is None or DURATION_SECONDS not in items.columns:
        return None
    known = items.filter(items[DURATION_SECONDS] > 0).select(ITEM, DURATION_SECONDS)
    clicks = log.filter(log[CLICKED] & (log[WATCH_SECONDS] > 0)).join(known, ITEM)
    lengths = cast(ir.FloatingColumn, clicks[WATCH_SECONDS] / clicks[DURATION_SECONDS])
    median = lengths.median().to_pyarrow().as_py()
    if median is not None and median > MOST_DURATIONS:
        raise InputError(
            f"interactions, column {WATCH_SECONDS}: half of the clicks last {median:,.0f} "
            "durations of their item and more, expected about one; if they are milliseconds "
            "divide the column by 1000, if they add up many sittings cap them with "
            "cleaning.max_watch_seconds"
        )
    return None if median is None else float(median)


def require_watches(log: ir.Table, config: CleaningConfig) -> None:
    """InputError where no row is a click, or no click a completed watch: there is nothing to learn
    from.

    `log` has the column `completed`.
    """
    facts = log.agg(
        rows=log.count(),
        clicks=log[CLICKED].cast("int64").sum(),
        completed=log[COMPLETED].cast("int64").sum(),
        longest=log[WATCH_SECONDS].max(where=log[CLICKED]),
    )
    found = facts.to_pyarrow().to_pylist()[0]
    if not found["clicks"]:
        raise InputError(
            f"interactions, column {CLICKED}: none of {found['rows']:,} rows is a click, and "
            "without clicks nothing can be learnt; leave the column out if every row is a click"
        )
    if not found["completed"]:
        raise InputError(
            f"interactions, column {WATCH_SECONDS}: none of {int(found['clicks']):,} clicks is a "
            f"completed watch, the longest lasts {found['longest']:,.1f} s; lower "
            f"cleaning.completed_seconds = {config.completed_seconds:g}, or see whether the column "
            "is in seconds"
        )


def repeat_share_of(log: ir.Table) -> ir.FloatingScalar:
    """The share of the clicks that repeat an earlier click of the same user on the same item."""
    clicks = log.filter(log[CLICKED])
    pairs = clicks.select(USER, ITEM).distinct().count().as_scalar()
    return cast(ir.FloatingScalar, 1 - pairs / clicks.count().as_scalar().nullif(0))


def odd_things(matches: dict[str, Match], durations: float | None) -> list[str]:
    """What is odd and no fault, for the line that says what was read."""
    told = [
        f"{name} describes {match.share:.0%} of the rows ({match.examples})"
        for name, match in matches.items()
        if match.share < THIN_MATCH and name != "searches"
    ]
    if durations is not None and durations < LEAST_DURATIONS:
        told.append(
            f"half of the clicks last less than {durations:.2%} of their item's duration: are "
            "durations in seconds?"
        )
    return told
