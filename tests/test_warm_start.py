"""Going on from an earlier run: its towers are taken up where this run may know them, else refused in a sentence."""

import numpy as np
import pyarrow as pa
import pytest

from features.errors import Refused
from features.histories import histories_of, samples_of
from features.profiles import Side
from features.vocabulary import Vocabulary
from features.windows import Windows
from recall.config import RecallConfig
from recall.inputs import Readings
from recall.shapes import Knowledge
from recall.training import Course, roll

WINDOWS = Windows(mode="time", clock="time", start=0, history_end=800, labels_end=900, holdout_end=1000)
CONFIG = RecallConfig(
    dim=4, depth=1, width=8, recency_windows=(1,), history=3, epochs=2, refresh_epochs=2, blocks=1, negatives=8
)


def course_of(previous=(), later=0, config=CONFIG, windows=WINDOWS, first_id=1):
    """40 users, 31 items, 16 watches each; `later` shifts the windows' instants."""
    rng = np.random.default_rng(0)
    users, instants = np.repeat(np.arange(1, 41), 16), np.sort(rng.integers(1, 1200, (40, 16))).ravel()
    # A new item appears every 40: item i is there from 40 (i - 1) on.
    watches = histories_of(users, rng.integers(1, instants // 40 + 2), instants, 41)
    items = Vocabulary(pa.array(np.arange(first_id, first_id + 31)), np.arange(31) * 40)
    knowledge = Knowledge(Readings(watches, None, Side({}, {}, {})), items, None, Side({}, {}, {}), True)
    moved = {name: getattr(windows, name) + later for name in ("history_end", "labels_end", "holdout_end")}
    windows = windows.model_copy(update=moved)
    return Course(knowledge, samples_of(watches), windows, config, 3, previous=previous)


def same(first, second):
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.fixture(scope="module")
def earlier_run():
    return roll(course_of())


@pytest.fixture(scope="module")
def grown(earlier_run):
    return roll(course_of(previous=earlier_run[0], later=200))


def test_an_earlier_runs_tower_is_gone_on_from_with_a_grown_vocabulary(earlier_run, grown):
    """A refresh of the log: the newest tower that this run may know is trained on with what came after it."""
    earlier, cold = earlier_run[0], roll(course_of(later=200))[0]
    assert grown[0][0].shape.items == cold[0].shape.items > earlier[1].shape.items
    examples = [row["examples"] for row in grown[1] if row["tower"] == 0]
    assert 0 < max(examples) < sum(course_of().knowledge.readings.histories.instants < earlier[1].shape.as_of)
    assert not same(grown[0][0], cold[0])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"config": CONFIG.model_copy(update={"dim": 5})}, "dim"),
        ({"config": CONFIG.model_copy(update={"metric": "dot"})}, "metric"),
        ({"first_id": 2}, "items"),
        ({"later": -700}, "no tower there was finished"),
        ({"windows": WINDOWS.model_copy(update={"clock": "order", "mode": "last"})}, "clock of time"),
    ],
)
def test_towers_that_do_not_fit_this_run_are_refused_in_one_sentence(earlier_run, fault, said):
    with pytest.raises(Refused, match=said):
        roll(course_of(previous=earlier_run[0], **{"later": 200, **fault}))
