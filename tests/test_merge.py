"""The union of channels' lists, and a linear order of it, against sets and sums in Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recall.merge import Lesson, best, fit, flat_blend, group_of, joined_lessons, round_robin, union_of
from recall.requests import Named

LIST = st.lists(st.integers(1, 9), max_size=4, unique=True).map(lambda items: items + [0] * (4 - len(items)))
LISTS = st.lists(st.tuples(LIST, LIST, LIST), min_size=1, max_size=4)
NAMES = ("a", "b", "c")


def named(lists):
    """Lists by channel, [users, 4] each."""
    columns = {name: np.array([of[number] for of in lists], np.int32) for number, name in enumerate(NAMES)}
    return {name: Named(items, items.astype(np.float32)) for name, items in columns.items()}


def pairs(lists):
    """Every (user, item) that some channel names, by user, then item."""
    return [(row, item) for row, of in enumerate(lists) for item in sorted({*of[0], *of[1], *of[2]} - {0})]


@given(lists=LISTS)
def test_the_union_holds_each_named_item_once_with_the_rank_each_channel_gave_it(lists):
    union = union_of(named(lists))
    assert list(zip(union.rows.tolist(), union.items.tolist(), strict=True)) == pairs(lists)
    for number, name in enumerate(NAMES):
        expected = [of.index(item) + 1 if item in (of := lists[row][number]) else 0 for row, item in pairs(lists)]
        assert union.ranks[name].tolist() == expected
    assert union.counts.tolist() == [sum(row == user for row, _ in pairs(lists)) for user in range(len(lists))]


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


@given(lists=LISTS)
def test_round_robin_takes_each_channels_first_then_their_second(lists):
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
    blend = flat_blend({"x": 2.0, "y": -1.0})
    blend.weights[2] = [0, 5]
    columns = {"y": np.array([1, 1], np.float32), "x": np.array([3, 3], np.float32), "z": np.full(2, 9, np.float32)}
    assert blend.scores(columns, np.array([0, 2])).tolist() == [5, 5]
    assert blend.described()["y"] == {"0+ watches": -1, "1+ watches": -1, "10+ watches": 5}


def test_groups_go_by_the_number_of_watches():
    assert group_of(np.array([0, 1, 9, 10, 400])).tolist() == [0, 1, 1, 2, 2]


def lesson(weights, users, rng, groups=None):
    """Users with 8 candidates each who watch one of them by the softmax of its two columns times weights."""
    matrix = rng.normal(size=(users, 8, 2)).astype(np.float32)
    groups = np.full(users, 2) if groups is None else groups
    logits = np.einsum("ncf,nf->nc", matrix, np.asarray(weights)[groups]) + rng.gumbel(size=(users, 8))
    watched = logits == logits.max(axis=1, keepdims=True)
    return Lesson(("x", "y"), matrix.reshape(-1, 2), np.full(users, 8), watched.ravel(), groups)


def test_the_fit_finds_the_weights_that_the_choices_were_made_by():
    taught = lesson([[0, 0], [0, 0], [1.5, -0.5]], 4000, np.random.default_rng(1))
    np.testing.assert_allclose(fit(taught, 10).weights[2], [1.5, -0.5], atol=0.1)


def test_each_group_learns_its_own_weights_and_one_without_teachers_takes_those_of_all():
    rng = np.random.default_rng(2)
    taught = lesson([[9, 9], [2, 0], [0, 2]], 4000, rng, np.repeat([1, 2], 2000))
    weights = fit(taught, 10).weights
    np.testing.assert_allclose(weights[1], [2, 0], atol=0.2)
    np.testing.assert_allclose(weights[2], [0, 2], atol=0.2)
    assert (weights[0] > 0.5).all()


def test_the_scale_of_a_column_does_not_matter():
    taught = lesson([[0, 0], [0, 0], [1, 1]], 500, np.random.default_rng(3))
    scaled = Lesson(taught.columns, taught.matrix * np.float32([1000, 1]), taught.counts, taught.watched, taught.groups)
    np.testing.assert_allclose(fit(scaled, 10).weights * [1000, 1], fit(taught, 10).weights, rtol=1e-2)


def test_a_part_of_a_lesson_keeps_users_and_their_pairs_together():
    rng = np.random.default_rng(4)
    parts = [lesson([[0, 0]] * 3, users, rng) for users in (3, 2)]
    whole = joined_lessons(parts)
    again = whole.of_users(np.array([False] * 3 + [True] * 2))
    np.testing.assert_array_equal(again.matrix, parts[1].matrix)
    np.testing.assert_array_equal(again.watched, parts[1].watched)
    assert len(whole.counts) == 5


def test_more_than_one_watched_candidate_counts_as_one_user():
    taught = lesson([[0, 0], [0, 0], [1, 0]], 200, np.random.default_rng(5))
    doubled = joined_lessons([taught, taught])
    assert fit(doubled, 10).weights[2] == pytest.approx(fit(taught, 10).weights[2], abs=0.1)


def test_a_stronger_penalty_leaves_smaller_weights():
    taught = lesson([[0, 0], [0, 0], [1.5, -0.5]], 300, np.random.default_rng(6))
    norms = [float(np.abs(fit(taught, penalty).weights).sum()) for penalty in (1, 100, 10_000)]
    assert norms[0] > norms[1] > norms[2]
