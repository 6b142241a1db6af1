"""What the report says of candidates, recomputed from the raw files of a very small simulated
world.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features.simulation.simulated_log import load_ground_truth, simulate, write
from features.simulation.world import WorldConfig, expected_seconds
from features.vocabulary import Vocabulary
from funnel.context import StepContext, listed_users
from funnel.evaluation.evaluation_data import EvaluationData
from funnel.evaluation.recall_report import draw_recall, oracle_metrics, recall_metrics
from funnel.evaluation.report import _number
from funnel.evaluation.simulation_report import best_lists
from funnel.pipeline import make, request_for
from funnel.tracking import _allowed

pytestmark = pytest.mark.slow

WORLD = WorldConfig(
    users=60,
    users_a_day=5,
    items=80,
    items_a_day=30,
    days=3,
    impressions_a_day=1_800,
    topics=8,
    favourite_topics=2,
)
CUT = pd.Timestamp("2025-01-03T09:00:00Z")
K, PAIR = 60, ["user_id", "item_id"]
STEPS = ("interactions", "split", "vocabulary", "impressions", "histories", "samples", "profiles")


def evaluation(data: Path, home: Path, mode: str) -> EvaluationData:
    """The artefacts of the features stage, and candidates that are drawn at random."""
    cut = [f"split.test_start={CUT.isoformat()}"] if mode == "time" else []
    overrides = [f"split.mode={mode}", f"recall.k={K}", "report.at=[5,20]", *cut]
    request = request_for("canonical", str(data), str(home), "r", None, overrides)
    for name in STEPS:
        make(name, request, lambda _: None)
    inputs = {name: request.store.path(name) for name in STEPS} | {
        "candidates": home / "candidates"
    }
    context = StepContext(
        request.config, "canonical", data, inputs, home / "report", home / "scratch"
    )
    users, catalogue = listed_users(context), context.ids.items.size_as_of(context.split.test_start)
    rng = np.random.default_rng(3)
    items = np.array([rng.permutation(np.arange(1, catalogue))[:K] for _ in users], dtype=np.int32)
    items[0, 10:] = 0
    (home / "candidates").mkdir()
    write_candidates(home / "candidates", users, items, [])
    return EvaluationData(context)


def write_candidates(
    folder: Path, users: np.ndarray, items: np.ndarray, generators: Iterable[str]
) -> None:
    """Lists without scores; each generator's ranks are written beside them."""
    nothing = np.zeros(items.shape, np.float32)
    arrays = {"users": users, "items": items, "scores": nothing, "tower_scores": nothing}
    arrays |= {f"score_{name}": nothing for name in generators}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "generators.json").write_text(json.dumps(list(generators)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("world")
    write(*simulate(WORLD), place)
    return place


@pytest.fixture(scope="module")
def timed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationData:
    return evaluation(data, tmp_path_factory.mktemp("time"), "time")


@pytest.fixture(scope="module")
def ordered(data: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationData:
    return evaluation(data, tmp_path_factory.mktemp("last"), "last")


@dataclass(frozen=True)
class Raw:
    """The raw log cut at CUT, as somebody who never heard of indexes reads it."""

    data: Path

    @cached_property
    def items(self) -> pd.DataFrame:
        return pd.read_parquet(self.data / "items.parquet").set_index("item_id")

    @cached_property
    def log(self) -> pd.DataFrame:
        log = pd.read_parquet(self.data / "interactions.parquet")
        needed = np.minimum(10, log["item_id"].map(self.items["duration_seconds"]) / 2)
        return log.assign(completed=log["clicked"] & (log["watch_seconds"] >= needed))

    @cached_property
    def done(self) -> pd.DataFrame:
        return self.log[self.log["completed"] & (self.log["timestamp"] < CUT)]

    @cached_property
    def went_on_to_watch(self) -> pd.DataFrame:
        """Distinct pairs of the test window, with the item's age in days and watches before the
        cut.

        `there`: shown before the cut, or published by then since the log began.
        """
        pairs = self.log[self.log["completed"] & (self.log["timestamp"] >= CUT)][
            PAIR
        ].drop_duplicates()
        days = (CUT - pairs["item_id"].map(self.items["published_at"])) / pd.Timedelta(days=1)
        watches = pairs["item_id"].map(self.done["item_id"].value_counts()).fillna(0)
        shown = pairs["item_id"].isin(self.log.loc[self.log["timestamp"] < CUT, "item_id"])
        published = pairs["item_id"].map(self.items["published_at"])
        there = shown | published.between(self.log["timestamp"].min(), CUT, inclusive="left")
        return pairs.assign(days=days, watches=watches, there=there)


@pytest.fixture(scope="module")
def raw(data: Path) -> Raw:
    return Raw(data)


@pytest.fixture(scope="module")
def metrics(timed: EvaluationData) -> dict[str, float]:
    return recall_metrics(timed)


def raw_lists(evaluation: EvaluationData, lists: np.ndarray) -> dict[int, list[int]]:
    """Each user's list, in raw ids."""
    ids = evaluation.context.ids
    users = ids.users.id_of(evaluation.users).to_pylist()
    return {
        user: ids.items.id_of(row[row > 0]).to_pylist()
        for user, row in zip(users, lists, strict=True)
    }


def found(pairs: pd.DataFrame, lists: dict[int, list[int]], k: int) -> float:
    rows = zip(pairs["user_id"], pairs["item_id"], strict=True)
    return (
        float(np.mean([item in lists[user][:k] for user, item in rows])) if len(pairs) else math.nan
    )


def equal(given: dict[str, float], expected: dict[str, float]) -> None:
    assert {name: given[name] for name in expected} == pytest.approx(expected, nan_ok=True)


def test_users_are_evaluated_by_slice_of_their_watches_before_the_lists(
    timed: EvaluationData, raw: Raw, metrics: dict[str, float]
) -> None:
    watches, targets = (
        raw.done["user_id"].value_counts(),
        raw.went_on_to_watch.groupby("user_id")["item_id"].agg(set),
    )
    slices = {"0": (0, 0), "1_to_9": (1, 9), "10_to_49": (10, 49), "50_or_more": (50, 10**9)}
    for suffix, lists in (
        ("", raw_lists(timed, timed.candidates)),
        (".popularity", raw_lists(timed, timed.popular)),
    ):
        for words, (least, most) in slices.items():
            users = [user for user in targets.index if least <= watches.get(user, 0) <= most]
            for k in (50, K):
                hits = [len(targets[user] & set(lists[user][:k])) for user in users]
                sizes = [len(targets[user]) for user in users]
                name = f"users_with_{words}_watches"
                expected = {
                    f"recall.users/{name}": len(users),
                    f"recall.hr@{k}/{name}{suffix}": np.mean(np.array(hits) > 0)
                    if users
                    else math.nan,
                    f"recall.recall@{k}/{name}{suffix}": np.mean(np.divide(hits, sizes))
                    if users
                    else math.nan,
                }
                equal(metrics, expected)
    assert metrics["recall.users"] == len(targets)
    assert sum(metrics[f"recall.users/users_with_{words}_watches"] for words in slices) == len(
        targets
    )


def test_watches_are_evaluated_by_slice_of_the_items_age_and_popularity(
    timed: EvaluationData, raw: Raw, metrics: dict[str, float]
) -> None:
    pairs = raw.went_on_to_watch
    there, counts = pairs["there"], raw.done["item_id"].value_counts()
    more = pairs["watches"].map(lambda count: counts[counts > count].sum())
    third = 3 * more // counts.sum()
    slices = {
        "items_younger_than_1_day": there & (pairs["days"] < 1),
        "items_of_1_to_7_days": there & (pairs["days"] >= 1) & (pairs["days"] < 7),
        "items_of_7_days_or_more": there & (pairs["days"] >= 7),
        "items_with_0_watches": there & (pairs["watches"] == 0),
        "items_of_the_tail": (pairs["watches"] > 0) & (third == 2),
        "items_of_the_middle": (pairs["watches"] > 0) & (third == 1),
        "items_of_the_head": (pairs["watches"] > 0) & (third == 0),
    }
    ours, popular = raw_lists(timed, timed.candidates), raw_lists(timed, timed.popular)
    for name, rows in slices.items():
        assert metrics[f"recall.watches/{name}"] == rows.sum()
        for k in (50, K):
            equal(metrics, {f"recall.watches_found@{k}/{name}": found(pairs[rows], ours, k)})
            equal(
                metrics,
                {f"recall.watches_found@{k}/{name}.popularity": found(pairs[rows], popular, k)},
            )
    assert metrics["recall.watches"] == len(pairs)
    assert metrics["recall.watches/items_not_there_yet"] == (~there).sum() > 0


def test_new_items_are_published_before_the_lists_and_watched_by_nobody(
    timed: EvaluationData, raw: Raw, metrics: dict[str, float]
) -> None:
    pairs = raw.went_on_to_watch
    new = pairs[(pairs["days"] > 0) & (pairs["watches"] == 0)]
    assert len(new) > 5
    for k in (50, K):
        share = found(new, raw_lists(timed, timed.candidates), k)
        assert 0 < share < 1
        equal(metrics, {f"recall.new_item_recall@{k}": share})


def best_unseen(raw: Raw, user: int) -> list[int]:
    """All items published before the cut that the user had not clicked, by the world's own
    expectation.
    """
    world, at = load_ground_truth(raw.data), np.datetime64(CUT.tz_localize(None), "us")
    worth = expected_seconds(world, np.full(len(world.item_ids), user), world.item_ids, at)
    best = world.item_ids[np.argsort(-worth)][: (worth > 0).sum()].tolist()
    seen = set(
        raw.log[raw.log["clicked"] & (raw.log["timestamp"] < CUT) & (raw.log["user_id"] == user)][
            "item_id"
        ]
    )
    return [item for item in best if item not in seen]


def test_the_oracles_share_of_new_items_is_that_of_the_best_unseen_items(
    timed: EvaluationData, raw: Raw
) -> None:
    pairs = raw.went_on_to_watch
    new = pairs[(pairs["days"] > 0) & (pairs["watches"] == 0)]
    lists = {user: best_unseen(raw, user) for user in new["user_id"].unique()}
    expected = {f"recall.new_item_recall@{k}.oracle": found(new, lists, k) for k in (50, K)}
    assert oracle_metrics(timed) == pytest.approx(expected)
    assert all(0 < share < 1 for share in expected.values())


def test_the_worlds_best_lists_hold_what_is_unseen_and_nobody_for_what_was_never_heard_of(
    timed: EvaluationData, raw: Raw
) -> None:
    users, items = raw.log["user_id"].unique()[:10], timed.context.ids.items
    known = Vocabulary(items.ids[:100], items.first_seen[:100])
    lists = best_lists(raw.data, users, known, timed.context.split.test_start, K)
    for user, best in zip(users, lists, strict=True):
        assert best.tolist() == known.index_of(pa.array(best_unseen(raw, user)[:K])).tolist()
    assert (lists == 0).any()


def test_places_of_new_and_of_young_items_are_shared_out(
    timed: EvaluationData, raw: Raw, metrics: dict[str, float]
) -> None:
    watched, published = set(raw.done["item_id"]), raw.items["published_at"]
    for suffix, lists in (("", timed.candidates), (".popularity", timed.popular)):
        for k in (5, 20):
            listed = [item for items in raw_lists(timed, lists).values() for item in items[:k]]
            new = np.mean([item not in watched for item in listed])
            young = np.mean([CUT - published[item] < pd.Timedelta(days=1) for item in listed])
            equal(
                metrics,
                {
                    f"recall.new_item_share@{k}{suffix}": new,
                    f"recall.young_item_share@{k}{suffix}": young,
                },
            )
    assert metrics["recall.new_item_share@5"] > 0


def test_popularity_is_that_of_the_span_whose_lists_hold_most_of_what_was_watched(
    timed: EvaluationData, raw: Raw
) -> None:
    hour = raw.done[raw.done["timestamp"] >= CUT - pd.Timedelta(hours=1)]["item_id"].value_counts()
    for user, items in raw_lists(timed, timed.popular_by_span["last hour"]).items():
        seen = set(
            raw.log[
                raw.log["clicked"] & (raw.log["timestamp"] < CUT) & (raw.log["user_id"] == user)
            ]["item_id"]
        )
        best = sorted((count for item, count in hour.items() if item not in seen), reverse=True)[:5]
        assert [hour.get(item, 0) for item in items[:5]] == best + [0] * (5 - len(best))
    clicks = raw.log[raw.log["clicked"] & (raw.log["timestamp"] >= CUT)]

    def worth(lists: np.ndarray) -> float:
        listed = {
            (user, item): place
            for user, row in raw_lists(timed, lists).items()
            for place, item in enumerate(row)
        }
        places = np.array(
            [listed.get(pair, K) for pair in zip(clicks["user_id"], clicks["item_id"], strict=True)]
        )
        return float(np.mean([np.log(clicks["watch_seconds"][places < k].sum()) for k in (10, 50)]))

    worths = {name: worth(lists) for name, lists in timed.popular_by_span.items()}
    assert timed.popular_span == max(worths, key=lambda name: worths[name])
    assert len(set(worths.values())) > 1
    assert timed.popular is timed.popular_by_span[timed.popular_span]


def test_an_order_clock_has_no_hours_to_be_popular_in(ordered: EvaluationData) -> None:
    assert list(ordered.popular_by_span) == ["all time"]


def with_generators(
    evaluation: EvaluationData, folder: Path, named: Iterable[str]
) -> EvaluationData:
    """The same lists, each place named by the generator whose turn it is: first, second, .., all,
    first, ..
    """
    names, shape = list(named), evaluation.candidates.shape
    turn = np.broadcast_to(np.arange(shape[1]) % (len(names) + 1), shape)
    for place, name in enumerate(names):
        rank = np.where((turn == place) | (turn == len(names)), np.arange(1, shape[1] + 1), 0)
        np.save(folder / f"rank_{name}.npy", (rank * (evaluation.candidates > 0)).astype(np.uint16))
    write_candidates(folder, evaluation.users, evaluation.candidates, names)
    return EvaluationData(
        replace(evaluation.context, inputs={**evaluation.context.inputs, "candidates": folder})
    )


def test_each_generators_contribution_is_reported_where_the_candidates_name_them(
    timed: EvaluationData, raw: Raw, metrics: dict[str, float], tmp_path: Path
) -> None:
    channelled = recall_metrics(with_generators(timed, tmp_path, ["tower", "new"]))
    pairs = raw.went_on_to_watch
    found = [
        row.index(item)
        for user, item in zip(pairs["user_id"], pairs["item_id"], strict=True)
        if item in (row := raw_lists(timed, timed.candidates)[user])
    ]
    hits = [place for place in found if place < 50]
    for name, turns in (("tower", (0, 2)), ("new", (1, 2))):
        alone = sum(place % 3 == turns[0] for place in hits)
        expected = {
            f"recall.generator_hits@50/{name}": sum(place % 3 in turns for place in hits)
            / len(hits),
            f"recall.generator_unique_hits@50/{name}": alone / len(hits),
            f"recall.generator_unique_watches@50/{name}": alone / len(pairs),
        }
        equal(channelled, expected)
    places = [
        place
        for items in raw_lists(timed, timed.candidates).values()
        for place in range(len(items[:50]))
    ]
    assert channelled["recall.generator_named@50/tower"] == pytest.approx(
        np.mean([place % 3 != 1 for place in places])
    )
    assert not [name for name in metrics if "generator" in name]
    assert {
        name: value for name, value in channelled.items() if "generator" not in name
    } == pytest.approx(metrics, nan_ok=True)


def test_slices_and_generators_are_drawn_where_there_are_any(
    timed: EvaluationData, metrics: dict[str, float], tmp_path: Path
) -> None:
    (tmp_path / "candidates").mkdir()
    channelled = recall_metrics(with_generators(timed, tmp_path / "candidates", ["tower", "new"]))
    drawn = {}
    for name, report in (("nothing", {}), ("slices", metrics), ("all", channelled)):
        (tmp_path / name).mkdir()
        draw_recall(report, tmp_path / name)
        drawn[name] = sorted(path.name for path in (tmp_path / name).iterdir())
    assert drawn == {
        "nothing": [],
        "slices": ["slices.png"],
        "all": ["generators.png", "slices.png"],
    }


def test_where_only_order_is_known_nothing_is_said_of_ages_hours_and_oracles(
    ordered: EvaluationData,
) -> None:
    metrics = recall_metrics(ordered)
    assert oracle_metrics(ordered) == {}
    assert not [name for name in metrics if "_day" in name or "young" in name or "hour" in name]
    slices = ("with_0_watches", "of_the_tail", "of_the_middle", "of_the_head")
    counts = [metrics[f"recall.watches/items_{name}"] for name in slices]
    assert sum(counts) + metrics["recall.watches/items_not_there_yet"] == metrics["recall.watches"]
    assert metrics["recall.watches"] == metrics["recall.users"] == len(ordered.users)
    assert min(counts[1:]) > 0


def test_names_are_ones_that_mlflow_takes_and_an_empty_slice_is_null(
    metrics: dict[str, float],
) -> None:
    assert all(_allowed(name) == name.replace("@", "_at_") for name in metrics)
    empty = metrics["recall.hr@50/users_with_50_or_more_watches"]
    assert metrics["recall.users/users_with_50_or_more_watches"] == 0
    assert math.isnan(empty)
    assert _number(empty) is None
