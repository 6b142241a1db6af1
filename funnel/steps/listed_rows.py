"""Ranking rows of a log of clicks alone: recall's lists as of the towers' instants, and what was
clicked next.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from features.arrays import Flags, Float64, Int32, Int64, Intp
from features.random_streams import Stream, rng_of
from features.timeline import pair_keys
from funnel.context import StepContext, watched
from ranking.examples import MERGED, Exposures, thinned
from recall.labelled_lists import LabelledLists
from recall.tower_scores import rolled_columns

# Exposures, whether they were clicked, T, and how many each row stands for.
Labelled = tuple[Exposures, Flags, Float64, Float64]


@dataclass(frozen=True)
class Entries:
    """Items [n] of lists `row`, with the score they were blended by (NaN: they were not), and what
    became of them.

    `seconds` is T of the first click from the list's instant until the next tower's, 0 where there
    was none; `weight` is how many items an entry stands for.
    """

    row: Intp
    items: Int32
    merged: Float64
    clicked: Flags
    seconds: Float64
    weight: Float64

    def take(self, rows: Intp) -> "Entries":
        return Entries(*(getattr(self, field.name)[rows] for field in fields(self)))

    def with_others(self, others: "Entries") -> "Entries":
        """These and others, by list."""
        both = (
            np.append(getattr(self, field.name), getattr(others, field.name))
            for field in fields(self)
        )
        together = Entries(*both)
        return together.take(np.argsort(together.row, kind="stable"))


def rows_of_lists(context: StepContext) -> Labelled:
    """What recall listed and was clicked next, and what was not.

    The latter are of the lists too, thinned to `negatives_per_user`; without `hard_negatives` as
    many items of the catalogue, and then the blender's score, which these lack, is left out.
    """
    lists, config = LabelledLists.load(context.inputs["candidates"]), context.config.ranking
    rng, most = rng_of(context.config.seed, Stream.LISTED_NEGATIVES), config.negatives_per_user
    row, column = np.nonzero(lists.items)
    entries = _entries(
        context, lists, row, lists.items[row, column], lists.scores[row, column].astype(np.float64)
    )
    if config.hard_negatives:
        kept, weight = thinned(entries.clicked, entries.row, most, rng)
        entries = replace(entries.take(kept), weight=weight)
    else:
        entries = entries.take(np.flatnonzero(entries.clicked)).with_others(
            _any_items(context, lists, most, rng)
        )
    exposures = exposures_at(
        context, lists.users[entries.row], entries.items, lists.since[entries.row]
    )
    if config.hard_negatives:
        exposures = replace(exposures, recall=exposures.recall | {MERGED: entries.merged})
    return exposures, entries.clicked, entries.seconds, entries.weight


def exposures_at(
    context: StepContext, users: Int32, items: Int32, timestamps_us: Int64
) -> Exposures:
    """Exposures [n] with the columns of the towers that were finished by their instants."""
    return Exposures(
        users,
        items,
        timestamps_us,
        rolled_columns(context.towers, context.user_inputs, users, items, timestamps_us),
    )


def _any_items(
    context: StepContext, lists: LabelledLists, most: int, rng: np.random.Generator
) -> Entries:
    """Up to `most` random items for each list that its user did not go on to click.

    They are of the catalogue as it was when the list was made, uniformly, and stand for all of it.
    """
    row = np.repeat(np.arange(len(lists.users)), most)
    sizes = np.searchsorted(context.ids.items.first_seen, lists.since)[row]
    items = rng.integers(1, np.maximum(sizes, 1), endpoint=True).astype(np.int32)
    drawn = replace(
        _entries(context, lists, row, items, np.full(len(row), np.nan)), weight=sizes / most
    )
    return drawn.take(np.flatnonzero(~drawn.clicked))


def _entries(
    context: StepContext, lists: LabelledLists, row: Intp, items: Int32, merged: Float64
) -> Entries:
    """Items [n] of lists `row`, each standing for itself."""
    log, clicked, seconds = context.impressions, np.zeros(len(row), bool), np.zeros(len(row))
    for since, until in np.unique(np.stack([lists.since, lists.until], axis=1), axis=0):
        inside = log.take(
            np.flatnonzero(log.clicked & (log.timestamps_us >= since) & (log.timestamps_us < until))
        )
        pairs, first = np.unique(pair_keys(inside.users, inside.items), return_index=True)
        rows = np.flatnonzero(lists.since[row] == since)
        wanted = pair_keys(lists.users[row[rows]], items[rows])
        place = np.searchsorted(pairs, wanted)
        found = np.append(pairs, -1)[place] == wanted
        clicked[rows] = found
        seconds[rows[found]] = watched(context, inside.take(first))[place[found]]
    return Entries(row, items, merged, clicked, seconds, np.ones(len(row)))
