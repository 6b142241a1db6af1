"""Opening the files of a data folder: found, readable, with the columns they must have."""

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend
from ibis.util import gen_name

from features.data.fields import Field
from features.errors import InputError
from features.schema import DURATION_SECONDS, Tables, sql_text

FILE, ROW = "_file", "_row"


@dataclass(frozen=True)
class Dialect:
    """How a text file is laid out; `names` are given where the file has no header line.

    `typed_header` takes "user_id:token" as the column user_id; `tolerant` skips lines that do not
    parse, for published files known to have some.
    """

    delimiter: str = ","
    quote: str = '"'
    names: tuple[str, ...] = ()
    encoding: str = "utf-8"
    typed_header: bool = False
    tolerant: bool = False


COMMA = Dialect()


@dataclass(frozen=True)
class Part:
    """One incoming table: where its files are and what is taken from them.

    `patterns` are alternatives; `keep_rest` also takes the columns that no field names.
    """

    table: str
    patterns: tuple[str, ...]
    fields: tuple[Field, ...]
    dialect: Dialect = COMMA
    keep_rest: bool = False


@dataclass(frozen=True)
class Source:
    """A published layout: alternative lists of parts (the interactions first) and what joins the
    parts.

    `repeats` says that the published log itself repeats rows: they are set aside but not held
    against it.
    """

    layouts: tuple[tuple[Part, ...], ...]
    derive: Callable[[dict[str, ir.Table]], Tables] = field(default=lambda parts: Tables(**parts))
    repeats: bool = False


@dataclass(frozen=True)
class Sheet:
    """The rows of one part as they stand in its files, with `_file` (index) and `_row` (from 1) of
    each.
    """

    files: tuple[Path, ...]
    raw: ir.Table
    fields: tuple[Field, ...]
    rest: tuple[str, ...]

    @property
    def is_text(self) -> bool:
        """Whether the ids came as text, so that their type is ours to find."""
        return self.files[0].suffix != ".parquet"

    def typed(self) -> dict[str, ir.Value]:
        """The columns taken, by the names they have here. A duration of 0 is an unknown one."""
        named = {taken.name: taken.value(self.raw[taken.raw]) for taken in self.fields}
        if DURATION_SECONDS in named:
            named[DURATION_SECONDS] = cast(ir.NumericValue, named[DURATION_SECONDS]).nullif(0.0)
        return named | {name: self.raw[name] for name in self.rest}


def find(name: str, source: Source, data: Path) -> dict[Part, tuple[Path, ...]]:
    """The files of each part, by the first layout whose interactions are in the folder."""
    if not data.is_dir():
        raise InputError(
            f"{data}: there is no such folder; --data names the folder that holds the log"
        )
    for layout in source.layouts:
        if _matching(layout[0], data):
            return {part: files for part in layout if (files := _matching(part, data))}
    expected = " or ".join(pattern for layout in source.layouts for pattern in layout[0].patterns)
    raise InputError(
        f"{data}: no interactions of source '{name}' in this folder; expected {expected}"
    )


def _matching(part: Part, data: Path) -> tuple[Path, ...]:
    matches = [tuple(sorted(filter(Path.is_file, data.glob(pattern)))) for pattern in part.patterns]
    found = [files for files in matches if files]
    if len(found) > 1:
        both = " and ".join(files[0].name for files in found)
        raise InputError(f"{data}: {both} both hold the table {part.table}; keep one of them")
    return found[0] if found else ()


def open_sheet(part: Part, files: tuple[Path, ...], backend: Backend) -> Sheet:
    """The files of a part as one table; InputError where one cannot be read or lacks a column."""
    tables = [_open(path, index, part, backend) for index, path in enumerate(files)]
    common = [name for name in tables[0].columns if all(name in table.columns for table in tables)]
    raw = ibis.union(*(table.select(common) for table in tables)) if len(tables) > 1 else tables[0]
    sheet = Sheet(files, raw, _present(part.fields, common), _rest(part, common))
    with refusing_unreadable(files):
        if raw.limit(1).count().execute() == 0:
            raise InputError(
                f"{files[0].name}: the table {part.table} is empty; expected at least one row"
            )
    return sheet


def _open(path: Path, index: int, part: Part, backend: Backend) -> ir.Table:
    table = (
        _open_parquet(path, backend)
        if path.suffix == ".parquet"
        else _open_text(path, part, backend)
    )
    _require_columns(path, part.fields, table)
    if path.suffix == ".parquet":
        _require_types(path, part.fields, table)
    return table.mutate(**{FILE: ibis.literal(index, "int32")})


def _open_parquet(path: Path, backend: Backend) -> ir.Table:
    try:
        pq.ParquetFile(path).close()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path.name}: not a whole Parquet file (is it truncated?); write it again"
        ) from error
    table = _read_parquet(path, backend)
    return table.mutate(**{ROW: table["file_row_number"] + 1}).drop("file_row_number")


def _read_parquet(path: Path, backend: Backend) -> ir.Table:
    """The file with its row numbers; instants in nanoseconds, as pandas writes them, become
    microseconds.
    """
    schema = pq.read_schema(path)
    fine = [f.name for f in schema if pa.types.is_timestamp(f.type) and f.type.unit == "ns"]
    if not fine:
        return backend.read_parquet(path, file_row_number=True)
    # Ibis has no name for DuckDB's instants in nanoseconds, so they are cast before it sees the
    # table.
    quoted = ['"' + name.replace('"', '""') + '"' for name in fine]
    casts = ", ".join(f"CAST({name} AS TIMESTAMPTZ) AS {name}" for name in quoted)
    source = f"read_parquet('{sql_text(path)}', file_row_number = true)"
    name = gen_name("nanoseconds")
    backend.raw_sql(f"CREATE TEMP VIEW {name} AS SELECT * REPLACE ({casts}) FROM {source}")
    return backend.table(name)


def _open_text(path: Path, part: Part, backend: Backend) -> ir.Table:
    names = part.dialect.names or _header(path, part.dialect)
    table = backend.read_csv(
        path,
        columns=dict.fromkeys(names, "VARCHAR"),
        auto_detect=False,
        header=not part.dialect.names,
        delim=part.dialect.delimiter,
        quote=part.dialect.quote,
        escape=part.dialect.quote,
        encoding=part.dialect.encoding,
        ignore_errors=part.dialect.tolerant,
    )
    return table.mutate(**{ROW: ibis.row_number() + 1})


def _header(path: Path, dialect: Dialect) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            line = file.readline()
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path.name}, line 1: the bytes are not UTF-8; save the file as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}); make it readable"
        ) from error
    names = next(csv.reader([text], delimiter=dialect.delimiter), [])
    if dialect.typed_header:
        names = [name.split(":")[0] for name in names]
    if len(set(names)) < len(names):
        raise InputError(
            f"{path.name}, line 1: a column is named twice in {text!r}; names must differ"
        )
    if not names:
        raise InputError(
            f"{path.name}: the file is empty; expected a line of column names and rows below it"
        )
    return tuple(names)


def _require_columns(path: Path, fields: tuple[Field, ...], table: ir.Table) -> None:
    for wanted in fields:
        if wanted.required and wanted.raw not in table.columns:
            found = ", ".join(name for name in table.columns if not name.startswith("_"))
            raise InputError(
                f"{path.name}: column {wanted.raw} is missing (found: {found}); add or rename it"
            )


def _require_types(path: Path, fields: tuple[Field, ...], table: ir.Table) -> None:
    for wanted in _present(fields, list(table.columns)):
        kind = table[wanted.raw].type()
        if not wanted.accepts(kind):
            raise InputError(
                f"{path.name}, column {wanted.raw}: the type is {kind}, "
                f"expected {EXPECTED_TYPES[wanted.kind]}; cast the column and write the file again"
            )


EXPECTED_TYPES = {
    "id": "integers or strings",
    "timestamp": "timestamps (UTC), ISO text or seconds since 1970",
    "flag": "booleans or 0 and 1",
    "number": "numbers",
    "category": "strings or numbers",
    "categories": "lists of strings",
    "text": "strings",
}


def _present(fields: tuple[Field, ...], columns: list[str]) -> tuple[Field, ...]:
    """The fields whose column is there; of several for one name the first."""
    found: dict[str, Field] = {}
    for wanted in fields:
        if wanted.raw in columns:
            found.setdefault(wanted.name, wanted)
    return tuple(found.values())


def _rest(part: Part, columns: list[str]) -> tuple[str, ...]:
    taken = (
        {wanted.raw for wanted in part.fields}
        | {wanted.name for wanted in part.fields}
        | {FILE, ROW}
    )
    return tuple(name for name in columns if part.keep_rest and name not in taken)


@contextmanager
def refusing_unreadable(files: tuple[Path, ...]) -> Iterator[None]:
    """Turn the engine's complaint about the bytes of a file into one sentence."""
    try:
        yield
    except (duckdb.InvalidInputException, duckdb.SerializationException) as error:
        raise InputError(_unreadable(str(error), files)) from error


def _unreadable(complaint: str, files: tuple[Path, ...]) -> str:
    named = [path.name for path in files if str(path) in complaint] or [files[0].name]
    line = re.search(r"CSV Error on Line: (\d+)", complaint)
    place = f"{named[0]}, line {line[1]}" if line else named[0]
    if "not utf-8" in complaint:
        return f"{place}: the bytes are not UTF-8; save the file as UTF-8"
    columns = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", complaint)
    if columns:
        return f"{place}: {columns[2]} columns found, expected {columns[1]}; repair the line"
    return f"{place}: cannot be read ({complaint.splitlines()[0]}); write the file again"
