"""The whole line in one process on a very small simulated world; every invariant is recomputed from
the raw files.
"""

import inspect
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.errors import InputError
from features.simulation.simulated_log import simulate, write
from features.simulation.world import WorldConfig
from features.split import Split
from features.vocabulary import Vocabulary
from funnel.evaluation.evaluation_data import EvaluationData
from funnel.evaluation.off_policy_report import OffPolicy
from funnel.evaluation.report import cutoffs
from funnel.evaluation.waterfall import waterfall_table
from funnel.pipeline import (
    PUBLISHED,
    STEPS,
    WORTH_RELEASING,
    Outcome,
    context_of,
    data_digest,
    make,
    publish_files,
    release_memory,
    request_for,
    resident_bytes,
    stale_steps,
    writer_of,
)
from funnel.run import evaluate_then_serve, request_of, run_pipeline
from funnel.store import MANIFEST, MEASURED, PURPOSES

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
K, TOP_K, KEEP, CHANCE_WEIGHT = 20, 10, 12, 0.5
SMALL = (
    *(
        "recall.dim=4",
        "recall.depth=1",
        "recall.width=4",
        "recall.epochs=1",
        "recall.blocks=2",
        "recall.history=5",
    ),
    *("ranking.epochs=1", "ranking.hidden=[4]", f"recall.k={K}", f"ranking.top_k={TOP_K}"),
    *("off_policy.least_effective_sample=5", f"ranking.chance_weight={CHANCE_WEIGHT}"),
)
PAIR = ["user_id", "item_id"]


@dataclass(frozen=True)
class Run:
    """One run: where it read and wrote, how, and what a reader of its files sees."""

    data: Path
    out: Path
    mode: str
    outcomes: list[Outcome]

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.out / f"{name}.parquet")

    @cached_property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.out / "report.json").read_text())
        return report

    @cached_property
    def raw(self) -> pd.DataFrame:
        """The raw log in time order, with `completed` and the part of the cut that each row belongs
        to.
        """
        log = pd.read_parquet(self.data / "interactions.parquet").sort_values(
            "timestamp", kind="stable"
        )
        length = pd.read_parquet(self.data / "items.parquet").set_index("item_id")[
            "duration_seconds"
        ]
        needed = np.minimum(10, log["item_id"].map(length) / 2)
        log = log.assign(completed=log["clicked"] & (log["watch_seconds"] >= needed))
        return log.assign(in_test=_held_out(log, self.mode, self.report["run"]["split"]))

    @cached_property
    def before(self) -> pd.DataFrame:
        return self.raw[~self.raw["in_test"]]

    @cached_property
    def relevant(self) -> pd.DataFrame:
        return self.raw[self.raw["in_test"]]

    @cached_property
    def seen(self) -> pd.DataFrame:
        return self.before[self.before["clicked"]][PAIR].drop_duplicates()

    @cached_property
    def listed_users(self) -> set[int]:
        return set((self.raw if self.mode == "none" else self.relevant)["user_id"])


def test_memory_that_a_step_holds_is_seen_and_given_back() -> None:
    before = resident_bytes()
    held: list[Any] = [np.ones(WORTH_RELEASING // 4)]
    held.append(held)
    assert resident_bytes() - before > WORTH_RELEASING
    del held
    release_memory()
    assert resident_bytes() - before < WORTH_RELEASING


def test_lists_shorter_than_every_cutoff_are_evaluated_at_their_own_length() -> None:
    assert cutoffs((10, 20), 15) == [10]
    assert cutoffs((10, 20), 5) == [5]


def _held_out(log: pd.DataFrame, mode: str, split: dict[str, str]) -> "pd.Series[bool]":
    if mode == "none":
        return pd.Series(False, index=log.index)
    if mode == "time":
        return log["timestamp"] >= pd.Timestamp(split["test_start"])
    done = log.groupby("user_id")["completed"].cumsum()
    watches = log.groupby("user_id")["completed"].transform("sum")
    return (done == watches) & (watches > 0)


def asked(mode: str) -> list[str]:
    cut = ["split.test_start=2025-01-03T12:00:00Z"] if mode == "time" else []
    return [*SMALL, f"split.mode={mode}", *cut]


def started(data: Path, out: Path, mode: str, *overrides: str) -> list[Outcome]:
    tracking = f"sqlite:///{out.parent / 'mlflow' / 'mlflow.db'}"
    return run_pipeline("canonical", data, out, None, [*asked(mode), *overrides], tracking)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("world")
    write(*simulate(WORLD), place)
    shutil.rmtree(place / "truth")
    return place


@pytest.fixture(scope="module", params=["time", "last", "none"])
def run(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    out = tmp_path_factory.getbasetemp() / "runs" / request.param
    return Run(data, out, request.param, started(data, out, request.param))


of_time = pytest.mark.parametrize("run", ["time"], indirect=True)


def again(run: Run, *overrides: str) -> Run:
    """The run's artefacts in a folder of their own, gone on from with another configuration."""
    out = run.out.parent / "_".join([run.mode, *overrides])
    shutil.copytree(run.out, out, dirs_exist_ok=True)
    return Run(run.data, out, run.mode, started(run.data, out, run.mode, *overrides))


@pytest.fixture(scope="module")
def pre_ranked(run: Run) -> Run:
    """The run with a pre-rank that leaves 12 of the 20 candidates."""
    return again(run, f"pre_rank.keep={KEEP}")


@pytest.fixture(scope="module")
def left(pre_ranked: Run) -> pd.DataFrame:
    """What pre-rank left, in its order: user_id and item_id."""
    users, items = (raw_ids(pre_ranked, side) for side in ("users", "items"))
    listed = np.load(artefact(pre_ranked, "candidates") / "users.npy")
    lists = np.load(artefact(pre_ranked, "recommendations") / "pre_ranked_items.npy")
    row, column = np.nonzero(lists)
    return pd.DataFrame({"user_id": users[listed[row]], "item_id": items[lists[row, column]]})


@pytest.fixture(scope="module")
def all_scored(run: Run) -> pd.DataFrame:
    """The ranker's score of every candidate: the recommendations of a run whose lists are as long
    as recall's.
    """
    return again(run, f"ranking.top_k={K}").table("recommendations")[
        [*PAIR, "score", "expected_seconds"]
    ]


def artefact(run: Run, name: str) -> Path:
    return run.out / "artefacts" / name / manifests(run)[name]["version"]


def raw_ids(run: Run, side: str) -> Any:
    """Raw ids by index, -1 for nobody."""
    vocabulary = Vocabulary.load(artefact(run, "vocabulary") / f"{side}.parquet")
    return np.append(-1, vocabulary.id_of(np.arange(1, len(vocabulary))).to_numpy())


def manifests(run: Run) -> dict[str, dict[str, Any]]:
    found = {}
    for name in STEPS:
        folder = run.out / "artefacts" / name
        purpose = "serving" if run.mode == "none" else "evaluation"
        version = json.loads((folder / purpose).read_text())["version"]
        found[name] = json.loads((folder / version / MANIFEST).read_text())
    return found


def snapshot(out: Path) -> dict[str, tuple[int, int]]:
    """Every file but MLflow's and the lock: when it was last written, and which file it is."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def test_every_artefact_of_the_line_is_made_and_every_file_described(run: Run) -> None:
    assert [outcome.name for outcome in run.outcomes] == list(STEPS)
    assert all(outcome.made for outcome in run.outcomes)
    for name, manifest in manifests(run).items():
        folder = run.out / "artefacts" / name / manifest["version"]
        files = {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        }
        assert files == set(manifest["files"]) | {MANIFEST}
        assert set(manifest["parents"]) == set(STEPS[name].parents) or name == "interactions"
    assert all((run.out / file).is_file() for files in PUBLISHED.values() for file in files)


def test_nothing_is_pickled(run: Run) -> None:
    """A pickle of protocol 2 and up starts with 0x80, an array of objects says so in its header."""
    for path in (path for path in run.out.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            start = file.read(128)
        assert not (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"), path
        assert not (start.startswith(b"\x93NUMPY") and b"|O" in start.partition(b"}")[0]), path
        assert path.suffix not in (".pkl", ".pickle", ".joblib"), path


def test_the_index_says_what_it_is_and_keeps_its_sweep_beside_it(run: Run) -> None:
    folder = run.out / "artefacts" / "index" / manifests(run)["index"]["version"]
    kept = json.loads((folder / "index.json").read_text())
    assert kept == {
        "kind": "exact",
        "parameters": "",
        "overlap": 1.0,
        "overlap_held_out": 1.0,
        "items": kept["items"],
    }
    assert np.load(folder / "items.npy").tolist() == list(range(1, kept["items"] + 1))
    sweep = pd.read_csv(folder / MEASURED / "index_sweep.csv")
    assert sweep["chosen"].tolist() == [True]
    assert (sweep[["queries_per_second", "megabytes", "build_seconds"]] > 0).all(axis=None)
    assert (folder / MEASURED / "index_sweep.png").exists()


def test_the_log_is_sorted_by_user_and_time_and_every_row_is_in_one_part(run: Run) -> None:
    folder = run.out / "artefacts" / "impressions" / manifests(run)["impressions"]["version"]
    log = pd.read_parquet(folder / "impressions.parquet")
    assert len(log) == len(run.raw)
    assert log[["user", "timestamp_us"]].apply(tuple, axis=1).is_monotonic_increasing
    assert log.groupby("user")["timestamp"].apply(lambda times: times.is_monotonic_increasing).all()
    assert (log[["user", "item"]] > 0).all(axis=None)
    if run.mode != "last":
        first = log.groupby(["user", "request_id"])["timestamp_us"].transform("min")
        np.testing.assert_array_equal(log["request_us"], first)
        assert (first < log["timestamp_us"]).mean() > 0.5


def test_lists_are_for_the_users_they_should_be_for_and_ranked_from_1(run: Run) -> None:
    for name in ("candidates", "recommendations"):
        lists = run.table(name)
        assert set(lists["user_id"]) == run.listed_users
        assert not lists.duplicated(PAIR).any()
        assert (lists["rank"] == lists.groupby("user_id").cumcount() + 1).all()
        assert (
            lists.groupby("user_id")["score"]
            .apply(lambda scores: scores.is_monotonic_decreasing)
            .all()
        )
        assert np.isfinite(lists["score"]).all()


def test_nothing_seen_and_nothing_unknown_is_in_a_list(run: Run) -> None:
    lists = run.table("candidates")
    assert lists.merge(run.seen, on=PAIR).empty
    assert set(lists["item_id"]) <= _catalogue(run)


def _catalogue(run: Run) -> set[int]:
    """Items shown before the test window, and on a clock of time what was published by then since
    the log began.
    """
    shown, published = (
        set(run.before["item_id"]),
        pd.read_parquet(run.data / "items.parquet").set_index("item_id"),
    )
    if run.mode == "last":
        return shown
    ends = pd.Timestamp(run.report["run"]["split"]["test_start"])
    since = published["published_at"].between(run.raw["timestamp"].min(), ends, inclusive="left")
    return shown | set(published.index[since])


def test_lists_are_short_only_where_the_catalogue_of_unseen_items_runs_out(run: Run) -> None:
    unseen = len(_catalogue(run)) - run.seen.groupby("user_id").size()
    for name, most in (("candidates", K), ("recommendations", TOP_K)):
        lengths = run.table(name).groupby("user_id").size()
        expected = unseen.reindex(lengths.index, fill_value=len(_catalogue(run))).clip(upper=most)
        assert lengths.tolist() == expected.tolist()


def test_every_candidate_says_which_generators_named_it_and_at_which_rank(run: Run) -> None:
    lists = run.table("candidates")
    named = [column.removesuffix("_rank") for column in lists.columns if column.endswith("_rank")]
    timed = {"new_items"} if run.mode != "last" else set[str]()
    assert (
        set(named)
        == {
            "tower",
            "item_to_item",
            "co_visitation",
            "popular",
            "followed_channels",
            "expected_watch",
        }
        | timed
    )
    ranks = lists[[f"{name}_rank" for name in named]]
    assert (ranks.min() == 1).all()
    assert ranks.notna().any(axis=1).all()
    texts = [
        ",".join(name for name in named if row[f"{name}_rank"] > 0) for _, row in ranks.iterrows()
    ]
    assert lists["generators"].astype(str).tolist() == texts


def test_with_the_rewatch_generator_a_list_may_hold_what_was_seen(
    data: Path, tmp_path: Path
) -> None:
    generators = 'recall.generators=["tower","popular","rewatch"]'
    run = Run(data, tmp_path / "run", "time", started(data, tmp_path / "run", "time", generators))
    again = run.table("candidates").merge(run.seen, on=PAIR)
    assert len(again)
    assert (again["generators"].astype(str) == "rewatch").all()


def test_re_ranked_lists_are_candidates_without_what_is_excluded_and_their_cost_is_told(
    data: Path, tmp_path: Path
) -> None:
    popular = pd.read_parquet(data / "interactions.parquet")["item_id"].value_counts().index[:5]
    table = tmp_path / "exclusions.csv"
    pd.DataFrame({"item_id": popular}).to_csv(table, index=False)
    asked = (f"re_rank.exclusions={table}", "re_rank.diversity=mmr", "re_rank.channel_cap=2")
    # In the paper's order, by seconds alone, no switch can win any.
    asked = (*asked, "ranking.chance_weight=0")
    started(data, tmp_path / "out", "time", *asked)
    run = Run(data, tmp_path / "out", "time", [])
    lists, found = run.table("recommendations"), run.table("candidates")
    assert len(lists.merge(found[PAIR], on=PAIR)) == len(lists)
    assert not lists["item_id"].isin(popular).any()
    assert found["item_id"].isin(popular).any()
    lost = {
        name: value
        for name, value in run.report.items()
        if name.startswith("funnel.re_rank_seconds_lost@10/")
    }
    assert {name.split("/")[1] for name in lost} == {"mmr", "channel_cap", "exclusions", "all"}
    assert all(-1e-9 <= value < 1 for value in lost.values())
    assert lost["funnel.re_rank_seconds_lost@10/all"] > 0
    assert {
        "waterfall.ranked@10",
        "waterfall.re_ranked@10",
        "funnel.watch_seconds_share@10.ranked",
    } <= set(run.report)
    pd.DataFrame({"item_id": popular, "why": "no"}).to_csv(table, index=False)
    with pytest.raises(InputError, match="columns are item_id, why"):
        started(data, tmp_path / "out", "time", *asked)
    assert run.table("recommendations").equals(lists)
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        started(data, tmp_path / "out", "time", "re_rank.exclusions=nowhere.csv")


def test_a_k_of_ones_own_beyond_the_catalogue_is_refused_before_anything_is_trained(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"recall.k = 5000 but the catalogue has \d+ items before test_start"
    ):
        started(data, tmp_path / "run", "time", "recall.k=5000")


def test_recommendations_are_candidates_in_the_rankers_order(run: Run) -> None:
    candidates, chosen = run.table("candidates"), run.table("recommendations")
    both = chosen.merge(candidates, on=PAIR)
    assert len(both) == len(chosen)
    assert list(chosen.columns) == [
        *PAIR,
        "rank",
        "score",
        "expected_seconds",
        "chance",
        "generators",
        "unit",
    ]
    assert (both["generators_x"].astype(str) == both["generators_y"].astype(str)).all()
    np.testing.assert_allclose(both["chance"], np.exp(both["score_y"]), rtol=1e-4)
    score = np.log(both["expected_seconds"]) + CHANCE_WEIGHT * np.log(both["chance"])
    np.testing.assert_allclose(both["score_x"], score, atol=1e-4)
    assert (
        chosen.groupby("user_id")["score"]
        .apply(lambda scores: scores.is_monotonic_decreasing)
        .all()
    )
    assert set(chosen["unit"]) == {"seconds"}


def test_every_impression_of_the_holdout_is_scored_once(run: Run) -> None:
    scored, keys = run.table("scored"), [*PAIR, "timestamp"]
    assert list(scored.columns) == [*keys, "expected_seconds"]
    assert np.isfinite(scored["expected_seconds"]).all()
    assert (scored["expected_seconds"] >= 0).all()
    rows = [sorted(map(tuple, frame[keys].to_numpy().tolist())) for frame in (scored, run.relevant)]
    assert rows[0] == rows[1]


def test_ranking_rows_are_the_impressions_before_the_holdout_in_their_order(run: Run) -> None:
    folder = run.out / "artefacts" / "ranking_rows" / manifests(run)["ranking_rows"]["version"]
    rows = pd.read_parquet(
        folder / "ranking_rows.parquet", columns=["clicked", "seconds", "weight"]
    )
    first = run.raw.groupby("user_id")["timestamp"].transform("min")
    known = run.before
    if run.mode != "last":
        # What was watched of a watch that still ran at the cut was not known then.
        split = Split.load(run.out / "artefacts" / "split" / manifests(run)["split"]["version"])
        ended = known["timestamp"] + pd.to_timedelta(known["watch_seconds"], unit="s")
        known = known[ended <= pd.Timestamp(split.test_start, unit="us", tz="UTC")]
        order = known.assign(first=first).sort_values(
            ["first", "user_id", "timestamp"], kind="stable"
        )
        assert rows["clicked"].tolist() == order["clicked"].tolist()
        np.testing.assert_allclose(
            rows["seconds"], np.where(order["clicked"], order["watch_seconds"], 0)
        )
    assert len(rows) == len(known)
    assert (rows.loc[~rows["clicked"], "seconds"] == 0).all()


def test_the_reports_hit_rate_and_seconds_share_can_be_recomputed_from_the_files(run: Run) -> None:
    if run.mode == "none":
        assert not [name for name in run.report if name.startswith("recall.hr")]
        return
    done = run.relevant[run.relevant["completed"]][PAIR].drop_duplicates()
    clicks = run.relevant[run.relevant["clicked"]]
    for name, key in (("candidates", "recall.hr@10"), ("recommendations", "funnel.hr@10")):
        top = run.table(name).query("rank <= 10")
        hit = set(done.merge(top, on=PAIR)["user_id"])
        assert run.report[key] == pytest.approx(len(hit) / done["user_id"].nunique())
    listed = clicks.merge(run.table("recommendations").query("rank <= 10")[PAIR], on=PAIR)[
        "watch_seconds"
    ].sum()
    share = run.report["funnel.watch_seconds_share@10"]
    assert share == pytest.approx(listed / clicks["watch_seconds"].sum())
    assert 0 < share < 1


def test_the_reports_truth_of_seconds_can_be_recomputed_by_duration_from_the_files(
    run: Run,
) -> None:
    if run.mode == "none":
        assert not [name for name in run.report if name.startswith(("ranking.", "waterfall."))]
        return
    rows = run.table("scored").merge(run.relevant, on=[*PAIR, "timestamp"])
    length = pd.read_parquet(run.data / "items.parquet").set_index("item_id")["duration_seconds"]
    rows = rows.assign(
        length=rows["item_id"].map(length), true=rows["watch_seconds"].where(rows["clicked"], 0.0)
    )
    edges = {"under_10": (0, 10), "10_to_20": (10, 20), "20_to_60": (20, 60), "over_60": (60, 1e9)}
    slices = {"": (0.0, 1e9)} | {f"/duration_{name}": edge for name, edge in edges.items()}
    for name, (low, high) in slices.items():
        some = rows[(rows["length"] >= low) & (rows["length"] < high)]
        if name:
            assert run.report[f"ranking.rows{name}"] == len(some)
        if some["true"].sum():
            ratio, ends = run.report[f"ranking.calibration{name}"], ("low", "high")
            assert ratio == pytest.approx(
                some["expected_seconds"].sum() / some["true"].sum(), rel=1e-4
            )
            low_end, high_end = (run.report[f"ranking.calibration_{end}{name}"] for end in ends)
            assert low_end <= high_end
            assert run.report[f"ranking.mae{name}"] == pytest.approx(
                (some["expected_seconds"] - some["true"]).abs().mean(), rel=1e-4
            )


def test_the_waterfall_only_ever_loses_and_ends_at_the_lists(run: Run) -> None:
    if run.mode == "none":
        return
    clicks, report = run.relevant[run.relevant["clicked"]], run.report
    total = clicks["watch_seconds"].sum()
    known = clicks[clicks["item_id"].isin(run.before["item_id"])]
    if run.mode == "time":
        # An item published before the cut is known before anybody was shown it.
        born = pd.read_parquet(run.data / "items.parquet").set_index("item_id")["published_at"]
        cut = pd.Timestamp(report["run"]["split"]["test_start"])
        start = run.raw["timestamp"].min()
        published = clicks["item_id"].map(born).between(start, cut, inclusive="left")
        known = clicks[clicks["item_id"].isin(run.before["item_id"]) | published]
    unseen = known.merge(run.seen, on=PAIR, how="left", indicator=True).query(
        "_merge == 'left_only'"
    )
    blended, final = (
        clicks.merge(run.table(n)[PAIR], on=PAIR) for n in ("candidates", "recommendations")
    )
    stages = {
        "all": clicks,
        "known": known,
        "unseen": unseen,
        "blended": blended,
        f"ranked@{TOP_K}": final,
    }
    for name, left in stages.items():
        assert report[f"waterfall.{name}"] == pytest.approx(left["watch_seconds"].sum() / total), (
            name
        )
    shares = [report[f"waterfall.{name}"] for name in stages]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(report["funnel.watch_seconds_share@10"])
    generators = {
        name: value for name, value in report.items() if name.startswith("waterfall.generator/")
    }
    assert generators
    assert max(generators.values()) <= report["waterfall.blended"] + 1e-12


@of_time
def test_pre_rank_leaves_a_part_of_each_users_candidates_and_the_ranker_orders_it(
    run: Run, pre_ranked: Run, left: pd.DataFrame, all_scored: pd.DataFrame
) -> None:
    candidates, chosen = pre_ranked.table("candidates"), pre_ranked.table("recommendations")
    named = left.merge(candidates, on=PAIR)
    assert len(named) == len(left)
    assert named.groupby("user_id")["rank"].apply(lambda ranks: ranks.is_monotonic_increasing).all()
    whole = candidates.groupby("user_id").size()
    assert left.groupby("user_id").size().tolist() == whole.clip(upper=KEEP).tolist()
    own = chosen.merge(left, on=PAIR).merge(all_scored, on=PAIR)
    assert len(own) == len(chosen)
    np.testing.assert_allclose(own["score_x"], own["score_y"], rtol=1e-4)
    # By scores, not by items: a calibration by steps gives several items the same seconds.
    best = left.merge(all_scored, on=PAIR).groupby("user_id")["score"].nlargest(TOP_K)
    np.testing.assert_allclose(chosen.sort_values(["user_id", "rank"])["score"], best, rtol=1e-4)
    assert not chosen[PAIR].equals(run.table("recommendations")[PAIR])


@of_time
def test_what_pre_rank_loses_can_be_recomputed_from_the_files(
    pre_ranked: Run, all_scored: pd.DataFrame
) -> None:
    checkers = raw_ids(pre_ranked, "users")[
        np.load(artefact(pre_ranked, "pre_ranker") / "check_users.npy")
    ]
    assert 0 < len(checkers) < len(pre_ranked.listed_users)
    first = pre_ranked.table("candidates").query(f"rank <= {KEEP}")[PAIR]
    scored = all_scored[all_scored["user_id"].isin(checkers)]
    best = scored.groupby("user_id")["expected_seconds"].nlargest(TOP_K).sum()
    # The light scorer's own cut is by seconds alone, that of the lists in `left` by chances too.
    had = scored.merge(first, on=PAIR).groupby("user_id")["expected_seconds"].nlargest(TOP_K).sum()
    lost = pre_ranked.report[f"funnel.pre_rank_seconds_lost@{TOP_K}.recall"]
    assert lost == pytest.approx(1 - had / best, abs=1e-5)
    assert lost > pre_ranked.report[f"funnel.pre_rank_seconds_lost@{TOP_K}"] >= 0


@of_time
def test_pre_rank_is_a_stage_of_the_waterfall_between_the_blender_and_the_lists(
    pre_ranked: Run, left: pd.DataFrame
) -> None:
    report = pre_ranked.report
    clicks = pre_ranked.relevant[pre_ranked.relevant["clicked"]]
    share = clicks.merge(left, on=PAIR)["watch_seconds"].sum() / clicks["watch_seconds"].sum()
    assert report["waterfall.pre_ranked"] == pytest.approx(share)
    assert report["waterfall.blended"] >= share >= report[f"waterfall.ranked@{TOP_K}"]
    stages = list(waterfall_table(report).index)
    assert stages[-3:] == ["blended", "pre_ranked", f"ranked@{TOP_K}"]
    assert any(name.startswith("waterfall.pre_ranked/") for name in report)


@of_time
def test_without_pre_rank_nothing_is_cut_and_with_it_what_comes_before_stays(
    run: Run, pre_ranked: Run
) -> None:
    off, on = manifests(run), manifests(pre_ranked)
    assert set(off["pre_ranker"]["files"]) == {"pre_ranker.json"}
    assert json.loads((artefact(run, "pre_ranker") / "pre_ranker.json").read_text()) == {"keep": 0}
    assert not (artefact(run, "recommendations") / "pre_ranked_items.npy").exists()
    assert not [name for name in run.report if "pre_rank" in name]
    changed = {name for name in STEPS if off[name]["content"] != on[name]["content"]}
    assert changed == {"pre_ranker", "recommendations", "report"}
    assert [outcome.name for outcome in pre_ranked.outcomes if outcome.made] == [
        name for name in STEPS if name in changed
    ]


@of_time
def test_lists_of_another_length_train_nothing_anew(run: Run, all_scored: pd.DataFrame) -> None:
    longer = Run(run.data, run.out.parent / f"{run.mode}_ranking.top_k={K}", run.mode, [])
    assert len(all_scored) > len(run.table("recommendations"))
    changed = {
        name
        for name in STEPS
        if manifests(run)[name]["version"] != manifests(longer)[name]["version"]
    }
    assert changed == {"list_order", "pre_ranker", "recommendations", "report"}


def off_policy_terms(run: Run, name: str) -> pd.DataFrame:
    """Weight, seconds and doubly robust term of every slot of the test window, read row by row from
    the files.
    """
    lists = run.table(name).query(f"rank <= {TOP_K}").groupby("user_id")
    seconds = "expected_seconds" if name == "recommendations" else "score"
    listed = {user: dict(zip(rows["item_id"], zip(rows["rank"], rows[seconds], strict=True), strict=True))
              for user, rows in lists}  # fmt: skip
    terms, above, clicked, last = [], set[int](), set[int](), (None, 0)
    for row in run.relevant.sort_values(["user_id", "timestamp"]).itertuples():
        clicked = clicked if row.user_id == last[0] else set()
        above = above if row.user_id == last[0] and row.position > last[1] else set()
        left = {
            item: facts
            for item, facts in listed[row.user_id].items()
            if item not in above | clicked
        }
        total = sum(1 / rank for rank, _ in left.values())
        chances = {item: 1 / rank / total for item, (rank, _) in left.items()}
        weight, seconds = (
            chances.get(row.item_id, 0) / row.propensity,
            row.watch_seconds if row.clicked else 0.0,
        )
        direct = sum(chance * left[item][1] for item, chance in chances.items())
        term = direct + (weight * (seconds - left[row.item_id][1]) if weight else 0)
        if left:
            terms.append((weight, seconds, term))
        above, last = above | {row.item_id}, (row.user_id, row.position)
        clicked = clicked | ({row.item_id} if row.clicked else set())
    return pd.DataFrame(terms, columns=["weight", "seconds", "term"])


def test_the_reports_off_policy_estimates_can_be_recomputed_from_the_files(run: Run) -> None:
    report, described = run.report, run.report["run"]["off_policy"]
    if run.mode != "time":
        assert report["off_policy.snips"] is report["off_policy.doubly_robust"] is None
        assert described["refused"]["any list"].startswith(f"split.mode is {run.mode}")
        return
    assert described == {
        "policy": "softmax of -log(place) / 1 over the first 10 places",
        "refused": {},
    }
    for name, suffix in (("recommendations", ""), ("candidates", ".recall")):
        slots = off_policy_terms(run, name)
        weight, seconds = slots["weight"], slots["seconds"]
        found = {
            key: report[f"off_policy.{key}{suffix}"]
            for key in ("snips", "slots", "mean_weight", "logged")
        }
        expected = {"snips": (weight * seconds).sum() / weight.sum(), "slots": len(slots)}
        assert found == pytest.approx(
            expected | {"mean_weight": weight.mean(), "logged": seconds.mean()}
        )
        sample = weight.sum() ** 2 / (weight**2).sum()
        assert report[f"off_policy.effective_sample{suffix}"] == pytest.approx(sample)
        for key in ("snips", "doubly_robust", "logged"):
            assert (
                report[f"off_policy.{key}_low{suffix}"] < report[f"off_policy.{key}_high{suffix}"]
            )
    # Recall's lists have no model's seconds in their files.
    robust = off_policy_terms(run, "recommendations")["term"].mean()
    assert report["off_policy.doubly_robust"] == pytest.approx(robust, rel=1e-3)


def off_policy(run: Run, folder: Path, *overrides: str) -> OffPolicy:
    """The evaluation of a run's lists on its log without propensities."""
    request = request_for(
        "canonical", str(run.data), str(run.out), "r", None, [*asked(run.mode), *overrides]
    )
    context = context_of("report", request, folder)
    log = pd.read_parquet(context.inputs["impressions"] / "impressions.parquet")
    log.drop(columns="propensity").to_parquet(folder / "impressions.parquet")
    return OffPolicy(
        EvaluationData(replace(context, inputs={**context.inputs, "impressions": folder}))
    )


def test_without_propensities_there_is_no_estimate_unless_exposure_was_random(
    run: Run, tmp_path: Path
) -> None:
    if run.mode != "time":
        return
    without = off_policy(run, tmp_path)
    assert np.isnan(list(without.metrics().values())).all()
    assert without.refused["any list"].startswith("the test window has no propensities")
    uniform = off_policy(run, tmp_path, "off_policy.random_exposure=true")
    born = pd.read_parquet(run.data / "items.parquet").set_index("item_id")["published_at"]
    shown = run.raw.groupby("item_id")["timestamp"].min()
    since = born[born >= run.raw["timestamp"].min()]
    known = pd.concat([shown, since]).groupby(level=0).min()
    slots = run.relevant.sort_values(["user_id", "timestamp"])
    counts = [(known <= as_of).sum() for as_of in slots["timestamp"]]
    np.testing.assert_allclose(np.sort(1 / uniform.logged.propensity), np.sort(counts))
    assert uniform.metrics()["off_policy.slots"] == len(slots)


def test_the_same_again_does_nothing_and_says_so(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    artefacts = snapshot(run.out)
    outcomes = started(run.data, run.out, run.mode)
    assert not any(outcome.made for outcome in outcomes)
    assert {o.name: o.content for o in outcomes} == {o.name: o.content for o in run.outcomes}
    assert "everything was up to date, nothing was done" in capsys.readouterr().out
    written = {path for path, facts in snapshot(run.out).items() if artefacts.get(path) != facts}
    assert {Path(path).name for path in written} <= set(PURPOSES)


def test_lists_that_were_made_and_are_not_shown_are_still_to_be_shown(run: Run) -> None:
    request = request_for("canonical", str(run.data), str(run.out), "again", None, asked(run.mode))
    assert stale_steps(request) == []
    for shown in (run.out / "report.json", request.shown / "report.json"):
        kept = shown.read_bytes()
        shown.unlink()
        assert stale_steps(request) == ["report"]
        shown.write_bytes(kept)
        assert stale_steps(request) == ["report"]
        publish_files(request)
        assert stale_steps(request) == []


@of_time
def test_what_is_served_is_what_a_run_that_holds_nothing_out_makes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(run.out, out, symlinks=True)
    request = request_of("canonical", run.data, out, None, asked("time"), None)
    monkeypatch.setattr("funnel.run.verdict_of", lambda _: {"fit": False, "sentence": "Not fit."})
    assert not evaluate_then_serve(request)
    assert not (out / "serving").exists()
    monkeypatch.undo()
    assert evaluate_then_serve(request)
    assert stale_steps(request) == stale_steps(request.serving()) == []
    alone = tmp_path / "alone"
    started(run.data, alone, "none")
    for file in ("candidates.parquet", "recommendations.parquet"):
        served, evaluated = (pd.read_parquet(out / name / file) for name in PURPOSES[::-1])
        pd.testing.assert_frame_equal(served, pd.read_parquet(alone / file))
        pd.testing.assert_frame_equal(evaluated, pd.read_parquet(out / file))
        assert set(served["user_id"]) > set(evaluated["user_id"])


@of_time
def test_a_step_reads_what_its_own_run_has_made_of_its_stage(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(run.out, out, symlinks=True)
    older = request_of("canonical", run.data, out, None, asked("time"), None)
    settings = [*asked("time"), "split.test_start=2025-01-03T06:00:00Z"]
    newer = request_of("canonical", run.data, out, None, settings, None)
    newer_split = make("split", newer, lambda _: None)
    # The split in force is the newer one; the vocabulary of the older run stands on its own.
    assert not make("vocabulary", older, lambda _: None).made
    with pytest.raises(InputError, match=r"`split` of the run .* is superseded"):
        make("split", older, lambda _: None)
    assert older.store.manifest("split").version == newer_split.version
    unmade = request_of(
        "canonical", run.data, out, None, [*settings, "features.request_seconds=5"], None
    )
    with pytest.raises(InputError, match="reads `split`, which is not there"):
        make("vocabulary", unmade, lambda _: None)


@of_time
def test_a_truth_that_was_not_there_is_a_report_to_be_written_and_nothing_else(
    run: Run, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(run.data, data)
    (data / "truth").mkdir()
    (data / "truth" / "levels").write_text("known")
    request = request_for("canonical", str(data), str(run.out), "again", None, asked(run.mode))
    assert stale_steps(request) == ["report"]


def _spoilt(log: pd.DataFrame) -> pd.DataFrame:
    return log.assign(watch_seconds=-1.0)


@pytest.mark.parametrize(
    "spoil", [_spoilt, lambda log: log.drop(columns="timestamp")], ids=["value", "column"]
)
def test_a_refused_run_touches_nothing(
    run: Run, tmp_path: Path, spoil: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    spoil(pd.read_parquet(run.data / "interactions.parquet")).to_parquet(
        tmp_path / "interactions.parquet"
    )
    before = snapshot(run.out)
    with pytest.raises(InputError):
        started(tmp_path, run.out, run.mode)
    assert snapshot(run.out) == before


def test_a_cut_outside_the_log_is_refused_and_touches_nothing(run: Run) -> None:
    before = snapshot(run.out)
    with pytest.raises(InputError, match=r"split\.test_start"):
        started(run.data, run.out, run.mode, "split.test_start=1999-01-01T00:00:00Z")
    after = snapshot(run.out)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {Path(path).name for path in changed} <= set(PURPOSES)


def test_files_of_one_name_in_two_folders_are_both_part_of_the_digest(tmp_path: Path) -> None:
    for table, column in (("interactions", "user_id"), ("users", "user_id")):
        (tmp_path / f"{table}.parquet").mkdir()
        pd.DataFrame({column: [1]}).to_parquet(tmp_path / f"{table}.parquet" / "part.0.parquet")
    before = data_digest("canonical", tmp_path)
    pd.DataFrame({"user_id": [1, 2]}).to_parquet(
        tmp_path / "interactions.parquet" / "part.0.parquet"
    )
    assert data_digest("canonical", tmp_path) != before


@pytest.mark.parametrize("name", list(STEPS))
def test_every_artefact_has_a_writer_that_reads_no_section_it_does_not_declare(name: str) -> None:
    writer = writer_of(name)
    read = set(re.findall(r"context\.config\.(\w+)", inspect.getsource(writer)))
    # The split tells what a generator would do; what it writes is the same without.
    told = {"recall"} if name == "split" else set()
    assert read <= set(STEPS[name].sections) | told | {"sections"}
