"""How the blender of a run is chosen: by what users watched after each instant at which a tower was
finished.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.random_streams import Stream, rng_of
from recall.blender import GROUPS, USERS_A_SHARD, Blend, Blender, best, flat_blend, group_of
from recall.candidates import Pairs, pairs_between
from recall.config import GeneratorName, RecallConfig
from recall.generators.base import Log, Popularity, Snapshot
from recall.generators.popular import choose_popularity
from recall.generators.retrieval import Found, build_generators, in_force
from recall.index import index_of
from recall.logit import TrainingSet, fit, join_training_sets
from recall.tower import Tower

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Intp = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

# The share of the users who validate what was fitted on the others.
VALIDATION_SHARE = 0.2
# With fewer users to fit on the blender goes by the ranks alone.
FEWEST = 50
# No order is turned round, or levelled, by what a few users watched.
LEAST_FACTOR = 0.05


@dataclass(frozen=True)
class EvaluationSlice:
    """Users [n] who watched something between two instants, and the tower that was finished by the
    first.
    """

    tower: Tower
    since: int
    until: int
    users: Int32

    def snapshot(self, log: Log, popularity: Popularity) -> Snapshot:
        """What generators know as of its beginning."""
        index = index_of(self.tower.item_vectors, self.tower.catalogue)
        return Snapshot(log, self.since, self.tower, index, self.users, popularity)


def draw_slices(
    watches: Histories, towers: Sequence[Tower], most: int, rng: np.random.Generator
) -> list[EvaluationSlice]:
    """Up to `most` random users in all, as many who watched between each tower's instant and the
    next one's.
    """
    drawn = []
    for tower, later in itertools.pairwise(towers):
        since, until = tower.shape.as_of, later.shape.as_of
        users = np.unique(
            watches.users[(watches.timestamps_us >= since) & (watches.timestamps_us < until)]
        )
        share = -(-most // (len(towers) - 1))
        drawn.append(EvaluationSlice(tower, since, until, np.sort(rng.permutation(users)[:share])))
    return drawn


@dataclass(frozen=True)
class BlenderExamples:
    """What was found for some users as of `since`, what they `watched` next, and who is for
    `validation`, [n].
    """

    since: int
    found: Found
    watched: Pairs
    validation: Flags

    @cached_property
    def hits(self) -> Flags:
        """Which pairs of the union the user went on to watch, [p]."""
        return self.watched.holds(self.found.union.rows, self.found.union.items)

    @property
    def training_set(self) -> TrainingSet:
        """What can be fitted on the users who are not for validation: those with a hit."""
        columns = self.found.columns
        matrix = np.stack(list(columns.values()), axis=1)
        whole = TrainingSet(
            tuple(columns), matrix, self.found.union.counts, self.hits, group_of(self.found.lengths)
        )
        return whole.of_users(self._training_users)

    def scored_by(self, blend: Blend) -> TrainingSet:
        """The same users, with a blend's log chance of each pair as the only column, and all of one
        group.
        """
        groups = group_of(self.found.lengths)
        scores = blend.scores(self.found.columns, groups, self.found.union)
        whole = TrainingSet(
            ("score",), scores[:, None], self.found.union.counts, self.hits, np.zeros_like(groups)
        )
        return whole.of_users(self._training_users)

    @property
    def _training_users(self) -> Flags:
        """Users who are not for validation and have a hit, [n]."""
        return ~self.validation & (
            np.bincount(self.found.union.rows, self.hits, self.found.union.users) > 0
        )

    def rates(self, items: Int32, ks: Sequence[int]) -> Float64:
        """Share of the validation users with a hit among the first k of lists [n, m], for each
        k.
        """
        rows = np.flatnonzero(self.validation)
        hits = self.watched.holds(rows[:, None], items[rows]) & (items[rows] > 0)
        return np.array([hits[:, :k].any(axis=1).sum() for k in ks]) / max(len(rows), 1)


@dataclass(frozen=True)
class FittedBlender:
    """The blender and, for people, what it was fitted on and its hit rates on validation, by order
    and by generator.
    """

    blender: Blender
    rates: dict[str, dict[str, float]]
    fitted_on: list[dict[str, int]]

    def described(self) -> dict[str, Any]:
        blend, popularity = self.blender.blend, self.blender.popularity
        return {
            "order": self.blender.order,
            "popularity": {"half_life_hours": popularity.half_life, "segment": popularity.segment},
            "hit_rates": self.rates,
            "fitted_on": self.fitted_on,
            "weights": blend.described() if blend else [],
        }


def fit_blender(
    config: RecallConfig, log: Log, towers: Sequence[Tower], seed: int
) -> FittedBlender:
    """The blender of a run: popularity by what served best, an order fitted on most users and
    validated on others.

    The order is that of the logits, one of each instant, unless the sum of the logarithms of the
    ranks, or the tower's own order, serves the validation users better. Too few users to fit on
    leave the logits out.
    """
    rng = rng_of(seed, Stream.BLENDER)
    drawn = draw_slices(log.user_inputs.histories, towers, config.blend_users, rng)
    popularity = choose_popularity(log, [(each.users, each.since, each.until) for each in drawn])
    if config.blend == "round_robin":
        return FittedBlender(Blender(popularity, "round_robin", None), {}, [])
    examples = [part for each in drawn for part in _examples(config, log, each, popularity, rng)]
    blends = _orders(examples, in_force(config, log))
    orders = {name: Blender(popularity, name, blend) for name, blend in blends.items()}
    rates = {name: _order_rates(examples, blender, config.k) for name, blender in orders.items()}
    chosen = _choose(rates, list(orders), sum(int(each.validation.sum()) for each in examples))
    alone = {
        f"{name} alone": _mean_rates(
            examples, [each.found.union.named[name].items for each in examples], config.k
        )
        for name in in_force(config, log)
    }
    fitted_on = [
        {"since": each.since, "until": each.until, "users": len(each.users)} for each in drawn
    ]
    return FittedBlender(orders[chosen], rates | alone, fitted_on)


def _examples(
    config: RecallConfig,
    log: Log,
    of: EvaluationSlice,
    popularity: Popularity,
    rng: np.random.Generator,
) -> Iterator[BlenderExamples]:
    """A slice's examples, shard by shard, a random share of them for validation."""
    generators = build_generators(config, of.snapshot(log, popularity))
    for at in range(0, len(of.users), USERS_A_SHARD):
        users = of.users[at : at + USERS_A_SHARD]
        watched = pairs_between(users, log.user_inputs.histories, of.since, of.until)
        yield BlenderExamples(
            of.since, generators.find(users), watched, rng.random(len(users)) < VALIDATION_SHARE
        )


def _orders(
    examples: Sequence[BlenderExamples], names: Sequence[GeneratorName]
) -> dict[str, Blend]:
    """The orders to choose from, the preferred first."""
    # The mean of the logarithms, not their sum: many generators are not surer of an item than one.
    blends = {"ranks": flat_blend({f"{name}_rank": 1 / len(names) for name in names})}
    blends |= {"tower": flat_blend({"tower": 1.0})} if "tower" in names else {}
    fitted = _fit_experts(examples)
    flat = {name: _calibrate(blend, examples) for name, blend in blends.items()}
    return {"fitted": fitted} | flat if fitted else flat


def _calibrate(blend: Blend, examples: Sequence[BlenderExamples]) -> Blend:
    """The blend in the same order, as sure of itself as what users watched next says: one factor,
    fitted.

    So that its scores are chances. As it is where nobody went on to watch what was found.
    """
    training_sets = [each.scored_by(blend) for each in examples]
    if not sum(len(each.counts) for each in training_sets):
        return blend
    factor = float(fit(join_training_sets(training_sets), 1)[0, 0])
    return replace(blend, weights=blend.weights * max(factor, LEAST_FACTOR))


def _fit_experts(examples: Sequence[BlenderExamples]) -> Blend | None:
    """An expert of each instant with users enough to fit on, or one of all instants, or none."""
    by_instant = {
        since: join_training_sets([each.training_set for each in examples if each.since == since])
        for since in sorted({each.since for each in examples})
    }
    enough = {since: each for since, each in by_instant.items() if len(each.counts) >= FEWEST}
    if enough:
        return fit_blend(list(enough.values()), list(enough))
    if sum(len(each.counts) for each in by_instant.values()) < FEWEST:
        return None
    return fit_blend([join_training_sets(list(by_instant.values()))])


def fit_blend(training_sets: Sequence[TrainingSet], timestamps_us: Sequence[int] = ()) -> Blend:
    """One expert for each training set, and the instants that these are of; all have the same
    columns.
    """
    weights = np.stack([fit(each, len(GROUPS)) for each in training_sets])
    return Blend(training_sets[0].columns, weights, tuple(timestamps_us))


def _choose(rates: Mapping[str, Mapping[str, float]], orders: Sequence[str], users: int) -> str:
    """The first order, or the best one where its mean hit rate is higher by more than chance among
    so many users.
    """
    means = {name: float(np.mean(list(rates[name].values()))) for name in orders}
    best_one = max(means, key=lambda name: means[name])
    return (
        best_one if means[best_one] > means[orders[0]] + 1 / np.sqrt(max(users, 1)) else orders[0]
    )


def _order_rates(examples: Sequence[BlenderExamples], blender: Blender, k: int) -> dict[str, float]:
    lists = []
    for each in examples:
        places = best(each.found.union, blender.scores(each.found), k)
        lists.append(np.where(places >= 0, np.append(each.found.union.items, 0)[places], 0))
    return _mean_rates(examples, lists, k)


def _mean_rates(
    examples: Sequence[BlenderExamples], lists: Sequence[Int32], k: int
) -> dict[str, float]:
    """Hit rates over all validation users, by list length."""
    ks = sorted({min(length, k) for length in (10, 50, k)})
    counts = np.array([each.validation.sum() for each in examples])
    rates = [each.rates(items, ks) for each, items in zip(examples, lists, strict=True)]
    mean = counts @ np.array(rates).reshape(-1, len(ks)) / max(counts.sum(), 1)
    return {f"hit_rate@{length}": float(rate) for length, rate in zip(ks, mean, strict=True)}
