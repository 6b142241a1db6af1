"""What a tower reads of users at instants: the same function for training and for serving."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.profiles import Side
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
        watches = _known(self.histories.bags(users, ends, shape.bag), shape.items)
        categories = {n: _known(self.users.codes[n][users], size) for n, size in shape.categories.items()}
        none = np.zeros(len(users), np.float32)
        return TowerInputs(watches, self._tokens(shape, users, instants), categories, self._numbers(shape, users), none)

    def _tokens(self, shape: TowerShape, users: Int32, instants: Int64) -> Int32:
        if self.searches is None or not shape.token_bag:
            return np.zeros((len(users), 0), np.int32)
        ends = self.searches.ends(users, instants)
        return _known(self.searches.bags(users, ends, shape.token_bag), shape.tokens)

    def _numbers(self, shape: TowerShape, users: Int32) -> npt.NDArray[np.float32]:
        """Numbers scaled to [0, 1] with their square and root (paper, section 4.1); unknown = 0."""
        columns = [_scaled(self.users.numbers[name][users], *range_) for name, range_ in shape.numbers.items()]
        powers = [power for x in columns for power in (x, x**2, np.sqrt(x))]
        return np.stack(powers, axis=1).astype(np.float32) if powers else np.zeros((len(users), 0), np.float32)


def _known(indexes: Int32, size: int) -> Int32:
    return np.where(indexes < size, indexes, 0).astype(np.int32)


def _scaled(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
    scaled = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return np.nan_to_num(scaled, nan=0.0)
