"""Where a log says only what was clicked, the ranker learns from recall's own lists, each against
what came next.
"""

import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features.simulation.simulated_log import simulate, write
from features.simulation.world import WorldConfig
from features.vocabulary import Vocabulary
from funnel.run import run_pipeline
from funnel.store import MANIFEST
from ranking.examples import MERGED, RankingRows
from recall.blender import GROUPS, Blend, Blender, blend_candidates
from recall.candidates import pairs_before
from recall.config import RecallConfig
from recall.generators.base import Popularity, Snapshot
from recall.generators.retrieval import build_generators
from recall.index import index_of
from recall.labelled_lists import LabelledLists, labelled_lists, validation_tower
from recall.tower import ItemFacts, Tower, TowerSpec
from recall.train_blender import draw_slices

pytestmark = pytest.mark.slow

WORLD = WorldConfig(
    users=60,
    users_a_day=5,
    items=80,
    items_a_day=10,
    days=3,
    impressions_a_day=900,
    topics=8,
    favourite_topics=2,
)
SMALL = (
    *(
        "recall.dim=4",
        "recall.depth=1",
        "recall.width=4",
        "recall.epochs=1",
        "recall.blocks=5",
        "recall.history=5",
    ),
    *("ranking.epochs=1", "ranking.hidden=[4]", "recall.k=20", "ranking.top_k=10"),
    *("split.test_start=2025-01-03T12:00:00Z", "ranking.negatives_per_user=6"),
)
CONFIG = RecallConfig(k=12, generator_items=8, label_users=90)


def test_lists_are_the_blenders_as_of_each_instant_but_the_last(chain_world):
    log, towers, blender = (
        chain_world.log,
        chain_world.towers,
        Blender(Popularity(), "round_robin", None),
    )
    lists = labelled_lists(CONFIG, log, towers, blender, np.random.default_rng(1))
    drawn = draw_slices(
        log.user_inputs.histories, towers, CONFIG.label_users, np.random.default_rng(1)
    )
    assert sorted({*zip(lists.since, lists.until, strict=True)}) == [
        (each.since, each.until) for each in drawn
    ]
    assert [(each.tower.shape.as_of, len(each.users)) for each in drawn] == [
        (each.since, 45) for each in drawn
    ]
    for each in drawn:
        index = index_of(each.tower.item_vectors, each.tower.catalogue)
        snapshot = Snapshot(log, each.since, each.tower, index, each.users, blender.popularity)
        generators = build_generators(CONFIG, snapshot)
        expected, of = (
            blend_candidates(generators, blender, each.users, CONFIG.k),
            lists.since == each.since,
        )
        np.testing.assert_array_equal(lists.users[of], each.users)
        np.testing.assert_array_equal(lists.items[of], expected.items)
        np.testing.assert_array_equal(lists.scores[of], expected.scores)
        seen = pairs_before(each.users, log.clicks, each.since)
        assert not seen.holds(np.arange(len(each.users))[:, None], lists.items[of]).any()


@pytest.mark.parametrize(("label_start", "chosen"), [(5, 0), (10, 0), (19, 0), (20, 1), (99, 2)])
def test_the_validation_window_is_as_long_as_the_test_window_or_longer(label_start, chosen):
    towers = [
        Tower(
            TowerSpec(as_of=as_of, items=1, dim=1, hidden=(), recency_windows=(1,)),
            {},
            ItemFacts.plain(1),
        )
        for as_of in (10, 20, 30, 40)
    ]
    assert validation_tower(towers, label_start) is towers[chosen]


def test_a_list_is_blended_by_what_was_fitted_on_other_instants(chain_world):
    log, towers = chain_world.log, chain_world.towers
    fitted_on = [tower.shape.as_of for tower in towers[:-1]]
    weights = np.random.default_rng(0).normal(size=(len(fitted_on), len(GROUPS), 1))
    blender = Blender(Popularity(), "fitted", Blend(("tower",), weights, tuple(fitted_on)))
    lists = labelled_lists(CONFIG, log, towers, blender, np.random.default_rng(1))
    for number, since in enumerate(fitted_on):
        others = [other for other in range(len(fitted_on)) if other != number]
        alone = Blender(Popularity(), "fitted", Blend(("tower",), weights[others]))
        expected = labelled_lists(CONFIG, log, towers, alone, np.random.default_rng(1))
        np.testing.assert_array_equal(
            lists.items[lists.since == since], expected.items[expected.since == since]
        )
        np.testing.assert_array_equal(
            lists.scores[lists.since == since], expected.scores[expected.since == since]
        )
    np.testing.assert_array_equal(blender.without(-1, 0).blend.weights, weights)
    only = Blend(("tower",), weights[:1], (fitted_on[0],))
    assert only.without(fitted_on[0], fitted_on[0] + 1) is only


def test_lists_are_read_as_they_were_saved(tmp_path):
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 9, 3, np.int32), rng.integers(0, 9, (3, 4), np.int32)
    lists = LabelledLists(
        users, np.arange(3), np.arange(3) + 5, items, rng.random((3, 4), np.float32)
    )
    lists.save(tmp_path)
    read = LabelledLists.load(tmp_path)
    for name, values in vars(lists).items():
        np.testing.assert_array_equal(getattr(read, name), values)


class ClicksAlone:
    """A run on a world's clicks alone: recall's lists, the rows the ranker learns from, and what
    the raw log says.
    """

    def __init__(self, data, out):
        manifests = {
            path.parent.parent.name: path.parent for path in out.glob(f"artefacts/*/*/{MANIFEST}")
        }
        users, items = (
            Vocabulary.load(manifests["vocabulary"] / f"{side}.parquet")
            for side in ("users", "items")
        )
        log = pd.read_parquet(data / "interactions.parquet").sort_values("timestamp", kind="stable")
        log["user"], log["item"] = (
            users.index_of(pa.array(log["user_id"])),
            items.index_of(pa.array(log["item_id"])),
        )
        self.log, self.first_seen = log, items.first_seen
        self.lists = LabelledLists.load(manifests["candidates"])
        self.rows = RankingRows.load(manifests["ranking_rows"] / "ranking_rows.parquet")

    def clicked_next(self, number):
        """T of each item's first click by the user of a list, from when it was made until the next
        tower.
        """
        since, until = (
            pd.Timestamp(int(each[number]), unit="us", tz="UTC")
            for each in (self.lists.since, self.lists.until)
        )
        log = self.log[self.log["user"] == self.lists.users[number]]
        return (
            log[(log["timestamp"] >= since) & (log["timestamp"] < until)]
            .groupby("item")["watch_seconds"]
            .first()
        )

    def entries(self):
        """Each list's items: when it was made, the item, the blender's score, and T of its first
        click (NaN: none).
        """
        lists = self.lists
        made = [
            pd.DataFrame(
                {
                    "list": n,
                    "since": lists.since[n],
                    "item": lists.items[n],
                    "merged": lists.scores[n],
                }
            ).assign(seconds=lambda rows, n=n: rows["item"].map(self.clicked_next(n)))
            for n in range(len(lists.users))
        ]
        entries = pd.concat(made)
        return entries[entries["item"] > 0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("clicks")
    write(*simulate(WORLD), place)
    shutil.rmtree(place / "truth")
    log = pd.read_parquet(place / "interactions.parquet")
    log[log["clicked"]].reset_index(drop=True).to_parquet(place / "interactions.parquet")
    return place


def run(data, out, *overrides):
    run_pipeline(
        "canonical", data, out, None, [*SMALL, *overrides], f"sqlite:///{out.parent / 'mlflow.db'}"
    )
    return ClicksAlone(data, out)


@pytest.fixture(scope="module")
def clicks(data, tmp_path_factory):
    return run(data, tmp_path_factory.mktemp("run") / "out")


def test_listed_items_that_were_clicked_next_are_the_positives(clicks):
    entries, rows = clicks.entries(), clicks.rows
    positives = entries[entries["seconds"].notna()]
    assert entries["since"].nunique() == 4
    assert len(positives) > 20
    assert (rows.blocks["item"].codes["item"][rows.clicked] == positives["item"]).all()
    np.testing.assert_array_equal(rows.timestamps_us[rows.clicked], positives["since"])
    np.testing.assert_allclose(rows.seconds[rows.clicked], positives["seconds"])
    np.testing.assert_allclose(
        rows.blocks["pair"].numbers[MERGED][rows.clicked], positives["merged"], rtol=1e-6
    )
    assert (rows.weight[rows.clicked] == 1).all()


def test_listed_items_that_were_not_are_thinned_and_stand_for_all_of_them(clicks):
    entries, rows = clicks.entries(), clicks.rows
    negatives = entries[entries["seconds"].isna()]
    sizes = negatives.groupby("list").size()
    assert (~rows.clicked).sum() == sizes.clip(upper=6).sum()
    assert rows.weight[~rows.clicked].sum() == pytest.approx(sizes.sum())
    known = set(
        zip(
            negatives["since"],
            negatives["item"],
            negatives["merged"].astype(np.float32),
            strict=True,
        )
    )
    listed = rows.blocks["pair"].numbers[MERGED][~rows.clicked].astype(np.float32)
    items = rows.blocks["item"].codes["item"][~rows.clicked]
    assert set(zip(rows.timestamps_us[~rows.clicked], items, listed, strict=True)) <= known


def test_any_items_of_the_catalogue_can_be_the_negatives(data, tmp_path):
    clicks = run(data, tmp_path / "out", "ranking.hard_negatives=false")
    rows, lists = clicks.rows, clicks.lists
    assert MERGED not in rows.blocks["pair"].numbers
    items, timestamps_us = (
        rows.blocks["item"].codes["item"][~rows.clicked],
        rows.timestamps_us[~rows.clicked],
    )
    known = np.searchsorted(clicks.first_seen, lists.since)
    assert (items <= np.searchsorted(clicks.first_seen, timestamps_us)).all()
    assert len(set(items)) > 0.9 * known.min()
    positives = clicks.entries()["seconds"].notna().sum()
    assert rows.clicked.sum() == positives
    drawn, left = 6 * len(lists.users), (~rows.clicked).sum()
    assert 0.8 * drawn < left < drawn
    assert rows.weight[~rows.clicked].sum() == pytest.approx(known.sum() * left / drawn, rel=0.05)
