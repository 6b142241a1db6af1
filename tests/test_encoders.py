"""Numbers by their quantiles against an empirical CDF, vocabularies of clicked rows, their tables,
ablations.
"""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from features.asof_features import Block
from features.errors import InputError
from ranking.encoders import (
    Columns,
    VocabularyLimits,
    columns_of,
    encoders_from,
    fit_encoders,
    quantiles_of,
    width_of,
    with_powers,
)

NUMBER, CODE = np.zeros(2), np.zeros(2, np.int32)
BLOCKS = {
    "user": Block(2, {"user_age": NUMBER}, {"user_country": CODE}),
    "item": Block(2, {"item_shown": NUMBER, "item_click_rate": NUMBER}, {"item": CODE}),
    "pair": Block(2, {"user_topic_shown": NUMBER, "user_channel_shown": NUMBER}, {}),
}
NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(arrays(np.float64, st.integers(1, 60), elements=NUMBERS | st.just(float("nan"))))
def test_normalised_numbers_lie_in_0_1_rise_with_the_number_and_keep_the_unknown(numbers):
    out = quantiles_of(numbers, 16).normalised(numbers)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(numbers))
    known = np.sort(numbers[~np.isnan(numbers)])
    rising = quantiles_of(numbers, 16).normalised(known)
    assert ((rising >= 0) & (rising <= 1)).all()
    assert (np.diff(rising) > -1e-12).all()


def test_the_cdf_is_numpys_percentile_turned_round():
    rng = np.random.default_rng(0)
    numbers = np.append(rng.exponential(3, 5_000), np.full(100, np.nan))
    shares = np.array([0.01, 0.1, 0.25, 0.5, 0.9, 0.99])
    at = np.nanpercentile(numbers, 100 * shares)
    np.testing.assert_allclose(quantiles_of(numbers, 128).normalised(at), shares, atol=0.002)


def test_a_value_that_many_rows_share_stands_at_its_middle():
    numbers = np.array([0.0] * 60 + [1.0] * 20 + [5.0] * 20)
    np.testing.assert_allclose(
        quantiles_of(numbers, 10).normalised(np.array([0.0, 1.0, 5.0])), [0.3, 0.7, 0.9]
    )


def test_numbers_beyond_the_training_rows_take_the_outermost_share():
    quantiles = quantiles_of(np.arange(10.0), 10)
    np.testing.assert_allclose(quantiles.normalised(np.array([-99.0, 99.0])), [0.05, 0.95])


def test_in_a_constant_column_the_known_are_alike_and_the_unknown_are_flagged():
    out = quantiles_of(np.array([3.0, 3.0, np.nan]), 8).normalised(
        np.array([3.0, np.nan, 2.0, 4.0])
    )
    assert out[0] == 0.5
    assert np.isnan(out).tolist() == [False, True, False, False]


def test_a_number_never_known_in_training_is_unknown_ever_after():
    out = quantiles_of(np.full(4, np.nan), 8).normalised(np.array([np.nan, 2.0]))
    assert np.isnan(out).all()


NAMES = ("age", "flat", "never")
SPACES = {"item": "item", "kind": "kind", "user_last_item": "item"}
CLICKED = np.array([True, True, True, True, True, False])


def block():
    numbers = {
        "age": np.array([1.0, 2, 3, np.nan, 5, 6]),
        "flat": np.full(6, 2.0),
        "never": np.full(6, np.nan),
    }
    last = np.array([9, 9, 9, 9, 9, 9], np.int32)
    codes = {
        "item": np.array([7, 7, 2, 2, 9, 0], np.int32),
        "kind": np.zeros(6, np.int32),
        "user_last_item": last,
    }
    return Block(6, numbers, codes)


def fitted(vocabulary=5, clicks=2):
    return fit_encoders({"item": block()}, CLICKED, SPACES, VocabularyLimits(8, vocabulary, clicks))


def test_each_number_stands_at_its_quantile_and_the_unknown_stay_unknown():
    x = fitted().numbers(block(), NAMES)
    assert x.shape == (6, 3)
    np.testing.assert_allclose(
        x[:, 0], quantiles_of(block().numbers["age"], 8).normalised(block().numbers["age"])
    )
    assert np.isnan(x[3, 0])
    assert np.isnan(x[:, 2]).all()
    assert fitted().numbers(block(), ("flat",)).tolist() == [[0.5]] * 6


def test_numbers_side_by_side_are_what_each_is_alone():
    rng = np.random.default_rng(0)
    columns = {
        "even": rng.normal(size=500),
        "few": rng.integers(0, 3, 500).astype(float),
        "holes": np.where(rng.random(500) < 0.5, np.nan, rng.exponential(size=500)),
        "never": np.full(500, np.nan),
        "one": np.full(500, 2.0),
    }
    fit = fit_encoders(
        {"item": Block(500, columns, {})}, np.ones(500, bool), {}, VocabularyLimits(20, 5, 1)
    )
    ends = np.array([-np.inf, np.inf, np.nan, 2.0, -99.0, 99.0])
    asked = {
        name: np.concatenate([x, x + rng.normal(size=500), ends]) for name, x in columns.items()
    }
    found = fit.numbers(Block(1_006, asked, {}), tuple(columns))
    for place, (name, numbers) in enumerate(asked.items()):
        np.testing.assert_allclose(
            found[:, place], fit.quantiles[name].normalised(numbers), rtol=1e-6
        )


@pytest.mark.parametrize("powers", [True, False])
def test_the_net_reads_powers_and_whether_a_number_is_unknown(powers):
    x = np.array([[0.0, 1.0], [0.6, np.nan]], np.float32)
    inputs = with_powers(x, powers).reshape(2, width_of(powers), 2)
    for (row, column), value in (((0, 0), 0.0), ((0, 1), 1.0), ((1, 0), 0.6)):
        wanted = [value, value**2, value**0.5, 0] if powers else [value, 0]
        np.testing.assert_allclose(inputs[row, :, column], wanted, rtol=1e-5)
    assert inputs[1, :, 1].tolist() == [0] * (width_of(powers) - 1) + [1]


@pytest.mark.parametrize(("size", "kept"), [(5, [2, 7]), (1, [2]), (0, [])])
def test_the_vocabulary_is_the_most_frequent_codes_of_clicked_rows_seen_at_least_twice(size, kept):
    assert fitted(size).kept["item"].tolist() == kept
    assert fitted(size).kept["kind"].tolist() == []


def test_an_id_space_is_learnt_from_its_own_column_and_read_by_all():
    encoders = fitted()
    assert set(encoders.kept) == {"item", "kind"}
    assert 9 not in encoders.kept["item"]
    assert encoders.rows(np.array([[7, 9], [2, 0]], np.int32), "item").tolist() == [[2, 0], [1, 0]]


def test_unclicked_rows_earn_no_embedding():
    codes = Block(8, {}, {"item": np.array([3, 3, 3, 3, 3, 4, 4, 0], np.int32)})
    clicked = np.array([False] * 5 + [True] * 3)
    assert fit_encoders({"item": codes}, clicked, {"item": "item"}, VocabularyLimits(8, 9, 2)).kept[
        "item"
    ].tolist() == [4]


def test_codes_out_of_vocabulary_are_row_0():
    assert fitted().rows(np.array([7, 1, 2, 0, 99], np.int32), "item").tolist() == [2, 0, 1, 0, 0]
    assert fitted().rows(np.arange(5, dtype=np.int32), "kind").tolist() == [0] * 5


def test_the_tables_bring_the_normalisers_back(tmp_path):
    encoders = fitted()
    for name, table in zip(("quantiles", "codes"), encoders.tables, strict=True):
        table.to_parquet(tmp_path / f"{name}.parquet", index=False)
    tables = (
        pd.read_parquet(tmp_path / "quantiles.parquet"),
        pd.read_parquet(tmp_path / "codes.parquet"),
    )
    back = encoders_from(*tables, list(NAMES), ["item", "kind"])
    np.testing.assert_array_equal(back.numbers(block(), NAMES), encoders.numbers(block(), NAMES))
    for space, kept in encoders.kept.items():
        np.testing.assert_array_equal(back.kept[space], kept)


def test_no_columns_survive_their_tables():
    empty = fit_encoders(
        {"item": Block(2, {}, {})}, np.array([True, False]), {}, VocabularyLimits(8, 5, 2)
    )
    back = encoders_from(*empty.tables, [], [])
    assert back.numbers(Block(2, {}, {}), ()).shape == (2, 0)
    assert back.kept == {}


def test_all_columns_are_read_where_nothing_is_left_out():
    assert columns_of(BLOCKS, []) == Columns(
        {
            "user": ("user_age",),
            "item": ("item_shown", "item_click_rate"),
            "pair": ("user_topic_shown", "user_channel_shown"),
        },
        {"user": ("user_country",), "item": ("item",), "pair": ()},
    )


def test_a_name_leaves_out_itself_alone_and_a_pattern_what_is_like_it():
    read = columns_of(BLOCKS, ["item", "user_[tc]*_shown"])
    assert read.codes == {"user": ("user_country",), "item": (), "pair": ()}
    assert read.numbers == {
        "user": ("user_age",),
        "item": ("item_shown", "item_click_rate"),
        "pair": (),
    }


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (["user_topc_shown"], "did you mean user_topic_shown?"),
        (["zzz*"], "there are user_age, item_shown"),
        (["User_age"], "did you mean user_age?"),
        (["user_history_00"], "no column of the ranking rows is called so"),
        (["user*", "item*"], "leaves the ranker no column"),
    ],
)
def test_a_pattern_that_names_nothing_or_everything_is_refused(without, said):
    with pytest.raises(InputError) as refused:
        columns_of(BLOCKS, without)
    assert said in str(refused.value)


def test_rows_without_any_column_are_not_what_a_pattern_did():
    nothing = {name: Block(2, {}, {}) for name in BLOCKS}
    assert columns_of(nothing, []).numbers == {"user": (), "item": (), "pair": ()}
