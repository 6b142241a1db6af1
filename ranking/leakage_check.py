"""The leakage check: no feature of a row may change when what came after the row is struck from the
log.
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from features.asof_counts import Events
from features.asof_features import AsOfFeatures, Blocks
from features.errors import InputError
from ranking.examples import Exposures, blocks_of

Int64 = npt.NDArray[np.int64]

# Rows made twice, half of them at the edge; events of the excerpt, about; instants that its clock
# still tells apart.
CHECKED, EXCERPT, TICKS = 5_000, 100_000, 10


def check_leakage(features: AsOfFeatures, exposures: Exposures, rng: np.random.Generator) -> None:
    """InputError where a feature of the catalogue reads what came at or after its row's instant.

    Of an excerpt of the log whose clock stands still for a tenth of the rows at a time, one instant
    is drawn, the edge. Rows at it and before it are made twice, from the whole excerpt and from
    what came strictly before the edge: so a leak of the future is told, and one of the row's own
    outcome, which is an event of its very instant. Recall's columns come with the exposures and are
    not made here: the rolling tower answers for them.
    """
    if not len(exposures):
        return
    features, exposures = _coarse(*_excerpt(features, exposures, rng))
    edge = int(rng.choice(exposures.timestamps_us))
    parts = (
        np.flatnonzero(exposures.timestamps_us == edge),
        np.flatnonzero(exposures.timestamps_us < edge),
    )
    some = taken(
        exposures,
        np.sort(np.concatenate([rng.permutation(part)[: CHECKED // 2] for part in parts])),
    )
    changed = differing(blocks_of(features, some), blocks_of(before(features, edge), some))
    if changed:
        raise InputError(
            f"Ranking rows: {', '.join(changed)} changed when what came at or after the rows' "
            "instant was struck from "
            "the log; a feature must be as of its row. Leave out the columns, or make them from "
            "earlier rows alone."
        )


def _excerpt(
    features: AsOfFeatures, exposures: Exposures, rng: np.random.Generator
) -> tuple[AsOfFeatures, Exposures]:
    """The events and exposures of random users: as many as have about `EXCERPT` events, and one at
    least.
    """
    users = rng.permutation(np.unique(exposures.users))
    events = np.bincount(features.log.events.users, minlength=int(users.max()) + 1)[users]
    some = users[: max(int(np.searchsorted(np.cumsum(events), EXCERPT)), 1)]
    rows = np.flatnonzero(np.isin(exposures.users, some))
    return _with_events(features, np.flatnonzero(np.isin(features.log.events.users, some))), taken(
        exposures, rows
    )


def _coarse(features: AsOfFeatures, exposures: Exposures) -> tuple[AsOfFeatures, Exposures]:
    """The same by a clock that goes on with every tenth of the exposures only."""
    ticks = np.unique(np.sort(exposures.timestamps_us)[:: -(-len(exposures) // TICKS)])

    def told(timestamps_us: Int64) -> Int64:
        place = np.searchsorted(ticks, timestamps_us, side="right") - 1
        return np.where(place >= 0, ticks[place], timestamps_us)

    log = replace(
        features.log,
        events=replace(features.log.events, timestamps_us=told(features.log.events.timestamps_us)),
    )
    return replace(features, log=log), replace(
        exposures, timestamps_us=told(exposures.timestamps_us)
    )


def before(features: AsOfFeatures, timestamp_us: int) -> AsOfFeatures:
    """The features of the events strictly before an instant."""
    return _with_events(features, np.flatnonzero(features.log.events.timestamps_us < timestamp_us))


def _with_events(features: AsOfFeatures, rows: npt.NDArray[np.intp]) -> AsOfFeatures:
    log = features.log
    events = Events(
        **{field.name: getattr(log.events, field.name)[rows] for field in fields(log.events)}
    )
    contexts = {name: codes[rows] for name, codes in log.contexts.items()}
    return replace(features, log=replace(log, events=events, contexts=contexts))


def taken(exposures: Exposures, rows: npt.NDArray[np.intp]) -> Exposures:
    """Some rows of exposures."""

    def each(columns: Any) -> Any:
        return None if columns is None else {name: values[rows] for name, values in columns.items()}

    positions = None if exposures.positions is None else exposures.positions[rows]
    flat = (exposures.users[rows], exposures.items[rows], exposures.timestamps_us[rows])
    return Exposures(*flat, each(exposures.recall), each(exposures.contexts), positions)


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
