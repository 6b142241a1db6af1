"""How the merge of a run is chosen: by what users watched after each instant at which a tower was finished."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from recall.blender import Blend, best, best_with_share, blend_of, flat_blend, group_of, round_robin
from recall.candidates import Candidates, Pairs, pairs_between
from recall.config import GeneratorName, RecallConfig
from recall.generators.base import Log, Popularity, Snapshot
from recall.generators.popular import choose_popularity
from recall.generators.retrieval import Found, Generators, build_generators, in_force
from recall.index import index_of
from recall.logit import Lesson, fit, joined_lessons, log_sums
from recall.tower import Tower

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Intp = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

USERS_A_SHARD = 2048
# The share of the users that checks what the others taught.
CHECKED = 0.2
# With fewer teaching users the merge goes by the ranks alone.
FEWEST = 50
# No order is turned round, or levelled, by what a few users watched.
LEAST_FACTOR = 0.05


@dataclass(frozen=True)
class Merge:
    """How a run's lists are merged: the choice of popularity, the order's name and its weights (None: round robin)."""

    popularity: Popularity
    order: str
    blend: Blend | None

    def without(self, instant: int) -> "Merge":
        """The merge as those know it whom other instants taught."""
        return self if self.blend is None else replace(self, blend=self.blend.without(instant))

    def scores(self, found: Found) -> Float32:
        """log P(next) of every pair of a union, [p]: the chance that it is what its user watches next.

        Round robin knows no chances: they are taken to fall as 1 / turn (Zipf's law).
        """
        if self.blend is None:
            turns = round_robin(found.union).astype(np.float64)
            return (turns - log_sums(turns, found.union.counts)).astype(np.float32)
        return self.blend.scores(found.columns, group_of(found.lengths), found.union)


def merged_shards(generators: Generators, merge: Merge, users: Int32, config: RecallConfig) -> Iterator[Candidates]:
    """`merged` in shards of users; nobody is one empty shard."""
    kept = reserved_places(config)
    for at in range(0, max(len(users), 1), USERS_A_SHARD):
        yield merged(generators, merge, users[at : at + USERS_A_SHARD], config.k, kept)


def reserved_places(config: RecallConfig) -> int:
    """How many of the k places are kept for what would be watched longest, where that generator is in force."""
    return round(config.expected_watch_share * config.k)


def merged(generators: Generators, merge: Merge, users: Int32, k: int, kept: int = 0) -> Candidates:
    """The k best candidates of each user by the merge, with what each generator said of them.

    `kept` of the places are for what would be watched longest, where that generator is in force.
    """
    found = generators.find(users)
    union, scores = found.union, merge.scores(found)
    longest = union.ranks.get("expected_watch")
    places = best(union, scores, k) if longest is None else best_with_share(union, scores, k, kept, longest)
    listed, at = places >= 0, np.maximum(places, 0)

    def picked(values: npt.NDArray[Any], missing: float) -> npt.NDArray[Any]:
        return np.where(listed, values[at], values.dtype.type(missing)) if len(values) else np.full(at.shape, missing)

    ranks = {name: picked(of_pairs, 0).astype(np.uint16) for name, of_pairs in union.ranks.items()}
    return Candidates(
        users,
        picked(union.items, 0).astype(np.int32),
        picked(scores, -np.inf).astype(np.float32),
        picked(found.tower_scores, np.nan).astype(np.float32),
        ranks,
        {name: _scores_by_rank(union.named[name].scores, ranks[name]) for name in ranks},
    )


def _scores_by_rank(scores: Float32, ranks: npt.NDArray[np.uint16]) -> Float32:
    """A generator's scores [n, m] at ranks [n, k] from 1; NaN at rank 0."""
    at = np.maximum(ranks.astype(np.int64) - 1, 0)
    return np.where(ranks > 0, np.take_along_axis(scores, at, axis=1), np.nan).astype(np.float32)


@dataclass(frozen=True)
class Cohort:
    """Users [n] who watched something between two instants, and the tower that was finished by the first."""

    tower: Tower
    since: int
    until: int
    users: Int32


def cohorts(watches: Histories, towers: Sequence[Tower], most: int, rng: np.random.Generator) -> list[Cohort]:
    """Up to `most` random users in all, as many who watched between each tower's instant and the next one's."""
    drawn = []
    for tower, later in itertools.pairwise(towers):
        since, until = tower.shape.as_of, later.shape.as_of
        users = np.unique(watches.users[(watches.instants >= since) & (watches.instants < until)])
        share = -(-most // (len(towers) - 1))
        drawn.append(Cohort(tower, since, until, np.sort(rng.permutation(users)[:share])))
    return drawn


@dataclass(frozen=True)
class Study:
    """What was found for some users as of `since`, what they `watched` next, and which of them `checks`, [n]."""

    since: int
    found: Found
    watched: Pairs
    checks: Flags

    @cached_property
    def hits(self) -> Flags:
        """Which pairs of the union the user went on to watch, [p]."""
        return self.watched.holds(self.found.union.rows, self.found.union.items)

    @property
    def lesson(self) -> Lesson:
        """What the users who do not check teach: those with a hit."""
        columns = self.found.columns
        matrix = np.stack(list(columns.values()), axis=1)
        whole = Lesson(tuple(columns), matrix, self.found.union.counts, self.hits, group_of(self.found.lengths))
        return whole.of_users(self._teachers)

    def scored_by(self, blend: Blend) -> Lesson:
        """The same users, with a blend's log chance of each pair as the only column, and all of one group."""
        groups = group_of(self.found.lengths)
        scores = blend.scores(self.found.columns, groups, self.found.union)
        whole = Lesson(("score",), scores[:, None], self.found.union.counts, self.hits, np.zeros_like(groups))
        return whole.of_users(self._teachers)

    @property
    def _teachers(self) -> Flags:
        """Users who do not check and have a hit, [n]."""
        return ~self.checks & (np.bincount(self.found.union.rows, self.hits, self.found.union.users) > 0)

    def rates(self, items: Int32, ks: Sequence[int]) -> Float64:
        """Share of the checking users with a hit among the first k of lists [n, m], for each k."""
        rows = np.flatnonzero(self.checks)
        hits = self.watched.holds(rows[:, None], items[rows]) & (items[rows] > 0)
        return np.array([hits[:, :k].any(axis=1).sum() for k in ks]) / max(len(rows), 1)


@dataclass(frozen=True)
class Learned:
    """The merge, and for people: hit rates of the users who check, by order and by generator alone, and who taught."""

    merge: Merge
    rates: dict[str, dict[str, float]]
    taught: list[dict[str, int]]

    def described(self) -> dict[str, Any]:
        blend, popularity = self.merge.blend, self.merge.popularity
        return {
            "order": self.merge.order,
            "popularity": {"half_life_hours": popularity.half_life, "segment": popularity.segment},
            "hit_rates": self.rates,
            "taught": self.taught,
            "weights": blend.described() if blend else [],
        }


def learn(config: RecallConfig, log: Log, towers: Sequence[Tower], seed: int) -> Learned:
    """The merge of a run: popularity by what served the cohorts, an order fitted on most of them and checked on others.

    The order is that of the logits, one of each instant, unless the checking users show that the sum of the logarithms
    of the ranks or the tower's own order serves them better. Too few teachers leave the logits out.
    """
    rng = np.random.default_rng([seed, 11])
    drawn = cohorts(log.readings.histories, towers, config.merge_users, rng)
    popularity = choose_popularity(log, [(each.users, each.since, each.until) for each in drawn])
    if config.merge == "round_robin":
        return Learned(Merge(popularity, "round_robin", None), {}, [])
    studies = [study for cohort in drawn for study in _studies(config, log, cohort, popularity, rng)]
    orders = {name: Merge(popularity, name, blend) for name, blend in _blends(studies, in_force(config, log)).items()}
    rates = {name: _order_rates(studies, merge, config.k) for name, merge in orders.items()}
    chosen = _chosen(rates, list(orders), sum(int(study.checks.sum()) for study in studies))
    alone = {f"{name} alone": _generator_rates(studies, name, config.k) for name in in_force(config, log)}
    return Learned(orders[chosen], rates | alone, [_summary(cohort) for cohort in drawn])


def _studies(
    config: RecallConfig, log: Log, cohort: Cohort, popularity: Popularity, rng: np.random.Generator
) -> Iterator[Study]:
    index, watches = index_of(cohort.tower.item_vectors, cohort.tower.catalogue), log.readings.histories
    snapshot = Snapshot(log, cohort.since, cohort.tower, index, cohort.users, popularity)
    generators = build_generators(config, snapshot)
    for at in range(0, len(cohort.users), USERS_A_SHARD):
        users = cohort.users[at : at + USERS_A_SHARD]
        watched = pairs_between(users, watches, cohort.since, cohort.until)
        yield Study(cohort.since, generators.find(users), watched, rng.random(len(users)) < CHECKED)


def _blends(studies: Sequence[Study], names: Sequence[GeneratorName]) -> dict[str, Blend]:
    """The orders to choose from, the preferred first."""
    # The mean of the logarithms, not their sum: many generators are not surer of an item than one.
    blends = {"ranks": flat_blend({f"{name}_rank": 1 / len(names) for name in names})}
    blends |= {"tower": flat_blend({"tower": 1.0})} if "tower" in names else {}
    learned = _learned(studies)
    flat = {name: _sharpened(blend, studies) for name, blend in blends.items()}
    return {"learned": learned} | flat if learned else flat


def _sharpened(blend: Blend, studies: Sequence[Study]) -> Blend:
    """The blend in the same order, as sure of itself as what users watched next says: one factor, fitted.

    So that its scores are chances. As it is where nobody went on to watch what was found.
    """
    lessons = [study.scored_by(blend) for study in studies]
    if not sum(len(lesson.counts) for lesson in lessons):
        return blend
    factor = float(fit(joined_lessons(lessons), 1)[0, 0])
    return replace(blend, weights=blend.weights * max(factor, LEAST_FACTOR))


def _learned(studies: Sequence[Study]) -> Blend | None:
    """An expert of each instant that has teachers enough, or one of all instants, or none."""
    by_instant = {
        since: joined_lessons([study.lesson for study in studies if study.since == since])
        for since in sorted({study.since for study in studies})
    }
    taught = {since: lesson for since, lesson in by_instant.items() if len(lesson.counts) >= FEWEST}
    if taught:
        return blend_of(list(taught.values()), list(taught))
    enough = sum(len(lesson.counts) for lesson in by_instant.values()) >= FEWEST
    return blend_of([joined_lessons(list(by_instant.values()))]) if enough else None


def _chosen(rates: Mapping[str, Mapping[str, float]], orders: Sequence[str], users: int) -> str:
    """The first order, or the best one where its mean hit rate is higher by more than chance among so many users."""
    means = {name: float(np.mean(list(rates[name].values()))) for name in orders}
    best_one = max(means, key=lambda name: means[name])
    return best_one if means[best_one] > means[orders[0]] + 1 / np.sqrt(max(users, 1)) else orders[0]


def _order_rates(studies: Sequence[Study], merge: Merge, k: int) -> dict[str, float]:
    lists = []
    for study in studies:
        places = best(study.found.union, merge.scores(study.found), k)
        lists.append(np.where(places >= 0, np.append(study.found.union.items, 0)[places], 0))
    return _mean_rates(studies, lists, k)


def _generator_rates(studies: Sequence[Study], name: GeneratorName, k: int) -> dict[str, float]:
    return _mean_rates(studies, [study.found.union.named[name].items for study in studies], k)


def _mean_rates(studies: Sequence[Study], lists: Sequence[Int32], k: int) -> dict[str, float]:
    """Hit rates over all checking users, by list length."""
    ks = sorted({min(length, k) for length in (10, 50, k)})
    counts = np.array([study.checks.sum() for study in studies])
    rates = np.array([study.rates(items, ks) for study, items in zip(studies, lists, strict=True)]).reshape(-1, len(ks))
    mean = counts @ rates / max(counts.sum(), 1)
    return {f"hit_rate@{length}": float(rate) for length, rate in zip(ks, mean, strict=True)}


def _summary(cohort: Cohort) -> dict[str, int]:
    return {"since": cohort.since, "until": cohort.until, "users": len(cohort.users)}
