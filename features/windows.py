"""Three instants that cut a log into history, labels and holdout, before anything is learnt from it.

Two clocks. With `time` an instant is microseconds since 1970 UTC. With `order` only the sequence of each user
counts: an instant is `part * PART + position in the user's sequence`, where part 0 is history, 1 the label, 2 the
holdout. So "before history_end" means the same in both: an int64 comparison.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

import ibis
import ibis.expr.types as ir
from pydantic import BaseModel, ConfigDict, Field

from features.errors import Refused
from features.tables import TIMESTAMP, USER

Clock = Literal["time", "order"]
PART = 1 << 40


class WindowsConfig(BaseModel):
    """How the log is cut; instants left out are derived from the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["time", "last", "none"] = "time"
    history_end: datetime | None = None
    labels_end: datetime | None = None
    holdout_end: datetime | None = None
    holdout_share: float = Field(0.1, gt=0, lt=0.5)


class Windows(BaseModel):
    """The cut in force: rows before `history_end` are history, then labels, then the holdout, each half open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["time", "last", "none"]
    clock: Clock
    start: int
    history_end: int
    labels_end: int
    holdout_end: int

    def save(self, folder: Path) -> None:
        (folder / "windows.json").write_text(self.model_dump_json(indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Windows":
        return cls.model_validate_json((folder / "windows.json").read_text())

    def described(self) -> dict[str, str]:
        """The instants for people: UTC text, or which watch of each user in the order clock."""
        if self.clock == "order":
            ends = {"history_end": "before the label watch", "labels_end": "before the holdout watch"}
            return {"mode": self.mode, "clock": self.clock} | ends
        instants = {name: getattr(self, name) for name in ("start", "history_end", "labels_end", "holdout_end")}
        return {"mode": self.mode, "clock": self.clock} | {k: text_of(v) for k, v in instants.items()}


def windows_of(interactions: ibis.Table, config: WindowsConfig, clock: Clock | None = None) -> Windows:
    """The cut of a log: what the configuration names, the rest derived. Refused where it cannot be cut so.

    Derived (time): the holdout is the last `holdout_share` of the time span, the label window as long before it.
    Mode `none` holds nothing out: labels_end lies just after the log's last row.
    """
    clock = clock or ("order" if config.mode == "last" else "time")
    if clock == "order":
        return _order_windows(config)
    if config.mode == "last":
        raise Refused(
            'features.clock = "time" with windows.mode = "last": leave-last-out cuts each user at another moment, '
            'so times do not compare; leave features.clock out, or use windows.mode = "time".'
        )
    span = interactions.aggregate(first=interactions[TIMESTAMP].min(), last=interactions[TIMESTAMP].max())
    first, last = span.to_pyarrow().to_pylist()[0].values()
    return _time_windows(config, instant_of(first), instant_of(last))


def instants(interactions: ibis.Table, windows: Windows) -> ibis.Table:
    """The log with its `row` number in file order and its `instant` on the clock in force.

    In the order clock a user's last completed watch starts the holdout (`last`) or the labels (`none`); rows at
    and after it belong to that part.
    """
    rows = interactions.mutate(row=ibis.row_number())
    if windows.clock == "time":
        return rows.mutate(instant=instant_column(rows[TIMESTAMP]))
    of_user = ibis.window(group_by=USER, order_by=[TIMESTAMP, "row"])
    up_to_here = ibis.cumulative_window(group_by=USER, order_by=[TIMESTAMP, "row"])
    rows = rows.mutate(
        _position=ibis.row_number().over(of_user).cast("int64"),
        _watches=rows.completed.cast("int64").sum().over(up_to_here),
        _all_watches=rows.completed.cast("int64").sum().over(ibis.window(group_by=USER)),
    )
    parts = 2 if windows.mode == "last" else 1
    all_watches = rows["_all_watches"]
    part = ibis.greatest(parts - (all_watches - rows["_watches"]), 0)
    # DuckDB's sums are wider than 64 bits, and would be written as doubles.
    part = ibis.ifelse(all_watches == 0, 0, part).cast("int32")
    return rows.mutate(instant=part * PART + rows["_position"]).drop("_position", "_watches", "_all_watches")


def instant_column(moments: ir.TimestampValue) -> ir.IntegerValue:
    """A column of timestamps as instants of the time clock: microseconds since 1970 UTC."""
    # DuckDB's epoch has a fraction and Spark's has none: cut to whole seconds, both say the same.
    seconds = moments.truncate("s").epoch_seconds().cast("float64").cast("int64")
    return cast(ir.IntegerValue, seconds * 1_000_000 + moments.microsecond())


def instant_of(moment: datetime) -> int:
    """Microseconds since 1970 UTC; a moment without a zone is UTC."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)


def text_of(instant: int) -> str:
    """An instant of the time clock as UTC text."""
    return datetime.fromtimestamp(instant / 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _order_windows(config: WindowsConfig) -> Windows:
    given = [name for name in ("history_end", "labels_end", "holdout_end") if getattr(config, name) is not None]
    if given:
        raise Refused(f"windows.{given[0]} is an instant, but the clock is order only; leave it out or cut by time.")
    if config.mode == "time":
        raise Refused('windows.mode = "time" needs features.clock = "time"; for order-only logs use mode "last".')
    labels_end = 2 * PART
    holdout_end = 3 * PART if config.mode == "last" else labels_end
    return Windows(
        mode=config.mode,
        clock="order",
        start=0,
        history_end=PART,
        labels_end=labels_end,
        holdout_end=holdout_end,
    )


def _time_windows(config: WindowsConfig, first: int, last: int) -> Windows:
    share = round((last - first) * config.holdout_share)
    holdout_end = _given(config, "holdout_end", last + 1)
    if config.mode == "none":
        labels_end = _given(config, "labels_end", holdout_end)
        holdout_end = labels_end
        length = share
    else:
        labels_end = _given(config, "labels_end", holdout_end - share)
        length = holdout_end - labels_end
    history_end = _given(config, "history_end", max(labels_end - length, (first + labels_end) // 2))
    windows = Windows(
        mode=config.mode,
        clock="time",
        start=first,
        history_end=history_end,
        labels_end=labels_end,
        holdout_end=holdout_end,
    )
    _check(windows, last)
    return windows


def _given(config: WindowsConfig, name: str, derived: int) -> int:
    moment: datetime | None = getattr(config, name)
    return derived if moment is None else instant_of(moment)


def _check(windows: Windows, last: int) -> None:
    if windows.labels_end <= windows.start or (windows.mode == "time" and windows.labels_end > last):
        raise Refused(
            f"windows.labels_end = {text_of(windows.labels_end)} lies outside the log, which goes from "
            f"{text_of(windows.start)} to {text_of(last)}; choose an instant inside it, or windows.mode = none to "
            "hold nothing out."
        )
    first, history, labels = "the log's first row", "windows.history_end", "windows.labels_end"
    at = {first: windows.start, history: windows.history_end, labels: windows.labels_end}
    pairs = [(first, history), (history, labels)]
    if windows.mode == "time":
        # Before history_end, which where it is derived goes wrong with it.
        at["windows.holdout_end"] = windows.holdout_end
        pairs.insert(0, (labels, "windows.holdout_end"))
    for name, later in pairs:
        if at[name] >= at[later]:
            raise Refused(
                f"{later} = {text_of(at[later])} does not lie after {name} = {text_of(at[name])}; "
                "the instants must increase inside the log."
            )
