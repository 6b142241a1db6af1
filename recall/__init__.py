"""From histories to a few hundred candidates a user (Covington et al. 2016, section 3).

Odd people watch odd items and even people even ones. Two towers are trained, the second as of hour 12; what generators
name as of then is blended to three unseen items for persons 1 and 2:

    >>> import numpy as np
    >>> import pyarrow as pa
    >>> from features.histories import histories_of, samples_of
    >>> from features.instants import HOUR
    >>> from features.sides import Side
    >>> from features.vocabulary import Vocabulary
    >>> from features.windows import Windows
    >>> from recall import Course, Log, RecallConfig, Snapshot
    >>> from recall import blend_in_shards, build_generators, fit_blender, roll
    >>> from recall.index import index_of
    >>> from recall.inputs import Knowledge, Readings
    >>> users, hours = np.repeat(np.arange(1, 101), 12), np.tile(np.arange(12), 100)
    >>> items = 2 * np.random.default_rng(0).integers(1, 21, 1200) - users % 2
    >>> watches, ids = histories_of(users, items, hours * HOUR, 101), pa.array(range(1, 41))
    >>> catalogue, no_side = Vocabulary(ids, np.full(40, -1)), Side({}, {}, {})
    >>> cut = {"start": 0, "history_end": 8 * HOUR, "labels_end": 12 * HOUR, "holdout_end": 16 * HOUR}
    >>> windows = Windows(mode="time", clock="time", **cut)
    >>> config = RecallConfig(k=3, dim=8, depth=0, epochs=20, blocks=1, generators=("tower", "popular"))
    >>> readings = Readings(watches, None, no_side)
    >>> knowledge = Knowledge(readings, catalogue, None, no_side, timed=True)
    >>> towers, epochs = roll(Course(knowledge, samples_of(watches), windows, config, seed=0))
    >>> log, newest = Log(readings, watches, catalogue, no_side, windows), towers[-1]
    >>> blender = fit_blender(config, log, towers, seed=0).blender
    >>> index, people = index_of(newest.item_vectors, newest.catalogue), np.array([1, 2], np.int32)
    >>> snapshot = Snapshot(log, windows.labels_end, newest, index, people, blender.popularity)
    >>> (lists,) = blend_in_shards(build_generators(config, snapshot), blender, people, config)
    >>> (lists.items % 2).tolist()
    [[1, 1, 1], [0, 0, 0]]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recall.blender import blend_in_shards
    from recall.config import RecallConfig
    from recall.generators.base import Log, Snapshot
    from recall.generators.retrieval import build_generators
    from recall.train import Course, roll
    from recall.train_blender import fit_blender

__all__ = [
    "Course",
    "Log",
    "RecallConfig",
    "Snapshot",
    "blend_in_shards",
    "build_generators",
    "fit_blender",
    "roll",
]

_HOMES = {
    "Course": "recall.train",
    "Log": "recall.generators.base",
    "RecallConfig": "recall.config",
    "Snapshot": "recall.generators.base",
    "blend_in_shards": "recall.blender",
    "build_generators": "recall.generators.retrieval",
    "fit_blender": "recall.train_blender",
    "roll": "recall.train",
}


def __getattr__(name: str) -> Any:
    """A name of the face, imported when it is first asked for: the settings must not load Keras and faiss."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
