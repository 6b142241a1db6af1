"""Histories stored once, and samples that are positions in them."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.histories import Histories, histories_of, samples_of

USERS = 5
WATCHES = st.lists(
    st.tuples(st.integers(1, USERS - 1), st.integers(0, 8), st.integers(1, 9)), max_size=40
)
Watch = tuple[int, int, int]


def built(watches: list[Watch]) -> Histories:
    """Histories of (user, instant, item); the order of equal instants is that given."""
    rows = sorted(watches, key=lambda watch: watch[:2])
    users, timestamps_us, items = np.array(rows, np.int64).reshape(-1, 3).T
    return histories_of(users, items, timestamps_us, USERS)


def before(watches: list[Watch], user: int, timestamp_us: int) -> list[int]:
    """Brute force: items of a user strictly before an instant, oldest first."""
    own = sorted(
        (w for w in watches if w[0] == user and w[1] < timestamp_us), key=lambda watch: watch[1]
    )
    return [item for _, _, item in own]


@given(WATCHES, st.integers(1, USERS - 1), st.integers(-1, 10), st.integers(1, 6))
def test_a_bag_is_the_newest_watches_strictly_before(
    watches: list[Watch], user: int, timestamp_us: int, length: int
) -> None:
    histories = built(watches)
    ends = histories.ends(np.array([user]), timestamp_us)
    newest = before(watches, user, timestamp_us)[::-1][:length]
    assert histories.bags(np.array([user]), ends, length).tolist() == [
        newest + [0] * (length - len(newest))
    ]


@given(WATCHES)
def test_the_history_of_a_sample_is_what_came_strictly_before_its_next_item(
    watches: list[Watch],
) -> None:
    histories = built(watches)
    ends = samples_of(histories)
    assert len(ends) == len(watches)
    for position, end in enumerate(ends):
        user, timestamp_us = int(histories.users[position]), int(histories.timestamps_us[position])
        history = histories.items[histories.offsets[user] : end].tolist()
        assert history == before(watches, user, timestamp_us)
        assert (histories.timestamps_us[histories.offsets[user] : end] < timestamp_us).all()


@given(WATCHES, WATCHES, st.integers(0, 8))
def test_later_watches_change_nothing_before(
    earlier: list[Watch], later: list[Watch], cut: int
) -> None:
    kept = [watch for watch in earlier if watch[1] < cut]
    grown = built(kept + [watch for watch in later if watch[1] >= cut])
    users = np.arange(USERS)
    bags = [h.bags(users, h.ends(users, cut), 50) for h in (built(kept), grown)]
    assert bags[0].tolist() == bags[1].tolist()


def test_nobody_has_no_history() -> None:
    histories = built([(1, 0, 3), (2, 1, 4)])
    assert histories.offsets[:2].tolist() == [0, 0]
    assert histories.bags(np.array([0]), histories.ends(np.array([0]), 99), 3).tolist() == [
        [0, 0, 0]
    ]


def test_a_users_bag_never_reaches_into_the_user_before() -> None:
    histories = built([(1, 0, 7), (1, 1, 8), (2, 5, 9)])
    assert histories.bags(np.array([2]), np.array([3]), 3).tolist() == [[9, 0, 0]]


def test_nobody_watched_anything_is_a_history_too() -> None:
    histories = built([])
    assert len(samples_of(histories)) == 0
    assert histories.bags(np.array([1, 2]), histories.ends(np.array([1, 2]), 3), 2).tolist() == [
        [0, 0],
        [0, 0],
    ]


@pytest.fixture(scope="module")
def a_million() -> Histories:
    rng = np.random.default_rng(0)
    users = np.sort(rng.integers(1, 2_000, 1_000_000)).astype(np.int32)
    histories = histories_of(
        users, rng.integers(1, 9_000, len(users)), np.arange(len(users)) // 3, 2_000
    )
    assert len(histories.users) == 1_000_000
    return histories


def test_samples_of_a_million_watches_are_eight_bytes_each_and_never_copy_a_history(
    a_million: Histories,
) -> None:
    """500 watches a user: rows that each carried their history would take gigabytes."""
    tracemalloc.start()
    ends = samples_of(a_million)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ends.nbytes == 8 * 1_000_000
    assert peak < 40 * 1_000_000


def test_a_million_watches_are_kept_in_twelve_bytes_each(a_million: Histories) -> None:
    assert a_million.items.nbytes + a_million.timestamps_us.nbytes == 12 * 1_000_000
    assert a_million.offsets.nbytes == 8 * 2_001


@given(WATCHES)
@settings(max_examples=10)
def test_histories_come_back_as_they_were_saved(
    tmp_path_factory: pytest.TempPathFactory, watches: list[Watch]
) -> None:
    place, histories = tmp_path_factory.mktemp("saved"), built(watches)
    histories.save(place / "deep" / "down")
    loaded = Histories.load(place / "deep" / "down")
    for name in ("offsets", "items", "timestamps_us"):
        assert getattr(loaded, name).tolist() == getattr(histories, name).tolist()
        assert getattr(loaded, name).dtype == getattr(histories, name).dtype


def test_a_pickled_array_is_not_opened(tmp_path: Path) -> None:
    built([(1, 0, 3)]).save(tmp_path)
    np.save(tmp_path / "items.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        Histories.load(tmp_path)
