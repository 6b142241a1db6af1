"""Loops over the slots of a log that numba compiles: each reads what the one before it left.

The home of numba in this package. A function is compiled when it is first called, once a process: all three take about
two seconds. While one runs, other threads of Python run too.
"""

import numba
import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

A_DAY = 86_400 * 1e6
# How many slots of a user pass until all their beliefs are brought up to date.
REFRESHED_EVERY = 5
LEAST_PULL = 0.1


@numba.njit(nogil=True, error_model="numpy")
def follow_slots(
    firsts: Bools,
    instants: Int64,
    topics: Int64,
    likes: Float64,
    same: Float64,
    steps: Float64,
    offered: Float64,
    prior: Float64,
    mean_prior: Float64,
    pulls: Float64,
    drift: float,
    left: Float64,
    clocks: Float64,
    totals: Float64,
) -> float:
    """Follow the tastes of users through their slots [n], by user and time; log likelihood of all that is read.

    `likes` [n, states] are the chances of what became of each slot, `same` that it repeats the topic before it,
    `steps` that taste chose it, `offered` that neither did, but its topic was there. Written are the belief that each
    slot `left` of its topic [n, states], the user's clock before it, and the sum of pulls at it, [n] each. Topics are
    0, 1, ..., -1 for none. Those a user has not been shown yet are followed as one, with the mean prior.
    """
    topics_in_all, states = prior.shape
    beliefs, pulled = np.empty((topics_in_all, states)), np.empty(topics_in_all)
    at_clock, at_instant = np.empty(topics_in_all), np.empty(topics_in_all, np.int64)
    seen, places = np.empty(topics_in_all, np.int64), np.full(topics_in_all, -1, np.int64)
    unseen, belief = np.empty(states), np.empty(states)
    count, clock, total, since, of_unseen, likelihood = 0, 0.0, 0.0, 0, 0.0, 0.0
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
            _pass(unseen, mean_prior, pulls, drift, (now - unseen_instant) / A_DAY, clock - unseen_clock)
            unseen_clock, unseen_instant = clock, now
            of_unseen = _product(unseen, pulls)
            total = (topics_in_all - count) * of_unseen
            for place in range(count):
                topic = seen[place]
                days, passed = (now - at_instant[topic]) / A_DAY, clock - at_clock[topic]
                _pass(beliefs[topic], prior[topic], pulls, drift, days, passed)
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
            _pass(belief, prior[topic], pulls, drift, 0.0, clock)
            before = of_unseen
        else:
            _copy(beliefs[topic], belief)
            days, passed = (now - at_instant[topic]) / A_DAY, clock - at_clock[topic]
            _pass(belief, prior[topic], pulls, drift, days, passed)
            before = pulled[topic]
        whole = 0.0
        for state in range(states):
            chance = same[slot] + offered[slot] + steps[slot] * pulls[state] / totals[slot]
            belief[state] *= chance * likes[slot, state]
            whole += belief[state]
        likelihood += np.log(whole)
        for state in range(states):
            belief[state] /= whole
        _copy(belief, left[slot])
        _copy(belief, beliefs[topic])
        at_clock[topic], at_instant[topic] = clock, now
        pulled[topic] = _product(belief, pulls)
        clock += steps[slot] / totals[slot]
        total += pulled[topic] - before
        since += 1
    return likelihood


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
def _pass(belief: Float64, prior: Float64, pulls: Float64, drift: float, days: float, clock: float) -> None:
    """Bring a belief forward in place: over days it is drawn anew, and a clock without a slot speaks against a pull."""
    kept, whole = np.exp(-drift * days), 0.0
    for state in range(len(belief)):
        belief[state] = (kept * belief[state] + (1 - kept) * prior[state]) * np.exp(-pulls[state] * clock)
        whole += belief[state]
    for state in range(len(belief)):
        belief[state] /= whole


@numba.njit(nogil=True, error_model="numpy")
def filter_chains(
    firsts: Bools,
    days: Float64,
    passed: Float64,
    likes: Float64,
    topics: Int64,
    prior: Float64,
    pulls: Float64,
    drift: float,
    left: Float64,
) -> None:
    """Write the belief that each link of many chains left, [n, states]: one chain a user and topic, end to end.

    `days` and `passed` (of the user's clock) lie between a link and the one before it, the chain's start for a first.
    """
    belief = np.empty(len(pulls))
    for link in range(len(firsts)):
        if firsts[link]:
            _copy(prior[topics[link]], belief)
        _pass(belief, prior[topics[link]], pulls, drift, days[link], passed[link])
        whole = _product(belief, likes[link])
        for state in range(len(pulls)):
            belief[state] *= likes[link, state] / whole
        _copy(belief, left[link])


@numba.njit(nogil=True, error_model="numpy")
def smooth_chains(
    firsts: Bools,
    days: Float64,
    passed: Float64,
    likes: Float64,
    topics: Int64,
    prior: Float64,
    pulls: Float64,
    drift: float,
    left: Float64,
    smoothed: Float64,
    draws: Float64,
) -> float:
    """Write what the whole chain says of each link's state, [n, states], from what `filter_chains` left.

    Adds to `draws` [topics, states] how often each state was drawn, at first or anew; returns how often anew.
    """
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
            message[state] = later[state] * likes[link, state] * np.exp(-pulls[state] * passed[link])
        of_topic = prior[topics[link]]
        drawn = _product(of_topic, message)
        if firsts[link]:
            for state in range(states):
                draws[topics[link], state] += of_topic[state] * message[state] / drawn
            continue
        kept, whole = np.exp(-drift * days[link]), 0.0
        for state in range(states):
            later[state] = kept * message[state] + (1 - kept) * drawn
            whole += left[link - 1, state] * later[state]
        chance, most = (1 - kept) * drawn / whole, 0.0
        anew += chance
        for state in range(states):
            draws[topics[link], state] += chance * of_topic[state] * message[state] / drawn
            most = max(most, later[state])
        for state in range(states):
            later[state] /= most
    return anew
