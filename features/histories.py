"""Each user's watches in time order, stored once: flat arrays and offsets. Samples are positions in
them.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.arrays import Int32, Int64
from features.timeline import Timeline


@dataclass(frozen=True)
class Histories:
    """Events of user u are the flat positions offsets[u]:offsets[u + 1]; user 0 is padding and has
    none.

    `items` int32 [n] are item indexes (or token indexes, for searches), `instants` int64 [n] do not
    decrease within a user.
    """

    offsets: Int64
    items: Int32
    timestamps_us: Int64

    @cached_property
    def users(self) -> Int32:
        """The user of each event, [n]."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))

    @cached_property
    def timeline(self) -> Timeline:
        return Timeline(self.users.astype(np.int64), self.timestamps_us)

    def ends(self, users: npt.NDArray[Any], timestamps_us: npt.NDArray[Any] | int) -> Int64:
        """Flat position just past what each user had watched strictly before an instant: [m], [m]
        -> [m].
        """
        return self.timeline.before(users, timestamps_us)

    def bags(self, users: npt.NDArray[Any], ends: npt.NDArray[Any], length: int) -> Int32:
        """The last `length` items before each end, newest first, 0 where there are fewer: [m], [m]
        -> [m, length].
        """
        positions = np.asarray(ends, np.int64)[:, None] - 1 - np.arange(length)
        present = positions >= self.offsets[np.asarray(users)][:, None]
        padded = self.items if len(self.items) else np.zeros(1, np.int32)
        bags: Int32 = np.take(padded, np.maximum(positions, 0)) * present
        return bags

    def before(self, timestamp_us: int, users: int) -> "Histories":
        """The events strictly before an instant, of the first so many user indexes."""
        kept = np.flatnonzero((self.timestamps_us < timestamp_us) & (self.users < users))
        return histories_of(self.users[kept], self.items[kept], self.timestamps_us[kept], users)

    def users_before(self, timestamp_us: int) -> int:
        """How many user indexes had an event before an instant, or lie below one that had; 0
        included.
        """
        return int(self.users[self.timestamps_us < timestamp_us].max(initial=0)) + 1

    @property
    def digest(self) -> str:
        """SHA-256 of the events and whose they are."""
        found = sha256()
        for array in (self.offsets, self.items, self.timestamps_us):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("offsets", "items", "timestamps_us"):
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "Histories":
        arrays = (
            np.load(folder / f"{name}.npy", allow_pickle=False)
            for name in ("offsets", "items", "timestamps_us")
        )
        return cls(*arrays)


def histories_of(
    users: npt.NDArray[Any], items: npt.NDArray[Any], timestamps_us: npt.NDArray[Any], count: int
) -> Histories:
    """Histories of `count` user indexes (0 included) from events sorted by user and instant, each
    [n].
    """
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(users, minlength=count), out=offsets[1:])
    return Histories(offsets, np.asarray(items, np.int32), np.asarray(timestamps_us, np.int64))


def samples_of(histories: Histories) -> Int64:
    """For each watch, the flat end of the history that predicts it: only what came strictly before,
    [n] -> [n].

    The watch at flat position p is the next item; its history is the user's events up to ends[p].
    Watches of the same instant do not see each other.
    """
    n = len(histories.items)
    first_of_instant = np.ones(n, bool)
    same = (histories.users[1:] == histories.users[:-1]) & (
        histories.timestamps_us[1:] == histories.timestamps_us[:-1]
    )
    first_of_instant[1:] = ~same
    return np.maximum.accumulate(np.where(first_of_instant, np.arange(n), 0))
