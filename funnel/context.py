"""One step's work: what it is given, and what several steps read of the artefacts before them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.arrays import Flags, Float64, Int32
from features.asof_features import AsOfFeatures
from features.histories import Histories
from features.impressions import Impressions, Unit, as_of_features_of, unit_of
from features.side_features import SideFeatures
from features.split import Split
from features.vocabulary import Vocabulary
from funnel.config import FunnelConfig
from funnel.lists import RawIds
from ranking.examples import target_seconds
from recall.candidates import Candidates
from recall.inputs import ModelInputs, UserInputs
from recall.tower import Tower

# Folders of an artefact: what it holds as of the validation instant.
VALIDATION = "validation"


@dataclass(frozen=True)
class StepContext:
    """One step's work: the configuration, its parents' folders, the folder to fill, one for what
    must survive a kill, and whom to tell of progress and of each epoch. `parts` is a folder for
    what later versions may be made of, named by the `key` of settings and code.
    """

    config: FunnelConfig
    source: str
    data: str
    inputs: Mapping[str, Path]
    out: Path
    scratch: Path
    tell: Callable[[str], None] = lambda _: None
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda _: None
    parts: Path | None = None
    key: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the data, which holds the ground truth of a simulated world; there is none
        where the data is a database.
        """
        return Path(self.data)

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
    def impressions(self) -> Impressions:
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
    def unit(self) -> Unit:
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
        return as_of_features_of(self.impressions, users, items, self.split, self.unit)

    def write_json(self, name: str, value: Any) -> None:
        (self.out / name).write_text(
            json.dumps(value, indent=1, sort_keys=True, default=str) + "\n"
        )


def listed_users(context: StepContext) -> Int32:
    """Who gets a list: the test window's users, or everybody where nothing is held out; ascending
    indexes.
    """
    log, split = context.impressions, context.split
    if split.mode == "none":
        return np.arange(1, len(context.ids.users), dtype=np.int32)
    return np.unique(log.users[in_test(log, split)])


def in_test(log: Impressions, split: Split) -> Flags:
    """Which impressions are the test window's, [n]."""
    return (log.timestamps_us >= split.test_start) & (log.timestamps_us < split.test_end)


def logs_impressions(context: StepContext) -> bool:
    """Whether the log says what was shown and not clicked, before test_start."""
    return context.impressions.tell_what_was_shown(context.split.test_start)


def watched(context: StepContext, rows: Impressions) -> Float64:
    """T of impressions, in the log's unit."""
    return target_seconds(rows, context.impressions.before(context.split.test_start), context.unit)


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
