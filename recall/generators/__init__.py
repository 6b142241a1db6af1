"""All generators as of an instant: who is in force, what they name for users, and what they say of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.ledger import Ledger
from features.sides import Side
from features.tables import CHANNEL
from features.vocabulary import Vocabulary
from features.windows import Windows
from recall.blender import Union, joined, union_of
from recall.candidates import nearest, pairs_before, pairs_between
from recall.config import GeneratorName, RecallConfig
from recall.generators.base import CandidateGenerator, Columns, Named, Requests, seen_only
from recall.generators.co_visitation import co_watched
from recall.generators.expected_watch import watch_time
from recall.generators.followed_channels import followed
from recall.generators.item_to_item import item_to_item
from recall.generators.new_items import is_new, new_items
from recall.generators.popular import HALF_LIVES, Popular, PopularAnswer, decayed, hit_share, shares
from recall.generators.rewatch import Rewatch
from recall.index import ItemIndex
from recall.inputs import Readings
from recall.tower import Tower

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Intp = npt.NDArray[np.intp]

LAST_WATCHES = 10
# Hours after which a watch counts half towards co-visitation.
CO_VISITATION_HALF_LIFE = 6.0
# They alone can fill a list.
FILLERS = ("tower", "popular")
SLAB = 1 << 18
# A column of users with more codes than this is not tried as a segment.
MOST_SEGMENTS = 64
JUDGED_AT = 50


@dataclass(frozen=True)
class Log:
    """What generators are made of: readings, clicks (what is seen), items and their side columns.

    `ledger` is None where the log does not say what was shown and not clicked.
    """

    readings: Readings
    clicks: Histories
    vocabulary: Vocabulary
    items: Side
    windows: Windows
    ledger: Ledger | None = None

    @property
    def timed(self) -> bool:
        return self.windows.clock == "time"

    @property
    def half_lives(self) -> tuple[float | None, ...]:
        """Of popularity; where there is only order, nothing is late."""
        return HALF_LIVES if self.timed else (None,)

    @property
    def span(self) -> int:
        """How long an item is new: as long as the label window."""
        return self.windows.labels_end - self.windows.history_end


@dataclass(frozen=True)
class Popularity:
    """Which half life (hours, None: none) and which column of users (None: everybody alike) popularity goes by."""

    half_life: float | None = None
    segment: str | None = None


def switched_off(config: RecallConfig, log: Log) -> dict[GeneratorName, str]:
    """The generators that are asked for and that the log cannot give, with the reason."""
    reasons: dict[GeneratorName, str] = {}
    if not log.timed:
        reasons["new_items"] = "the clock is order only, so nothing is new"
    if CHANNEL not in log.items.codes:
        reasons["followed_channels"] = f"items have no {CHANNEL}"
    if log.ledger is None:
        reasons["expected_watch"] = "the log does not say what was shown and not clicked"
    return {name: reason for name, reason in reasons.items() if name in config.generators}


def in_force(config: RecallConfig, log: Log) -> tuple[GeneratorName, ...]:
    """The generators that are asked for and that the log can give."""
    off = switched_off(config, log)
    return tuple(name for name in config.generators if name not in off)


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


@dataclass(frozen=True)
class Found:
    """The union of what generators name for users, its columns, and the tower's score of every pair, [p]."""

    union: Union
    columns: Columns
    tower_scores: Float32
    lengths: Int64


@dataclass(frozen=True)
class Generators:
    """The generators in force as of an instant, in order, and the tower they lean on."""

    log: Log
    as_of: int
    tower: Tower
    by_name: Mapping[GeneratorName, CandidateGenerator]
    wanted: Mapping[GeneratorName, int]

    def requests(self, users: Int32) -> Requests:
        histories = self.log.readings.histories
        ends = histories.ends(users, self.as_of)
        return Requests(
            users,
            self.tower.user_vectors(self.log.readings.inputs_at(self.tower.shape, users, self.as_of)),
            histories.bags(users, ends, LAST_WATCHES),
            pairs_before(users, self.log.clicks, self.as_of),
            ends - histories.offsets[users],
        )

    def find(self, users: Int32) -> Found:
        """What the generators name for users, and the columns that a merge reads."""
        requests = self.requests(users)
        answers = {name: generator.answer(requests) for name, generator in self.by_name.items()}
        union = union_of({name: answer.named(self.wanted[name]) for name, answer in answers.items()})
        scores = pair_scores(requests.vectors, self.tower.item_vectors, union.rows, union.items)
        said = [answer.columns(union.rows, union.items) for answer in answers.values()]
        columns = joined([standardised(scores, union), union.rank_columns, *said])
        return Found(union, columns, scores, requests.lengths)


def generators_as_of(
    config: RecallConfig, log: Log, tower: Tower, index: ItemIndex, as_of: int, users: Int32, popularity: Popularity
) -> Generators:
    """The generators in force as of an instant, for users who will be asked about; the tower was finished by then."""
    watches, catalogue = log.readings.histories, catalogue_of(log, tower, as_of)
    size, first_seen = len(catalogue), np.append(0, log.vocabulary.first_seen[: len(catalogue) - 1])
    lately = decayed(watches, size, as_of, popularity.half_life)[0]
    ever = decayed(watches, size, as_of, None)[0]
    new = catalogue & log.timed & is_new(first_seen, ever, as_of, log.span)
    bags = watches.bags(users, watches.ends(users, as_of), LAST_WATCHES)
    ledger = log.ledger
    makers: dict[GeneratorName, Callable[[], CandidateGenerator]] = {
        "tower": lambda: TowerGenerator(index),
        "item_to_item": lambda: item_to_item(tower.item_vectors, tower.catalogue, bags),
        "co_visitation": lambda: co_watched(watches, size, as_of, CO_VISITATION_HALF_LIFE if log.timed else None),
        "popular": lambda: popular_generator(log, catalogue, as_of, popularity),
        "followed_channels": lambda: followed(log.items.codes[CHANNEL][:size], lately, new),
        "new_items": lambda: new_items(first_seen, new, tower.item_vectors, as_of),
        "rewatch": Rewatch,
    }
    if ledger is not None:
        makers["expected_watch"] = lambda: watch_time(ledger, catalogue, as_of)
    names = in_force(config, log)
    deep = max(config.k, config.generator_items)
    wanted = {name: deep if name in FILLERS else config.generator_items for name in names}
    return Generators(log, as_of, tower, {name: makers[name]() for name in names}, wanted)


def catalogue_of(log: Log, tower: Tower, as_of: int) -> Flags:
    """Which items may be named as of an instant, flags over the indexes that existed by then.

    Of those that the tower knows what it lists; of those that came later what had been shown.
    """
    catalogue = log.vocabulary.shown_as_of(as_of)[: log.vocabulary.size_as_of(as_of)]
    catalogue[: tower.shape.items] = np.isin(np.arange(tower.shape.items), tower.catalogue)[: len(catalogue)]
    return catalogue


def popular_generator(log: Log, catalogue: Flags, as_of: int, popularity: Popularity) -> Popular:
    """Popularity of the items that may be named as of an instant, by a choice of half life and segment."""
    watches, size = log.readings.histories, len(catalogue)
    whole = {_half_life_name(h): shares(decayed(watches, size, as_of, h))[0] for h in log.half_lives}
    return replace(_popular_alone(log, catalogue, as_of, popularity), by_half_life=whole)


def _popular_alone(log: Log, catalogue: Flags, as_of: int, popularity: Popularity) -> Popular:
    """What popular lists need, without the columns."""
    everybody = np.zeros(len(log.readings.histories.offsets) - 1, np.int32)
    segments = log.readings.users.codes[popularity.segment] if popularity.segment else everybody
    counts = decayed(log.readings.histories, len(catalogue), as_of, popularity.half_life, segments)
    return Popular(shares(counts), catalogue, segments, {})


def chosen_popularity(log: Log, cohorts: Sequence[tuple[Int32, int, int]]) -> Popularity:
    """The half life, and then the segment, whose popular lists hit most of what users watched after.

    Each cohort is users and two instants: lists are as of the first, and hit what was watched before the second.
    """
    rounds = [_Round(log, *cohort) for cohort in cohorts if len(cohort[0])]

    def hits(popularity: Popularity) -> float:
        return sum(each.hit_share(popularity) for each in rounds)

    alike = max((Popularity(half_life) for half_life in log.half_lives), key=hits)
    codes = {name: size for name, size in log.readings.users.sizes.items() if size <= MOST_SEGMENTS}
    return max((alike, *(Popularity(alike.half_life, name) for name in codes)), key=hits)


class _Round:
    """Users who are shown popular lists as of one instant, and what they watched before another."""

    def __init__(self, log: Log, users: Int32, since: int, until: int) -> None:
        self.log, self.since = log, since
        self.catalogue = log.vocabulary.shown_as_of(since)[: log.vocabulary.size_as_of(since)]
        self.watched = pairs_between(users, log.readings.histories, since, until)
        self.requests = seen_only(users, pairs_before(users, log.clicks, since))

    def hit_share(self, popularity: Popularity) -> float:
        generator = _popular_alone(self.log, self.catalogue, self.since, popularity)
        return hit_share(PopularAnswer(generator, self.requests), self.watched, JUDGED_AT)


def _half_life_name(half_life: float | None) -> str:
    return "popular_ever" if half_life is None else f"popular_{half_life:g}h"


def pair_scores(vectors: Float32, item_vectors: Float32, rows: Intp, items: Int32) -> Float32:
    """The tower's score of pairs [p], NaN of an item that it does not know; in slabs."""
    scores = np.full(len(rows), np.nan, np.float32)
    known = np.flatnonzero(items < len(item_vectors))
    for at in range(0, len(known), SLAB):
        slab = known[at : at + SLAB]
        scores[slab] = np.einsum("nd,nd->n", vectors[rows[slab]], item_vectors[items[slab]])
    return scores


def standardised(scores: Float32, union: Union) -> Columns:
    """The tower's scores less their mean over the user's union, over their deviation; unknown items stand at 0."""
    known = ~np.isnan(scores)
    values, rows = np.where(known, scores, 0).astype(np.float64), union.rows
    counts = np.maximum(np.bincount(rows, known, union.users), 1)
    mean = np.bincount(rows, values, union.users) / counts
    away = np.where(known, values - mean[rows], 0)
    spread = np.sqrt(np.bincount(rows, away**2, union.users) / counts)
    return {
        "tower": (away / np.maximum(spread[rows], 1e-6)).astype(np.float32),
        "tower_unknown": (~known).astype(np.float32),
    }
