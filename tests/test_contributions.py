"""What generators bring to a merged list, by hand and against loops."""

import math
from dataclasses import astuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recall.contributions import Contribution, contributions

NONE = math.nan


def ranks(**generators):
    return {name: np.array(rank, dtype=np.uint16) for name, rank in generators.items()}


def test_a_generator_is_told_what_it_named_what_it_hit_and_what_it_alone_hit():
    filled = np.array([[True, True, True], [True, False, False]])
    hit = np.array([[True, True, False], [True, False, False]])
    named = ranks(
        tower=[[1, 2, 3], [0, 0, 0]], popular=[[0, 1, 0], [2, 0, 0]], idle=[[0, 0, 0], [0, 0, 0]]
    )
    assert contributions(named, filled, hit, watches=10) == {
        "tower": Contribution(named=3 / 4, hits=2 / 3, unique_hits=1 / 3, unique_watches=0.1),
        "popular": Contribution(named=2 / 4, hits=2 / 3, unique_hits=1 / 3, unique_watches=0.1),
        "idle": Contribution(named=0, hits=0, unique_hits=0, unique_watches=0),
    }


def test_the_only_generator_names_and_hits_everything():
    filled, hit = np.array([[True, True, False]]), np.array([[False, True, False]])
    alone = contributions(ranks(tower=[[1, 2, 0]]), filled, hit, watches=4)
    assert alone == {"tower": Contribution(1, 1, 1, 0.25)}


def test_without_lists_hits_or_watches_there_is_no_share():
    empty = np.zeros((1, 2), bool)
    (nothing,) = contributions(ranks(tower=[[0, 0]]), empty, empty, watches=0).values()
    assert all(math.isnan(share) for share in astuple(nothing))
    (missed,) = contributions(ranks(tower=[[1, 2]]), ~empty, empty, watches=3).values()
    assert (missed.named, missed.unique_watches) == (1, 0)
    assert math.isnan(missed.hits)
    assert math.isnan(missed.unique_hits)


@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_contributions_equal_a_loop_over_the_places(generators, seed):
    rng = np.random.default_rng(seed)
    named = {
        f"c{number}": rng.integers(0, 3, (4, 5)).astype(np.uint16) for number in range(generators)
    }
    filled = rng.random((4, 5)) < 0.8
    hit = filled & (rng.random((4, 5)) < 0.4)
    for name, found in contributions(named, filled, hit, watches=9).items():
        cells = [(int(u), int(p)) for u, p in np.ndindex(filled.shape)]
        mine = [cell for cell in cells if named[name][cell]]
        only = [
            cell
            for cell in mine
            if not any(rank[cell] for other, rank in named.items() if other != name)
        ]
        hits = sum(hit[cell] for cell in mine)
        unique = sum(hit[cell] for cell in only)
        expected = [
            sum(filled[cell] for cell in mine) / filled.sum() if filled.any() else NONE,
            *((hits / hit.sum(), unique / hit.sum()) if hit.any() else (NONE, NONE)),
            unique / 9,
        ]
        np.testing.assert_allclose(astuple(found), expected)
