"""Requests: rows of one id, or of one user close together, were asked for at the first of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.requests import requests_us
from features.schema import SECOND

USERS = np.array([1, 1, 1, 1, 2, 2], np.int32)
SECONDS = np.array([0, 3, 6, 100, 4, 5]) * SECOND
UNCODED = np.full(6, -1, np.int32)


def test_rows_of_one_id_were_asked_for_at_the_first_of_them_whatever_lies_between():
    codes = np.array([7, 8, 7, 7, 7, 7], np.int32)
    found = requests_us(USERS, SECONDS, codes, 0) / SECOND
    assert found.tolist() == [0, 3, 0, 0, 4, 4]


@pytest.mark.parametrize(
    ("within", "expected"),
    [(0, [0, 3, 6, 100, 4, 5]), (3, [0, 0, 6, 100, 4, 4]), (6, [0, 0, 0, 100, 4, 4])],
)
def test_without_an_id_rows_close_to_the_first_are_one_request(within, expected):
    found = requests_us(USERS, SECONDS, UNCODED, within * SECOND) / SECOND
    assert found.tolist() == expected


def test_rows_without_an_id_stand_beside_rows_with_one():
    codes = np.array([7, -1, 7, -1, -1, -1], np.int32)
    found = requests_us(USERS, SECONDS, codes, 2 * SECOND) / SECOND
    assert found.tolist() == [0, 3, 0, 100, 4, 4]


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 20), st.integers(-1, 2)),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 5),
)
def test_requests_are_those_of_a_plain_loop(rows, within):
    rows = sorted(rows, key=lambda row: row[:2])
    first, asked = {}, []
    run = (None, -np.inf)
    for user, at, code in rows:
        if code >= 0:
            asked.append(first.setdefault((user, code), at))
            continue
        if run[0] != user or at - run[1] > within:
            run = (user, at)
        asked.append(at if not within else run[1])
    users, at, codes = (np.array(values) for values in zip(*rows, strict=True))
    found = requests_us(users.astype(np.int32), at, codes.astype(np.int32), within)
    assert found.tolist() == asked
