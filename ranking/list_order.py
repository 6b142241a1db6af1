"""The order of final lists: for how long an item would be watched, and how likely it is what its
user watches next.

The ranker knows E[T | shown] of what the feed chose to show; of a candidate that no feed would have
shown it knows little. So a list is ordered by log E[T | shown] + lambda log P(next), lambda chosen
on lists of validation users.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from features.arrays import Float64, Ints
from features.timeline import pair_keys

# The values of lambda that are tried, the preferred first: 1 is seconds times chance.
CHANCE_WEIGHTS = (1.0, 0.75, 1.5, 0.5, 2.0, 0.25, 4.0, 0.0)
# Whose P(next) it is, where it is not one generator's.
BLENDER, RECALLS_ORDER = "blender", "recall's order"
# Fewer seconds than these are told apart no more: their logarithm has no end.
LEAST_SECONDS = 1e-9


class ListOrder(BaseModel):
    """How final lists are ordered: `seconds_weight` log E[T | shown] + `chance_weight` log P(next).

    (1, 0) is the paper's order, (0, 1) that of P(next) alone. `chance_of` says whose P(next): the
    blender's, or one generator's. Of each user's candidates the first `depth` take part, in
    recall's order (None: all).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds_weight: float = Field(1.0, ge=0, le=1)
    chance_weight: float = Field(1.0, ge=0)
    chance_of: str = BLENDER
    depth: int | None = Field(None, ge=1)

    @property
    def described(self) -> str:
        """The order in words: `seconds x chance^0.5 of the first 100`, `recall's order`, `popular
        alone`.
        """
        if not self.seconds_weight:
            return RECALLS_ORDER if self.chance_of == BLENDER else f"{self.chance_of} alone"
        name = "seconds" if not self.chance_weight else f"seconds x chance^{self.chance_weight:g}"
        return f"{name} of the first {self.depth}" if self.depth else name

    def scores(self, log_seconds: Float64, log_chances: Float64) -> Float64:
        """What orders lists, from log E[T | shown] and log P(next), all [n, k]; -inf where there is
        no item.
        """
        there = ~np.isneginf(log_seconds)
        chances = np.where(there, log_chances, 0.0)
        seconds = np.where(there, log_seconds, 0.0)
        return np.where(
            there, self.seconds_weight * seconds + self.chance_weight * chances, -np.inf
        )


def log_of(seconds: Float64) -> Float64:
    """log E[T | shown], of any shape, never below that of LEAST_SECONDS; -inf stays what it is."""
    return np.where(np.isneginf(seconds), -np.inf, np.log(np.maximum(seconds, LEAST_SECONDS)))


@dataclass(frozen=True)
class Gains:
    """What lists hold of what their users went on to watch.

    `users` and `items` [n] are of each watch; `by_length` {k: [n]} are its seconds (or 1) where the
    first k of its user's list have its item, else 0.
    """

    users: Ints
    items: Ints
    by_length: Mapping[int, Float64]

    def of_users(self, k: int, users: int) -> Float64:
        """Seconds held at a length by user, [users]."""
        return np.bincount(self.users, self.by_length[k], users).astype(np.float64)

    @property
    def log_total(self) -> float:
        """Mean over the lengths of the logarithm of all seconds held: no length outweighs another.
        -inf for none.
        """
        totals = np.array([gains.sum() for gains in self.by_length.values()])
        return float(np.log(totals).mean()) if (totals > 0).all() else float("-inf")

    def harms(self, other: "Gains") -> bool:
        """Whether these lists hold less than others at some length, by more than a standard
        error.
        """
        pairs = [
            (replace(self, by_length={k: gains}), replace(other, by_length={k: other.by_length[k]}))
            for k, gains in self.by_length.items()
        ]
        return any(
            theirs.log_total - mine.log_total > mine.standard_error(theirs)
            for mine, theirs in pairs
        )

    def standard_error(self, other: "Gains") -> float:
        """Standard error of the difference of two lists' `log_total`, to first order; users and
        items are both taken as draws (two-way clusters, Cameron, Gelbach and Miller 2011).

        The same watches are compared, so that what makes both rise or fall together does not count.
        Items count because a day's most watched decide it: another day has others.
        """
        if not (np.isfinite(self.log_total) and np.isfinite(other.log_total)):
            return float("nan")
        parts = [
            mine / mine.sum() - theirs / theirs.sum()
            for mine, theirs in zip(self.by_length.values(), other.by_length.values(), strict=True)
        ]
        mean = np.mean(parts, axis=0)
        by_user, by_item, by_pair = (
            float(np.square(np.bincount(groups, mean)).sum())
            for groups in (
                self.users,
                self.items,
                np.unique(pair_keys(self.users, self.items), return_inverse=True)[1],
            )
        )
        return float(np.sqrt(max(by_user + by_item - by_pair, by_user, by_item)))
