"""The ranker learns expected seconds: exact odds, the paper's odds, thinning, the cap, unknown codes."""

from dataclasses import replace

import numpy as np
import pytest

from ranking.config import RankingConfig
from ranking.features import Block
from ranking.ranker import _arrays, _Graph, seconds_cap, targets, train
from ranking.rows import RankingRows, thinned
from ranking.scoring import Ranker

ROWS = 6_000
RATES, MEANS = np.array([0.02, 0.3, 0.9]), np.array([200.0, 60.0, 20.0])
CONFIG = RankingConfig(
    hidden=(),
    dropout=0.0,
    batch=1000,
    learning_rate=0.05,
    epochs=40,
    patience=40,
    seconds_cap_quantile=1.0,
    vocabulary=3,
    vocabulary_clicks=2,
)


def simulated(n=ROWS, seed=0):
    """Rows of three kinds of item whose empirical click rates and mean seconds are RATES and MEANS, to rounding.

    Each kind clicks its share of every 100 rows, so that training and validation rows agree.
    """
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    clicked = (np.arange(n) // 3 * 37) % 100 < 100 * RATES[kind]
    seconds = np.where(clicked, MEANS[kind] * rng.uniform(0.5, 1.5, n), 0.0)
    blocks = {
        "user": Block(n, {"noise": rng.random(n)}, {}),
        "item": Block(n, {}, {"item": (kind + 1).astype(np.int32)}),
        "pair": Block(n, {}, {}),
    }
    return RankingRows(blocks, np.arange(n), clicked, seconds, np.ones(n)), kind


def fit(rows, **choices):
    config = CONFIG.model_copy(update=choices)
    return train(rows, "seconds", config, 3, lambda _: None)


def scores(ranker, blocks):
    return ranker.scores(blocks["user"], blocks["item"], blocks["pair"])


def mean_by_kind(values, kind):
    return np.array([values[kind == k].mean() for k in range(3)])


@pytest.fixture(scope="module")
def exact():
    rows, kind = simulated()
    return (*fit(rows), rows, kind)


def odds(labels, weights):
    """Where weighted cross-entropy of one intercept has its minimum."""
    return (weights * labels).sum() / (weights * (1 - labels)).sum()


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_the_objectives_have_their_optimum_at_the_promised_odds(kind):
    rows, kinds = simulated(60_000)
    clicked, seconds = rows.clicked[kinds == kind], rows.seconds[kinds == kind]
    expected = RATES[kind] * MEANS[kind]
    assert odds(*targets("exact", clicked, seconds)) == pytest.approx(expected, rel=0.05)
    assert odds(*targets("paper", clicked, seconds)) == pytest.approx(expected / (1 - RATES[kind]), rel=0.05)


def test_targets_of_single_rows_are_the_documented_ones():
    clicked, seconds = np.array([True, False]), np.array([9.0, 0.0])
    for objective, labels, weights in (("paper", [1, 0], [9, 1]), ("exact", [0.9, 0], [10, 1])):
        found = targets(objective, clicked, seconds)
        np.testing.assert_allclose(found[0], labels)
        np.testing.assert_allclose(found[1], weights)


def test_the_exact_objective_learns_expected_seconds(exact):
    ranker, _, rows, kind = exact
    means = mean_by_kind(scores(ranker, rows.blocks), kind)
    np.testing.assert_allclose(means, mean_by_kind(rows.seconds, kind), rtol=0.05)
    np.testing.assert_allclose(means, RATES * MEANS, rtol=0.08)


def test_the_papers_objective_learns_the_odds_that_leave_the_clicked_rows_out():
    rows, kind = simulated()
    ranker, _ = fit(rows, objective="paper")
    expected = mean_by_kind(rows.seconds, kind) / (1 - mean_by_kind(rows.clicked, kind))
    np.testing.assert_allclose(mean_by_kind(scores(ranker, rows.blocks), kind), expected, rtol=0.05)


def test_thinned_unclicked_rows_leave_the_exact_odds_where_they_were():
    rows, kind = simulated()
    kept, weight = thinned(rows.clicked, kind.astype(np.int32), 500, np.random.default_rng(2))
    assert len(kept) < 0.8 * ROWS
    ranker, _ = fit(replace(rows.take(kept), weight=weight))
    found = mean_by_kind(scores(ranker, rows.blocks), kind)
    np.testing.assert_allclose(found, mean_by_kind(rows.seconds, kind), rtol=0.08)


def test_the_seconds_that_the_cap_takes_are_given_back_by_the_scale():
    rows, _ = simulated()
    long = replace(rows, seconds=np.where(rows.clicked & (np.arange(ROWS) % 50 == 3), 2_000.0, rows.seconds))
    ranker, _ = fit(long, seconds_cap_quantile=0.9, epochs=10)
    later = slice(ROWS - ROWS // 10, None)
    capped = np.minimum(long.seconds, ranker.shape.seconds_cap)
    assert ranker.shape.seconds_cap < 2_000
    assert ranker.shape.scale == pytest.approx(long.seconds[later].sum() / capped[later].sum())
    assert ranker.shape.scale > 1.05
    unscaled = replace(ranker, shape=ranker.shape.model_copy(update={"scale": 1.0}))
    np.testing.assert_allclose(scores(ranker, rows.blocks), scores(unscaled, rows.blocks) * ranker.shape.scale)


def test_the_cap_is_a_quantile_of_clicked_seconds():
    rows, _ = simulated()
    assert seconds_cap(rows, 0.5) == pytest.approx(np.median(rows.seconds[rows.clicked]))
    assert seconds_cap(replace(rows, clicked=np.zeros(ROWS, bool)), 0.5) == 1


def mixed(n=300):
    """Rows with codes and numbers in every block, column names out of alphabetical order, unknowns everywhere."""
    rng = np.random.default_rng(6)
    numbers = {name: np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)) for name in ("z", "b", "a")}
    codes = {name: rng.integers(0, 12, n).astype(np.int32) for name in ("zone", "item", "kind")}
    clicked = rng.random(n) < 0.5
    blocks = {
        "user": Block(n, {"z": numbers["z"], "b": numbers["b"]}, {"zone": codes["zone"]}),
        "item": Block(n, {"a": numbers["a"]}, {"item": codes["item"], "a_kind": codes["kind"]}),
        "pair": Block(n, {"flat": np.ones(n), "never": np.full(n, np.nan)}, {}),
    }
    return RankingRows(blocks, rng.permutation(n), clicked, np.where(clicked, rng.exponential(5, n), 0), np.ones(n))


SMALL = RankingConfig(
    hidden=(8, 5), dropout=0.2, batch=64, epochs=3, vocabulary=6, vocabulary_clicks=2, learning_rate=0.01, patience=3
)


@pytest.fixture(scope="module")
def small():
    return train(mixed(), "seconds", SMALL, 1, lambda _: None)


def test_the_served_scores_have_the_validation_loss_that_the_keras_graph_reported(small):
    """The graph's own verdict on the later rows, to 1e-5, can only be met by computing its logits."""
    ranker, epochs = small
    rows = mixed()
    rows = replace(rows, seconds=np.minimum(rows.seconds, ranker.shape.seconds_cap))
    earlier, later = rows.take(np.flatnonzero(rows.instants < 270)), rows.take(np.flatnonzero(rows.instants >= 270))
    logits = np.log(scores(ranker, later.blocks) / ranker.shape.scale)
    labels, weights = targets("exact", later.clicked, later.seconds)
    losses = np.maximum(logits, 0) - logits * labels + np.log1p(np.exp(-np.abs(logits)))
    mean = targets("exact", earlier.clicked, earlier.seconds)[1].mean()
    assert (weights * losses).mean() / mean == pytest.approx(min(e["val_loss"] for e in epochs), rel=1e-4)


def test_numpy_scores_are_those_of_the_keras_graph(small):
    ranker, _ = small
    rows = mixed()
    graph = _Graph(ranker.shape, 0.2, 0)
    named = {f"sparse_emb_{n}": [w] for n, w in ranker.weights.items() if n.startswith("code_")}
    layers = len(ranker.shape.hidden)
    for layer in graph.model.layers:
        if layer.name in named:
            layer.set_weights(named[layer.name])
    kernels = [ranker.weights[f"kernel{i}"] for i in range(layers)]
    graph._deep.set_weights([*kernels, *(ranker.weights[f"bias{i}"] for i in range(layers))])
    graph._head.set_weights([ranker.weights[f"kernel{layers}"], ranker.weights[f"bias{layers}"]])
    logits = graph.model(_arrays(ranker, rows, "exact")[0], training=False).numpy()[:, 0]
    np.testing.assert_allclose(np.log(scores(ranker, rows.blocks) / ranker.shape.scale), logits, rtol=1e-5, atol=1e-5)


def test_what_is_out_of_vocabulary_is_the_zero_vector_also_after_training(small):
    ranker, _ = small
    tables = {name: w for name, w in ranker.weights.items() if name.startswith("code_")}
    assert set(tables) == {"code_zone", "code_item", "code_a_kind"}
    for name, table in tables.items():
        assert not table[0].any(), name
        assert table[1:].any(axis=1).all(), name


def test_two_seeded_trainings_give_equal_weights(small):
    again, epochs = train(mixed(), "seconds", SMALL, 1, lambda _: None)
    assert epochs == small[1]
    for name, weights in small[0].weights.items():
        np.testing.assert_array_equal(weights, again.weights[name])


def test_a_saved_ranker_gives_equal_scores(small, tmp_path):
    ranker, _ = small
    ranker.save(tmp_path)
    np.testing.assert_array_equal(scores(Ranker.load(tmp_path), mixed().blocks), scores(ranker, mixed().blocks))


def test_normalisers_and_cap_are_fitted_on_the_earlier_rows_alone(small):
    """Whatever the last tenth of the rows by instant holds, quantiles, vocabularies and cap stay."""
    rows = mixed()
    later = rows.instants >= 270
    numbers = {"z": np.where(later, 1e6, rows.blocks["user"].numbers["z"]), "b": rows.blocks["user"].numbers["b"]}
    codes = {"zone": np.where(later, 99, rows.blocks["user"].codes["zone"]).astype(np.int32)}
    changed = replace(
        rows,
        blocks=rows.blocks | {"user": Block(300, numbers, codes)},
        clicked=rows.clicked | later,
        seconds=np.where(later, 5_000.0, rows.seconds),
    )
    ranker, _ = train(changed, "seconds", SMALL.model_copy(update={"epochs": 1}), 1, lambda _: None)
    assert ranker.shape.seconds_cap == small[0].shape.seconds_cap
    assert ranker.shape.codes == small[0].shape.codes
    for block, normalisers in small[0].normalisers.items():
        for ours, theirs in zip(normalisers.tables, ranker.normalisers[block].tables, strict=True):
            assert ours.equals(theirs)


def test_each_epoch_is_told_and_training_lowers_the_loss():
    told = []
    _, epochs = train(simulated(1_500)[0], "seconds", CONFIG.model_copy(update={"epochs": 5}), 3, told.append)
    assert told == epochs
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4, 5]
    assert epochs[-1]["val_loss"] < epochs[0]["val_loss"]
