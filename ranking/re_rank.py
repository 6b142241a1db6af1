"""The last, small step: from the ranker's first places to a list that is varied, fresh, and allowed.

One greedy walk over the places of the list, all users of a shard at once: at each place the item of highest gain that
is still allowed. Relevance is the exponent of an item's score over that of the user's best (in the paper's order: its
expected seconds over theirs), so that gains compare between users; similarity is the cosine of recall's item vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from features.timeline import pair_keys
from ranking.recommend import Ordered, shards

Flags = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

SMALLEST = 1e-10


class ReRankConfig(BaseModel):
    """The re-rank stage, all of it off by default; it chooses among the ranker's first `pool` items that are allowed.

    `diversity` trades relevance for difference at `strength` (0 none, 1 difference alone) by maximal marginal relevance
    or a determinantal point process. Within the first `head` places at most `channel_cap` items are of one channel (0
    off) and at least `fresh_share` of them younger than `fresh_hours`, as far as the pool has them. `exclusions` is a
    table (Parquet or CSV) of item_id, and optionally user_id, that is in no list.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: int = Field(100, ge=1, le=10_000)
    head: int = Field(10, ge=1, le=1_000)
    diversity: Literal["none", "mmr", "dpp"] = "none"
    strength: float = Field(0.3, ge=0, le=1)
    channel_cap: int = Field(0, ge=0)
    fresh_share: float = Field(0.0, ge=0, le=1)
    fresh_hours: float = Field(24.0, gt=0)
    exclusions: str | None = None

    @property
    def switches(self) -> dict[str, "ReRankConfig"]:
        """Each switch that is on, by name, with all others off."""
        off = self.model_copy(update={"diversity": "none", "channel_cap": 0, "fresh_share": 0.0, "exclusions": None})
        alone = {
            self.diversity: ("diversity", self.diversity != "none"),
            "channel_cap": ("channel_cap", self.channel_cap > 0),
            "fresh_share": ("fresh_share", self.fresh_share > 0),
            "exclusions": ("exclusions", self.exclusions is not None),
        }
        return {n: off.model_copy(update={f: getattr(self, f)}) for n, (f, on) in alone.items() if on}


@dataclass(frozen=True)
class Shelf:
    """What re-ranking knows of items by index: unit `vectors` [items, dim], `channels` [items] (0 none), `fresh`
    [items], and the keys of `excluded` pairs of user and item, ascending; user 0 stands for everybody."""

    vectors: Float32
    channels: Int32
    fresh: Flags
    excluded: Int64


def re_ranked(lists: Ordered, shelf: Shelf, config: ReRankConfig, top_k: int) -> Ordered:
    """The list of each user, [n, top_k], out of ordered lists [n, m]; 0 where nothing allowed is left.

    With every switch off these are the first places. A cap or a quota that the pool cannot meet is met as far as it can
    be, so that a list is never shorter than what is allowed of its pool.
    """
    walks = [_walk(lists.take(rows), shelf, config, top_k) for rows in shards(lists.items)]
    return lists.at(np.concatenate(walks) if walks else np.zeros((0, top_k), np.int64))


def seconds_lost(lists: Ordered, shelf: Shelf, config: ReRankConfig, k: int) -> Mapping[str, float]:
    """Share of the expected seconds of the first k places that each switch alone, and `all` of them, cost."""
    before = lists.seconds[:, :k].sum()
    alone = dict(config.switches) | ({"all": config} if config.switches else {})
    after = {name: re_ranked(lists, shelf, switch, k).seconds.sum() for name, switch in alone.items()}
    return {name: float(1 - total / before) if before else float("nan") for name, total in after.items()}


def _walk(lists: Ordered, shelf: Shelf, config: ReRankConfig, top_k: int) -> Int64:
    """Places in the pool of the items chosen for each place of the list, [n, top_k], -1 for none."""
    users, width = lists.items.shape
    chosen = np.full((users, top_k), -1, np.int64)
    left = (lists.items > 0) & ~_excluded(lists.users, lists.items, shelf, config)
    left &= np.cumsum(left, axis=1) <= config.pool
    gain: _Gain = _GAINS[config.diversity](lists, shelf, config)
    channels, fresh = shelf.channels[lists.items], shelf.fresh[lists.items]
    rows, taken, of_channel = np.arange(users), np.zeros((users, width), bool), np.zeros((users, width), np.int32)
    head = min(config.head, top_k, width)
    for place in range(min(top_k, width)):
        allowed = left
        if place < head:
            allowed = _capped(allowed, of_channel, config.channel_cap)
            allowed = _with_quota(allowed, fresh, taken, _fresh_due(config.fresh_share, place, head))
        best = np.argmax(np.where(allowed, gain.values, -np.inf), axis=1)
        some = left[rows, best]
        chosen[:, place] = np.where(some, best, -1)
        left[rows, best], taken[rows[some], best[some]] = False, True
        of_channel += (channels == channels[rows, best, None]) & (channels > 0) & some[:, None]
        gain.take(best)
    return chosen


def most_excluded(users: Int32, items: Int32, shelf: Shelf, config: ReRankConfig) -> int:
    """How many items of a list are excluded, in the list that has most of them; lists are items [n, k] of users [n]."""
    counts = (_excluded(users[rows], items[rows], shelf, config).sum(axis=1).max() for rows in shards(items))
    return int(max(counts, default=0))


def _excluded(users: Int32, items: Int32, shelf: Shelf, config: ReRankConfig) -> Flags:
    if config.exclusions is None:
        return np.zeros(items.shape, bool)
    own = np.isin(pair_keys(users[:, None], items), shelf.excluded)
    flags: Flags = own | np.isin(items.astype(np.int64), shelf.excluded)
    return flags


def _capped(allowed: Flags, of_channel: Int32, cap: int) -> Flags:
    """What is allowed without going over the cap, or what was allowed, where that leaves nothing.

    `of_channel` [n, m] is how many items of each one's channel were taken.
    """
    return _unless_empty(allowed & (of_channel < cap), allowed) if cap else allowed


def _fresh_due(share: float, place: int, head: int) -> int:
    """How many of the places up to this one must be fresh: the quota, spread from the first place of the head on.

    Rounded down on the way and up in its last place, so that the whole head has its share.
    """
    due = share * (place + 1)
    return int(np.ceil(due - 1e-9)) if place == head - 1 else int(np.floor(due + 1e-9))


def _with_quota(allowed: Flags, fresh: Flags, taken: Flags, due: int) -> Flags:
    """Only fresh items where fewer than are due were taken, as long as there are any."""
    behind = (taken & fresh).sum(axis=1) < due
    return np.where(behind[:, None], _unless_empty(allowed & fresh, allowed), allowed)


def _unless_empty(narrow: Flags, wide: Flags) -> Flags:
    return np.where(narrow.any(axis=1, keepdims=True), narrow, wide)


class _Gain:
    """What each item of the pool would add to the list, [n, m]: its relevance."""

    def __init__(self, lists: Ordered, shelf: Shelf, config: ReRankConfig) -> None:
        scores = np.where(lists.items > 0, lists.scores, -np.inf)
        best = np.maximum(scores.max(axis=1, keepdims=True, initial=-np.inf), np.finfo(np.float64).min)
        self._relevance, self._config = np.exp(scores - best), config
        self._vectors = shelf.vectors[lists.items] if config.diversity != "none" else np.zeros((0, 0, 0), np.float32)
        self.values = self._relevance

    def take(self, places: Int64) -> None:
        """The items at these places of the pool, [n], were taken."""

    def _similarity(self, places: Int64) -> Float32:
        """Cosine of every item of the pool with the one taken, [n, m]."""
        mine = np.take_along_axis(self._vectors, places[:, None, None], axis=1)[:, 0]
        similarity: Float32 = np.einsum("nmd,nd->nm", self._vectors, mine)
        return similarity


class _MarginalRelevance(_Gain):
    """(1 - s) relevance - s max similarity to what was taken (Carbonell and Goldstein 1998)."""

    def __init__(self, lists: Ordered, shelf: Shelf, config: ReRankConfig) -> None:
        super().__init__(lists, shelf, config)
        self._nearest = np.full(lists.items.shape, -np.inf, np.float32)
        self.values = (1 - config.strength) * self._relevance

    def take(self, places: Int64) -> None:
        self._nearest = np.maximum(self._nearest, self._similarity(places))
        self.values = (1 - self._config.strength) * self._relevance - self._config.strength * self._nearest


class _Determinant(_Gain):
    """log of what the item adds to the determinant of q_i S_ij q_j, by Cholesky rows (Chen et al. 2018).

    q^2 = exp(relevance (1 - s) / s): the weaker the diversity, the steeper the quality.
    """

    def __init__(self, lists: Ordered, shelf: Shelf, config: ReRankConfig) -> None:
        super().__init__(lists, shelf, config)
        steep = (1 - config.strength) / max(config.strength, SMALLEST)
        self._log_quality = steep * self._relevance
        self._residual = np.ones(lists.items.shape)
        self._rows: list[Float64] = []
        self.values = self._log_quality

    def take(self, places: Int64) -> None:
        at = places[:, None]
        root = np.sqrt(np.take_along_axis(self._residual, at, axis=1))
        known = sum((row * np.take_along_axis(row, at, axis=1) for row in self._rows), np.zeros_like(self._residual))
        row = (self._similarity(places) - known) / np.maximum(root, np.sqrt(SMALLEST))
        self._rows.append(row)
        self._residual = np.maximum(self._residual - row**2, SMALLEST)
        self.values = self._log_quality + np.log(self._residual)


_GAINS: dict[str, type[_Gain]] = {"none": _Gain, "mmr": _MarginalRelevance, "dpp": _Determinant}
