"""What a stochastic policy over users' lists would have shown in the slots of a log.

A policy draws an item of the user's list. In a slot of a page it leaves out what stands above on
the page and what the user has clicked since the log began, as a list that is made anew would, and
shares its chance among the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.arrays import Flags, Float64, Int32, Int64

# Slots whose [slots, K] chances are in memory at once.
SHARD = 20_000


@dataclass(frozen=True)
class Policy:
    """For users [n], ascending: items [n, K] (0 = none), the chance of each [n, K], and a model's
    seconds of each.

    Chances sum to 1 in each row, or are all 0 where there is no list.
    """

    users: Int32
    items: Int32
    chances: Float64
    expected: Float64


@dataclass(frozen=True)
class Logged:
    """Logged slots [n] by user and time: what was shown, T in seconds (0 unclicked) and where.

    `propensity` in (0, 1] is the chance that the log's own mixture showed this item in this slot,
    given the user, the instant and what stands above, NaN where the log does not say; `positions`
    on the page count from 1, 0 unknown.
    """

    users: Int32
    items: Int32
    clicked: Flags
    seconds: Float64
    propensity: Float64
    positions: Int32

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: npt.NDArray[Any]) -> "Logged":
        return Logged(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class Draws(NamedTuple):
    """Some slots [m] (rows of the log), each one's row of the policy [m] and the chances of its
    items [m, K].
    """

    slots: Int64
    rows: Int64
    chances: Float64


@dataclass(frozen=True)
class Slots:
    """What a policy would have done in logged slots [n].

    `weights`: pi(a) / propensity of the logged item a; `expected`: the model's seconds of it (0
    where it is not on the list); `direct`: the model's seconds of the policy's own draw; `filled`:
    whether it had anything left to draw.
    """

    weights: Float64
    expected: Float64
    direct: Float64
    filled: Flags


def softmax_of_places(items: Int32, temperature: float) -> Float64:
    """Chances of the items of lists [n, K]: the softmax of -log(place) / temperature; 0 where there
    is no item.

    So pi(place) ~ place^(-1 / temperature). Places and not scores: lists in the order of expected
    seconds, of recall and of popularity then differ by what is where alone.
    """
    return _shared(np.arange(1, items.shape[1] + 1) ** (-1 / temperature) * (items > 0))


def slots_of(policy: Policy, logged: Logged) -> Slots:
    """The weights and the model's seconds of every logged slot."""
    column = _columns(policy, logged)
    weights, expected, direct, filled = (np.zeros(len(logged)) for _ in range(4))
    for slots, rows, chances in draws_of(policy, logged):
        place, at = column[slots], np.arange(len(slots))
        weights[slots] = np.where(place >= 0, chances[at, place], 0) / logged.propensity[slots]
        expected[slots] = np.where(place >= 0, policy.expected[rows, place], 0)
        direct[slots] = (chances * policy.expected[rows]).sum(axis=1)
        filled[slots] = chances.any(axis=1)
    return Slots(weights, expected, direct, filled > 0)


def draws_of(policy: Policy, logged: Logged) -> Iterator[Draws]:
    """The policy's chances in every slot of a user with a list, shard by shard; all 0 where nothing
    is left to show.

    A slot of unknown propensity says what stood on its page and what was clicked; the policy draws
    nothing in it.
    """
    column, row = _columns(policy, logged), _rows(policy, logged)
    pages, listed = pages_of(logged.users, logged.positions), np.flatnonzero(column >= 0)
    on_page = _first_at(listed, pages, column, policy.items.shape[1])
    clicked = _first_at(listed[logged.clicked[listed]], row, column, policy.items.shape[1])
    slots = np.flatnonzero((row >= 0) & ~np.isnan(logged.propensity))
    for at in range(0, len(slots), SHARD):
        shard = slots[at : at + SHARD]
        barred = on_page.is_before(shard, pages[shard]) | clicked.is_before(shard, row[shard])
        yield Draws(shard, row[shard], _shared(policy.chances[row[shard]] * ~barred))


def pages_of(users: Int32, positions: Int32) -> Int64:
    """The page of each slot [n], numbered from 0: positions rise on a page; a slot of unknown
    position stands alone.
    """
    goes_on = (users[1:] == users[:-1]) & (positions[1:] > positions[:-1]) & (positions[:-1] > 0)
    return np.append(0, np.cumsum(~goes_on))[: len(users)].astype(np.int64)


@dataclass(frozen=True)
class _First:
    """Where each place of a list was first met in a group of slots (a page, a user): sorted keys
    and slots.
    """

    keys: Int64
    slots: Int64
    width: int

    def is_before(self, slots: Int64, groups: Int64) -> Flags:
        """Whether each place had been met in its group before each slot: [m], [m] -> [m, width]."""
        if not len(self.keys):
            return np.zeros((len(slots), self.width), bool)
        wanted = groups[:, None] * self.width + np.arange(self.width)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        met: Flags = (self.keys[at] == wanted) & (self.slots[at] < slots[:, None])
        return met


def _first_at(slots: Int64, groups: Int64, column: Int64, width: int) -> _First:
    keys, at = np.unique(groups[slots] * width + column[slots], return_index=True)
    return _First(keys, slots[at], width)


def _rows(policy: Policy, logged: Logged) -> Int64:
    """Each slot's row of the policy, -1 for a user without one: [n]."""
    users = np.append(policy.users, np.iinfo(np.int32).max)
    row = np.searchsorted(users, logged.users)
    return np.where(users[row] == logged.users, row, -1)


def _columns(policy: Policy, logged: Logged) -> Int64:
    """The place of each slot's item on its user's list, from 0; -1 where it is not there: [n]."""
    row, column = _rows(policy, logged), np.full(len(logged), -1)
    listed = np.flatnonzero(row >= 0)
    for at in range(0, len(listed), SHARD):
        shard = listed[at : at + SHARD]
        same = policy.items[row[shard]] == logged.items[shard, None]
        column[shard] = np.where(same.any(axis=1), same.argmax(axis=1), -1)
    return column


def _shared(weights: Float64) -> Float64:
    """Weights >= 0 [n, K] as chances that sum to 1 a row; a row of zeros stays one."""
    total = weights.sum(axis=1, keepdims=True)
    chances: Float64 = np.divide(weights, total, out=np.zeros(weights.shape), where=total > 0)
    return chances
