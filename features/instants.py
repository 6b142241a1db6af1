"""Instants are whole microseconds since 1970, UTC; so many of them are a second, an hour, a day."""

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
