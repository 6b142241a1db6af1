"""Forgetting users: every version of an artefact that was made of their rows goes, whole.

What was learnt of a user cannot be taken out of weights or indexes, so nothing is edited: a version
is removed, and made anew of a log without the user. The same goes for the copies in MLflow. What
nobody can tell to be free of a user, such as towers kept for refreshes and what killed runs left,
goes as well.

Copies of the databases, logs and descriptions hold no rows of the log.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import InputError
from features.schema import TIMESTAMP, USER
from features.tables import table_at
from funnel.maintenance.leftovers import leftovers_in, remove
from funnel.pipeline import LOG, PUBLISHED, STEPS, Request
from funnel.store import PARTS, PURPOSES, Manifest, Store
from funnel.tracking import remove_files


@dataclass(frozen=True)
class Forgotten:
    """What was removed: how many versions of each artefact, rows of the files at the home's top,
    other things that may have been made of the users' rows, and MLflow runs that lost their files.
    """

    versions: Counter[str]
    rows: Counter[str]
    others: int = 0
    runs: int = 0

    @property
    def described(self) -> str:
        """For people: `interactions 2, split 2`."""
        others = Counter({"kept for later runs": self.others, "files of MLflow runs": self.runs})
        counts = self.versions + self.rows + others
        return ", ".join(f"{name} {n:,}" for name, n in counts.items())


def forget(users: Sequence[str], out: Path, tracking: str | None = None) -> Forgotten:
    """Remove what a home and its MLflow hold of some users, raw ids as text: every version made of
    their rows, those in force too, their rows of the lists at its top, and whatever cannot be told
    to be free of them. MLflow's database lies below the home unless its address is given.
    InputError where there is no home.

    No run may be going on in Airflow meanwhile: it would write what it has read before.
    """
    store = Store(out / "artefacts")
    if not store.root.is_dir():
        raise InputError(f"{out}: there are no artefacts here; --out names the folder of a run.")
    with store.locked():
        logs = store.made(LOG)
        held = [each for each in logs if _holds(store.folder(each), users)]
        others = {*store.root.glob(f"*/{PARTS}/*"), *leftovers_in(out)}
        versions = _remove(store, _made_of(store, held))
        remove(others)
        files = [
            out / purpose / file
            for purpose in PURPOSES
            for files in PUBLISHED.values()
            for file in files
        ]
        rows = Counter({str(path.relative_to(out)): _drop(path, users) for path in files})
    # Of data that the home no longer holds nobody can tell who was in them.
    free = _data_of(each for each in logs if each not in held) - _data_of(held)
    file = out.resolve() / "mlflow" / "mlflow.db"
    tracking = tracking or (f"sqlite:///{file}" if file.exists() else None)
    runs = remove_files(tracking, lambda data: data not in free)
    return Forgotten(versions, rows, len(others), runs)


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
    versions = _remove(store, made)
    lost = _data_of(held) - _data_of(each for each in store.made(LOG))
    runs = remove_files(request.tracking, lambda data: data in lost)
    removed = Forgotten(versions, Counter(), runs=runs)
    return [
        "Users are gone from the log: older versions made of their rows were removed "
        f"({removed.described})."
    ]


def _data_of(logs: Iterable[Manifest]) -> set[str]:
    """The digests of the data that versions of the log were read from."""
    return {data for each in logs if (data := each.parents.get("data"))}


def _holds(folder: Path, users: Sequence[str]) -> bool:
    """Whether a version of the log has a row of a user in any of its tables."""
    return any(
        table_at(path).filter(lambda rows: rows[USER].cast("string").isin(users)).count().execute()
        for path in folder.rglob("*.parquet")
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
