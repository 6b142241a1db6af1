"""What each generator brings to the blended candidates: how much it names, finds, and finds
alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from features.arrays import Flags, Ints


@dataclass(frozen=True)
class Contribution:
    """Shares of one generator: of the filled places it `named`, of the `hits` it named, of those
    only it named (`unique_hits`), and these over all watches of the test window (`unique_watches`).
    NaN where there are none.
    """

    named: float
    hits: float
    unique_hits: float
    unique_watches: float


def contributions(
    ranks: Mapping[str, Ints], filled: Flags, hit: Flags, watches: int
) -> dict[str, Contribution]:
    """Each generator's contribution to blended lists, whose places are [n, k].

    `ranks[generator]` says at which rank it named the candidate of each place, 0 = not; `filled`
    are the places with a candidate, `hit` those whose candidate was watched
    (`recall.metrics.hits`), `watches` all of the test window.
    """
    namers = np.zeros(filled.shape, np.int16)
    for rank in ranks.values():
        namers += rank > 0
    alone = hit & (namers == 1)
    return {
        generator: _contribution(rank > 0, filled, hit, alone, watches)
        for generator, rank in ranks.items()
    }


def _contribution(
    named: Flags, filled: Flags, hit: Flags, alone: Flags, watches: int
) -> Contribution:
    unique = int((named & alone).sum())
    return Contribution(
        named=_share(int((named & filled).sum()), int(filled.sum())),
        hits=_share(int((named & hit).sum()), int(hit.sum())),
        unique_hits=_share(unique, int(hit.sum())),
        unique_watches=_share(unique, watches),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
