"""The ranker without TensorFlow: blocks, shards, caps and what is kept on disk, on a ranker of
random weights.
"""

from dataclasses import replace

import numpy as np
import pytest

from features.asof_features import Block
from ranking import model
from ranking.encoders import VocabularyLimits, fit_encoders
from ranking.losses import LARGEST_LOGIT
from ranking.model import BLOCKS, LayerInput, Ranker, RankerSpec, space_of

ROWS = 25


def random_blocks(seed=0, n=ROWS):
    """Blocks of all kinds of columns; half of one number is unknown, one is never known, codes go
    beyond 0..3.
    """
    rng = np.random.default_rng(seed)
    some = np.where(rng.random(n) < 0.5, np.nan, rng.normal(size=n))
    country, last, item = (rng.integers(0, size, n).astype(np.int32) for size in (4, 9, 9))
    return {
        "user": Block(
            n, {"z": rng.normal(size=n), "a": some}, {"country": country, "user_last_item": last}
        ),
        "item": Block(
            n,
            {"never": np.full(n, np.nan)},
            {"item": item, "kind": np.zeros(n, np.int32)},
        ),
        "pair": Block(n, {"recall_z": rng.normal(size=n)}, {}),
    }


def test_the_last_item_and_its_sides_are_read_in_the_items_spaces_and_nothing_else_is():
    columns = (
        "user_last_item",
        "user_last_channel_id",
        "user_last_topics",
        "user_last_device",
        "item_kind",
    )
    assert [*map(space_of, columns)] == [
        "item",
        "item_channel_id",
        "item_topics",
        "user_last_device",
        "item_kind",
    ]


def random_ranker(seed=1, **switches):
    rng, blocks = np.random.default_rng(seed), random_blocks()
    codes = {name: tuple(block.codes) for name, block in blocks.items()}
    spaces = {code: space_of(code) for names in codes.values() for code in names}
    encoders = fit_encoders(blocks, np.ones(ROWS, bool), spaces, VocabularyLimits(8, 5, 1))
    spec = RankerSpec(
        numbers={name: tuple(block.numbers) for name, block in blocks.items()},
        codes=codes,
        sizes={space: len(kept) + 1 for space, kept in encoders.kept.items()},
        unit="seconds",
        **{"seconds_cap": 90, "hidden": (6, 5), "objective": "exact", "scale": 1.3} | switches,
    )
    sizes = {f"table_{space}": (size, spec.dims[space]) for space, size in spec.sizes.items()}
    widths = [sum(map(spec.width, BLOCKS)), *spec.hidden, 1]
    for layer in range(len(spec.hidden) + 1):
        sizes |= {
            f"kernel{layer}": (widths[layer], widths[layer + 1]),
            f"bias{layer}": (widths[layer + 1],),
        }
    weights = {name: (rng.normal(size=size) / 3).astype(np.float32) for name, size in sizes.items()}
    return Ranker(spec, encoders, weights)


def scores(ranker, blocks):
    return ranker.scores(blocks["user"], blocks["item"], blocks["pair"])


def embedded(ranker, space, row):
    return ranker.weights[f"table_{space}"][row] if row else np.zeros(ranker.spec.dims[space])


def score_by_loop(ranker, blocks, row):
    """One row in plain Python: each block's embeddings and numbers, then layer by layer."""
    one, weights = (
        {name: block.take(np.array([row])) for name, block in blocks.items()},
        ranker.weights,
    )
    parts = []
    for block in BLOCKS:
        for code in ranker.spec.codes[block]:
            at = ranker.encoders.rows(one[block].codes[code], space_of(code))[0]
            parts.append(embedded(ranker, space_of(code), at))
        parts.append(ranker.inputs(block, one[block])[0])
    values, layers = np.concatenate(parts), len(ranker.spec.hidden)
    for layer in range(layers):
        values = np.maximum(values @ weights[f"kernel{layer}"] + weights[f"bias{layer}"], 0)
    logit = values @ weights[f"kernel{layers}"] + weights[f"bias{layers}"]
    return np.exp(logit[0]) * ranker.spec.scale


SWITCHES = [
    {},
    {"hidden": ()},
    {"hidden": (6,), "powers": False},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_scores_are_what_a_loop_over_rows_computes(switches):
    ranker, blocks = random_ranker(**switches), random_blocks(5)
    expected = [score_by_loop(ranker, blocks, row) for row in range(ROWS)]
    np.testing.assert_allclose(scores(ranker, blocks), expected, rtol=1e-4)


def test_shards_do_not_change_the_scores(monkeypatch):
    ranker, blocks = random_ranker(), random_blocks(5)
    whole = scores(ranker, blocks)
    monkeypatch.setattr(model, "SHARD", 7)
    np.testing.assert_allclose(scores(ranker, blocks), whole, rtol=1e-5)


def test_no_rows_have_no_scores():
    assert scores(random_ranker(), random_blocks(n=0)).shape == (0,)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_a_saved_ranker_gives_equal_scores_and_keeps_its_columns_order(tmp_path, switches):
    ranker, blocks = random_ranker(**switches), random_blocks(5)
    ranker.save(tmp_path)
    reloaded = Ranker.load(tmp_path)
    assert reloaded.spec == ranker.spec
    assert reloaded.spec.numbers["user"] == ("z", "a")
    assert sorted(reloaded.weights) == sorted(ranker.weights)
    np.testing.assert_array_equal(scores(reloaded, blocks), scores(ranker, blocks))


def test_nothing_saved_is_a_pickle(tmp_path):
    random_ranker().save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".parquet", ".h5"}


def test_an_enormous_logit_never_overflows_and_no_mean_is_above_the_longest_watch_learnt_from():
    huge, nothing = (
        LayerInput(np.full((1, 1), 1e4, np.float32)),
        LayerInput(np.zeros((1, 1), np.float32)),
    )
    odds, mean = random_ranker(hidden=(), objective="paper"), random_ranker(hidden=())
    assert odds.expected_seconds(huge, nothing, nothing)[0] == pytest.approx(
        np.exp(LARGEST_LOGIT) * 1.3
    )
    assert mean.expected_seconds(huge, nothing, nothing)[0] == pytest.approx(90 * 1.3)


def test_the_calibration_is_the_last_step():
    ranker, blocks = random_ranker(), random_blocks(5)
    twice = ranker.with_spec(calibration=2.0)
    np.testing.assert_allclose(scores(twice, blocks), 2 * scores(ranker, blocks))


def test_columns_the_ranker_was_not_trained_on_change_nothing():
    ranker, blocks = random_ranker(), random_blocks(5)
    later = {**blocks["pair"].numbers, "later": np.ones(ROWS)}
    more = blocks | {"pair": replace(blocks["pair"], numbers=later)}
    np.testing.assert_array_equal(scores(ranker, more), scores(ranker, blocks))
