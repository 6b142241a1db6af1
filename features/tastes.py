"""How much a user is drawn to a topic as of an instant, followed slot by slot: what was shown, what became of it.

A taste, of a user in a topic, is in one of a few states, and now and then drawn anew from the topic's prior. A slot
repeats the topic before it on its page, or shows any topic as the feed does, or one that draws its user:

    P(topic k) = again * [k before it]
               + (1 - again) * (background * share of k + (1 - background) * pull / sum of pulls)

and what becomes of it, a click and how much is watched beside what its item had led to expect, depends on the state.
So a taste is told from what a feed that knows its viewers offers, as well as from clicks, and a topic that is not shown
any more is lost in time. `features.taste_learning` learns the laws.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import Refused
from features.instants import MINUTE
from features.taste_loops import Motion, Shown, Trail, bring_forward, follow_slots

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

PAGE = 10 * MINUTE
UNCLICKED = 0
TASTE_COLUMNS = ("believed_click", "believed_watch", "believed_pull", "certainty")


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
    def motion(self) -> Motion:
        """How tastes move."""
        return Motion(self.prior, self.mean_prior, self.pulls, self.drift)

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
    trail = Trail(np.empty((len(slots), len(laws.pulls))), np.empty(len(slots)), np.empty(len(slots)))
    steps = np.where(slots.topics >= 0, laws.of_taste(slots), 0.0)
    shown = Shown(
        slots.firsts,
        slots.instants,
        slots.topics,
        likelihoods=laws.likelihoods(slots),
        same=laws.of_repeats(slots) * slots.repeats,
        steps=steps,
        offered=laws.of_feed(slots),
    )
    follow_slots(shown, laws.motion, trail)
    return Followed(trail.beliefs, trail.clocks, trail.clocks + steps / trail.totals, trail.totals)


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
    bring_forward(beliefs, topics.astype(np.int64), laws.motion, since.days, since.passed)
    return beliefs


def taste_columns(laws: TasteLaws, beliefs: Float64) -> Mapping[str, Float64]:
    """What beliefs [n, states] come to: click rate and watching to expect, how strong the pull is, and how sure."""
    clicks = beliefs @ laws.click_rates
    watching = beliefs @ (laws.click_rates * laws.watch_ratios) / clicks
    return dict(zip(TASTE_COLUMNS, (clicks, watching, beliefs @ laws.pulls, (beliefs**2).sum(axis=1)), strict=True))


def outcomes(slots: Slots, watch_edges: Float64) -> Int64:
    """What became of each slot: 0 unclicked, then by how much was watched, the last one clicked and not known, [n]."""
    parts = np.searchsorted(watch_edges, slots.watched) + 1
    clicked = np.where(np.isnan(slots.watched), len(watch_edges) + 2, parts)
    return np.where(slots.clicked, clicked, UNCLICKED)
