"""Blended lists as of the instants at which towers were finished, for users whose next watches are
known.

Those of the last instant before test_start are the validation lists, on which the order of final
lists is chosen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from features.arrays import Float32, Int32, Int64
from recall.blender import Blender, blend_in_shards
from recall.candidates import Candidates
from recall.config import RecallConfig
from recall.generators.base import Log
from recall.generators.retrieval import build_generators
from recall.tower import Tower
from recall.train_blender import EvaluationSlice, draw_slices


@dataclass(frozen=True)
class LabelledLists:
    """Lists of users [n]: `items` int32 and `scores` float32 [n, k] of the blender, best first; 0,
    -inf past the end.

    They were made as of `since` [n]; what the user watched from then until `until` [n] says which
    items were watched.
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
        arrays = {
            each.name: np.load(folder / f"label_{each.name}.npy", allow_pickle=False)
            for each in fields(cls)
        }
        return cls(**arrays)


def labelled_lists(
    config: RecallConfig,
    log: Log,
    towers: Sequence[Tower],
    blender: Blender,
    rng: np.random.Generator,
) -> LabelledLists:
    """Lists of up to `label_users` users in all, as many as of each tower's instant but the last
    one's.

    They are blended by what was fitted on other instants, as a served list is: nobody's own watches
    order it.
    """
    drawn = draw_slices(log.user_inputs.histories, towers, config.label_users, rng)
    parts = [part for of in drawn for part in _label_slice(config, log, of, blender)]
    return LabelledLists(
        *(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(parts[0]))
    )


def validation_tower(towers: Sequence[Tower], label_start: int) -> Tower:
    """The tower from whose instant on a run chooses: the newest before the last that was finished
    by label_start, so that the validation window is as long as the test window, or longer.
    """
    early = [tower for tower in towers[:-1] if tower.shape.as_of <= label_start]
    return early[-1] if early else towers[0]


def draw_validation_slice(
    log: Log, towers: Sequence[Tower], most: int, rng: np.random.Generator
) -> EvaluationSlice:
    """Up to `most` random users who watched something in the validation window: on their lists a
    run chooses.
    """
    pair = [validation_tower(towers, log.split.label_start), towers[-1]]
    return draw_slices(log.user_inputs.histories, pair, most, rng)[0]


def blend_slice(
    config: RecallConfig, log: Log, of: EvaluationSlice, blender: Blender
) -> Iterator[Candidates]:
    """A slice's lists as of its beginning, in shards of users, blended by what was fitted on other
    instants.
    """
    generators = build_generators(config, of.snapshot(log, blender.popularity))
    return blend_in_shards(generators, blender.without(of.since, of.until), of.users, config)


def _label_slice(
    config: RecallConfig, log: Log, of: EvaluationSlice, blender: Blender
) -> Iterator[LabelledLists]:
    for part in blend_slice(config, log, of, blender):
        since, until = (np.full(len(part), timestamp_us) for timestamp_us in (of.since, of.until))
        yield LabelledLists(part.users, since, until, part.items, part.scores)
