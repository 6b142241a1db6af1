"""Merged lists as of the instants at which towers were finished, for users whose next watches are known.

Those of the last instant before labels_end are the validation lists, on which the order of final lists is chosen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recall.candidates import Candidates
from recall.config import RecallConfig
from recall.generators.base import Log, Snapshot
from recall.generators.retrieval import build_generators
from recall.index import index_of
from recall.tower import Tower
from recall.train_blender import Cohort, Merge, cohorts, merged_shards

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledLists:
    """Lists of users [n]: `items` int32 and `scores` float32 [n, k] of the merge, best first; 0 and -inf past the end.

    They were made as of `since` [n]; what the user watched from then until `until` [n] says which items were watched.
    """

    users: Int32
    since: Int64
    until: Int64
    items: Int32
    scores: Float32

    def save(self, folder: Path) -> None:
        for field in fields(self):
            np.save(folder / f"label_{field.name}.npy", getattr(self, field.name))

    @classmethod
    def load(cls, folder: Path) -> "LabelledLists":
        arrays = {each.name: np.load(folder / f"label_{each.name}.npy", allow_pickle=False) for each in fields(cls)}
        return cls(**arrays)


def labelled_lists(
    config: RecallConfig, log: Log, towers: Sequence[Tower], merge: Merge, rng: np.random.Generator
) -> LabelledLists:
    """Lists of up to `label_users` users in all, as many as of each tower's instant but the last one's.

    They are merged by what the other instants taught, as a served list is: nobody has learnt from its own.
    """
    drawn = cohorts(log.readings.histories, towers, config.label_users, rng)
    return _joined([part for cohort in drawn for part in _of_cohort(config, log, cohort, merge)])


def validation_cohort(log: Log, towers: Sequence[Tower], most: int, rng: np.random.Generator) -> Cohort:
    """Up to `most` random users who watched something between the last two towers: on their lists a run chooses."""
    (cohort,) = cohorts(log.readings.histories, towers[-2:], most, rng)
    return cohort


def lists_of_cohort(config: RecallConfig, log: Log, cohort: Cohort, merge: Merge) -> Iterator[Candidates]:
    """A cohort's lists as of its instant, in shards of users, merged by what the other instants taught."""
    tower = cohort.tower
    index = index_of(tower.item_vectors, tower.catalogue)
    snapshot = Snapshot(log, cohort.since, tower, index, cohort.users, merge.popularity)
    return merged_shards(build_generators(config, snapshot), merge.without(cohort.since), cohort.users, config)


def _of_cohort(config: RecallConfig, log: Log, cohort: Cohort, merge: Merge) -> Iterator[LabelledLists]:
    for part in lists_of_cohort(config, log, cohort, merge):
        since, until = (np.full(len(part), instant) for instant in (cohort.since, cohort.until))
        yield LabelledLists(part.users, since, until, part.items, part.scores)


def _joined(parts: Sequence[LabelledLists]) -> LabelledLists:
    arrays = (np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(LabelledLists))
    return LabelledLists(*arrays)
