"""Re-ranking against plain loops: marginal relevance, caps, exclusions, and what they cost."""

import itertools

import numpy as np
import pytest

from ranking.config import ReRankConfig
from ranking.re_rank import CatalogueSnapshot, most_excluded, re_ranked, seconds_lost
from ranking.recommend import Ordered

ITEMS, POOL, USERS, TOP = 40, 12, 9, 6


def world(seed=0, users=USERS):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(ITEMS, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    catalogue = CatalogueSnapshot(
        vectors.astype(np.float32),
        rng.integers(0, 4, ITEMS).astype(np.int32),
        np.sort(np.array([7, 11, (3 << 32) | 5], np.int64)),
    )
    items = np.stack([rng.permutation(np.arange(1, ITEMS))[:POOL] for _ in range(users)]).astype(
        np.int32
    )
    seconds = -np.sort(-rng.exponential(20, (users, POOL)), axis=1)
    items[0, 4:], seconds[0, 4:] = 0, 0
    with np.errstate(divide="ignore"):
        scores = np.log(seconds)
    return Ordered(
        np.arange(1, users + 1, dtype=np.int32), items, scores, seconds, seconds / 100
    ), catalogue


def run(ranked, catalogue, **switches):
    """Items, seconds and chances of the lists."""
    lists = re_ranked(
        ranked, catalogue, ReRankConfig(**{"pool": POOL, "head": TOP} | switches), TOP
    )
    return lists.items, lists.seconds, lists.chances


def test_with_every_switch_off_the_list_is_the_rankers():
    ranked, catalogue = world()
    items, seconds, chances = run(ranked, catalogue)
    np.testing.assert_array_equal(items, ranked.items[:, :TOP])
    np.testing.assert_array_equal(seconds, ranked.seconds[:, :TOP])
    np.testing.assert_array_equal(chances, ranked.chances[:, :TOP])


def greedy(ranked, row, gain):
    """The list of one user by a gain of (item's place, places taken), ties to the first."""
    taken = []
    there = [place for place in range(POOL) if ranked.items[row, place]]
    while len(taken) < min(TOP, len(there)):
        taken.append(max((p for p in there if p not in taken), key=lambda p: gain(p, taken)))
    return ranked.items[row, taken].tolist() + [0] * (TOP - len(taken))


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.8, 1.0])
def test_marginal_relevance_is_that_of_a_loop(strength):
    ranked, catalogue = world()
    items, seconds, _ = run(ranked, catalogue, diversity="mmr", strength=strength)
    for row in range(USERS):
        vectors, relevance = (
            catalogue.vectors[ranked.items[row]],
            ranked.seconds[row] / ranked.seconds[row].max(),
        )

        def gain(place, taken, vectors=vectors, relevance=relevance):
            nearest = max((float(vectors[place] @ vectors[t]) for t in taken), default=0)
            return (1 - strength) * relevance[place] - strength * nearest

        assert items[row].tolist() == greedy(ranked, row, gain)
    for row, place in itertools.product(range(USERS), range(TOP)):
        if items[row, place]:
            assert (
                seconds[row, place]
                == ranked.seconds[row, ranked.items[row].tolist().index(items[row, place])]
            )


def test_more_strength_is_more_difference():
    ranked, catalogue = world(users=200)

    def similarity(items):
        vectors = catalogue.vectors[items[1:]]
        return float(np.einsum("nad,nbd->nab", vectors, vectors).mean())

    by_strength = [
        similarity(run(ranked, catalogue, diversity="mmr", strength=s)[0]) for s in (0.01, 0.5, 0.9)
    ]
    assert by_strength == sorted(by_strength, reverse=True)
    assert by_strength[2] < 0.95 * by_strength[0]


def test_at_most_so_many_of_a_channel_as_far_as_the_pool_goes():
    ranked, catalogue = world(users=100)
    items, *_ = run(ranked, catalogue, channel_cap=2)
    for row in range(1, 100):
        pool = catalogue.channels[ranked.items[row]]
        enough = (pool == 0).sum() + sum(min((pool == c).sum(), 2) for c in (1, 2, 3)) >= TOP
        listed = np.bincount(catalogue.channels[items[row]], minlength=4)[1:]
        assert (listed <= 2).all() or not enough
        assert (items[row] > 0).all()
    assert any(
        np.bincount(catalogue.channels[row], minlength=4)[1:].max() > 2
        for row in ranked.items[1:, :TOP]
    )


def test_what_is_excluded_is_in_no_list_and_others_move_up():
    ranked, catalogue = world(users=50)
    items, *_ = run(ranked, catalogue, exclusions="a table")
    assert not np.isin(items, [7, 11]).any()
    assert 5 not in items[2]
    assert (items[1:] > 0).all()
    for row in range(1, 50):
        gone = {7, 11} | ({5} if row == 2 else set())
        assert items[row].tolist() == [item for item in ranked.items[row] if item not in gone][:TOP]


def test_what_is_excluded_takes_no_place_of_the_pool():
    ranked, catalogue = world(users=50)
    items, *_ = run(ranked, catalogue, exclusions="a table", pool=TOP)
    varied, *_ = run(
        ranked, catalogue, exclusions="a table", pool=TOP + 1, diversity="mmr", strength=1.0
    )
    gone = [{7, 11} | ({5} if row == 2 else set()) for row in range(50)]
    for row in range(50):
        allowed = [item for item in ranked.items[row] if item and item not in gone[row]]
        assert [item for item in items[row] if item] == allowed[:TOP]
        assert set(varied[row]) - {0} <= set(allowed[: TOP + 1])
    counts = [len(gone[row] & set(ranked.items[row])) for row in range(50)]
    excluding = ReRankConfig(exclusions="a table")
    assert most_excluded(ranked.users, ranked.items, catalogue, excluding) == max(counts)
    assert most_excluded(ranked.users[:0], ranked.items[:0], catalogue, excluding) == 0
    assert most_excluded(ranked.users, ranked.items, catalogue, ReRankConfig()) == 0


@pytest.mark.parametrize("diversity", ["none", "mmr"])
def test_all_switches_together_give_distinct_items_of_the_pool(diversity):
    ranked, catalogue = world(users=80)
    items, *_ = run(ranked, catalogue, diversity=diversity, channel_cap=2, exclusions="a table")
    for row in range(1, 80):
        assert len(set(items[row])) == TOP
        assert set(items[row]) <= set(ranked.items[row])


def test_shards_of_users_do_not_change_the_lists(monkeypatch):
    ranked, catalogue = world(users=30)
    switches = {"diversity": "mmr", "channel_cap": 2}
    whole = run(ranked, catalogue, **switches)
    monkeypatch.setattr("ranking.recommend.PAIRS_A_SHARD", 7 * ranked.items.shape[1])
    for ours, theirs in zip(run(ranked, catalogue, **switches), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_cost_of_each_switch_is_what_its_list_lacks():
    ranked, catalogue = world(users=50)
    config = ReRankConfig(pool=POOL, head=TOP, diversity="mmr", strength=0.6, channel_cap=1)
    lost = seconds_lost(ranked, catalogue, config, TOP)
    assert set(lost) == {"mmr", "channel_cap", "all"}
    before = ranked.seconds[:, :TOP].sum()
    assert lost["mmr"] == pytest.approx(
        1 - run(ranked, catalogue, diversity="mmr", strength=0.6)[1].sum() / before
    )
    assert 0 < lost["channel_cap"] < 1
    assert seconds_lost(ranked, catalogue, ReRankConfig(), TOP) == {}


def test_nobody_gets_no_list():
    ranked, catalogue = world()
    assert run(ranked.take(slice(0, 0)), catalogue)[0].shape == (0, TOP)
