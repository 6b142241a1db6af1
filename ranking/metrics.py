"""How well impressions are scored and ordered: by click, by watch seconds, and how true the seconds
are.

All arguments are aligned by impression, [n]: the truth (`users`, `clicked`, `seconds`) first,
`predicted` last, the higher the better. No figure depends on the order of the rows. Where there is
nothing to measure (no rows, one class only, no seconds at all) it is NaN.

Slices (`by_duration`, ...) are names and the impressions [n] they hold; every impression lies in
one slice of a kind, or in none where the log cannot say.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.arrays import Flags, Float64, Int64

Numbers = npt.NDArray[np.integer | np.floating]
Ids = npt.NDArray[np.generic]


# Bootstraps whose weights, one a user, are in memory at once.
DRAWS_AT_ONCE = 20


class Xauc(NamedTuple):
    """Share of pairs of impressions, of unequal seconds, that the prediction puts in the right
    order.

    A pair with equal predictions is wrong in `strict` and half right in `half_credit`;
    `tie_fraction` is the share of such pairs.
    """

    strict: float
    half_credit: float
    tie_fraction: float


def auc(clicked: Flags, predicted: Numbers) -> float:
    """Chance that a clicked impression is scored above an unclicked one, ties half."""
    everyone = np.zeros(len(clicked), dtype=np.int8)
    return _mean(share_of_unclicked_below(everyone, clicked, predicted)[clicked])


def gauc_by_clicks(users: Ids, clicked: Flags, predicted: Numbers) -> float:
    """Mean AUC of the users who have both classes, each weighing its clicked impressions."""
    below = share_of_unclicked_below(users, clicked, predicted)[clicked]
    return _mean(below[~np.isnan(below)])


def gauc_by_rows(users: Ids, clicked: Flags, predicted: Numbers) -> float:
    """Mean AUC of the users who have both classes, each weighing its impressions."""
    codes = np.unique(users, return_inverse=True)[1]
    below = share_of_unclicked_below(users, clicked, predicted)
    rows, clicks = np.bincount(codes), np.bincount(codes, weights=clicked)
    both = (clicks > 0) & (clicks < rows)
    sums = np.bincount(codes[clicked], weights=below[clicked], minlength=len(rows))
    return _ratio((rows[both] * sums[both] / clicks[both]).sum(), rows[both].sum())


def weighted_user_loss(users: Ids, clicked: Flags, seconds: Numbers, predicted: Numbers) -> float:
    """Share of watch seconds ordered below an unclicked impression of the same user (paper, section
    4.3).

    sum_i T_i mean_j([s_j > s_i] + .5 [s_j = s_i]) / sum_i T_i over clicked i and unclicked j of
    users with both; 0 is perfect, .5 is chance. The paper pairs within a page, this within all rows
    given.
    """
    _check(users, seconds)
    below = share_of_unclicked_below(users, clicked, predicted)
    evaluation = clicked & ~np.isnan(below)
    return _ratio((seconds[evaluation] * (1 - below[evaluation])).sum(), seconds[evaluation].sum())


def share_of_unclicked_below(users: Ids, clicked: Flags, predicted: Numbers) -> Float64:
    """Share of the same user's unclicked impressions scored lower, ties half, [n]; NaN where there
    is none.
    """
    _check(users, clicked, predicted)
    if clicked.dtype != np.bool_:
        raise ValueError(f"clicked must be True or False, found {clicked.dtype}")
    order = np.lexsort((predicted, users))
    unclicked_before = np.append(0, np.cumsum(~clicked[order]))
    user_start, user_stop = _runs(_changes(users[order]))
    tie_start, tie_stop = _runs(_changes(users[order]) | _changes(predicted[order]))
    lower = (unclicked_before[tie_start] + unclicked_before[tie_stop]) / 2 - unclicked_before[
        user_start
    ]
    all_of_user = unclicked_before[user_stop] - unclicked_before[user_start]
    share = np.full(len(order), np.nan)
    share[order] = _quotients(lower, all_of_user)
    return share


def xauc(seconds: Numbers, predicted: Numbers) -> Xauc:
    """Order of watch seconds over all pairs of impressions with unequal seconds, exact, O(n log
    n).
    """
    _check(seconds, predicted)
    order = np.lexsort((predicted, seconds))
    # Equal seconds lie in rising prediction, so an inversion is a pair of unequal seconds in the
    # wrong order.
    wrong = inversions(predicted[order])
    pairs = len(seconds) * (len(seconds) - 1) // 2 - _equal_pairs(_changes(seconds[order]))
    equal_in_both = _equal_pairs(_changes(seconds[order]) | _changes(predicted[order]))
    tied = _equal_pairs(_changes(np.sort(predicted))) - equal_in_both
    right = pairs - wrong - tied
    return Xauc(_ratio(right, pairs), _ratio(right + tied / 2, pairs), _ratio(tied, pairs))


def inversions(values: Numbers) -> int:
    """How many pairs i < j have values[i] > values[j]."""
    bits = max(len(values) - 1, 0).bit_length()
    ranks = np.arange(2**bits)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    total = 0
    # Ranks are a permutation, so those that share their higher bits fill one block each; a block is
    # split, in order, into the ranks whose bit is 0 and those whose bit is 1. Each 1 before a 0 is
    # one inversion.
    for bit in reversed(range(bits)):
        half, blocks = 2**bit, 2 ** (bits - bit - 1)
        ones = (ranks & half) > 0
        ones_of_earlier_blocks = half * half * (blocks * (blocks - 1) // 2)
        total += int(np.cumsum(ones)[~ones].sum()) - ones_of_earlier_blocks
        ranks = np.stack(
            [ranks[~ones].reshape(blocks, half), ranks[ones].reshape(blocks, half)], axis=1
        ).ravel()
    return total


def ndcg_of_seconds(k: int, users: Ids, seconds: Numbers, predicted: Numbers) -> Float64:
    """Discounted watch seconds at the first k places over the best possible, [users], in order of
    user.

    Impressions with equal predictions share their places. NaN for a user without any seconds.
    """
    _check(users, seconds, predicted)
    ours, best = _discounted(k, users, seconds, predicted), _discounted(k, users, seconds, seconds)
    return _quotients(ours, best)


def mae(seconds: Numbers, predicted: Numbers) -> float:
    """Mean absolute error in seconds."""
    _check(seconds, predicted)
    return _mean(np.abs(predicted - seconds))


def calibration_ratio(seconds: Numbers, predicted: Numbers) -> float:
    """Predicted seconds over true seconds, in total: 1 is calibrated, above 1 promises too much."""
    _check(seconds, predicted)
    return _ratio(predicted.sum(dtype=np.float64), seconds.sum(dtype=np.float64))


def calibration_interval(
    users: Ids, seconds: Numbers, predicted: Numbers, rng: np.random.Generator, draws: int = 1_000
) -> tuple[float, float]:
    """The middle 95 % of the calibration ratio when users are drawn with replacement. NaN without
    seconds.
    """
    low, high = quantiles_or_nan(
        bootstrapped_ratios(users, predicted, seconds, rng, draws), 0.025, 0.975
    )
    return low, high


def bootstrapped_ratios(
    users: Ids, part: Numbers, whole: Numbers, rng: np.random.Generator, draws: int = 1_000
) -> Float64:
    """sum(part) / sum(whole) when users are drawn with replacement, all their rows with them:
    [draws].

    Each user counts as often as a Poisson number of mean 1 says (Chamandy et al. 2012). NaN where
    `whole` came to 0.
    """
    _check(users, whole, part)
    code = np.unique(users, return_inverse=True)[1]
    sums = np.stack([np.bincount(code, weights=values) for values in (part, whole)], axis=1)
    ratios = np.empty(draws)
    for at in range(0, draws, DRAWS_AT_ONCE):
        times = rng.poisson(1, (min(DRAWS_AT_ONCE, draws - at), len(sums)))
        totals = times @ sums
        ratios[at : at + len(times)] = _quotients(totals[:, 0], totals[:, 1])
    return ratios


def quantiles_or_nan(values: Float64, *shares: float) -> tuple[float, ...]:
    """Quantiles of what is not NaN; NaN where nothing is left."""
    known = values[~np.isnan(values)]
    return (
        tuple(map(float, np.quantile(known, shares)))
        if known.size
        else (float("nan"),) * len(shares)
    )


def quantile_buckets(values: Numbers, buckets: int) -> Int64:
    """Which of `buckets` equally full buckets each value falls in, 0 the lowest, [n]; equal ones
    stay together.
    """
    _check(values)
    lower: Int64 = np.searchsorted(np.sort(values), values)
    return lower * buckets // max(len(values), 1)


def by_bucket(bucket: Ids, seconds: Numbers, predicted: Numbers) -> pd.DataFrame:
    """Calibration by bucket, of duration or of prediction: one row for each bucket that occurs, in
    order.

    Columns: bucket, rows, seconds and predicted (means), calibration_ratio (null without seconds),
    mae.
    """
    _check(bucket, seconds, predicted)
    rows = pd.DataFrame({"bucket": bucket, "seconds": seconds, "predicted": predicted})
    rows["mae"] = (rows["predicted"] - rows["seconds"]).abs()
    groups = rows.groupby("bucket")
    table = groups.mean()
    table.insert(0, "rows", groups.size())
    table.insert(
        3, "calibration_ratio", table["predicted"] / table["seconds"].where(table["seconds"] > 0)
    )
    return table.reset_index()


def by_duration(seconds: Float64) -> dict[str, Flags]:
    """By the item's length in seconds, NaN unknown."""
    return {
        "duration_unknown": np.isnan(seconds),
        "duration_under_10": seconds < 10,
        "duration_10_to_20": (seconds >= 10) & (seconds < 20),
        "duration_20_to_60": (seconds >= 20) & (seconds < 60),
        "duration_over_60": seconds >= 60,
    }


def by_user_clicks(clicks: Float64) -> dict[str, Flags]:
    """By the user's clicks before the impression."""
    return {
        "users_with_0_clicks": clicks == 0,
        "users_with_1_to_9_clicks": (clicks > 0) & (clicks < 10),
        "users_with_10_to_49_clicks": (clicks >= 10) & (clicks < 50),
        "users_with_50_or_more_clicks": clicks >= 50,
    }


def by_item_age(hours: Float64) -> dict[str, Flags]:
    """By the hours since the item was published, NaN unknown."""
    return {
        "items_younger_than_1_day": hours < 24,
        "items_of_1_to_7_days": (hours >= 24) & (hours < 7 * 24),
        "items_of_7_days_or_more": hours >= 7 * 24,
    }


def _discounted(k: int, users: Ids, seconds: Numbers, scores: Numbers) -> Float64:
    """Sum of seconds x 1 / log2(1 + place) over each user's first k places by falling score,
    [users].
    """
    order = np.lexsort((-scores.astype(np.float64), users))
    start, _ = _runs(_changes(users[order]))
    place = np.arange(len(order)) - start
    discount = np.where(place < k, 1 / np.log2(place + 2), 0)
    tie_start, tie_stop = _runs(_changes(users[order]) | _changes(scores[order]))
    before = np.append(0, np.cumsum(discount))
    shared = (before[tie_stop] - before[tie_start]) / (tie_stop - tie_start)
    user = np.cumsum(_changes(users[order])) - 1
    return np.bincount(user, weights=shared * seconds[order]).astype(np.float64)


def _changes(ordered: Ids) -> Flags:
    """True where a value differs from the one before it, and at the first, [n]."""
    first: Flags = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    return first


def _runs(first: Flags) -> tuple[Int64, Int64]:
    """Where the run that each row belongs to starts, and where it stops (exclusive), [n] each."""
    bounds = np.append(np.flatnonzero(first), len(first))
    run = np.cumsum(first) - 1
    return bounds[run], bounds[run + 1]


def _equal_pairs(first: Flags) -> int:
    lengths = np.diff(np.append(np.flatnonzero(first), len(first)))
    return int((lengths * (lengths - 1) // 2).sum())


def _check(*columns: Ids) -> None:
    """Refuse columns of unequal length, and null or infinite numbers: they would be sorted as
    large.
    """
    if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
        raise ValueError(
            f"columns must be flat and equally long, found {[column.shape for column in columns]}"
        )
    for column in columns:
        if np.issubdtype(column.dtype, np.floating) and not np.isfinite(column).all():
            raise ValueError(
                f"metrics need finite numbers, found {(~np.isfinite(column)).sum()} null or "
                "infinite"
            )


def _mean(values: Numbers) -> float:
    return _ratio(values.sum(dtype=np.float64), values.size)


def _quotients(parts: Numbers, wholes: Numbers) -> Float64:
    quotients: Float64 = np.divide(
        parts, wholes, out=np.full(len(wholes), np.nan), where=wholes > 0
    )
    return quotients


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
