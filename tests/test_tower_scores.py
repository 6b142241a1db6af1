"""Recall's columns of exposures: the newest tower finished by then, against brute force over the
catalogue.
"""

import numpy as np
import pytest

from features.histories import histories_of
from features.side_features import SideFeatures
from recall import tower_scores
from recall.inputs import UserInputs
from recall.tower import ItemFacts, Tower, TowerSpec
from recall.tower_scores import TowerScoreFeatures, rolled_columns

DIM, EDGES, SIZES = 3, (10, 20), (6, 9)
NO_SIDE = SideFeatures({}, {}, {})


def random_tower(as_of, items, seed):
    rng = np.random.default_rng(seed)
    shape = TowerSpec(as_of=as_of, items=items, dim=DIM, hidden=(), recency_windows=(4,))
    sizes = {
        "item_in": (items, DIM),
        "item_out": (items, DIM),
        "kernel0": (DIM, DIM),
        "bias0": (DIM,),
    }
    weights = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    return Tower(shape, weights, ItemFacts.plain(items))


@pytest.fixture(scope="module")
def world():
    """Two towers, watches of five users, and 60 exposures from before the first tower to after the
    second.
    """
    rng = np.random.default_rng(7)
    users, timestamps_us = np.sort(rng.integers(1, 6, 40)), rng.integers(0, 30, 40)
    order = np.lexsort((timestamps_us, users))
    user_inputs = UserInputs(
        histories_of(users[order], rng.integers(1, 9, 40), timestamps_us[order], 6), None, NO_SIDE
    )
    towers = [
        random_tower(edge, size, seed)
        for seed, (edge, size) in enumerate(zip(EDGES, SIZES, strict=True))
    ]
    exposures = (
        rng.integers(1, 6, 60).astype(np.int32),
        rng.integers(1, 11, 60).astype(np.int32),
        rng.integers(0, 30, 60),
    )
    return towers, user_inputs, *exposures


def brute_force(towers, user_inputs, user, item, timestamp_us):
    finished = [tower for tower in towers if tower.shape.as_of <= timestamp_us]
    if not finished or item >= finished[-1].shape.items:
        return np.nan, np.nan
    tower = finished[-1]
    vector = tower.user_vectors(
        user_inputs.inputs_at(tower.shape, np.array([user], np.int32), int(timestamp_us))
    )[0]
    catalogue = tower.item_vectors[1:].astype(np.float64) @ vector
    return catalogue[item - 1], (catalogue[item - 1] - catalogue.mean()) / catalogue.std()


def test_each_row_is_scored_by_the_newest_tower_finished_by_its_instant(world):
    towers, user_inputs, users, items, timestamps_us = world
    columns = rolled_columns(*world)
    expected = np.array(
        [
            brute_force(towers, user_inputs, *row)
            for row in zip(users, items, timestamps_us, strict=True)
        ]
    )
    assert np.isnan(expected[:, 0]).sum() > 5
    np.testing.assert_allclose(columns["recall_score"], expected[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(columns["recall_z"], expected[:, 1], rtol=1e-4, atol=1e-5)


def test_a_tower_speaks_from_its_own_instant_on(world):
    towers, user_inputs, *_ = world
    users, items = np.array([1, 1], np.int32), np.array([2, 2], np.int32)
    score = rolled_columns(towers, user_inputs, users, items, np.array([9, 10]))["recall_score"]
    assert np.isnan(score).tolist() == [True, False]


def test_an_item_that_came_after_the_tower_has_no_score(world):
    towers, user_inputs, *_ = world
    users, items = np.array([1, 1, 1], np.int32), np.array([5, 6, 0], np.int32)
    score = rolled_columns(towers, user_inputs, users, items, np.array([12, 12, 12]))[
        "recall_score"
    ]
    assert np.isnan(score).tolist() == [False, True, True]


def test_shards_do_not_change_the_columns(world, monkeypatch):
    whole = rolled_columns(*world)
    monkeypatch.setattr(tower_scores, "SHARD", 7)
    for name, values in rolled_columns(*world).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-5, atol=1e-6)


def test_a_catalogue_whose_scores_are_all_equal_has_finite_z():
    tower = random_tower(0, 5, 1)
    tower.weights["item_out"][:] = 1
    vectors = np.ones((1, DIM), np.float32)
    columns = TowerScoreFeatures(tower).columns(vectors, np.array([3.0]), np.array([0]))
    assert np.isfinite(columns["recall_z"]).all()


def test_a_score_stands_among_those_of_what_may_be_recommended():
    """Items that were never shown and are not listed have rows of noise."""
    tower = random_tower(0, 8, 1)
    listed = np.isin(np.arange(8), (0, 5, 6), invert=True)
    vectors = np.random.default_rng(3).normal(size=(2, DIM)).astype(np.float32)
    some = Tower(tower.shape, tower.weights, ItemFacts({}, tower.facts.values, listed))
    of_listed = vectors @ tower.item_vectors[listed].T
    found = TowerScoreFeatures(some).columns(vectors, np.array([1.0, 2.0]), np.array([0, 1]))[
        "recall_z"
    ]
    np.testing.assert_allclose(
        found, (np.array([1, 2]) - of_listed.mean(axis=1)) / of_listed.std(axis=1), rtol=1e-4
    )
