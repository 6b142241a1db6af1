"""word2vec on histories: items watched together lie together."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from features.histories import histories_of
from recall.pretraining import SPREAD, pretrained
from recall.tower import TowerSpec

USERS, ITEMS, WATCHES, UNTIL = 60, 24, 40, 500
SHAPE = TowerSpec(as_of=UNTIL, items=ITEMS, dim=8, hidden=(), recency_windows=(5,))


def two_tastes():
    """Until 500 user u watches only items of u's parity; later everybody watches anything. Item 1
    is never watched.
    """
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(1, USERS), WATCHES)
    timestamps_us = np.sort(rng.integers(0, 800, (USERS - 1, WATCHES)), axis=1).ravel()
    items = np.where(
        timestamps_us < UNTIL, 2 * rng.integers(1, ITEMS // 2, len(users)) + users % 2, 0
    )
    items = np.where(
        timestamps_us < UNTIL,
        np.where(items >= ITEMS, items - 2, items),
        rng.integers(2, ITEMS, len(users)),
    )
    return histories_of(users, items, timestamps_us, USERS)


@pytest.fixture(scope="module")
def rows():
    return pretrained(two_tastes(), SHAPE, 3)


def test_items_of_one_taste_are_closer_than_others(rows):
    centred = rows[2:] - rows[2:].mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    alike, parity = unit @ unit.T, np.arange(2, ITEMS) % 2
    same = (parity[:, None] == parity) & ~np.eye(len(parity), dtype=bool)
    others = parity[:, None] != parity
    assert alike[same].mean() > alike[others].mean() + 0.5
    assert (np.where(same, alike, -1).max(axis=1) > np.where(others, alike, -1).max(axis=1)).all()


def test_rows_are_as_wide_as_untrained_ones_and_nobody_is_zero(rows):
    assert rows.shape == (ITEMS, 8)
    assert rows.dtype == np.float32
    assert rows[2:].std() == pytest.approx(SPREAD, rel=0.01)
    assert not rows[0].any()
    assert rows[1].any()


def test_the_same_log_and_seed_give_the_same_rows_also_in_another_process(rows):
    """Python hashes strings otherwise in each process: nothing may depend on that."""
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_pretraining "
        "as t\n"
        "print(t.pretrained(t.two_tastes(), t.SHAPE, 3).tobytes().hex())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == rows.tobytes().hex()


def test_later_watches_change_nothing(rows):
    log = two_tastes()
    kept = log.timestamps_us < UNTIL
    before = histories_of(log.users[kept], log.items[kept], log.timestamps_us[kept], USERS)
    np.testing.assert_array_equal(pretrained(before, SHAPE, 3), rows)


def test_without_watches_before_the_instant_rows_are_random_and_nobody_is_zero():
    rows = pretrained(two_tastes(), SHAPE.model_copy(update={"as_of": 0}), 3)
    assert rows.shape == (ITEMS, 8)
    assert rows[1:].all()
    assert not rows[0].any()
