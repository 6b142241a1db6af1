"""Whether off-policy intervals hold: how often a nominal 95 % interval covers what the simulator
knows, by seed.

Every seed is a world of its own. Lists are made from the log up to a cut, by popularity and by a
Bayes-optimal reader of the log; what a softmax over their places would earn in each slot after the
cut is estimated from the slots' propensities, and compared with the world's own expected seconds of
the same draws in the same slots. The model of doubly robust is wrong on purpose: the truth at the
cut and at position 1, times .8 and a lognormal error of .5. Run:

    funnel bench ranking off_policy
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.shared.options import Options, start
from benchmarks.shared.tables import publish
from features.arrays import Int64
from features.simulation.oracle import Ask, reference_lists
from features.simulation.simulated_log import SimulatedLog, simulate
from features.simulation.world import World, WorldConfig, expected_seconds, microseconds
from features.vocabulary import Vocabulary
from funnel.evaluation.simulation_report import policy_seconds
from funnel.lists import RawIds
from ranking.config import OffPolicyConfig
from ranking.off_policy import Evaluation, evaluated
from ranking.policies import Logged, Policy, softmax_of_places

Row = dict[str, str | float]

POLICIES = ("popular", "bayes_baseline")
ESTIMATORS = ("snips", "doubly_robust")
MODEL_SCALE, MODEL_ERROR = 0.8, 0.5
TOLD_EVERY = 20


@dataclass(frozen=True)
class Trial:
    """One seed's evaluation of a policy, and the truth in the same slots."""

    evaluation: Evaluation
    truth: float


@dataclass(frozen=True)
class RelevantItems:
    """The slots of a world's log from a cut on, by user and time, and the users who come in them
    (raw ids).
    """

    world: World
    cut: np.datetime64
    logged: Logged
    timestamps_us: Int64
    users: Int64


def main(arguments: Sequence[str]) -> list[Row]:
    """Simulate and evaluate every seed, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    trials: dict[str, list[Trial]] = {name: [] for name in POLICIES}
    for seed in range(options.seeds):
        for name, trial in trials_of(seed, options).items():
            trials[name].append(trial)
        if (seed + 1) % TOLD_EVERY == 0:
            print(f"{seed + 1} of {options.seeds} seeds", file=sys.stderr, flush=True)
    rows = [row_of(name, estimator, trials[name]) for name in POLICIES for estimator in ESTIMATORS]
    publish("coverage of off-policy intervals, nominal 95 %", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    config, parser = OffPolicyConfig(), Options(__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--impressions-a-day", type=int, default=20_000)
    parser.add_argument("--k", type=int, default=config.k, help="places of the lists")
    parser.add_argument("--temperature", type=float, default=config.temperature)
    parser.add_argument(
        "--least", type=float, default=config.least_effective_sample, help="effective sample"
    )
    return parser.parse_args(arguments)


def trials_of(seed: int, options: argparse.Namespace) -> dict[str, Trial]:
    """A world of two days, lists as of its second, and every policy's evaluation on that day."""
    config = WorldConfig(
        seed=seed,
        users=options.users,
        users_a_day=0,
        items=options.items,
        items_a_day=options.items // 20,
        impressions_a_day=options.impressions_a_day,
        days=2,
        topics=10,
        favourite_topics=2,
    )
    world, log = simulate(config)
    relevant, rng = holdout_of(world, log), np.random.default_rng([seed, 17])
    lists = reference_lists(world, log, Ask(relevant.users, relevant.cut, options.k), rng)
    return {name: _trial(relevant, lists[name], options, rng) for name in POLICIES}


def holdout_of(world: World, log: SimulatedLog) -> RelevantItems:
    """The second day's slots; indexes are the world's, counted from 1."""
    cut = np.datetime64(world.config.start.replace(tzinfo=None), "us") + np.timedelta64(1, "D")
    timestamps_us, users = log.timestamp.astype(np.int64), world.user_index(log.user_id)
    rows = np.flatnonzero(timestamps_us >= microseconds(cut))
    rows = rows[np.lexsort((timestamps_us[rows], users[rows]))]
    logged = Logged(
        users=(users[rows] + 1).astype(np.int32),
        items=(world.item_index(log.item_id[rows]) + 1).astype(np.int32),
        clicked=log.clicked[rows],
        seconds=log.watch_seconds[rows],
        propensity=log.propensity[rows],
        positions=log.position[rows].astype(np.int32),
    )
    return RelevantItems(
        world, cut, logged, timestamps_us[rows], world.user_ids[np.unique(users[rows])]
    )


def _trial(
    relevant: RelevantItems, lists: Int64, options: argparse.Namespace, rng: np.random.Generator
) -> Trial:
    policy = policy_of(relevant, lists, options.temperature, rng)
    truth = policy_seconds(
        relevant.world, _ids(relevant.world), policy, relevant.logged, relevant.timestamps_us
    )
    return Trial(evaluated(policy, relevant.logged, options.least, rng), truth)


def policy_of(
    relevant: RelevantItems, lists: Int64, temperature: float, rng: np.random.Generator
) -> Policy:
    """A softmax over lists of raw items [users, K], -1 for none, with a model that is wrong."""
    world, (row, column) = relevant.world, np.nonzero(lists >= 0)
    items, model = np.zeros(lists.shape, np.int32), np.zeros(lists.shape)
    items[row, column] = world.item_index(lists[row, column]) + 1
    true = expected_seconds(world, relevant.users[row], lists[row, column], relevant.cut)
    model[row, column] = MODEL_SCALE * true * rng.lognormal(0, MODEL_ERROR, len(row))
    users = (world.user_index(relevant.users) + 1).astype(np.int32)
    return Policy(users, items, softmax_of_places(items, temperature), model)


def _ids(world: World) -> RawIds:
    users, items = (
        Vocabulary(pa.array(ids), np.zeros(len(ids), np.int64))
        for ids in (world.user_ids, world.item_ids)
    )
    return RawIds(users, items)


def row_of(name: str, estimator: str, trials: Sequence[Trial]) -> Row:
    """How often the intervals of a policy's trials cover the truth; `width` and `error` are shares
    of it.
    """
    kept = [trial for trial in trials if trial.evaluation.refusal is None]
    value, low, high = (
        np.array([getattr(trial.evaluation, estimator) for trial in kept]).reshape(-1, 3).T
    )
    truth = np.array([trial.truth for trial in kept])
    figures = {
        "covered": mean_of((low <= truth) & (truth <= high)),
        "above": mean_of(low > truth),
        "below": mean_of(high < truth),
        "width": mean_of((high - low) / truth),
        "error": mean_of(value / truth - 1),
        "truth": mean_of(truth),
        "logged": mean_of([trial.evaluation.logged.value for trial in kept]),
        "effective sample": mean_of([trial.evaluation.effective_sample for trial in kept]),
        "slots": mean_of([trial.evaluation.slots for trial in kept]),
    }
    rounded = {column: round(figure, 3) for column, figure in figures.items()}
    return (
        {"intervals of": f"{name}, {estimator}"}
        | rounded
        | {"seeds": len(kept), "refused": len(trials) - len(kept)}
    )


def mean_of(values: npt.ArrayLike) -> float:
    """The mean; NaN where every trial was refused."""
    return float(np.mean(values)) if np.size(values) else float("nan")


if __name__ == "__main__":
    start(main)
