"""The leakage check refuses features that look ahead, names them, and lets honest ones pass."""

from dataclasses import replace

import numpy as np
import pytest

from features.asof_catalogue import CATALOGUE, AsOfFeature, clicks_last_day
from features.asof_counts import Events
from features.asof_features import AsOfFeatures
from features.asof_log import AsOfLog
from features.errors import InputError
from features.schema import HOUR, MINUTE
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
    events = Events.of(
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


def checked(features, exposures, seed, requests_us=None):
    """Run the check; each row is a request of its own where none are given."""
    requests_us = exposures.timestamps_us if requests_us is None else requests_us
    check_leakage(features, exposures, requests_us, np.random.default_rng(seed))


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
    features, exposures = world(seed)
    checked(features, exposures, seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_feature_from_the_future_is_refused_by_name(seed):
    features, exposures = world(seed)
    with pytest.raises(InputError, match="item_trend changed"):
        checked(planted(features, all_clicks), exposures, seed)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("rows", "as_of", "excerpt"), [(400, 200, 400), (20_000, 10**7, 10**5), (9_000, 10**7, 2_000)]
)
def test_the_rows_own_label_is_the_future(seed, rows, as_of, excerpt, monkeypatch):
    """However many rows there are, and though hardly two of them are of one instant."""
    monkeypatch.setattr("ranking.leakage_check.EXCERPT", excerpt)
    features, exposures = world(seed, rows, as_of)
    checked(features, exposures, seed)
    with pytest.raises(InputError, match="item_trend changed"):
        checked(planted(features, own_click), exposures, seed)


def test_an_honest_addition_passes_and_no_rows_need_no_check():
    features, exposures = world()
    checked(planted(features, clicks_last_day), exposures, 0)
    none = np.zeros(0, np.int32)
    checked(features, Exposures(none, none, np.zeros(0, np.int64), {}), 0)


def paged(seed, slots=4, pages=60):
    """A log of pages of four slots, each a minute after the other, with its exposures as of their
    requests, and the requests.
    """
    rng = np.random.default_rng(seed)
    rows = slots * pages
    requests_us = np.repeat(np.arange(pages) * HOUR, slots)
    users = np.repeat(rng.integers(1, 6, pages), slots).astype(np.int32)
    items, clicked = rng.integers(1, 9, rows).astype(np.int32), rng.random(rows) < 0.4
    timestamps_us = requests_us + np.tile(np.arange(slots), pages) * MINUTE
    seconds = np.where(clicked, rng.exponential(60, rows), 0.0)
    events = Events.of(users, items, timestamps_us, clicked, seconds, requests_us)
    none = SideFeatures({}, {}, {})
    log = AsOfLog(events, none, none, timed=True)
    return AsOfFeatures(log), Exposures(users, items, requests_us, {}), requests_us, timestamps_us


@pytest.mark.parametrize("seed", range(5))
def test_rows_as_of_their_own_place_on_the_page_know_its_clicks_and_are_refused(seed):
    features, exposures, requests_us, timestamps_us = paged(seed)
    checked(features, exposures, seed, requests_us)
    with pytest.raises(InputError, match=r"user_shown.*the rest of the page"):
        checked(features, replace(exposures, timestamps_us=timestamps_us), seed, requests_us)


@pytest.mark.parametrize("seed", range(5))
def test_the_seconds_of_a_watch_that_still_runs_are_refused(seed):
    """Watches of about two hours, pages an hour apart: the click is known, its seconds are not."""
    features, exposures, requests_us, timestamps_us = paged(seed)
    events = features.log.events
    seconds = np.where(events.clicked, 7_000.0, 0.0)
    longer = Events.of(
        events.users, events.items, timestamps_us, events.clicked, seconds, requests_us
    )
    honest = replace(features, log=replace(features.log, events=longer))
    checked(honest, exposures, seed, requests_us)

    def clicked_seconds(by):
        """Seconds of the item's clicks before the row, whether their watches have ended or not."""
        log = by.rows.log.events
        before = log.timestamps_us[None, :] < by.rows.timestamps_us[:, None]
        same = log.items[None, :] == by.rows.items[:, None]
        return np.where(before & same, np.nan_to_num(log.seconds), 0.0).sum(axis=1)

    with pytest.raises(InputError, match="item_trend changed"):
        checked(planted(honest, clicked_seconds), exposures, seed, requests_us)
