"""What a tower under training is evaluated on: full lists by brute force over later watches."""

import numpy as np
import pytest

from features.histories import histories_of, samples_of
from features.side_features import SideFeatures
from recall import validator
from recall.inputs import UserInputs
from recall.tower import ItemFacts, Tower, TowerSpec
from recall.validator import Validator, ranks, validator_of

USERS, ITEMS, KNOWN, DIM = 30, 40, 33, 4
UNLISTED = (3, 4, 20)


@pytest.fixture(scope="module")
def user_inputs():
    """Watches with repetitions, of items the tower knows and of later ones."""
    rng = np.random.default_rng(0)
    users, timestamps_us = np.sort(rng.integers(1, USERS, 600)), rng.integers(0, 100, 600)
    order = np.lexsort((timestamps_us, users))
    watches = histories_of(users[order], rng.integers(1, ITEMS, 600), timestamps_us[order], USERS)
    return UserInputs(watches, None, SideFeatures({}, {}, {}))


def random_tower(**fields):
    rng = np.random.default_rng(1)
    shape = TowerSpec(
        **{"as_of": 60, "items": KNOWN, "dim": DIM, "hidden": (), "recency_windows": (4,)} | fields
    )
    sizes = {
        "item_in": (KNOWN, DIM),
        "item_out": (KNOWN, DIM),
        "kernel0": (DIM, DIM),
        "bias0": (DIM,),
    }
    weights = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    listed = np.isin(np.arange(KNOWN), (0, *UNLISTED), invert=True)
    return Tower(shape, weights, ItemFacts({}, np.zeros((KNOWN, 0), np.float32), listed))


def a_validator(user_inputs):
    """A validator on all watches from instant 60 on."""
    return validator_of(
        user_inputs, samples_of(user_inputs.histories), 60, 1000, np.random.default_rng(2)
    )


def place_by_loop(tower, user_inputs, position):
    """The place of a watch's item in the list of its moment, None where it is not in it."""
    log, items = user_inputs.histories, list(range(1, KNOWN))
    user, timestamp_us = log.users[position], int(log.timestamps_us[position])
    watched = set(log.items[(log.users == user) & (log.timestamps_us < timestamp_us)].tolist())
    vector = tower.user_vectors(
        user_inputs.inputs_at(tower.shape, np.array([user], np.int32), timestamp_us)
    )[0]
    on_offer = [item for item in items if item not in watched and item not in UNLISTED]
    best_first = sorted(on_offer, key=lambda item: -(tower.item_vectors[item] @ vector))
    item = int(log.items[position])
    return best_first.index(item) + 1 if item in best_first else None


@pytest.mark.parametrize("metric", ["dot", "cosine"])
@pytest.mark.parametrize("cells", [1 << 25, 5 * KNOWN, 1])
def test_ranks_are_places_in_full_lists_without_what_was_watched(
    user_inputs, monkeypatch, metric, cells
):
    monkeypatch.setattr(validator, "JUDGED_CELLS", cells)
    tower, all_later = random_tower(metric=metric), a_validator(user_inputs)
    expected = [place_by_loop(tower, user_inputs, position) for position in all_later.positions]
    found = all_later.ranks(tower)
    assert [rank if rank <= KNOWN else None for rank in found.tolist()] == expected
    assert 20 < expected.count(None) < len(expected) / 1.5
    monkeypatch.setattr(validator, "JUDGED_AT", 5)
    assert all_later.hit_rate(tower) == np.mean(
        [place is not None and place <= 5 for place in expected]
    )


def test_what_cannot_be_offered_never_counts(user_inputs):
    """Unlisted items, items of later than the tower, and what the user had watched miss at any
    length of list.
    """
    log, tower = user_inputs.histories, random_tower()
    positions = np.flatnonzero(log.timestamps_us >= 60)
    repeated = [
        log.items[p]
        in log.items[(log.users == log.users[p]) & (log.timestamps_us < log.timestamps_us[p])]
        for p in positions
    ]
    hopeless = np.isin(log.items[positions], UNLISTED) | (log.items[positions] >= KNOWN) | repeated
    found = Validator(user_inputs, samples_of(log), positions).ranks(tower)
    np.testing.assert_array_equal(found > KNOWN, hopeless)


def test_of_equal_scores_the_own_one_comes_last():
    scores = np.array([[-np.inf, 1, 1, 0], [-np.inf, 2, 1, 0]], np.float32)
    assert ranks(scores, np.array([1, 1], np.float32)).tolist() == [2, 2]


@pytest.mark.parametrize("value", [np.nan, 0.0, np.inf])
def test_a_tower_that_diverged_or_scores_everything_alike_hits_nothing(
    user_inputs, monkeypatch, value
):
    monkeypatch.setattr(validator, "JUDGED_AT", 10)
    tower = random_tower()
    tower.weights["item_out"][:] = value
    with np.errstate(invalid="ignore"):
        assert a_validator(user_inputs).hit_rate(tower) == 0


def test_validation_watches_lie_between_the_instants_and_are_a_sample(user_inputs, monkeypatch):
    timestamps_us = user_inputs.histories.timestamps_us
    ends = samples_of(user_inputs.histories)
    whole = validator_of(user_inputs, ends, 60, 80, np.random.default_rng(3)).positions
    assert sorted(whole) == np.flatnonzero((timestamps_us >= 60) & (timestamps_us < 80)).tolist()
    monkeypatch.setattr(validator, "JUDGED_WATCHES", 25)
    first, second = (
        validator_of(user_inputs, ends, 60, 80, np.random.default_rng(s)).positions for s in (3, 4)
    )
    assert len(set(first)) == len(set(second)) == 25
    assert set(first) != set(second)


def test_without_later_watches_there_is_nothing_to_hit(user_inputs):
    none = validator_of(
        user_inputs, samples_of(user_inputs.histories), 1000, 2000, np.random.default_rng(0)
    )
    assert none.hit_rate(random_tower()) == 0
    assert none.ranks(random_tower()).shape == (0,)
