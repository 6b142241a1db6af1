"""What takes how much room on the disk, and in how many days it will be full."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from features.errors import InputError
from funnel.store import write_atomically

REPORTS, KEPT_REPORTS = "disk.json", 60
TOLD_PARTS = 8
# Growth within hours says nothing of days.
SHORTEST = timedelta(days=1)


@dataclass(frozen=True)
class DiskReport:
    """Bytes of each part of a home, bytes free on its disk, and in how many days nothing is free,
    at the pace since an earlier report; None where nothing grows, or there is no earlier one.
    """

    parts: Mapping[str, int]
    free: int
    days_left: float | None

    @property
    def text(self) -> str:
        """The report as a sentence, with the largest parts and the sum of the others."""
        ordered = sorted(self.parts.items(), key=lambda part: -part[1])
        rest = sum(size for _, size in ordered[TOLD_PARTS:])
        told = [*ordered[:TOLD_PARTS], *([("others", rest)] if rest else [])]
        parts = ", ".join(f"{name} {size_text(size)}" for name, size in told)
        left = "" if self.days_left is None else f", full in {self.days_left:,.0f} days"
        return f"{size_text(self.free)} free{left}; {parts}."


def report_disk(home: Path, folders: Mapping[str, Path], now: datetime) -> DiskReport:
    """Measure a home, each of its artefacts for itself, and folders elsewhere by name, and keep the
    figures beside those of earlier reports.
    """
    parts = {
        f"artefacts/{path.name}" if path.parent.name == "artefacts" else path.name: size_of(path)
        for path in (*home.glob("[!.]*"), *home.glob("artefacts/*"))
        if path.is_dir() and path.name != "artefacts"
    }
    parts |= {name: size_of(path) for name, path in folders.items() if path.is_dir()}
    free, file = shutil.disk_usage(home).free, home / REPORTS
    earlier = _reports(file)
    told = DiskReport(parts, free, _days_left(free, now, earlier))
    reports = [*earlier, {"at": now.isoformat(), "free": free, "parts": parts}][-KEPT_REPORTS:]
    write_atomically(file, (json.dumps(reports, indent=1) + "\n").encode())
    return told


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder; files that go away meanwhile count nothing."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue
    return total


def size_text(size: float) -> str:
    """Bytes in the largest unit of which there is one: `12.3 MB`."""
    units = ("kB", "MB", "GB", "TB")
    power = min(max(len(f"{int(size)}") - 1, 3) // 3, len(units))
    return f"{size / 1000**power:,.1f} {units[power - 1]}"


def _reports(file: Path) -> list[dict[str, object]]:
    try:
        found: list[dict[str, object]] = json.loads(file.read_text())
    except FileNotFoundError:
        return []
    except ValueError:
        raise InputError(f"{file}: no JSON; remove it, and disk reports begin anew.") from None
    return found


def _days_left(free: int, now: datetime, reports: list[dict[str, object]]) -> float | None:
    """At the pace since the newest report that is a day old."""
    at = [(datetime.fromisoformat(str(each["at"])).astimezone(UTC), each) for each in reports]
    old = [(when, each) for when, each in at if now - when >= SHORTEST]
    if not old:
        return None
    when, then = old[-1]
    taken = int(str(then["free"])) - free
    days = (now - when) / timedelta(days=1)
    return free / (taken / days) if taken > 0 else None
