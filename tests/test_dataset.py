"""A data set in memory holds what the pipeline keeps as artefacts."""

from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features import (
    CleaningConfig,
    Dataset,
    InputError,
    SplitConfig,
    WorldConfig,
    read_dataset,
    simulate_into,
)
from features.schema import DAY
from funnel import context_of, make, request_for
from funnel.context import StepContext
from ranking import RankingConfig, fit_recommender

pytestmark = pytest.mark.slow

SMALL = {"users": 150, "items": 200, "topics": 8, "favourite_topics": 2.0, "days": 4}
WORLD = WorldConfig(**SMALL, users_a_day=5, items_a_day=20, impressions_a_day=1_500)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("world")
    simulate_into(place, WORLD)
    return place


@pytest.fixture(scope="module")
def kept(data: Path, tmp_path_factory: pytest.TempPathFactory) -> StepContext:
    """What the pipeline's steps read of the same log."""
    home = tmp_path_factory.mktemp("home")
    request = request_for("simulated", str(data), str(home), "run")
    for name in ("interactions", "split", "vocabulary", "impressions", "histories", "profiles"):
        make(name, request, lambda _: None)
    make("samples", request, lambda _: None)
    return context_of("towers", request, home)


@pytest.fixture(scope="module")
def dataset(data: Path) -> Dataset:
    return read_dataset("simulated", data)


def same(first: Any, second: Any) -> None:
    """Two dataclasses of arrays are equal, bit by bit."""
    for field in fields(first):
        np.testing.assert_equal(getattr(first, field.name), getattr(second, field.name))


def test_a_data_set_holds_what_the_pipeline_keeps(dataset: Dataset, kept: StepContext) -> None:
    assert dataset.split == kept.split
    assert dataset.unit == kept.unit
    assert dataset.users.ids.equals(kept.ids.users.ids)
    assert dataset.items.ids.equals(kept.ids.items.ids)
    same(dataset.impressions, kept.impressions)
    same(dataset.watches, kept.user_inputs.histories)
    same(dataset.user_features, kept.user_inputs.users)
    same(dataset.item_features, kept.model_inputs.side)


def test_its_features_are_those_of_the_pipeline(dataset: Dataset, kept: StepContext) -> None:
    items, as_of = np.arange(1, 50, dtype=np.int32), dataset.split.test_start
    ours, theirs = (each.features.item_block(items, as_of) for each in (dataset, kept))
    np.testing.assert_equal(dict(ours.numbers), dict(theirs.numbers))


def test_training_and_test_part_the_log(dataset: Dataset) -> None:
    training, test, split = dataset.training, dataset.test, dataset.split
    assert len(training.users) + len(test.users) == len(dataset.impressions.users)
    assert training.timestamps_us.max() < split.test_start <= test.timestamps_us.min()
    assert dataset.test_users.tolist() == sorted(set(test.users.tolist()))


def test_split_cleaning_and_the_latest_instant_are_arguments(data: Path) -> None:
    few = CleaningConfig(sample_users=40)
    dataset = read_dataset("simulated", data, SplitConfig(test_share=0.3), few)
    assert len(dataset.users) == 41
    split = dataset.split
    share = (split.test_end - split.test_start) / (split.test_end - split.start)
    # At least the share asked for, and from a midnight on (`features.calendar`): four days here.
    assert 0.3 <= share < 0.3 + 1 / 4
    assert split.test_start % DAY == 0
    with pytest.raises(InputError, match="in the future"):
        read_dataset("simulated", data, now=datetime(2025, 1, 2, tzinfo=UTC))


def test_a_log_of_clicks_alone_has_no_impressions_to_rank_by(tmp_path: Path) -> None:
    rows = [f"{user},{n},2024-05-{n:02d}" for user in (1, 2) for n in range(1, 20)]
    log = "\n".join(["user_id,item_id,timestamp", *rows])
    (tmp_path / "interactions.csv").write_text(log)
    dataset = read_dataset("canonical", tmp_path)
    assert dataset.unit == "watches"
    with pytest.raises(InputError, match="has clicks alone"):
        fit_recommender(dataset, {}, RankingConfig(), seed=0)
