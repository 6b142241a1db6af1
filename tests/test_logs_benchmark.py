"""The benchmark of lists on whole logs: its figures against loops over users, and a run of it on a
very small log.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from benchmarks import logs
from benchmarks.logs import LINE, Figure, Ratio, cost_of, measures_of, over_seeds, rows_of
from benchmarks.shared import implicit_peer
from features.errors import InputError
from features.histories import histories_of
from features.simulation.simulated_log import simulate, write
from features.simulation.world import WorldConfig
from recall.baselines import LogBefore
from recall.metrics import RelevantItems

pytestmark = pytest.mark.slow

SMALL = (
    *(
        "recall.dim=4",
        "recall.depth=1",
        "recall.width=4",
        "recall.epochs=1",
        "recall.blocks=2",
        "recall.history=5",
    ),
    *("ranking.epochs=1", "ranking.hidden=[4]", "recall.k=60", "ranking.top_k=50"),
    "split.test_start=2025-01-03T12:00:00Z",
)
SETTINGS = [word for setting in SMALL for word in ("--set", setting)]


def flat(lists: list[list[Any]]) -> Any:
    return np.concatenate([np.array(each, float) for each in lists])


def relevant(watches: list[list[int]]) -> RelevantItems:
    return RelevantItems(np.cumsum([0, *map(len, watches)]), flat(watches).astype(np.int32))


def random_lists(
    users: int, seed: int
) -> tuple[Any, list[list[int]], list[list[int]], list[list[float]]]:
    """Lists [users, 60] of 90 items with blank ends, what each user completed (some nothing) and
    clicked, T each.
    """
    rng = np.random.default_rng(seed)
    lists = np.array([rng.permutation(90)[:60] + 1 for _ in range(users)], np.int32)
    lists[np.arange(60) >= rng.integers(0, 80, users)[:, None]] = 0
    completed = [rng.permutation(91)[: rng.integers(0, 4)].tolist() for _ in range(users)]
    clicked = [[*mine, *rng.integers(0, 91, rng.integers(0, 4)).tolist()] for mine in completed]
    return (
        lists,
        completed,
        clicked,
        [(rng.random(len(mine)) * 100 + len(mine)).tolist() for mine in clicked],
    )


def test_measures_are_what_a_loop_over_users_counts() -> None:
    lists, completed, clicked, seconds = random_lists(40, 0)
    measures = measures_of(lists, relevant(completed), relevant(clicked), flat(seconds))
    evaluation = [user for user in range(40) if completed[user]]
    assert 0 < len(evaluation) < 40
    for k in (10, 50):
        listed = [set(mine[:k].tolist()) - {0} for mine in lists]
        hit = [bool(listed[user] & set(completed[user])) for user in evaluation]
        held = sum(
            t
            for u in range(40)
            for item, t in zip(clicked[u], seconds[u], strict=True)
            if item in listed[u]
        )
        assert measures[f"HR@{k}"].value == pytest.approx(np.mean(hit))
        assert measures[f"seconds@{k}"].value == pytest.approx(held / flat(seconds).sum())
    gains = []
    for user in evaluation:
        places = [
            place
            for place in range(10)
            if lists[user, place] in completed[user] and lists[user, place]
        ]
        ideal = sum(1 / math.log2(place + 2) for place in range(min(10, len(completed[user]))))
        gains.append(sum(1 / math.log2(place + 2) for place in places) / ideal)
    assert measures["NDCG@10"].value == pytest.approx(np.mean(gains))
    assert set(measures) == {"HR@10", "HR@50", "NDCG@10", "seconds@10", "seconds@50"}


def test_the_error_of_a_mean_is_its_standard_error_over_the_users_who_are_evaluated() -> None:
    lists, completed, clicked, seconds = random_lists(200, 1)
    found = measures_of(lists, relevant(completed), relevant(clicked), flat(seconds))["HR@50"]
    hit = [
        bool(set(lists[u, :50].tolist()) & set(completed[u]) - {0})
        for u in range(200)
        if completed[u]
    ]
    assert found.error == pytest.approx(np.std(hit) / math.sqrt(len(hit)))


def test_the_error_of_a_share_of_seconds_is_what_leaving_out_each_user_says() -> None:
    lists, completed, clicked, seconds = random_lists(400, 2)
    found = measures_of(lists, relevant(completed), relevant(clicked), flat(seconds))["seconds@10"]
    without = (found.got.sum() - found.got) / (found.of.sum() - found.of)
    jackknife = math.sqrt(399 / 400 * np.square(without - without.mean()).sum())
    assert found.error == pytest.approx(jackknife, rel=0.02)


def test_a_measure_of_nobody_is_unknown() -> None:
    nobody = Ratio(np.zeros(3), np.zeros(3))
    assert math.isnan(nobody.value)
    assert math.isnan(nobody.error)


def test_over_seeds_each_user_counts_by_the_mean() -> None:
    of = np.ones(2)
    runs = [{"final": {"HR@10": Ratio(np.array(got), of)}} for got in ([1.0, 0.0], [0.0, 0.0])]
    found = over_seeds(runs)["final"]["HR@10"]
    assert (found.got.tolist(), found.value) == ([0.5, 0.0], 0.25)
    assert found.error == pytest.approx(0.25 / math.sqrt(2))


def test_the_cost_is_the_mean_time_and_the_highest_peak() -> None:
    assert cost_of([(1.0, 2.0), (3.0, 1.5)]) == {"minutes": 2.0, "GB": 2.0}
    assert cost_of([]) == {}


def test_the_best_of_each_log_is_marked_and_the_first_row_has_the_cost() -> None:
    def measures(**values: float) -> dict[str, Ratio]:
        return {name: Ratio(np.array([value, value]), np.ones(2)) for name, value in values.items()}

    lists = {
        "final": measures(a=0.5, b=0.1),
        "recall": measures(a=0.25, b=0.1, c=0.9),
        "other": measures(a=0.5, b=0),
    }
    rows = rows_of("log", lists, {"minutes": 3.0})
    assert [row[LINE] for row in rows] == ["log: final", "log: recall", "log: other"]
    assert [row.get("minutes") for row in rows] == [3.0, None, None]
    stars = {
        (row[LINE], name)
        for row in rows
        for name, value in row.items()
        if isinstance(value, Figure) and value.best
    }
    best = [("final", "a"), ("other", "a"), ("final", "b"), ("recall", "b")]
    assert stars == {(f"log: {name}", measure) for name, measure in best}


def test_a_figure_is_a_number_and_shows_its_error() -> None:
    figure = Figure(0.1173, 0.01234, True)
    assert (figure, f"{figure:.4g}", f"{Figure(0.5, 0.25, False)}") == (
        0.1173,
        ".1173±.0123*",
        ".5000±.2500 ",
    )
    assert pd.DataFrame([{"x": figure}])["x"].dtype == np.float64


# 200 users watch 4 of the 6 items of their own parity; item 13 and user 201 have no watch.
EVENTS = [
    (user, hour, 2 * ((user // 2 + hour) % 6) + 2 - user % 2)
    for user in range(1, 201)
    for hour in range(4)
]
PADDING, COUNT, AS_OF = 201, 202, 50


def histories(events: list[tuple[int, int, int]]) -> Any:
    users, timestamps_us, items = np.array(sorted(events)).T
    return histories_of(users, items, timestamps_us, COUNT)


@pytest.mark.parametrize("model", implicit_peer.MODELS)
def test_a_peer_offers_even_items_to_even_users_and_nothing_seen(model: str) -> None:
    pytest.importorskip("implicit")
    # Item 13 is clicked by half the odd users, but watched to the end by nobody.
    users, clicks = (
        np.arange(1, COUNT, dtype=np.int32),
        [(2, 5, 7), *((user, 5, 13) for user in range(1, 101, 2))],
    )
    seen = histories([*EVENTS, *clicks])
    # A hundred factors would learn by heart that nobody has watched what is not watched yet.
    found = implicit_peer.lists_of(
        model, LogBefore(histories(EVENTS), seen, 14, AS_OF), users, 13, seed=0, factors=4
    )
    for user, items in zip(users, found.items, strict=True):
        mine, listed = (
            seen.items[seen.offsets[user] : seen.offsets[user + 1]].tolist(),
            items[items > 0].tolist(),
        )
        assert sorted([*listed, *mine]) == list(range(1, 14))
        assert listed[-1] == 13 or 13 in mine
    own = found.items[:-1, 0] % 2 == users[:-1] % 2
    assert own.mean() > 0.95
    counts = np.bincount([item for _, _, item in EVENTS], minlength=14)
    assert found.items[-1].tolist() == sorted(range(1, 14), key=lambda item: (-counts[item], -item))


@pytest.mark.parametrize("model", implicit_peer.MODELS)
def test_a_peer_knows_nothing_of_later(model: str) -> None:
    pytest.importorskip("implicit")
    late = [(1, AS_OF, 2), (2, AS_OF + 1, 1), (PADDING, AS_OF, 3)]
    users = np.array([1, 2, PADDING], np.int32)
    before, after = (
        implicit_peer.lists_of(model, LogBefore(watches, watches, 14, AS_OF), users, 13, seed=0)
        for watches in (histories(EVENTS), histories(EVENTS + late))
    )
    np.testing.assert_array_equal(before.items, after.items)


def test_without_implicit_its_rows_are_left_out_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(implicit_peer, "is_there", lambda: False)
    with pytest.raises(InputError, match="no log to measure on"):
        logs.main(["--only", "--data-folder", str(tmp_path)])
    assert (
        "ALS and BPR are left out: the package implicit is not installed" in capsys.readouterr().out
    )
    assert logs._peers(None, 0) == {}  # type: ignore[arg-type]


def test_a_log_whose_files_are_absent_is_left_out_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="no log to measure on"):
        logs.main(["--only", "globo", "ml-1m", "--data-folder", str(tmp_path)])
    said = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "left out" in line and "ALS" not in line
    ]
    assert said == [
        f"{name} is left out: {tmp_path / name}: there is no such folder."
        for name in ("globo", "ml-1m")
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "split.mode=none"], "holds nothing out"),
        (["--set", "recall.kk=3"], "recall.k"),
        (["--folders", "a/globo"], "another log named globo"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(options: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        logs.main(["--only", "globo", *options])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    sizes = {
        "users": 60,
        "users_a_day": 5,
        "items": 80,
        "items_a_day": 10,
        "days": 3,
        "impressions_a_day": 900,
    }
    write(*simulate(WorldConfig(**sizes, topics=8, favourite_topics=2)), folder)
    return folder


def test_the_lists_of_a_run_are_evaluated_beside_their_rivals(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes of their own would each load TensorFlow.
    monkeypatch.setattr(logs, "in_own_process", lambda function, *arguments: function(*arguments))
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    asked = [
        "--only",
        "--folders",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--tracking",
        address,
        *SETTINGS,
    ]
    rows = logs.main(asked)
    peers = list(implicit_peer.MODELS) if implicit_peer.is_there() else []
    lists = ["final", "recall's order", "popularity", "item-kNN", "EASE", *peers]
    assert [row[LINE] for row in rows] == [f"{data.name}: {name}" for name in lists]
    assert rows[0]["minutes"] > 0
    assert rows[0]["GB"] > 0.1

    report = json.loads((tmp_path / "out" / data.name / "seed_0" / "report.json").read_text())
    keys = {"HR": "hr", "NDCG": "ndcg", "seconds": "watch_seconds_share"}
    for row, suffix in zip(
        rows, ("", ".recall", ".popularity", ".item_knn", ".ease"), strict=False
    ):
        for name, value in row.items():
            if isinstance(value, Figure) and not name.startswith("candidates"):
                measure, k = name.split("@")
                assert value == pytest.approx(report[f"funnel.{keys[measure]}@{k}{suffix}"])
                assert 0 < value.error < 0.2
    # There are 60 candidates: the whole list.
    assert rows[1]["candidates' HR@200"] == pytest.approx(report["recall.hr@50"], abs=0.2)
    assert rows[1]["candidates' HR@200"] >= rows[1]["HR@50"]

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("benchmarks")
    assert experiment is not None
    kept = {
        run.info.run_name: run.data.metrics
        for run in client.search_runs([experiment.experiment_id])
    }
    assert kept["lists on every log"][f"{data.name}: final.HR_at_10"] == rows[0]["HR@10"]
    assert (
        kept["lists on every log, standard errors"][f"{data.name}: final.HR_at_10"]
        == rows[0]["HR@10"].error
    )

    again = logs.main(asked)
    assert [{**row, "minutes": 0, "GB": 0} for row in again] == [
        {**row, "minutes": 0, "GB": 0} for row in rows
    ]
    assert "minutes" not in again[0]
