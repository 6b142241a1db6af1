"""Sound cells of a worthless table: what cannot be right is refused before anything is trained."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from features.config import CleaningConfig
from features.data.ingest import in_words, ingest
from features.errors import InputError

NOW = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    return place


def log(
    place: Path, *lines: str, header: str = "user_id,item_id,timestamp,clicked,watch_seconds"
) -> Path:
    (place / "interactions.csv").write_text("\n".join([header, *lines]) + "\n")
    return place


def rows(count: int, seconds: float = 30, clicked: int = 1) -> list[str]:
    return [f"{n % 9},{n % 7},2024-05-01T00:{n:02}:00Z,{clicked},{seconds}" for n in range(count)]


def refusal(data: Path, out: Path, config: CleaningConfig | None = None) -> str:
    with pytest.raises(InputError) as caught:
        ingest("canonical", data, out, config or CleaningConfig(), NOW)
    assert list(out.iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "examples"),
    [
        ("items", "item_id,language\n000001,fr\n", "`0` in the log, `000001` in the table"),
        ("users", "user_id,country\n77,fr\n", "`0` in the log, `77` in the table"),
        ("searches", "user_id,timestamp,query\n77,2024-05-01,a\n", "`77` in the table"),
    ],
)
def test_a_side_table_that_matches_nothing_is_refused_with_both_examples(
    tmp_path: Path, out: Path, name: str, text: str, examples: str
) -> None:
    (log(tmp_path, *rows(20)) / f"{name}.csv").write_text(text)
    sentence = refusal(tmp_path, out)
    assert sentence.startswith(f"table {name}: no {text.split(',')[0]} of it is in the log (")
    assert examples in sentence


def test_a_side_table_that_matches_little_is_told(tmp_path: Path, out: Path) -> None:
    (log(tmp_path, *rows(14)) / "items.csv").write_text("item_id,language\n0,fr\n99,de\n")
    summary = ingest("canonical", tmp_path, out, CleaningConfig(), NOW)
    assert summary["matched"] == {"items": pytest.approx(1 / 7)}
    assert "items describes 14% of the rows (`1` in the log, `99` in the table)" in in_words(
        summary
    )


def items_of(place: Path, duration: float) -> None:
    lines = "".join(f"{n},{duration}\n" for n in range(7))
    (place / "items.csv").write_text(f"item_id,duration_seconds\n{lines}")


def test_seconds_that_are_hundreds_of_durations_are_refused(tmp_path: Path, out: Path) -> None:
    items_of(log(tmp_path, *rows(20, seconds=12_000)), 20)
    sentence = refusal(tmp_path, out)
    assert "half of the clicks last 600 durations of their item" in sentence
    assert "divide the column by 1000" in sentence
    capped = CleaningConfig(max_watch_seconds=60)
    assert ingest("canonical", tmp_path, out, capped, NOW)["mean_seconds"] == 60


def test_seconds_that_are_thousandths_of_durations_are_told(tmp_path: Path, out: Path) -> None:
    items_of(log(tmp_path, *rows(20)), 30_000)
    assert "are durations in seconds?" in in_words(
        ingest("canonical", tmp_path, out, CleaningConfig(), NOW)
    )


def test_a_log_without_a_click_is_refused_at_once(tmp_path: Path, out: Path) -> None:
    assert "none of 20 rows is a click" in refusal(log(tmp_path, *rows(20, clicked=0)), out)


def test_a_log_without_a_completed_watch_is_refused_with_the_longest(
    tmp_path: Path, out: Path
) -> None:
    sentence = refusal(log(tmp_path, *rows(20, seconds=2.5)), out)
    assert "none of 20 clicks is a completed watch, the longest lasts 2.5 s" in sentence
    lower = CleaningConfig(completed_seconds=2)
    assert ingest("canonical", tmp_path, out, lower, NOW)["completed_share"] == 1


def test_repeats_are_told(tmp_path: Path, out: Path) -> None:
    again = [f"1,7,2024-05-01T00:{n:02}:00Z,1,30" for n in range(4)]
    summary = ingest("canonical", log(tmp_path, *again), out, CleaningConfig(), NOW)
    assert summary["repeat_share"] == 0.75
    assert "75% of the clicks are repeats" in in_words(summary)


def test_rows_without_a_user_are_set_aside_and_not_held_against_a_log(
    tmp_path: Path, out: Path
) -> None:
    visitors = [f",{n},2024-05-01T00:{n:02}:00Z,1,30" for n in range(20)]
    summary = ingest("canonical", log(tmp_path, *rows(20), *visitors), out, CleaningConfig(), NOW)
    assert summary["rows"] == 20
    assert "(user_id is null: 20)" in in_words(summary)


def test_a_log_mostly_without_users_is_refused(tmp_path: Path, out: Path) -> None:
    visitors = [f",{n},2024-05-01T00:{n:02}:00Z,1,30" for n in range(30)]
    assert "30 of 50 rows are at fault" in refusal(log(tmp_path, *rows(20), *visitors), out)


def test_rows_of_a_clock_that_stood_are_set_aside(tmp_path: Path, out: Path) -> None:
    many = [f"{n % 9},{n},2024-05-{1 + n % 20:02},1,30" for n in range(200)]
    summary = ingest(
        "canonical", log(tmp_path, *many, "1,3,2000-01-01,1,30"), out, CleaningConfig(), NOW
    )
    assert summary["first_timestamp"].startswith("2024-05-01")
    assert summary["rejected"] == {"interactions": {"timestamp lies years from all others": 1}}


def test_too_many_rows_of_clocks_that_stood_are_refused(tmp_path: Path, out: Path) -> None:
    many = [f"{n % 9},{n},2024-05-{1 + n % 20:02},1,30" for n in range(200)]
    old = [f"1,{n},2000-01-01,1,30" for n in range(5)]
    assert "holds '2000-01-01 00:00:00+00' (timestamp lies years from all others)" in refusal(
        log(tmp_path, *many, *old), out
    )


def test_the_long_tail_of_a_log_that_grew_for_years_is_kept(tmp_path: Path, out: Path) -> None:
    ages = [int(2 ** (n / 20)) for n in range(240)]
    grown = [f"{n},7,{(NOW.timestamp() - 86_400 * age):.0f},1,30" for n, age in enumerate(ages)]
    summary = ingest("canonical", log(tmp_path, *grown), out, CleaningConfig(), NOW)
    assert (summary["rows"], summary["first_timestamp"][:4]) == (240, "2013")


def test_publications_in_milliseconds_are_told_to_be_divided(tmp_path: Path, out: Path) -> None:
    (log(tmp_path, *rows(20)) / "items.csv").write_text("item_id,published_at\n1,1714550400000\n")
    sentence = refusal(tmp_path, out)
    assert "column published_at: row 1 holds '1714550400000'" in sentence
    assert sentence.endswith("divide the column by 1000")


def test_a_sitting_of_days_is_told_to_be_capped_or_divided(tmp_path: Path, out: Path) -> None:
    data = log(tmp_path, *rows(20, seconds=400_000))
    assert "if they add up many sittings cap them with cleaning.max_watch_seconds" in refusal(
        data, out
    )
    summary = ingest("canonical", data, out, CleaningConfig(max_watch_seconds=7_200), NOW)
    assert (summary["dropped"], summary["mean_seconds"]) == ({"max_watch_seconds": 20}, 7_200)
