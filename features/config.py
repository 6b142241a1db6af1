"""What can be chosen about the log: how it is cleaned, cut and read."""

from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Clock = Literal["time", "order"]


class CleaningConfig(BaseModel):
    """Which rows are used, and what counts as a completed watch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_users: int | None = Field(
        None,
        ge=1,
        description="Number of users kept, drawn by a stable hash of `cleaning.seed` and their id; "
        "unset keeps all.",
    )
    seed: int = Field(0, description="Seed of the sample of users: another one draws other users.")
    since: datetime | None = Field(
        None,
        description="Instant (UTC) before which rows of the log are not read; a database is not "
        "even asked for them. Unset, all are.",
    )
    last_days: float | None = Field(
        None,
        gt=0,
        description="Number of days kept, counted back from the log's last row; unset keeps all.",
    )
    known_items_only: bool = Field(
        False, description="Whether to drop rows of items that the table `items` lacks."
    )
    no_exposure_before_publication: bool = Field(
        False,
        description="Whether to drop rows that are earlier than the publication of their item.",
    )
    min_watch_seconds: float | None = Field(
        None,
        ge=0,
        description="Seconds below which a click counts as none; unset keeps every click.",
    )
    max_watch_seconds: float | None = Field(
        None,
        gt=0,
        description="Seconds to which longer watches are cut, for logs that add up many sittings; "
        "unset, watches above a day are faults.",
    )
    min_history: int | None = Field(
        None, ge=1, description="Clicks that a user needs to be kept; unset keeps everybody."
    )
    max_history: int | None = Field(
        None, ge=1, description="Clicks above which a user is dropped; unset keeps everybody."
    )
    max_rejected_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of faulty rows that are set aside before the log is refused.",
    )
    completed_seconds: float = Field(
        10.0,
        ge=0,
        description="Watch seconds that complete a watch of any item; a click of unknown seconds "
        "is complete.",
    )
    completed_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the item's duration that completes a watch, where that is less than "
        "`completed_seconds`.",
    )

    @field_validator("since")
    @classmethod
    def _in_utc(cls, since: datetime | None) -> datetime | None:
        return since.replace(tzinfo=UTC) if since and since.tzinfo is None else since

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_history and self.max_history and self.min_history > self.max_history:
            raise ValueError(
                f"min_history {self.min_history} is above max_history {self.max_history}"
            )
        return self


class SplitConfig(BaseModel):
    """How the log is cut; instants left out are derived from the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["time", "last", "none"] = Field(
        "time",
        description="What is held out: `time` the end of the log, `last` each user's last "
        "completed watch, `none` "
        "nothing.",
    )
    label_start: datetime | None = Field(
        None,
        description="Instant (UTC) at which history ends and labels begin; unset, the label window "
        "is as long as the "
        "test window (mode `none`: `test_share` of the log's time), and at most half of what "
        "precedes it.",
    )
    test_start: datetime | None = Field(
        None,
        description="Instant (UTC) at which the test window begins and as of which lists are made; "
        "unset, "
        "`test_share` of the log's time before `test_end` (mode `none`: `test_end`).",
    )
    test_end: datetime | None = Field(
        None,
        description="Instant (UTC) before which the test window ends; unset, just after the log's "
        "last row.",
    )
    test_share: float = Field(
        0.1, gt=0, lt=0.5, description="Share of the log's time that a derived test window takes."
    )


class FeaturesConfig(BaseModel):
    """The features stage: how it reads the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clock: Clock | None = Field(
        None,
        description="Whether timestamps tell `time` or only `order`, in which case nothing reads "
        "an hour or an age; "
        "unset, `order` in split.mode `last`, else `time`.",
    )
    request_seconds: float = Field(
        0,
        ge=0,
        le=3_600,
        description="Impressions of a user within so many seconds of the first are one request, "
        "where the log has no `request_id`: their features are as of the first.",
    )
