"""Loops over the slots of a log that numba compiles: each reads what the one before it left.

A function is compiled when it is first called, once a process: all four take about six seconds. While one runs, other
threads of Python run too.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from features.instants import DAY

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# How many slots of a user pass until all their beliefs are brought up to date.
REFRESHED_EVERY = 5
LEAST_PULL = 0.1
NEAR = 1e-5


class Motion(NamedTuple):
    """How tastes move: the `prior` of each topic [topics, states] and of one not shown yet [states], the `pulls`
    [states], and how often a day a taste is drawn anew."""

    prior: Float64
    mean_prior: Float64
    pulls: Float64
    drift: float


class Shown(NamedTuple):
    """Slots [n] by user and time. `likelihoods` [n, states] are the chances of what became of each, `same` that it
    repeats the topic before it, `steps` that taste chose it, `offered` that neither did, but its topic was there.
    Topics are 0, 1, ..., -1 for none."""

    firsts: Bools
    instants: Int64
    topics: Int64
    likelihoods: Float64
    same: Float64
    steps: Float64
    offered: Float64


class Trail(NamedTuple):
    """What is written of slots [n]: the belief that each left of its topic [n, states], the user's clock before it, and
    the sum of pulls at it."""

    beliefs: Float64
    clocks: Float64
    totals: Float64


class Links(NamedTuple):
    """Links [n] of many chains, one a user and topic, end to end. `days` and `passed` (of the user's clock) lie between
    a link and the one before it, or the user's first slot; `likelihoods` [n, states] as of slots."""

    firsts: Bools
    days: Float64
    passed: Float64
    likelihoods: Float64
    topics: Int64


class Expected(NamedTuple):
    """What is written of whole chains: each link's `states` [n, states], how often each state was drawn, at first or
    anew, in each topic [topics, states], and how much of the users' clocks passed in it [states]."""

    states: Float64
    draws: Float64
    spent: Float64


@numba.njit(nogil=True, error_model="numpy")
def follow_slots(shown: Shown, motion: Motion, trail: Trail) -> None:
    """Follow the tastes of users through their slots, and write the trail.

    Topics that a user has not been shown yet are followed as one, with the mean prior.
    """
    firsts, instants, topics, likelihoods, same, steps, offered = shown
    prior, mean_prior, pulls, _ = motion
    left, clocks, totals = trail
    topics_in_all, states = prior.shape
    beliefs, pulled = np.empty((topics_in_all, states)), np.empty(topics_in_all)
    at_clock, at_instant = np.empty(topics_in_all), np.empty(topics_in_all, np.int64)
    seen, places = np.empty(topics_in_all, np.int64), np.full(topics_in_all, -1, np.int64)
    unseen, belief, came = np.empty(states), np.empty(states), np.empty(states)
    count, clock, total, since, of_unseen = 0, 0.0, 0.0, 0, 0.0
    start = instants[0] if len(instants) else 0
    unseen_clock, unseen_instant = 0.0, start
    for slot in range(len(topics)):
        now = instants[slot]
        if firsts[slot]:
            for place in range(count):
                places[seen[place]] = -1
            count, clock, since, start = 0, 0.0, REFRESHED_EVERY, now
            _copy(mean_prior, unseen)
            unseen_clock, unseen_instant = 0.0, now
        if since >= REFRESHED_EVERY:
            _pass(unseen, mean_prior, motion, (now - unseen_instant) / DAY, clock - unseen_clock, came)
            unseen_clock, unseen_instant = clock, now
            of_unseen = _product(unseen, pulls)
            total = (topics_in_all - count) * of_unseen
            for place in range(count):
                topic = seen[place]
                days, passed = (now - at_instant[topic]) / DAY, clock - at_clock[topic]
                _pass(beliefs[topic], prior[topic], motion, days, passed, came)
                at_clock[topic], at_instant[topic] = clock, now
                pulled[topic] = _product(beliefs[topic], pulls)
                total += pulled[topic]
            since = 0
        clocks[slot], totals[slot] = clock, max(total, LEAST_PULL)
        topic = topics[slot]
        if topic < 0:
            _copy(mean_prior, left[slot])
            continue
        if places[topic] < 0:
            places[topic], seen[count] = count, topic
            count += 1
            _copy(prior[topic], belief)
            _pass(belief, prior[topic], motion, (now - start) / DAY, clock, came)
            before = of_unseen
        else:
            _copy(beliefs[topic], belief)
            days, passed = (now - at_instant[topic]) / DAY, clock - at_clock[topic]
            _pass(belief, prior[topic], motion, days, passed, came)
            before = pulled[topic]
        whole = 0.0
        for state in range(states):
            chance = same[slot] + offered[slot] + steps[slot] * pulls[state] / totals[slot]
            belief[state] *= chance * likelihoods[slot, state]
            whole += belief[state]
        for state in range(states):
            belief[state] /= whole
        _copy(belief, left[slot])
        _copy(belief, beliefs[topic])
        at_clock[topic], at_instant[topic] = clock, now
        pulled[topic] = _product(belief, pulls)
        clock += steps[slot] / totals[slot]
        total += pulled[topic] - before
        since += 1


@numba.njit(nogil=True, error_model="numpy")
def _copy(values: Float64, into: Float64) -> None:
    for place in range(len(values)):
        into[place] = values[place]


@numba.njit(nogil=True, error_model="numpy")
def _product(values: Float64, weights: Float64) -> float:
    whole = 0.0
    for place in range(len(values)):
        whole += values[place] * weights[place]
    return whole


@numba.njit(nogil=True, error_model="numpy")
def bring_forward(beliefs: Float64, topics: Int64, motion: Motion, days: Float64, passed: Float64) -> None:
    """Bring beliefs [n, states] in topics [n] forward in place, by so many days and so much of the user's clock."""
    came = np.empty(len(motion.pulls))
    for row in range(len(topics)):
        _pass(beliefs[row], motion.prior[topics[row]], motion, days[row], passed[row], came)


@numba.njit(nogil=True, error_model="numpy")
def _pass(belief: Float64, prior: Float64, motion: Motion, days: float, passed: float, came: Float64) -> None:
    """Bring one belief forward in place: kept, or drawn anew once, at any time of the interval.

    A clock that passes without a slot speaks against a pull, before that time the old one and after it the new one.
    `came` [states] is room to work in.
    """
    pulls, states = motion.pulls, len(belief)
    kept, whole = np.exp(-motion.drift * days), 0.0
    for state in range(states):
        drawn = 0.0
        for old in range(states):
            drawn += belief[old] * _silence(pulls[old] * passed, pulls[state] * passed)
        came[state] = kept * belief[state] * np.exp(-pulls[state] * passed) + (1 - kept) * prior[state] * drawn
        whole += came[state]
    for state in range(states):
        belief[state] = came[state] / whole if whole > 0 else prior[state]


@numba.njit(nogil=True, error_model="numpy")
def _silence(old: float, new: float) -> float:
    """Chance of an interval without a slot where so many are due in the old state and so many in the new one, drawn at
    any time of it: the mean of exp(-old (1 - u) - new u) for u from 0 to 1."""
    if abs(old - new) < NEAR:
        return float(np.exp(-(old + new) / 2))
    return float((np.exp(-new) - np.exp(-old)) / (old - new))


@numba.njit(nogil=True, error_model="numpy")
def _part_after(old: float, new: float) -> float:
    """The expected part of a silent interval that lay after the draw."""
    more = new - old
    return 0.5 - more / 12 if abs(more) < NEAR else 1 / more - 1 / np.expm1(more)


@numba.njit(nogil=True, error_model="numpy")
def filter_chains(links: Links, motion: Motion, left: Float64) -> None:
    """Write the belief that each link left, [n, states]."""
    firsts, days, passed, likelihoods, topics = links
    prior, pulls = motion.prior, motion.pulls
    belief, came = np.empty(len(pulls)), np.empty(len(pulls))
    for link in range(len(firsts)):
        if firsts[link]:
            _copy(prior[topics[link]], belief)
        _pass(belief, prior[topics[link]], motion, days[link], passed[link], came)
        whole = _product(belief, likelihoods[link])
        for state in range(len(pulls)):
            belief[state] *= likelihoods[link, state] / whole
        _copy(belief, left[link])


@numba.njit(nogil=True, error_model="numpy")
def smooth_chains(links: Links, motion: Motion, left: Float64, expected: Expected) -> float:
    """Write what the whole chains say, from what `filter_chains` left; returns how often a state was drawn anew.

    Draws and clocks are added to what is there.
    """
    firsts, days, passed, likelihoods, topics = links
    prior, _, pulls, drift = motion
    smoothed, draws, spent = expected
    states = len(pulls)
    later, message = np.ones(states), np.empty(states)
    anew = 0.0
    for link in range(len(firsts) - 1, -1, -1):
        if link == len(firsts) - 1 or firsts[link + 1]:
            for state in range(states):
                later[state] = 1.0
        whole = _product(left[link], later)
        for state in range(states):
            smoothed[link, state] = left[link, state] * later[state] / whole
            message[state] = later[state] * likelihoods[link, state]
        of_topic, clock = prior[topics[link]], passed[link]
        before = of_topic if firsts[link] else left[link - 1]
        kept = np.exp(-drift * days[link])
        for old in range(states):
            drawn = 0.0
            for new in range(states):
                drawn += of_topic[new] * message[new] * _silence(pulls[old] * clock, pulls[new] * clock)
            later[old] = kept * message[old] * np.exp(-pulls[old] * clock) + (1 - kept) * drawn
        whole, chance, most = _product(before, later), 0.0, 0.0
        for old in range(states):
            spent[old] += before[old] * kept * message[old] * np.exp(-pulls[old] * clock) / whole * clock
            if firsts[link]:
                draws[topics[link], old] += of_topic[old] * later[old] / whole
            for new in range(states):
                silence = _silence(pulls[old] * clock, pulls[new] * clock)
                weight = before[old] * (1 - kept) * of_topic[new] * message[new] * silence / whole
                after = _part_after(pulls[old] * clock, pulls[new] * clock)
                chance += weight
                draws[topics[link], new] += weight
                spent[old] += weight * (1 - after) * clock
                spent[new] += weight * after * clock
            most = max(most, later[old])
        if chance > 0:
            # Where a state was drawn anew at all, it was so often.
            anew += chance * drift * days[link] / (1 - kept)
        for state in range(states):
            later[state] /= most
    return anew
