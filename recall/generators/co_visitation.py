"""Items watched close together in people's histories: co-visitation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from features.arrays import Float32, Int32
from features.histories import Histories
from recall.generators.base import Requests, Snapshot, decay
from recall.generators.spread import Sparse, SpreadAnswer, spread, strongest

WINDOW = 5
# Hours after which a watch counts half, or as long as the log takes for HALF_WATCHES, whichever is
# longer: a slow log would forget all but its last evening.
HALF_LIFE, HALF_WATCHES = 6.0, 200
NEIGHBOURS = 100
# Watches before are worth less than watches after: what comes next is what is asked for.
BACKWARD = 0.5


@dataclass(frozen=True)
class CoVisitation:
    """`weights` [items, items]: how often, of what is watched around item i, it is item j."""

    weights: Sparse

    def answer(self, requests: Requests) -> SpreadAnswer:
        return SpreadAnswer("co_visitation", spread(requests, [self.weights]), requests)


def count_co_visits(
    watches: Histories, items: int, as_of: int, half_life: float | None
) -> CoVisitation:
    """Co-visitation of items 0..items - 1 from the watches strictly before an instant.

    A pair of watches d <= WINDOW apart in a user's history counts 1 / d, halved every `half_life`
    hours before the instant (None: never) and again where j came before i. Rows are divided by
    their sum and by the root of j's, which keeps the most watched items from standing beside
    everything. Each item keeps its NEIGHBOURS strongest.
    """
    counts = sparse.csr_array((items, items), dtype=np.float32)
    for earlier, later, weight in _pairs(watches, items, as_of, half_life):
        counts = counts + sparse.coo_array((weight, (earlier, later)), shape=(items, items)).tocsr()
    counts = counts + BACKWARD * counts.T.tocsr()
    return CoVisitation(strongest(normalised(counts), NEIGHBOURS))


def normalised(counts: Sparse) -> Sparse:
    """Counts [items, items] over their row's sum and the root of their column's share of all."""
    rows, columns = (np.maximum(np.asarray(counts.sum(axis=axis)).ravel(), 1e-9) for axis in (1, 0))
    damped = np.sqrt(columns / columns.sum())
    return (
        (sparse.diags_array(1 / rows) @ counts @ sparse.diags_array(1 / damped))
        .astype(np.float32)
        .tocsr()
    )


def _pairs(
    watches: Histories, items: int, as_of: int, half_life: float | None
) -> Iterator[tuple[Int32, Int32, Float32]]:
    """Earlier item, later item and weight of the pairs of watches d apart, for each d: memory grows
    with the log.
    """
    kept = np.flatnonzero((watches.timestamps_us < as_of) & (watches.items < items))
    users, what, ages = (
        watches.users[kept],
        watches.items[kept],
        as_of - watches.timestamps_us[kept],
    )
    for distance in range(1, WINDOW + 1):
        earlier, later = what[:-distance], what[distance:]
        both = (users[:-distance] == users[distance:]) & (earlier != later)
        weight = decay(ages[distance:][both], half_life) / distance
        yield earlier[both], later[both], weight.astype(np.float32)


def build(snapshot: Snapshot) -> CoVisitation:
    """The generator as of a snapshot; where there is only order, no watch is late."""
    log = snapshot.log
    half_life = max(HALF_LIFE, log.hours_of(HALF_WATCHES)) if log.timed else None
    return count_co_visits(snapshot.watches, len(snapshot.catalogue), snapshot.as_of, half_life)
