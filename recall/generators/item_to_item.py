"""The items nearest to the user's last watches, by inverted lists from the tower's item vectors."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from features.arrays import Float32, Int32
from recall.generators.base import LAST_WATCHES, Requests, Snapshot
from recall.generators.spread import Sparse, SpreadAnswer, spread
from recall.index import index_of

NEIGHBOURS = 50


@dataclass(frozen=True)
class ItemToItem:
    """`nearest` [items, items]: cosines of each item's NEIGHBOURS nearest items, for those somebody
    watched lately.
    """

    nearest: Sparse

    def answer(self, requests: Requests) -> SpreadAnswer:
        return SpreadAnswer("item_to_item", spread(requests, [self.nearest]), requests)


def link_nearest(item_vectors: Float32, catalogue: Int32, watched: Int32) -> ItemToItem:
    """Inverted lists of the items in `watched` (any shape, 0 = none) out of a catalogue, from
    vectors [items, dim].
    """
    size = len(item_vectors)
    sources = np.unique(watched[(watched > 0) & (watched < size)])
    unit = item_vectors / np.maximum(np.linalg.norm(item_vectors, axis=1, keepdims=True), 1e-9)
    found, cosines = index_of(unit, catalogue).search(
        unit[sources], max(min(NEIGHBOURS + 1, len(catalogue)), 1)
    )
    row = np.repeat(sources, found.shape[1])
    kept = (found.ravel() > 0) & (found.ravel() != row) & (cosines.ravel() > 0)
    pairs = (row[kept], found.ravel()[kept])
    return ItemToItem(sparse.coo_array((cosines.ravel()[kept], pairs), shape=(size, size)).tocsr())


def build(snapshot: Snapshot) -> ItemToItem:
    """The generator as of a snapshot: lists of what its users watched last."""
    users = snapshot.users
    bags = snapshot.watches.bags(users, snapshot.watches.ends(users, snapshot.as_of), LAST_WATCHES)
    return link_nearest(snapshot.tower.item_vectors, snapshot.tower.catalogue, bags)
