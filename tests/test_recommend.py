"""The ordered few against scoring every candidate row by row and sorting."""

from dataclasses import replace

import numpy as np
import pytest

from features.asof_counts import Events
from features.asof_features import AsOfFeatures
from features.asof_log import AsOfLog
from features.side_features import SideFeatures
from ranking import recommend
from ranking.encoders import VocabularyLimits, fit_encoders
from ranking.examples import Exposures, blocks_of
from ranking.list_order import ListOrder
from ranking.model import BLOCKS, Ranker, RankerSpec, space_of
from ranking.recommend import Lists, recommender_of

USERS, ITEMS, AS_OF, K = 9, 30, 80, 8
PAPER = ListOrder(chance_weight=0)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    clicked = rng.random(400) < 0.4
    users, items = (
        rng.integers(1, USERS, 400).astype(np.int32),
        rng.integers(1, ITEMS, 400).astype(np.int32),
    )
    events = Events.of(
        users,
        items,
        rng.integers(0, 100, 400),
        clicked,
        np.where(clicked, rng.exponential(9, 400), 0),
    )
    side = SideFeatures(
        {"channel_id": rng.integers(0, 4, ITEMS).astype(np.int32)}, {"channel_id": 4}, {}
    )
    return AsOfFeatures(
        AsOfLog(events, SideFeatures({}, {}, {"age": rng.random(USERS)}), side, timed=True)
    )


@pytest.fixture(scope="module")
def lists():
    """Different items for each user, in lists of all lengths from none to K, not always filled from
    the front.
    """
    rng = np.random.default_rng(1)
    users = np.array([5, 1, 8, 2, 3, 7], np.int32)
    items = np.stack([rng.permutation(np.arange(1, ITEMS))[:K] for _ in users]).astype(np.int32)
    items[1, 3:], items[2, :], items[3, 2] = 0, 0, 0
    recall = {
        "recall_score": rng.normal(size=items.shape),
        "recall_z": rng.normal(size=items.shape),
    }
    return Lists(users, items, recall, np.log(rng.dirichlet(np.ones(K), len(users))))


def exposures_of(lists):
    rows, columns = np.nonzero(lists.items)
    recall = {name: values[rows, columns] for name, values in lists.recall.items()}
    return Exposures(
        lists.users[rows], lists.items[rows, columns], np.full(len(rows), AS_OF), recall
    ), rows


@pytest.fixture(scope="module")
def ranker(features, lists):
    """Random weights over the features' own columns, whose units are never all silent: no two
    candidates are tied.
    """
    rng, blocks = np.random.default_rng(2), blocks_of(features, exposures_of(lists)[0])
    codes = {name: tuple(block.codes) for name, block in blocks.items()}
    spaces = {code: space_of(code) for names in codes.values() for code in names}
    everything = np.ones(blocks["item"].size, bool)
    encoders = fit_encoders(blocks, everything, spaces, VocabularyLimits(16, 20, 1))
    spec = RankerSpec(
        numbers={name: tuple(block.numbers) for name, block in blocks.items()},
        codes=codes,
        sizes={space: len(kept) + 1 for space, kept in encoders.kept.items()},
        hidden=(7,),
        objective="exact",
        unit="seconds",
        seconds_cap=1e9,
    )
    weights = {
        f"table_{space}": rng.normal(size=(size, spec.dims[space]))
        for space, size in spec.sizes.items()
    }
    weights |= {
        "kernel0": rng.normal(size=(sum(map(spec.width, BLOCKS)), 7)) / 3,
        "bias0": 3 + rng.normal(size=7),
    }
    weights |= {"kernel1": rng.normal(size=(7, 1)) / 3, "bias1": rng.normal(size=1)}
    return Ranker(spec, encoders, {name: w.astype(np.float32) for name, w in weights.items()})


def by_sorting(ranker, features, lists):
    """For each list its (seconds, item) best first, every candidate scored as a row of its own."""
    exposures, rows = exposures_of(lists)
    blocks = blocks_of(features, exposures)
    seconds = ranker.scores(blocks["user"], blocks["item"], blocks["pair"])
    return [
        sorted(zip(seconds[rows == r], exposures.items[rows == r], strict=True), reverse=True)
        for r in range(len(lists.users))
    ]


@pytest.mark.parametrize("top_k", [1, 3, K, K + 5])
def test_recommendations_are_the_candidates_scored_one_by_one_and_sorted(
    ranker, features, lists, top_k
):
    found = recommender_of(ranker, features, AS_OF, ITEMS).recommend(lists, PAPER, top_k)
    items, seconds = found.items, found.seconds
    assert items.shape == seconds.shape == (6, top_k)
    for row, best in enumerate(by_sorting(ranker, features, lists)):
        filled = min(len(best), top_k)
        assert items[row].tolist() == [item for _, item in best[:filled]] + [0] * (top_k - filled)
        np.testing.assert_allclose(seconds[row, :filled], [s for s, _ in best[:filled]], rtol=1e-4)
        assert not seconds[row, filled:].any()


@pytest.mark.parametrize("weights", [(1, 0.5), (1, 4), (0, 1)], ids=str)
def test_lists_fall_by_the_logarithms_of_seconds_and_chance(ranker, features, lists, weights):
    seconds_weight, chance_weight = weights
    recommender = recommender_of(ranker, features, AS_OF, ITEMS)
    order = ListOrder(seconds_weight=seconds_weight, chance_weight=chance_weight)
    found, seconds = recommender.recommend(lists, order, K), recommender.expected_seconds(lists)
    for row in range(len(lists.users)):
        there = np.flatnonzero(lists.items[row])
        scores = (
            seconds_weight * np.log(seconds[row, there])
            + chance_weight * lists.log_chances[row, there]
        )
        best = there[np.argsort(-scores)]
        assert found.items[row].tolist() == lists.items[row, best].tolist() + [0] * (K - len(best))
        np.testing.assert_allclose(found.scores[row, : len(best)], np.sort(scores)[::-1])
        np.testing.assert_allclose(
            found.chances[row, : len(best)], np.exp(lists.log_chances[row, best])
        )
        np.testing.assert_allclose(found.seconds[row, : len(best)], seconds[row, best])


def test_the_seconds_of_whole_lists_are_those_of_their_candidates_one_by_one(
    ranker, features, lists
):
    seconds = recommender_of(ranker, features, AS_OF, ITEMS).expected_seconds(lists)
    exposures, _ = exposures_of(lists)
    blocks = blocks_of(features, exposures)
    one_by_one = ranker.scores(blocks["user"], blocks["item"], blocks["pair"])
    np.testing.assert_allclose(seconds[lists.items > 0], one_by_one, rtol=1e-4)
    assert (seconds[lists.items == 0] == -np.inf).all()


def test_shards_of_users_do_not_change_the_lists(ranker, features, lists, monkeypatch):
    recommender = recommender_of(ranker, features, AS_OF, ITEMS)
    found = recommender.recommend(lists, PAPER, 4)
    monkeypatch.setattr(recommend, "PAIRS_A_SHARD", 4 * K)
    again = recommender.recommend(lists, PAPER, 4)
    np.testing.assert_array_equal(found.items, again.items)
    np.testing.assert_allclose(found.seconds, again.seconds, rtol=1e-5)


def test_what_happened_at_or_after_the_instant_changes_no_list(ranker, features, lists):
    events = features.log.events
    later = Events.of(
        events.users,
        events.items,
        events.timestamps_us,
        events.clicked ^ (events.timestamps_us >= AS_OF),
        events.seconds,
    )
    as_it_was = replace(features, log=replace(features.log, events=later))
    now, then = (
        recommender_of(ranker, each, AS_OF, ITEMS).recommend(lists, PAPER, 4)
        for each in (features, as_it_was)
    )
    np.testing.assert_array_equal(now.items, then.items)
    np.testing.assert_allclose(now.seconds, then.seconds, rtol=1e-9)


def test_no_users_get_no_lists(ranker, features):
    nothing = np.zeros((0, K))
    recall = {"recall_score": nothing, "recall_z": nothing}
    nobody = Lists(np.zeros(0, np.int32), nothing.astype(np.int32), recall, nothing)
    assert recommender_of(ranker, features, AS_OF, ITEMS).recommend(
        nobody, PAPER, 4
    ).items.shape == (0, 4)
