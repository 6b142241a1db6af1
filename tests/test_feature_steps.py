"""What a cut says before hours are spent on it: repeats, sessions for users, nothing to learn
from.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from features.split_log import SplitFacts
from funnel.config import FunnelConfig
from funnel.context import StepContext
from funnel.steps.features_steps import advice_on, write_split
from recall.config import GENERATORS

START = datetime(2024, 5, 1, tzinfo=UTC)


def cut(place: Path, completed: list[bool], users: list[int] | None = None) -> list[str]:
    """What is told when a log of one row an hour is cut."""
    hours = [START + timedelta(hours=n) for n in range(len(completed))]
    rows = {
        "user_id": users or [1] * len(completed),
        "item_id": [7] * len(completed),
        "timestamp": pa.array(hours, pa.timestamp("us", "UTC")),
        "clicked": completed,
        "completed": completed,
    }
    pq.write_table(pa.table(rows), place / "interactions.parquet")
    told: list[str] = []
    write_split(
        StepContext(
            FunnelConfig(),
            "canonical",
            place,
            {"interactions": place},
            place,
            place / "scratch",
            told.append,
        )
    )
    return told


def test_rewatching_is_proposed_where_most_watches_to_be_found_are_repeats(tmp_path: Path) -> None:
    (sentence,) = cut(tmp_path, [True] * 100)
    assert "100% are repeats" in sentence
    assert sentence.endswith(f"recall.generators={','.join(GENERATORS)},rewatch")
    assert (tmp_path / "split.json").exists()


def test_sessions_for_users_are_told_with_what_to_do(tmp_path: Path) -> None:
    (sentence,) = cut(tmp_path, [True] * 400, list(range(400)))
    assert "100% of their 64 users have no watch before" in sentence
    assert sentence.endswith("split.mode=last")


def test_a_cut_without_a_watch_before_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No completed watch lies before split\.label_start"):
        cut(tmp_path, [False] * 95 + [True] * 5)
    assert not (tmp_path / "split.json").exists()


def test_nothing_is_told_of_few_repeats_or_of_those_that_are_asked_for() -> None:
    assert advice_on(SplitFacts(9, 100, 0.49, 100, 0.89), GENERATORS) == []
    assert advice_on(SplitFacts(9, 100, 0.9, 100, 0.1), [*GENERATORS, "rewatch"]) == []
    assert advice_on(SplitFacts(9, 19, 0.1, 19, 1.0), GENERATORS) == []
