"""The blender learns which generator knows the next watch, and its lists keep who named what."""

import numpy as np
import pytest

from features.histories import histories_of
from recall import blender, train_blender
from recall.blender import Blender, blend_candidates, blend_in_shards
from recall.candidates import pairs_before, pairs_between
from recall.config import RecallConfig
from recall.generators.base import Popularity, Snapshot
from recall.generators.retrieval import build_generators
from recall.index import index_of
from recall.train_blender import draw_slices, fit_blender

pytestmark = pytest.mark.slow

CONFIG = RecallConfig(k=12, generator_items=8, blend_users=400)


def generators(world, config, popularity):
    tower, end = world.towers[-1], world.log.split.test_start
    index = index_of(tower.item_vectors, tower.catalogue)
    return build_generators(config, Snapshot(world.log, end, tower, index, world.users, popularity))


@pytest.fixture(scope="module")
def fitted(chain_world):
    return fit_blender(CONFIG, chain_world.log, chain_world.towers, seed=0)


@pytest.fixture(scope="module")
def lists(chain_world, fitted):
    return blend_candidates(
        generators(chain_world, CONFIG, fitted.blender.popularity),
        fitted.blender,
        chain_world.users,
        CONFIG.k,
    )


def test_the_blender_finds_that_co_visitation_knows_the_next_watch(fitted):
    assert fitted.blender.order == "fitted"
    rates = fitted.rates
    assert rates["fitted"]["hit_rate@10"] > rates["tower"]["hit_rate@10"] + 0.2
    assert rates["fitted"]["hit_rate@10"] >= rates["co_visitation alone"]["hit_rate@10"] - 0.05
    assert [each["users"] > 0 for each in fitted.fitted_on] == [True, True]


def test_the_next_watch_of_the_holdout_comes_early_in_the_blended_lists(chain_world, lists):
    split, watches = chain_world.log.split, chain_world.log.clicks
    went_on = pairs_between(chain_world.users, watches, split.test_start, split.test_end)
    began = pairs_before(chain_world.users, watches, split.test_start).counts > 2
    hits = went_on.holds(np.arange(len(lists))[:, None], lists.items[:, :5])
    assert hits[(went_on.counts > 0) & began].any(axis=1).mean() > 0.8


def test_lists_are_full_hold_nothing_seen_and_fall_in_score(chain_world, lists):
    seen = pairs_before(chain_world.users, chain_world.log.clicks, chain_world.log.split.test_start)
    assert (lists.items > 0).all()
    assert not seen.holds(np.arange(len(lists))[:, None], lists.items).any()
    assert (np.diff(lists.scores, axis=1) <= 0).all()
    assert all(len(set(row)) == CONFIG.k for row in lists.items.tolist())


def test_blended_lists_keep_each_generators_rank_and_score_and_the_towers(
    chain_world, fitted, lists
):
    found = generators(chain_world, CONFIG, fitted.blender.popularity).find(chain_world.users)
    assert (np.stack(list(lists.ranks.values())) > 0).any(axis=0).all()
    tower = chain_world.towers[-1]
    inputs = chain_world.log.user_inputs.inputs_at(
        tower.shape, chain_world.users, chain_world.log.split.test_start
    )
    vectors = tower.user_vectors(inputs)
    for name, named in found.union.named.items():
        for row in (0, 3, 399):
            of_generator = named.items[row].tolist()
            for place, item in enumerate(lists.items[row].tolist()):
                rank = of_generator.index(item) + 1 if item in of_generator else 0
                assert lists.ranks[name][row, place] == rank
                score = named.scores[row, rank - 1] if rank else np.nan
                np.testing.assert_equal(lists.generator_scores[name][row, place], score)
                own = vectors[row] @ tower.item_vectors[item]
                assert lists.tower_scores[row, place] == pytest.approx(own, rel=1e-4, abs=1e-5)


def test_a_new_user_gets_a_full_list_with_popular_items(chain_world, lists):
    assert chain_world.log.clicks.offsets[400] == chain_world.log.clicks.offsets[401]
    assert (lists.items[399] > 0).all()
    assert (lists.ranks["popular"][399] > 0).any()
    assert (lists.ranks["co_visitation"][399] == 0).all()


def test_shards_and_reruns_give_the_same_lists(chain_world, fitted, lists, monkeypatch):
    monkeypatch.setattr(blender, "USERS_A_SHARD", 17)
    again = fit_blender(CONFIG, chain_world.log, chain_world.towers, seed=0).blender
    of_users = generators(chain_world, CONFIG, again.popularity)
    parts = list(blend_in_shards(of_users, fitted.blender, chain_world.users, CONFIG))
    np.testing.assert_array_equal(np.concatenate([part.items for part in parts]), lists.items)
    assert again.popularity == fitted.blender.popularity
    assert again.order == fitted.blender.order


def test_nobody_is_an_empty_shard(chain_world, fitted):
    of_users = generators(chain_world, CONFIG, fitted.blender.popularity)
    (part,) = blend_in_shards(of_users, fitted.blender, chain_world.users[:0], CONFIG)
    assert part.items.shape == part.tower_scores.shape == part.ranks["tower"].shape == (0, CONFIG.k)


def test_lists_are_short_only_where_the_unseen_run_out(chain_world):
    config = RecallConfig(k=130, generator_items=5)
    blender = Blender(Popularity(), "round_robin", None)
    lists = blend_candidates(
        generators(chain_world, config, Popularity()), blender, chain_world.users, config.k
    )
    seen = pairs_before(chain_world.users, chain_world.log.clicks, chain_world.log.split.test_start)
    assert ((lists.items > 0).sum(axis=1) == 120 - seen.counts).all()
    assert np.isneginf(lists.scores[lists.items == 0]).all()
    assert (lists.ranks["tower"][lists.items == 0] == 0).all()


def test_round_robin_fits_no_weights(chain_world):
    config = CONFIG.model_copy(update={"blend": "round_robin"})
    fitted = fit_blender(config, chain_world.log, chain_world.towers, seed=0)
    assert fitted.blender.blend is None
    assert fitted.described()["weights"] == []
    lists = blend_candidates(
        generators(chain_world, config, Popularity()), fitted.blender, chain_world.users, config.k
    )
    assert (lists.ranks["tower"][:, 0] == 1).all()


def test_too_few_users_to_fit_on_leave_the_order_to_the_ranks_or_the_tower(
    chain_world, monkeypatch
):
    monkeypatch.setattr(train_blender, "FEWEST", 10_000)
    monkeypatch.setattr(train_blender, "FEWEST_OF_INSTANT", 10_000)
    fitted = fit_blender(CONFIG, chain_world.log, chain_world.towers, seed=0)
    assert fitted.blender.order in ("ranks", "tower")
    assert "fitted" not in fitted.rates


@pytest.mark.parametrize(("fewest", "experts"), [(50, 2), (10_000, 1)])
def test_instants_with_few_users_share_an_expert(chain_world, monkeypatch, fewest, experts):
    monkeypatch.setattr(train_blender, "FEWEST_OF_INSTANT", fewest)
    blend = fit_blender(CONFIG, chain_world.log, chain_world.towers, seed=0).blender.blend
    assert len(blend.weights) == experts
    assert len(blend.timestamps_us) == (experts if experts > 1 else 0)


def test_a_log_without_watches_after_its_towers_still_gets_lists(chain_world):
    nothing = histories_of(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), 401)
    log = chain_world.log.__class__(
        chain_world.log.user_inputs.__class__(nothing, None, chain_world.log.user_inputs.users),
        nothing,
        chain_world.log.vocabulary,
        chain_world.log.items,
        chain_world.log.split,
    )
    fitted = fit_blender(CONFIG, log, chain_world.towers, seed=0)
    assert fitted.blender.order == "ranks"


def test_slices_are_users_who_watched_between_two_towers_and_never_more_than_asked(chain_world):
    watches = chain_world.log.clicks
    drawn = draw_slices(watches, chain_world.towers, 20, np.random.default_rng(1))
    assert [(each.tower.shape.as_of, each.until) for each in drawn] == [
        (each.since, later.shape.as_of)
        for each, later in zip(drawn, chain_world.towers[1:], strict=True)
    ]
    for each in drawn:
        assert len(each.users) == 10
        assert (pairs_between(each.users, watches, each.since, each.until).counts > 0).all()
