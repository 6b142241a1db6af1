"""From histories to a few hundred candidates a user (Covington et al. 2016, section 3).

Odd people watch odd items and even people even ones. Two towers are trained, the second as of hour
12; what generators name as of then is blended to three unseen items for persons 1 and 2:

    >>> import numpy as np
    >>> import pyarrow as pa
    >>> from features import Dataset
    >>> from features.impressions import Impressions
    >>> from features.schema import HOUR
    >>> from features.side_features import SideFeatures
    >>> from features.split import Split
    >>> from features.vocabulary import Vocabulary
    >>> from recall import RecallConfig, fit_retriever
    >>> users, hours = np.repeat(np.arange(1, 101), 12), np.tile(np.arange(12), 100)
    >>> items = 2 * np.random.default_rng(0).integers(1, 21, 1200) - users % 2
    >>> watched = {"clicked": np.ones(1200, bool), "completed": np.ones(1200, bool)}
    >>> rows = {"user": users, "item": items, "timestamp_us": hours * HOUR} | watched
    >>> log, no_side = Impressions.of_table(pa.table(rows)), SideFeatures({}, {}, {})
    >>> cut = {"start": 0, "label_start": 8 * HOUR, "test_start": 12 * HOUR, "test_end": 16 * HOUR}
    >>> split = Split(mode="time", clock="time", **cut)
    >>> ids = [Vocabulary(pa.array(range(1, n + 1)), np.full(n, -1)) for n in (100, 40)]
    >>> dataset = Dataset(split, *ids, log, no_side, no_side)
    >>> generators = ("tower", "popular")
    >>> config = RecallConfig(k=3, dim=8, depth=0, epochs=20, blocks=2, generators=generators)
    >>> retriever = fit_retriever(dataset, config, seed=0)
    >>> [tower.shape.as_of // HOUR for tower in retriever.towers]
    [6, 12]
    >>> candidates = retriever.candidates(np.array([1, 2], np.int32))
    >>> (candidates.items % 2).tolist()
    [[1, 1, 1], [0, 0, 0]]

`train_incrementally` trains the towers of a `TrainingJob`, and `fit_blender` fits what makes one
list of many; `popular_lists` are what lists must beat.
"""

from typing import TYPE_CHECKING

from features.lazy import lazy_names

if TYPE_CHECKING:
    from recall.candidates import Candidates
    from recall.config import RecallConfig
    from recall.generators.popular import popular_lists
    from recall.retriever import Retriever, fit_retriever
    from recall.train import TrainingJob, train_incrementally
    from recall.train_blender import fit_blender

__all__ = [
    "Candidates",
    "RecallConfig",
    "Retriever",
    "TrainingJob",
    "fit_blender",
    "fit_retriever",
    "popular_lists",
    "train_incrementally",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Candidates": "recall.candidates",
        "RecallConfig": "recall.config",
        "Retriever": "recall.retriever",
        "TrainingJob": "recall.train",
        "fit_blender": "recall.train_blender",
        "fit_retriever": "recall.retriever",
        "popular_lists": "recall.generators.popular",
        "train_incrementally": "recall.train",
    },
)
