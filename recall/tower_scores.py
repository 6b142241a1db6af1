"""Tower-score features of an exposure, from the tower as it stood before it, for the ranker."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.arrays import Float32, Float64, Int32, Int64, Intp
from recall.candidates import Candidates
from recall.inputs import UserInputs
from recall.tower import Tower

SHARD = 100_000


@dataclass(frozen=True)
class TowerScoreFeatures:
    """A tower's scores, and how they stand among the user's scores of all that may be
    recommended.
    """

    tower: Tower

    def columns(self, vectors: Float32, scores: Float64, of_row: Intp) -> dict[str, Float64]:
        """`recall_score` and `recall_z` of rows: scores [n] of the users vectors[of_row[n]]."""
        # Mean and deviation of a user's scores follow from the item vectors' own moments.
        mean, covariance = self._item_moments
        variance = np.einsum("nd,de,ne->n", vectors, covariance, vectors, optimize=True)
        spread = np.sqrt(np.maximum(variance, 1e-18))
        return {
            "recall_score": scores,
            "recall_z": (scores - (vectors @ mean)[of_row]) / spread[of_row],
        }

    @cached_property
    def _item_moments(self) -> tuple[Float64, Float64]:
        vectors = self.tower.item_vectors[self.tower.catalogue].astype(np.float64)
        return vectors.mean(axis=0), np.cov(vectors.T, bias=True).reshape(vectors.shape[1], -1)


def list_columns(tower: Tower, user_inputs: UserInputs, lists: Candidates) -> dict[str, Float64]:
    """A tower's columns of merged lists as of its instant, [n, k] each."""
    inputs = user_inputs.inputs_at(tower.shape, lists.users, tower.shape.as_of)
    shape = lists.items.shape
    of_row = np.repeat(np.arange(shape[0]), shape[1])
    scores = np.asarray(lists.tower_scores).reshape(-1).astype(np.float64)
    columns = TowerScoreFeatures(tower).columns(tower.user_vectors(inputs), scores, of_row)
    return {name: values.reshape(shape) for name, values in columns.items()}


def rolled_columns(
    towers: Sequence[Tower],
    user_inputs: UserInputs,
    users: Int32,
    items: Int32,
    timestamps_us: Int64,
) -> dict[str, Float64]:
    """Recall's columns of exposures [n], each from the newest tower finished by its instant.

    NaN in the warm-up, before any tower was finished, and for items that the tower did not know.
    """
    columns = {name: np.full(len(users), np.nan) for name in ("recall_score", "recall_z")}
    newest = (
        np.searchsorted([tower.shape.as_of for tower in towers], timestamps_us, side="right") - 1
    )
    for number, tower in enumerate(towers):
        rows = np.flatnonzero((newest == number) & (items > 0) & (items < tower.shape.items))
        tower_score_features = TowerScoreFeatures(tower)
        for at in range(0, len(rows), SHARD):
            shard = rows[at : at + SHARD]
            found = _columns(
                tower_score_features, user_inputs, users[shard], items[shard], timestamps_us[shard]
            )
            for name, values in found.items():
                columns[name][shard] = values
    return columns


def _columns(
    tower_score_features: TowerScoreFeatures,
    user_inputs: UserInputs,
    users: Int32,
    items: Int32,
    timestamps_us: Int64,
) -> dict[str, Float64]:
    """Each distinct history (of watches, and of searches) is embedded once, however many exposures
    met it.
    """
    tower = tower_score_features.tower
    ends = user_inputs.histories.ends(users, timestamps_us)
    searched = (
        user_inputs.searches.ends(users, timestamps_us)
        if user_inputs.searches
        else np.zeros_like(ends)
    )
    _, first, of_row = np.unique(
        np.stack([users, ends, searched], axis=1), axis=0, return_index=True, return_inverse=True
    )
    inputs = user_inputs.inputs(tower.shape, users[first], ends[first], timestamps_us[first])
    vectors = tower.user_vectors(inputs)
    scores = np.einsum("nd,nd->n", vectors[of_row], tower.item_vectors[items]).astype(np.float64)
    return tower_score_features.columns(vectors, scores, of_row)
