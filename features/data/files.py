"""Opening the files of a data folder: found, readable, with the columns they must have."""

import csv
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import cast

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend
from ibis.common.exceptions import IbisError
from ibis.util import gen_name

from features.data.fields import TYPES, UTC, Field
from features.data.partitions import file_name, is_part, partition_of
from features.errors import InputError, NotReady
from features.schema import DURATION_SECONDS
from features.tables import Tables, sql_text

INTERACTIONS = "interactions"
FILE, ROW = "_file", "_row"
# How a Parquet file begins, and how it ends.
PARQUET = b"PAR1"
# What columns without a name are called, before their number; nothing is made of them.
UNNAMED = "_unnamed_"
# Up to so many text files of a table are read one by one.
FEW_FILES = 8


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
class Page:
    """The rows of one file, or of several of one schema that follow each other, as they stand, with
    `_file` (its index) and `_row` (from 1) of each.

    `keys` are the partition columns of its files: names that their folders give, as in
    `day=2024-05-01`.
    """

    files: tuple[Path, ...]
    raw: ir.Table
    fields: tuple[Field, ...]
    rest: tuple[str, ...]
    keys: frozenset[str] = frozenset()

    def typed(self, schema: Mapping[str, dt.DataType]) -> dict[str, ir.Value]:
        """The columns of a schema, each in its type; null throughout where the file has no such
        column. A duration of 0 is an unknown one.
        """
        found = {taken.name: taken.value(self.raw[taken.raw]) for taken in self.fields}
        if DURATION_SECONDS in found:
            found[DURATION_SECONDS] = cast(ir.NumericValue, found[DURATION_SECONDS]).nullif(0.0)
        found |= {name: self.raw[name] for name in self.rest}
        return {
            name: found[name].cast(kind) if name in found else ibis.null(kind)
            for name, kind in schema.items()
        }


@dataclass(frozen=True)
class Sheet:
    """One incoming table as it stands in its files, page by page, and the one schema that all pages
    are cast to before they are united.

    `open_ids` are the id columns whose type is ours to find: they came as text, unsigned, or of two
    types.
    """

    files: tuple[Path, ...]
    pages: tuple[Page, ...]
    schema: Mapping[str, dt.DataType]
    open_ids: frozenset[str]
    encoding: str = "utf-8"

    def page_of(self, file: int) -> Page:
        """The page that holds the file of an index."""
        return next(page for page in self.pages if self.files[file] in page.files)

    def united(self, columns: Callable[[Page], Mapping[str, ir.Value]]) -> ir.Table:
        """What is made of each page, with `_file` and `_row`, as one table; equal columns of all
        pages.
        """
        pages = [page.raw.select(FILE, ROW, **columns(page)) for page in self.pages]
        return ibis.union(*pages) if len(pages) > 1 else pages[0]

    def typed(self) -> ir.Table:
        """All rows in the sheet's schema."""
        return self.united(lambda page: page.typed(self.schema))

    @property
    def partial(self) -> list[str]:
        """The columns that only some of the files have."""
        return [
            name
            for name in self.schema
            if not all(name in names_of(page.fields) | {*page.rest} for page in self.pages)
        ]

    @property
    def untaken(self) -> set[str]:
        """The columns of the files, and of their folders, that nothing is made of; those without a
        name have none here.
        """
        return {
            name
            for page in self.pages
            for name in (*page.raw.columns, *page.keys)
            if name not in {FILE, ROW, *page.rest, *(taken.raw for taken in page.fields)}
            and not name.startswith(UNNAMED)
        }


def names_of(fields: Iterable[Field]) -> set[str]:
    """The names that fields have here."""
    return {taken.name for taken in fields}


def find(name: str, source: Source, data: Path) -> dict[Part, tuple[Path, ...]]:
    """The files of each part, by the first layout whose interactions are in the folder; NotReady
    where there is no such folder, or nothing in it but what belongs to the interactions.
    """
    if not data.exists():
        raise NotReady(
            f"{data}: there is no such folder; --data names the folder that holds the log"
        )
    if not data.is_dir():
        raise InputError(f"{data}: this is a file; --data names the folder that holds the log")
    for layout in source.layouts:
        if _matching(layout[0], data):
            return {part: files for part in layout if (files := _matching(part, data))}
    expected = " or ".join(pattern for layout in source.layouts for pattern in layout[0].patterns)
    sentence = f"{data}: no interactions of source '{name}' in this folder; expected {expected}"
    there = [path for path in data.iterdir() if not path.name.startswith((".", "_"))]
    announced = any(_matching(part, data) for layout in source.layouts for part in layout[1:])
    if announced or all(path.is_dir() and path.stem == INTERACTIONS for path in there):
        raise NotReady(sentence)
    raise InputError(sentence)


def _matching(part: Part, data: Path) -> tuple[Path, ...]:
    matches = [
        tuple(sorted(path for path in data.glob(pattern) if is_part(path, data)))
        for pattern in part.patterns
    ]
    found = [files for files in matches if files]
    if len(found) > 1:
        both = " and ".join(str(files[0].relative_to(data)) for files in found)
        raise InputError(f"{data}: {both} both hold the table {part.table}; keep one of them")
    return found[0] if found else ()


def open_sheet(part: Part, files: tuple[Path, ...], backend: Backend) -> Sheet:
    """The files of a part, each on its own; InputError where one cannot be read or lacks a column
    that it must have.
    """
    is_text = files[0].suffix != ".parquet"
    with refusing_engine_errors(files, part.dialect.encoding):
        pages = tuple((_text_pages if is_text else _parquet_pages)(files, part, backend))
        _require_one_spelling(pages, part)
        if not any(page.raw.limit(1).count().execute() for page in pages):
            raise InputError(
                f"{file_name(files[0])}: the table {part.table} is empty; expected at least one row"
            )
    schema, mixed = _schema(part, pages)
    ids = {taken.name for taken in part.fields if taken.kind == "id"} & set(schema)
    return Sheet(files, pages, schema, frozenset(ids if is_text else mixed), part.dialect.encoding)


def _parquet_pages(files: tuple[Path, ...], part: Part, backend: Backend) -> Iterator[Page]:
    """Files of one schema in a row are read at once: a year of days is one query, not 365."""
    kinds = [(_parquet_schema(path), [*partition_of(path)]) for path in files]
    for start, end in _runs(kinds):
        table = _read_parquet(files[start:end], kinds[start][0], backend)
        _require_types(files[start], part.fields, table)
        yield _numbered_page(files[start:end], start, table, part)


def _text_pages(files: tuple[Path, ...], part: Part, backend: Backend) -> Iterator[Page]:
    """Many files of one header in a row are read at once, too; to number their rows they are
    counted first, so a few are read one by one.
    """
    kinds = [(_header(path, part.dialect), [*partition_of(path)]) for path in files]
    one_by_one = [(n, n + 1) for n in range(len(files))]
    for start, end in one_by_one if len(files) <= FEW_FILES else _runs(kinds):
        table = _open_text(files[start:end], kinds[start][0], part.dialect, backend)
        yield _numbered_page(files[start:end], start, table, part)


def _runs(kinds: Sequence[object]) -> Iterator[tuple[int, int]]:
    """The starts and ends of the runs of equal values."""
    starts = [n for n in range(len(kinds)) if n == 0 or kinds[n] != kinds[n - 1]]
    return pairwise([*starts, len(kinds)])


def _numbered_page(files: tuple[Path, ...], start: int, table: ir.Table, part: Part) -> Page:
    """The page of files that are read at once, the first of them the table's file `start`."""
    table = table.mutate(**_partition_columns(files, part, table))
    _require_columns(files[0], part.fields, table)
    columns, keys = list(table.columns), frozenset(partition_of(files[0]))
    numbered = table.mutate(**{FILE: (table[FILE] + start).cast("int32")})
    return Page(files, numbered, _present(part.fields, columns), _rest(part, columns), keys)


def _partition_columns(
    files: Sequence[Path], part: Part, table: ir.Table
) -> dict[str, ir.StringColumn]:
    """What the folders of files say of their rows, as text, where a field names it and the files do
    not: of other partition columns, such as the day, the rows know better.
    """
    values = [partition_of(path) for path in files]
    wanted = [taken.raw for taken in part.fields if taken.raw in values[0]]
    return {
        name: ibis.array([ibis.literal(value[name], "string") for value in values])[table[FILE]]
        for name in wanted
        if name not in table.columns
    }


def _schema(part: Part, pages: tuple[Page, ...]) -> tuple[dict[str, dt.DataType], set[str]]:
    """The one type of each column of all pages, in the order of the part's fields, and the ids that
    are text though they may be integers.
    """
    schema: dict[str, dt.DataType] = {}
    mixed: set[str] = set()
    for name in dict.fromkeys(taken.name for taken in part.fields):
        found = [taken for page in pages for taken in page.fields if taken.name == name]
        if found:
            schema[name] = TYPES[found[0].kind]
    for name in [name for name in schema if any(_ids(page, name) for page in pages)]:
        raws = [raw for page in pages for raw in _ids(page, name) if not raw[1].type().is_null()]
        strings = {taken.value(raw).type().is_string() for taken, raw in raws}
        if True in strings:
            schema[name] = dt.string
        of_folders = any(taken.raw in page.keys for page in pages for taken, _ in _ids(page, name))
        if strings == {True, False} or of_folders or _any_unsigned(raws):
            mixed.add(name)
    for name in dict.fromkeys(name for page in pages for name in page.rest):
        schema[name] = _common_type([page.raw[name].type() for page in pages if name in page.rest])
    return schema, mixed


def _ids(page: Page, name: str) -> list[tuple[Field, ir.Column]]:
    return [
        (taken, page.raw[taken.raw])
        for taken in page.fields
        if taken.name == name and taken.kind == "id"
    ]


def _any_unsigned(raws: list[tuple[Field, ir.Column]]) -> bool:
    return any(raw.type().is_uint64() for _, raw in raws)


def _common_type(kinds: list[dt.DataType]) -> dt.DataType:
    """A type that holds what columns of several types hold; text where nothing else does."""
    known = {kind.copy(nullable=True) for kind in kinds if not kind.is_null()}
    if len(known) == 1:
        return known.pop()
    if known and all(kind.is_integer() and not kind.is_uint64() for kind in known):
        return dt.int64
    if known and all(kind.is_numeric() and not kind.is_boolean() for kind in known):
        return dt.float64
    if known and all(kind.is_timestamp() or kind.is_date() for kind in known):
        return UTC
    if known and all(kind.is_array() for kind in known):
        return dt.Array(dt.string)
    return dt.string


def _require_one_spelling(pages: tuple[Page, ...], part: Part) -> None:
    """InputError where a column is spelt in two ways, in two files or by a file and the contract:
    the engine takes both for one.
    """
    spelt = {taken.raw.casefold(): taken.raw for taken in part.fields} if part.keep_rest else {}
    for page in pages:
        file = file_name(page.files[0])
        for name in page.raw.columns if part.keep_rest else ():
            known = spelt.setdefault(name.casefold(), name)
            if name != known:
                raise InputError(
                    f"{file}: column {name} differs from {known} in nothing but case; name it "
                    f"{known}, or otherwise"
                )


def _parquet_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file, without what their writer noted beside them."""
    try:
        schema = pq.read_schema(path).remove_metadata()
    except (pa.ArrowInvalid, OSError) as error:
        if _lacks_its_end(path):
            raise NotReady(_waiting(path)) from error
        raise InputError(
            f"{file_name(path)}: not a Parquet file that can be read; write it again"
        ) from error
    _require_distinct(file_name(path), schema.names)
    return schema


def _lacks_its_end(path: Path) -> bool:
    """Whether a file begins as Parquet does and does not end so: its footer is written last."""
    try:
        with path.open("rb") as file:
            start, size = file.read(len(PARQUET)), file.seek(0, os.SEEK_END)
            file.seek(max(size - len(PARQUET), 0))
            end = file.read()
    except OSError:
        return False
    return PARQUET.startswith(start) and (size <= 2 * len(PARQUET) or end != PARQUET)


def _read_parquet(files: Sequence[Path], schema: pa.Schema, backend: Backend) -> ir.Table:
    """Files of one schema with the number of each file, from 0, and row, from 1; instants in
    nanoseconds, as pandas writes them, become microseconds.
    """
    # Ibis has no name for DuckDB's instants in nanoseconds, so they are cast before it sees the
    # table; nor does DuckDB have Arrow's columns that are null throughout: they become integers.
    fine = [f.name for f in schema if pa.types.is_timestamp(f.type) and f.type.unit == "ns"]
    quoted = ['"' + name.replace('"', '""') + '"' for name in fine]
    casts = ", ".join(f"CAST({name} AS TIMESTAMPTZ) AS {name}" for name in quoted)
    columns = f"* REPLACE ({casts})" if casts else "*"
    names = ", ".join(f"'{sql_text(path)}'" for path in files)
    view = gen_name("parquet")
    backend.raw_sql(
        f"CREATE TEMP VIEW {view} AS SELECT {columns}, file_index::INTEGER AS {FILE} "
        f"FROM read_parquet([{names}], file_row_number = true, hive_partitioning = false)"
    )
    nulls = {f.name: ibis.null() for f in schema if pa.types.is_null(f.type)}
    table = backend.table(view).rename({ROW: "file_row_number"})
    return table.mutate(**nulls, **{ROW: table[ROW] + 1})


def _open_text(
    files: Sequence[Path], names: Sequence[str], dialect: Dialect, backend: Backend
) -> ir.Table:
    """Files of one header with the number of each file, from 0, and row, from 1; all is text."""
    columns = ", ".join(f"'{sql_text(name)}': 'VARCHAR'" for name in names)
    paths = ", ".join(f"'{sql_text(path)}'" for path in files)
    rows = (
        f"read_csv([{paths}], columns = {{{columns}}}, auto_detect = false, "
        f"header = {not dialect.names}, delim = '{dialect.delimiter}', "
        f"quote = '{sql_text(dialect.quote)}', escape = '{sql_text(dialect.quote)}', "
        f"encoding = '{dialect.encoding}', ignore_errors = {dialect.tolerant}, "
        "hive_partitioning = false)"
    )
    view = gen_name("text")
    backend.raw_sql(
        f"CREATE TEMP VIEW {view} AS SELECT *, file_index::INTEGER AS {FILE}, "
        f"row_number() OVER () AS {ROW} FROM {rows}"
    )
    table = backend.table(view)
    if len(files) == 1:
        return table
    counted = f"SELECT file_index, count(*) FROM {rows} GROUP BY ALL"
    counts = dict(backend.raw_sql(counted).fetchall())
    before = [0, *accumulate(counts.get(number, 0) for number in range(len(files)))]
    return table.mutate(**{ROW: table[ROW] - ibis.array(before)[table[FILE]]})


def _header(path: Path, dialect: Dialect) -> tuple[str, ...]:
    """The names of a text file's columns; InputError where its first line does not give them."""
    if dialect.names:
        return dialect.names
    place = f"{file_name(path)}, line 1"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            line = file.readline()
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: the bytes are not UTF-8; save the file as UTF-8") from error
    except EOFError as error:
        raise NotReady(_waiting(path)) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{file_name(path)}: not a gzip file; pack it again") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}); make it readable"
        ) from error
    if not line.endswith(b"\n"):
        raise NotReady(_waiting(path))
    names = next(csv.reader([text], delimiter=dialect.delimiter), [])
    if dialect.typed_header:
        names = [name.split(":")[0] for name in names]
    # As `DataFrame.to_csv` names the index, or after a comma at the line's end.
    names = [name if name.strip() else f"{UNNAMED}{n}" for n, name in enumerate(names, 1)]
    _require_distinct(place, names)
    if not names:
        raise InputError(
            f"{place}: the line is empty; expected a line of column names and rows below it"
        )
    return tuple(names)


def _waiting(path: Path) -> str:
    """What is said of a file that ends in the middle."""
    return (
        f"{file_name(path)}: the file ends in the middle, so it is still being written or was cut; "
        "write it beside its place and rename it once it is whole"
    )


def _require_distinct(place: str, names: Sequence[str]) -> None:
    """InputError where two columns have one name, or names that differ in case only."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.get(name.casefold())
        if first is not None:
            how = "is named twice" if first == name else f"differs from {first} in case only"
            raise InputError(f"{place}: column {name} {how}; names must differ, rename one of them")
        seen[name.casefold()] = name


def _require_columns(path: Path, fields: tuple[Field, ...], table: ir.Table) -> None:
    for wanted in fields:
        if wanted.required and wanted.raw not in table.columns:
            found = ", ".join(name for name in table.columns if not name.startswith("_"))
            missing = f"{file_name(path)}: column {wanted.raw} is missing"
            raise InputError(f"{missing} (found: {found}); add or rename it")


def _require_types(path: Path, fields: tuple[Field, ...], table: ir.Table) -> None:
    for wanted in _present(fields, list(table.columns)):
        kind = table[wanted.raw].type()
        if not wanted.accepts(kind):
            raise InputError(
                f"{file_name(path)}, column {wanted.raw}: the type is {kind}, "
                f"expected {EXPECTED_TYPES[wanted.kind]}; cast the column where it is written"
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
    return tuple(
        name
        for name in columns
        if part.keep_rest and name not in taken and not name.startswith("_")
    )


@contextmanager
def refusing_engine_errors(files: Sequence[Path], encoding: str = "utf-8") -> Iterator[None]:
    """Turn what an engine says of the content of files into one sentence; a machine that is out of
    memory or disk, or a fault of the engine's own, is nobody's input.
    """
    try:
        yield
    except (MemoryError, duckdb.OutOfMemoryException, duckdb.InternalException):
        raise
    except (duckdb.Error, pa.ArrowException, IbisError) as error:
        if "No space left" in str(error):
            raise
        for path in files:
            if str(path) in str(error) and _ends_in_the_middle(path, str(error)):
                raise NotReady(_waiting(path)) from error
        raise InputError(_unreadable(str(error), files, encoding)) from error


def _ends_in_the_middle(path: Path, complaint: str) -> bool:
    """Whether the line of a text file that an engine complains of is cut by the file's end."""
    line = re.search(r"CSV Error on Line: (\d+)", complaint)
    if line is None or path.suffix == ".gz":
        return "Unexpected end of GZIP" in complaint
    lines, last = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            lines, last = lines + chunk.count(b"\n"), chunk[-1:]
    return last != b"\n" and (int(line[1]) > lines or "unterminated quote" in complaint)


def _unreadable(complaint: str, files: Sequence[Path], encoding: str) -> str:
    named = [file_name(path) for path in files if str(path) in complaint] or [file_name(files[0])]
    line = re.search(r"CSV Error on Line: (\d+)", complaint)
    place = f"{named[0]}, line {line[1]}" if line else named[0]
    if re.search(r"not (utf-8|latin-1)|Invalid unicode", complaint, re.IGNORECASE):
        name = encoding.upper() if encoding == "utf-8" else encoding.title()
        return f"{place}: the bytes are not {name}; save the file as {name}"
    columns = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", complaint)
    if columns:
        return f"{place}: {columns[2]} columns found, expected {columns[1]}; repair the line"
    said = " ".join(complaint.split("\n\n")[0].split())[:200]
    return f"{place}: cannot be read ({said}); repair the file and write it again"
