"""Logs that would grow for ever: those that processes hold open are packed and emptied, old ones
removed.
"""

import gzip
import os
import shutil
from datetime import datetime
from pathlib import Path

from funnel.maintenance.disk import size_text

LARGE_BYTES = 1_000_000


def rotate_logs(folder: Path, now: datetime) -> int:
    """Pack every `*.log` of more than a megabyte into a file beside it and empty it in place:
    whoever holds it open, to append, goes on at its beginning. Returns the bytes that were packed.

    What is written between the two, within milliseconds, is lost.
    """
    packed = 0
    for log in sorted(folder.glob("*.log")):
        size = log.stat().st_size
        if size <= LARGE_BYTES:
            continue
        target = log.with_name(f"{log.name}.{now:%Y%m%dT%H%M%S}.gz")
        with log.open("rb") as source, gzip.open(target, "wb", compresslevel=6) as copy:
            shutil.copyfileobj(source, copy)
        os.truncate(log, 0)
        packed += size
    return packed


def remove_old_logs(folder: Path, before: datetime) -> tuple[int, int]:
    """Remove the files below a folder that were last written before an instant, and the folders
    that this leaves empty; returns how many files, and their bytes.
    """
    number = size = 0
    emptied: set[Path] = set()
    for place, folders, names in os.walk(folder, topdown=False):
        here = Path(place)
        facts = {here / name: (here / name).lstat() for name in names}
        old = {
            path: each.st_size for path, each in facts.items() if each.st_mtime < before.timestamp()
        }
        for path in old:
            path.unlink()
        number, size = number + len(old), size + sum(old.values())
        # An empty folder that nothing was removed from may be one that a task has just made.
        touched = old or emptied & {here / name for name in folders}
        if touched and here != folder and not any(here.iterdir()):
            here.rmdir()
            emptied.add(here)
    return number, size


def tidy_logs(services: Path, tasks: Path, now: datetime, before: datetime) -> str:
    """Rotate the logs of the services, remove old ones of services and tasks, and say so."""
    packed = rotate_logs(services, now)
    removed = [remove_old_logs(folder, before) for folder in (services, tasks)]
    files, size = (sum(column) for column in zip(*removed, strict=True))
    return (
        f"{size_text(packed)} of the services' logs are packed; {files:,} log files of before "
        f"{before:%Y-%m-%d} are removed ({size_text(size)})."
    )
