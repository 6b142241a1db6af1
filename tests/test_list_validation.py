"""How lists are ordered is chosen on lists, and the lists are evaluated as lists: planted logs and
slices of real ones.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from funnel.pipeline import context_of, request_for
from funnel.run import run_pipeline
from funnel.steps.list_validation import Validation, choice_text
from ranking.list_order import ListOrder

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[2] / "shared" / "data"
SMALL = (
    *(
        "recall.dim=8",
        "recall.depth=1",
        "recall.width=16",
        "recall.epochs=3",
        "recall.blocks=2",
        "recall.history=10",
    ),
    *(
        "recall.k=60",
        "ranking.top_k=20",
        "ranking.epochs=8",
        "ranking.hidden=[16]",
        "ranking.vocabulary_clicks=1",
    ),
)
USERS, ITEMS, SHOWN, DAYS = 600, 480, 50, 6


def planted(seed: int, feed: Callable[..., Any], behaviour: Callable[..., Any]) -> pd.DataFrame:
    """A log of SHOWN impressions of each user, a few minutes apart in visits over some days."""
    rng = np.random.default_rng(seed)
    items = np.stack([feed(rng, user) for user in range(USERS)])
    users = np.repeat(np.arange(USERS), SHOWN)
    days = np.sort(rng.random((USERS, SHOWN)) * DAYS, axis=1).ravel()
    clicked, seconds = behaviour(rng, users, items.ravel())
    return pd.DataFrame(
        {
            "user_id": users,
            "item_id": items.ravel(),
            "timestamp": pd.Timestamp("2026-01-05", tz="UTC") + pd.to_timedelta(days, unit="D"),
            "clicked": clicked,
            "watch_seconds": np.where(clicked, seconds, 0.0),
        }
    )


def trained(log: pd.DataFrame, folder: Path, *overrides: str) -> Validation:
    """A run on a log, and its validation window."""
    data, out = folder / "data", folder / "out"
    data.mkdir(parents=True)
    log.sort_values("timestamp").to_parquet(data / "interactions.parquet", index=False)
    run_pipeline("canonical", data, out, None, [*SMALL, *overrides], None)
    return validation_of("canonical", data, out, *overrides)


def validation_of(source: str, data: Path, out: Path, *overrides: str) -> Validation:
    request = request_for(source, str(data), str(out), "test", None, [*SMALL, *overrides])
    context = context_of("list_order", request, out)
    summary = json.loads((context.inputs["ranking_rows"] / "summary.json").read_text())
    return Validation(context, summary["validates"])


def chosen(validation: Validation) -> dict[str, Any]:
    report = json.loads((Path(validation.context.out) / "report.json").read_text())
    choice: dict[str, Any] = report["run"]["list_order"]
    return choice


def share_at_10(validation: Validation, order: ListOrder) -> float:
    return validation.shares(validation.ordered(order).items)["watch_seconds_share@10"]


# By pairs, rows that are often longer go before rows that are longer in the mean.
UNIFORM = ("recall.k=90", "ranking.pairwise=0")
GROUPS = 8
GROUP, LONG = np.arange(ITEMS) % GROUPS, np.arange(ITEMS) // GROUPS % 2 == 0


@pytest.fixture(scope="module")
def selective(tmp_path_factory: pytest.TempPathFactory) -> Validation:
    """A feed that shows short items to everybody, and long ones only to those who like their group:
    they watch long.
    """

    def feed(rng: np.random.Generator, user: int) -> Any:
        long = rng.permutation(np.flatnonzero(LONG & (user % GROUPS == GROUP)))[: SHOWN // 2]
        return rng.permutation(
            np.append(long, rng.permutation(np.flatnonzero(~LONG))[: SHOWN - len(long)])
        )

    def behaviour(rng: np.random.Generator, _: Any, items: Any) -> Any:
        return rng.random(len(items)) < 0.5, rng.exponential(np.where(LONG[items], 300, 30))

    return trained(planted(0, feed, behaviour), tmp_path_factory.mktemp("selective"))


def test_what_a_feed_shows_to_its_lovers_alone_is_not_offered_to_everybody(
    selective: Validation,
) -> None:
    """E[T | shown] of a long item is true and high; who was never shown one does not get one."""
    choice = chosen(selective)
    assert choice["order"]["chance_weight"] > 0
    best = share_at_10(selective, ListOrder.model_validate(choice["order"]))
    assert best > 1.5 * share_at_10(selective, ListOrder(chance_weight=0))
    assert choice["described"] in choice_text(choice)


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> Validation:
    """Everybody is shown any item alike: half are clicked often and left soon, half seldom and
    watched for long.
    """
    some = 100
    rate, mean = np.tile([0.9, 0.05], some // 2), np.tile([15.0, 900.0], some // 2)

    def feed(rng: np.random.Generator, _: int) -> Any:
        return rng.permutation(some)[:SHOWN]

    def behaviour(rng: np.random.Generator, _: Any, items: Any) -> Any:
        return rng.random(len(items)) < rate[items], mean[items] * rng.uniform(0.5, 1.5, len(items))

    return trained(planted(1, feed, behaviour), tmp_path_factory.mktemp("uniform"), *UNIFORM)


def test_where_everything_was_shown_alike_the_expected_seconds_order(uniform: Validation) -> None:
    """A long item is worth 45 s an impression, a short one 13.5 s; from lambda .5 on chance puts
    the short first.
    """
    choice = chosen(uniform)
    assert choice["order"]["seconds_weight"] == 1
    assert choice["order"]["chance_weight"] <= 0.25
    assert share_at_10(uniform, ListOrder.model_validate(choice["order"])) > 1.3 * share_at_10(
        uniform, ListOrder()
    )


def test_lists_of_the_validation_window_know_nothing_of_it(uniform: Validation) -> None:
    """Nothing seen before the window is listed, and what is evaluated was clicked inside it."""
    context, since = uniform.context, uniform.tower.shape.as_of
    log, lists = context.impressions, uniform.candidates
    seen = log.take(np.flatnonzero(log.clicked & (log.timestamps_us < since)))
    pairs = set(zip(seen.users.tolist(), seen.items.tolist(), strict=True))
    rows, columns = np.nonzero(lists.items)
    listed = zip(lists.users[rows].tolist(), lists.items[rows, columns].tolist(), strict=True)
    assert not pairs & set(listed)
    inside = log.clicked & (log.timestamps_us >= since) & np.isin(log.users, lists.users)
    inside &= log.timestamps_us < context.split.test_start
    assert len(uniform.clicks[0].items) == inside.sum()
    assert uniform.clicks[1].sum() == pytest.approx(log.seconds[inside].sum())


def test_the_measure_is_the_share_of_watch_seconds_a_reader_would_count(
    uniform: Validation,
) -> None:
    lists = uniform.ordered(ListOrder())
    clicks, seconds = uniform.clicks
    held = sum(
        seconds[at]
        for at, (row, item) in enumerate(zip(clicks.rows, clicks.items, strict=True))
        if item in lists.items[row, :10]
    )
    assert uniform.shares(lists.items)["watch_seconds_share@10"] == pytest.approx(
        held / seconds.sum()
    )


def test_a_lambda_that_is_given_is_not_chosen_and_how_many_take_part_is(
    uniform: Validation,
) -> None:
    config = uniform.context.config
    ranking = config.ranking.model_copy(update={"chance_weight": 0.0})
    given = replace(uniform.context, config=config.model_copy(update={"ranking": ranking}))
    choice = Validation(given, uniform.validates).choice()
    assert {trial["list"] for trial in choice["trials"]} == {
        f"seconds of the first {n}" for n in (20, 40, 68, 90)
    }
    assert choice["order"]["chance_weight"] == 0


def test_recalls_first_places_reordered_hold_at_their_end_what_recalls_order_holds(
    uniform: Validation,
) -> None:
    lists, recalls = (
        uniform.ordered(order).items for order in (ListOrder(depth=20), ListOrder(seconds_weight=0))
    )
    assert (np.sort(lists, axis=1) == np.sort(recalls, axis=1)).all()
    assert (lists != recalls).any()


REAL = {
    "kuairand": ("split.test_start=2022-04-16T16:00:00Z", "recall.k=200", "ranking.top_k=50"),
}


@pytest.mark.parametrize("name", REAL)
def test_lists_of_a_real_log_are_behind_neither_recalls_order_nor_popularity(
    name: str, tmp_path: Path
) -> None:
    """Impressions were evaluated well while lists ordered by their seconds held a fifth of what
    recall's order held.
    """
    if not (DATA / name).is_dir():
        pytest.skip(f"the real log {name} is not on this machine")
    run_pipeline(name, DATA / name, tmp_path, None, [*SMALL, *REAL[name]], None)
    report = json.loads((tmp_path / "report.json").read_text())
    margins = [
        each
        for each in report["run"]["verdict"]["margins"]
        if each["rival"] in ("recall", "popularity")
    ]
    assert {each["measure"] for each in margins} == {
        "watch_seconds_share@10",
        "watch_seconds_share@50",
    }
    for each in margins:
        assert each["ahead"] >= -each["standard_error"], each
