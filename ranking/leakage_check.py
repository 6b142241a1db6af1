"""The leakage check: no feature of a row may change when what its request could not know is struck
from the log.
"""

from dataclasses import replace

import numpy as np

from features.arrays import Int64, Intp
from features.asof_counts import Events
from features.asof_features import AsOfFeatures, Blocks
from features.errors import InputError
from ranking.examples import Exposures, blocks_of

# Rows made twice, half of them of the drawn requests; events of the excerpt, about; requests drawn
# at least, a few from each user where the log has few, and in so many rounds at most.
CHECKED, EXCERPT, REQUESTS, ROUNDS = 5_000, 100_000, 500, 10


def check_leakage(
    features: AsOfFeatures, exposures: Exposures, requests_us: Int64, rng: np.random.Generator
) -> None:
    """InputError where a feature of the catalogue reads what the request of its row, `requests_us`
    [n], could not know.

    Of random users one request each is drawn, and their clocks are set so that all of these come at
    one instant. The rows of these requests, and earlier ones, are made twice: from the whole
    excerpt, and from what a server knew strictly before the instant. So the check sees a leak of
    the future, of the row's own outcome, of its own page, and of the seconds of a watch that still
    runs. Recall's columns come with the exposures and are not made here: the incremental towers
    answer for them.
    """
    if not len(exposures):
        return
    excerpt = _excerpt(features, exposures, requests_us, rng)
    users = len(np.unique(excerpt[1].users))
    for _ in range(min(-(-REQUESTS // users), ROUNDS)):
        changed = _changed(*_at_one_instant(*excerpt, rng), rng)
        if changed:
            raise InputError(
                f"Ranking rows: {', '.join(changed)} changed when what the rows' requests could "
                "not know was struck from the log: later events, the rest of the page, the seconds "
                "of watches that still ran. A feature must be as of its request. Leave out the "
                "columns, or make them from earlier rows alone."
            )


def _excerpt(
    features: AsOfFeatures, exposures: Exposures, requests_us: Int64, rng: np.random.Generator
) -> tuple[AsOfFeatures, Exposures, Int64]:
    """The events, the exposures and their requests, of random users: as many as have about
    `EXCERPT` events, and one at least.
    """
    users = rng.permutation(np.unique(exposures.users))
    events = np.bincount(features.log.events.users, minlength=int(users.max()) + 1)[users]
    some = users[: max(int(np.searchsorted(np.cumsum(events), EXCERPT)), 1)]
    rows = np.flatnonzero(np.isin(exposures.users, some))
    kept = np.flatnonzero(np.isin(features.log.events.users, some))
    return (
        _with_events(features, kept, features.log.events.take(kept)),
        exposures.take(rows),
        requests_us[rows],
    )


def _at_one_instant(
    features: AsOfFeatures, exposures: Exposures, requests_us: Int64, rng: np.random.Generator
) -> tuple[AsOfFeatures, Exposures, Int64, int]:
    """The same by clocks that are set, user by user, so that one drawn request of each comes at the
    instant that is returned last.
    """
    order = rng.permutation(len(exposures))
    users, first = np.unique(exposures.users[order], return_index=True)
    drawn = requests_us[order[first]]
    edge, events = int(drawn.max()), features.log.events
    shifts = np.zeros(int(max(users.max(), events.users.max(initial=0))) + 1, np.int64)
    shifts[users] = edge - drawn
    of_events, of_rows = shifts[events.users], shifts[exposures.users]
    shifted = replace(
        events,
        timestamps_us=events.timestamps_us + of_events,
        requests_us=events.requests_us + of_events,
        ended_us=events.ended_us + of_events,
    )
    return (
        replace(features, log=replace(features.log, events=shifted)),
        replace(exposures, timestamps_us=exposures.timestamps_us + of_rows),
        requests_us + of_rows,
        edge,
    )


def _changed(
    features: AsOfFeatures,
    exposures: Exposures,
    requests_us: Int64,
    edge: int,
    rng: np.random.Generator,
) -> list[str]:
    """The columns that change for rows asked for at the edge or before, when what was not known at
    the edge is struck.
    """
    earlier = np.maximum(requests_us, exposures.timestamps_us) < edge
    parts = (np.flatnonzero(requests_us == edge), np.flatnonzero(earlier))
    rows = np.concatenate([rng.permutation(part)[: CHECKED // 2] for part in parts])
    some = exposures.take(np.sort(rows))
    return differing(blocks_of(features, some), blocks_of(known_before(features, edge), some))


def known_before(features: AsOfFeatures, as_of: int) -> AsOfFeatures:
    """The features of what a server knew strictly before an instant."""
    events = features.log.events
    return _with_events(
        features, np.flatnonzero(events.timestamps_us < as_of), events.known_before(as_of)
    )


def _with_events(features: AsOfFeatures, rows: Intp, events: Events) -> AsOfFeatures:
    """The features of some rows of the log, whose events are given."""
    contexts = {name: codes[rows] for name, codes in features.log.contexts.items()}
    return replace(features, log=replace(features.log, events=events, contexts=contexts))


def differing(first: Blocks, second: Blocks) -> list[str]:
    """The columns that differ between two makings of the same rows, by name.

    Sums of seconds run over the whole log, so their last bits depend on what else is in it.
    """
    numbers = [
        name
        for block in first
        for name, values in first[block].numbers.items()
        if not np.allclose(
            values, second[block].numbers[name], rtol=1e-6, atol=1e-6, equal_nan=True
        )
    ]
    codes = [
        name
        for block in first
        for name, values in first[block].codes.items()
        if not np.array_equal(values, second[block].codes[name])
    ]
    return numbers + codes
