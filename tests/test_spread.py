"""Sparse scores against the same products and sorts done densely."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recall.generators.spread import RECENCY, SpreadAnswer, best_of, spread, strongest, values_at

ITEMS = 6
MATRIX = st.lists(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]), min_size=ITEMS, max_size=ITEMS),
    min_size=1,
    max_size=5,
).map(lambda rows: np.array(rows, np.float32))


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(1)
    dense = rng.random((2, ITEMS, ITEMS)) * (rng.random((2, ITEMS, ITEMS)) < 0.5)
    return [sparse.csr_array(each.astype(np.float32)) for each in dense]


def test_scores_are_the_last_watches_weighed_by_recency_times_each_step(asked, weights):
    watches = [[3, 1, 0], [2, 2, 5], [0, 0, 0]]
    expected = np.zeros((3, ITEMS))
    for row, items in enumerate(watches):
        for place, item in enumerate(items):
            expected[row, item] += RECENCY**place * (item > 0)
    for step in weights:
        expected = expected @ step.toarray()
    np.testing.assert_allclose(spread(asked(watches), weights).toarray(), expected, rtol=1e-5)


def test_a_watch_of_an_item_that_came_later_than_the_weights_says_nothing(asked, weights):
    assert spread(asked([[ITEMS, 0], [ITEMS + 3, 0]]), weights).nnz == 0


@given(dense=MATRIX, k=st.integers(1, 9))
def test_the_best_of_each_row_are_its_largest_entries(dense, k):
    named = best_of(sparse.csr_array(dense), k)
    assert named.items.shape == named.scores.shape == (len(dense), k)
    for row, values in enumerate(dense):
        expected = sorted(np.flatnonzero(values), key=lambda item: (-values[item], -item))[:k]
        assert named.items[row].tolist() == expected + [0] * (k - len(expected))
        assert named.scores[row].tolist() == [*values[expected], *[0] * (k - len(expected))]


@given(dense=MATRIX, most=st.integers(1, ITEMS))
def test_the_strongest_entries_of_each_row_are_kept_as_they_were(dense, most):
    kept = strongest(sparse.csr_array(dense), most).toarray()
    assert ((kept == 0) | (kept == dense)).all()
    for before, after in zip(dense, kept, strict=True):
        assert np.count_nonzero(after) == min(most, np.count_nonzero(before))
        assert after.sum() == np.sort(before)[::-1][:most].sum()


def test_pairs_read_their_entries_and_what_lies_beyond_the_matrix_is_0(weights):
    rows, items = np.array([0, 1, 5, 2, 2]), np.array([1, 3, 2, ITEMS, ITEMS + 9], np.int32)
    dense = weights[0].toarray()
    expected = [dense[0, 1], dense[1, 3], dense[5, 2], 0, 0]
    np.testing.assert_array_equal(
        values_at(weights[0], rows, items), np.array(expected, np.float32)
    )


def test_an_answer_names_nothing_that_was_seen_unless_it_may_repeat(asked):
    scores = sparse.csr_array(np.array([[9, 1, 2, 3, 0, 0], [0, 0, 4, 0, 0, 0]], np.float32))
    requests = asked([[1], [2]], seen=((0, 3), (1, 2)))
    assert SpreadAnswer("x", scores, requests).named(3).items.tolist() == [[2, 1, 0], [0, 0, 0]]
    assert SpreadAnswer("x", scores, requests, repeats=True).named(3).items.tolist() == [
        [3, 2, 1],
        [2, 0, 0],
    ]


def test_a_column_rises_with_the_score_and_starts_at_0(asked):
    scores = sparse.csr_array(np.array([[0, 1, 2, 0, 0, 0]], np.float32))
    column = SpreadAnswer("x", scores, asked([[1]])).columns(
        np.zeros(3, int), np.array([4, 1, 2], np.int32)
    )["x"]
    assert column[0] == 0
    assert 0 < column[1] < column[2]
