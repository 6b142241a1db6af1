"""From histories to a few hundred candidates a user (Covington et al. 2016, section 3).

Odd people watch odd items and even people even ones. Two towers are trained, the second as of hour
12; what generators name as of then is blended to three unseen items for persons 1 and 2:

    >>> import numpy as np
    >>> import pyarrow as pa
    >>> from features.histories import histories_of, samples_of
    >>> from features.schema import HOUR
    >>> from features.side_features import SideFeatures
    >>> from features.vocabulary import Vocabulary
    >>> from features.split import Split
    >>> from recall import TrainingJob, Log, RecallConfig, Snapshot
    >>> from recall import blend_in_shards, build_generators, fit_blender, train_incrementally
    >>> from recall.index import index_of
    >>> from recall.inputs import ModelInputs, UserInputs
    >>> users, hours = np.repeat(np.arange(1, 101), 12), np.tile(np.arange(12), 100)
    >>> items = 2 * np.random.default_rng(0).integers(1, 21, 1200) - users % 2
    >>> watches, ids = histories_of(users, items, hours * HOUR, 101), pa.array(range(1, 41))
    >>> catalogue, no_side = Vocabulary(ids, np.full(40, -1)), SideFeatures({}, {}, {})
    >>> cut = {"start": 0, "label_start": 8 * HOUR, "test_start": 12 * HOUR, "test_end": 16 * HOUR}
    >>> split = Split(mode="time", clock="time", **cut)
    >>> generators = ("tower", "popular")
    >>> config = RecallConfig(k=3, dim=8, depth=0, epochs=20, blocks=1, generators=generators)
    >>> user_inputs = UserInputs(watches, None, no_side)
    >>> model_inputs = ModelInputs(user_inputs, catalogue, None, no_side, timed=True)
    >>> job = TrainingJob(model_inputs, samples_of(watches), split, config, seed=0)
    >>> towers, epochs = train_incrementally(job)
    >>> log, newest = Log(user_inputs, watches, catalogue, no_side, split), towers[-1]
    >>> blender = fit_blender(config, log, towers, seed=0).blender
    >>> index, people = index_of(newest.item_vectors, newest.catalogue), np.array([1, 2], np.int32)
    >>> snapshot = Snapshot(log, split.test_start, newest, index, people, blender.popularity)
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
    from recall.train import TrainingJob, train_incrementally
    from recall.train_blender import fit_blender

__all__ = [
    "Log",
    "RecallConfig",
    "Snapshot",
    "TrainingJob",
    "blend_in_shards",
    "build_generators",
    "fit_blender",
    "train_incrementally",
]

_HOMES = {
    "TrainingJob": "recall.train",
    "Log": "recall.generators.base",
    "RecallConfig": "recall.config",
    "Snapshot": "recall.generators.base",
    "blend_in_shards": "recall.blender",
    "build_generators": "recall.generators.retrieval",
    "fit_blender": "recall.train_blender",
    "train_incrementally": "recall.train",
}


def __getattr__(name: str) -> Any:
    """A name of the face, imported when it is first asked for: the settings must not load Keras and
    faiss.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
