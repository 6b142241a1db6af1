"""Benchmarks of ranking: their parts have known answers, and each runs end to end on tiny
inputs.
"""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.ranking import (
    clickbait,
    depth,
    kuairand_cwm,
    kuairand_long_view,
    kuairec_dadf,
    off_policy,
    peer,
    pre_rank,
    speed,
)
from benchmarks.shared import lightgbm_peer
from benchmarks.shared.lightgbm_peer import Choice, chosen, fitted, matrix_of
from benchmarks.shared.processes import one_core
from benchmarks.shared.rankers import Contest, GroundTruth, figures, summary
from features.asof_features import Block
from features.errors import InputError
from funnel.run import write_world
from ranking.config import RankingConfig
from ranking.examples import RankingRows
from ranking.model import BLOCKS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NONE: dict[str, Any] = {}
# What a small world needs to be walked in seconds.
QUICK = ["--set", "recall.epochs=1", "--set", "recall.label_users=100", "--set", "ranking.epochs=1"]
QUICK += ["--set", "ranking.hidden=[16]"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('benchmarks') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 0, users=300, impressions=2_000, days=6)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the line's artefacts on the small world are kept for all benchmarks."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def of_world(world: Path, home: Path, address: str) -> list[str]:
    return ["--data", str(world), "--out", str(home), "--tracking", address, *QUICK]


def rows_of(
    clicked: Any, seconds: Any, item: dict[str, Any], codes: dict[str, Any] = NONE
) -> RankingRows:
    """Training rows a second apart whose items have these columns."""
    size = len(clicked)
    blocks = {name: Block(size, {}, {}) for name in BLOCKS}
    blocks["item"] = Block(size, {n: np.array(v, float) for n, v in item.items()}, codes)
    timestamps_us, weight = np.arange(size) * 1_000_000, np.ones(size)
    return RankingRows(
        blocks,
        timestamps_us,
        np.array(clicked),
        np.array(seconds, float),
        weight,
        np.zeros(size, np.int32),
    )


@pytest.fixture(scope="module")
def two_groups() -> RankingRows:
    """Group 0 clicks half the time for 40 s, group 1 a tenth of the time for 100 s: 20 and 10
    expected seconds.
    """
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 20_000)
    clicked = rng.random(20_000) < np.where(group, 0.1, 0.5)
    return rows_of(clicked, np.where(clicked, np.where(group, 100, 40), 0), {"group": group})


def test_a_matrix_holds_numbers_then_codes_with_zero_unknown() -> None:
    rows = rows_of(
        [True, False], [3, 0], {"length": [2, np.nan]}, {"item": np.array([0, 7], np.int32)}
    )
    matrix, categories = matrix_of(rows.blocks, codes=True)
    np.testing.assert_array_equal(matrix, [[2, np.nan], [np.nan, 7]])
    assert categories == [1]
    np.testing.assert_array_equal(matrix_of(rows.blocks, codes=False)[0], [[2], [np.nan]])


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("squared error", (20, 10)), ("exact", (20, 10)), ("click", (24.3, 4.9))],
)
def test_the_peers_objectives_find_their_expectations(
    two_groups: RankingRows, objective: str, expected: tuple[float, float]
) -> None:
    # click: P(click) times the mean of all clicks, 50 s x (.5, .1), less sampling noise.
    trees = fitted(two_groups, Choice(objective, 7, False, 200, 0.0), seed=1)
    group = two_groups.blocks["item"].numbers["group"]
    found = trees.scores(two_groups.blocks)
    means = [found[group == g].mean() for g in (0, 1)]
    assert means == pytest.approx(expected, rel=0.06)


def test_the_peer_stops_early_at_the_entropy_and_takes_codes_that_say_something(
    two_groups: RankingRows,
) -> None:
    codes = {"group": two_groups.blocks["item"].numbers["group"].astype(np.int32) + 1}
    rows = rows_of(
        two_groups.clicked, two_groups.seconds, {"nothing": np.zeros(len(two_groups))}, codes
    )
    choice = chosen(rows, "click", 0.2, (3,))
    assert (choice.codes, choice.leaves) == (True, 3)
    assert 1 <= choice.rounds < 1_000
    entropy = np.mean([-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.5, 0.1)])
    assert choice.loss == pytest.approx(entropy, rel=0.03)


def test_duration_alone_is_the_mean_seconds_of_like_durations_and_each_line_is_evaluated_by_them() -> (
    None
):
    durations = [10.0] * 4 + [60.0] * 4 + [np.nan] * 2
    seconds = [0, 2, 0, 2, 20, 0, 20, 0, 7, 9]
    rows = rows_of(np.array(seconds) > 0, seconds, {peer.DURATION: durations})
    held = {name: Block(3, {}, {}) for name in BLOCKS}
    held["item"] = Block(3, {peer.DURATION: np.array([10.0, 60.0, np.nan])}, {})
    truth = GroundTruth(np.ones(3), np.ones(3, bool), np.ones(3))
    contest = Contest(RankingConfig(), "seconds", rows, held, truth)
    assert peer.duration_means(contest).tolist() == [1, 10, 8]
    contest = replace(
        contest, truth=GroundTruth(np.ones(3), np.ones(3, bool), np.array([2.0, 5, 8]))
    )
    row = peer.evaluated(contest, np.array([1.0, 10, 8]))
    assert row["ratio"] == pytest.approx(19 / 15)
    ratios = {name: value for name, value in row.items() if name.startswith(peer.SLICE)}
    assert ratios == {
        "ratio/duration_unknown": 1,
        "ratio/duration_10_to_20": 0.5,
        "ratio/duration_over_60": 2,
    }


def test_figures_are_those_of_the_metrics_and_what_is_not_seconds_has_no_error() -> None:
    truth = GroundTruth(
        np.array([1, 1, 1]), np.array([True, False, True]), np.array([9.0, 0.0, 3.0])
    )
    row = figures(truth, np.array([6.0, 3.0, 3.0]))
    assert (row["MAE"], row["ratio"], row["AUC"], row["GAUC"]) == (2, 1, 0.75, 0.75)
    # Of three pairs two are in order and one is tied; a quarter of the seconds is half below an
    # unclicked row.
    assert (row["XAUC"], row["strict"], row["loss"]) == pytest.approx((2.5 / 3, 2 / 3, 0.125))
    assert figures(truth, np.array([6.0, 3.0, 3.0]), in_seconds=False)["MAE"] is None


def test_a_line_is_the_mean_over_its_seeds_with_the_spread_of_some_columns() -> None:
    seeds = [{"XAUC": 0.5, "MAE": None, "AUC": 0.1}, {"XAUC": 0.7, "MAE": None, "AUC": 0.3}]
    assert summary(seeds) == {"XAUC": 0.6, "AUC": 0.2, "sd XAUC": 0.1}
    assert summary(seeds[:1]) == {"XAUC": 0.5, "AUC": 0.1}


def test_ours_and_the_peers_are_evaluated_on_the_same_rows(
    of_world: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lightgbm_peer, "PATIENCE", 5)
    rows = peer.main([*of_world, "--seeds", "2", "--leaves", "7", "--objectives", "exact", "click"])
    trained = (
        "ours, exact",
        "ours, click",
        "LightGBM, squared error",
        "LightGBM, click",
        "LightGBM, exact",
    )
    lines = {row["line"]: row for row in rows}
    assert list(lines) == [
        *trained,
        *("popularity", "item's mean", "duration alone"),
    ]
    assert all(
        0.5 < lines[line]["XAUC"] < 0.95 and 0 < lines[line]["loss"] < 0.5 for line in trained
    )
    assert all("sd XAUC" in lines[line] for line in trained)


def test_ranking_is_timed_on_one_core(of_world: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # The process that the benchmark starts must find this checkout too.
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    )
    rows = speed.main([*of_world, "--rows", "500", "--requests", "3"])
    assert [row["what"].split(",")[0] for row in rows] == [
        *("features", "features", "training", "items of the catalogue"),
        "one user's 500 candidates ranked",
    ]
    assert all(row["rows/s"] > 0 for row in rows[:4])
    assert 0 < rows[4]["ms p50"] <= rows[4]["ms p99"]


def test_a_cut_before_the_ranker_is_timed_and_its_loss_told(
    of_world: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    )
    sizes = ["recall.k=60", "pre_rank.keep=20", "ranking.top_k=15"]
    small = [
        *of_world,
        "--out",
        str(tmp_path),
        *(word for size in sizes for word in ("--set", size)),
    ]
    rows = {row["cut"]: row for row in pre_rank.main([*small, "--requests", "3"])}
    assert [row["left"] for row in rows.values()] == [60, 15, 20, 40, 20]
    assert all(0 < row["ms p50"] <= row["ms p99"] for row in rows.values())
    lost = [row["lost@10"] for row in rows.values()]
    assert lost[0] == 0
    assert lost[1] >= lost[2] >= lost[3] >= 0
    assert rows["pre-rank, 20 left"]["lost@10"] < rows["recall's first 20"]["lost@10"]
    with pytest.raises(InputError, match=r"pre_rank\.keep = 0"):
        pre_rank.main([*small, "--set", "pre_rank.keep=0"])


def test_what_is_kept_to_one_core_is_let_go_again() -> None:
    before = os.sched_getaffinity(0)
    with one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_lists_by_seconds_and_by_clicks_are_worth_what_the_world_says(
    address: str, tmp_path: Path
) -> None:
    small = [
        "--users",
        "300",
        "--impressions-a-day",
        "2000",
        "--days",
        "6",
        "--seeds",
        "1",
        "--shares",
        "0.4",
    ]
    rows = clickbait.main([*small, *QUICK, "--out", str(tmp_path), "--tracking", address])
    assert [row["ranked by"] for row in rows] == [
        f"{name}, clickbait 40%" for name in ("click", "exact", "oracle")
    ]
    assert rows[0]["against clicks"] == 0
    assert all(0 < row["seconds@10"] < rows[2]["seconds@10"] for row in rows[:2])
    # The best lists hold little of what is clicked and left.
    assert rows[2]["clickbait"] < 0.1 < rows[0]["clickbait"]
    assert (tmp_path / "clickbait_0.4" / "world" / "interactions.parquet").exists()


def test_intervals_of_what_lists_would_earn_cover_what_the_world_says(address: str) -> None:
    small = [
        "--users",
        "300",
        "--items",
        "120",
        "--impressions-a-day",
        "4000",
        "--k",
        "20",
        "--least",
        "20",
    ]
    rows = off_policy.main([*small, "--seeds", "4", "--tracking", address])
    names = [
        f"{lists}, {name}"
        for lists in ("popular", "bayes_baseline")
        for name in ("snips", "doubly_robust")
    ]
    assert [row["intervals of"] for row in rows] == names
    assert all(float(row["covered"]) >= 0.75 for row in rows)
    assert all(abs(float(row["error"])) < 0.25 < float(row["width"]) for row in rows)
    assert float(rows[2]["truth"]) > 2 * float(rows[0]["truth"])
    few = ["--users", "300", "--items", "120", "--impressions-a-day", "500"]
    refused = off_policy.main([*few, "--seeds", "1", "--tracking", address])
    assert [(row["seeds"], row["refused"]) for row in refused] == [(0, 1)] * 4


def test_the_papers_layers_are_compared(
    of_world: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {name: fields for name, fields in depth.LINES.items() if not fields.get("hidden")}
    monkeypatch.setattr(depth, "LINES", small | {"32-16": {"hidden": (32, 16)}})
    rows = depth.main([*of_world, "--seeds", "1"])
    undone = ["none, no powers", "none, unweighted", "default, no powers", "default, unweighted"]
    assert [row["line"] for row in rows] == ["none", "default", *undone, "32-16"]
    assert all(0 < row["loss"] < 0.7 for row in rows)
    assert len({row["loss"] for row in rows}) == len(rows)
    assert [row.get("paper's loss") for row in rows] == [0.416] + [None] * 6
    assert depth.main([*of_world, "--seeds", "1", "--only", "none"]) == rows[:1]


def test_a_pair_counts_as_right_unless_it_is_in_the_wrong_order() -> None:
    rng = np.random.default_rng(0)
    seconds, predicted = rng.integers(0, 5, 60).astype(float), rng.integers(0, 7, 60).astype(float)
    one, other = np.triu_indices(60, 1)
    wrong = (seconds[one] - seconds[other]) * (predicted[one] - predicted[other]) < 0
    assert kuairand_cwm.evaluated(seconds, predicted)["XAUC"] == pytest.approx(1 - wrong.mean())


def kuairand_rows(play: list[int], duration: list[int], days: list[int]) -> pd.DataFrame:
    size = len(play)
    return pd.DataFrame(
        {
            "user_id": np.arange(size) % 3,
            "video_id": np.arange(size) % 4,
            "date": days,
            "time_ms": 1_649_400_000_000 + np.arange(size),
            "is_click": 1,
            "long_view": (np.array(play) >= 7_000).astype(int),
            "play_time_ms": play,
            "duration_ms": duration,
        }
    )


def test_cwms_rows_are_of_5_to_400_seconds_with_plays_up_to_the_end_in_whole_seconds() -> None:
    days = [20220408, 20220421, 20220422, 20220430, 20220508, 20220430, 20220430]
    play = [9_000, 1_600, 400, 99_000, 7_400, 3_000, 3_000]
    length = [6_100, 400_000, 5_000, 10_300, 8_000, 4_400, 401_000]
    split = kuairand_cwm.split_of(kuairand_rows(play, length, days))
    assert (split.fitted["play_time_ms"] / 1_000).tolist() == [6, 2, 0]
    assert split.fitted["is_click"].tolist() == [1, 1, 0]
    assert split.validation == pytest.approx(1 / 3)
    assert split.seconds.tolist() == [10, 7]


def test_long_views_are_the_clicks_and_popularity_counts_them_before_the_test() -> None:
    days = [20220408, 20220421, 20220422, 20220422, 20220508, 20220508]
    split = kuairand_long_view.split_of(
        kuairand_rows([7_000, 8_000, 100, 0, 9_000, 1_000], [5_000] * 6, days)
    )
    assert (split.clicked.tolist(), split.seconds.tolist()) == ([True, False], [9, 0])
    # The test rows show videos 0 and 1 again, long viewed once each.
    assert kuairand_long_view.popularity(split).tolist() == [1, 1]


def test_a_user_without_a_long_view_counts_nothing_in_ndcg_and_is_left_out_of_gauc() -> None:
    truth = GroundTruth(np.array([1, 1, 2, 2]), np.array([True, False, False, False]), np.zeros(4))
    row = kuairand_long_view.evaluated(truth, np.array([2.0, 1.0, 2.0, 1.0]))
    assert (row["GAUC"], row["nDCG@5"], row["test rows"]) == (1, 0.5, 4)


def test_dadfs_rows_are_no_advertisements_and_no_endless_plays() -> None:
    rows = pd.DataFrame(
        {"video_id": [1, 2, 1, 1], "play_duration": [9, 1, 10, 5], "video_duration": [1, 1, 1, 1]}
    )
    rows["timestamp"] = [1.0, 1.0, 1.0, np.nan]
    assert kuairec_dadf.kept(rows, np.array([2])).index.tolist() == [0]
    with pytest.raises(InputError, match="no rows of videos that are no advertisement"):
        kuairec_dadf.kept(rows, np.array([1, 2]))


def test_dadfs_split_is_a_tenth_at_random_the_same_each_time() -> None:
    rows = pd.DataFrame({"play_duration": np.arange(200) * 1_000})
    split, again = kuairec_dadf.split_of(rows), kuairec_dadf.split_of(rows)
    assert (len(split.fitted), len(split.test)) == (180, 20)
    assert sorted([*split.fitted.index, *split.test.index]) == list(range(200))
    assert split.seconds.tolist() == split.test["play_duration"].div(1_000).tolist()
    assert round(split.validation * len(split.fitted)) == 20
    assert again.test.index.equals(split.test.index)


@pytest.fixture(scope="module")
def kuairand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as KuaiRand-Pure's: 60 users see 50 videos of 10 to 59 seconds; even ones are watched
    through, or not at all, odd ones for two seconds.
    """
    folder, rng, size = tmp_path_factory.mktemp("kuairand"), np.random.default_rng(0), 4_000
    timestamps_us = pd.Series(
        pd.to_datetime("2022-04-08 00:05") + pd.to_timedelta(np.sort(rng.random(size)) * 30.99, "D")
    )
    video, seen = rng.integers(0, 50, size), rng.random(size) < 0.7
    length = 10_000 + 1_000 * video
    play = np.where(seen, np.where(video % 2, 2_000, length), 0)
    log = pd.DataFrame(
        {
            "user_id": rng.integers(0, 60, size),
            "video_id": video,
            "date": timestamps_us.dt.strftime("%Y%m%d").astype(int),
            "time_ms": timestamps_us.astype("datetime64[ms]").astype(np.int64) - 8 * 3_600_000,
            "is_click": seen.astype(int),
            "long_view": (seen & (video % 2 == 0)).astype(int),
            "play_time_ms": play,
            "duration_ms": length,
            "tab": 1,
        }
    )
    early = log["date"] <= 20220421
    log[early].to_csv(folder / "log_standard_4_08_to_4_21_pure.csv", index=False)
    log[~early].to_csv(folder / "log_standard_4_22_to_5_08_pure.csv", index=False)
    videos = {
        "video_id": range(50),
        "author_id": np.arange(50) // 5,
        "upload_dt": "2022-04-01",
        "tag": "3,4",
    }
    pd.DataFrame(videos).to_csv(folder / "video_features_basic_pure.csv", index=False)
    users = {"user_id": range(60), "onehot_feat0": np.arange(60) % 2}
    pd.DataFrame(users).to_csv(folder / "user_features_pure.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def kuairec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as KuaiRec's: 40 users watch 50 videos, the even ones through, the odd ones for a
    tenth.
    """
    folder, rng, size = tmp_path_factory.mktemp("kuairec"), np.random.default_rng(0), 3_000
    video = rng.integers(0, 50, size)
    length = 10_000 + 1_000 * video
    timestamps_us = np.round(1_593_900_000 + np.sort(rng.random(size)) * 30 * 86_400, 3)
    log = {
        "user_id": rng.integers(0, 40, size),
        "video_id": video,
        "play_duration": np.where(video % 2, length // 10, length),
        "video_duration": length,
        "timestamp": timestamps_us,
    }
    pd.DataFrame(log).to_csv(folder / "big_matrix.csv", index=False)
    kinds = {
        "video_id": range(50),
        "video_type": ["AD"] * 2 + ["NORMAL"] * 48,
        "author_id": np.arange(50) // 5,
    }
    pd.DataFrame(kinds).to_csv(folder / "item_daily_features.csv", index=False)
    return folder


SHORT = ["--seeds", "2", "--set", "ranking.batch=64", "--set", "ranking.vocabulary_clicks=5"]


def test_cwms_protocol_runs_on_files_of_its_layout(kuairand: Path, address: str) -> None:
    rows = kuairand_cwm.main(["--data", str(kuairand), "--tracking", address, *SHORT])
    assert [row["line"] for row in rows] == [
        *(f"{name}, published" for name in ("WLR", "D2Q", "CWM")),
        "ours, exact",
    ]
    assert rows[2] == {"line": "CWM, published", "MAE": 17.74, "XAUC": 0.714}
    # Three tenths of the plays are none, by chance: all that is left to know is the video.
    assert rows[-1]["XAUC"] > 0.75
    assert rows[-1]["MAE"] < 14
    assert rows[-1]["test rows"] > 1_000


def test_in_user_ranking_of_long_views_runs_on_files_of_its_layout(
    kuairand: Path, address: str
) -> None:
    rows = {
        row["line"]: row
        for row in kuairand_long_view.main(["--data", str(kuairand), "--tracking", address, *SHORT])
    }
    assert list(rows)[-4:] == [
        "item popularity, measured",
        "oracle, measured",
        "ours, click",
        "ours, exact",
    ]
    assert rows["oracle, measured"]["GAUC"] == 1
    assert rows["ours, click"]["GAUC"] > 0.75
    assert rows["ours, click"]["nDCG@5"] <= rows["oracle, measured"]["nDCG@5"]


def test_dadfs_protocol_runs_on_files_of_its_layout(kuairec: Path, address: str) -> None:
    rows = kuairec_dadf.main(["--data", str(kuairec), "--tracking", address, *SHORT])
    assert [row["line"] for row in rows[-2:]] == ["best with DADF, published", "ours, exact"]
    assert rows[-1]["XAUC"] > 0.9
    assert rows[-1]["MAE"] < 6


@pytest.mark.parametrize("protocol", [kuairand_cwm, kuairand_long_view, kuairec_dadf])
def test_a_protocol_without_its_files_is_refused(protocol: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no (log_standard|big_matrix).* here"):
        protocol.main(["--data", str(tmp_path)])


def test_a_log_that_lacks_the_protocols_days_or_columns_is_refused(tmp_path: Path) -> None:
    rows = kuairand_rows([9_000] * 3, [9_000] * 3, [20220408, 20220422, 20220423])
    rows.to_csv(tmp_path / "log_standard_slice.csv", index=False)
    with pytest.raises(
        InputError,
        match="no rows of 20220429 to 20220508; this protocol needs the whole published log",
    ):
        kuairand_cwm.main(["--data", str(tmp_path)])
    rows.drop(columns=["long_view"]).to_csv(tmp_path / "log_standard_slice.csv", index=False)
    with pytest.raises(
        InputError,
        match=r"log_standard_slice.csv: no column long_view; the published file has it\.",
    ):
        kuairand_long_view.main(["--data", str(tmp_path)])
