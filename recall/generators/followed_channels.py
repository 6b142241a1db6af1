"""More from the channels a user has watched: their most watched and their newest items."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from features.arrays import Flags, Float64, Int32
from features.schema import CHANNEL
from recall.generators.base import Log, Requests, Snapshot, decayed
from recall.generators.spread import Sparse, SpreadAnswer, spread, strongest

OF_A_CHANNEL = 50


@dataclass(frozen=True)
class FollowedChannels:
    """`channel_of` [items, channels]: 1 where an item is of a channel; `offered` [channels, items]:
    what it offers.
    """

    channel_of: Sparse
    offered: Sparse

    def answer(self, requests: Requests) -> SpreadAnswer:
        return SpreadAnswer(
            "followed_channels", spread(requests, [self.channel_of, self.offered]), requests
        )


def offer_channels(channels: Int32, watches: Float64, new: Flags) -> FollowedChannels:
    """Channels by item (codes [items], 0 = unknown); each offers by (recent) watches [items], a new
    item as if by one.

    An item's weight is its share of its channel's.
    """
    weight = watches + new
    items = np.flatnonzero((channels > 0) & (weight > 0))
    size = (len(channels), int(channels.max(initial=0)) + 1)
    total = np.bincount(channels[items], weight[items], minlength=size[1])
    share = (weight[items] / total[channels[items]]).astype(np.float32)
    offered = sparse.coo_array((share, (channels[items], items)), shape=size[::-1]).tocsr()
    known = np.flatnonzero(channels)
    ones = np.ones(len(known), np.float32)
    return FollowedChannels(
        sparse.coo_array((ones, (known, channels[known])), shape=size).tocsr(),
        strongest(offered, OF_A_CHANNEL),
    )


def build(snapshot: Snapshot) -> FollowedChannels:
    """The generator as of a snapshot; channels offer by the watches that its popularity counts."""
    size = len(snapshot.catalogue)
    lately = decayed(snapshot.watches, size, snapshot.as_of, snapshot.popularity.half_life)[0]
    return offer_channels(snapshot.log.items.codes[CHANNEL][:size], lately, snapshot.new)


def missing(log: Log) -> str | None:
    """Why a log cannot give it."""
    return None if CHANNEL in log.items.codes else f"items have no {CHANNEL}"
