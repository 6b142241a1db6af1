"""Three instants that cut a log into history, labels and test window, before anything is learnt
from it.

Two clocks. With `time` an instant is microseconds since 1970 UTC. With `order` only the sequence of
each user counts: an instant is `part * PART + position in the user's sequence`, where part 0 is
history, 1 the label, 2 the test window. So "before label_start" means the same in both: an int64
comparison.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from features.config import Clock

PART = 1 << 40


class Split(BaseModel):
    """The cut in force: rows before `label_start` are history, then labels, then the test window,
    each half open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["time", "last", "none"]
    clock: Clock
    start: int
    label_start: int
    test_start: int
    test_end: int

    def save(self, folder: Path) -> None:
        (folder / "split.json").write_text(self.model_dump_json(indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Split":
        return cls.model_validate_json((folder / "split.json").read_text())

    def described(self) -> dict[str, str]:
        """The instants for people: UTC text, or which watch of each user in the order clock."""
        if self.clock == "order":
            ends = {
                "label_start": "before the label watch",
                "test_start": "before the test watch",
            }
            return {"mode": self.mode, "clock": self.clock} | ends
        timestamps_us = {
            name: getattr(self, name) for name in ("start", "label_start", "test_start", "test_end")
        }
        return {"mode": self.mode, "clock": self.clock} | {
            k: text_of(v) for k, v in timestamps_us.items()
        }


def timestamp_us_from(as_of: datetime) -> int:
    """Microseconds since 1970 UTC; a moment without a zone is UTC."""
    as_of = as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)
    return round((as_of - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)


def text_of(timestamp_us: int) -> str:
    """An instant of the time clock as UTC text."""
    return datetime.fromtimestamp(timestamp_us / 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
