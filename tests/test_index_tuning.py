"""Index tuning: parameters rise until the overlap passes on both halves of the queries, else exact
is published.
"""

from typing import Any

import numpy as np
import pytest

from features.arrays import Float32
from recall import index_tuning
from recall.config import RecallConfig
from recall.index import ItemIndex, index_of
from recall.index_tuning import FEWEST, Trial, tune_index

pytestmark = pytest.mark.slow


K = 20


def groups(items: int, dim: int, spread: float, seed: int) -> tuple[Float32, Float32]:
    """Vectors [items + 1, dim] and queries [60, dim] around the same hundred centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(100, dim))
    vectors, queries = (
        (centres[rng.integers(0, 100, rows)] + spread * rng.normal(size=(rows, dim))).astype(
            np.float32
        )
        for rows in (items + 1, 60)
    )
    return vectors, queries


@pytest.fixture(scope="module")
def easy() -> tuple[Float32, Float32]:
    return groups(6000, 16, 0.3, 1)


@pytest.fixture(scope="module")
def hard() -> tuple[Float32, Float32]:
    """No groups at all in 48 dimensions: what is near lies everywhere."""
    rng = np.random.default_rng(2)
    return rng.normal(size=(3001, 48)).astype(np.float32), rng.normal(size=(60, 48)).astype(
        np.float32
    )


def guarded(world: tuple[Float32, Float32], **settings: Any) -> tuple[ItemIndex, list[Trial]]:
    config = RecallConfig.model_validate({"k": K, **settings})
    return tune_index(world[0], None, world[1], config)


def overlap(index: ItemIndex, world: tuple[Float32, Float32], rows: slice) -> float:
    """Counted one by one."""
    found, truth = (i.search(world[1][rows], K)[0] for i in (index, index_of(world[0])))
    return float(
        np.mean(
            [len(set(a) & set(b)) / K for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
        )
    )


@pytest.mark.parametrize("kind", ["ivf", "pq"])
@pytest.mark.parametrize("target", [0.9, 0.99])
def test_what_is_published_passes_on_the_queries_that_chose_it_and_on_the_others(
    kind: str, target: float, easy: tuple[Float32, Float32]
) -> None:
    index, trials = guarded(easy, index=kind, index_overlap=target)
    (chosen,) = [trial for trial in trials if trial.chosen]
    assert chosen.kind == kind
    assert chosen.overlap == pytest.approx(overlap(index, easy, slice(0, None, 2)))
    assert chosen.overlap_held_out == pytest.approx(overlap(index, easy, slice(1, None, 2)))
    assert min(chosen.overlap, chosen.overlap_held_out) >= target


def _numbers(trial: Trial) -> list[int]:
    return [int(part.split()[1]) for part in trial.parameters.split(", ")]


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_parameters_start_low_and_rise_until_they_pass(
    kind: str, easy: tuple[Float32, Float32]
) -> None:
    low, high = (guarded(easy, index=kind, index_overlap=target)[1] for target in (0.5, 0.999))
    assert len(low) < len(high)
    assert sum(_numbers(low[-1])) < sum(_numbers(high[-1]))
    assert all(
        trial.overlap < 0.999 or trial.overlap_held_out < 0.999
        for trial in high[1:-1]
        if not trial.chosen
    )
    assert low[1].parameters == high[1].parameters


def test_a_pass_on_the_choosing_half_alone_is_not_enough(easy: tuple[Float32, Float32]) -> None:
    """Every second query asks from afar: what suffices for the easy half must be raised for the
    other.
    """
    vectors, queries = easy[0], easy[1].copy()
    queries[1::2] = 3 * np.random.default_rng(4).normal(size=queries[1::2].shape)
    index, trials = guarded((vectors, queries), index="ivf", index_overlap=0.98)
    held_back = [trial for trial in trials[1:-1] if trial.overlap >= 0.98]
    assert held_back
    assert all(trial.overlap_held_out < 0.98 for trial in held_back)
    assert trials[-1].chosen
    assert overlap(index, (vectors, queries), slice(1, None, 2)) >= 0.98


@pytest.mark.parametrize("kind", ["ivf", "pq", "auto"])
def test_where_nothing_passes_exact_is_published_and_the_tries_are_told(
    kind: str, hard: tuple[Float32, Float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No probe of a quarter of the cells finds everything here."""
    monkeypatch.setattr(index_tuning, "EXACT_UP_TO", 0)
    config = RecallConfig(k=K, index=kind).model_copy(update={"index_overlap": 1.01})
    index, trials = tune_index(hard[0], None, hard[1], config)
    assert [trial.kind for trial in trials if trial.chosen] == ["exact"]
    assert {trial.kind for trial in trials} == {
        "exact",
        *(("pq", "ivf") if kind == "auto" else (kind,)),
    }
    for ours, theirs in zip(
        index.search(hard[1], K), index_of(hard[0]).search(hard[1], K), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_vectors_without_groups_are_left_to_the_exact_index(hard: tuple[Float32, Float32]) -> None:
    _, trials = guarded(hard, index="ivf", index_overlap=0.999)
    assert trials[0].chosen
    assert max(trial.overlap for trial in trials[1:]) < 0.999


def test_auto_is_exact_up_to_the_size_measured_and_approximate_above(
    easy: tuple[Float32, Float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_tuning, "EXACT_UP_TO", 6000)
    _, below = guarded(easy, index="auto")
    monkeypatch.setattr(index_tuning, "EXACT_UP_TO", 5999)
    _, above = guarded(easy, index="auto")
    assert [(trial.kind, trial.chosen) for trial in below] == [("exact", True)]
    assert [trial.kind for trial in above if trial.chosen] == ["pq"]


def test_too_few_items_or_queries_to_vouch_for_it_leave_the_index_exact(
    easy: tuple[Float32, Float32],
) -> None:
    vectors, queries = easy
    for world in (
        (vectors[:FEWEST], queries),
        (vectors, queries[:1]),
        (vectors, queries[:0]),
        (vectors[:1], queries),
    ):
        index, trials = guarded(world, index="ivf")
        assert [(trial.kind, trial.chosen) for trial in trials] == [("exact", True)]
        assert len(index) == len(world[0]) - 1


def test_exact_is_exact_when_asked_for(easy: tuple[Float32, Float32]) -> None:
    assert len(guarded(easy, index="exact")[1]) == 1


def test_vectors_that_are_not_numbers_are_left_to_the_exact_index(
    easy: tuple[Float32, Float32],
) -> None:
    vectors = easy[0].copy()
    vectors[17] = np.nan
    assert [trial.kind for trial in guarded((vectors, easy[1]), index="auto")[1]] == ["exact"]


@pytest.mark.parametrize("kind", ["ivf", "pq"])
def test_equal_vectors_make_equal_choices_whatever_the_clock_says(
    kind: str, easy: tuple[Float32, Float32]
) -> None:
    one, other = (guarded(easy, index=kind) for _ in range(2))
    seen = [
        [(t.parameters, t.overlap, t.megabytes, t.chosen) for t in trials]
        for _, trials in (one, other)
    ]
    assert seen[0] == seen[1]
    for ours, theirs in zip(one[0].search(easy[1], 50), other[0].search(easy[1], 50), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_catalogue_with_gaps_keeps_them(easy: tuple[Float32, Float32]) -> None:
    vectors, queries = easy
    some = np.arange(3, 6001, 3, dtype=np.int32)
    index, trials = tune_index(vectors, some, queries, RecallConfig(k=K, index="pq"))
    assert trials[-1].chosen
    assert set(np.unique(index.search(queries, 300)[0]).tolist()) <= set(some.tolist())


def test_the_sweep_says_what_each_trial_cost(easy: tuple[Float32, Float32]) -> None:
    _, (exact, *others) = guarded(easy, index="pq")
    assert (exact.kind, exact.overlap, exact.ratio_to_exact) == ("exact", 1.0, 1.0)
    for trial in others:
        assert trial.queries_per_second / exact.queries_per_second == pytest.approx(
            trial.ratio_to_exact
        )
        assert trial.megabytes > exact.megabytes
        assert trial.build_seconds > 0
