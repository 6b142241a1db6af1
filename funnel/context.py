"""One step's work: what it is given, and what several steps read of the artefacts before them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.asof_counts import Events
from features.asof_features import AsOfFeatures
from features.asof_log import AsOfLog
from features.histories import Histories
from features.schema import DEVICE, POSITION, PROPENSITY, SURFACE, WATCH_SECONDS
from features.side_features import SideFeatures
from features.split import Split
from features.vocabulary import Vocabulary
from funnel.config import FunnelConfig
from funnel.lists import RawIds
from ranking.examples import filled_seconds, unit_of
from recall.candidates import Candidates
from recall.inputs import ModelInputs, UserInputs
from recall.tower import Tower

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

# A log with fewer unclicked rows than this does not log its impressions: the ranker learns from
# candidates.
UNCLICKED_SHARE = 0.01
# When each impression of the artefact was asked for, microseconds UTC.
REQUESTS = "requests_us.npy"
# Folders of an artefact: what it holds as of the validation instant.
VALIDATION = "validation"


@dataclass(frozen=True)
class StepContext:
    """One step's work: the configuration, its parents' folders, the folder to fill, one for what
    must survive a kill, and whom to tell of progress and of each epoch.
    """

    config: FunnelConfig
    source: str
    data: Path
    inputs: Mapping[str, Path]
    out: Path
    scratch: Path
    tell: Callable[[str], None] = lambda _: None
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda _: None

    @cached_property
    def split(self) -> Split:
        return Split.load(self.inputs["split"])

    @cached_property
    def ids(self) -> RawIds:
        folder = self.inputs["vocabulary"]
        return RawIds(
            Vocabulary.load(folder / "users.parquet"), Vocabulary.load(folder / "items.parquet")
        )

    @cached_property
    def impressions(self) -> "Impressions":
        return Impressions.load(self.inputs["impressions"])

    @cached_property
    def user_inputs(self) -> UserInputs:
        folder = self.inputs["histories"]
        searches = Histories.load(folder / "searches") if (folder / "searches").exists() else None
        users = SideFeatures.load(self.inputs["profiles"] / "users.parquet")
        return UserInputs(Histories.load(folder / "watches"), searches, users)

    @cached_property
    def model_inputs(self) -> ModelInputs:
        """What towers may be told."""
        tokens, items = (
            self.inputs["histories"] / "tokens.parquet",
            self.inputs["profiles"] / "items.parquet",
        )
        return ModelInputs(
            self.user_inputs,
            self.ids.items,
            Vocabulary.load(tokens) if tokens.exists() else None,
            SideFeatures.load(items),
            timed=self.split.clock == "time",
        )

    @cached_property
    def towers(self) -> list[Tower]:
        folder = self.inputs["towers"]
        return [Tower.load(folder, path.stem) for path in sorted(folder.glob("tower_*.json"))]

    @cached_property
    def unit(self) -> str:
        log = self.impressions
        return unit_of(log.clicked, log.seconds, log.timestamps_us < self.split.test_start)

    @cached_property
    def features(self) -> AsOfFeatures:
        folder = self.inputs["profiles"]
        users, items = (
            SideFeatures.load(folder / f"{side}.parquet") for side in ("users", "items")
        )
        return self.features_of(users, items)

    def features_of(self, users: SideFeatures, items: SideFeatures) -> AsOfFeatures:
        """The log with these side columns."""
        log = self.impressions
        seconds = (
            log.clicked.astype(np.float64)
            if self.unit == "watches"
            else np.where(log.clicked, log.seconds, 0.0)
        )
        timed, in_seconds = self.split.clock == "time", self.unit == "seconds"
        events = Events.of(
            log.users,
            log.items,
            log.timestamps_us,
            log.clicked,
            seconds,
            log.requests_us,
            timed=timed and in_seconds,
        )
        return AsOfFeatures(
            AsOfLog(events, users, items, timed, log.contexts, in_seconds=in_seconds)
        )

    def write_json(self, name: str, value: Any) -> None:
        (self.out / name).write_text(
            json.dumps(value, indent=1, sort_keys=True, default=str) + "\n"
        )


@dataclass(frozen=True)
class Impressions:
    """The log in indexes, [n] each, by user and time; `seconds` is NaN where the log does not know.

    `requests_us` is when each one's page was asked for: at its own instant or before.
    `positions` on the page count from 1, 0 unknown; `device` and `surface` are codes, 0 unknown;
    `propensities` are the log's chances of having shown what it showed, NaN unknown.
    """

    users: Int32
    items: Int32
    timestamps_us: Int64
    requests_us: Int64
    clicked: npt.NDArray[np.bool_]
    completed: npt.NDArray[np.bool_]
    seconds: npt.NDArray[np.float64]
    positions: Int32
    device: Int32
    surface: Int32
    propensities: npt.NDArray[np.float64]

    @classmethod
    def load(cls, folder: Path) -> "Impressions":
        path = folder / "impressions.parquet"
        names = ["user", "item", "timestamp_us", "clicked", "completed"]
        there = pq.read_schema(path).names
        optional = [n for n in (WATCH_SECONDS, POSITION, DEVICE, SURFACE, PROPENSITY) if n in there]
        table = pq.read_table(path, columns=[*names, *optional])
        fields = ("users", "items", "timestamps_us")
        columns = {
            field: table[name].to_numpy() for field, name in zip(fields, names[:3], strict=True)
        }
        flags = {name: table[name].to_numpy() for name in names[3:]}
        positions = _numbers(table, POSITION)
        return cls(
            **columns,
            requests_us=np.load(folder / REQUESTS, allow_pickle=False),
            **flags,
            seconds=_numbers(table, WATCH_SECONDS),
            positions=np.where(np.isnan(positions), 0, np.maximum(positions, 0)).astype(np.int32),
            device=_category_codes(table, DEVICE, columns["timestamps_us"]),
            surface=_category_codes(table, SURFACE, columns["timestamps_us"]),
            propensities=_numbers(table, PROPENSITY),
        )

    @property
    def contexts(self) -> dict[str, Int32]:
        """The contexts that the log knows, by column."""
        return {name: codes for name in (DEVICE, SURFACE) if (codes := getattr(self, name)).any()}

    def take(self, rows: npt.NDArray[Any]) -> "Impressions":
        return Impressions(
            **{field.name: getattr(self, field.name)[rows] for field in fields(self)}
        )


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """A column, NaN where unknown, or all NaN where there is no such column."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    values: npt.NDArray[np.float64] = table[name].to_numpy().astype(np.float64)
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


def listed_users(context: StepContext) -> Int32:
    """Who gets a list: the test window's users, or everybody where nothing is held out; ascending
    indexes.
    """
    log, split = context.impressions, context.split
    if split.mode == "none":
        return np.arange(1, len(context.ids.users), dtype=np.int32)
    return np.unique(log.users[in_test(log, split)])


def in_test(log: Impressions, split: Split) -> npt.NDArray[np.bool_]:
    """Which impressions are the test window's, [n]."""
    return (log.timestamps_us >= split.test_start) & (log.timestamps_us < split.test_end)


def logs_impressions(context: StepContext) -> bool:
    """Whether the log says what was shown and not clicked, before test_start."""
    log = context.impressions
    before = log.timestamps_us < context.split.test_start
    return bool(before.any() and np.mean(~log.clicked[before]) >= UNCLICKED_SHARE)


def watched(context: StepContext, rows: Impressions) -> npt.NDArray[np.float64]:
    """T of impressions, in the log's unit."""
    if context.unit == "watches":
        return rows.clicked.astype(np.float64)
    log = context.impressions
    return filled_seconds(
        rows, log.take(np.flatnonzero(log.timestamps_us < context.split.test_start))
    )


def saved_candidates(folder: Path) -> Candidates:
    """The merged lists of a candidates artefact; all but its users are read from the files as they
    are needed.
    """

    def array(name: str) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = np.load(
            folder / f"{name}.npy", mmap_mode="r", allow_pickle=False
        )
        return values

    generators = json.loads((folder / "generators.json").read_text())
    ranks = {name: array(f"rank_{name}") for name in generators}
    scores = {name: array(f"score_{name}") for name in generators}
    users = np.load(folder / "users.npy", allow_pickle=False)
    return Candidates(users, array("items"), array("scores"), array("tower_scores"), ranks, scores)
