"""Cleaning rules: all off by default, each counts what it dropped."""

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import ibis
import ibis.expr.types as ir
from ibis.common.deferred import Deferred
from pydantic import BaseModel, ConfigDict, Field, model_validator

from features.errors import InputError
from features.schema import (
    CLICKED,
    DURATION_SECONDS,
    ITEM,
    PUBLISHED_AT,
    TIMESTAMP,
    USER,
    WATCH_SECONDS,
    Tables,
)

COMPLETED = "completed"
DAY_MILLISECONDS = 86_400_000


class CleaningConfig(BaseModel):
    """Which rows are used, and what counts as a completed watch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_users: int | None = Field(
        None,
        ge=1,
        description="Number of users kept, drawn by a stable hash of `cleaning.seed` and their id; "
        "unset keeps all.",
    )
    seed: int = Field(0, description="Seed of the sample of users: another one draws other users.")
    last_days: float | None = Field(
        None,
        gt=0,
        description="Number of days kept, counted back from the log's last row; unset keeps all.",
    )
    known_items_only: bool = Field(
        False, description="Whether to drop rows of items that the table `items` lacks."
    )
    no_exposure_before_publication: bool = Field(
        False,
        description="Whether to drop rows that are earlier than the publication of their item.",
    )
    min_watch_seconds: float | None = Field(
        None,
        ge=0,
        description="Seconds below which a click counts as none; unset keeps every click.",
    )
    max_watch_seconds: float | None = Field(
        None,
        gt=0,
        description="Seconds to which longer watches are cut, for logs that add up many sittings; "
        "unset, watches above a day are faults.",
    )
    min_history: int | None = Field(
        None, ge=1, description="Clicks that a user needs to be kept; unset keeps everybody."
    )
    max_history: int | None = Field(
        None, ge=1, description="Clicks above which a user is dropped; unset keeps everybody."
    )
    max_rejected_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of faulty rows that are set aside before the log is refused.",
    )
    completed_seconds: float = Field(
        10.0,
        ge=0,
        description="Watch seconds that complete a watch of any item; a click of unknown seconds "
        "is complete.",
    )
    completed_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the item's duration that completes a watch, where that is less than "
        "`completed_seconds`.",
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_history and self.max_history and self.min_history > self.max_history:
            raise ValueError(
                f"min_history {self.min_history} is above max_history {self.max_history}"
            )
        return self


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
    "last_days": (_last_days, _rows),
    "known_items_only": (_known_items_only, _rows),
    "no_exposure_before_publication": (_no_exposure_before_publication, _rows),
    "min_watch_seconds": (_min_watch_seconds, _clicks),
    "max_watch_seconds": (_max_watch_seconds, _above_cap),
    "min_history": (_min_history, _rows),
    "max_history": (_max_history, _rows),
}
