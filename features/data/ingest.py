"""From a data folder to checked, cleaned, sorted tables in the contract, written as Parquet."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from features.config import CleaningConfig
from features.data.clean import COMPLETED, clean, with_completed
from features.data.database import Database
from features.data.files import FILE, ROW, Sheet, refusing_engine_errors
from features.data.formats import (
    canonical,
    source_files,
    source_named,
    with_defaults,
    with_id_types,
    without_provenance,
)
from features.data.formats import sheets as open_sheets
from features.data.sources import Folder, opened
from features.data.table_checks import (
    durations_watched,
    matches_of,
    odd_things,
    repeat_share_of,
    require_watches,
)
from features.data.validate import Checked, Limits, check, evaluation
from features.errors import InputError
from features.schema import CLICKED, CONTRACTS, ITEM, SECOND, TIMESTAMP, USER, WATCH_SECONDS
from features.tables import Tables, engine, sql_text

__all__ = ["ingest", "source_files"]

# From this share on, repeated clicks are told.
TOLD_REPEATS = 0.05
ORDERS = {"items": [ITEM], "users": [USER], "searches": [USER, TIMESTAMP, FILE, ROW]}


def ingest(
    source: str, data: Path | str, out: Path, config: CleaningConfig, now: datetime
) -> dict[str, Any]:
    """Read, check and clean a data folder or a database; write its tables into `out` and say what
    was done.

    `out` exists and is empty; it receives interactions.parquet (by user, time and original order,
    with the column `completed`), items.parquet, users.parquet and searches.parquet where the log
    has them, and rejected.parquet. Null seconds stay null. The summary holds rows_read, rejected
    (by table and reason), dropped (by rule), missing (columns of the contract that the log has not,
    by table), partial (columns that only some files of a table have, null elsewhere, by table),
    unused (further columns of the log), unread (files of the folder called like a table, and not
    read), matched (the share of the log's rows that each side table describes), odd (sentences),
    rows, users, items (of the rows kept), clicked_share, completed_share, null_seconds_share,
    mean_seconds and repeat_share (of the clicks), first_timestamp, last_timestamp (ISO, UTC) and
    catalogue (rows of items, None without the table). InputError, with nothing written, where the
    input is at fault, NotReady where it is still being written; `now` is the instant after which
    nothing can have happened.
    """
    backend = engine()
    try:
        with (
            TemporaryDirectory(dir=out, prefix=".staging-") as staging,
            opened(source, data, config.since) as view,
            refusing_engine_errors([view.place]),
        ):
            return _ingest(source, view, _Places(backend, Path(staging), out), config, now)
    finally:
        backend.disconnect()


def in_words(summary: Mapping[str, Any]) -> str:
    """What was read, as one line: enough to see that a column is not what it was taken for."""
    rejected = summary["rejected"].get("interactions", {}) | summary["dropped"]
    aside = (
        f" of {summary['rows_read']:,} "
        f"({', '.join(f'{reason}: {n:,}' for reason, n in rejected.items() if n)})"
    )
    mean = summary["mean_seconds"]
    parts = [
        f"{summary['rows']:,} rows{aside if any(rejected.values()) else ''}",
        f"{summary['users']:,} users",
        f"{summary['items']:,} items",
        f"{summary['clicked_share']:.0%} clicked",
        "no watch seconds" if mean is None else f"{mean:,.1f} seconds a click",
    ]
    notes = {
        "not in the log": summary["missing"].get("interactions", []),
        "not in every file": [name for names in summary["partial"].values() for name in names],
        "not used": summary["unused"],
        "not read": summary["unread"],
    }
    if summary["repeat_share"] >= TOLD_REPEATS:
        parts.append(f"{summary['repeat_share']:.0%} of the clicks are repeats")
    return "; ".join(
        [
            ", ".join(parts),
            *summary["odd"],
            *(f"{what}: {', '.join(names)}" for what, names in notes.items() if names),
        ]
    )


class _Places:
    """The engine, the folder for what is not needed afterwards, and the folder of the result."""

    def __init__(self, backend: Backend, staging: Path, out: Path) -> None:
        self.backend, self.staging, self.out = backend, staging, out
        backend.raw_sql(f"SET temp_directory = '{sql_text(staging / 'spill')}'")

    def staged(self, name: str, table: ir.Table) -> ir.Table:
        """The table computed once, as a file that later steps read again and again."""
        path = self.staging / f"{name}.parquet"
        self.backend.to_parquet(table, path)
        return self.backend.read_parquet(path)

    def write(self, name: str, table: ir.Table) -> Path:
        path = self.out / f"{name}.parquet"
        self.backend.to_parquet(table, path)
        return path


def _ingest(
    source: str, view: Folder | Database, places: _Places, config: CleaningConfig, now: datetime
) -> dict[str, Any]:
    limits = Limits(
        config.max_rejected_share,
        now,
        source_named(source).repeats,
        config.max_watch_seconds is not None,
    )
    with view.reading(places.staging) as folder:
        sheets = open_sheets(source, folder, places.backend)
        checked = _check_all(sheets, places, limits)
    derived = source_named(source).derive({name: part.kept for name, part in checked.items()})
    missing = _missing(derived)
    log = places.staged("checked", with_defaults(derived).interactions)
    whole = Tables(log, derived.items, derived.users, derived.searches)
    matches = matches_of(whole)
    tables, dropped = clean(whole, config)
    _require_rows(tables, dropped)
    odd = odd_things(matches, durations_watched(tables))
    kept = _write(tables, checked, places, config)
    return {
        "rows_read": checked["interactions"].rows,
        "rejected": {name: part.counts for name, part in checked.items() if part.counts},
        "dropped": dropped,
        "missing": missing,
        "partial": {name: sheet.partial for name, sheet in sheets.items() if sheet.partial},
        "unused": sorted(
            set(_plain(derived.interactions).columns) - set(CONTRACTS["interactions"].kinds)
            | _untaken(source, sheets)
        ),
        "unread": view.unread(),
        "matched": {name: match.share for name, match in matches.items()},
        "odd": odd,
        **_facts(kept, tables),
    }


def _check_all(sheets: Mapping[str, Sheet], places: _Places, limits: Limits) -> dict[str, Checked]:
    rows: dict[str, ir.Table] = {}
    for name, sheet in sheets.items():
        with refusing_engine_errors(sheet.files, sheet.encoding):
            rows[name] = places.staged(f"checked_{name}", evaluation(sheet, limits))
    typed = with_id_types(rows, {name: sheet.open_ids for name, sheet in sheets.items()})
    return {name: check(name, sheet, typed[name], limits) for name, sheet in sheets.items()}


def _untaken(source: str, sheets: Mapping[str, Sheet]) -> set[str]:
    """The columns of a folder in the contract's own names that nothing is made of; a published
    layout leaves out on purpose what it leaves out.
    """
    if source_named(source) is not canonical.SOURCE:
        return set()
    return {name for sheet in sheets.values() for name in sheet.untaken}


def _missing(tables: Tables) -> dict[str, list[str]]:
    """The columns of the contract that the log has not, by table; the features that read them are
    off.
    """
    missing: dict[str, list[str]] = {}
    for name, contract in CONTRACTS.items():
        table = getattr(tables, name)
        absent = [
            column for column in contract.kinds if table is None or column not in table.columns
        ]
        if absent:
            missing[name] = absent
    return missing


def _require_rows(tables: Tables, dropped: Mapping[str, int]) -> None:
    if tables.interactions.limit(1).count().execute() == 0:
        rules = (
            ", ".join(f"{name} dropped {n}" for name, n in dropped.items()) or "all rows are faulty"
        )
        raise InputError(
            f"no interaction is left after cleaning ({rules}); expected at least one; relax the "
            "rules"
        )


def _write(
    tables: Tables, checked: Mapping[str, Checked], places: _Places, config: CleaningConfig
) -> ir.Table:
    marked = with_completed(tables, config)
    require_watches(marked, config)
    by_user = marked.order_by([USER, TIMESTAMP, FILE, ROW]).drop(FILE, ROW)
    path = places.write("interactions", by_user)
    for name, order in ORDERS.items():
        table = getattr(tables, name)
        if table is not None:
            present = [column for column in order if column in table.columns]
            places.write(name, _plain(table.order_by(present)))
    rejected = ibis.union(*(part.rejected for part in checked.values()), distinct=False)
    places.write("rejected", rejected.order_by(["table", "file", "row"]))
    return places.backend.read_parquet(path)


def _plain(table: ir.Table) -> ir.Table:
    kept: ir.Table | None = without_provenance(Tables(table)).interactions
    return kept


def _facts(log: ir.Table, tables: Tables) -> dict[str, Any]:
    clicks, seconds = log[CLICKED], log[WATCH_SECONDS]
    # Whole microseconds: a sum of floating seconds depends on which thread adds first.
    micros = (seconds * SECOND).round().cast("int64")
    facts = log.agg(
        rows=log.count(),
        users=log[USER].nunique(),
        items=log[ITEM].nunique(),
        clicked_share=clicks.mean(),
        completed_share=log[COMPLETED].mean(where=clicks),
        repeat_share=repeat_share_of(log),
        null_seconds_share=seconds.isnull().mean(where=clicks),
        known_seconds=seconds.count(where=clicks),
        all_micros=micros.sum(where=clicks),
        first_timestamp=log[TIMESTAMP].min(),
        last_timestamp=log[TIMESTAMP].max(),
    )
    found: dict[str, Any] = facts.to_pyarrow().to_pylist()[0]
    known, total = found.pop("known_seconds"), found.pop("all_micros")
    found["mean_seconds"] = int(total) / known / SECOND if known else None
    for name in ("first_timestamp", "last_timestamp"):
        found[name] = found[name].astimezone(UTC).isoformat()
    catalogue = None if tables.items is None else int(tables.items.count().execute())
    return {**found, "catalogue": catalogue}
