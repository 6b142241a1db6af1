"""What a run is evaluated on: its lists, the baselines' lists for the same users, and what they
went on to watch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.arrays import Flags, Float64, Int32, Int64, UInt16
from features.histories import Histories
from features.impressions import Impressions
from features.schema import DAY, PUBLISHED_AT
from funnel.context import StepContext, in_test, saved_candidates, watched
from funnel.evaluation.list_metrics import gains_of, relevant_of
from ranking.list_order import Gains
from recall.baselines import LogBefore, ease_fits, ease_lists, item_knn_lists
from recall.candidates import pairs_before
from recall.generators.popular import counts_by_span, popular_lists_by_span, popularity
from recall.metrics import RelevantItems

# The lengths at which lists are compared.
JUDGED_AT = (10, 50)


@dataclass(frozen=True)
class EvaluationData:
    """The lists of a run, and what their users went on to watch."""

    context: StepContext

    @cached_property
    def users(self) -> Int32:
        return saved_candidates(self.context.inputs["candidates"]).users

    @cached_property
    def final(self) -> Int32:
        """Items of the final lists, [users, top_k]."""
        items: Int32 = np.load(self.context.inputs["recommendations"] / "items.npy")
        return items

    @cached_property
    def ranked(self) -> Int32:
        """Items of the lists before the re-rank, [users, top_k]; the final ones where there was
        none.
        """
        path = self.context.inputs["recommendations"] / "ranked_items.npy"
        items: Int32 = np.load(path) if path.exists() else self.final
        return items

    @cached_property
    def candidates(self) -> Int32:
        """Items of recall's lists in recall's order, [users, k]."""
        return saved_candidates(self.context.inputs["candidates"]).items

    @cached_property
    def pre_ranked(self) -> Int32:
        """Items that pre-rank left to the ranker, [users, keep]; the candidates where it is off."""
        path = self.context.inputs["recommendations"] / "pre_ranked_items.npy"
        items: Int32 = np.load(path) if path.exists() else self.candidates
        return items

    @cached_property
    def popular_by_span(self) -> dict[str, Int32]:
        """Items of popularity's lists, by how far back it counts, [users, k] each."""
        as_of, k = self.context.split.test_start, self.context.config.recall.k
        return popular_lists_by_span(self._counts_by_span, self.users, self._seen, as_of, k)

    @cached_property
    def _counts_by_span(self) -> dict[str, Float64]:
        return counts_by_span(
            self.context.user_inputs.histories,
            self.catalogue,
            self.context.split.test_start,
            self.timed,
        )

    @cached_property
    def popular_span(self) -> str:
        """The span whose lists hold most of what was watched in the test window: no baseline is a
        straw man.
        """
        return max(
            self.popular_by_span, key=lambda name: self.gains(self.popular_by_span[name]).log_total
        )

    @property
    def popular(self) -> Int32:
        """Items of popularity's lists over its best span, [users, k]."""
        return self.popular_by_span[self.popular_span]

    @cached_property
    def baselines(self) -> dict[str, Int32]:
        """Items of the lists that final ones must beat, by name, [users, k] each: recall's order,
        popularity, item-kNN and, where the catalogue is small enough, EASE.
        """
        lists = {"recall": np.asarray(self.candidates), "popularity": self.popular}
        log, k = self.log_before, self.context.config.recall.k
        lists["item_knn"] = item_knn_lists(log, self.users, k).items
        return lists | ({"ease": ease_lists(log, self.users, k).items} if ease_fits(log) else {})

    @property
    def log_before(self) -> LogBefore:
        """What all lists are made of: the log before test_start."""
        histories, as_of = self.context.user_inputs.histories, self.context.split.test_start
        return LogBefore(histories, self._seen, self.catalogue, as_of)

    def gains(self, items: Int32) -> Gains:
        """What lists hold of what their users went on to watch, at the lengths that lists are
        compared at.
        """
        clicks, seconds = self.clicked
        lengths = cutoffs(JUDGED_AT, self.context.config.ranking.top_k)
        return gains_of(lengths, items, clicks, seconds)

    @cached_property
    def generator_ranks(self) -> Mapping[str, UInt16]:
        """At which rank each generator named each candidate, 0 = not, [users, k]."""
        return saved_candidates(self.context.inputs["candidates"]).ranks

    @property
    def timed(self) -> bool:
        """Whether the clock tells time, not only order."""
        return self.context.split.clock == "time"

    @property
    def catalogue(self) -> int:
        """Indexes that existed before test_start, padding included."""
        return self.context.ids.items.size_as_of(self.context.split.test_start)

    @property
    def counts(self) -> Float64:
        """Completed watches by item in the span of the popularity baseline before test_start."""
        return self._counts_by_span[self.popular_span]

    @cached_property
    def watches_of_items(self) -> Float64:
        """All completed watches before test_start by item of the whole vocabulary, also of items
        still unknown then.
        """
        return popularity(
            self.context.user_inputs.histories,
            len(self.context.ids.items),
            self.context.split.test_start,
        )

    @cached_property
    def watches_of_users(self) -> Int64:
        """Completed watches before test_start of each user with a list."""
        histories = self.context.user_inputs.histories
        return (
            histories.ends(self.users, self.context.split.test_start)
            - histories.offsets[self.users]
        )

    @cached_property
    def days(self) -> Float64:
        """Each item's age in days at test_start, by index; 0 or less = not there yet, -inf for
        nobody.

        An item is there when the vocabulary knows it by then; its age counts from its publication,
        or from its first showing where that is earlier or all that is known. On the order clock it
        tells only whether an item was there.
        """
        test_start = self.context.split.test_start
        born = np.append(np.inf, self.context.ids.items.first_seen)
        published = self.context.model_inputs.side.numbers.get(PUBLISHED_AT) if self.timed else None
        if published is not None:
            born = np.where(born < test_start, np.fmin(born, published), born)
        return (test_start - born) / DAY

    @cached_property
    def impressions(self) -> Impressions:
        """The test window's impressions."""
        log = self.context.impressions
        return log.take(np.flatnonzero(in_test(log, self.context.split)))

    @cached_property
    def completed(self) -> RelevantItems:
        """Distinct items completed by each user with a list."""
        rows = self.impressions
        return _relevant(self.users, rows.users[rows.completed], rows.items[rows.completed])

    @cached_property
    def clicked(self) -> tuple[RelevantItems, Float64]:
        """Every click of the test window with its seconds (or watches, in the log's unit), repeats
        included.
        """
        split = self.context.split
        return clicks_between(self.context, self.users, split.test_start, split.test_end)

    @property
    def clicked_seconds(self) -> Float64:
        """Seconds (or watches) of the test window by user, [users]."""
        clicks, seconds = self.clicked
        return np.bincount(clicks.rows, seconds, clicks.users).astype(np.float64)

    @cached_property
    def repeats(self) -> Flags:
        """Which of the `completed` their user had clicked before test_start already."""
        seen = pairs_before(self.users, self._seen, self.context.split.test_start)
        return seen.holds(self.completed.rows, self.completed.items)

    @cached_property
    def _seen(self) -> Histories:
        return Histories.load(self.context.inputs["histories"] / "clicks")


def clicks_between(
    context: StepContext, users: Int32, since: int, until: int
) -> tuple[RelevantItems, Float64]:
    """What users [n], ascending, clicked from one instant to before another, repeats included, and
    T of each.
    """
    inside = context.impressions.between(since, until)
    clicks, rows = relevant_of(users, inside.take(inside.clicked))
    return clicks, watched(context, rows)


def cutoffs(at: Sequence[int], length: int) -> list[int]:
    """At which places lists of a length are evaluated: those asked for that they reach, else their
    whole length.
    """
    return [k for k in at if k <= length] or [length]


def mean(values: Float64) -> float:
    """The mean of what is not NaN; NaN where nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _relevant(users: Int32, watchers: Int32, items: Int32) -> RelevantItems:
    """Distinct (user, item) pairs as relevant items in the order of `users`, which ascend."""
    pairs = np.unique(np.stack([watchers, items], axis=1), axis=0)
    offsets = np.searchsorted(pairs[:, 0], np.append(users, np.iinfo(np.int32).max))
    return RelevantItems(offsets.astype(np.int64), pairs[:, 1].astype(np.int32))
