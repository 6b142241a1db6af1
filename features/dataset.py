"""A log as models read it, all of it in memory: for notebooks, and for logs that fit there.

The pipeline keeps the same parts as artefacts, one step each.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import ibis
import numpy as np

from features.arrays import Int32
from features.asof_features import AsOfFeatures
from features.config import CleaningConfig, SplitConfig
from features.data.ingest import ingest
from features.histories import Histories
from features.impressions import Impressions, Unit, as_of_features_of, unit_of
from features.requests import with_requests
from features.schema import ITEM, USER
from features.side_features import SideFeatures, category_values, side_features_of
from features.split import Split
from features.split_log import log_until_test_end, split_of
from features.tables import Tables, engine
from features.vocabulary import Vocabulary, impressions_of, item_vocabulary_of, vocabulary_of

DEFAULT_SPLIT, DEFAULT_CLEANING = SplitConfig(), CleaningConfig()


@dataclass(frozen=True)
class Dataset:
    """A cleaned log up to `split.test_end`, in indexes, and the side features of users and items.

    Searches are left out.
    """

    split: Split
    users: Vocabulary
    items: Vocabulary
    impressions: Impressions
    user_features: SideFeatures
    item_features: SideFeatures

    @cached_property
    def watches(self) -> Histories:
        """Completed watches: what towers read and predict."""
        return self.impressions.histories(self.impressions.completed, len(self.users))

    @cached_property
    def clicks(self) -> Histories:
        """What is seen: no candidate is among it."""
        return self.impressions.histories(self.impressions.clicked, len(self.users))

    @cached_property
    def unit(self) -> Unit:
        """What T is counted in."""
        log = self.impressions
        return unit_of(log.clicked, log.seconds, log.timestamps_us < self.split.test_start)

    @cached_property
    def features(self) -> AsOfFeatures:
        """The as-of features, of the log whole: each is of what came before the row it is for."""
        return as_of_features_of(
            self.impressions, self.user_features, self.item_features, self.split, self.unit
        )

    @property
    def training(self) -> Impressions:
        """The impressions before `test_start` whose watches had ended by then."""
        ended_us = self.features.log.events.ended_us
        return self.impressions.ended_by(self.split.test_start, ended_us)

    @property
    def test(self) -> Impressions:
        """The impressions of the test window."""
        return self.impressions.between(self.split.test_start, self.split.test_end)

    @property
    def test_users(self) -> Int32:
        """Who is there in the test window, ascending."""
        return np.unique(self.test.users)


def read_dataset(
    source: str,
    data: Path,
    split: SplitConfig = DEFAULT_SPLIT,
    cleaning: CleaningConfig = DEFAULT_CLEANING,
    request_seconds: float = 0,
    now: datetime | None = None,
) -> Dataset:
    """Check, clean and index a folder of a published layout (`docs/data.md`).

    InputError where the input is at fault, or cannot be cut so; `now` (None: the clock's) is the
    instant after which nothing can have happened.
    """
    with TemporaryDirectory() as folder:
        ingest(source, data, Path(folder), cleaning, now or datetime.now(UTC))
        return dataset_of(_tables_in(Path(folder)), split, request_seconds)


def dataset_of(tables: Tables, config: SplitConfig, request_seconds: float = 0) -> Dataset:
    """Cleaned tables, interactions with `completed`, cut and indexed; where they have no
    `request_id`, rows of a user within `request_seconds` of the first are one request.
    """
    split = split_of(tables.interactions, config)
    log = log_until_test_end(tables.interactions, split)
    users, items = vocabulary_of(log, USER), item_vocabulary_of(log, tables.items, split)
    indexed = impressions_of(log, ibis.memtable(users.table), ibis.memtable(items.table))
    values = category_values(tables.users, USER, users)
    return Dataset(
        split,
        users,
        items,
        Impressions.of_table(with_requests(indexed.to_pyarrow(), request_seconds)),
        side_features_of(tables.users, USER, users),
        side_features_of(tables.items, ITEM, items, values),
    )


def _tables_in(folder: Path) -> Tables:
    """What `ingest` wrote into a folder, read by one engine."""
    backend = engine()
    names = ("interactions", "items", "users", "searches")
    paths = {name: folder / f"{name}.parquet" for name in names}
    return Tables(
        **{name: backend.read_parquet(path) for name, path in paths.items() if path.exists()}
    )
