"""How good lists of candidates are: accuracy over the full catalogue, and what is recommended at
all.

Lists are `ranked`, int32 [users, K], best first, 0 = no item. Accuracy is told user by user: one
without test window is NaN, an empty list counts 0, and the mean is the caller's (`nanmean`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from features.arrays import Flags, Float64, Int64, Ints

# Cells of the scratch table in which a slab of users looks up its test window: 16 MB, near the
# processor's cache.
_SLAB_CELLS = 2**24


@dataclass(frozen=True)
class RelevantItems:
    """What each user went on to watch: user u's items are `items[offsets[u]:offsets[u + 1]]`.

    `offsets` is [users + 1], `items` is [n]. Item 0 is one that the vocabulary has never seen: it
    can not be hit and counts as missed. An item that a user watched twice counts once.
    """

    offsets: Ints
    items: Ints

    def __post_init__(self) -> None:
        if self.offsets.ndim != 1 or self.items.ndim != 1 or self.offsets.size == 0:
            raise ValueError(
                "relevant items are two flat arrays: offsets [users + 1] and items [n]"
            )
        if (
            self.offsets[0] != 0
            or self.offsets[-1] != self.items.size
            or (np.diff(self.offsets) < 0).any()
        ):
            raise ValueError(
                f"their offsets must rise from 0 to the number of items, {self.items.size}"
            )
        if self.items.size and self.items.min() < 0:
            raise ValueError(f"relevant items are indexes >= 0, found {self.items.min()}")

    @property
    def users(self) -> int:
        """How many users the test window speaks of, those without a watch included."""
        return self.offsets.size - 1

    @cached_property
    def rows(self) -> Int64:
        """The user of each item, [n]."""
        return np.repeat(np.arange(self.users), np.diff(self.offsets))

    @cached_property
    def sizes(self) -> Int64:
        """How many different items each user watched, [users]; each unseen one (0) counts by
        itself.
        """
        known = self.items > 0
        stride = int(self.items.max(initial=0)) + 1
        pairs = np.sort(self.rows[known] * stride + self.items[known])
        different = pairs[_first_of_run(pairs)] // stride
        unseen = self.rows[~known]
        return np.bincount(different, minlength=self.users) + np.bincount(
            unseen, minlength=self.users
        )


def hits(ranked: Ints, relevant: RelevantItems) -> Flags:
    """Which places of each list hold an item the user went on to watch, [users, K].

    Index 0 never hits; an item listed twice hits once, at its better place.
    """
    if ranked.ndim != 2 or len(ranked) != relevant.users:
        raise ValueError(
            f"lists are [users, K] for the {relevant.users} users of the test window, found "
            f"{ranked.shape}"
        )
    found = np.zeros(ranked.shape, dtype=np.bool_)
    stride = int(max(relevant.items.max(initial=0), ranked.max(initial=0))) + 1
    slab = max(1, _SLAB_CELLS // stride)
    watched = np.zeros((min(slab, relevant.users), stride), dtype=np.bool_)
    for start in range(0, relevant.users, slab):
        _look_up(watched, start, ranked, relevant, found)
    return _without_repeats(found & (ranked > 0), ranked)


def accuracy(ks: Sequence[int], ranked: Ints, relevant: RelevantItems) -> dict[str, Float64]:
    """Hit rate, recall and NDCG at every k from one lookup: `{"hr@50": [users], "recall@50":
    [users], ..}`.

    `hr`: 1 where at least one of the first k items was watched; `recall`: the share of the user's
    watched items among them; `ndcg`: discounted gain, gains 0 or 1, over that of an ideal list,
    which has min(k, watched items) hits at its top, also where the list given is shorter than k.
    """
    hit = hits(_top(max(ks), ranked), relevant)
    found: dict[str, Flags | Float64] = {}
    for k in ks:
        first = hit[:, :k]
        found[f"hr@{k}"] = np.asarray(first.any(axis=1))
        found[f"recall@{k}"] = first.sum(axis=1) / np.maximum(relevant.sizes, 1)
        found[f"ndcg@{k}"] = _ndcg(k, first, relevant.sizes)
    return {name: np.where(relevant.sizes > 0, values, np.nan) for name, values in found.items()}


def places(ranked: Ints, relevant: RelevantItems) -> Int64:
    """At which place of its user's list each of the test window's items stands, 1 = first, 0 = not
    listed: [n].
    """
    stride = int(max(relevant.items.max(initial=0), ranked.max(initial=0))) + 1
    row, place = np.nonzero(hits(ranked, relevant))
    listed = row * stride + ranked[row, place]
    order = np.argsort(listed)
    found = np.append(listed[order], -1)
    asked = relevant.rows * stride + relevant.items
    at = np.searchsorted(found[:-1], asked)
    return np.where(found[at] == asked, np.append(place[order] + 1, 0)[at], 0)


def coverage(k: int, ranked: Ints, catalogue_size: int) -> float:
    """Share of the catalogue (items 1..catalogue_size) that is among the first k of at least one
    user.
    """
    return (
        float((_times_listed(k, ranked, catalogue_size) > 0).mean())
        if catalogue_size
        else float("nan")
    )


def gini(k: int, ranked: Ints, catalogue_size: int) -> float:
    """How unequally the catalogue's items share the places 1..k: 0 = all alike, near 1 = one has
    them all.

    Items that are never listed take part; NaN where nothing is listed.
    """
    listed = np.sort(_times_listed(k, ranked, catalogue_size))
    total = listed.sum()
    if total == 0:
        return float("nan")
    ranks = np.arange(1, catalogue_size + 1)
    return float(
        2 * (ranks * listed).sum() / (catalogue_size * total)
        - (catalogue_size + 1) / catalogue_size
    )


def mean_popularity(k: int, ranked: Ints, counts: npt.NDArray[np.integer | np.floating]) -> float:
    """Mean count of the items at the places 1..k of all lists; counts is [catalogue + 1] by item
    index.

    NaN where nothing is listed.
    """
    listed = _times_listed(k, ranked, len(counts) - 1)
    total = listed.sum()
    return float((listed * counts[1:]).sum() / total) if total else float("nan")


def listed_share(k: int, ranked: Ints, chosen: Flags) -> float:
    """Share of the filled places 1..k of all lists that hold a chosen item; chosen is [catalogue +
    1] by item index.

    NaN where nothing is listed.
    """
    return mean_popularity(k, ranked, chosen.astype(np.int64))


def _top(k: int, ranked: Ints) -> Ints:
    if k < 1:
        raise ValueError(
            f"k counts the places of a list that are evaluated and is at least 1, found {k}"
        )
    return ranked[:, :k]


def _look_up(
    watched: Flags, start: int, ranked: Ints, relevant: RelevantItems, found: Flags
) -> None:
    """Fill `found` for one slab of users from `start`; `watched` is all False before and after."""
    stop = min(start + len(watched), relevant.users)
    mine = slice(int(relevant.offsets[start]), int(relevant.offsets[stop]))
    cells = relevant.rows[mine] - start, relevant.items[mine]
    watched[cells] = True
    found[start:stop] = np.take_along_axis(
        watched[: stop - start], ranked[start:stop].astype(np.int64), axis=1
    )
    watched[cells] = False


def _without_repeats(hit: Flags, ranked: Ints) -> Flags:
    """`hit` without the worse places of items that are listed more than once."""
    row, place = np.nonzero(hit)
    pairs = row * (int(ranked.max(initial=0)) + 1) + ranked[row, place]
    order = np.argsort(pairs, kind="stable")
    again = order[~_first_of_run(pairs[order])]
    hit[row[again], place[again]] = False
    return hit


def _first_of_run(ordered: Ints) -> Flags:
    first: Flags = np.diff(ordered, prepend=-1) != 0
    return first


def _ndcg(k: int, hit: Flags, sizes: Ints) -> Float64:
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.append(0, np.cumsum(discounts))[np.minimum(sizes, k)]
    gain: Float64 = hit @ discounts[: hit.shape[1]] / np.maximum(ideal, 1)
    return gain


def _times_listed(k: int, ranked: Ints, catalogue_size: int) -> Int64:
    """How many of the first k places each item has, [catalogue_size], from item 1 on."""
    times = np.bincount(_top(k, ranked).ravel(), minlength=catalogue_size + 1)
    if times.size > catalogue_size + 1:
        raise ValueError(
            f"item {times.size - 1} is listed, but the catalogue ends at {catalogue_size}"
        )
    return times[1:]
