"""What every candidate generator is built from, is asked, and answers: the one interface they
share.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from features.arrays import Flags, Float32, Float64, Int32, Int64, Intp
from features.asof_features import AsOfFeatures
from features.histories import Histories
from features.schema import HOUR
from features.side_features import SideFeatures
from features.split import Split
from features.vocabulary import Vocabulary
from recall.candidates import Pairs, pairs_before
from recall.index import ItemIndex
from recall.inputs import UserInputs
from recall.tower import Tower

Columns = dict[str, Float32]

LAST_WATCHES = 10
FEW_WATCHES = 50
# Hours after which a watch counts half, from minutes to a year: a log has those that fit its pace.
HALF_LIVES = (0.25, 0.5, 1.0, 3.0, 12.0, 24.0, 72.0, 336.0, 1_440.0, 8_760.0)
# Watches that a half life must expect to hold: of fewer no popularity can be told.
LEAST_WATCHES = 5


@dataclass(frozen=True)
class Log:
    """What generators are built from: user_inputs, clicks (what is seen), items and their side
    columns.

    `features` is None where the log does not say what was shown and not clicked.
    """

    user_inputs: UserInputs
    clicks: Histories
    vocabulary: Vocabulary
    items: SideFeatures
    split: Split
    features: AsOfFeatures | None = None

    @property
    def timed(self) -> bool:
        return self.split.clock == "time"

    @property
    def half_lives(self) -> tuple[float | None, ...]:
        """Of popularity, in hours, None for no decay: none longer than the log, and none too short
        to hold LEAST_WATCHES at its pace. Where there is only order, nothing is late.
        """
        if not self.timed:
            return (None,)
        fitting = [h for h in HALF_LIVES if self.hours_of(LEAST_WATCHES) <= h <= self.hours]
        return (*fitting, None)

    @property
    def hours(self) -> float:
        """How long the log is before test_start."""
        return (self.split.test_start - self.split.start) / HOUR

    def hours_of(self, watches: int) -> float:
        """How long the log takes for so many completed watches, on average before test_start."""
        before = self.user_inputs.histories.timestamps_us < self.split.test_start
        return watches * self.hours / max(int(before.sum()), 1)

    @property
    def span(self) -> int:
        """How long an item is new: as long as the label window."""
        return self.split.test_start - self.split.label_start


@dataclass(frozen=True)
class Popularity:
    """Which half life (hours, None: none) and which column of users (None: everybody alike)
    popularity goes by.
    """

    half_life: float | None = None
    segment: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A log as of an instant, the tower finished by then with its index, and the users who will be
    asked about.

    All that generators are built from: nothing in it tells of the instant or of what came after.
    """

    log: Log
    as_of: int
    tower: Tower
    index: ItemIndex
    users: Int32
    popularity: Popularity

    @cached_property
    def catalogue(self) -> Flags:
        """Which items may be named, flags over the indexes that existed by then.

        Of those that the tower knows what it lists; of those that came later what had been shown.
        """
        catalogue = self.log.vocabulary.shown_as_of(self.as_of)[
            : self.log.vocabulary.size_as_of(self.as_of)
        ]
        known = np.isin(np.arange(self.tower.shape.items), self.tower.catalogue)
        catalogue[: len(known)] = known[: len(catalogue)]
        return catalogue

    @property
    def watches(self) -> Histories:
        return self.log.user_inputs.histories

    @property
    def first_seen(self) -> Int64:
        """When each item of the catalogue's indexes was seen first, [items]."""
        return np.append(0, self.log.vocabulary.first_seen[: len(self.catalogue) - 1])

    @cached_property
    def new(self) -> Flags:
        """Which items are new and few have watched, [items]; on an order clock none."""
        ever = decayed(self.watches, len(self.catalogue), self.as_of, None)[0]
        return (
            self.catalogue
            & self.log.timed
            & is_new(self.first_seen, ever, self.as_of, self.log.span)
        )

    def requests(self, users: Int32) -> "Requests":
        """Users [n] as every generator is asked about them."""
        ends = self.watches.ends(users, self.as_of)
        return Requests(
            users,
            self.tower.user_vectors(
                self.log.user_inputs.inputs_at(self.tower.shape, users, self.as_of)
            ),
            self.watches.bags(users, ends, LAST_WATCHES),
            pairs_before(users, self.log.clicks, self.as_of),
            ends - self.watches.offsets[users],
        )


def is_new(first_seen: Int64, watches: Float64, as_of: int, span: int) -> Flags:
    """Which items [n] were first seen at most `span` before an instant and have at most FEW_WATCHES
    watches.
    """
    age = as_of - first_seen
    return (age > 0) & (age <= span) & (watches <= FEW_WATCHES)


def decay(ages: Int64, half_life: float | None) -> Float64:
    """What watches of ages [n], in microseconds, count: 1, halved every `half_life` hours; None:
    always 1.
    """
    return np.ones(len(ages)) if half_life is None else np.exp2(-ages / (half_life * HOUR))


def decayed(
    watches: Histories,
    items: int,
    as_of: int,
    half_life: float | None,
    segments: Int32 | None = None,
) -> Float64:
    """Watches strictly before an instant, decayed, by segment of their user and item: [segments,
    items].

    `segments` int32 [users] are codes from 0; without them there is one segment, everybody.
    """
    kept = np.flatnonzero((watches.timestamps_us < as_of) & (watches.items < items))
    weights = decay(as_of - watches.timestamps_us[kept], half_life)
    if segments is None:
        return np.bincount(watches.items[kept], weights, minlength=items)[None, :].astype(
            np.float64
        )
    size = int(segments.max(initial=0)) + 1
    cells = segments[watches.users[kept]].astype(np.int64) * items + watches.items[kept]
    return (
        np.bincount(cells, weights, minlength=size * items).reshape(size, items).astype(np.float64)
    )


@dataclass(frozen=True)
class Requests:
    """Users [n], their vectors float32 [n, dim], their last watches int32 [n, m] newest first (0 =
    none), what they had seen, and how many watches they had, [n].
    """

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
    """What one generator names: `items` int32 [n, m] and `scores` float32 [n, m], best first; 0
    past a list's end.
    """

    items: Int32
    scores: Float32


class Answer(Protocol):
    """What a generator has to say of some requests."""

    def named(self, k: int) -> Named:
        """Its best k items of each user, none of them seen (but for the re-watch generator)."""

    def columns(self, rows: Intp, items: Int32) -> Columns:
        """What it says of any pairs [p] of a request's row and an item, as standardised columns of
        the blender, [p].
        """


class CandidateGenerator(Protocol):
    """A way to find items for users, as of an instant."""

    def answer(self, requests: Requests) -> Answer:
        """Its answer to some requests."""
