"""Tables under row-wise Adam: against dense Adam, against numeric gradients, and what is left
alone.
"""

import io

import numpy as np
import pytest

from recall.row_adam import EmbeddingTables, RowAdam, by_code
from recall.tower import ItemFacts, TowerSpec
from recall.trainer import new_tower

ITEMS, DIM, RATE = 7, 3, 0.1
RNG = np.random.default_rng(0)
CODES = {
    "channel": np.array([0, 1, 2, 0, 2, 1, 3], np.int32),
    "language": np.array([0, 1, 1, 2, 2, 0, 0], np.int32),
}
FACTS = ItemFacts(CODES, RNG.random((ITEMS, 3)).astype(np.float32), np.arange(ITEMS) > 0)
PLAIN = TowerSpec(as_of=0, items=ITEMS, dim=DIM, hidden=(), recency_windows=(2,))
SIDES = PLAIN.model_copy(
    update={
        "item_categories": {"channel": 4, "language": 3},
        "item_numbers": {"duration_seconds": (0.0, 1.0)},
    }
)
NAMED = np.array([1, 3, 4, 6], np.int32)
HIDDEN = np.array([[1], [0], [1], [0]], np.float32)


def tables_of(shape, seed=1):
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.normal(size=w.shape) for name, w in new_tower(shape, FACTS, rng).weights.items()
    }
    return EmbeddingTables(
        shape, {name: w.astype(np.float32) for name, w in weights.items()}, FACTS, RATE
    )


def dense_adam(values, gradients, rates, beta1=0.9, beta2=0.999):
    """Adam as published, in float64: m, v, both corrected for their start, values -= rate m /
    sqrt(v).
    """
    values, m, v = values.astype(np.float64), 0.0, 0.0
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        values = values - rate * m / (1 - beta1**step) / np.sqrt(v / (1 - beta2**step))
    return values


def test_where_all_rows_are_named_the_table_moves_as_under_dense_adam():
    start, gradients = (
        RNG.normal(size=(5, DIM)).astype(np.float32),
        RNG.normal(size=(20, 5, DIM)).astype(np.float32),
    )
    shares = np.where(np.arange(20) < 12, 1.0, 0.2)
    table = RowAdam(start, RATE)
    for gradient, share in zip(gradients, shares, strict=True):
        table.apply(np.arange(5, dtype=np.int32), gradient, share)
    np.testing.assert_allclose(
        table.values, dense_adam(start, gradients, RATE * shares), rtol=1e-4, atol=1e-5
    )


def test_rows_that_are_not_named_keep_values_and_moments():
    table = RowAdam(np.ones((4, DIM), np.float32), RATE)
    for rows in ([1], [1, 2], [2]):
        table.apply(np.array(rows, np.int32), np.ones((len(rows), DIM), np.float32))
    before = {name: array.copy() for name, array in table.state().items()}
    table.apply(np.array([3], np.int32), np.ones((1, DIM), np.float32))
    for name in ("values", "first", "second"):
        np.testing.assert_array_equal(table.state()[name][:3], before[name][:3])
    assert (table.values[0] == 1).all()
    assert (table.values[1:] < 1).all()


def test_a_table_does_not_write_into_the_weights_it_was_given():
    given = np.ones((2, DIM), np.float32)
    RowAdam(given, RATE).apply(np.array([1], np.int32), np.ones((1, DIM), np.float32))
    assert (given == 1).all()


def steps(tables, seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        pooled = {
            "item_in": (np.array([2, 5], np.int32), rng.normal(size=(2, DIM)).astype(np.float32))
        }
        tables.apply(pooled, NAMED, HIDDEN, rng.normal(size=(4, DIM)).astype(np.float32), 0.5)


def test_restored_tables_go_on_as_if_they_had_never_stopped():
    whole, first, second = tables_of(SIDES), tables_of(SIDES), tables_of(SIDES, seed=9)
    steps(whole, range(6))
    steps(first, range(3))
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **first.state())
    second.restore(np.load(io.BytesIO(file.getvalue()), allow_pickle=False))
    steps(second, range(3, 6))
    for name, values in whole.state().items():
        np.testing.assert_array_equal(second.state()[name], values, err_msg=name)


def applied_gradients(tables):
    """The gradients that the first step took: a tenth of them is in Adam's first moment."""
    state = tables.state()
    return {
        name.removesuffix(".first"): state[name] / (1 - 0.9)
        for name in state
        if name.endswith(".first")
    }


def numeric_gradients(loss, weights, step=1e-2):
    """Central differences of a loss by every weight."""
    found = {}
    for name, values in weights.items():
        found[name] = np.zeros(values.shape)
        for at in np.ndindex(values.shape):
            kept = values[at]
            values[at] = kept + step
            above = loss()
            values[at] = kept - step
            found[name][at] = (above - loss()) / (2 * step)
            values[at] = kept
    return found


VARIANTS = {
    "own rows alone": (PLAIN, None),
    "side features": (SIDES, None),
    "side features, some own rows hidden": (SIDES, HIDDEN),
}


@pytest.mark.parametrize(("shape", "known"), VARIANTS.values(), ids=VARIANTS.keys())
def test_each_table_takes_the_gradient_that_finite_differences_find(shape, known):
    """The loss: squared distance of the scored rows from targets, and a weighted sum of watched
    rows.
    """
    tables, watched = tables_of(shape), np.array([1, 2, 6], np.int32)
    targets, shares = RNG.normal(size=(4, DIM)), RNG.normal(size=(3, DIM)).astype(np.float32)

    def loss():
        rows = tables.item_rows(NAMED, known).astype(np.float64)
        return ((rows - targets) ** 2).sum() / 2 + (
            tables.weights["item_in"][watched].astype(np.float64) * shares
        ).sum()

    expected = numeric_gradients(loss, tables.weights)
    assert all(gradient.any() for gradient in expected.values())
    gradient = (tables.item_rows(NAMED, known) - targets).astype(np.float32)
    tables.apply({"item_in": (watched, shares)}, NAMED, known, gradient, 1.0)
    found = applied_gradients(tables)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        # The unknown code's row is kept at zero, whatever would make the loss smaller.
        first = 1 if name.startswith("item_category_") else 0
        np.testing.assert_allclose(found[name][first:], values[first:], atol=2e-3, err_msg=name)


def test_nobody_s_own_row_and_the_unknown_code_stay_as_they_are():
    tables = tables_of(SIDES)
    before = {name: values.copy() for name, values in tables.weights.items()}
    steps(tables, range(5))
    for name in ("item_in", "item_out", "item_category_channel", "item_category_language"):
        np.testing.assert_array_equal(tables.weights[name][0], before[name][0], err_msg=name)
        assert (tables.weights[name] != before[name]).any(), name


def test_items_of_unknown_categories_alone_move_no_category():
    rows, sums = by_code(np.zeros(3, np.int32), np.ones((3, DIM), np.float32))
    assert rows.shape == (0,)
    assert sums.shape == (0, DIM)
    rows, sums = by_code(np.array([2, 0, 2, 1], np.int32), np.arange(4, dtype=np.float32)[:, None])
    assert (rows.tolist(), sums.tolist()) == ([1, 2], [[3], [2]])


def test_a_hidden_item_speaks_by_its_side_features_alone():
    tables = tables_of(SIDES)
    whole, hidden = tables.item_rows(NAMED, None), tables.item_rows(NAMED, HIDDEN)
    own = tables.weights["item_out"][NAMED]
    np.testing.assert_allclose(whole - hidden, own * (1 - HIDDEN), atol=1e-6)
    assert np.abs(hidden).min(axis=1).max() > 0
