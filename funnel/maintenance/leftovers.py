"""What killed processes leave in a home, and what no later run of theirs comes back for.

A store tidies an artefact whenever it makes it; this is for artefacts that are not made again.
"""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

from features.errors import InputError
from funnel.maintenance.disk import size_of, size_text
from funnel.pipeline import STEPS
from funnel.store import LONGEST_STEP_SECONDS, PARTIAL, PARTS, SCRATCH, Store

# Hidden files and folders that processes write beside their place, or work in.
LEFT_IN_STORE = (f"*/{PARTIAL}*", f"*/{SCRATCH}*", f"*/{PARTS}/.*", "*/.*.[0-9]*")
LEFT_AT_TOP = (".verify-*", ".*.[0-9]*", ".*.partial")


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
            found = [path for pattern in LEFT_IN_STORE for path in store.root.glob(pattern)]
            found += [path for pattern in LEFT_AT_TOP for path in home.glob(pattern)]
            found += [path for path in store.root.glob("[!.]*") if path.name not in STEPS]
            old = [path for path in found if newest(path) < before]
            size = sum(_remove(path) for path in old)
    except InputError as error:
        return f"Nothing was removed: {error}"
    return f"{len(old)} leftovers of killed or older runs are removed ({size_text(size)})."


def newest(path: Path) -> float:
    """When a file, or anything in a folder, was last written, in seconds since 1970; now where it
    goes away meanwhile.
    """
    try:
        return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    except FileNotFoundError:
        return datetime.now().timestamp()


def _remove(path: Path) -> int:
    size = size_of(path) if path.is_dir() else path.stat().st_size
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return size
