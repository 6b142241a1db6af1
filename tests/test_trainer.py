"""The Keras tower: the graph that is trained is the one that numpy serves, and training moves what
it should.
"""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import recall.trainer
from recall.config import RecallConfig
from recall.index import index_of
from recall.negative_sampling import Negatives
from recall.tower import ItemFacts, Tower, TowerInputs, TowerSpec
from recall.trainer import Batch, TowerTrainer, grown_tower, keras, new_tower

pytestmark = pytest.mark.slow

ITEMS = 30
CONFIG = RecallConfig(dropout=0.0, learning_rate=0.05)
STANDSTILL = RecallConfig(dropout=0.0, learning_rate=1e-30)
PLAIN = {"as_of": 0, "items": ITEMS, "dim": 5, "hidden": (), "recency_windows": (4,)}
CATEGORIES = {
    "categories": {"region": 9, "country": 4},
    "category_dims": {"region": 5, "country": 3},
}
EVERYTHING = (
    PLAIN
    | CATEGORIES
    | {
        "hidden": (7, 6),
        "recency_windows": (1, 3, 10),
        "numbers": {"tenure": (0.0, 9.0), "age": (10.0, 60.0)},
        "tokens": 8,
        "token_bag": 5,
        "example_age": True,
    }
)
SHAPES = {
    "watches alone, no hidden layer": PLAIN,
    "windows whose names sort otherwise than their lengths": PLAIN
    | {"recency_windows": (3, 10), "hidden": (6,)},
    "categories": PLAIN | CATEGORIES,
    "tokens": PLAIN | {"tokens": 8, "token_bag": 5},
    "numbers and example age": PLAIN | {"numbers": {"age": (10.0, 60.0)}, "example_age": True},
    "everything": EVERYTHING,
}


def facts_of(shape):
    return ItemFacts.plain(shape.items)


def random_weights(shape, seed=0):
    """A tower whose every weight is random and not small, rows of nobody included."""
    rng = np.random.default_rng(seed)
    weights = new_tower(shape, facts_of(shape), rng).weights
    random = {name: rng.normal(0, 0.3, w.shape).astype(np.float32) for name, w in weights.items()}
    return Tower(shape, random, facts_of(shape))


def random_inputs(shape, n=12, seed=1):
    """Requests of all lengths of history; the first has neither watches nor tokens."""
    rng = np.random.default_rng(seed)

    def bags(width, size):
        lengths = np.minimum(np.arange(n), width)[:, None]
        return np.where(
            np.arange(width) < lengths, rng.integers(1, max(size, 2), (n, width)), 0
        ).astype(np.int32)

    categories = {
        name: rng.integers(0, size, n).astype(np.int32) for name, size in shape.categories.items()
    }
    numbers = rng.random((n, 3 * len(shape.numbers))).astype(np.float32)
    tokens = bags(shape.token_bag, shape.tokens)
    return TowerInputs(
        bags(shape.bag, shape.items), tokens, categories, numbers, rng.random(n).astype(np.float32)
    )


def by_keras(tower, inputs):
    """The vectors of the graph that is trained, read coordinate by coordinate from its loss.

    With the unit vector j as the watched item and a zero vector as the only negative the loss is
    log(1 + exp(-u_j)).
    """
    dim, nothing = tower.shape.dim, tower.shape.dim + 1
    weights = tower.weights | {"item_out": np.eye(tower.shape.items, dim, -1, dtype=np.float32)}
    trainer = TowerTrainer(Tower(tower.shape, weights, tower.facts), STANDSTILL, 0)
    negative = Negatives(np.array([nothing], np.int32), np.zeros(1, np.float32))

    def coordinate(row, j):
        request = inputs.take(slice(row, row + 1))
        loss, _ = trainer.fit(iter([Batch(request, np.array([j + 1], np.int32), negative)]))
        return -np.log(np.expm1(loss))

    return np.array([[coordinate(row, j) for j in range(dim)] for row in range(len(inputs))])


@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES.keys())
def test_numpy_computes_the_vectors_of_the_keras_graph(fields):
    shape = TowerSpec(**fields)
    tower, inputs = random_weights(shape), random_inputs(shape)
    expected = by_keras(tower, inputs)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(tower.user_vectors(inputs), expected, rtol=1e-5, atol=1e-5)


def side_facts(shape, seed=4):
    """Facts of which some are unknown, for a shape with item side features."""
    rng = np.random.default_rng(seed)
    codes = {
        name: rng.integers(0, size, shape.items).astype(np.int32)
        for name, size in shape.item_categories.items()
    }
    values = rng.random((shape.items, 3 * len(shape.item_numbers))).astype(np.float32)
    return ItemFacts(codes, values, np.arange(shape.items) > 0)


SIDES = {
    "item_categories": {"channel": 5, "topics": 4},
    "item_numbers": {"duration_seconds": (0.0, 1.0)},
}
KINDS = {
    "depth 0": {},
    "depth 1": {"hidden": (6,)},
    "depth 2, side features": {"hidden": (12, 6)} | SIDES,
    "depth 3, side features": {"hidden": (24, 12, 6)} | SIDES,
    "depth 4": {"hidden": (48, 24, 12, 6)},
}


def logits_in_training(tower, request):
    """What the training loss makes of each item for one request, less its logit for item 1: [items
    1..].

    With item 1 watched and item q as the only negative the loss is log(1 + exp(s_q - s_1)).
    """
    trainer = TowerTrainer(tower, STANDSTILL, 0, id_dropout=0.0)

    def difference(item):
        negative = Negatives(np.array([item], np.int32), np.zeros(1, np.float32))
        loss, _ = trainer.fit(iter([Batch(request, np.array([1], np.int32), negative)]))
        return np.log(np.expm1(np.float64(loss)))

    return np.array([0.0, *(difference(item) for item in range(2, tower.shape.items))])


@pytest.mark.parametrize("metric", ["dot", "cosine"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_index_and_training_use_the_same_metric(metric, kind):
    """The softmax sees what the served vectors' products are, and faiss orders by exactly that."""
    shape = TowerSpec(
        **PLAIN | kind | {"metric": metric, "temperature": 0.4 if metric == "cosine" else 1.0}
    )
    facts = side_facts(shape)
    rng, fresh = np.random.default_rng(8), new_tower(shape, facts, np.random.default_rng(1))
    tower = Tower(
        shape,
        {n: rng.normal(0, 0.5, w.shape).astype(np.float32) for n, w in fresh.weights.items()},
        facts,
    )
    request = random_inputs(shape, 4).take(slice(3, 4))
    trained = logits_in_training(tower, request)
    served = (tower.user_vectors(request) @ tower.item_vectors.T)[0, 1:].astype(np.float64)
    assert np.ptp(trained) > 0.5
    np.testing.assert_allclose(trained, served - served[0], rtol=1e-3, atol=1e-3)
    found, scores = index_of(tower.item_vectors).search(tower.user_vectors(request), ITEMS - 1)
    np.testing.assert_array_equal(found[0], np.argsort(-trained) + 1)
    np.testing.assert_allclose(scores[0], np.sort(served)[::-1], rtol=1e-4, atol=1e-5)


def test_what_was_shown_and_not_clicked_counts_against_its_own_row_unless_it_is_nobody_or_the_positive():
    """Rows of shown items 4 and 7 (7 is row 1's positive), and padding: the loss by hand, beside
    negative 9.
    """
    shape = TowerSpec(**PLAIN)
    tower, inputs = random_weights(shape), random_inputs(shape, 3)
    items, shown = np.array([5, 7, 6], np.int32), np.array([[4, 7], [7, 0], [0, 0]], np.int32)
    negative = Negatives(np.array([9], np.int32), np.zeros(1, np.float32))
    s = tower.user_vectors(inputs).astype(np.float64) @ tower.item_vectors.T
    logits = [s[0, [5, 9, 4, 7]], s[1, [7, 9]], s[2, [6, 9]]]
    expected = np.mean([np.log(np.exp(row).sum()) - row[0] for row in logits])
    loss, _ = TowerTrainer(tower, STANDSTILL, 0).fit(iter([Batch(inputs, items, negative, shown)]))
    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_trainer_suits_towers_of_its_own_layers_and_category_sizes_and_any_number_of_items():
    shape = TowerSpec(**EVERYTHING)
    trainer = TowerTrainer(random_weights(shape), CONFIG, 0)
    others = {
        "items": 50,
        "tokens": 20,
        "hidden": (7, 5),
        "categories": {"region": 10, "country": 4},
        "numbers": {},
    }
    suited = [
        trainer.suits(random_weights(TowerSpec(**EVERYTHING | {k: v}))) for k, v in others.items()
    ]
    assert suited == [True, True, False, False, False]


def batches(shape, steps=6, n=16, seed=3):
    rng = np.random.default_rng(seed)
    for step in range(steps):
        drawn = Negatives(rng.integers(1, 20, 8).astype(np.int32), np.full(8, -1, np.float32))
        yield Batch(random_inputs(shape, n, step), rng.integers(1, 20, n).astype(np.int32), drawn)


@pytest.fixture(scope="module")
def trained():
    """A tower with every kind of input before and after a few steps, and its trainer."""
    shape = TowerSpec(**EVERYTHING)
    start = new_tower(shape, facts_of(shape), np.random.default_rng(2))
    trainer = TowerTrainer(start, CONFIG, 4)
    trainer.fit(batches(shape))
    return start, trainer


def test_a_trained_tower_is_served_as_the_graph_computes_it_also_after_reloading(trained, tmp_path):
    _, trainer = trained
    trainer.tower.save(tmp_path, "tower")
    inputs = random_inputs(trainer.shape, seed=9)
    served = Tower.load(tmp_path, "tower").user_vectors(inputs)
    np.testing.assert_array_equal(served, trainer.tower.user_vectors(inputs))
    np.testing.assert_allclose(served, by_keras(trainer.tower, inputs), rtol=1e-4, atol=1e-4)


def test_training_moves_every_table_and_every_layer(trained):
    start, trainer = trained
    still = [
        name for name, w in trainer.tower.weights.items() if np.array_equal(w, start.weights[name])
    ]
    assert still == []


def test_nobody_stays_zero_through_training(trained):
    _, trainer = trained
    for name in ("item_in", "item_out", "tokens"):
        assert not trainer.tower.weights[name][0].any(), name


def test_rows_that_no_batch_named_stay_as_they_were(trained):
    """Tables take row-wise steps: items 20.. were neither positives nor negatives."""
    start, trainer = trained
    np.testing.assert_array_equal(trainer.tower.item_vectors[20:], start.item_vectors[20:])
    assert (trainer.tower.item_vectors[1:20] != start.item_vectors[1:20]).any()


def test_a_tower_taken_from_training_does_not_move_with_later_steps(trained):
    _, trainer = trained
    taken = trainer.tower
    before = {name: w.copy() for name, w in taken.weights.items()}
    trainer.fit(batches(trainer.shape, steps=1, seed=8))
    for name, weights in taken.weights.items():
        np.testing.assert_array_equal(weights, before[name])


def test_two_seeded_trainings_give_equal_weights():
    shape = TowerSpec(**EVERYTHING)
    config = RecallConfig(dropout=0.3)

    def run():
        trainer = TowerTrainer(
            new_tower(shape, facts_of(shape), np.random.default_rng(2)), config, 4
        )
        return trainer.fit(batches(shape, steps=3)), trainer.tower.weights

    (loss, first), (again, second) = run(), run()
    assert loss == again
    for name, weights in first.items():
        np.testing.assert_array_equal(weights, second[name])


def test_batches_made_ahead_train_the_tower_of_batches_made_one_by_one(monkeypatch):
    """Equal to the bit, with every randomness of a step: dropout, and item ids hidden at random."""
    shape = TowerSpec(**EVERYTHING | SIDES)
    facts, config = side_facts(shape), RecallConfig(dropout=0.3)

    def run():
        trainer = TowerTrainer(
            new_tower(shape, facts, np.random.default_rng(2)), config, 4, id_dropout=0.5
        )
        return trainer.fit(batches(shape)), trainer.state()

    loss, state = run()
    monkeypatch.setattr(recall.trainer, "made_ahead", lambda items: (item for item in items))
    again, one_by_one = run()
    assert loss == again
    assert state.keys() == one_by_one.keys()
    for name, values in state.items():
        np.testing.assert_array_equal(values, one_by_one[name], err_msg=name)


def test_large_steps_are_compiled_and_train_the_tower_of_small_ones(monkeypatch):
    """By XLA, with as many further rows as a step's size has room for: dropout, hidden ids,
    unclicked ones and all.
    """
    shape = TowerSpec(**EVERYTHING | SIDES)
    facts, config = side_facts(shape), RecallConfig(dropout=0.3)
    shown = np.random.default_rng(5).integers(0, 20, (16, 2)).astype(np.int32)
    stream = [replace(batch, shown=shown) for batch in batches(shape, steps=3)]

    def run():
        trainer = TowerTrainer(
            new_tower(shape, facts, np.random.default_rng(2)), config, 4, id_dropout=0.5
        )
        return trainer.fit(iter(stream))[0], trainer

    loss, small = run()
    monkeypatch.setattr(recall.trainer, "LARGE_STEP", 16)
    same, large = run()
    assert large._large_step.experimental_get_tracing_count() == 1
    assert small._large_step.experimental_get_tracing_count() == 0
    assert same == pytest.approx(loss, rel=1e-5)
    for name, weights in large.tower.weights.items():
        # Adam moves a weight by about the rate, whatever its gradient: where that is nothing but
        # rounding, either way.
        far = np.abs(weights - small.tower.weights[name]) > 1e-4
        assert far.mean() < 0.02, name


def test_each_size_of_a_large_step_is_compiled_once(monkeypatch):
    monkeypatch.setattr(recall.trainer, "LARGE_STEP", 16)
    shape = TowerSpec(**PLAIN)
    trainer = TowerTrainer(new_tower(shape, facts_of(shape), np.random.default_rng(2)), CONFIG, 4)
    for n in (16, 24, 16):
        assert trainer.fit(batches(shape, steps=2, n=n))[1] == 2 * n
    assert trainer._large_step.experimental_get_tracing_count() == 2


def test_dropout_silences_a_share_of_the_inputs_and_keeps_their_mean():
    shape = TowerSpec(**PLAIN | {"recency_windows": (1, 2, 4)})
    tower, request = random_weights(shape), random_inputs(shape).take(slice(8, 9))
    expected = tower.user_vectors(request)[0, 0]
    weights = tower.weights | {"item_out": np.eye(ITEMS, shape.dim, -1, dtype=np.float32)}
    trainer = TowerTrainer(
        Tower(shape, weights, tower.facts), STANDSTILL.model_copy(update={"dropout": 0.25}), 0
    )
    nobody = Negatives(np.array([shape.dim + 1], np.int32), np.zeros(1, np.float32))
    stream = itertools.repeat(Batch(request, np.array([1], np.int32), nobody), 1500)
    found = -np.log(np.expm1([loss for loss, _ in trainer.steps(iter(stream))]))
    inputs = tower._wide_layer(request)[0] * tower.weights["kernel0"][:, 0]
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / np.sqrt(len(found)))
    # Each input is there or not on its own: the variance is the sum of theirs, p / (1 - p) of a
    # square each.
    assert found.var() == pytest.approx((inputs**2).sum() / 3, rel=0.2)


@pytest.mark.parametrize("example_age", [True, False])
def test_dropout_leaves_numbers_and_the_example_age_as_they_are(example_age):
    """A dropped number would say 0, which is a value of its own, and of the example age the one
    that is served.
    """
    shape = TowerSpec(**EVERYTHING | {"hidden": (), "example_age": example_age})
    tower, request = random_weights(shape), random_inputs(shape).take(slice(8, 9))
    numbers = (
        np.arange(len(tower.weights["kernel0"])) >= len(tower.weights["kernel0"]) - 6 - example_age
    )
    weights = tower.weights | {"kernel0": tower.weights["kernel0"] * numbers[:, None]}
    by_numbers = Tower(shape, weights, tower.facts)
    expected = by_numbers.user_vectors(request)[0, 0]
    weights |= {"item_out": np.eye(ITEMS, shape.dim, -1, dtype=np.float32)}
    trainer = TowerTrainer(
        Tower(shape, weights, tower.facts), STANDSTILL.model_copy(update={"dropout": 0.5}), 0
    )
    nobody = Negatives(np.array([shape.dim + 1], np.int32), np.zeros(1, np.float32))
    stream = itertools.repeat(Batch(request, np.array([1], np.int32), nobody), 20)
    found = -np.log(np.expm1([loss for loss, _ in trainer.steps(iter(stream))]))
    assert abs(expected) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_error_in_a_batch_ends_the_pass_and_the_steps_before_it_stand():
    shape = TowerSpec(**PLAIN)
    tower = random_weights(shape)

    def broken():
        yield from batches(shape, steps=3)
        raise OSError("no further")

    failed, whole = TowerTrainer(tower, CONFIG, 4), TowerTrainer(tower, CONFIG, 4)
    with pytest.raises(OSError, match="no further"):
        failed.fit(broken())
    whole.fit(batches(shape, steps=3))
    for name, weights in whole.tower.weights.items():
        np.testing.assert_array_equal(failed.tower.weights[name], weights)


def test_training_that_is_restored_goes_on_as_if_it_had_never_stopped():
    shape = TowerSpec(**EVERYTHING | SIDES)
    config, stream = RecallConfig(dropout=0.3), list(batches(shape))
    start = new_tower(shape, side_facts(shape), np.random.default_rng(2))
    whole, first, second = (TowerTrainer(start, config, 4, id_dropout=0.5) for _ in range(3))
    whole.fit(iter(stream))
    first.fit(iter(stream[:4]))
    second.restore(first.state())
    second.fit(iter(stream[4:]))
    for name, values in whole.state().items():
        np.testing.assert_array_equal(second.state()[name], values, err_msg=name)


def test_each_scored_row_moves_against_its_own_gradient():
    """Adam's first step is the rate against the gradient's sign; of 24 places some name an item
    twice.
    """
    shape = TowerSpec(**PLAIN)
    tower, batch = random_weights(shape), next(batches(shape))
    trainer = TowerTrainer(tower, CONFIG, 4)
    trainer.fit(iter([batch]))
    users, rows = (
        tower.user_vectors(batch.inputs).astype(np.float64),
        tower.weights["item_out"].astype(np.float64),
    )
    drawn = batch.negatives.items
    logits = np.append(
        (users * rows[batch.items]).sum(axis=1)[:, None], users @ rows[drawn].T + 1, axis=1
    )
    logits[:, 1:][batch.items[:, None] == drawn] = -np.inf
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = np.zeros_like(rows)
    np.add.at(gradient, batch.items, (chances[:, :1] - 1) * users)
    np.add.at(gradient, drawn, chances[:, 1:].T @ users)
    moved = trainer.tower.weights["item_out"] - rows
    told = np.abs(gradient) > 1e-3
    assert len(np.unique(np.append(batch.items, drawn))) < 24
    assert told.sum() > 40
    np.testing.assert_allclose(
        moved[told], -CONFIG.learning_rate * np.sign(gradient[told]), rtol=1e-3
    )


def test_layers_move_by_adams_formula():
    """Against Keras's own Adam at half the rate, whose dozen operations the fused one stands
    for.
    """
    rng = np.random.default_rng(0)
    start, gradients = (
        rng.normal(size=(5, 3)).astype(np.float32),
        rng.normal(size=(9, 5, 3)).astype(np.float32),
    )
    ours, theirs = keras.Variable(start), keras.Variable(start)
    fused, plain = recall.trainer._Adam([ours], [0.5]), keras.optimizers.Adam(0.005)
    for gradient in gradients:
        fused.apply([gradient], 0.01)
        plain.apply([keras.ops.convert_to_tensor(gradient)], [theirs])
    assert np.abs(ours.numpy() - start).min() > 1e-4
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)


def test_a_layer_of_many_inputs_takes_smaller_steps():
    """The first step of Adam is the rate, wherever there is a gradient: here a layer has four times
    `WIDE` inputs.
    """
    shape = TowerSpec(**PLAIN | {"hidden": (1024, 7)})
    tower = random_weights(shape)
    trainer = TowerTrainer(tower, CONFIG, 4)
    trainer.fit(batches(shape, steps=1))
    steps = {
        n: np.abs(w - tower.weights[n]).max() / CONFIG.learning_rate
        for n, w in trainer.tower.weights.items()
    }
    expected = {"kernel0": 1, "bias0": 1, "kernel1": 1 / 4, "bias1": 1, "kernel2": 1, "bias2": 1}
    assert {name: steps[name] for name in expected} == pytest.approx(expected, rel=1e-2)


def test_the_loss_of_a_pass_is_the_mean_over_its_positives():
    shape = TowerSpec(**PLAIN)
    tower = random_weights(shape)
    batch = next(batches(shape, steps=1))
    everything = Negatives(np.arange(1, ITEMS, dtype=np.int32), np.zeros(ITEMS - 1, np.float32))
    logits = tower.user_vectors(batch.inputs) @ tower.item_vectors[1:].T
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(16), batch.items - 1]
    loss = TowerTrainer(tower, CONFIG, 0).fit(iter([Batch(batch.inputs, batch.items, everything)]))
    assert loss == (pytest.approx(expected.mean(), rel=1e-4), 16)


def test_a_pass_without_batches_has_no_loss_and_moves_nothing():
    tower = random_weights(TowerSpec(**PLAIN))
    trainer = TowerTrainer(tower, CONFIG, 0)
    assert trainer.fit(iter([])) == (0, 0)
    np.testing.assert_array_equal(trainer.tower.item_vectors, tower.item_vectors)


def test_a_grown_tower_keeps_every_old_row_and_layer():
    old_shape = TowerSpec(**EVERYTHING)
    new_shape = TowerSpec(**EVERYTHING | {"items": ITEMS + 6, "tokens": 11, "as_of": 5})
    old = random_weights(old_shape)
    grown = grown_tower(old, new_shape, facts_of(new_shape), np.random.default_rng(1))
    assert grown.shape == new_shape
    assert grown.weights["item_in"].shape == (ITEMS + 6, 5)
    for name, weights in old.weights.items():
        np.testing.assert_array_equal(grown.weights[name][: len(weights)], weights)
    inputs = random_inputs(old_shape)
    np.testing.assert_array_equal(grown.user_vectors(inputs), old.user_vectors(inputs))
    assert grown.item_vectors[ITEMS:].all()


def test_a_new_tower_knows_nobody_and_depends_on_its_rng_alone():
    shape = TowerSpec(**EVERYTHING)
    first, second = (new_tower(shape, facts_of(shape), np.random.default_rng(6)) for _ in range(2))
    for name, weights in first.weights.items():
        np.testing.assert_array_equal(weights, second.weights[name])
    assert not first.weights["item_in"][0].any()
    assert not first.item_vectors[0].any()
    assert first.weights["item_in"][1:].all()


def test_loading_both_models_prints_nothing():
    code = (
        "import threading; import recall.trainer, ranking.trainer; "
        "print(threading.active_count(), end='')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stderr == ""
    assert run.stdout == "1"
