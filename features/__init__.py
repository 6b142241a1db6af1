"""From an interaction log to what models read: tables, split, vocabularies, histories, as-of
features.

A small made-up world is simulated, and its log read, checked, cut and indexed:

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from features import SplitConfig, WorldConfig, read_dataset, simulate_into
    >>> size = {"users": 200, "items": 200, "topics": 8, "favourite_topics": 2}
    >>> world = WorldConfig(**size, users_a_day=0, items_a_day=0, impressions_a_day=2_000, days=3)
    >>> with TemporaryDirectory() as folder:
    ...     rows = simulate_into(Path(folder), world)
    ...     dataset = read_dataset("simulated", Path(folder), SplitConfig(test_share=0.2))
    >>> 0 < len(dataset.test.users) < len(dataset.training.users) < rows
    True
    >>> dataset.watches.bags([1], [3], length=5).shape
    (1, 5)

Features are as of an instant. Nothing was known of an item when the log began:

    >>> features, split = dataset.features, dataset.split
    >>> shown = dataset.test.items[:1]
    >>> features.item_block(shown, split.start).numbers["item_shown"].tolist()
    [0.0]
    >>> bool(features.item_block(shown, split.test_start).numbers["item_shown"][0] > 0)
    True
"""

from typing import TYPE_CHECKING

from features.lazy import lazy_names

if TYPE_CHECKING:
    from features.asof_features import AsOfFeatures
    from features.config import CleaningConfig, SplitConfig
    from features.dataset import Dataset, read_dataset
    from features.errors import InputError
    from features.simulation.simulated_log import simulate_into
    from features.simulation.world import WorldConfig

__all__ = [
    "AsOfFeatures",
    "CleaningConfig",
    "Dataset",
    "InputError",
    "SplitConfig",
    "WorldConfig",
    "read_dataset",
    "simulate_into",
]

__getattr__ = lazy_names(
    __name__,
    {
        "AsOfFeatures": "features.asof_features",
        "CleaningConfig": "features.config",
        "Dataset": "features.dataset",
        "InputError": "features.errors",
        "SplitConfig": "features.config",
        "WorldConfig": "features.simulation.world",
        "read_dataset": "features.dataset",
        "simulate_into": "features.simulation.simulated_log",
    },
)
