"""The leakage check refuses features that look ahead, names them, and lets honest ones pass."""

from dataclasses import replace

import numpy as np
import pytest

from features.asof_catalogue import CATALOGUE, AsOfFeature, clicks_last_day
from features.asof_counts import Events
from features.asof_features import AsOfFeatures
from features.asof_log import AsOfLog
from features.errors import InputError
from features.schema import HOUR
from features.side_features import SideFeatures
from ranking.examples import Exposures
from ranking.leakage_check import check_leakage

ROWS = 400


def world(seed=0, rows=ROWS, as_of=200):
    rng = np.random.default_rng(seed)
    clicked = rng.random(rows) < 0.4
    users, items = (
        rng.integers(1, 6, rows).astype(np.int32),
        rng.integers(1, 9, rows).astype(np.int32),
    )
    timestamps_us = np.sort(rng.integers(0, as_of, rows)) * HOUR
    events = Events(
        users, items, timestamps_us, clicked, np.where(clicked, rng.exponential(30, rows), 0.0)
    )
    side = SideFeatures(
        {"channel_id": rng.integers(0, 4, 9).astype(np.int32)},
        {"channel_id": 4},
        {"duration_seconds": rng.random(9)},
    )
    contexts = {"device": rng.integers(0, 3, rows).astype(np.int32)}
    features = AsOfFeatures(
        AsOfLog(events, SideFeatures({}, {}, {}), side, timed=True, contexts=contexts)
    )
    recall = {"recall_score": rng.normal(size=rows)}
    return features, Exposures(
        users, items, timestamps_us, recall, contexts, np.ones(rows, np.int32)
    )


def planted(features, formula):
    """The features with one more in the catalogue, which a careless hand added."""
    return replace(
        features,
        catalogue=(*CATALOGUE, AsOfFeature("item_trend", "item", "item", "count", "own", formula)),
    )


def all_clicks(by):
    """Clicks of the item in the whole log: the future's are among them."""
    events = by.rows.log.events
    return np.bincount(events.items[events.clicked], minlength=9)[by.rows.items].astype(float)


def own_click(by):
    """Whether the row itself was clicked: the same instant is not the past."""
    rows, events = by.rows, by.rows.log.events
    key = dict(
        zip(
            zip(events.users, events.items, events.timestamps_us, strict=True),
            events.clicked,
            strict=True,
        )
    )
    asked = zip(rows.users, rows.items, rows.timestamps_us, strict=True)
    return np.array([float(key.get(one, False)) for one in asked])


@pytest.mark.parametrize("seed", range(5))
def test_the_products_features_pass(seed):
    check_leakage(*world(seed), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_a_feature_from_the_future_is_refused_by_name(seed):
    features, exposures = world(seed)
    with pytest.raises(InputError, match="item_trend changed"):
        check_leakage(planted(features, all_clicks), exposures, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("rows", "as_of", "excerpt"), [(400, 200, 400), (20_000, 10**7, 10**5), (9_000, 10**7, 2_000)]
)
def test_the_rows_own_label_is_the_future(seed, rows, as_of, excerpt, monkeypatch):
    """However many rows there are, and though hardly two of them are of one instant."""
    monkeypatch.setattr("ranking.leakage_check.EXCERPT", excerpt)
    features, exposures = world(seed, rows, as_of)
    check_leakage(features, exposures, np.random.default_rng(seed))
    with pytest.raises(InputError, match="item_trend changed"):
        check_leakage(planted(features, own_click), exposures, np.random.default_rng(seed))


def test_an_honest_addition_passes_and_no_rows_need_no_check():
    features, exposures = world()
    check_leakage(planted(features, clicks_last_day), exposures, np.random.default_rng(0))
    none = np.zeros(0, np.int32)
    check_leakage(
        features, Exposures(none, none, np.zeros(0, np.int64), {}), np.random.default_rng(0)
    )
