"""What a run is judged by: its lists, the baselines' lists for the same users, and what they went on to watch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.instants import DAY
from features.tables import PUBLISHED_AT
from funnel.metrics import listed_seconds_at
from funnel.work import Impressions, Work, held_out, saved_candidates, watched
from ranking.list_order import Gains
from recall.baselines import ease_fits, ease_lists, item_knn_lists
from recall.generators.popular import counts_by_span, popular_lists_by_span, popularity
from recall.metrics import Holdout

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt16 = npt.NDArray[np.uint16]

# The lengths at which lists are compared.
JUDGED_AT = (10, 50)
LATELY_HOURS = 24.0


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
    def popular_by_span(self) -> dict[str, Int32]:
        """Items of popularity's lists, by how far back it counts, [users, k] each."""
        as_of, k = self.work.windows.labels_end, self.work.config.recall.k
        counts = counts_by_span(self.work.readings.histories, self.catalogue, as_of, self.timed)
        return popular_lists_by_span(counts, self.users, self._seen, as_of, k)

    @cached_property
    def popular_span(self) -> str:
        """The span whose lists hold most of what was watched in the holdout: no baseline is a straw man."""
        return max(self.popular_by_span, key=lambda name: self.gains(self.popular_by_span[name]).log_total)

    @property
    def popular(self) -> Int32:
        """Items of popularity's lists over its best span, [users, k]."""
        return self.popular_by_span[self.popular_span]

    @cached_property
    def baselines(self) -> dict[str, Int32]:
        """Items of the lists that final ones must beat, by name, [users, k] each: recall's order, popularity, item-kNN
        and, where the catalogue is small enough, EASE."""
        watches, as_of, k = self.work.readings.histories, self.work.windows.labels_end, self.work.config.recall.k
        lists = {"recall": np.asarray(self.candidates), "popularity": self.popular}
        given = (watches, self.catalogue, self.users, self._seen, as_of, k)
        lists["item_knn"] = item_knn_lists(*given).items
        return lists | ({"ease": ease_lists(*given).items} if ease_fits(watches, self.catalogue, as_of) else {})

    def gains(self, items: Int32) -> Gains:
        """What lists hold of what their users went on to watch, at the lengths that lists are compared at."""
        clicks, seconds = self.clicked
        lengths = cutoffs(JUDGED_AT, self.work.config.ranking.top_k)
        return Gains({k: listed_seconds_at(k, items, clicks, seconds) for k in lengths})

    @cached_property
    def generator_ranks(self) -> Mapping[str, UInt16]:
        """At which rank each generator named each candidate, 0 = not, [users, k]."""
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
        """Completed watches by item in the last day before labels_end; on an order clock in all."""
        return self._watches(self.catalogue, LATELY_HOURS if self.timed else None)

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
        windows = self.work.windows
        return clicks_between(self.work, self.users, windows.labels_end, windows.holdout_end)

    @property
    def clicked_seconds(self) -> Float64:
        """Seconds (or watches) of the holdout by user, [users]."""
        clicks, seconds = self.clicked
        return np.bincount(clicks.rows, seconds, clicks.users).astype(np.float64)

    def _watches(self, items: int, hours: float | None) -> Float64:
        return popularity(self.work.readings.histories, items, self.work.windows.labels_end, hours)

    @cached_property
    def _seen(self) -> Histories:
        return Histories.load(self.work.inputs["histories"] / "clicks")


def clicks_between(work: Work, users: Int32, since: int, until: int) -> tuple[Holdout, Float64]:
    """What users [n], ascending, clicked from one instant to before another, repeats included, and T of each."""
    log = work.impressions
    inside = log.clicked & (log.instants >= since) & (log.instants < until)
    rows = log.take(np.flatnonzero(inside & np.isin(log.users, users)))
    order = np.argsort(rows.users, kind="stable")
    offsets = np.searchsorted(rows.users[order], np.append(users, np.iinfo(np.int32).max))
    return Holdout(offsets.astype(np.int64), rows.items[order]), watched(work, rows)[order]


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
