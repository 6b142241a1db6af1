"""What the report says of the lists where they were not shown: seconds per impression from the
log's propensities.

`off_policy.snips` and `off_policy.doubly_robust` are the final lists', `.recall` the same of
recall's order, and so for each rival; `_low` and `_high` bound each. `off_policy.logged` is what
the log's own choice earned in the same slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.arrays import Float64, Int32
from features.impressions import Impressions
from features.random_streams import Stream, rng_of
from features.simulation.simulated_log import load_ground_truth
from funnel.context import StepContext, logs_impressions, watched
from funnel.evaluation.evaluation_data import EvaluationData
from funnel.evaluation.plots import interval_points
from funnel.evaluation.simulation_report import policy_seconds
from funnel.steps.ordering import recommender_at
from ranking.off_policy import Advantage, Evaluation, advantage, evaluated
from ranking.policies import Logged, Policy, softmax_of_places
from ranking.recommend import Lists
from recall.tower_scores import rolled_columns

Metrics = dict[str, float]

ESTIMATES = ("snips", "doubly_robust", "logged")
LISTS = {
    **{"": "final lists", ".recall": "recall's order", ".popularity": "popularity"},
    **{".item_knn": "item-kNN", ".ease": "EASE"},
}


@dataclass(frozen=True)
class OffPolicy:
    """The evaluations of a run's lists, each as far as the log allows it."""

    evaluation: EvaluationData

    @property
    def context(self) -> StepContext:
        return self.evaluation.context

    @cached_property
    def refusal(self) -> str | None:
        """Why no list can be evaluated; None where the log allows it."""
        if self.context.split.mode != "time":
            return (
                f"split.mode is {self.context.split.mode}: a test window is needed that was not "
                "chosen by what was watched"
            )
        if not logs_impressions(self.context):
            return (
                "the log does not say what was shown and not clicked, so that every slot would "
                "seem a success"
            )
        if np.isnan(self.logged.propensity).all():
            return (
                "the test window has no propensities: log them, or set off_policy.random_exposure "
                "where it was uniform"
            )
        return None

    @cached_property
    def logged(self) -> Logged:
        """The test window, also where its propensity is not known: the other slots have it above
        them.
        """
        return logged_of(self.context, self.evaluation.impressions)

    @property
    def places(self) -> int:
        """How many places of every list the policies draw from: no list is evaluated on more than
        another has.
        """
        config = self.context.config
        return min(config.off_policy.k, config.ranking.top_k, config.recall.k)

    @cached_property
    def policies(self) -> dict[str, Policy]:
        """Softmax over the first places of each list that is compared; the model is the ranker as
        of test_start.
        """
        evaluation, temperature = self.evaluation, self.context.config.off_policy.temperature
        lists = {"": evaluation.final} | {
            f".{name}": items for name, items in evaluation.baselines.items()
        }
        lists = {name: np.asarray(items[:, : self.places]) for name, items in lists.items()}
        ends = np.cumsum([items.shape[1] for items in lists.values()])
        seconds = np.split(
            listed_seconds(self.context, evaluation.users, np.hstack(list(lists.values()))),
            ends[:-1],
            axis=1,
        )
        return {
            name: Policy(evaluation.users, items, softmax_of_places(items, temperature), expected)
            for (name, items), expected in zip(lists.items(), seconds, strict=True)
        }

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        if self.refusal:
            return {}
        seed, least = (
            self.context.config.seed,
            self.context.config.off_policy.least_effective_sample,
        )
        return {
            name: evaluated(policy, self.logged, least, rng_of(seed, Stream.OFF_POLICY_BOOTSTRAP))
            for name, policy in self.policies.items()
        }

    def advantages(self) -> dict[str, Advantage]:
        """By how much the final lists are ahead of each rival's, where both have an estimate."""
        return {
            name.removeprefix("."): advantage(self.policies[""], policy, self.logged)
            for name, policy in self.policies.items()
            if name
        }

    def metrics(self) -> Metrics:
        """Every estimate with its interval and what it rests on; NaN where it is refused."""
        metrics: Metrics = {}
        for suffix, evaluation in self.evaluations.items():
            for name in ESTIMATES:
                value, low, high = getattr(evaluation, name)
                found = {name: value, f"{name}_low": low, f"{name}_high": high}
                metrics |= {f"off_policy.{key}{suffix}": figure for key, figure in found.items()}
            for name in ("slots", "effective_sample", "mean_weight"):
                metrics[f"off_policy.{name}{suffix}"] = getattr(evaluation, name)
        return metrics or {
            f"off_policy.{name}": float("nan") for name in ("snips", "doubly_robust")
        }

    def true_seconds(self) -> Metrics:
        """What the policies are truly worth in the same slots, where the simulated world is
        known.
        """
        if self.refusal:
            return {}
        world, ids = load_ground_truth(self.context.folder), self.context.ids
        return {
            f"off_policy.true{suffix}": policy_seconds(
                world, ids, policy, self.logged, self.evaluation.impressions.timestamps_us
            )
            for suffix, policy in self.policies.items()
        }

    @property
    def refused(self) -> dict[str, str]:
        """Why there is no estimate, by list; empty where all have one."""
        if self.refusal:
            return {"any list": self.refusal}
        return {
            LISTS[name]: each.refusal for name, each in self.evaluations.items() if each.refusal
        }

    def described(self) -> dict[str, Any]:
        """The policy in words, and why there is no estimate where there is none."""
        temperature = self.context.config.off_policy.temperature
        policy = f"softmax of -log(place) / {temperature:g} over the first {self.places} places"
        return {"policy": policy, "refused": self.refused}


def logged_of(context: StepContext, rows: Impressions) -> Logged:
    """Impressions as slots of the log, with its own propensities or, where it showed all alike, one
    in all items that were known at each one's instant.
    """
    propensities = rows.propensities
    if context.config.off_policy.random_exposure:
        known = np.searchsorted(context.ids.items.first_seen, rows.timestamps_us, side="right")
        propensities = 1 / np.maximum(known, 1)
    return Logged(
        rows.users, rows.items, rows.clicked, watched(context, rows), propensities, rows.positions
    )


def logged_slots(context: StepContext, users: Int32, since: int, until: int) -> Logged | None:
    """The slots of users [n] from one instant to before another; None where the log has no
    propensities.
    """
    if context.split.clock != "time" or not logs_impressions(context):
        return None
    log = context.impressions
    inside = (log.timestamps_us >= since) & (log.timestamps_us < until)
    slots = logged_of(context, log.take(np.flatnonzero(inside & np.isin(log.users, users))))
    return None if np.isnan(slots.propensity).all() else slots


def listed_seconds(context: StepContext, users: Int32, items: Int32) -> Float64:
    """The ranker's expected seconds of any lists as of test_start, [users, k]; 0 where there is no
    item.
    """
    row, column = np.nonzero(items)
    as_of = np.full(len(row), context.split.test_start)
    found = rolled_columns(
        context.towers, context.user_inputs, users[row], items[row, column], as_of
    )
    recall = {name: np.full(items.shape, np.nan) for name in found}
    for name, values in found.items():
        recall[name][row, column] = values
    return np.where(
        items > 0,
        recommender_at(context).expected_seconds(
            Lists(users, items, recall, np.zeros(items.shape))
        ),
        0.0,
    )


def draw_off_policy(report: Mapping[str, Any], folder: Path) -> None:
    """Both estimates of each list with their intervals, beside what the log earned; nothing where
    all is refused.
    """
    table = off_policy_table(report)
    if len(table) > 1:
        interval_points(
            table,
            "What lists would have earned in the log's place",
            "seconds per impression",
            folder / "off_policy.png",
        )


def off_policy_table(report: Mapping[str, Any]) -> pd.DataFrame:
    """Estimates as a report has them: columns value, low, high, a row a list and estimator, and the
    log's own.
    """
    names = {"SNIPS": "snips", "doubly robust": "doubly_robust"}
    wanted = {
        f"{lists}, {text}": (name, suffix)
        for suffix, lists in LISTS.items()
        for text, name in names.items()
    }
    wanted["the log's own choice"] = ("logged", "")
    rows = {
        label: [report.get(f"off_policy.{name}{end}{suffix}") for end in ("", "_low", "_high")]
        for label, (name, suffix) in wanted.items()
    }
    table = pd.DataFrame.from_dict(
        rows, orient="index", columns=["value", "low", "high"], dtype=np.float64
    )
    return table.dropna()
