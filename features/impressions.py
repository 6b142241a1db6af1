"""The log in indexes, as models read it: one row an impression, by user and time."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.arrays import Flags, Float64, Int32, Int64
from features.asof_counts import Events
from features.asof_features import AsOfFeatures
from features.asof_log import AsOfLog
from features.histories import Histories, histories_of
from features.schema import CLICKED, DEVICE, POSITION, PROPENSITY, SURFACE, WATCH_SECONDS
from features.side_features import SideFeatures
from features.split import Split

# What T is counted in: `watches` where the log does not know seconds.
Unit = Literal["seconds", "watches"]

INDEXED = ("user", "item", "timestamp_us", CLICKED, "completed")
OPTIONAL = ("request_us", WATCH_SECONDS, POSITION, DEVICE, SURFACE, PROPENSITY)
# A log with fewer unclicked rows than this does not log its impressions: the ranker learns from
# candidates.
UNCLICKED_SHARE = 0.01
# Where more of the clicks than this lack their seconds, T = 1.
MOSTLY_UNKNOWN = 0.5


@dataclass(frozen=True)
class Impressions:
    """The log in indexes, [n] each, by user and time; `seconds` is NaN where the log does not know.

    `requests_us` is when each one's page was asked for: at its own instant or before. `positions`
    on the page count from 1, 0 unknown; `device` and `surface` are codes, 0 unknown;
    `propensities` are the log's chances of having shown what it showed, NaN unknown.
    """

    users: Int32
    items: Int32
    timestamps_us: Int64
    requests_us: Int64
    clicked: Flags
    completed: Flags
    seconds: Float64
    positions: Int32
    device: Int32
    surface: Int32
    propensities: Float64

    @classmethod
    def load(cls, folder: Path) -> "Impressions":
        path = folder / "impressions.parquet"
        there = pq.read_schema(path).names
        return cls.of_table(
            pq.read_table(path, columns=[name for name in (*INDEXED, *OPTIONAL) if name in there])
        )

    @classmethod
    def of_table(cls, table: pa.Table) -> "Impressions":
        """Of a table as `features.vocabulary.impressions_of` and `features.requests.with_requests`
        make it; without the latter, each row is a request of its own.
        """
        columns = [table[name].to_numpy() for name in INDEXED]
        users, items, timestamps_us, clicked, completed = columns
        asked = (
            table["request_us"].to_numpy() if "request_us" in table.column_names else timestamps_us
        )
        positions = _numbers(table, POSITION)
        return cls(
            users=users,
            items=items,
            timestamps_us=timestamps_us,
            requests_us=asked,
            clicked=clicked,
            completed=completed,
            seconds=_numbers(table, WATCH_SECONDS),
            positions=np.where(np.isnan(positions), 0, np.maximum(positions, 0)).astype(np.int32),
            device=_category_codes(table, DEVICE, timestamps_us),
            surface=_category_codes(table, SURFACE, timestamps_us),
            propensities=_numbers(table, PROPENSITY),
        )

    @property
    def contexts(self) -> dict[str, Int32]:
        """The contexts that the log knows, by column."""
        return {name: codes for name in (DEVICE, SURFACE) if (codes := getattr(self, name)).any()}

    def tell_what_was_shown(self, before: int) -> bool:
        """Whether rows before an instant were shown and not clicked, and not by mistake alone."""
        known = self.timestamps_us < before
        return bool(known.any() and np.mean(~self.clicked[known]) >= UNCLICKED_SHARE)

    def before(self, timestamp_us: int) -> "Impressions":
        """Those strictly before an instant."""
        return self.take(np.flatnonzero(self.timestamps_us < timestamp_us))

    def ended_by(self, timestamp_us: int, ended_us: Int64) -> "Impressions":
        """Those before an instant, without watches that still ran, `ended_us` [n] being their ends:
        what was watched of them was not known.
        """
        ended = (self.timestamps_us < timestamp_us) & (ended_us <= timestamp_us)
        return self.take(np.flatnonzero(ended))

    def between(self, since: int, until: int) -> "Impressions":
        """Those from one instant to strictly before another."""
        inside = (self.timestamps_us >= since) & (self.timestamps_us < until)
        return self.take(np.flatnonzero(inside))

    def histories(self, kept: Flags, users: int) -> Histories:
        """The kept ones [n] as histories of so many user indexes, 0 included."""
        of = self.take(kept)
        return histories_of(of.users, of.items, of.timestamps_us, users)

    def take(self, rows: npt.NDArray[Any]) -> "Impressions":
        return Impressions(
            **{field.name: getattr(self, field.name)[rows] for field in fields(self)}
        )


def _numbers(table: pa.Table, name: str) -> Float64:
    """A column, NaN where unknown, or all NaN where there is no such column."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    values: Float64 = table[name].to_numpy().astype(np.float64)
    return values


def _category_codes(table: pa.Table, name: str, timestamps_us: Int64) -> Int32:
    """A column as codes 1, 2, ... of its values in the order of their first instant, 0 where
    unknown.

    So what comes later changes no older code.
    """
    codes = np.zeros(len(table), np.int32)
    if name in table.column_names:
        order = np.argsort(timestamps_us, kind="stable")
        codes[order] = pd.factorize(table[name].to_pandas().iloc[order])[0] + 1
    return codes


def unit_of(
    clicked: Flags,
    seconds: Float64,
    before: Flags,
) -> Unit:
    """`watches` where more than half of the clicks before the cut lack their seconds (then T = 1),
    else `seconds`.
    """
    used = clicked & before
    mostly_unknown = used.any() and np.isnan(seconds[used]).mean() > MOSTLY_UNKNOWN
    return "watches" if mostly_unknown else "seconds"


def as_of_features_of(
    log: Impressions, users: SideFeatures, items: SideFeatures, split: Split, unit: Unit
) -> AsOfFeatures:
    """The as-of features of a log with these side columns; what it counts as watched is in
    `unit`.
    """
    seconds = log.clicked.astype(np.float64) if unit == "watches" else log.seconds
    watched = np.where(log.clicked, seconds, 0.0)
    timed, in_seconds = split.clock == "time", unit == "seconds"
    given = (log.users, log.items, log.timestamps_us, log.clicked, watched, log.requests_us)
    events = Events.of(*given)
    if not (timed and in_seconds):
        # What is watched is known at once where nothing says how long it took.
        events = replace(events, ended_us=events.timestamps_us)
    return AsOfFeatures(AsOfLog(events, users, items, timed, log.contexts, in_seconds=in_seconds))
