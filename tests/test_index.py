"""Indexes of every kind: faiss against a matrix product, what a short search does, and what is kept
of them.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from features.arrays import Float32
from recall.index import ItemIndex, approximate_index_of, cells_of, index_of

KINDS = ("exact", "ivf", "pq")
# What makes each kind look at everything.
EVERYTHING = {"exact": {}, "ivf": {"nprobe": 51}, "pq": {"nprobe": 51, "k_factor_rf": 60}}
LEAST = {"exact": {}, "ivf": {"nprobe": 1}, "pq": {"nprobe": 1, "k_factor_rf": 2}}


@pytest.fixture
def vectors() -> Float32:
    return np.random.default_rng(3).normal(size=(41, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def many() -> Float32:
    """2,000 items and nobody: forty groups of fifty, lengths that vary."""
    rng = np.random.default_rng(5)
    groups = np.repeat(rng.normal(size=(40, 8)), 50, axis=0)
    found = (groups + 0.3 * rng.normal(size=(2000, 8))) * rng.uniform(0.5, 2, (2000, 1))
    return np.concatenate([np.full((1, 8), 99.0), found]).astype(np.float32)


@pytest.fixture(scope="module")
def users() -> Float32:
    return np.random.default_rng(6).normal(size=(30, 8)).astype(np.float32)


def built(kind: str, vectors: Float32, parameters: dict[str, Any], items: Any = None) -> ItemIndex:
    index = (
        index_of(vectors, items) if kind == "exact" else approximate_index_of(kind, vectors, items)
    )
    index.tune(parameters)
    return index


def best(users: Float32, vectors: Float32, items: Any, k: int) -> tuple[Any, Float32]:
    """Brute force: the k best of the items and their inner products."""
    products = users @ vectors[items].T
    order = np.argsort(-products, axis=1)[:, :k]
    return items[order], np.take_along_axis(products, order, axis=1)


def test_the_best_items_are_those_of_the_largest_inner_products(vectors: Float32) -> None:
    users = np.random.default_rng(4).normal(size=(9, 6)).astype(np.float32)
    items, scores = index_of(vectors).search(users, 10)
    expected, products = best(users, vectors, np.arange(1, 41), 10)
    np.testing.assert_array_equal(items, expected)
    np.testing.assert_allclose(scores, products, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_agrees_with_brute_force_once_it_looks_at_everything(
    kind: str, many: Float32, users: Float32
) -> None:
    items, scores = built(kind, many, EVERYTHING[kind]).search(users, 30)
    expected, products = best(users, many, np.arange(1, 2001), 30)
    np.testing.assert_array_equal(items, expected)
    np.testing.assert_allclose(scores, products, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_inner_products_best_first_however_little_is_looked_at(
    kind: str, many: Float32, users: Float32
) -> None:
    items, scores = built(kind, many, LEAST[kind]).search(users, 10)
    np.testing.assert_allclose(
        scores, np.einsum("ud,ukd->uk", users, many[items]), rtol=1e-4, atol=1e-4
    )
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_items_they_were_made_of_where_the_catalogue_has_gaps(
    kind: str, many: Float32, users: Float32
) -> None:
    odd = np.arange(1, 2001, 2, dtype=np.int32)
    items, _ = built(kind, many, EVERYTHING[kind], odd).search(users, 20)
    np.testing.assert_array_equal(items, best(users, many, odd, 20)[0])
    assert items.dtype == np.int32


def test_a_long_vector_outscores_a_short_one_of_the_same_direction() -> None:
    """The tower is trained on the inner product: an index of cosines would call these two equal."""
    vectors = np.array([[0, 0], [1, 0], [3, 0]], np.float32)
    items, scores = index_of(vectors).search(np.array([[2, 0]], np.float32), 2)
    assert items.tolist() == [[2, 1]]
    assert scores.tolist() == [[6, 2]]


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_is_never_found_even_when_every_item_scores_worse(kind: str, many: Float32) -> None:
    against = -np.abs(np.ones((5, 8), np.float32))
    vectors = np.abs(many)
    vectors[0] = -100
    items, _ = built(kind, vectors, LEAST[kind]).search(against, 2000)
    assert (np.sort(items, axis=1) == np.arange(1, 2001)).all()


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_a_search_that_finds_too_few_is_done_again_over_everything(
    kind: str, many: Float32, users: Float32
) -> None:
    """A cell holds some forty of the 2,000 items: 500 cannot come out of it."""
    index = built(kind, many, LEAST[kind])
    raw = index.index.search(users, 1500)[1]
    assert (raw < 0).any()
    items, scores = index.search(users, 1500)
    assert (items > 0).all()
    assert np.isfinite(scores).all()
    short = (raw < 0).any(axis=1)
    np.testing.assert_array_equal(items[short], index_of(many).search(users[short], 1500)[0])


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_only_the_searches_that_found_too_few_are_done_again(kind: str) -> None:
    """One group of 30 far from 1,970 others: a search from its side is short, one from the other
    side is not.
    """
    rng = np.random.default_rng(7)
    away = np.array([9, 0, 0, 0])
    crowd, few = away + rng.normal(size=(1970, 4)), 0.1 * rng.normal(size=(30, 4)) - away
    vectors = np.concatenate([np.zeros((1, 4)), crowd, few]).astype(np.float32)
    index = built(kind, vectors, {"nprobe": 4})
    users = np.array([[1, 0.1, 0, 0], [-1, 0.1, 0, 0]], np.float32)
    raw = index.index.search(users, 150)[1]
    assert (raw < 0).any(axis=1).tolist() == [False, True]
    items, _ = index.search(users, 150)
    np.testing.assert_array_equal(items[0], raw[0] + 1)
    np.testing.assert_array_equal(items[1], best(users, vectors, np.arange(1, 2001), 150)[0][1])


@pytest.mark.parametrize("kind", KINDS)
def test_more_places_than_items_end_in_item_0_with_score_minus_infinity(
    kind: str, many: Float32, users: Float32
) -> None:
    some = np.arange(5, 1305, dtype=np.int32)
    items, scores = built(kind, many, LEAST[kind], some).search(users, 1310)
    assert (items[:, 1300:] == 0).all()
    assert np.isneginf(scores[:, 1300:]).all()
    assert (np.sort(items[:, :1300], axis=1) == some).all()


def test_an_index_of_nothing_offers_nobody() -> None:
    items, scores = index_of(np.ones((1, 3), np.float32)).search(np.ones((2, 3), np.float32), 4)
    assert items.tolist() == [[0] * 4] * 2
    assert np.isneginf(scores).all()


def test_nobody_asking_gets_no_list(many: Float32) -> None:
    for kind in KINDS:
        items, scores = built(kind, many, LEAST[kind]).search(np.zeros((0, 8), np.float32), 4)
        assert items.shape == scores.shape == (0, 4)


@pytest.mark.parametrize("items", [[0, 1], [2, 1], [1, 1], [40, 41], [-1, 3]])
def test_items_that_are_nobody_out_of_order_twice_or_unknown_are_a_fault(
    vectors: Float32, items: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"ascend within 1\.\.40"):
        index_of(vectors, np.array(items, np.int32))


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_survives_saving_parameters_items_and_all(
    kind: str, many: Float32, users: Float32, tmp_path: Path
) -> None:
    tuned = {"ivf": {"nprobe": 3}, "pq": {"nprobe": 3, "k_factor_rf": 4}}.get(kind, {})
    index = built(kind, many, tuned, np.arange(2, 2001, 2, dtype=np.int32))
    index.save(tmp_path / "items.faiss")
    reloaded = ItemIndex.load(tmp_path / "items.faiss")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.faiss", "items.npy"]
    assert len(reloaded) == len(index) == 1000
    for k in (7, 400):
        for ours, theirs in zip(index.search(users, k), reloaded.search(users, k), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_vectors_make_an_equal_index_on_any_number_of_threads(
    kind: str, many: Float32, tmp_path: Path
) -> None:
    threads = faiss.omp_get_max_threads()
    try:
        for number in (1, 4, 4):
            faiss.omp_set_num_threads(number)
            built(kind, many, LEAST[kind]).save(
                tmp_path / f"{len(list(tmp_path.glob('*.faiss')))}.faiss"
            )
            assert faiss.omp_get_max_threads() == number
    finally:
        faiss.omp_set_num_threads(threads)
    assert len({path.read_bytes() for path in tmp_path.glob("*.faiss")}) == 1


def test_megabytes_are_those_of_the_saved_file(many: Float32, tmp_path: Path) -> None:
    for kind in KINDS:
        index = built(kind, many, LEAST[kind])
        index.save(tmp_path / "items.faiss")
        assert index.megabytes == (tmp_path / "items.faiss").stat().st_size / 1e6


def test_cells_grow_with_the_root_of_the_catalogue_and_hold_enough_to_be_trained() -> None:
    assert [cells_of(n) for n in (1, 78, 2000, 10_000, 1_000_000)] == [1, 2, 51, 200, 2000]
