"""What would be watched longest: items by expected watch seconds, where the log says what was shown
and not clicked.

The other generators go by what users watch next, and what is watched was shown before. This one
asks how long an item would be watched if it were shown: a weighted logistic regression (paper,
section 4.2; the odds are E[T]) on what the log tells of the item, and of the user with its channel
and its topic. It is a sum of parts, the item's once for all users and the user's once a channel or
topic, so that whole catalogues are scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.arrays import Flags, Float32, Float64, Int32, Intp
from features.asof_catalogue import FEATURES, agreements
from features.asof_features import AsOfFeatures
from features.asof_log import AsOfRows
from recall.candidates import first
from recall.generators.base import Columns, Log, Named, Requests, Snapshot

Numbers = Mapping[str, Float64]

OF_ITEMS = (
    *("item_seconds_per_impression", "item_shown", "item_seconds_per_click", "item_click_rate"),
    *(
        "item_click_log_ratio",
        "item_seconds_log_ratio",
        "item_age_hours",
        "item_duration_seconds",
        "item_completion",
    ),
    *("channel_seconds_per_impression", "topic_seconds_per_impression"),
)
OF_PAIRS = {
    "channel": (
        *(
            "user_channel_seconds_per_impression",
            "user_channel_shown",
            "user_channel_click_log_ratio",
        ),
        *("user_channel_seconds_log_ratio", "user_channel_exposure_log_ratio"),
    ),
    "topic": (
        *("user_topic_seconds_per_impression", "user_topic_shown", "user_topic_click_log_ratio"),
        *("user_topic_seconds_log_ratio", "user_topic_exposure_log_ratio"),
    ),
}
# It is fitted on the newest impressions: what was known by then is as much as what is known at
# serving.
ROWS, FEWEST_CLICKS = 100_000, 50
# No more than these items are scored for each user: the best by their own part.
POOL, USERS_A_SHARD = 5_000, 256
CAP_QUANTILE, SMALLEST = 0.99, 1e-3
PENALTY = 1e-4
# Newton's steps at most, halvings of one, the relative gain that ends them, and what keeps a column
# that is alike in all rows from having no curvature.
STEPS, HALVINGS, ENOUGH, SMALLEST_CURVATURE = 50, 10, 1e-9, 1e-9


@dataclass(frozen=True)
class Odds:
    """log E[T] as a sum over columns of a z + b z^2, z the standardised column, 0 where unknown:
    [columns] each.
    """

    names: tuple[str, ...]
    mean: Float64
    spread: Float64
    first: Float64
    second: Float64
    bias: float

    def part(self, numbers: Numbers) -> Float32:
        """What the columns at hand add, [n]; those that the model does not read add nothing."""
        total = np.zeros(len(next(iter(numbers.values()), ())), np.float32)
        for place, name in enumerate(self.names):
            if name in numbers:
                z = _standard(numbers[name], self.mean[place], self.spread[place])
                total += ((self.second[place] * z + self.first[place]) * z).astype(np.float32)
        return total


NO_ODDS = Odds((), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), 0.0)


def fit_odds(numbers: Numbers, seconds: Float64) -> Odds:
    """The model of rows [n]: label T / (1 + T), weight 1 + T, whose odds are E[T]; a small ridge,
    no randomness.
    """
    names = tuple(numbers)
    columns = [numbers[name] for name in names]
    mean = np.array([np.nanmean(x) if not np.isnan(x).all() else 0.0 for x in columns])
    spread = np.array([max(np.nanstd(x), 1e-6) if not np.isnan(x).all() else 1.0 for x in columns])
    z = np.stack(
        [_standard(x, m, s) for x, m, s in zip(columns, mean, spread, strict=True)], axis=1
    )
    matrix = np.concatenate([z, z**2, np.ones((len(z), 1))], axis=1).astype(np.float32)
    weights = _minimum(matrix, seconds / (1 + seconds), (1 + seconds) / (1 + seconds).mean())
    a, b = weights[: len(names)], weights[len(names) : -1]
    return Odds(names, mean, spread, a, b, float(weights[-1]))


def _standard(x: Float64, mean: float, spread: float) -> Float64:
    """The column over its spread, 0 where unknown; beyond five spreads it is not believed."""
    return np.where(np.isnan(x), 0.0, np.clip((x - mean) / spread, -5, 5))


def _minimum(matrix: Float32, labels: Float64, weights: Float64) -> Float64:
    """Coefficients of least mean weighted cross-entropy plus the ridge, which leaves the last, the
    bias, alone: by Newton's method, a step being halved until it helps.
    """
    rows, ridge = len(matrix), np.append(np.full(matrix.shape[1] - 1, PENALTY), 0.0)

    def logits_of(w: Float64) -> Float64:
        return (matrix @ w.astype(np.float32)).astype(np.float64)

    def loss(w: Float64, logits: Float64) -> float:
        entropy = np.logaddexp(0, logits) - labels * logits
        return float(np.mean(weights * entropy) + ridge @ w**2 / 2)

    found = np.zeros(matrix.shape[1])
    logits = logits_of(found)
    value = loss(found, logits)
    for _ in range(STEPS):
        chances = 1 / (1 + np.exp(-logits))
        surplus = weights * (chances - labels)
        gradient = (surplus.astype(np.float32) @ matrix).astype(np.float64) / rows + ridge * found
        root = (
            np.sqrt(weights * chances * (1 - chances) / rows).astype(np.float32)[:, None] * matrix
        )
        curvature = (root.T @ root).astype(np.float64) + np.diag(ridge + SMALLEST_CURVATURE)
        step = np.linalg.solve(curvature, gradient)
        for halvings in range(HALVINGS):
            ahead = found - step / 2**halvings
            logits_ahead = logits_of(ahead)
            value_ahead = loss(ahead, logits_ahead)
            if value_ahead < value:
                break
        gained = value - value_ahead
        if gained <= 0:
            break
        found, logits, value = ahead, logits_ahead, value_ahead
        if gained < ENOUGH * abs(value):
            break
    return found


@dataclass(frozen=True)
class ExpectedWatch:
    """The generator as of an instant: `items` int32 [m], ascending, and log E[T] of each apart from
    any user, [m].
    """

    features: AsOfFeatures
    as_of: int
    odds: Odds
    items: Int32
    of_items: Float32

    def answer(self, requests: Requests) -> "ExpectedWatchAnswer":
        return ExpectedWatchAnswer(self, requests)

    def logits(self, users: Int32) -> Float32:
        """log E[T] of all items for users [n]: [n, m]."""
        scores = np.tile(self.of_items, (len(users), 1))
        for group in _groups(self.features):
            codes, place = np.unique(
                self.features.log.group_codes[group][self.items], return_inverse=True
            )
            scores += self._of_group(group, users, codes)[:, place]
        return scores + self._of_matches(users)

    def _of_group(self, group: str, users: Int32, codes: Int32) -> Float32:
        """What users [n] with codes [c] of a group of items add, [n, c]."""
        pairs = np.repeat(users, len(codes)), np.tile(codes, len(users))
        rows = self.features.log.rows_of_groups(group, *pairs, self.as_of)
        return self.odds.part(_evened(self.features, OF_PAIRS[group], rows)).reshape(
            len(users), len(codes)
        )

    def _of_matches(self, users: Int32) -> Float32:
        """What it adds that user and item agree, as in the language, [n, m]."""
        pairs = np.repeat(users, len(self.items)), np.tile(self.items, len(users))
        matches = agreements(self.features.log.rows(*pairs, self.as_of))
        shape = (len(users), len(self.items))
        return self.odds.part(matches).reshape(shape) if matches else np.zeros(shape, np.float32)


@dataclass(frozen=True)
class ExpectedWatchAnswer:
    generator: ExpectedWatch
    requests: Requests

    @cached_property
    def _logits(self) -> Float32:
        users = self.requests.users
        shards = [
            self.generator.logits(users[at : at + USERS_A_SHARD])
            for at in range(0, len(users), USERS_A_SHARD)
        ]
        return (
            np.concatenate(shards)
            if shards
            else np.zeros((0, len(self.generator.items)), np.float32)
        )

    def named(self, k: int) -> Named:
        """The best k by expected seconds, which are the scores."""
        logits, seen = self._logits, self.requests.seen
        wanted = min(k + int(seen.counts.max(initial=0)), logits.shape[1])
        some = (
            np.argpartition(-logits, max(wanted - 1, 0), axis=1)[:, :wanted]
            if wanted
            else np.zeros_like(logits, int)
        )
        scores = np.take_along_axis(logits, some, axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")
        offered, scores = (
            self.generator.items[np.take_along_axis(some, order, axis=1)],
            np.take_along_axis(scores, order, 1),
        )
        fresh = ~seen.holds(np.arange(len(offered))[:, None], offered)
        items, best = first(fresh, offered, scores, k)
        return Named(items, np.where(items > 0, np.exp(best), 0).astype(np.float32))

    def columns(self, rows: Intp, items: Int32) -> Columns:
        """log E[T] less its mean over the user's pool, over its spread; what is not in the pool
        stands at -1.
        """
        logits, pool = self._logits, self.generator.items
        if not len(pool):
            return {"expected_watch": np.full(len(items), -1, np.float32)}
        at = np.minimum(np.searchsorted(pool, items), len(pool) - 1)
        mean, spread = logits.mean(axis=1), np.maximum(logits.std(axis=1), 1e-6)
        z = (logits[rows, at] - mean[rows]) / spread[rows]
        return {"expected_watch": np.where(pool[at] == items, z, -1).astype(np.float32)}


def fit_expected_watch(features: AsOfFeatures, catalogue: Flags, as_of: int) -> ExpectedWatch:
    """The generator as of an instant: fitted on the newest impressions before it, each as of its
    own instant.

    `catalogue` flags over the items that existed by then say which may be named. With too few
    clicks, everything is alike and it names nothing.
    """
    numbers, seconds = _training_rows(features, as_of)
    some = np.flatnonzero(catalogue).astype(np.int32)
    if np.count_nonzero(seconds) < FEWEST_CLICKS:
        return ExpectedWatch(features, as_of, NO_ODDS, some[:0], np.zeros(0, np.float32))
    odds = fit_odds(numbers, np.minimum(seconds, np.quantile(seconds[seconds > 0], CAP_QUANTILE)))
    alone = odds.part(
        _evened(features, OF_ITEMS, features.log.rows_of_items(some, as_of))
    ) + np.float32(odds.bias)
    best = np.sort(np.argsort(-alone, kind="stable")[:POOL])
    return ExpectedWatch(features, as_of, odds, some[best], alone[best])


def _training_rows(features: AsOfFeatures, as_of: int) -> tuple[Numbers, Float64]:
    """Columns and T of the newest impressions before an instant; clicks of unknown seconds are left
    out.
    """
    known = features.log.events.known_before(as_of)
    timed = np.flatnonzero(~np.isnan(known.seconds))
    newest = known.take(timed[np.argsort(known.timestamps_us[timed], kind="stable")[-ROWS:]])
    rows = features.log.rows(newest.users, newest.items, newest.requests_us)
    numbers = _evened(features, OF_ITEMS, rows) | dict(agreements(rows))
    for group in _groups(features):
        numbers |= _evened(features, OF_PAIRS[group], rows)
    return numbers, newest.seconds


def _groups(features: AsOfFeatures) -> Sequence[str]:
    return [group for group in OF_PAIRS if group in features.log.group_codes]


def _evened(features: AsOfFeatures, names: Sequence[str], rows: AsOfRows) -> dict[str, Float64]:
    """Columns of rows [n] by name: rates, seconds and lengths as logarithms; counts and ratios are
    ones already.
    """
    found = features.columns(names, rows)
    return {name: _logarithm(FEATURES[name].unit, found[name]) for name in found}


def _logarithm(unit: str, values: Float64) -> Float64:
    if unit in ("log count", "log ratio"):
        return values
    return np.log1p(values) if unit == "hours" else np.log(np.maximum(values, SMALLEST))


def build(snapshot: Snapshot) -> ExpectedWatch:
    """The generator as of a snapshot; ValueError where `missing` gives a reason."""
    if snapshot.log.features is None:
        raise ValueError(missing(snapshot.log))
    return fit_expected_watch(snapshot.log.features, snapshot.catalogue, snapshot.as_of)


def missing(log: Log) -> str | None:
    """Why a log cannot give it."""
    return None if log.features else "the log does not say what was shown and not clicked"
