"""Files that are still being written: how they look before they are read, and whether they still
look so afterwards.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from features.data.partitions import file_name
from features.errors import InputError, NotReady


def look_at(files: Iterable[Path]) -> dict[Path, tuple[int, ...]]:
    """How files look before they are read: what `steady` compares them with."""
    return {path: _state(path) for path in files}


@contextmanager
def steady(look: Mapping[Path, tuple[int, ...]]) -> Iterator[None]:
    """NotReady where a file has been written, replaced or removed since it was looked at, whatever
    the reading inside came to.
    """
    try:
        yield
    except (InputError, FileNotFoundError) as error:
        _require_steady(look, error)
        raise
    _require_steady(look)


def digest_of(paths: Iterable[Path], folder: Path) -> str:
    """SHA-256 over the names of files below a folder and their bytes."""
    digests = {}
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests[os.path.relpath(path, folder)] = digest
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _require_steady(look: Mapping[Path, tuple[int, ...]], cause: Exception | None = None) -> None:
    changed = [path for path, state in look.items() if _state(path) != state]
    if changed:
        raise NotReady(
            f"{file_name(changed[0])}: the file changed while it was read, so it is still being "
            "written; write it beside its place and rename it once it is whole"
        ) from cause


def _state(path: Path) -> tuple[int, ...]:
    """Size, time of change and identity of a file; () where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ino
