"""Cleaning rules: all off by default, each counts what it dropped."""

from collections.abc import Callable
from dataclasses import replace

import ibis
import ibis.expr.types as ir
from ibis.common.deferred import Deferred

from features.config import CleaningConfig
from features.errors import InputError
from features.schema import (
    CLICKED,
    DURATION_SECONDS,
    ITEM,
    PUBLISHED_AT,
    TIMESTAMP,
    USER,
    WATCH_SECONDS,
)
from features.tables import Tables

COMPLETED = "completed"
DAY_MILLISECONDS = 86_400_000


def clean(tables: Tables, config: CleaningConfig) -> tuple[Tables, dict[str, int]]:
    """The tables under the rules that are on, and the rows each rule dropped, in the order they
    ran.

    `min_watch_seconds` and `max_watch_seconds` drop nothing: they count the clicks taken back and
    the watches cut. InputError where a rule needs a table or column that the log has not.
    """
    dropped: dict[str, int] = {}
    for name, (rule, measure) in RULES.items():
        if getattr(config, name):
            before = measure(tables.interactions, config)
            tables = rule(tables, config)
            dropped[name] = _number(before) - _number(measure(tables.interactions, config))
    return tables, dropped


def with_completed(tables: Tables, config: CleaningConfig) -> ir.Table:
    """Interactions with `completed`: clicked, and seconds null or >= min(10 s, half the known
    duration).
    """
    log, needed = tables.interactions, ibis.literal(config.completed_seconds)
    if tables.items is not None and DURATION_SECONDS in tables.items.columns:
        length = tables.items.select(_item=ITEM, _duration=DURATION_SECONDS)
        log = log.left_join(length, log[ITEM] == length["_item"]).drop("_item")
        enough = log["_duration"] * config.completed_share
        needed = ibis.least(needed, ibis.coalesce(enough, needed))
    watched = log[WATCH_SECONDS].isnull() | (log[WATCH_SECONDS] >= needed)
    marked = log.mutate(**{COMPLETED: log[CLICKED] & watched})
    return marked.drop("_duration") if "_duration" in marked.columns else marked


def _sample_users(tables: Tables, config: CleaningConfig) -> Tables:
    users = tables.interactions.select(USER).distinct()
    draw = (ibis.literal(f"{config.seed}:") + users[USER].cast("string")).hexdigest("md5")
    drawn = (
        users.mutate(_draw=draw).order_by(["_draw", USER]).limit(config.sample_users).select(USER)
    )
    return Tables(
        tables.interactions.semi_join(drawn, USER),
        tables.items,
        None if tables.users is None else tables.users.semi_join(drawn, USER),
        None if tables.searches is None else tables.searches.semi_join(drawn, USER),
    )


def _since(tables: Tables, config: CleaningConfig) -> Tables:
    log, first = tables.interactions, ibis.literal(config.since, "timestamp('UTC')")
    return replace(tables, interactions=log.filter(log[TIMESTAMP] >= first))


def _last_days(tables: Tables, config: CleaningConfig) -> Tables:
    log = tables.interactions
    window = ibis.interval(milliseconds=round((config.last_days or 0.0) * DAY_MILLISECONDS))
    return replace(
        tables, interactions=log.filter(log[TIMESTAMP] > log[TIMESTAMP].max().as_scalar() - window)
    )


def _known_items_only(tables: Tables, _: CleaningConfig) -> Tables:
    items = _items_with(tables, ITEM, "known_items_only")
    return replace(tables, interactions=tables.interactions.semi_join(items, ITEM))


def _no_exposure_before_publication(tables: Tables, _: CleaningConfig) -> Tables:
    items = _items_with(tables, PUBLISHED_AT, "no_exposure_before_publication")
    log = tables.interactions
    too_early = (log[ITEM] == items[ITEM]) & (log[TIMESTAMP] < items[PUBLISHED_AT])
    return replace(tables, interactions=log.anti_join(items, too_early))


def _min_watch_seconds(tables: Tables, config: CleaningConfig) -> Tables:
    log = tables.interactions
    long_enough = (log[WATCH_SECONDS] >= config.min_watch_seconds).fill_null(True)
    return replace(tables, interactions=log.mutate(**{CLICKED: log[CLICKED] & long_enough}))


def _max_watch_seconds(tables: Tables, config: CleaningConfig) -> Tables:
    log, most = tables.interactions, ibis.literal(config.max_watch_seconds, "float64")
    capped = ibis.ifelse(log[WATCH_SECONDS] > most, most, log[WATCH_SECONDS])
    return replace(tables, interactions=log.mutate(**{WATCH_SECONDS: capped}))


def _min_history(tables: Tables, config: CleaningConfig) -> Tables:
    return _with_watches(tables, ibis._["_watches"] >= config.min_history)


def _max_history(tables: Tables, config: CleaningConfig) -> Tables:
    return _with_watches(tables, ibis._["_watches"] <= config.max_history)


def _with_watches(tables: Tables, condition: Deferred) -> Tables:
    log = tables.interactions
    users = log.group_by(USER).agg(_watches=log[CLICKED].cast("int64").sum()).filter(condition)
    return replace(tables, interactions=log.semi_join(users, USER))


def _items_with(tables: Tables, column: str, rule: str) -> ir.Table:
    if tables.items is None or column not in tables.items.columns:
        raise InputError(
            f"cleaning.{rule} needs an items table with column {column}; add it or switch the rule "
            "off"
        )
    return tables.items


def _rows(log: ir.Table, _: CleaningConfig) -> ir.IntegerScalar:
    return log.count()


def _clicks(log: ir.Table, _: CleaningConfig) -> ir.IntegerScalar:
    return log[CLICKED].cast("int64").sum()


def _above_cap(log: ir.Table, config: CleaningConfig) -> ir.IntegerScalar:
    return (log[WATCH_SECONDS] > config.max_watch_seconds).cast("int64").sum()


def _number(counted: ir.IntegerScalar) -> int:
    return int(counted.execute() or 0)


Rule = Callable[[Tables, CleaningConfig], Tables]
Measure = Callable[[ir.Table, CleaningConfig], ir.IntegerScalar]

# The sample comes first because it makes the others cheap, histories last because the others
# shorten them.
RULES: dict[str, tuple[Rule, Measure]] = {
    "sample_users": (_sample_users, _rows),
    "since": (_since, _rows),
    "last_days": (_last_days, _rows),
    "known_items_only": (_known_items_only, _rows),
    "no_exposure_before_publication": (_no_exposure_before_publication, _rows),
    "min_watch_seconds": (_min_watch_seconds, _clicks),
    "max_watch_seconds": (_max_watch_seconds, _above_cap),
    "min_history": (_min_history, _rows),
    "max_history": (_max_history, _rows),
}
