"""Loops that numba compiles, over the events of a log and what is asked of it.

The home of numba in this package. A function is compiled when it is first called, once a process: all six take about
seven seconds. While one runs, other threads of Python run too.
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
NEAR = 1e-5


@numba.njit(nogil=True)
def seek(instants: Int64, starts: Int64, stops: Int64, moments: Int64, found: Int64) -> None:
    """Find where each moment [n] stands among the ascending instants from its start to its stop: past those before it.

    Written is the flat position `found` [n].
    """
    for row in range(len(moments)):
        low, high, moment = starts[row], stops[row], moments[row]
        while low < high:
            middle = (low + high) >> 1
            if instants[middle] < moment:
                low = middle + 1
            else:
                high = middle
        found[row] = low


@numba.njit(nogil=True, error_model="numpy")
def interpolate(
    columns: Float64, values: Float64, shares: Float64, starts: Int64, stops: Int64, between: npt.NDArray[np.float32]
) -> None:
    """Write `between` [n, m]: the shares of columns [m, n] by straight lines between the values of each column.

    A column's values, ascending, and their shares stand from its start to its stop. Beyond them the share is that of
    the nearest; NaN stays NaN, and so does every number of a column without values.
    """
    for column in range(len(columns)):
        start, last = starts[column], stops[column] - 1
        for row in range(columns.shape[1]):
            number = columns[column, row]
            if np.isnan(number) or last < start:
                between[row, column] = np.nan
            elif number <= values[start]:
                between[row, column] = shares[start]
            elif number >= values[last]:
                between[row, column] = shares[last]
            else:
                low, high = start, last
                while high - low > 1:
                    middle = (low + high) >> 1
                    if values[middle] <= number:
                        low = middle
                    else:
                        high = middle
                slope = (shares[high] - shares[low]) / (values[high] - values[low])
                between[row, column] = shares[low] + slope * (number - values[low])


@numba.njit(nogil=True, error_model="numpy")
def follow_slots(
    firsts: Bools,
    instants: Int64,
    topics: Int64,
    likelihoods: Float64,
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
) -> None:
    """Follow the tastes of users through their slots [n], by user and time.

    `likelihoods` [n, states] are the chances of what became of each slot, `same` that it repeats the topic before it,
    `steps` that taste chose it, `offered` that neither did, but its topic was there. Written are the belief that each
    slot `left` of its topic [n, states], the user's clock before it, and the sum of pulls at it, [n] each. Topics are
    0, 1, ..., -1 for none. Those a user has not been shown yet are followed as one, with the mean prior.
    """
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
            _pass(unseen, mean_prior, pulls, drift, (now - unseen_instant) / A_DAY, clock - unseen_clock, came)
            unseen_clock, unseen_instant = clock, now
            of_unseen = _product(unseen, pulls)
            total = (topics_in_all - count) * of_unseen
            for place in range(count):
                topic = seen[place]
                days, passed = (now - at_instant[topic]) / A_DAY, clock - at_clock[topic]
                _pass(beliefs[topic], prior[topic], pulls, drift, days, passed, came)
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
            _pass(belief, prior[topic], pulls, drift, (now - start) / A_DAY, clock, came)
            before = of_unseen
        else:
            _copy(beliefs[topic], belief)
            days, passed = (now - at_instant[topic]) / A_DAY, clock - at_clock[topic]
            _pass(belief, prior[topic], pulls, drift, days, passed, came)
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
def bring_forward(
    beliefs: Float64, topics: Int64, prior: Float64, pulls: Float64, drift: float, days: Float64, passed: Float64
) -> None:
    """Bring beliefs [n, states] in topics [n] forward in place, by so many days and so much of the user's clock."""
    came = np.empty(len(pulls))
    for row in range(len(topics)):
        _pass(beliefs[row], prior[topics[row]], pulls, drift, days[row], passed[row], came)


@numba.njit(nogil=True, error_model="numpy")
def _pass(
    belief: Float64, prior: Float64, pulls: Float64, drift: float, days: float, passed: float, came: Float64
) -> None:
    """Bring one belief forward in place: kept, or drawn anew once, at any time of the interval.

    A clock that passes without a slot speaks against a pull, before that time the old one and after it the new one.
    `came` [states] is room to work in.
    """
    kept, whole, states = np.exp(-drift * days), 0.0, len(belief)
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
def filter_chains(
    firsts: Bools,
    days: Float64,
    passed: Float64,
    likelihoods: Float64,
    topics: Int64,
    prior: Float64,
    pulls: Float64,
    drift: float,
    left: Float64,
) -> None:
    """Write the belief that each link of many chains left, [n, states]: one chain a user and topic, end to end.

    `days` and `passed` (of the user's clock) lie between a link and the one before it, or the user's first slot.
    """
    belief, came = np.empty(len(pulls)), np.empty(len(pulls))
    for link in range(len(firsts)):
        if firsts[link]:
            _copy(prior[topics[link]], belief)
        _pass(belief, prior[topics[link]], pulls, drift, days[link], passed[link], came)
        whole = _product(belief, likelihoods[link])
        for state in range(len(pulls)):
            belief[state] *= likelihoods[link, state] / whole
        _copy(belief, left[link])


@numba.njit(nogil=True, error_model="numpy")
def smooth_chains(
    firsts: Bools,
    days: Float64,
    passed: Float64,
    likelihoods: Float64,
    topics: Int64,
    prior: Float64,
    pulls: Float64,
    drift: float,
    left: Float64,
    smoothed: Float64,
    draws: Float64,
    spent: Float64,
) -> float:
    """Write what the whole chain says of each link's state, [n, states], from what `filter_chains` left.

    Adds to `draws` [topics, states] how often each state was drawn, at first or anew, and to `spent` [states] how much
    of the users' clocks passed in it; returns how often a state was drawn anew.
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
