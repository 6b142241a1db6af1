"""What the funnel as a whole is for: how much of what people went on to watch was in their
lists.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from features.arrays import Float64, Int32, Ints
from features.dataset import Dataset
from features.impressions import Impressions
from ranking.examples import target_seconds
from ranking.list_order import Gains
from recall.generators.popular import counts_by_span, popular_lists_by_span
from recall.metrics import RelevantItems, accuracy, hits


def evaluate_lists(
    dataset: Dataset, users: Int32, lists: Mapping[str, Int32], k: int = 10
) -> pd.DataFrame:
    """How much of what users [n], ascending, went on to watch is among the first k of their lists
    [n, m], beside popularity: a row for each of the named lists.

    `watch_seconds_share` is of the clicks' seconds, `hr` and `ndcg` are of completed watches.
    Popularity is over the span that serves the test window best: no straw man.
    """
    test, split = dataset.test, dataset.split
    clicks, rows = relevant_of(users, test.take(test.clicked))
    watches, _ = relevant_of(users, test.take(test.completed))
    seconds = target_seconds(rows, dataset.training, dataset.unit)

    def evaluated(items: Int32) -> dict[str, float]:
        found = accuracy([k], items, watches)
        share = watch_seconds_share_at(k, items, clicks, seconds)
        means = {name: float(np.nanmean(found[name])) for name in (f"hr@{k}", f"ndcg@{k}")}
        return {f"watch_seconds_share@{k}": share} | means

    as_of, timed = split.test_start, split.clock == "time"
    counts = counts_by_span(dataset.watches, dataset.items.size_as_of(as_of), as_of, timed)
    by_span = popular_lists_by_span(counts, users, dataset.clicks, as_of, k).values()
    popular = max(map(evaluated, by_span), key=lambda row: row[f"watch_seconds_share@{k}"])
    rows_by_name = {name: evaluated(items) for name, items in lists.items()}
    return pd.DataFrame.from_dict(rows_by_name | {"popularity": popular}, orient="index")


def relevant_of(users: Int32, shown: Impressions) -> tuple[RelevantItems, Impressions]:
    """Impressions as relevant items of users [n], ascending, repeats included, and the impressions
    that these are, in their order.
    """
    theirs = shown.take(np.isin(shown.users, users))
    rows = theirs.take(np.argsort(theirs.users, kind="stable"))
    offsets = np.searchsorted(rows.users, np.append(users, np.iinfo(np.int32).max))
    return RelevantItems(offsets.astype(np.int64), rows.items), rows


def watch_seconds_share_at(
    k: int, ranked: Ints, relevant: RelevantItems, seconds: Float64
) -> float:
    """Logged test window seconds on items among the first k of the user's list / all logged test
    window seconds.

    `ranked` is int32 [users, K], best first, 0 = no item; `seconds` is [n], aligned with the test
    window's items. A watch of an unseen item (0) is one the list missed. NaN where the test window
    has no seconds.
    """
    total = seconds.sum(dtype=np.float64)
    # Two sums of the same seconds in another order may differ in the last bit.
    return (
        min(float(listed_seconds_at(k, ranked, relevant, seconds).sum() / total), 1.0)
        if total
        else float("nan")
    )


def listed_seconds_at(k: int, ranked: Ints, relevant: RelevantItems, seconds: Float64) -> Float64:
    """Each user's logged test window seconds on the first k items of the list, [users]; 0 without
    test window.
    """
    held = _held_seconds_at(k, ranked, relevant, seconds)
    return np.bincount(relevant.rows, weights=held, minlength=relevant.users).astype(np.float64)


def gains_of(
    lengths: Sequence[int], ranked: Ints, relevant: RelevantItems, seconds: Float64
) -> Gains:
    """What lists [users, K] hold of what their users went on to watch, at some lengths."""
    held = {k: _held_seconds_at(k, ranked, relevant, seconds) for k in lengths}
    return Gains(relevant.rows, relevant.items, held)


def _held_seconds_at(k: int, ranked: Ints, relevant: RelevantItems, seconds: Float64) -> Float64:
    """The seconds of each watch whose item is among the first k of its user's list, else 0, [n]."""
    _check(k, relevant, seconds)
    stride = int(relevant.items.max(initial=0)) + 1
    user, place = np.nonzero(hits(ranked[:, :k], relevant))
    listed = np.isin(relevant.rows * stride + relevant.items, user * stride + ranked[user, place])
    return np.where(listed, seconds, 0)


def ratio_error(parts: Float64, wholes: Float64) -> float:
    """Standard error over users of sum(parts) / sum(wholes), both [users], to first order."""
    residuals = parts - parts.sum() / wholes.sum() * wholes
    return float(np.sqrt(np.square(residuals).sum()) / wholes.sum())


def _check(k: int, relevant: RelevantItems, seconds: Float64) -> None:
    if k < 1:
        raise ValueError(
            f"k counts the places of a list that are evaluated and is at least 1, found {k}"
        )
    if seconds.shape != relevant.items.shape:
        raise ValueError(
            f"seconds must be one for each of {relevant.items.size} watches, found {seconds.shape}"
        )
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise ValueError(
            "seconds must be known and >= 0; fill the null ones before they are summed"
        )
