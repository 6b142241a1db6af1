"""The last, small step: from the ranker's first places to a list that is varied and allowed.

One greedy walk over the places of the list, all users of a shard at once: at each place the item of
highest gain that is still allowed, by maximal marginal relevance (Carbonell and Goldstein 1998): (1
- s) relevance - s max similarity to what was taken. Relevance is the exponent of an item's score
over that of the user's best (in the paper's order: its expected seconds over theirs), so that gains
compare between users; similarity is the cosine of recall's item vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from features.arrays import Flags, Float32, Int32, Int64
from features.timeline import pair_keys
from ranking.config import ReRankConfig
from ranking.recommend import Ordered, shards


@dataclass(frozen=True)
class CatalogueSnapshot:
    """What re-ranking knows of items by index: unit `vectors` [items, dim], `channels` [items] (0
    none), and the keys of `excluded` pairs of user and item, ascending; user 0 stands for
    everybody.
    """

    vectors: Float32
    channels: Int32
    excluded: Int64


def re_ranked(
    lists: Ordered, catalogue: CatalogueSnapshot, config: ReRankConfig, top_k: int
) -> Ordered:
    """The list of each user, [n, top_k], out of ordered lists [n, m]; 0 where nothing allowed is
    left.

    With every switch off these are the first places. A cap that the pool cannot meet is met as far
    as it can be, so that a list is never shorter than what is allowed of its pool.
    """
    walks = [_walk(lists.take(rows), catalogue, config, top_k) for rows in shards(lists.items)]
    return lists.at(np.concatenate(walks) if walks else np.zeros((0, top_k), np.int64))


def seconds_lost(
    lists: Ordered, catalogue: CatalogueSnapshot, config: ReRankConfig, k: int
) -> Mapping[str, float]:
    """Share of the expected seconds of the first k places that each switch alone, and `all` of
    them, cost.
    """
    before = lists.seconds[:, :k].sum()
    alone = dict(config.switches) | ({"all": config} if config.switches else {})
    after = {
        name: re_ranked(lists, catalogue, switch, k).seconds.sum() for name, switch in alone.items()
    }
    return {
        name: float(1 - total / before) if before else float("nan") for name, total in after.items()
    }


def _walk(lists: Ordered, catalogue: CatalogueSnapshot, config: ReRankConfig, top_k: int) -> Int64:
    """Places in the pool of the items chosen for each place of the list, [n, top_k], -1 for
    none.
    """
    users, width = lists.items.shape
    chosen = np.full((users, top_k), -1, np.int64)
    left = (lists.items > 0) & ~_excluded(lists.users, lists.items, catalogue, config)
    left &= np.cumsum(left, axis=1) <= config.pool
    scores = np.where(lists.items > 0, lists.scores, -np.inf)
    best_score = np.maximum(
        scores.max(axis=1, keepdims=True, initial=-np.inf), np.finfo(np.float64).min
    )
    gain = relevance = np.exp(scores - best_score)
    nearest, strength = np.full(lists.items.shape, -np.inf, np.float32), config.strength
    vectors = catalogue.vectors[lists.items if config.diversity == "mmr" else lists.items[:0]]
    channels, rows, of_channel = (
        catalogue.channels[lists.items],
        np.arange(users),
        np.zeros((users, width), np.int32),
    )
    for place in range(min(top_k, width)):
        allowed = _capped(left, of_channel, config.channel_cap) if place < config.head else left
        best = np.argmax(np.where(allowed, gain, -np.inf), axis=1)
        some = left[rows, best]
        chosen[:, place] = np.where(some, best, -1)
        left[rows, best] = False
        of_channel += (channels == channels[rows, best, None]) & (channels > 0) & some[:, None]
        if config.diversity == "mmr":
            nearest = np.maximum(nearest, np.einsum("nmd,nd->nm", vectors, vectors[rows, best]))
            gain = (1 - strength) * relevance - strength * nearest
    return chosen


def most_excluded(
    users: Int32, items: Int32, catalogue: CatalogueSnapshot, config: ReRankConfig
) -> int:
    """How many items of a list are excluded, in the list that has most of them; lists are items [n,
    k] of users [n].
    """
    counts = (
        _excluded(users[rows], items[rows], catalogue, config).sum(axis=1).max()
        for rows in shards(items)
    )
    return int(max(counts, default=0))


def _excluded(
    users: Int32, items: Int32, catalogue: CatalogueSnapshot, config: ReRankConfig
) -> Flags:
    if config.exclusions is None:
        return np.zeros(items.shape, bool)
    own = np.isin(pair_keys(users[:, None], items), catalogue.excluded)
    flags: Flags = own | np.isin(items.astype(np.int64), catalogue.excluded)
    return flags


def _capped(allowed: Flags, of_channel: Int32, cap: int) -> Flags:
    """What is allowed without going over the cap, or what was allowed, where that leaves nothing.

    `of_channel` [n, m] is how many items of each one's channel were taken.
    """
    if not cap:
        return allowed
    under = allowed & (of_channel < cap)
    return np.where(under.any(axis=1, keepdims=True), under, allowed)
