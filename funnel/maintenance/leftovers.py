"""What killed processes leave in a home, and what no later run of theirs comes back for.

A store tidies an artefact whenever it makes it; this is for artefacts that are not made again.
"""

import shutil
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from features.errors import InputError
from funnel.maintenance.disk import size_of, size_text
from funnel.pipeline import PUBLISHED, STEPS
from funnel.store import LONGEST_STEP_SECONDS, PARTIAL, PARTS, PURPOSES, SCRATCH, Store

# Hidden files and folders that processes write beside their place, or work in.
LEFT_IN_STORE = (f"*/{PARTIAL}*", f"*/{SCRATCH}*", f"*/{PARTS}/.*", "*/.*.[0-9]*")
LEFT_AT_TOP = (
    ".verify-*",
    *(
        f"{folder}.{file}.*"
        for folder in ("", *(f"{purpose}/" for purpose in PURPOSES))
        for files in PUBLISHED.values()
        for file in files
    ),
)


def remove_leftovers(home: Path, now: datetime) -> str:
    """Remove half-written files and folders, what was kept for retries that never came, and
    artefacts that no step makes any more, and say so.

    Only what nobody has written to for longer than any step takes goes, so that a run of Airflow
    may go on meanwhile; where `funnel run` works on the home nothing is done.
    """
    store = Store(home / "artefacts")
    if not store.root.is_dir():
        return f"{home}: there are no artefacts here."
    before = (now - timedelta(seconds=LONGEST_STEP_SECONDS)).timestamp()
    try:
        with store.locked():
            old = [path for path in leftovers_in(home) if newest(path) < before]
            size = remove(old)
    except InputError as error:
        return f"Nothing was removed: {error}"
    return f"{len(old)} leftovers of killed or older runs are removed ({size_text(size)})."


def leftovers_in(home: Path) -> list[Path]:
    """What no version of an artefact that a step makes is part of, but for what later versions are
    made of; some of it may still be written to.
    """
    root = home / "artefacts"
    hidden = [path for pattern in LEFT_IN_STORE for path in root.glob(pattern)]
    hidden += [path for pattern in LEFT_AT_TOP for path in home.glob(pattern)]
    made = {path.parent for purpose in PURPOSES for path in root.glob(f"*/{purpose}")}
    return hidden + sorted(path for path in made if path.name not in STEPS)


def newest(path: Path) -> float:
    """When a file, or anything in a folder, was last written, in seconds since 1970; now where it
    goes away meanwhile.
    """
    try:
        return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    except FileNotFoundError:
        return datetime.now().timestamp()


def remove(paths: Iterable[Path]) -> int:
    """Remove files and folders, one of which may lie in another; returns their bytes."""
    total = 0
    for path in (path for path in paths if path.exists()):
        total += size_of(path) if path.is_dir() else path.stat().st_size
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return total
