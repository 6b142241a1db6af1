"""The ranker without TensorFlow: blocks, shards, caps and what is kept on disk, on a ranker of random weights."""

import numpy as np
import pytest

from ranking import scoring
from ranking.features import Block
from ranking.normalisers import normalisers_of
from ranking.scoring import BLOCKS, LARGEST_LOGIT, POWERS, Ranker, RankerShape

ROWS = 25


def random_blocks(seed=0, n=ROWS):
    """Blocks of all kinds of columns; half of one number is unknown, one is never known, codes go beyond 0..3."""
    rng = np.random.default_rng(seed)
    some = np.where(rng.random(n) < 0.5, np.nan, rng.normal(size=n))
    return {
        "user": Block(n, {"z": rng.normal(size=n), "a": some}, {"country": rng.integers(0, 4, n).astype(np.int32)}),
        "item": Block(
            n,
            {"never": np.full(n, np.nan)},
            {"item": rng.integers(0, 9, n).astype(np.int32), "kind": np.zeros(n, np.int32)},
        ),
        "pair": Block(n, {"recall_z": rng.normal(size=n)}, {}),
    }


def random_ranker(hidden=(6, 5), seed=1):
    rng, blocks = np.random.default_rng(seed), random_blocks()
    normalisers = {name: normalisers_of(block, np.ones(ROWS, bool), 8, 5) for name, block in blocks.items()}
    numbers = {name: tuple(blocks[name].numbers) for name in BLOCKS}
    codes = {name: normalisers[name].sizes for name in BLOCKS}
    shape = RankerShape(
        numbers=numbers, codes=codes, hidden=hidden, objective="exact", unit="seconds", seconds_cap=90, scale=1.3
    )
    sizes = [size for block in BLOCKS for size in codes[block].values()]
    wide = sum(map(shape.code_dim, sizes)) + POWERS * sum(map(len, numbers.values()))
    names = [f"code_{name}" for block in BLOCKS for name in codes[block]]
    weights = {name: rng.normal(size=(size, shape.code_dim(size))) for name, size in zip(names, sizes, strict=True)}
    for name in names:
        weights[name][0] = 0
    widths = [wide, *hidden, 1]
    weights |= {f"kernel{i}": rng.normal(size=widths[i : i + 2]) / 3 for i in range(len(hidden) + 1)}
    weights |= {f"bias{i}": rng.normal(size=widths[i + 1]) for i in range(len(hidden) + 1)}
    return Ranker(shape, normalisers, {name: w.astype(np.float32) for name, w in weights.items()})


def scores(ranker, blocks):
    return ranker.scores(blocks["user"], blocks["item"], blocks["pair"])


def score_by_loop(ranker, blocks, row):
    """One row in plain Python: embeddings block by block, then numbers block by block, through the layers."""
    one = {name: block.take(np.array([row])) for name, block in blocks.items()}
    parts = [
        ranker.weights[f"code_{name}"][code[0]]
        for b in BLOCKS
        for name, code in ranker.normalisers[b].codes(one[b]).items()
    ]
    values = np.concatenate([*parts, *(ranker.normalisers[b].numbers(one[b])[0] for b in BLOCKS)])
    layers = len(ranker.shape.hidden)
    for layer in range(layers):
        values = np.maximum(values @ ranker.weights[f"kernel{layer}"] + ranker.weights[f"bias{layer}"], 0)
    logit = values @ ranker.weights[f"kernel{layers}"] + ranker.weights[f"bias{layers}"]
    return np.exp(logit[0]) * ranker.shape.scale


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_scores_are_what_a_loop_over_rows_computes(hidden):
    ranker, blocks = random_ranker(hidden), random_blocks(5)
    expected = [score_by_loop(ranker, blocks, row) for row in range(ROWS)]
    np.testing.assert_allclose(scores(ranker, blocks), expected, rtol=1e-4)


def test_shards_do_not_change_the_scores(monkeypatch):
    ranker, blocks = random_ranker(), random_blocks(5)
    whole = scores(ranker, blocks)
    monkeypatch.setattr(scoring, "SHARD", 7)
    np.testing.assert_allclose(scores(ranker, blocks), whole, rtol=1e-5)


def test_no_rows_have_no_scores():
    assert scores(random_ranker(), random_blocks(n=0)).shape == (0,)


@pytest.mark.parametrize("hidden", [(), (6, 5)])
def test_a_saved_ranker_gives_equal_scores_and_keeps_its_columns_order(tmp_path, hidden):
    ranker, blocks = random_ranker(hidden), random_blocks(5)
    ranker.save(tmp_path)
    reloaded = Ranker.load(tmp_path)
    assert reloaded.shape == ranker.shape
    assert reloaded.shape.numbers["user"] == ("z", "a")
    assert sorted(reloaded.weights) == sorted(ranker.weights)
    np.testing.assert_array_equal(scores(reloaded, blocks), scores(ranker, blocks))


def test_nothing_saved_is_a_pickle(tmp_path):
    random_ranker().save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".parquet", ".h5"}


def test_an_enormous_logit_is_capped_before_it_overflows():
    ranker = random_ranker(())
    huge = np.full((1, 1), 1e4, np.float32)
    assert ranker.expected_seconds(huge)[0] == pytest.approx(np.exp(LARGEST_LOGIT) * 1.3)


def test_columns_the_ranker_was_not_trained_on_change_nothing():
    ranker, blocks = random_ranker(), random_blocks(5)
    more = blocks | {"pair": blocks["pair"].with_numbers({"later": np.ones(ROWS)})}
    np.testing.assert_array_equal(scores(ranker, more), scores(ranker, blocks))
