"""The audit refuses features that look ahead, names them, and lets honest ones pass."""

import numpy as np
import pytest

from features.errors import Refused
from features.ledger import HOUR, Ledger
from features.sides import Side
from features.tallies import Events
from ranking.examples import Exposures, blocks_of
from ranking.leakage_check import check_leakage

ROWS = 400


def world(seed=0, rows=ROWS, moments=200):
    rng = np.random.default_rng(seed)
    clicked = rng.random(rows) < 0.4
    users, items = rng.integers(1, 6, rows).astype(np.int32), rng.integers(1, 9, rows).astype(np.int32)
    instants = np.sort(rng.integers(0, moments, rows)) * HOUR
    events = Events(users, items, instants, clicked, np.where(clicked, rng.exponential(30, rows), 0.0))
    side = Side(
        {"channel_id": rng.integers(0, 4, 9).astype(np.int32)}, {"channel_id": 4}, {"duration_seconds": rng.random(9)}
    )
    contexts = {"device": rng.integers(0, 3, rows).astype(np.int32)}
    ledger = Ledger(events, Side({}, {}, {}), side, timed=True, contexts=contexts, history=3)
    recall = {"recall_score": rng.normal(size=rows)}
    return ledger, Exposures(users, items, instants, recall, contexts, np.ones(rows, np.int32))


def planted(leak):
    """The product's own features and one that a careless hand added."""

    def features(ledger, exposures):
        blocks = blocks_of(ledger, exposures)
        return blocks | {"item": blocks["item"].with_numbers({"item_trend": leak(ledger, exposures)})}

    return features


def all_clicks(ledger, exposures):
    """Clicks of the item in the whole log: the future's are among them."""
    return np.bincount(ledger.events.items[ledger.events.clicked], minlength=9)[exposures.items].astype(float)


def own_click(ledger, exposures):
    """Whether the row itself was clicked: the same instant is not the past."""
    events = ledger.events
    key = dict(zip(zip(events.users, events.items, events.instants, strict=True), events.clicked, strict=True))
    asked = zip(exposures.users, exposures.items, exposures.instants, strict=True)
    return np.array([float(key.get(one, False)) for one in asked])


def clicks_until_now(ledger, exposures):
    return ledger.item_block(exposures.items, exposures.instants).numbers["item_clicks_last_day"]


@pytest.mark.parametrize("seed", range(5))
def test_the_products_features_pass(seed):
    check_leakage(*world(seed), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_a_feature_from_the_future_is_refused_by_name(seed):
    with pytest.raises(Refused, match="item_trend changed"):
        check_leakage(*world(seed), np.random.default_rng(seed), planted(all_clicks))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("rows", "moments", "excerpt"), [(400, 200, 400), (20_000, 10**7, 10**5), (9_000, 10**7, 2_000)]
)
def test_the_rows_own_label_is_the_future(seed, rows, moments, excerpt, monkeypatch):
    """However many rows there are, and though hardly two of them are of one instant."""
    monkeypatch.setattr("ranking.leakage_check.EXCERPT", excerpt)
    ledger, exposures = world(seed, rows, moments)
    check_leakage(ledger, exposures, np.random.default_rng(seed))
    with pytest.raises(Refused, match="item_trend changed"):
        check_leakage(ledger, exposures, np.random.default_rng(seed), planted(own_click))


def test_an_honest_addition_passes_and_no_rows_need_no_audit():
    ledger, exposures = world()
    check_leakage(ledger, exposures, np.random.default_rng(0), planted(clicks_until_now))
    none = np.zeros(0, np.int32)
    check_leakage(ledger, Exposures(none, none, np.zeros(0, np.int64), {}), np.random.default_rng(0))
