"""What a tower reads of users at instants: the same function for training and for serving."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.sides import Side
from recall.vectors import TowerInputs, TowerShape

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Readings:
    """All that towers may read: watch histories, search tokens (None where there are none), users' side columns."""

    histories: Histories
    searches: Histories | None
    users: Side

    def inputs_at(self, shape: TowerShape, users: Int32, instants: Int64 | int) -> TowerInputs:
        """The tower's inputs for requests: users [n] at instants [n], from what came strictly before."""
        moments = np.broadcast_to(np.asarray(instants, np.int64), users.shape)
        return self.inputs(shape, users, self.histories.ends(users, moments), moments)

    def inputs(self, shape: TowerShape, users: Int32, ends: Int64, instants: Int64) -> TowerInputs:
        """As `inputs_at`, the ends of the watch histories being known, [n]. What the tower never knew reads as 0."""
        watches = known_codes(self.histories.bags(users, ends, shape.bag), shape.items)
        categories = {n: known_codes(self.users.codes[n][users], size) for n, size in shape.categories.items()}
        none = np.zeros(len(users), np.float32)
        return TowerInputs(watches, self._tokens(shape, users, instants), categories, self._numbers(shape, users), none)

    def _tokens(self, shape: TowerShape, users: Int32, instants: Int64) -> Int32:
        if self.searches is None or not shape.token_bag:
            return np.zeros((len(users), 0), np.int32)
        ends = self.searches.ends(users, instants)
        return known_codes(self.searches.bags(users, ends, shape.token_bag), shape.tokens)

    def _numbers(self, shape: TowerShape, users: Int32) -> npt.NDArray[np.float32]:
        columns = [scaled(self.users.numbers[name][users], *range_) for name, range_ in shape.numbers.items()]
        return powers_of(columns, len(users))


def powers_of(columns: Sequence[npt.NDArray[np.float64]], rows: int) -> npt.NDArray[np.float32]:
    """Numbers in [0, 1] side by side, each with its square and root (paper, section 4.1): [rows, 3 a number]."""
    named = [power for x in columns for power in (x, x**2, np.sqrt(x))]
    return np.stack(named, axis=1).astype(np.float32) if named else np.zeros((rows, 0), np.float32)


def known_codes(indexes: Int32, size: int) -> Int32:
    """Indexes with those that came later, at or beyond `size`, as 0: unknown."""
    return np.where(indexes < size, indexes, 0).astype(np.int32)


def scaled(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
    """Numbers as shares of the way from low to high, in [0, 1]; unknown (NaN) = 0."""
    return np.nan_to_num(np.clip((values - low) / max(high - low, 1e-9), 0, 1), nan=0.0)
