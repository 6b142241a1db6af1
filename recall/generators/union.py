"""The distinct candidates of some users: the union of what generators name for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.arrays import Int32, Int64, Intp, UInt16
from recall.generators.base import Columns, Named


@dataclass(frozen=True)
class Union:
    """The distinct candidates of some users: pairs [p] of `rows` and `items`, by row, then item.

    `named` is what each generator gave, `ranks[generator]` uint16 [p] its rank of each pair, 0 = it
    did not name it.
    """

    users: int
    rows: Intp
    items: Int32
    named: Mapping[str, Named]
    ranks: Mapping[str, UInt16]

    @cached_property
    def counts(self) -> Int64:
        """How many candidates each user has, [users]."""
        return np.bincount(self.rows, minlength=self.users)

    @cached_property
    def starts(self) -> Int64:
        return np.cumsum(self.counts) - self.counts

    @property
    def rank_columns(self) -> Columns:
        """Minus the logarithm of each generator's rank; what it did not name stands just past its
        list.
        """
        last = {name: named.items.shape[1] + 1 for name, named in self.named.items()}
        return {
            f"{n}_rank": -np.log(np.where(r, r, last[n])).astype(np.float32)
            for n, r in self.ranks.items()
        }


def union_of(named: Mapping[str, Named]) -> Union:
    """The union of generators' lists, [n, m] each, over the same users."""
    items = np.concatenate([each.items for each in named.values()], axis=1)
    widths = [each.items.shape[1] for each in named.values()]
    # One sort of item and column; the column tells the generator and the rank.
    keys = items.astype(np.int64) * items.shape[1] + np.arange(items.shape[1])
    keys.sort(axis=1)
    items, columns = np.divmod(keys, items.shape[1])
    new = np.diff(items, axis=1, prepend=0) != 0
    rows, _ = np.nonzero(new)
    filled = items > 0
    columns, place = columns[filled], (np.cumsum(new).reshape(new.shape) - 1)[filled]
    ranks = np.zeros((len(named), len(rows)), np.uint16)
    generators = np.repeat(np.arange(len(named)), widths)
    ranks[generators[columns], place] = np.concatenate([np.arange(1, w + 1) for w in widths])[
        columns
    ]
    distinct = items[new].astype(np.int32)
    return Union(len(items), rows, distinct, named, dict(zip(named, ranks, strict=True)))


def joined(parts: Sequence[Columns]) -> Columns:
    """Columns of one set of pairs in one mapping."""
    return {name: values for part in parts for name, values in part.items()}
