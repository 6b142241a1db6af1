"""Sources: published layouts of interaction logs, each translated to the contract of
`features.schema`.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from features.data.files import Sheet, Source, find, open_sheet
from features.data.formats import canonical, globo, kuairand, kuairec, movielens, news, recbole
from features.errors import InputError
from features.schema import CLICKED, ITEM, USER, WATCH_SECONDS
from features.tables import Tables

SOURCES: dict[str, Source] = {
    "canonical": canonical.SOURCE,
    "globo": globo.SOURCE,
    "kuairand": kuairand.SOURCE,
    "kuairec": kuairec.SOURCE,
    "movielens": movielens.SOURCE,
    "news": news.SOURCE,
    "recbole": recbole.SOURCE,
    "simulated": canonical.SOURCE,
}


def source_named(name: str) -> Source:
    """The source of that name; InputError, naming the known ones, where there is none."""
    if name not in SOURCES:
        raise InputError(f"source '{name}' is unknown; choose one of {', '.join(SOURCES)}")
    return SOURCES[name]


def source_files(source: str, data: Path) -> list[Path]:
    """The files that `read` would open, in a stable order."""
    parts = find(source, source_named(source), data)
    return sorted(path for files in parts.values() for path in files)


def sheets(source: str, data: Path, backend: Backend) -> dict[str, Sheet]:
    """Each table of the folder as it stands in its files; InputError at a fault of a file or its
    columns.
    """
    found = find(source, source_named(source), data)
    return {part.table: open_sheet(part, files, backend) for part, files in found.items()}


def read(source: str, data: Path, backend: Backend) -> Tables:
    """A data folder as the tables of the contract, lazily: every row, none of them checked.

    Cells that cannot be read are null, `clicked` is true and `watch_seconds` null where the log has
    no such column. `features.data.ingest` is the door that also checks the rows.
    """
    opened = sheets(source, data, backend)
    typed = {name: sheet.typed() for name, sheet in opened.items()}
    open_ids = {name: sheet.open_ids for name, sheet in opened.items()}
    tables = source_named(source).derive(with_id_types(typed, open_ids))
    return without_provenance(with_defaults(tables))


def with_id_types(
    tables: Mapping[str, ir.Table], open_ids: Mapping[str, Collection[str]]
) -> dict[str, ir.Table]:
    """Ids that came as text as integers where all of them are; InputError where two tables cannot
    be joined.

    `open_ids` names, by table, the columns whose type is ours to find. "007" is no integer: it
    would not come back as it was.
    """
    typed = dict(tables)
    for key in (USER, ITEM):
        holders = {name: table for name, table in tables.items() if key in table.columns}
        open_ones = [
            name
            for name in holders
            if key in open_ids.get(name, ()) and holders[name][key].type().is_string()
        ]
        fixed = {
            name: holders[name][key].type().is_string() for name in holders if name not in open_ones
        }
        if (
            open_ones
            and not any(fixed.values())
            and all(_all_whole(holders[name][key]) for name in open_ones)
        ):
            typed |= {
                name: typed[name].mutate(**{key: typed[name][key].cast("int64")})
                for name in open_ones
            }
        _require_one_type(key, {name: typed[name][key].type().is_string() for name in holders})
    return typed


def _all_whole(ids: ir.Value) -> bool:
    whole = (ids.try_cast("int64").cast("string") == ids).fill_null(False) | ids.isnull()
    return bool(whole.all().execute())


def _require_one_type(key: str, is_string: Mapping[str, bool]) -> None:
    strings = [name for name, string in is_string.items() if string]
    integers = [name for name, string in is_string.items() if not string]
    if strings and integers:
        raise InputError(
            f"column {key}: strings in the table {strings[0]}, integers in {integers[0]}; "
            "expected one type in all tables, cast one of them"
        )


def with_defaults(tables: Tables) -> Tables:
    """Interactions with `clicked` (true) and `watch_seconds` (null) where the log has no such
    column.
    """
    log = tables.interactions
    defaults = {CLICKED: ibis.literal(True), WATCH_SECONDS: ibis.null("float64")}
    absent = {name: value for name, value in defaults.items() if name not in log.columns}
    return Tables(log.mutate(**absent), tables.items, tables.users, tables.searches)


def without_provenance(tables: Tables) -> Tables:
    """The tables without the file and row that each line came from."""
    return Tables(
        *(
            _plain(table)
            for table in (tables.interactions, tables.items, tables.users, tables.searches)
        )
    )


def _plain(table: ir.Table | None) -> ir.Table | None:
    if table is None:
        return None
    return table.select([name for name in table.columns if not name.startswith("_")])
