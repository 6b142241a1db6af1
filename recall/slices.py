"""Recall's accuracy slice by slice: for users by their activity, for what was watched by the item's
age and popularity.

A slice is a name and the users or items it holds; a slice that holds nothing that can be evaluated
is NaN.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from features.arrays import Flags, Float64, Ints
from recall.metrics import RelevantItems

Slices = Mapping[str, Flags]


def users_by_activity(watches: Ints) -> dict[str, Flags]:
    """Users by their completed watches before the lists' instant, [users] -> [users] each."""
    return {
        "users_with_0_watches": watches == 0,
        "users_with_1_to_9_watches": (watches > 0) & (watches < 10),
        "users_with_10_to_49_watches": (watches >= 10) & (watches < 50),
        "users_with_50_or_more_watches": watches >= 50,
    }


def items_by_age(days: Float64) -> dict[str, Flags]:
    """Items by their age in days at the lists' instant, [items] -> [items] each; 0 or less is in
    none.
    """
    return {
        "items_younger_than_1_day": (days > 0) & (days < 1),
        "items_of_1_to_7_days": (days >= 1) & (days < 7),
        "items_of_7_days_or_more": days >= 7,
    }


def items_by_popularity(watches: Ints | Float64, there: Flags) -> dict[str, Flags]:
    """Items by their completed watches before the lists' instant, [items] -> [items] each.

    From the most watched item down, the head is the items with the first third of all watches, the
    middle those with the second, the tail the rest that have any: an item belongs where the share
    of the watches of all *more* popular items falls, so equally popular items share a slice.
    Without a watch are those of the items that were `there`.
    """
    thirds = np.floor(3 * _watches_of_more_popular(watches) / max(watches.sum(), 1))
    watched = watches > 0
    return {
        "items_with_0_watches": there & ~watched,
        "items_of_the_tail": watched & (thirds == 2),
        "items_of_the_middle": watched & (thirds == 1),
        "items_of_the_head": watched & (thirds == 0),
    }


def sliced_means(values: Mapping[str, Float64], users: Slices) -> dict[str, float]:
    """The mean of each metric (`{"hr@50": [users]}`, NaN = nothing to evaluate) by slice:
    `{"hr@50/slice": mean}`.
    """
    return {
        f"{m}/{name}": _mean(of_user[chosen])
        for name, chosen in users.items()
        for m, of_user in values.items()
    }


def evaluation_users(relevant: RelevantItems, users: Slices) -> dict[str, int]:
    """How many users of each slice have relevant items to be evaluated on."""
    return {name: int((relevant.sizes[chosen] > 0).sum()) for name, chosen in users.items()}


def found_shares(ks: Sequence[int], listed_at: Ints, slices: Slices) -> dict[str, float]:
    """Share of each slice's watches that are among the first k of their user's list:
    `{"watches_found@50/slice": ..}`.

    `listed_at` is [watches] as `recall.metrics.places` gives it, slices are [watches]. Watches
    count, not users.
    """
    found = {k: ((listed_at > 0) & (listed_at <= k)).astype(np.float64) for k in ks}
    return {
        f"watches_found@{k}/{name}": _mean(found[k][of]) for k in ks for name, of in slices.items()
    }


def _watches_of_more_popular(watches: Ints | Float64) -> Float64:
    """All watches of the items that have more watches than this one, [items]."""
    ascending = np.sort(watches)
    upwards = np.append(np.cumsum(ascending[::-1], dtype=np.float64)[::-1], 0.0)
    more: Float64 = upwards[np.searchsorted(ascending, watches, side="right")]
    return more


def _mean(values: Float64) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
