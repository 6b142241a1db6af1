"""Cleaning rules: off by default, exact at their bounds, each with its own count."""

from datetime import UTC, datetime, timedelta

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from features.config import CleaningConfig
from features.data.clean import COMPLETED, clean, with_completed
from features.errors import InputError
from features.tables import Tables

START = datetime(2024, 5, 1, tzinfo=UTC)
Row = tuple[object, object, float, bool, float | None]

# user, item, hours after the start, clicked, seconds
ROWS: list[Row] = [
    (1, "a", 0.0, True, 4.0),
    (1, "b", 1.0, False, 2.0),
    (1, "c", 24.0, True, None),
    (2, "a", 47.0, True, 30.0),
    (3, "b", 48.0, True, 5.0),
    (3, "a", 49.0, True, 3.0),
    (3, "c", 72.0, True, 9.0),
]


def log(rows: list[Row] = ROWS) -> ir.Table:
    users, items, hours, clicked, seconds = (list(column) for column in zip(*rows, strict=True))
    return ibis.memtable(
        pa.table(
            {
                "user_id": users,
                "item_id": items,
                "timestamp": pa.array(
                    [START + timedelta(hours=float(str(hour))) for hour in hours],
                    pa.timestamp("us", "UTC"),
                ),
                "clicked": pa.array(clicked, pa.bool_()),
                "watch_seconds": pa.array(seconds, pa.float64()),
            }
        )
    )


def items() -> ir.Table:
    published = pa.array([START, START + timedelta(hours=48)], pa.timestamp("us", "UTC"))
    lengths = pa.array([8.0, None], pa.float64())
    return ibis.memtable(
        pa.table({"item_id": ["a", "b"], "published_at": published, "duration_seconds": lengths})
    )


def cleaned(
    config: CleaningConfig, tables: Tables | None = None
) -> tuple[list[tuple[object, object]], dict[str, int]]:
    result, dropped = clean(tables or Tables(log(), items()), config)
    left = result.interactions.select("user_id", "item_id").to_pyarrow().to_pylist()
    return sorted((row["user_id"], row["item_id"]) for row in left), dropped


def test_nothing_is_dropped_by_default() -> None:
    assert cleaned(CleaningConfig()) == (sorted((user, item) for user, item, *_ in ROWS), {})


def test_the_last_days_are_counted_from_the_last_row() -> None:
    left, dropped = cleaned(CleaningConfig(last_days=1.0))
    assert (left, dropped) == ([(3, "a"), (3, "c")], {"last_days": 5})


def test_items_outside_the_catalogue_are_dropped() -> None:
    left, dropped = cleaned(CleaningConfig(known_items_only=True))
    assert left == [(1, "a"), (1, "b"), (2, "a"), (3, "a"), (3, "b")]
    assert dropped == {"known_items_only": 2}


def test_an_exposure_before_publication_is_dropped_and_an_unknown_day_is_not() -> None:
    left, dropped = cleaned(CleaningConfig(no_exposure_before_publication=True))
    assert left == [(1, "a"), (1, "c"), (2, "a"), (3, "a"), (3, "b"), (3, "c")]
    assert dropped == {"no_exposure_before_publication": 1}


def test_a_watch_below_the_minimum_is_no_click_and_unknown_seconds_are() -> None:
    result, dropped = clean(Tables(log()), CleaningConfig(min_watch_seconds=4.0))
    clicks = [
        row["clicked"] for row in result.interactions.order_by("timestamp").to_pyarrow().to_pylist()
    ]
    assert clicks == [True, False, True, True, True, False, True]
    assert dropped == {"min_watch_seconds": 1}


def test_histories_are_counted_in_watches() -> None:
    assert cleaned(CleaningConfig(min_history=2))[1] == {"min_history": 1}
    left, dropped = cleaned(CleaningConfig(min_history=2, max_history=2))
    assert left == [(1, "a"), (1, "b"), (1, "c")]
    assert dropped == {"min_history": 1, "max_history": 3}


def test_a_watch_taken_back_no_longer_counts_towards_the_history() -> None:
    left, dropped = cleaned(CleaningConfig(min_watch_seconds=5.0, min_history=2))
    assert left == [(3, "a"), (3, "b"), (3, "c")]
    assert dropped == {"min_watch_seconds": 2, "min_history": 4}


def test_a_sample_takes_the_same_users_in_every_table_and_another_seed_takes_others() -> None:
    people: list[Row] = [(user, "a", 0.0, True, 1.0) for user in range(50)]
    users = ibis.memtable({"user_id": list(range(60))})
    samples = []
    for rows in (people, people[::-1]):
        result, dropped = clean(Tables(log(rows), users=users), CleaningConfig(sample_users=10))
        assert result.users is not None
        drawn = sorted(result.interactions.execute()["user_id"])
        assert drawn == sorted(result.users.execute()["user_id"])
        assert dropped == {"sample_users": 40}
        samples.append(drawn)
    assert samples[0] == samples[1]
    other = clean(Tables(log(people)), CleaningConfig(sample_users=10, seed=1))[0].interactions
    assert sorted(other.execute()["user_id"]) != samples[0]


@pytest.mark.parametrize("rule", ["known_items_only", "no_exposure_before_publication"])
def test_a_rule_without_its_table_is_refused(rule: str) -> None:
    with pytest.raises(InputError, match=rf"cleaning\.{rule} needs an items table"):
        clean(Tables(log()), CleaningConfig.model_validate({rule: True}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"last_day": 3},
        {"last_days": 0},
        {"min_history": 3, "max_history": 2},
        {"max_rejected_share": 2},
    ],
)
def test_a_configuration_that_cannot_be_meant_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CleaningConfig.model_validate(wrong)


def test_completed_needs_ten_seconds_or_half_the_duration() -> None:
    rows: list[Row] = [
        (1, "a", 0.0, True, 4.0),
        (1, "a", 1.0, True, 3.9),
        (1, "b", 2.0, True, 10.0),
        (1, "b", 3.0, True, 9.9),
        (1, "c", 4.0, True, 9.9),
        (1, "c", 5.0, True, None),
        (1, "a", 6.0, False, 60.0),
        (1, "a", 7.0, False, None),
    ]
    marked = with_completed(Tables(log(rows), items()), CleaningConfig()).order_by("timestamp")
    assert list(marked.execute()[COMPLETED]) == [
        True,
        False,
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    assert set(marked.columns) == {*log().columns, COMPLETED}


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_every_user_left_has_a_history_within_the_bounds(
    shown: list[tuple[int, bool]], least: int, more: int
) -> None:
    rows: list[Row] = [
        (user, "a", float(hour), clicked, 1.0) for hour, (user, clicked) in enumerate(shown)
    ]
    watches = {user: sum(clicked for other, clicked in shown if other == user) for user, _ in shown}
    result, dropped = clean(
        Tables(log(rows)), CleaningConfig(min_history=least, max_history=least + more)
    )
    within = [user for user, _ in shown if least <= watches[user] <= least + more]
    assert sorted(result.interactions.execute()["user_id"]) == sorted(within)
    assert sum(dropped.values()) == len(shown) - len(within)
