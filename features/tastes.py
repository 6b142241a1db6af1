"""How much a user is drawn to a topic as of an instant, followed slot by slot: what was shown, what became of it.

A taste, of a user in a topic, is in one of a few states, and now and then drawn anew from the topic's prior. A slot
repeats the topic before it on its page, or shows any topic as the feed does, or one that draws its user:

    P(topic k) = again * [k before it]
               + (1 - again) * (background * share of k + (1 - background) * pull / sum of pulls)

and what becomes of it, a click and how much is watched beside what its item had led to expect, depends on the state.
So a taste is told from what a feed that knows its viewers offers, as well as from clicks, and a topic that is not shown
any more is lost in time. The laws are learnt from the log by expectation and maximisation (Baum-Welch).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.compiled import A_DAY, bring_forward, filter_chains, follow_slots, smooth_chains
from features.errors import Refused

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
PAGE = 10 * 60 * 1_000_000
# The strongest pull, by which the others are measured: only their ratios tell.
STRONGEST, WEAKEST = 4.0, 0.004
UNCLICKED = 0


@dataclass(frozen=True)
class Slots:
    """What was shown, [n] each, by user and time.

    `topics` are 0, 1, ..., -1 for none; `surfaces` 0 unknown; `rates` the click rate that the item had led to expect;
    `watched` how much was watched over what was due of a click, NaN where unclicked or not known.
    """

    users: Int64
    instants: Int64
    topics: Int64
    surfaces: Int64
    rates: Float64
    clicked: Bools
    watched: Float64

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: npt.NDArray[Any]) -> "Slots":
        return Slots(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @cached_property
    def firsts(self) -> Bools:
        """Which slots are the first of their user."""
        return np.asarray(np.diff(self.users, prepend=-1) != 0)

    @cached_property
    def follows(self) -> Bools:
        """Which slots come after another of their page, both of a topic: same user and surface, within ten minutes."""
        near = np.diff(self.instants, prepend=0) <= PAGE
        told = (self.topics >= 0) & (np.append(-1, self.topics[:-1]) >= 0)
        return np.asarray(~self.firsts & near & told & (np.diff(self.surfaces, prepend=-1) == 0))

    @cached_property
    def repeats(self) -> Bools:
        """Which slots show the topic of the one before them on their page."""
        return np.asarray(self.follows & (np.diff(self.topics, prepend=-2) == 0))


@dataclass(frozen=True)
class TasteLaws:
    """What is learnt of all users: see the module.

    `shares` [topics] of all slots; `prior` [topics, states]; `pulls` [states]; `drift` draws a day; `again` [surfaces];
    `reactions` [states, rate parts, 1 + watch parts + 1]: the chances that a slot stays unclicked, is clicked and
    watched that much, is clicked and nobody knows. Parts lie between edges; `rate_shares` [rate parts] of all slots are
    in each, `watch_levels` [watch parts] stand for them.
    """

    shares: Float64
    prior: Float64
    pulls: Float64
    drift: float
    background: float
    again: Float64
    rate_edges: Float64
    rate_shares: Float64
    watch_edges: Float64
    watch_levels: Float64
    reactions: Float64

    @cached_property
    def mean_prior(self) -> Float64:
        """Prior of a topic that nothing is known of, [states]."""
        return np.asarray(self.prior.mean(axis=0))

    @cached_property
    def click_rates(self) -> Float64:
        """Click rate in each state of an item like any other, [states]."""
        return np.asarray(self.reactions[:, :, UNCLICKED + 1 :].sum(axis=2) @ self.rate_shares)

    @cached_property
    def watch_ratios(self) -> Float64:
        """How much of a click is watched in each state, over what was due, [states]."""
        known = np.einsum("srk,r->sk", self.reactions[:, :, UNCLICKED + 1 : -1], self.rate_shares)
        return np.asarray(known @ self.watch_levels / np.maximum(known.sum(axis=1), 1e-12))

    @property
    def following(self) -> float:
        """How far what a viewer is shown is from what all are: the share of slots that would have to change."""
        mean = self.mean_prior @ self.pulls
        return float((1 - self.background) * (self.mean_prior @ np.abs(self.pulls - mean)) / (2 * mean))

    def likelihoods(self, slots: Slots) -> Float64:
        """Chance of what became of each slot by state, [n, states]."""
        parts = np.searchsorted(self.rate_edges, slots.rates), outcomes(slots, self.watch_edges)
        return np.ascontiguousarray(self.reactions[:, *parts].T)

    def of_repeats(self, slots: Slots) -> Float64:
        """Chance that a slot only repeats the one before it, [n]."""
        return np.where(slots.follows, self.again[slots.surfaces], 0.0)

    def of_feed(self, slots: Slots) -> Float64:
        """Chance that the feed showed a slot's topic as it does to all, [n]."""
        return (1 - self.of_repeats(slots)) * self.background * self.shares[slots.topics]

    def of_taste(self, slots: Slots) -> Float64:
        """Chance that a taste chose a slot's topic, whichever it is, [n]."""
        return (1 - self.of_repeats(slots)) * (1 - self.background)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({name: np.asarray(value).tolist() for name, value in asdict(self).items()}) + "\n")

    @classmethod
    def load(cls, path: Path) -> "TasteLaws":
        found = json.loads(path.read_text())
        drift, background = found.pop("drift"), found.pop("background")
        arrays = {name: np.asarray(values, np.float64) for name, values in found.items()}
        return cls(drift=drift, background=background, **arrays)


@dataclass(frozen=True)
class Followed:
    """What each slot left, [n] each: the belief in its topic's states [n, states], the user's clock before and after,
    which counts the slots that taste could have taken, each over the sum of pulls, and that sum at it."""

    beliefs: Float64
    clocks: Float64
    clocks_after: Float64
    totals: Float64


def followed(slots: Slots, laws: TasteLaws) -> Followed:
    """Follow all users through their slots; Refused where the laws do not know a topic or a surface of them."""
    topics, surfaces = (int(codes.max(initial=-1)) for codes in (slots.topics, slots.surfaces))
    if topics >= len(laws.prior) or surfaces >= len(laws.again):
        raise Refused(
            f"Slots of topic {topics} and surface {surfaces} are to be followed by laws of {len(laws.prior)} topics "
            f"and {len(laws.again)} surfaces, each from 0; learn laws from this log, or number it as theirs was."
        )
    beliefs, clocks, totals = np.empty((len(slots), len(laws.pulls))), np.empty(len(slots)), np.empty(len(slots))
    steps = np.where(slots.topics >= 0, laws.of_taste(slots), 0.0)
    follow_slots(
        slots.firsts,
        slots.instants,
        slots.topics,
        laws.likelihoods(slots),
        laws.of_repeats(slots) * slots.repeats,
        steps,
        laws.of_feed(slots),
        laws.prior,
        laws.mean_prior,
        laws.pulls,
        laws.drift,
        beliefs,
        clocks,
        totals,
    )
    return Followed(beliefs, clocks, clocks + steps / totals, totals)


@dataclass(frozen=True)
class Since:
    """What was last left of topics [n], and what has passed since: the belief [n, states], days, and the user's clock.

    Of a topic that its user has never been shown (not `met`), since the user's first slot.
    """

    left: Float64
    met: Bools
    days: Float64
    passed: Float64


def beliefs_as_of(laws: TasteLaws, topics: npt.NDArray[np.integer], since: Since) -> Float64:
    """Belief in the states of topics [n]: [n, states]."""
    beliefs = np.where(since.met[:, None], since.left, laws.prior[topics])
    bring_forward(beliefs, topics.astype(np.int64), laws.prior, laws.pulls, laws.drift, since.days, since.passed)
    return beliefs


def taste_columns(laws: TasteLaws, beliefs: Float64) -> Mapping[str, Float64]:
    """What beliefs [n, states] come to: click rate and watching to expect, how strong the pull is, and how sure."""
    clicks = beliefs @ laws.click_rates
    return {
        "believed_click": clicks,
        "believed_watch": beliefs @ (laws.click_rates * laws.watch_ratios) / clicks,
        "believed_pull": beliefs @ laws.pulls,
        "certainty": (beliefs**2).sum(axis=1),
    }


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


def outcomes(slots: Slots, watch_edges: Float64) -> Int64:
    """What became of each slot: 0 unclicked, then by how much was watched, the last one clicked and not known, [n]."""
    parts = np.searchsorted(watch_edges, slots.watched) + 1
    clicked = np.where(np.isnan(slots.watched), len(watch_edges) + 2, parts)
    return np.where(slots.clicked, clicked, UNCLICKED)


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
    days = (instants[order] - since) / A_DAY
    return _Chains(row[order], of_user[order], of_topic[order], firsts, days, last)


def _learnt(laws: TasteLaws, slots: Slots, chains: _Chains) -> TasteLaws:
    """One round: what states the whole chains tell of, and the laws that make these likeliest."""
    walk, causes = followed(slots, laws), _causes(laws, slots)
    causes["taste"] = causes["taste"] / walk.totals[:, None]
    chances = sum(causes.values())
    passed = _passed(chains, walk)
    states, draws, spent, anew = _smoothed(laws, chains, passed, chances * laws.likelihoods(slots))
    of_slots = np.zeros_like(chances)
    of_slots[chains.slots[chains.shown]] = states[chains.shown]
    parts = {name: of_slots * cause / chances for name, cause in causes.items()}
    pulls = parts["taste"].sum(axis=0) / np.maximum(spent, 1e-9)
    return replace(
        laws,
        prior=_drawn(draws),
        pulls=np.maximum(pulls * STRONGEST / pulls.max(), WEAKEST),
        drift=anew / max(chains.days.sum(), 1e-9),
        background=float(parts["feed"].sum() / (parts["feed"] + parts["taste"]).sum()),
        again=_share_of_repeats(laws, slots, parts["again"].sum(axis=1)),
        reactions=_reactions(laws, slots, of_slots),
    )


def _passed(chains: _Chains, walk: Followed) -> Float64:
    """How much of the user's clock lies before each link, since the one before it."""
    clocks = np.where(chains.shown, walk.clocks[chains.slots], walk.clocks_after[chains.ends[chains.users]])
    return np.where(chains.firsts, clocks, np.diff(clocks, prepend=0.0))


def _smoothed(
    laws: TasteLaws, chains: _Chains, passed: Float64, chances: Float64
) -> tuple[Float64, Float64, Float64, float]:
    """What whole chains tell: each link's state, the draws in each topic, the clock spent in each state, and how often
    one was drawn anew."""
    likelihoods = np.ones((len(passed), chances.shape[1]))
    likelihoods[chains.shown] = chances[chains.slots[chains.shown]]
    left, states, draws = np.empty_like(likelihoods), np.empty_like(likelihoods), np.zeros_like(laws.prior)
    spent = np.zeros_like(laws.pulls)
    of_chains = (chains.firsts, chains.days, passed, likelihoods, chains.topics, laws.prior, laws.pulls, laws.drift)
    filter_chains(*of_chains, left)
    anew = smooth_chains(*of_chains, left, states, draws, spent)
    return states, draws, spent, anew


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
