"""The audit: no feature of a row may change when what came after the row is struck from the log."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import Refused
from features.ledger import Block, Ledger
from features.profiles import Events
from ranking.rows import Exposures, blocks_of

Blocks = dict[str, Block]
Features = Callable[[Ledger, Exposures], Blocks]

AUDITED = 5_000


def refuse_the_future(
    ledger: Ledger, exposures: Exposures, rng: np.random.Generator, features: Features = blocks_of
) -> None:
    """Refused where a feature reads what came at or after its row's instant.

    An instant is drawn among the exposures'; at most 5,000 of the rows up to it are made twice, from the whole log and
    from the log strictly before the instant of the latest of them. Recall's columns come with the exposures and are not
    made here: the rolling tower answers for them.
    """
    if not len(exposures):
        return
    edge = rng.choice(exposures.instants)
    rows = np.sort(rng.permutation(np.flatnonzero(exposures.instants <= edge))[:AUDITED])
    some = taken(exposures, rows)
    changed = differing(features(ledger, some), features(before(ledger, int(edge)), some))
    if changed:
        raise Refused(
            f"Ranking rows: {', '.join(changed)} changed when what came at or after the rows' instant was struck from "
            "the log; a feature must be as of its row. Leave out the columns, or make them from earlier rows alone."
        )


def before(ledger: Ledger, instant: int) -> Ledger:
    """The ledger of the events strictly before an instant."""
    rows = np.flatnonzero(ledger.events.instants < instant)
    events = Events(**{field.name: getattr(ledger.events, field.name)[rows] for field in fields(ledger.events)})
    return replace(ledger, events=events, contexts={name: codes[rows] for name, codes in ledger.contexts.items()})


def taken(exposures: Exposures, rows: npt.NDArray[np.intp]) -> Exposures:
    """Some rows of exposures."""

    def each(columns: Any) -> Any:
        return None if columns is None else {name: values[rows] for name, values in columns.items()}

    positions = None if exposures.positions is None else exposures.positions[rows]
    flat = (exposures.users[rows], exposures.items[rows], exposures.instants[rows])
    return Exposures(*flat, each(exposures.recall), each(exposures.contexts), positions)


def differing(first: Blocks, second: Blocks) -> list[str]:
    """The columns that differ between two makings of the same rows, by name.

    Sums of seconds run over the whole log, so their last bits depend on what else is in it.
    """
    numbers = [
        name
        for block in first
        for name, values in first[block].numbers.items()
        if not np.allclose(values, second[block].numbers[name], rtol=1e-6, atol=1e-6, equal_nan=True)
    ]
    codes = [
        name
        for block in first
        for name, values in first[block].codes.items()
        if not np.array_equal(values, second[block].codes[name])
    ]
    return numbers + codes
