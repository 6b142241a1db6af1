"""The artefact store: versioned folders, each with a manifest, published by one rename.

    root/<artefact>/<version>/...files, manifest.json
    root/<artefact>/evaluation, serving                  name the versions in force

A version is the hash of everything that determines an artefact: its step, configuration, the code
that the step reaches and the content of its parents. So an artefact that exists is an artefact that
is up to date, and a process killed at any instant leaves the old version or the new one, never a
mixture.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from features.errors import InputError

MANIFEST, KEPT_VERSIONS = "manifest.json", 3
# What a version is in force for: to be evaluated on a test window, or to be served as of now.
Purpose = Literal["evaluation", "serving"]
PURPOSES: tuple[Purpose, ...] = ("evaluation", "serving")
PARTIAL, SCRATCH, PARTS = ".partial-", ".scratch-", ".parts"
# Longer than any step takes.
LONGEST_STEP_SECONDS = 7 * 24 * 3600
# A folder for what no rerun repeats (seconds, speeds, pictures of them): described, but no part of
# the content.
MEASURED = "measured"


@dataclass(frozen=True)
class ArtefactKey:
    """Everything that determines an artefact: two equal recipes give equal content."""

    name: str
    config: dict[str, Any]
    code: str
    parents: dict[str, str]

    @property
    def version(self) -> str:
        return _digest(canonical_json(asdict(self)).encode())[:16]

    @property
    def choices(self) -> str:
        """A digest of the settings and the code, whatever the data."""
        return _digest(canonical_json([self.config, self.code]).encode())[:16]


@dataclass(frozen=True)
class Manifest:
    """What an artefact is made of: its recipe, and a hash, size and shape for each of its files."""

    name: str
    version: str
    content: str
    files: dict[str, dict[str, Any]]
    config: dict[str, Any]
    code: str
    parents: dict[str, str]


@dataclass(frozen=True)
class InForce:
    """The version in force of an artefact, and the run that put it there: its key, and when it was
    asked for (ISO, UTC; "" unknown).
    """

    version: str
    run: str = ""
    started: str = ""


class Store:
    """Artefacts under one root, in force for a purpose; `pinned` names versions to read instead.

    `run` and `started` say who makes artefacts here, and since when.
    """

    def __init__(
        self,
        root: Path,
        pinned: Mapping[str, str] | None = None,
        purpose: Purpose = "evaluation",
        run: str = "",
        started: str = "",
    ) -> None:
        self.root, self.purpose = root, purpose
        self.pinned = dict(pinned or {})
        self.run, self.started = run, started

    def manifest(self, name: str) -> Manifest:
        """The manifest in force; InputError when the artefact was never made."""
        path = self.path(name) / MANIFEST
        return Manifest(**json.loads(path.read_text()))

    def path(self, name: str) -> Path:
        """The folder of the version in force; InputError when the artefact was never made."""
        version = self._version(name)
        if version is None or not (self.root / name / version / MANIFEST).exists():
            raise InputError(
                f"{self.root}: there is no artefact `{name}`"
                f"{f' of version {version}' if version else ''}; run the steps before it first."
            )
        return self.root / name / version

    def holds(self, artefact_key: ArtefactKey) -> bool:
        """Whether this very artefact has been made already."""
        return (self.root / artefact_key.name / artefact_key.version / MANIFEST).exists()

    def is_current(self, artefact_key: ArtefactKey) -> bool:
        """Whether this very artefact is the one in force."""
        return self.holds(artefact_key) and self._version(artefact_key.name) == artefact_key.version

    def make(self, artefact_key: ArtefactKey, write: Callable[[Path], None]) -> Manifest:
        """The artefact of a key: taken as it is where it exists, else written, described and
        renamed; it is in force then. InputError where that would undo what a newer run has done.
        """
        home = self.root / artefact_key.name
        self._refuse_if_superseded(artefact_key)
        if not self.holds(artefact_key):
            with _fresh_folder(home, artefact_key.version) as partial:
                write(partial)
                manifest = _describe(artefact_key, partial)
                (partial / MANIFEST).write_text(canonical_json(asdict(manifest), indent=1))
                partial.rename(home / artefact_key.version)
        # The oldest go first, by when they were last in force.
        os.utime(home / artefact_key.version)
        in_force = InForce(artefact_key.version, self.run, self.started)
        write_atomically(home / self.purpose, canonical_json(asdict(in_force)).encode())
        _sweep(home, SCRATCH)
        self.pinned.pop(artefact_key.name, None)
        _prune(home)
        return self.manifest(artefact_key.name)

    def _refuse_if_superseded(self, artefact_key: ArtefactKey) -> None:
        newer = _in_force(self.root / artefact_key.name, self.purpose)
        if newer and newer.started > self.started and newer.version != artefact_key.version:
            raise InputError(
                f"`{artefact_key.name}` of the run {self.run} is superseded by that of the run "
                f"{newer.run}, asked for at {newer.started}: rerun that one, or start a new one."
            )

    def scratch(self, artefact_key: ArtefactKey) -> Path:
        """A folder, not made yet, for what a killed attempt at this very artefact leaves for the
        next one.
        """
        return self.root / artefact_key.name / f"{SCRATCH}{artefact_key.version}"

    def parts(self, name: str) -> Path:
        """A folder, not made yet, for what later versions of an artefact may be made of."""
        return self.root / name / PARTS

    def versions(self) -> dict[str, str]:
        """The version in force of every artefact."""
        names = sorted(path.parent.name for path in self.root.glob(f"*/{self.purpose}"))
        return {name: version for name in names if (version := self._version(name))}

    def made(self, name: str) -> list[Manifest]:
        """Every whole version of an artefact, in force or not, by version."""
        paths = sorted(self.root.glob(f"{name}/[!.]*/{MANIFEST}"))
        return [Manifest(**json.loads(path.read_text())) for path in paths]

    def folder(self, manifest: Manifest) -> Path:
        """Where a version lies."""
        return self.root / manifest.name / manifest.version

    def remove(self, manifest: Manifest) -> None:
        """Remove a version, and what later ones would be made of; where it is in force none is in
        force any more.
        """
        home = self.root / manifest.name
        shutil.rmtree(home / PARTS, ignore_errors=True)
        for purpose in PURPOSES:
            in_force = _in_force(home, purpose)
            if in_force and in_force.version == manifest.version:
                (home / purpose).unlink()
        _remove(home, manifest.version)

    def sweep_scratch(self) -> None:
        """Remove what attempts that were killed left for the next ones."""
        for home in self.root.iterdir():
            _sweep(home, SCRATCH)

    def _version(self, name: str) -> str | None:
        in_force = _in_force(self.root / name, self.purpose)
        return self.pinned.get(name) or (in_force.version if in_force else None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for one run; InputError while another process holds it. A killed holder
        lets go.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{self.root}: another run is writing here; wait for it or choose another "
                    "place."
                ) from None
            yield


def store_in(home: Path) -> Store:
    """The artefacts of a home as they are evaluated, or where nothing is, as they are served."""
    evaluated = Store(home / "artefacts")
    return evaluated if evaluated.versions() else Store(home / "artefacts", purpose="serving")


def canonical_json(value: Any, indent: int | None = None) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, indent=indent, default=str)


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` by a rename: readers see the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def publish(source: Path, target: Path) -> None:
    """Show a copy of an artefact's file at a well-known place, in one rename."""
    if is_published(source, target):
        return
    target.parent.mkdir(exist_ok=True)
    # A copy, no link: who writes into the shown file must not reach the artefact behind it.
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy2(source, partial)
    partial.replace(target)


def is_published(source: Path, target: Path) -> bool:
    """Whether `publish` has nothing to do."""
    return target.exists() and _stamp(target) == _stamp(source)


def link(source: Path, target: Path) -> None:
    """Let a name beside or above a file point to it, in one rename."""
    if is_linked(source, target):
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.symlink_to(source.relative_to(target.parent))
    partial.replace(target)


def is_linked(source: Path, target: Path) -> bool:
    """Whether `link` has nothing to do."""
    return target.is_symlink() and target.readlink() == source.relative_to(target.parent)


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


@contextmanager
def _fresh_folder(home: Path, version: str) -> Iterator[Path]:
    """An empty folder to fill; whatever is still in it at the end is removed."""
    home.mkdir(parents=True, exist_ok=True)
    _sweep(home)
    partial = home / f"{PARTIAL}{version}"
    partial.mkdir()
    try:
        yield partial
    finally:
        _sweep(home)


def _sweep(home: Path, kind: str = PARTIAL) -> None:
    """Remove what killed processes left half written or half removed."""
    for leftover in home.glob(f"{kind}*"):
        shutil.rmtree(leftover)


def _describe(artefact_key: ArtefactKey, folder: Path) -> Manifest:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {str(path.relative_to(folder)): _file_facts(path) for path in paths}
    repeatable = {
        name: facts["digest"]
        for name, facts in files.items()
        if not name.startswith(f"{MEASURED}/") and not name.endswith(".png")
    }
    content = _digest(canonical_json(repeatable).encode())
    return Manifest(
        artefact_key.name,
        artefact_key.version,
        content,
        files,
        artefact_key.config,
        artefact_key.code,
        artefact_key.parents,
    )


def _file_facts(path: Path) -> dict[str, Any]:
    from features.tables import parquet_schema

    facts: dict[str, Any] = {"digest": content_digest(path), "bytes": path.stat().st_size}
    return facts | (parquet_schema(path) if path.suffix == ".parquet" else {})


def _in_force(home: Path, purpose: Purpose) -> InForce | None:
    pointer = home / purpose
    return InForce(**json.loads(pointer.read_text())) if pointer.exists() else None


def _prune(home: Path) -> None:
    """Keep what is in force and the newest few others: runs that still read an older one finish on
    it.
    """
    in_force = {found.version for purpose in PURPOSES if (found := _in_force(home, purpose))}
    versions = [path for path in home.iterdir() if path.is_dir() and path.name[0] != "."]
    others = [path for path in versions if path.name not in in_force]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[KEPT_VERSIONS - 1 :]:
        _remove(home, old.name)
    # Parts that no kept version was made of: whoever makes a version touches its parts.
    kept = [path for path in versions if path.exists()]
    began = min(path.stat().st_mtime for path in kept)
    for part in (home / PARTS).glob("*"):
        if part.stat().st_mtime < began - LONGEST_STEP_SECONDS:
            shutil.rmtree(part)
    _sweep(home)


def _remove(home: Path, version: str) -> None:
    # Out of sight first: a version whose removal is cut short must not look whole.
    (home / version).rename(home / f"{PARTIAL}{version}")
    _sweep(home)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of a file's content: of the rows in order for Parquet, of the bytes otherwise."""
    from features.tables import parquet_digest

    return parquet_digest(path) if path.suffix == ".parquet" else file_digest(path)
