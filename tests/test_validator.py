"""What a tower under training is judged by: full lists by brute force over later watches."""

import numpy as np
import pytest

from features.histories import histories_of, samples_of
from features.sides import Side
from recall import validator
from recall.inputs import Readings
from recall.tower import ItemFacts, Tower, TowerSpec
from recall.validator import Judge, judge_of, ranks

USERS, ITEMS, KNOWN, DIM = 30, 40, 33, 4
UNLISTED = (3, 4, 20)


@pytest.fixture(scope="module")
def readings():
    """Watches with repetitions, of items the tower knows and of later ones."""
    rng = np.random.default_rng(0)
    users, instants = np.sort(rng.integers(1, USERS, 600)), rng.integers(0, 100, 600)
    order = np.lexsort((instants, users))
    watches = histories_of(users[order], rng.integers(1, ITEMS, 600), instants[order], USERS)
    return Readings(watches, None, Side({}, {}, {}))


def random_tower(**fields):
    rng = np.random.default_rng(1)
    shape = TowerSpec(**{"as_of": 60, "items": KNOWN, "dim": DIM, "hidden": (), "recency_windows": (4,)} | fields)
    sizes = {"item_in": (KNOWN, DIM), "item_out": (KNOWN, DIM), "kernel0": (DIM, DIM), "bias0": (DIM,)}
    weights = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    listed = np.isin(np.arange(KNOWN), (0, *UNLISTED), invert=True)
    return Tower(shape, weights, ItemFacts({}, np.zeros((KNOWN, 0), np.float32), listed))


def judge(readings):
    """A judge of all watches from instant 60 on."""
    return judge_of(readings, samples_of(readings.histories), 60, 1000, np.random.default_rng(2))


def place_by_loop(tower, readings, position):
    """The place of a watch's item in the list of its moment, None where it is not in it."""
    log, items = readings.histories, list(range(1, KNOWN))
    user, instant = log.users[position], int(log.instants[position])
    watched = set(log.items[(log.users == user) & (log.instants < instant)].tolist())
    vector = tower.user_vectors(readings.inputs_at(tower.shape, np.array([user], np.int32), instant))[0]
    on_offer = [item for item in items if item not in watched and item not in UNLISTED]
    best_first = sorted(on_offer, key=lambda item: -(tower.item_vectors[item] @ vector))
    item = int(log.items[position])
    return best_first.index(item) + 1 if item in best_first else None


@pytest.mark.parametrize("metric", ["dot", "cosine"])
@pytest.mark.parametrize("cells", [1 << 25, 5 * KNOWN, 1])
def test_ranks_are_places_in_full_lists_without_what_was_watched(readings, monkeypatch, metric, cells):
    monkeypatch.setattr(validator, "JUDGED_CELLS", cells)
    tower, all_later = random_tower(metric=metric), judge(readings)
    expected = [place_by_loop(tower, readings, position) for position in all_later.positions]
    found = all_later.ranks(tower)
    assert [rank if rank <= KNOWN else None for rank in found.tolist()] == expected
    assert 20 < expected.count(None) < len(expected) / 1.5
    monkeypatch.setattr(validator, "JUDGED_AT", 5)
    assert all_later.hit_rate(tower) == np.mean([place is not None and place <= 5 for place in expected])


def test_what_cannot_be_offered_never_counts(readings):
    """Unlisted items, items of later than the tower, and what the user had watched miss at any length of list."""
    log, tower = readings.histories, random_tower()
    positions = np.flatnonzero(log.instants >= 60)
    repeated = [
        log.items[p] in log.items[(log.users == log.users[p]) & (log.instants < log.instants[p])] for p in positions
    ]
    hopeless = np.isin(log.items[positions], UNLISTED) | (log.items[positions] >= KNOWN) | repeated
    found = Judge(readings, samples_of(log), positions).ranks(tower)
    np.testing.assert_array_equal(found > KNOWN, hopeless)


def test_of_equal_scores_the_own_one_comes_last():
    scores = np.array([[-np.inf, 1, 1, 0], [-np.inf, 2, 1, 0]], np.float32)
    assert ranks(scores, np.array([1, 1], np.float32)).tolist() == [2, 2]


@pytest.mark.parametrize("value", [np.nan, 0.0, np.inf])
def test_a_tower_that_diverged_or_scores_everything_alike_hits_nothing(readings, monkeypatch, value):
    monkeypatch.setattr(validator, "JUDGED_AT", 10)
    tower = random_tower()
    tower.weights["item_out"][:] = value
    with np.errstate(invalid="ignore"):
        assert judge(readings).hit_rate(tower) == 0


def test_watches_to_judge_by_lie_between_the_instants_and_are_a_sample(readings, monkeypatch):
    instants = readings.histories.instants
    ends = samples_of(readings.histories)
    whole = judge_of(readings, ends, 60, 80, np.random.default_rng(3)).positions
    assert sorted(whole) == np.flatnonzero((instants >= 60) & (instants < 80)).tolist()
    monkeypatch.setattr(validator, "JUDGED_WATCHES", 25)
    first, second = (judge_of(readings, ends, 60, 80, np.random.default_rng(s)).positions for s in (3, 4))
    assert len(set(first)) == len(set(second)) == 25
    assert set(first) != set(second)


def test_without_later_watches_there_is_nothing_to_hit(readings):
    none = judge_of(readings, samples_of(readings.histories), 1000, 2000, np.random.default_rng(0))
    assert none.hit_rate(random_tower()) == 0
    assert none.ranks(random_tower()).shape == (0,)
