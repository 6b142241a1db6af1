"""The items nearest to the user's vector: the tower's own candidates (paper, section 3)."""

from dataclasses import dataclass

import numpy as np

from features.arrays import Int32, Intp
from recall.candidates import nearest
from recall.generators.base import Columns, Named, Requests, Snapshot
from recall.index import ItemIndex


@dataclass(frozen=True)
class TowerGenerator:
    """The tower's nearest items; items it does not know are not named."""

    index: ItemIndex

    def answer(self, requests: Requests) -> "TowerAnswer":
        return TowerAnswer(self, requests)


@dataclass(frozen=True)
class TowerAnswer:
    generator: TowerGenerator
    requests: Requests

    def named(self, k: int) -> Named:
        items, scores = nearest(self.requests.vectors, self.generator.index, self.requests.seen, k)
        return Named(items, np.where(items > 0, scores, 0).astype(np.float32))

    def columns(self, rows: Intp, items: Int32) -> Columns:
        """Nothing: the tower's scores are columns of every union."""
        del rows, items
        return {}


def build(snapshot: Snapshot) -> TowerGenerator:
    """The generator as of a snapshot."""
    return TowerGenerator(snapshot.index)
