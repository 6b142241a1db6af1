"""The paper's two pictures of candidate generation, drawn from towers trained here and logged to
MLflow.

Figure 4: the predicted probability of an item against its age, with and without the example age
among the inputs, beside what was watched. Figure 6: quality against depth, for more and more
inputs. Towers are trained on what came before the label window; figure 6 evaluates them on it. Run:

    funnel simulate --out world
    funnel bench recall figures --source simulated --data world
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.shared.options import Options, start
from benchmarks.shared.tables import publish
from benchmarks.shared.towers import trained, training_job_at, validator_at
from features.arrays import Float64, Int64
from features.schema import DAY, PUBLISHED_AT
from features.side_features import SideFeatures
from funnel.evaluation.plots import line_chart
from recall.batches import Examples
from recall.tower import Tower
from recall.train import TrainingJob

Row = dict[str, Any]

CONTEXTS = 20_000
SLAB = 1_000
DEPTHS = (0, 1, 2, 3, 4)
# What the tower is told beside watches.
INPUTS: dict[str, frozenset[str]] = {
    "watches": frozenset(),
    "watches and searches": frozenset({"searches"}),
    "watches, searches and example age": frozenset({"searches", "example age"}),
    "all": frozenset({"searches", "example age", "side features"}),
}


def main(arguments: Sequence[str]) -> list[Row]:
    """Train the towers, print both tables, log them with their pictures; returns the rows of figure
    6.
    """
    options = _parsed(arguments)
    with tempfile.TemporaryDirectory() as home:
        job = training_job_at(options, Path(home))
        by_age, by_depth = figure_4(job, options.examples), figure_6(job, options.examples)
        age, depth = Path(home) / "figure_4.png", Path(home) / "figure_6.png"
        line_chart(
            by_age,
            "Probability of an item by its age",
            "days since publication",
            "mean probability",
            age,
        )
        line_chart(
            by_depth, "Quality by depth and inputs", "hidden layers", "mean reciprocal rank", depth
        )
        publish("figure 4: probability by item age", _rows(by_age), options.tracking, [age])
        publish("figure 6: quality by depth and inputs", _rows(by_depth), options.tracking, [depth])
    return _rows(by_depth)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    parser.add_argument("--source", default="simulated")
    parser.add_argument(
        "--data", required=True, help="folder of the log; its items need published_at"
    )
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="stage.field=value"
    )
    parser.add_argument(
        "--examples", type=int, default=1_000_000, help="examples each tower is trained on"
    )
    return parser.parse_args(arguments)


def _rows(table: pd.DataFrame) -> list[Row]:
    return [
        {str(table.index.name): index} | row
        for index, row in table.round(6).to_dict("index").items()
    ]


def figure_4(job: TrainingJob, examples: int) -> pd.DataFrame:
    """Mean probability of items published during the log by their age in days: two towers, and what
    was watched.

    For watches of the training stretch, each at its own instant; an item counts at the ages it has
    on them.
    """
    start, as_of = job.split.start, job.split.label_start
    published = job.model_inputs.side.numbers[PUBLISHED_AT]
    # Old enough to be seen growing old, and none that was there before the log began.
    items = np.flatnonzero((published >= start) & (published < as_of - 3 * DAY))
    columns = {}
    for name, age in (("with example age", "normalised"), ("without example age", "none")):
        print(f"a tower {name} for figure 4", file=sys.stderr, flush=True)
        tower, training_run = trained(job, {"example_age": age}, examples)
        columns[name] = _by_age(job, tower, training_run, items, published[items])
    columns["watched"] = columns[name].pop("watched")
    columns = {name: found.get("predicted", found) for name, found in columns.items()}
    return pd.DataFrame(columns).rename_axis("days")


def _by_age(
    job: TrainingJob, tower: Tower, examples: Examples, items: Int64, published: Float64
) -> dict[str, Any]:
    """Mean predicted probability, and share of watches, of items by age in whole days."""
    # What the tower's own training knew of the log.
    histories = examples.user_inputs.histories
    positions = examples.positions(0, len(histories.items))
    positions = np.sort(np.random.default_rng(0).permutation(positions)[:CONTEXTS])
    days = int((job.split.label_start - published.min()) // DAY) + 1
    predicted, watched, met = np.zeros(days), np.zeros(days), np.zeros(days)
    for at in range(0, len(positions), SLAB):
        chosen = positions[at : at + SLAB]
        ages = (histories.timestamps_us[chosen][:, None] - published[None, :]) // DAY
        row, column = np.nonzero(ages >= 0)
        age = ages[row, column].astype(np.int64)
        chance = _probabilities(tower, examples, chosen)[row, items[column]]
        predicted += np.bincount(age, chance, days)
        watched += np.bincount(age, histories.items[chosen][row] == items[column], days)
        met += np.bincount(age, minlength=days)
    known = met > 0
    return {
        "predicted": pd.Series(predicted[known] / met[known]),
        "watched": pd.Series(watched[known] / met[known]),
    }


def _probabilities(tower: Tower, examples: Examples, positions: Int64) -> Float64:
    """The tower's softmax over its catalogue for examples at their own age, [n, items]."""
    scores = (tower.user_vectors(examples.inputs(positions)) @ tower.item_vectors.T).astype(
        np.float64
    )
    scores[:, ~tower.facts.listed] = -np.inf
    chances: Float64 = np.exp(scores - scores.max(axis=1, keepdims=True))
    return chances / chances.sum(axis=1, keepdims=True)


def figure_6(job: TrainingJob, examples: int) -> pd.DataFrame:
    """Mean reciprocal rank of the label window's watches, by hidden layers: the paper's MAP, one
    item being right.
    """

    def quality(name: str, depth: int) -> float:
        told = told_of(job, INPUTS[name])
        tower, _ = trained(told, {"depth": depth}, examples)
        found = float((1 / validator_at(told).ranks(tower)).mean())
        print(f"{name}, {depth} hidden layers: {found:.4f}", file=sys.stderr, flush=True)
        return found

    columns = {name: {depth: quality(name, depth) for depth in DEPTHS} for name in INPUTS}
    return pd.DataFrame(columns).rename_axis("depth")


def told_of(job: TrainingJob, inputs: frozenset[str]) -> TrainingJob:
    """The course in which a tower is told of watches, and of what is named in INPUTS beside
    them.
    """
    model_inputs, user_inputs, config = job.model_inputs, job.model_inputs.user_inputs, job.config
    if "side features" not in inputs:
        nothing = SideFeatures({}, {}, {})
        model_inputs, user_inputs = (
            replace(model_inputs, side=nothing),
            replace(user_inputs, users=nothing),
        )
    if "searches" not in inputs:
        model_inputs, user_inputs = (
            replace(model_inputs, tokens=None),
            replace(user_inputs, searches=None),
        )
    if "example age" not in inputs:
        config = config.model_copy(update={"example_age": "none"})
    return replace(job, model_inputs=replace(model_inputs, user_inputs=user_inputs), config=config)


if __name__ == "__main__":
    start(main)
