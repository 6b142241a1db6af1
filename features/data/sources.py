"""What `--data` names, opened: a folder of files or a database, seen once.

with opened("canonical", "/data/log") as data:
    key = data.digest()
    with data.reading(staging) as folder:
        ...  # the files that the digest is of
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from pathlib import Path

from features.data.database import Database, address_without_password, is_address
from features.data.formats import canonical, source_files, source_named
from features.data.steady import digest_of, look_at, steady
from features.errors import InputError, NotReady
from features.schema import CONTRACTS

Key = tuple[str, str, datetime | None]


class Folder:
    """One look at the files of a data folder; NotReady where they are written meanwhile."""

    def __init__(self, source: str, place: Path) -> None:
        self.source, self.place = source, place
        self.files = source_files(source, place)

    def digest(self) -> str:
        """Digest of the bytes of the files that the source reads, and of their names."""
        with steady(self._look):
            return digest_of(self.files, self.place)

    @contextmanager
    def reading(self, staging: Path) -> Iterator[Path]:  # noqa: ARG002
        """The folder itself, whose files hold still inside."""
        with steady(self._look):
            if source_files(self.source, self.place) != self.files:
                raise NotReady(
                    f"{self.place}: files came or went while the folder was read; write them "
                    "beside their places and rename them together"
                )
            yield self.place

    def unread(self) -> list[str]:
        """Files of the folder that are called like a table of the contract and are not read."""
        return unread_files(self.place, self.files)

    @cached_property
    def _look(self) -> dict[Path, tuple[int, ...]]:
        return look_at(self.files)


_OPEN: ContextVar[tuple[Key, Folder | Database]] = ContextVar("open_data")


@contextmanager
def opened(
    source: str, data: Path | str, since: datetime | None = None
) -> Iterator[Folder | Database]:
    """One look at the data of a source, which all that happens inside shares: what is read is what
    the digest is of. `since` bounds what a database is asked for.
    """
    place = address_without_password(str(data)) if is_address(data) else str(data)
    key, held = (source, place, since), _OPEN.get(None)
    if held is not None and held[0] == key:
        yield held[1]
    elif is_address(data):
        _require_tables(source)
        with Database(place, since) as database, _shared(key, database):
            yield database
    else:
        folder = Folder(source, Path(data))
        with _shared(key, folder):
            yield folder


@contextmanager
def _shared(key: Key, view: Folder | Database) -> Iterator[None]:
    token = _OPEN.set((key, view))
    try:
        yield
    finally:
        _OPEN.reset(token)


def address_of(source: str, data: Path | str) -> str:
    """What `--data` names as a request carries it: an absolute folder whose files are there, or the
    address of a database without its password.
    """
    if is_address(data):
        _require_tables(source)
        return address_without_password(str(data))
    source_files(source, Path(data))
    return str(Path(data).resolve())


def _require_tables(source: str) -> None:
    if source_named(source) is not canonical.SOURCE:
        raise InputError(
            f"source '{source}' is a layout of files, and --data names a database; its tables are "
            "read as source 'canonical'"
        )


def unread_files(data: Path, read: Collection[Path]) -> list[str]:
    """Files of the folder that are called like a table of the contract, or lie in a folder that is,
    and are not read.
    """
    named = [path for name in CONTRACTS for path in data.glob(f"{name}*")]
    inside = [path for folder in named if folder.is_dir() for path in folder.rglob("*")]
    places = {path: path.relative_to(data) for path in (*named, *inside) if path.is_file()}
    return sorted(
        str(place)
        for path, place in places.items()
        if path not in read and not any(name.startswith((".", "_")) for name in place.parts)
    )
