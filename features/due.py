"""What had been due of each event of a log: what came before it had led to expect so many clicks and seconds.

Of a user's events by their items, of an item's by its users: so a taste is told from good items, and a good item from
willing viewers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.tallies import Events, tally_of

Float64 = npt.NDArray[np.float64]
Counts = Mapping[str, npt.NDArray[Any]]
Rates = tuple[Float64, Float64]
# Click rate, mean seconds a click, mean share of the length a click.
Expectation = tuple[Float64, Float64, Float64]

PRIOR_ROWS = 10.0
# A user's rates in a topic are drawn to the user's own as by so many rows, an item's mean seconds to its length's.
OWN_PRIOR_ROWS = 3.0
# Whoever watches an item again and again has watched it twice; a completion lift is drawn to 0 as by half a length.
MOST_SHARE, HALF_LENGTH = 2.0, 0.5


@dataclass(frozen=True)
class Due:
    """Events [n], their `keys` by name (`all`, `user`, `item`, and `user_topic` where items have topics), and the
    `lengths` of their items in seconds, NaN unknown (None: of none known).

    All columns are float64 [n].
    """

    events: Events
    keys: Mapping[str, npt.NDArray[Any]]
    lengths: Float64 | None

    @cached_property
    def by_item(self) -> dict[str, Float64]:
        """What the item of each event had led to expect: its click rate and seconds an impression as of it."""
        return self._expected(self._drawn("item", self._known_before, PRIOR_ROWS))

    @cached_property
    def by_user(self) -> dict[str, Float64]:
        """What the user of each event had led to expect, in the item's topic where there are topics."""
        own = self._drawn("user", self._known_before, PRIOR_ROWS)
        return self._expected(self._drawn("user_topic", own, OWN_PRIOR_ROWS) if "user_topic" in self.keys else own)

    @cached_property
    def watched(self) -> dict[str, Float64]:
        """Of each click how much of the item's length was watched, and whether that is known; of other events 0."""
        if self.lengths is None:
            return {}
        seconds, lengths = self.events.seconds, self.lengths
        measured = self.events.clicked & ~np.isnan(seconds) & ~np.isnan(lengths)
        shares = np.minimum(
            np.where(measured, seconds, 0.0) / np.maximum(np.where(measured, lengths, 1.0), 1.0), MOST_SHARE
        )
        return {"shares": shares, "measured": measured.astype(np.float64)}

    @cached_property
    def alike(self) -> dict[str, Float64]:
        """Earlier impressions of the same user in each event's topic, and of a click the earlier clicks."""
        earlier = self._so_far("user_topic")
        return {"alike": earlier["shown"], "clicks_alike": np.where(self.events.clicked, earlier["clicks"], 0.0)}

    @cached_property
    def _known_before(self) -> Expectation:
        """What the whole log before each event had led to expect of any."""
        counts = self._so_far("all")
        known = "shares" in counts
        share = (counts["shares"] + HALF_LENGTH) / (counts["measured"] + 1) if known else np.zeros(len(counts["shown"]))
        return *rates_of_all(counts), share

    def _so_far(self, name: str) -> Counts:
        """What was known of each event's key as of it."""
        keys = self.keys[name]
        return tally_of(keys, self.events, self.watched).as_of(keys, self.events.instants)

    def _drawn(self, name: str, towards: Expectation, rows: float) -> Expectation:
        """Click rate, mean seconds and mean share of the length a click, of each event's key as of it.

        Drawn to others as by so many rows.
        """
        counts = self._so_far(name)
        rate = (counts["clicks"] + rows * towards[0]) / (counts["shown"] + rows)
        seconds = (counts["seconds"] + rows * towards[1]) / (counts["known"] + rows)
        if "shares" not in counts:
            return rate, seconds, towards[2]
        return rate, seconds, (counts["shares"] + rows * towards[2]) / (counts["measured"] + rows)

    def _expected(self, drawn: Expectation) -> dict[str, Float64]:
        """Clicks and seconds that were due of each event; none where a click's seconds are unknown.

        Of a click whose share of the length is known, that share and the one that was due.
        """
        rate, seconds, share = drawn
        due = {"clicks_due": rate, "seconds_due": np.where(np.isnan(self.events.seconds), 0.0, rate * seconds)}
        if not self.watched:
            return due
        return due | {"shares": self.watched["shares"], "shares_due": self.watched["measured"] * share}


def rates_of_all(counts: Counts) -> Rates:
    """Click rate and mean seconds a click of a whole log, drawn to a half as by two rows and to a second as by one."""
    return (counts["clicks"] + 1) / (counts["shown"] + 2), (counts["seconds"] + 1) / (counts["known"] + 1)
