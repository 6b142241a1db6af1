"""Forgetting users: every version of an artefact that was made of their rows goes, whole.

What was learnt of a user cannot be taken out of weights or indexes, so nothing is edited: a version
is removed, and made anew of a log without the user.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import InputError
from features.schema import TIMESTAMP, USER
from features.tables import table_at
from funnel.pipeline import PUBLISHED, STEPS, Request
from funnel.store import PURPOSES, Manifest, Store

LOG = "interactions"


@dataclass(frozen=True)
class Forgotten:
    """What was removed: how many versions of each artefact, and rows of the files at the home's
    top.
    """

    versions: Counter[str]
    rows: Counter[str]

    @property
    def described(self) -> str:
        """For people: `interactions 2, split 2`."""
        return ", ".join(f"{name} {n:,}" for name, n in (self.versions + self.rows).items())


def forget(users: Sequence[str], out: Path) -> Forgotten:
    """Remove what a home holds of some users, raw ids as text: every version made of their rows,
    those in force too, and their rows of the lists at its top. InputError where there is no home.
    """
    store = Store(out / "artefacts")
    if not store.root.is_dir():
        raise InputError(f"{out}: there are no artefacts here; --out names the folder of a run.")
    with store.locked():
        held = [each for each in store.made(LOG) if _holds(store.folder(each), users)]
        versions = _remove(store, _made_of(store, held))
        store.sweep_scratch()
        files = [
            out / purpose / file
            for purpose in PURPOSES
            for files in PUBLISHED.values()
            for file in files
        ]
        return Forgotten(
            versions, Counter({str(path.relative_to(out)): _drop(path, users) for path in files})
        )


def forget_erased(request: Request) -> list[str]:
    """Remove the older versions that were made of users whom the log has lost, and say so.

    Lost is who had rows in the time that the log still covers, under the same cleaning, and has
    none now: somebody erased them. Who dropped out of a moving window is not lost.
    """
    store = request.store
    current = store.manifest(LOG)
    older = [each for each in store.made(LOG) if each.version != current.version]
    held = [each for each in older if _has_lost(store, each, current)]
    if not held:
        return []
    in_force = {
        each
        for purpose in PURPOSES
        for each in Store(store.root, purpose=purpose).versions().items()
    }
    made = [each for each in _made_of(store, held) if (each.name, each.version) not in in_force]
    removed = Forgotten(_remove(store, made), Counter())
    return [
        "Users are gone from the log: older versions made of their rows were removed "
        f"({removed.described})."
    ]


def _holds(folder: Path, users: Sequence[str]) -> bool:
    """Whether a version of the log has a row of a user in any of its tables."""
    return any(
        table_at(path).filter(lambda rows: rows[USER].cast("string").isin(users)).count().execute()
        for path in folder.glob("*.parquet")
        if USER in pq.read_schema(path).names
    )


def _has_lost(store: Store, older: Manifest, current: Manifest) -> bool:
    if older.config != current.config:
        return False
    new = table_at(store.folder(current) / f"{LOG}.parquet")
    span = new.aggregate(first=new[TIMESTAMP].min(), last=new[TIMESTAMP].max())
    first, last = span.to_pyarrow().to_pylist()[0].values()
    old = table_at(store.folder(older) / f"{LOG}.parquet", new.get_backend())
    covered = old.filter(old[TIMESTAMP].between(first, last)).select(USER).distinct()
    if covered[USER].type() != new[USER].type():
        return False
    return bool(covered.anti_join(new.select(USER).distinct(), USER).count().execute())


def _made_of(store: Store, logs: Collection[Manifest]) -> list[Manifest]:
    """Some versions of the log and all that was made of them, the log first."""
    found = list(logs)
    for name, step in STEPS.items():
        contents = {(each.name, each.content) for each in found}
        found += [
            each
            for each in store.made(name)
            if name != LOG
            and any((parent, each.parents.get(parent)) in contents for parent in step.parents)
        ]
    return found


def _remove(store: Store, made: Collection[Manifest]) -> Counter[str]:
    # What was made last goes first: what is cut short leaves no version without its parents.
    for each in reversed(list(made)):
        store.remove(each)
    return Counter(each.name for each in made)


def _drop(path: Path, users: Sequence[str]) -> int:
    """Rewrite a list without the rows of some users; returns how many those were."""
    if path.suffix != ".parquet" or not path.exists():
        return 0
    rows = pq.read_table(path)
    theirs = pc.is_in(pc.cast(rows[USER], pa.string()), value_set=pa.array(users, pa.string()))
    kept = rows.filter(pc.invert(theirs))
    if len(kept) < len(rows):
        partial = path.with_name(f".{path.name}.partial")
        pq.write_table(kept, partial, compression="zstd", compression_level=1)
        partial.replace(path)
    return len(rows) - len(kept)
