"""Recall as one object, all in memory: towers trained, a blender fitted, candidates retrieved."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from features.arrays import Float64, Int32
from features.dataset import Dataset
from features.histories import samples_of
from features.impressions import Impressions
from recall.blender import Blender, blend_candidates, reserved_places
from recall.candidates import Candidates
from recall.config import RecallConfig
from recall.generators.base import Log, Snapshot
from recall.generators.retrieval import Generators, build_generators
from recall.index import index_of
from recall.inputs import ModelInputs, UserInputs
from recall.tower import Tower
from recall.tower_scores import list_columns, rolled_columns
from recall.train import TrainingJob, train_incrementally
from recall.train_blender import fit_blender


@dataclass(frozen=True)
class Retriever:
    """Towers as of each cut-off, the last of them `test_start`, and what blends the candidates of
    their generators; `epochs` has a row of loss and validation for each epoch.
    """

    config: RecallConfig
    log: Log
    towers: list[Tower]
    blender: Blender
    epochs: list[dict[str, Any]]

    def candidates(self, users: Int32) -> Candidates:
        """The `config.k` best unseen items of users [n] as of `test_start`, all at once."""
        kept = reserved_places(self.config)
        return blend_candidates(self._generators, self.blender, users, self.config.k, kept)

    def columns(self, shown: Impressions) -> dict[str, Float64]:
        """What the tower that was finished by their requests says of impressions, {name: [n]}."""
        given = (shown.users, shown.items, shown.requests_us)
        return rolled_columns(self.towers, self.log.user_inputs, *given)

    def list_columns(self, lists: Candidates) -> dict[str, Float64]:
        """The same of candidates as of `test_start`, {name: [n, k]}."""
        return list_columns(self.towers[-1], self.log.user_inputs, lists)

    @cached_property
    def _generators(self) -> Generators:
        tower, everybody = self.towers[-1], np.arange(1, len(self.log.clicks.offsets) - 1)
        index = index_of(tower.item_vectors, tower.catalogue)
        as_of, popularity = self.log.split.test_start, self.blender.popularity
        users = everybody.astype(np.int32)
        return build_generators(
            self.config, Snapshot(self.log, as_of, tower, index, users, popularity)
        )


def fit_retriever(
    dataset: Dataset,
    config: RecallConfig,
    seed: int,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Retriever:
    """Towers trained incrementally up to `test_start`, and the blender fitted on what was watched
    between them.
    """
    split, items = dataset.split, dataset.items
    user_inputs = UserInputs(dataset.watches, None, dataset.user_features)
    timed = split.clock == "time"
    model_inputs = ModelInputs(user_inputs, items, None, dataset.item_features, timed)
    ends = samples_of(dataset.watches)
    job = TrainingJob(model_inputs, ends, split, config, seed, on_epoch=on_epoch)
    towers, epochs = train_incrementally(job)
    shown = dataset.impressions.tell_what_was_shown(split.test_start)
    features = dataset.features if shown else None
    log = Log(user_inputs, dataset.clicks, items, dataset.item_features, split, features)
    blender = fit_blender(config, log, towers, seed).blender
    return Retriever(config, log, towers, blender, epochs)
