"""Users at an instant, as every generator is asked about them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recall.candidates import Pairs

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Intp = npt.NDArray[np.intp]
Columns = dict[str, Float32]


@dataclass(frozen=True)
class Requests:
    """Users [n], their vectors float32 [n, dim], their last watches int32 [n, m] newest first (0 = none), what they
    had seen, and how many watches they had, [n]."""

    users: Int32
    vectors: Float32
    watches: Int32
    seen: Pairs
    lengths: Int64

    def __len__(self) -> int:
        return len(self.users)


def seen_only(users: Int32, seen: Pairs) -> Requests:
    """Requests of which nothing but what was seen is known: enough for popularity."""
    nothing = np.zeros((len(users), 0), np.float32)
    return Requests(users, nothing, nothing.astype(np.int32), seen, np.zeros(len(users), np.int64))


@dataclass(frozen=True)
class Named:
    """What one generator names: `items` int32 [n, m] and `scores` float32 [n, m], best first; 0 past a list's end."""

    items: Int32
    scores: Float32


class Answer(Protocol):
    """What a generator has to say of some requests."""

    def named(self, k: int) -> Named:
        """Its best k items of each user, none of them seen (but for the re-watch generator)."""

    def columns(self, rows: Intp, items: Int32) -> Columns:
        """What it says of any pairs [p] of a request's row and an item, as standardised columns of the merge, [p]."""


class CandidateGenerator(Protocol):
    """A way to find items for users, as of an instant."""

    def answer(self, requests: Requests) -> Answer:
        """Its answer to some requests."""
