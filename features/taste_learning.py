"""The laws of tastes, learnt from what a log showed and what became of it, by expectation and maximisation.

The expectation is Baum-Welch's, over a chain for each topic of each of so many users; the users' clocks and the sums of
their pulls are those of the round before. See `features.tastes` for what the laws say.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from features.instants import DAY
from features.taste_loops import Expected, Links, filter_chains, smooth_chains
from features.tastes import Followed, Slots, TasteLaws, followed, outcomes

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

STATES, ROUNDS = 4, 15
# The most chains, of one user and one topic, users and slots that laws are learnt from; the fewest slots.
MOST_CHAINS, MOST_USERS, MOST_SLOTS, FEWEST_SLOTS = 100_000, 2_000, 1_000_000, 1_000
# Where fewer slots would be others for another viewer, tallies of clicks tell as much of a taste.
LEAST_FOLLOWING = 0.05
# Click rates that items had led to expect, and what was watched, are told apart in so many equal parts.
RATE_PARTS, WATCH_PARTS = 8, 6
# A topic's prior is drawn to that of all topics as by so many draws, a surface's repeats to those of all as by so many
# slots, a reaction's chances to those of all as by one.
PRIOR_DRAWS, PRIOR_REPEATS, PRIOR_REACTIONS = 200.0, 20.0, 1.0
# The strongest pull, by which the others are measured: only their ratios tell.
STRONGEST, WEAKEST = 4.0, 0.004


def learn_tastes(slots: Slots, topics: int, as_of: int, rng: np.random.Generator) -> TasteLaws | None:
    """Laws by what was shown before an instant, of so many topics.

    None where that is next to nothing, and where what is shown does not depend on who is shown it.
    """
    surfaces = int(slots.surfaces.max(initial=0)) + 1
    slots = slots.take(np.flatnonzero(slots.instants < as_of))
    sample = _sample(slots, topics, rng) if topics >= 2 else slots
    if topics < 2 or np.count_nonzero(sample.topics >= 0) < FEWEST_SLOTS:
        return None
    laws, chains = _first_guess(slots, topics, surfaces), _chains(sample, topics)
    for _ in range(ROUNDS):
        laws = _learnt(laws, sample, chains)
    return laws if laws.following >= LEAST_FOLLOWING else None


def _sample(slots: Slots, topics: int, rng: np.random.Generator) -> Slots:
    """All slots of random users, as many as their chains and slots allow; at least one."""
    users, counts = np.unique(slots.users, return_counts=True)
    order = rng.permutation(len(users))[: max(min(MOST_CHAINS // topics, MOST_USERS), 1)]
    enough = np.searchsorted(np.cumsum(counts[order]), MOST_SLOTS, side="right")
    return slots.take(np.flatnonzero(np.isin(slots.users, users[order[: max(enough, 1)]])))


def _first_guess(slots: Slots, topics: int, surfaces: int) -> TasteLaws:
    """Tastes are rare, and the more they pull the more they please."""
    known = slots.watched[slots.clicked & ~np.isnan(slots.watched)]
    rate_edges, watch_edges = _edges(slots.rates, RATE_PARTS), _edges(known, WATCH_PARTS)
    counts = np.bincount(slots.topics[slots.topics >= 0], minlength=topics) + 0.5
    tilt = np.linspace(-1.2, 1.2, STATES)[:, None, None] * np.r_[-1.0, np.linspace(0, 1, len(watch_edges) + 1), 0.5]
    reactions = _chances(slots, rate_edges, watch_edges) * np.exp(tilt)
    return TasteLaws(
        shares=counts / counts.sum(),
        prior=np.tile(np.r_[0.85, np.full(STATES - 1, 0.15 / (STATES - 1))], (topics, 1)),
        pulls=STRONGEST * np.r_[0.0125, 0.5 ** np.arange(STATES - 2, -1, -1)],
        drift=0.05,
        background=0.4,
        again=np.full(surfaces, 0.3),
        rate_edges=rate_edges,
        rate_shares=np.bincount(np.searchsorted(rate_edges, slots.rates)) / len(slots),
        watch_edges=watch_edges,
        watch_levels=_levels(known, watch_edges),
        reactions=reactions / reactions.sum(axis=2, keepdims=True),
    )


def _edges(values: Float64, parts: int) -> Float64:
    """Edges that cut values into at most so many parts, about equal; a value that is common is a part of its own."""
    if not len(values):
        return np.zeros(0)
    edges = np.unique(np.quantile(values, np.arange(1, parts) / parts))
    return np.asarray(edges[edges < values.max()])


def _levels(known: Float64, edges: Float64) -> Float64:
    """The mean of the values in each part, 1 where there is none."""
    parts = np.searchsorted(edges, known)
    counts, sums = (np.bincount(parts, weights, len(edges) + 1) for weights in (None, known))
    return np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)


def _chances(slots: Slots, rate_edges: Float64, watch_edges: Float64) -> Float64:
    """Chances of what becomes of any slot, [rate parts, outcomes]."""
    counts = 1.0 + _counted(slots, rate_edges, watch_edges, np.ones((len(slots), 1)))[0]
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _counted(slots: Slots, rate_edges: Float64, watch_edges: Float64, weights: Float64) -> Float64:
    """Sums of weights [n, states] by what was expected and what became of it, [states, rate parts, outcomes]."""
    rates, kinds = len(rate_edges) + 1, len(watch_edges) + 3
    cells = np.searchsorted(rate_edges, slots.rates) * kinds + outcomes(slots, watch_edges)
    sums = [np.bincount(cells, weight, rates * kinds).reshape(rates, kinds) for weight in weights.T]
    return np.stack(sums)


@dataclass(frozen=True)
class _Chains:
    """Every topic of every user as a chain of links, end to end: the slots that showed it, and the user's last.

    `slots` [n] are rows, -1 for the last; `users` [n] count from 0; `ends` [users] are rows of each user's last slot.
    """

    slots: Int64
    users: Int64
    topics: Int64
    firsts: Bools
    days: Float64
    ends: Int64

    @property
    def shown(self) -> Bools:
        return self.slots >= 0


def _chains(slots: Slots, topics: int) -> _Chains:
    users = np.cumsum(slots.firsts) - 1
    last = np.flatnonzero(np.append(slots.firsts[1:], True))
    rows = np.flatnonzero(slots.topics >= 0)
    of_user = np.concatenate([users[rows], np.repeat(np.arange(len(last)), topics)])
    of_topic = np.concatenate([slots.topics[rows], np.tile(np.arange(topics), len(last))])
    instants = np.concatenate([slots.instants[rows], np.repeat(slots.instants[last], topics)])
    row = np.concatenate([rows, np.full(len(last) * topics, -1)])
    keys = of_user * topics + of_topic
    order = np.lexsort((instants, keys))
    firsts = np.diff(keys[order], prepend=-1) != 0
    since = np.where(firsts, slots.instants[slots.firsts][of_user[order]], np.append(0, instants[order][:-1]))
    days = (instants[order] - since) / DAY
    return _Chains(row[order], of_user[order], of_topic[order], firsts, days, last)


def _learnt(laws: TasteLaws, slots: Slots, chains: _Chains) -> TasteLaws:
    """One round: what states the whole chains tell of, and the laws that make these likeliest."""
    walk, causes = followed(slots, laws), _causes(laws, slots)
    causes["taste"] = causes["taste"] / walk.totals[:, None]
    chances = sum(causes.values())
    passed = _passed(chains, walk)
    expected, anew = _smoothed(laws, chains, passed, chances * laws.likelihoods(slots))
    of_slots = np.zeros_like(chances)
    of_slots[chains.slots[chains.shown]] = expected.states[chains.shown]
    parts = {name: of_slots * cause / chances for name, cause in causes.items()}
    pulls = parts["taste"].sum(axis=0) / np.maximum(expected.spent, 1e-9)
    return replace(
        laws,
        prior=_drawn(expected.draws),
        # A feed that follows nobody leaves no pull at all.
        pulls=np.maximum(pulls * STRONGEST / max(pulls.max(), 1e-12), WEAKEST),
        drift=anew / max(chains.days.sum(), 1e-9),
        background=float(parts["feed"].sum() / (parts["feed"] + parts["taste"]).sum()),
        again=_share_of_repeats(laws, slots, parts["again"].sum(axis=1)),
        reactions=_reactions(laws, slots, of_slots),
    )


def _passed(chains: _Chains, walk: Followed) -> Float64:
    """How much of the user's clock lies before each link, since the one before it."""
    clocks = np.where(chains.shown, walk.clocks[chains.slots], walk.clocks_after[chains.ends[chains.users]])
    return np.where(chains.firsts, clocks, np.diff(clocks, prepend=0.0))


def _smoothed(laws: TasteLaws, chains: _Chains, passed: Float64, chances: Float64) -> tuple[Expected, float]:
    """What whole chains tell, and how often a state was drawn anew."""
    likelihoods = np.ones((len(passed), chances.shape[1]))
    likelihoods[chains.shown] = chances[chains.slots[chains.shown]]
    left = np.empty_like(likelihoods)
    expected = Expected(np.empty_like(likelihoods), np.zeros_like(laws.prior), np.zeros_like(laws.pulls))
    links = Links(chains.firsts, chains.days, passed, likelihoods, chains.topics)
    filter_chains(links, laws.motion, left)
    return expected, smooth_chains(links, laws.motion, left, expected)


def _causes(laws: TasteLaws, slots: Slots) -> dict[str, Float64]:
    """Chance of each slot's topic by cause and state, [n, 1 or states]; that of taste times the sum of pulls."""
    return {
        "again": (laws.of_repeats(slots) * slots.repeats)[:, None],
        "feed": laws.of_feed(slots)[:, None],
        "taste": laws.of_taste(slots)[:, None] * laws.pulls,
    }


def _drawn(draws: Float64) -> Float64:
    """Each topic's prior by what was drawn in it [topics, states], drawn to that of all."""
    of_all = PRIOR_DRAWS * draws.sum(axis=0) / draws.sum()
    return np.asarray((draws + of_all) / (draws.sum(axis=1, keepdims=True) + PRIOR_DRAWS))


def _share_of_repeats(laws: TasteLaws, slots: Slots, again: Float64) -> Float64:
    """By surface, the share of slots that only repeat the one they come after, drawn to that of all surfaces."""
    surfaces = slots.surfaces[slots.follows]
    counts = np.bincount(surfaces, minlength=len(laws.again)).astype(np.float64)
    repeated = np.bincount(surfaces, again[slots.follows], len(laws.again))
    of_all = (repeated.sum() + 1) / (counts.sum() + 2)
    return np.asarray((repeated + PRIOR_REPEATS * of_all) / (counts + PRIOR_REPEATS))


def _reactions(laws: TasteLaws, slots: Slots, smoothed: Float64) -> Float64:
    """Chances of what becomes of slots by state."""
    of_all = PRIOR_REACTIONS * _chances(slots, laws.rate_edges, laws.watch_edges)
    counts = _counted(slots, laws.rate_edges, laws.watch_edges, smoothed)
    return np.asarray((counts + of_all) / (counts.sum(axis=2, keepdims=True) + PRIOR_REACTIONS))
