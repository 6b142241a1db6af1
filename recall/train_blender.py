"""How the blender of a run is chosen: by what users watched after each instant at which a tower was
finished.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from features.ahead import map_ahead
from features.arrays import Float64, Int32
from features.histories import Histories
from features.random_streams import Stream, rng_of
from recall.blender import (
    GROUPS,
    Blend,
    Blender,
    best,
    flat_blend,
    group_of,
    shards_of_users,
)
from recall.candidates import Pairs, pairs_between
from recall.config import GeneratorName, RecallConfig
from recall.generators.base import Log, Popularity, Snapshot
from recall.generators.popular import choose_popularity
from recall.generators.retrieval import Found, build_generators, in_force
from recall.index import index_of
from recall.logit import TrainingSet, fit, join_training_sets
from recall.tower import Tower

# The share of the users who validate what was fitted on the others.
VALIDATION_SHARE = 0.2
# With fewer users to fit on the blender goes by the ranks alone.
FEWEST = 50
# With fewer users of an instant its expert follows chance: on MovieLens-100K, with 76 each, the
# validation users' HR@10 is .75 by an expert an instant and .80 by one of all instants.
FEWEST_OF_INSTANT = 150
# Candidates that a user did not watch, of some five hundred, that the blender is fitted on.
MISSES = 100
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
class ValidationExamples:
    """What was found for some of the validation users as of an instant, and what they `watched`
    next.
    """

    found: Found
    watched: Pairs

    def hits(self, items: Int32, ks: Sequence[int]) -> Float64:
        """How many of the users have a hit among the first k of lists [n, m], for each k."""
        rows = np.arange(len(items))
        hits = self.watched.holds(rows[:, None], items) & (items > 0)
        return np.array([hits[:, :k].any(axis=1).sum() for k in ks], np.float64)


@dataclass(frozen=True)
class BlenderExamples:
    """A slice's examples: what is fitted on, and what validates.

    The training set holds the users with a hit who do not validate, each with what they watched and
    a sample of the rest.
    """

    since: int
    training_set: TrainingSet
    validation: tuple[ValidationExamples, ...]

    @property
    def validation_users(self) -> int:
        return sum(each.found.union.users for each in self.validation)


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
    examples = [_examples(config, log, each, popularity, rng) for each in drawn]
    blends = _orders(examples, in_force(config, log))
    orders = {name: Blender(popularity, name, blend) for name, blend in blends.items()}
    rates = {name: _order_rates(examples, blender, config.k) for name, blender in orders.items()}
    chosen = _choose(rates, list(orders), sum(each.validation_users for each in examples))
    alone = {
        f"{name} alone": _mean_rates(examples, partial(_named_items, name), config.k)
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
) -> BlenderExamples:
    """A slice's examples; a random share of its users is for validation.

    What was found for a user whom the blender is fitted on is let go of shard by shard: only the
    rows of the fit stay.
    """
    generators = build_generators(config, of.snapshot(log, popularity))
    validates = rng.random(len(of.users)) < VALIDATION_SHARE

    def found(users: Int32) -> tuple[Found, Pairs]:
        watched = pairs_between(users, log.user_inputs.histories, of.since, of.until)
        return generators.find(users), watched

    def found_for(users: Int32) -> Iterator[tuple[Found, Pairs]]:
        return map_ahead(found, shards_of_users(users))

    training = [training_set_of(*found, rng) for found in found_for(of.users[~validates])]
    validation = tuple(ValidationExamples(*found) for found in found_for(of.users[validates]))
    return BlenderExamples(of.since, join_training_sets(training), validation)


def training_set_of(found: Found, watched: Pairs, rng: np.random.Generator) -> TrainingSet:
    """What can be fitted on users: those with a hit, with their hits and MISSES random other
    pairs.

    A conditional logit of a uniform sample of what was not chosen has the same weights (McFadden
    1978).
    """
    union = found.union
    hits = watched.holds(union.rows, union.items)
    has_hit = np.bincount(union.rows, hits, union.users) > 0
    share = MISSES / np.maximum(union.counts - np.bincount(union.rows, hits, union.users), 1)
    kept = has_hit[union.rows] & (hits | (rng.random(len(hits)) < share[union.rows]))
    matrix = np.stack([values[kept] for values in found.columns.values()], axis=1)
    return TrainingSet(
        tuple(found.columns),
        matrix,
        np.bincount(union.rows[kept], minlength=union.users)[has_hit],
        hits[kept],
        group_of(found.lengths)[has_hit],
    )


def _orders(
    examples: Sequence[BlenderExamples], names: Sequence[GeneratorName]
) -> dict[str, Blend]:
    """The orders to choose from, the preferred first."""
    # The mean of the logarithms, not their sum: many generators are not surer of an item than one.
    blends = {"ranks": flat_blend({f"{name}_rank": 1 / len(names) for name in names})}
    blends |= {"tower": flat_blend({"tower": 1.0})} if "tower" in names else {}
    by_instant = {each.since: each.training_set for each in examples}
    fitted = _fit_experts(by_instant)
    everything = join_training_sets(list(by_instant.values()))
    flat = {name: _calibrate(blend, everything) for name, blend in blends.items()}
    return {"fitted": fitted} | flat if fitted else flat


def _calibrate(blend: Blend, training_set: TrainingSet) -> Blend:
    """The blend in the same order, as sure of itself as what users watched next says: one factor,
    fitted.

    So that its scores are chances. As it is where nobody went on to watch what was found.
    """
    if not len(training_set.counts):
        return blend
    factor = float(fit(training_set.projected(blend.columns, blend.weights[0, 0]), 1)[0, 0])
    return replace(blend, weights=blend.weights * max(factor, LEAST_FACTOR))


def _fit_experts(by_instant: Mapping[int, TrainingSet]) -> Blend | None:
    """An expert of each instant with users enough to fit on, or one of all instants, or none."""
    enough = {
        since: each for since, each in by_instant.items() if len(each.counts) >= FEWEST_OF_INSTANT
    }
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
    def lists(each: ValidationExamples) -> Int32:
        places = best(each.found.union, blender.scores(each.found), k)
        listed = np.append(each.found.union.items, 0)[places]
        return np.where(places >= 0, listed, 0).astype(np.int32)

    return _mean_rates(examples, lists, k)


def _named_items(generator: GeneratorName, examples: ValidationExamples) -> Int32:
    return examples.found.union.named[generator].items


def _mean_rates(
    examples: Sequence[BlenderExamples], lists: Callable[[ValidationExamples], Int32], k: int
) -> dict[str, float]:
    """Hit rates of lists over all validation users, by list length."""
    ks = sorted({min(length, k) for length in (10, 50, k)})
    validation = [part for each in examples for part in each.validation]
    hits = sum((part.hits(lists(part), ks) for part in validation), np.zeros(len(ks)))
    users = sum(each.validation_users for each in examples)
    rates = hits / max(users, 1)
    return {f"hit_rate@{length}": float(rate) for length, rate in zip(ks, rates, strict=True)}
