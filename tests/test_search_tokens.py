"""Searches as tokens: unigrams and bigrams, in time order, numbered by first use."""

from datetime import UTC, datetime, timedelta

import ibis
import numpy as np
import pyarrow as pa

from features.search_tokens import token_histories
from features.vocabulary import Vocabulary

START = datetime(2024, 5, 1, tzinfo=UTC)
USERS = Vocabulary(pa.array([5, 4]), np.zeros(2, np.int64))


def searches_of(*rows: tuple[int, float, str]) -> ibis.Table:
    users, seconds, queries = map(list, zip(*rows, strict=True))
    as_of = pa.array(
        [START + timedelta(seconds=second) for second in seconds], pa.timestamp("us", "UTC")
    )
    return ibis.memtable(pa.table({"user_id": users, "timestamp": as_of, "query": queries}))


def tokens_of(*rows: tuple[int, float, str]) -> list[list[str]]:
    """Each user's tokens, oldest first; nobody's come first."""
    vocabulary, histories = token_histories(searches_of(*rows), USERS)
    per_user = np.split(histories.items, histories.offsets[1:-1])
    return [vocabulary.id_of(items).to_pylist() for items in per_user]


def test_a_query_is_its_words_and_its_neighbouring_pairs() -> None:
    assert tokens_of((5, 0, "red big Cat")) == [
        [],
        sorted(["red", "big", "cat", "red big", "big cat"]),
        [],
    ]


def test_a_query_is_lower_cased_and_split_at_what_is_no_letter_or_digit() -> None:
    words, pairs = ["ünder", "9", "the", "sea"], ["ünder 9", "9 the", "the sea"]
    assert tokens_of((5, 0, "  Ünder-9,the  sea!! ")) == [[], sorted(words + pairs), []]


def test_one_word_has_no_pair_and_a_query_without_letters_has_no_token() -> None:
    assert tokens_of((5, 0, "cat"), (5, 1, "?!"), (4, 2, "")) == [[], ["cat"], []]


def test_each_user_keeps_their_own_tokens_in_time_order() -> None:
    rows = ((5, 3, "late"), (4, 2, "other"), (5, 0.5, "early"), (5, 1.2, "middle"))
    assert tokens_of(*rows) == [[], ["early", "middle", "late"], ["other"]]


def test_the_searches_of_users_who_are_not_in_the_log_are_left_out() -> None:
    assert tokens_of((9, 0, "stranger"), (5, 1, "known")) == [[], ["known"], []]


def test_a_token_is_known_from_its_first_use_on_to_the_microsecond() -> None:
    vocabulary, histories = token_histories(
        searches_of((5, 7.25, "b"), (4, 0.7, "a"), (4, 9, "b")), USERS
    )
    assert vocabulary.ids.to_pylist() == ["a", "b"]
    timestamps_us = [round((START.timestamp() + second) * 1_000_000) for second in (0.7, 7.25)]
    assert vocabulary.first_seen.tolist() == timestamps_us
    assert vocabulary.size_as_of(timestamps_us[1]) == 2
    assert histories.timestamps_us.dtype == np.int64


def test_later_searches_change_no_token_from_before() -> None:
    rows = ((5, 1.0, "old cat"), (4, 2.0, "new cat"))
    then, before = token_histories(searches_of(*rows), USERS)
    now, after = token_histories(
        searches_of(*rows, (5, 3.0, "aardvark old"), (4, 4.0, "cat")), USERS
    )
    assert now.ids.to_pylist()[: len(then.ids)] == then.ids.to_pylist()
    cut, users = round((START.timestamp() + 3) * 1_000_000), np.arange(3)
    bags = [h.bags(users, h.ends(users, cut), 9).tolist() for h in (before, after)]
    assert bags[0] == bags[1]
