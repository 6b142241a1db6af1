"""The tower without TensorFlow: user vectors against loops, and what is kept on disk."""

import numpy as np
import pytest
from pydantic import ValidationError

from recall import tower as module
from recall.tower import ItemFacts, Tower, TowerInputs, TowerSpec

SHAPE = TowerSpec(
    as_of=7,
    items=9,
    dim=3,
    hidden=(5,),
    recency_windows=(3, 10),
    categories={"country": 4, "age_group": 6},
    category_dims={"country": 3, "age_group": 4},
    numbers={"age": (10.0, 60.0)},
    tokens=6,
    token_bag=4,
    example_age=True,
)


def random_tower(shape=SHAPE, seed=0):
    """A tower of random weights, rows of nobody included, so that reading them by mistake shows."""
    rng = np.random.default_rng(seed)
    sizes = {
        "item_in": (shape.items, shape.dim),
        "item_out": (shape.items, shape.dim),
        "tokens": (shape.tokens, shape.dim),
    }
    sizes |= {
        f"category_{name}": (size, shape.category_dims[name])
        for name, size in shape.categories.items()
    }
    wide = 3 * shape.dim + sum(shape.category_dims.values()) + 3 + 1
    sizes |= {"kernel0": (wide, 5), "bias0": (5,), "kernel1": (5, shape.dim), "bias1": (shape.dim,)}
    weights = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    return Tower(shape, weights, ItemFacts.plain(shape.items))


def random_inputs(n, seed=1):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 11, n)
    watches = np.where(np.arange(10) < lengths[:, None], rng.integers(1, 9, (n, 10)), 0).astype(
        np.int32
    )
    watches[:: max(n // 3, 1), 1] = 0
    tokens = rng.integers(0, 6, (n, 4)).astype(np.int32)
    categories = {
        "country": rng.integers(0, 4, n).astype(np.int32),
        "age_group": rng.integers(0, 6, n).astype(np.int32),
    }
    ages = rng.random(n).astype(np.float32)
    return TowerInputs(watches, tokens, categories, rng.random((n, 3)).astype(np.float32), ages)


def mean_of_somebody(table, bag):
    rows = [table[index] for index in bag if index > 0]
    return np.mean(rows, axis=0) if rows else np.zeros(table.shape[1])


def vector_by_loop(tower, inputs, row):
    """One request in plain Python: categories, windows, tokens, numbers, age; one hidden layer; a
    linear head.
    """
    w = tower.weights
    parts = [
        w[f"category_{name}"][inputs.categories[name][row]] for name in ("country", "age_group")
    ]
    parts += [mean_of_somebody(w["item_in"], inputs.watches[row, :window]) for window in (3, 10)]
    parts += [
        mean_of_somebody(w["tokens"], inputs.tokens[row]),
        inputs.numbers[row],
        inputs.example_age[row : row + 1],
    ]
    hidden = np.maximum(np.concatenate(parts) @ w["kernel0"] + w["bias0"], 0)
    return hidden @ w["kernel1"] + w["bias1"]


def test_user_vectors_are_what_a_loop_over_requests_computes():
    tower, inputs = random_tower(), random_inputs(20)
    expected = [vector_by_loop(tower, inputs, row) for row in range(20)]
    np.testing.assert_allclose(tower.user_vectors(inputs), expected, rtol=1e-4, atol=1e-5)


def test_shards_do_not_change_the_vectors(monkeypatch):
    tower, inputs = random_tower(), random_inputs(20)
    whole = tower.user_vectors(inputs)
    monkeypatch.setattr(module, "SHARD", 6)
    np.testing.assert_allclose(tower.user_vectors(inputs), whole, rtol=1e-5, atol=1e-6)


def test_nobody_in_a_bag_has_no_influence():
    tower, inputs = random_tower(), random_inputs(12)
    moved = {name: table.copy() for name, table in tower.weights.items()}
    moved["item_in"][0] = moved["tokens"][0] = 1000
    np.testing.assert_array_equal(
        Tower(SHAPE, moved, tower.facts).user_vectors(inputs), tower.user_vectors(inputs)
    )


def test_no_requests_give_no_vectors():
    assert random_tower().user_vectors(random_inputs(0)).shape == (0, 3)


def test_a_saved_tower_gives_equal_vectors(tmp_path):
    tower, inputs = random_tower(), random_inputs(8)
    tower.save(tmp_path, "tower_00")
    reloaded = Tower.load(tmp_path, "tower_00")
    assert reloaded.shape == tower.shape
    assert list(reloaded.shape.categories) == list(SHAPE.categories)
    assert sorted(reloaded.weights) == sorted(tower.weights)
    np.testing.assert_array_equal(reloaded.user_vectors(inputs), tower.user_vectors(inputs))
    np.testing.assert_array_equal(reloaded.item_vectors, tower.item_vectors)


def test_equal_towers_are_saved_as_equal_bytes(tmp_path):
    for name in ("a", "b"):
        random_tower().save(tmp_path, name)
    assert (tmp_path / "a.weights.h5").read_bytes() == (tmp_path / "b.weights.h5").read_bytes()


def test_a_shape_with_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="layers"):
        TowerSpec.model_validate(SHAPE.model_dump() | {"layers": 3})


FULL = SHAPE.model_copy(
    update={"item_categories": {"channel": 3}, "item_numbers": {"age_hours": (0.0, 1.0)}}
)
FACTS = ItemFacts(
    {"channel": np.array([0, 1, 2, 0, 1, 2, 2, 0, 1], np.int32)},
    np.linspace(0, 1, 27, dtype=np.float32).reshape(9, 3),
    np.arange(9) % 4 > 0,
)


def with_sides(**fields):
    weights, rng = dict(random_tower().weights), np.random.default_rng(5)
    weights |= {
        name: rng.normal(size=(n, 3))
        for name, n in (("item_category_channel", 3), ("item_values", 3))
    }
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    return Tower(FULL.model_copy(update=fields), weights, FACTS)


def test_an_item_s_vector_is_its_own_row_and_those_of_its_side_features():
    tower = with_sides()
    w = tower.weights
    for item in range(9):
        own = w["item_out"][item]
        expected = (
            own
            + w["item_category_channel"][FACTS.codes["channel"][item]]
            + FACTS.values[item] @ w["item_values"]
        )
        np.testing.assert_allclose(tower.item_vectors[item], expected, rtol=1e-5, atol=1e-6)


def test_under_cosine_items_have_length_one_and_users_one_over_the_temperature():
    plain, cosine, inputs = (
        with_sides(),
        with_sides(metric="cosine", temperature=0.2),
        random_inputs(12),
    )
    for found, raw, length in (
        (cosine.item_vectors, plain.item_vectors, 1),
        (cosine.user_vectors(inputs), plain.user_vectors(inputs), 5),
    ):
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), length, rtol=1e-5)
        lengths = np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(found, raw / lengths * length, rtol=1e-4, atol=1e-5)


def test_a_row_of_zeros_stays_zero_under_cosine():
    assert not module.unit_rows(np.zeros((2, 3), np.float32)).any()


def test_the_catalogue_is_what_is_listed_and_never_nobody():
    assert with_sides().catalogue.tolist() == [1, 2, 3, 5, 6, 7]
    assert random_tower().catalogue.tolist() == list(range(1, 9))


def test_a_saved_tower_keeps_what_it_knows_of_its_items(tmp_path):
    tower = with_sides(metric="cosine", temperature=0.2)
    tower.save(tmp_path, "tower")
    loaded = Tower.load(tmp_path, "tower")
    assert loaded.shape == tower.shape
    assert loaded.weights.keys() == tower.weights.keys()
    np.testing.assert_array_equal(loaded.item_vectors, tower.item_vectors)
    np.testing.assert_array_equal(loaded.catalogue, tower.catalogue)


def test_taking_requests_keeps_all_their_inputs_together():
    inputs = random_inputs(6)
    taken = inputs.take(np.array([4, 1]))
    assert len(taken) == 2
    np.testing.assert_array_equal(taken.watches, inputs.watches[[4, 1]])
    np.testing.assert_array_equal(taken.tokens, inputs.tokens[[4, 1]])
    np.testing.assert_array_equal(taken.categories["country"], inputs.categories["country"][[4, 1]])
    np.testing.assert_array_equal(taken.numbers, inputs.numbers[[4, 1]])
    np.testing.assert_array_equal(taken.example_age, inputs.example_age[[4, 1]])
