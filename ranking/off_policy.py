"""What lists would have earned where the log was made: off-policy evaluation from logged
propensities.

*The estimand.* Seconds per impression when in one logged slot the policy picks the item and all
else stays as logged:

    V = mean over slots i of sum_a pi(a | slot i) E[seconds | user i, item a, instant i, position i]

pi is a stochastic item policy (`ranking.policies`): the softmax over the first K places of the
user's list, less what stands above on the page and what the user has clicked since. The slots are
the log's: its users as often as they came, its instants, its positions (their bias is in V, alike
for every policy evaluated on the same slots), its items above.

*What is not estimated*: a page or a session filled by the policy alone, what users do after it,
users who never came.

*What it needs.* The log's own chance of what it showed: marginal, over whatever mixture of ways
chose the item. Where the log could not show an item of the policy (new since, never offered), the
weights pi / propensity lack that part of pi: their mean, 1 in expectation, says how much is left.
SNIPS speaks of that part alone; doubly robust has the model's word for the rest.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from features.arrays import Float64
from ranking.metrics import bootstrapped_ratios, quantiles_or_nan
from ranking.policies import Logged, Policy, Slots, slots_of

Ids = npt.NDArray[np.generic]


class Estimate(NamedTuple):
    """Seconds per impression, and the ends of a nominal 95 % interval; all NaN where there is
    none.
    """

    value: float
    low: float
    high: float


NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Evaluation:
    """Estimates of a policy, the log's own seconds on the same slots, and what the estimates rest
    on.

    `snips` is sum w r / sum w (Swaminathan and Joachims 2015), `doubly_robust` the mean of
    `robust_terms`.

    `slots` are those with a list that had anything left to show. `refusal` says why there is no
    estimate, else None.
    """

    snips: Estimate
    doubly_robust: Estimate
    logged: Estimate
    slots: int
    effective_sample: float
    mean_weight: float
    refusal: str | None = None


class Advantage(NamedTuple):
    """By how many seconds per impression one policy is ahead of another, and the standard error of
    that.
    """

    value: float
    error: float


def advantage(policy: Policy, rival: Policy, logged: Logged) -> Advantage:
    """The doubly robust estimate of one policy less that of another, over the slots in which both
    had items to show.

    The error is over users, whose slots depend on one another; what moves both estimates alike is
    no part of it.
    """
    mine, theirs = slots_of(policy, logged), slots_of(rival, logged)
    rows = np.flatnonzero(mine.filled & theirs.filled)
    if not len(rows):
        return Advantage(float("nan"), float("nan"))
    surplus = (robust_terms(mine, logged.seconds) - robust_terms(theirs, logged.seconds))[rows]
    value = float(surplus.mean())
    sums = np.bincount(
        np.unique(logged.users[rows], return_inverse=True)[1], weights=surplus - value
    )
    return Advantage(value, float(np.sqrt(np.square(sums).sum())) / len(rows))


def evaluated(policy: Policy, logged: Logged, least: float, rng: np.random.Generator) -> Evaluation:
    """A policy's seconds per impression; refused, as NaN, where the effective sample is below
    `least`.
    """
    slots = slots_of(policy, logged)
    rows = np.flatnonzero(slots.filled)
    filled = Slots(**{field.name: getattr(slots, field.name)[rows] for field in fields(slots)})
    return _evaluated(filled, logged.take(rows), least, rng)


def _evaluated(slots: Slots, logged: Logged, least: float, rng: np.random.Generator) -> Evaluation:
    """The estimates on slots that are all filled."""
    users, weights, one = logged.users, slots.weights, np.ones(len(logged))
    sample, mean_weight = effective_sample(weights), _ratio(weights, one)
    own = estimate(users, logged.seconds, one, rng)
    if sample < least:
        why = _too_small(sample, least, len(logged))
        return Evaluation(NOTHING, NOTHING, own, len(logged), sample, mean_weight, why)
    by_weight = estimate(users, weights * logged.seconds, weights, rng)
    robust = estimate(users, robust_terms(slots, logged.seconds), one, rng)
    return Evaluation(by_weight, robust, own, len(logged), sample, mean_weight)


def effective_sample(weights: Float64) -> float:
    """(sum w)^2 / sum w^2: so many equally weighted slots would be as sure (Kish 1965). 0 without
    weight.
    """
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def robust_terms(slots: Slots, seconds: Float64) -> Float64:
    """sum_a pi(a) q(a) + w (r - q(logged)) of each slot [n] (Dudik, Langford and Li 2011).

    Their mean is right where the propensities or the model q are. q must be one and the same
    function of user and item in both places, so it is the model as of the lists' instant, not as of
    each impression's.
    """
    return slots.direct + slots.weights * (seconds - slots.expected)


def estimate(users: Ids, part: Float64, whole: Float64, rng: np.random.Generator) -> Estimate:
    """sum(part) / sum(whole) and a 95 % interval from bootstraps of users, whose rows depend on one
    another.

    The percentiles are expanded (Hesterberg 2015): Phi(-t) on either side, with Student's t for one
    degree of freedom less than users carry the variance. Plain percentiles cover too seldom where a
    few heavy weights decide.
    """
    value = _ratio(part, whole)
    freedom = max(carriers(users, part - value * whole) - 1, 1.0)
    outside = float(ndtr(-stdtrit(freedom, 0.975)))
    low, high = quantiles_or_nan(bootstrapped_ratios(users, part, whole, rng), outside, 1 - outside)
    return Estimate(value, low, high)


def carriers(users: Ids, surprises: Float64) -> float:
    """(sum s^2)^2 / sum s^4 over users' sums s of surprises [n]: how many users carry the variance.
    0 without any.
    """
    sums = np.bincount(np.unique(users, return_inverse=True)[1], weights=surprises)
    fourth = float((sums**4).sum())
    return float((sums**2).sum()) ** 2 / fourth if fourth else 0.0


def _too_small(sample: float, least: float, slots: int) -> str:
    return (
        f"the effective sample is {sample:.0f} of {slots:,} slots, needed are {least:g} "
        "(off_policy.least_effective_sample): the log seldom showed what the lists hold"
    )


def _ratio(part: Float64, whole: Float64) -> float:
    total = float(whole.sum())
    return float(part.sum()) / total if total else float("nan")
