"""What a run is judged by: its lists, the baselines' lists for the same users, and what they went on to watch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.instants import DAY
from features.tables import PUBLISHED_AT
from funnel.work import Impressions, Work, held_out, saved_candidates, watched
from recall.metrics import Holdout
from recall.popular import popular_lists, popularity

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt16 = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Judged:
    """The lists of a run, and what their users went on to watch."""

    work: Work

    @cached_property
    def users(self) -> Int32:
        return saved_candidates(self.work.inputs["candidates"]).users

    @cached_property
    def final(self) -> Int32:
        """Items of the final lists, [users, top_k]."""
        items: Int32 = np.load(self.work.inputs["recommendations"] / "items.npy")
        return items

    @cached_property
    def ranked(self) -> Int32:
        """Items of the lists before the re-rank, [users, top_k]; the final ones where there was none."""
        path = self.work.inputs["recommendations"] / "ranked_items.npy"
        items: Int32 = np.load(path) if path.exists() else self.final
        return items

    @cached_property
    def candidates(self) -> Int32:
        """Items of recall's lists in recall's order, [users, k]."""
        return saved_candidates(self.work.inputs["candidates"]).items

    @cached_property
    def pre_ranked(self) -> Int32:
        """Items that pre-rank left to the ranker, [users, keep]; the candidates where it is off."""
        path = self.work.inputs["recommendations"] / "pre_ranked_items.npy"
        items: Int32 = np.load(path) if path.exists() else self.candidates
        return items

    @cached_property
    def popular(self) -> Int32:
        """Items of popularity's lists, [users, k]."""
        return self._most_watched(self.counts)

    @cached_property
    def popular_hour(self) -> Int32:
        """Items of the lists of the last hour's popularity, [users, k]; only where the clock tells time."""
        return self._most_watched(self._watches(self.catalogue, hours=1))

    @cached_property
    def channel_ranks(self) -> Mapping[str, UInt16]:
        """At which rank each channel named each candidate, 0 = not, [users, k]."""
        return saved_candidates(self.work.inputs["candidates"]).ranks

    @property
    def timed(self) -> bool:
        """Whether the clock tells time, not only order."""
        return self.work.windows.clock == "time"

    @property
    def catalogue(self) -> int:
        """Indexes that existed before labels_end, nobody included."""
        return self.work.ids.items.size_as_of(self.work.windows.labels_end)

    @cached_property
    def counts(self) -> Float64:
        """Completed watches by item lately, before labels_end."""
        return self._watches(self.catalogue, self.work.config.report.popularity_hours if self.timed else None)

    @cached_property
    def watches_of_items(self) -> Float64:
        """All completed watches before labels_end by item of the whole vocabulary, also of items still unknown then."""
        return self._watches(len(self.work.ids.items), hours=None)

    @cached_property
    def watches_of_users(self) -> Int64:
        """Completed watches before labels_end of each user with a list."""
        histories = self.work.readings.histories
        return histories.ends(self.users, self.work.windows.labels_end) - histories.offsets[self.users]

    @cached_property
    def days(self) -> Float64:
        """Each item's age in days at labels_end, by index; 0 or less = not there yet, -inf for nobody.

        An item is there when the vocabulary knows it by then; its age counts from its publication, or from its first
        showing where that is earlier or all that is known. On the order clock it tells only whether an item was there.
        """
        labels_end = self.work.windows.labels_end
        born = np.append(np.inf, self.work.ids.items.first_seen)
        published = self.work.knowledge.side.numbers.get(PUBLISHED_AT) if self.timed else None
        if published is not None:
            born = np.where(born < labels_end, np.fmin(born, published), born)
        return (labels_end - born) / DAY

    @cached_property
    def impressions(self) -> Impressions:
        """The holdout's impressions."""
        log = self.work.impressions
        return log.take(np.flatnonzero(held_out(log, self.work.windows)))

    @cached_property
    def completed(self) -> Holdout:
        """Distinct items completed by each user with a list."""
        rows = self.impressions
        return _holdout(self.users, rows.users[rows.completed], rows.items[rows.completed])

    @cached_property
    def clicked(self) -> tuple[Holdout, Float64]:
        """Every click of the holdout with its seconds (or watches, in the log's unit), repeats included."""
        rows = self.impressions.take(np.flatnonzero(self.impressions.clicked))
        order = np.argsort(rows.users, kind="stable")
        offsets = np.searchsorted(rows.users[order], np.append(self.users, np.iinfo(np.int32).max))
        return Holdout(offsets.astype(np.int64), rows.items[order]), watched(self.work, rows)[order]

    def _watches(self, items: int, hours: float | None) -> Float64:
        return popularity(self.work.readings.histories, items, self.work.windows.labels_end, hours)

    def _most_watched(self, counts: Float64) -> Int32:
        as_of, k = self.work.windows.labels_end, self.work.config.recall.k
        return popular_lists(counts, self.users, self._seen, as_of, k).items

    @cached_property
    def _seen(self) -> Histories:
        return Histories.load(self.work.inputs["histories"] / "clicks")


def cutoffs(at: Sequence[int], length: int) -> list[int]:
    """At which places lists of a length are judged: those asked for that they reach, else their whole length."""
    return [k for k in at if k <= length] or [length]


def mean(values: Float64) -> float:
    """The mean of what is not NaN; NaN where nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _holdout(users: Int32, watchers: Int32, items: Int32) -> Holdout:
    """Distinct (user, item) pairs as a holdout in the order of `users`, which ascend."""
    pairs = np.unique(np.stack([watchers, items], axis=1), axis=0)
    offsets = np.searchsorted(pairs[:, 0], np.append(users, np.iinfo(np.int32).max))
    return Holdout(offsets.astype(np.int64), pairs[:, 1].astype(np.int32))
