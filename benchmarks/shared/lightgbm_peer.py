"""The peer: gradient-boosted trees (LightGBM) on the very rows and features of the ranker.

Three objectives. `squared error`: T. `click`: the chance of a click, times the mean seconds of a
click. `exact`: weighted logistic regression as ours, label T / (1 + T) with weight 1 + T, whose
odds are E[T]. The size of a tree, and whether it reads codes (as categories) or numbers alone, are
chosen on the last rows by instant, with early stopping; the model is then fitted on all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import lightgbm
import numpy as np

from features.arrays import Float32, Float64
from features.asof_features import Block
from ranking.examples import RankingRows
from ranking.model import BLOCKS

OBJECTIVES = {"squared error": "regression", "click": "binary", "exact": "cross_entropy"}
LARGEST_LOGIT = 20.0
PATIENCE = 50
FIXED: dict[str, Any] = {
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "lambda_l2": 1.0,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "cat_smooth": 20.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True)
class Choice:
    """What the validation rows have chosen for an objective."""

    objective: str
    leaves: int
    codes: bool
    rounds: int
    loss: float

    def described(self) -> str:
        return f"{self.leaves} leaves, {self.rounds} rounds, {'with' if self.codes else 'no'} codes"


@dataclass(frozen=True)
class Trees:
    """A fitted model, and what turns its answer into seconds."""

    booster: lightgbm.Booster
    choice: Choice
    seconds_a_click: float

    def scores(self, blocks: dict[str, Block]) -> Float64:
        """Expected seconds of rows [n]."""
        answers = self.booster.predict(matrix_of(blocks, self.choice.codes)[0], raw_score=True)
        raw: Float64 = np.asarray(answers, np.float64)
        if self.choice.objective == "exact":
            return np.exp(np.minimum(raw, LARGEST_LOGIT))
        return (
            raw
            if self.choice.objective == "squared error"
            else self.seconds_a_click / (1 + np.exp(-raw))
        )


def matrix_of(blocks: dict[str, Block], codes: bool) -> tuple[Float32, list[int]]:
    """All blocks side by side, [n, columns], NaN unknown; and which columns are categories."""
    numbers = [values for name in BLOCKS for values in blocks[name].numbers.values()]
    coded = (
        [np.where(c > 0, c, np.nan) for name in BLOCKS for c in blocks[name].codes.values()]
        if codes
        else []
    )
    matrix = np.stack([*numbers, *coded], axis=1).astype(np.float32)
    return matrix, list(range(len(numbers), matrix.shape[1]))


def chosen(rows: RankingRows, objective: str, share: float, leaves: Sequence[int]) -> Choice:
    """The best of all sizes, with and without codes, by the loss of the last `share` of the rows by
    instant.
    """
    return min(
        (_tried(rows, objective, share, *trial) for trial in product(leaves, (True, False))),
        key=lambda choice: choice.loss,
    )


def fitted(rows: RankingRows, choice: Choice, seed: int) -> Trees:
    """The chosen model on all rows."""
    booster = lightgbm.train(
        _parameters(choice, seed), _data(rows, choice.objective, choice.codes), choice.rounds
    )
    return Trees(
        booster,
        choice,
        float(np.average(rows.seconds[rows.clicked], weights=rows.weight[rows.clicked])),
    )


def _tried(rows: RankingRows, objective: str, share: float, leaves: int, codes: bool) -> Choice:
    order = np.argsort(rows.timestamps_us, kind="stable")
    cut = len(order) - max(round(len(order) * share), 1)
    early = _data(rows.take(order[:cut]), objective, codes)
    late = _data(rows.take(order[cut:]), objective, codes)
    untried = Choice(objective, leaves, codes, 2_000, 0.0)
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    booster = lightgbm.train(
        _parameters(untried, 0), early, untried.rounds, valid_sets=[late], callbacks=[stop]
    )
    (loss,) = booster.best_score["valid_0"].values()
    return Choice(objective, leaves, codes, max(booster.best_iteration, 1), float(loss))


def _parameters(choice: Choice, seed: int) -> dict[str, Any]:
    return FIXED | {
        "objective": OBJECTIVES[choice.objective],
        "num_leaves": choice.leaves,
        "seed": seed,
    }


def _data(rows: RankingRows, objective: str, codes: bool) -> lightgbm.Dataset:
    matrix, categories = matrix_of(rows.blocks, codes)
    labels = {
        "squared error": rows.seconds,
        "click": rows.clicked,
        "exact": rows.seconds / (1 + rows.seconds),
    }
    weight = rows.weight * (1 + rows.seconds) if objective == "exact" else rows.weight
    return lightgbm.Dataset(
        matrix, labels[objective].astype(np.float64), weight=weight, categorical_feature=categories
    )
