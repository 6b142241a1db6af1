"""The union of generators' lists, and a linear order of it, against sets and sums in Python."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recall.blender import best, best_with_share, flat_blend, group_of, round_robin
from recall.generators.base import Named
from recall.generators.union import union_of
from recall.logit import TrainingSet
from recall.train_blender import fit_blend

LIST = st.lists(st.integers(1, 9), max_size=4, unique=True).map(
    lambda items: items + [0] * (4 - len(items))
)
LISTS = st.lists(st.tuples(LIST, LIST, LIST), min_size=1, max_size=4)
NAMES = ("a", "b", "c")


def named(lists):
    """Lists by generator, [users, 4] each."""
    columns = {
        name: np.array([of[number] for of in lists], np.int32) for number, name in enumerate(NAMES)
    }
    return {name: Named(items, items.astype(np.float32)) for name, items in columns.items()}


def pairs(lists):
    """Every (user, item) that some generator names, by user, then item."""
    return [
        (row, item)
        for row, of in enumerate(lists)
        for item in sorted({*of[0], *of[1], *of[2]} - {0})
    ]


@given(lists=LISTS)
def test_the_union_holds_each_named_item_once_with_the_rank_each_generator_gave_it(lists):
    union = union_of(named(lists))
    assert list(zip(union.rows.tolist(), union.items.tolist(), strict=True)) == pairs(lists)
    for number, name in enumerate(NAMES):
        expected = [
            of.index(item) + 1 if item in (of := lists[row][number]) else 0
            for row, item in pairs(lists)
        ]
        assert union.ranks[name].tolist() == expected
    assert union.counts.tolist() == [
        sum(row == user for row, _ in pairs(lists)) for user in range(len(lists))
    ]


@given(lists=LISTS, k=st.integers(1, 14))
def test_the_best_places_are_those_of_a_sort_in_python(lists, k):
    union = union_of(named(lists))
    scores = (union.items * 7 % 5).astype(np.float32)
    places = best(union, scores, k)
    assert places.shape == (len(lists), k)
    for user in range(len(lists)):
        mine = [place for place, (row, _) in enumerate(pairs(lists)) if row == user]
        expected = sorted(mine, key=lambda place: (-scores[place], place))[:k]
        assert places[user].tolist() == expected + [-1] * (k - len(expected))


@given(lists=LISTS, k=st.integers(1, 9), kept=st.integers(0, 9))
def test_places_kept_for_a_generator_go_to_its_best_of_what_is_left(lists, k, kept):
    union, kept = union_of(named(lists)), min(k, kept)
    scores = (union.items * 7 % 5).astype(np.float32)
    places = best_with_share(union, scores, k, kept, union.ranks["b"])
    for user in range(len(lists)):
        mine = [place for place, (row, _) in enumerate(pairs(lists)) if row == user]
        by_score = sorted(mine, key=lambda place: (-scores[place], place))
        head, rest = by_score[: k - kept], by_score[k - kept :]
        of_generator = sorted(
            (p for p in rest if union.ranks["b"][p]), key=lambda place: union.ranks["b"][place]
        )[:kept]
        others = [place for place in rest if not union.ranks["b"][place]][
            : kept - len(of_generator)
        ]
        expected = sorted(head + of_generator + others, key=lambda place: (-scores[place], place))
        assert places[user].tolist() == expected + [-1] * (k - len(expected))


@given(lists=LISTS)
def test_round_robin_takes_each_generators_first_then_their_second(lists):
    union = union_of(named(lists))
    places = best(union, round_robin(union), 12)
    for user, of in enumerate(lists):
        turns = dict.fromkeys(items[turn] for turn in range(4) for items in of if items[turn])
        assert [int(union.items[place]) for place in places[user] if place >= 0] == list(turns)


def test_rank_columns_fall_with_the_rank_and_end_just_past_the_list():
    union = union_of(named([([4, 7, 0, 0], [7, 0, 0, 0], [0] * 4)]))
    np.testing.assert_allclose(union.rank_columns["a_rank"], [0, -np.log(2)])
    np.testing.assert_allclose(union.rank_columns["b_rank"], [-np.log(5), 0], rtol=1e-6)
    np.testing.assert_allclose(union.rank_columns["c_rank"], [-np.log(5)] * 2, rtol=1e-6)


def test_a_blend_weighs_columns_by_the_users_group():
    union = union_of(named([([1, 2, 0, 0], [0] * 4, [0] * 4), ([3, 4, 0, 0], [0] * 4, [0] * 4)]))
    blend = flat_blend({"x": 2.0, "y": -1.0})
    blend.weights[0, 2] = [0, 5]
    columns = {
        "y": np.array([1, 0, 0, 1], np.float32),
        "x": np.array([3, 0, 1, 0], np.float32),
        "z": np.ones(4),
    }
    scores = blend.scores(columns, np.array([0, 2]), union)
    np.testing.assert_allclose([scores[0] - scores[1], scores[3] - scores[2]], [5, 5], rtol=1e-6)
    np.testing.assert_allclose(np.exp(scores).reshape(2, 2).sum(axis=1), 1, rtol=1e-6)
    assert blend.described()[0]["y"] == {"0+ watches": -1, "1+ watches": -1, "10+ watches": 5}


def test_experts_bet_by_the_mean_of_their_chances():
    union = union_of(named([([1, 2, 3, 0], [0] * 4, [0] * 4), ([0] * 4, [0] * 4, [0] * 4)]))
    blend = replace(
        flat_blend({"x": 1.0, "y": 0.0}), weights=np.repeat([[[4.0, 0.0]], [[0.0, 4.0]]], 3, axis=1)
    )
    x, y = np.array([1, 0, 0.6], np.float32), np.array([0, 1, 0.1], np.float32)
    chances = [np.exp(4 * each) / np.exp(4 * each).sum() for each in (x, y)]
    scores = blend.scores({"x": x, "y": y}, np.zeros(2, int), union)
    np.testing.assert_allclose(np.exp(scores), np.mean(chances, axis=0), rtol=1e-5)


def test_groups_go_by_the_number_of_watches():
    assert group_of(np.array([0, 1, 9, 10, 400])).tolist() == [0, 1, 1, 2, 2]


def test_each_training_set_makes_an_expert():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(400, 2)).astype(np.float32)
    watched = [
        matrix.reshape(100, 4, 2)[..., n] == matrix.reshape(100, 4, 2)[..., n].max(1, keepdims=True)
        for n in (0, 1)
    ]
    training_sets = [
        TrainingSet(("x", "y"), matrix, np.full(100, 4), which.ravel(), np.ones(100, int))
        for which in watched
    ]
    weights = fit_blend(training_sets).weights
    assert weights.shape == (2, 3, 2)
    assert (weights[0, :, 0] > 1).all()
    assert (weights[1, :, 1] > 1).all()
