"""The calendar: whole hours and days UTC, on which derived instants lie.

One more day of log then leaves every earlier instant where it was.
"""

from features.schema import DAY, HOUR

# In microseconds, each a multiple of those before it: the grid of a longer one is part of theirs.
LENGTHS = (
    *(hours * HOUR for hours in (1, 3, 6, 12)),
    *(days * DAY for days in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)),
)


def shortest_at_least(span: int) -> int:
    """The shortest length of the calendar that is no shorter than a span; the longest where none
    is.
    """
    return next((length for length in LENGTHS if length >= span), LENGTHS[-1])


def nearest_length(span: int) -> int | None:
    """The length of the calendar whose ratio to a span is nearest to 1; None for a span shorter
    than half an hour.
    """
    if span < HOUR // 2:
        return None
    return min(LENGTHS, key=lambda length: max(length / span, span / length))


def floored(as_of: int, span: int) -> int:
    """The last instant at or before another on the grid, through midnight UTC, of the longest
    length that is no longer than a span; as it is for a span shorter than an hour.
    """
    length = next((length for length in reversed(LENGTHS) if length <= span), 1)
    return as_of // length * length


def grid_before(as_of: int, since: int, length: int) -> list[int]:
    """The instants of a grid of a length from `since` on, up to half a length before `as_of`.

    The grid goes through `as_of` where that is a full hour, else, as for the end of a log, through
    midnight UTC of 1 January 1970.
    """
    origin = as_of if as_of % HOUR == 0 else 0
    first = since + (origin - since) % length
    return list(range(first, as_of - length // 2, length))
