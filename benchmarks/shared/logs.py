"""Logs to measure on: MovieLens-1M in canonical form, and synthetic ones with a catalogue of any
size.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from features.arrays import Int32, Int64

# The instant of everybody's last watch: later than any position in a sequence.
LAST = 1 << 40
WATCHES_A_USER = 100


@dataclass(frozen=True)
class Log:
    """Watches sorted by user and time, in indexes from 1 on: `users`, `items` [n]; `sides` are
    users' categories.

    `sides[name]` int32 [user_count], 0 unknown; `item_count` and `user_count` include nobody, index
    0.
    """

    users: Int32
    items: Int32
    item_count: int
    sides: dict[str, Int32] = field(default_factory=dict)

    @property
    def user_count(self) -> int:
        return int(self.users.max(initial=0)) + 1

    @property
    def positions(self) -> Int64:
        """The place of each watch in its user's sequence, from 0 on, [n]."""
        return np.arange(len(self.users)) - np.searchsorted(self.users, self.users)

    @property
    def lasts(self) -> Int64:
        """The flat position of each user's last watch, ascending by user."""
        return np.flatnonzero(np.append(self.users[1:] != self.users[:-1], True))

    @property
    def timestamps_us(self) -> Int64:
        """Timestamps that know nothing but order: the position in the sequence, and LAST for
        everybody's last watch.
        """
        timestamps_us = self.positions
        timestamps_us[self.lasts] = LAST
        return timestamps_us


def movielens(folder: Path) -> Log:
    """MovieLens-1M from `interactions.parquet` and `users.parquet`: films by first appearance,
    users by id.
    """
    rows = pd.read_parquet(folder / "interactions.parquet").sort_values(
        ["user_id", "timestamp"], kind="stable"
    )
    people = pd.read_parquet(folder / "users.parquet").set_index("user_id")
    codes, ids = pd.factorize(rows["user_id"])
    items, films = pd.factorize(rows["item_id"])
    known = people.reindex(ids)
    # A category of every user index, 0 for padding and the unknown.
    sides = {
        str(name): np.append(0, pd.factorize(known[name])[0] + 1).astype(np.int32)
        for name in known.columns
    }
    return Log((codes + 1).astype(np.int32), (items + 1).astype(np.int32), len(films) + 1, sides)


def synthetic(items: int, watches: int, skew: float = 0.8, seed: int = 0) -> Log:
    """A log of so many items and watches, about 100 watches a user; the r-th most watched item has
    weight r^-skew.
    """
    rng = np.random.default_rng(seed)
    users = np.sort(rng.integers(1, max(watches // WATCHES_A_USER, 1) + 1, watches, dtype=np.int32))
    weights = np.cumsum(np.arange(1, items + 1, dtype=np.float64) ** -skew)
    places = np.searchsorted(weights, rng.random(watches) * weights[-1])
    # Indexes do not know how popular they are: what is watched most lies anywhere in the tables.
    return Log(users, rng.permutation(items).astype(np.int32)[places] + 1, items + 1)
