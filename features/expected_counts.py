"""Expected counts: the clicks and seconds that what came before an event had led to expect of it.

Of a user's events by their items, of an item's by its users: what became of impressions is compared
with what was expected of them, so a user's interest is told from good items, and a good item from
users who click on anything. All rates are smoothed: shrunk towards those of a larger group by so
many rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.arrays import Float64
from features.asof_counts import NOTHING_SUMMED, AsOfCounts, Counts, Events, Summed, count_events

# Click rate and mean seconds a click.
Rates = tuple[Float64, Float64]
# Click rate, mean seconds a click, mean share of the length a click.
Expectation = tuple[Float64, Float64, Float64]

PRIOR_ROWS = 10.0
# A user's rates in a topic are shrunk to the user's own by so many rows, an item's mean seconds to
# its duration's.
OWN_PRIOR_ROWS = 3.0
# Whoever watches an item again and again has watched it twice; a completion log-ratio is shrunk by
# half a length.
MOST_SHARE, HALF_LENGTH = 2.0, 0.5
# An exposure log-ratio is shrunk to 0 by half an impression, the shares of the log to nothing by
# ten.
HALF_SHOWN, PRIOR_SHOWN = 0.5, 10.0


@dataclass(frozen=True)
class ExpectedCounts:
    """Events [n], their `keys` by group (`all`, `user`, `item`, and `user_topic` where items have
    topics), and the `lengths` of their items in seconds, NaN unknown (None: of none known).

    All columns are float64 [n].
    """

    events: Events
    keys: Mapping[str, npt.NDArray[Any]]
    lengths: Float64 | None

    @cached_property
    def by_item(self) -> Summed:
        """What the item of each event had led to expect: its click rate and seconds an impression
        as of its request.
        """
        return self._expected(self._smoothed("item", self._known_before, PRIOR_ROWS))

    @cached_property
    def by_user(self) -> Summed:
        """What the user of each event had led to expect, in the item's topic where there are
        topics.
        """
        own = self._smoothed("user", self._known_before, PRIOR_ROWS)
        return self._expected(
            self._smoothed("user_topic", own, OWN_PRIOR_ROWS) if "user_topic" in self.keys else own
        )

    @cached_property
    def watched_shares(self) -> Summed:
        """Of each click how much of the item's length was watched, and whether that is known; of
        other events 0.
        """
        if self.lengths is None:
            return NOTHING_SUMMED
        seconds, lengths = self.events.seconds, self.lengths
        measured = self.events.clicked & ~np.isnan(seconds) & ~np.isnan(lengths)
        shares = np.minimum(
            np.where(measured, seconds, 0.0) / np.maximum(np.where(measured, lengths, 1.0), 1.0),
            MOST_SHARE,
        )
        return Summed(at_end={"shares": shares, "measured": measured.astype(np.float64)})

    @cached_property
    def same_topic_pairs(self) -> Summed:
        """Earlier impressions of the same user in each event's topic, and of a click the earlier
        clicks.
        """
        if "user_topic" not in self.keys:
            return NOTHING_SUMMED
        # No expectation, but a count: of the events themselves, not of what their requests knew.
        earlier = self._counts("user_topic").as_of(
            self.keys["user_topic"], self.events.timestamps_us
        )
        clicks = np.where(self.events.clicked, earlier["clicks"], 0.0)
        return Summed({"same_topic_pairs": earlier["shown"], "same_topic_click_pairs": clicks})

    @cached_property
    def _known_before(self) -> Expectation:
        """What the whole log before each event had led to expect of any."""
        counts = self._so_far("all")
        known = "shares" in counts
        share = (
            (counts["shares"] + HALF_LENGTH) / (counts["measured"] + 1)
            if known
            else np.zeros(len(counts["shown"]))
        )
        return *overall_rates(counts), share

    def _so_far(self, group: str) -> Counts:
        """What was known of each event's key as of its request."""
        return self._counts(group).as_of(self.keys[group], self.events.requests_us)

    def _counts(self, group: str) -> AsOfCounts:
        # Each is read once, and not kept: it is several times as large as the log.
        return count_events(self.keys[group], self.events, self.watched_shares)

    def _smoothed(self, group: str, towards: Expectation, rows: float) -> Expectation:
        """Click rate, mean seconds and mean share of the length a click, of each event's key as of
        it.

        Shrunk towards others by so many rows.
        """
        counts = self._so_far(group)
        rate, seconds = smoothed_rates(counts, (towards[0], towards[1]), rows)
        if "shares" not in counts:
            return rate, seconds, towards[2]
        return rate, seconds, (counts["shares"] + rows * towards[2]) / (counts["measured"] + rows)

    def _expected(self, smoothed: Expectation) -> Summed:
        """Clicks and seconds expected of each event; none where a click's seconds are unknown.

        Of a click whose share of the length is known, that share and the one that was expected.
        """
        rate, seconds, share = smoothed
        seconds_expected = np.where(np.isnan(self.events.seconds), 0.0, rate * seconds)
        at_event, at_end = {"clicks_expected": rate}, {"seconds_expected": seconds_expected}
        shares = self.watched_shares.at_end
        if shares:
            at_end |= {"shares": shares["shares"], "shares_expected": shares["measured"] * share}
        return Summed(at_event, at_end)


def overall_rates(counts: Counts) -> Rates:
    """Click rate and mean seconds a click of a whole log, shrunk to a half by two rows and to a
    second by one.
    """
    return (counts["clicks"] + 1) / (counts["shown"] + 2), (counts["seconds"] + 1) / (
        counts["known"] + 1
    )


def smoothed_rates(counts: Counts, towards: Rates, rows: float) -> Rates:
    """Click rate and mean seconds a click, shrunk towards others by so many rows, [n] each."""
    rate = (counts["clicks"] + rows * towards[0]) / (counts["shown"] + rows)
    return rate, (counts["seconds"] + rows * towards[1]) / (counts["known"] + rows)


def log_ratio(count: Float64, expected: Float64, prior: Float64 | float) -> Float64:
    """Logarithm of a count over what was expected of it, shrunk to 0 by a prior added to both,
    [n].
    """
    return np.log((count + prior) / (expected + prior))
