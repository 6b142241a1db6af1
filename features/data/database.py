"""A database as a data set: the contract's tables, read-only, in one transaction, a query a table.

SQLAlchemy has its home here. A password is taken off the address at once and kept in the
environment of the process: what travels, is logged or is said names the address without it.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from features.data.partitions import TABLES
from features.data.steady import digest_of, look_at, steady
from features.errors import InputError, NotReady, ServiceUnavailable
from features.schema import CONTRACTS, ITEM, QUERY, TIMESTAMP, USER

PASSWORD = "WATCHFUNNEL_DATABASE_PASSWORD"
LOG = "interactions"
# Rows that are in memory at once.
CHUNK = 50_000
# The rows of equal keys are duplicates; so ordered, equal tables give equal files.
ORDERS = {LOG: (TIMESTAMP, USER, ITEM), "searches": (TIMESTAMP, USER, QUERY)}
# What a server says of an address, a user or a database that it will never accept.
WRONG = re.compile(
    r"authentication failed|no password supplied|does not exist|no pg_hba|not permitted|"
    r"access denied|unknown database|permission denied",
    re.IGNORECASE,
)
EXAMPLE = "postgresql://user@host/database or sqlite:////folder/log.db"
Columns = dict[str, tuple[sa.ColumnElement[Any], pa.DataType]]


def is_address(data: object) -> bool:
    """Whether what `--data` names is a database and no folder."""
    return "://" in str(data)


def address_without_password(data: str) -> str:
    """The address of a database, a path in it absolute; its password goes into the environment of
    this process, where `Database` looks for it. InputError where it is no address.
    """
    url = _url(data)
    if url.password is not None:
        os.environ[PASSWORD] = str(url.password)
    return _shown(url)


def require_no_password(data: str) -> None:
    """InputError where an address that others will see holds a password."""
    if is_address(data) and _url(data).password is not None:
        raise InputError(
            f"{_shown(_url(data))}: the address holds a password, and everybody sees the setting "
            f"`data`; leave it out, set {PASSWORD} where the tasks run, and change the password"
        )


def _url(data: str) -> sa.URL:
    # Neither the text nor what the parser says of it is shown: there may be a password in it.
    refusal = InputError(
        f"--data is no address of a database; expected {EXAMPLE}, with special characters of a "
        "password written as %40"
    )
    try:
        url = sa.make_url(data)
    except (sa.exc.ArgumentError, ValueError):
        raise refusal from None
    if url.username and "@" in f"{url.host}{url.database}":
        # The end of a password, taken for a host.
        raise refusal
    if {"password", "passwd"} & set(url.query):
        raise InputError(
            f"{url.drivername}: a password stands among the options of the address; write it "
            f"before the host, or set {PASSWORD}"
        )
    if url.drivername.startswith("sqlite"):
        if url.database in (None, "", ":memory:"):
            raise InputError(f"{data}: the address names no file; expected {EXAMPLE}")
        return url.set(database=str(Path(url.database or "").resolve()), query={})
    return url


def _shown(url: sa.URL) -> str:
    # `URL.set` takes None for "as it was".
    return url._replace(password=None).render_as_string()


@dataclass
class Database:
    """One look at a database: all that is asked of it is answered as of the first question.

    `since` bounds the rows of the log that are read. InputError where the address, a table or a
    column is wrong, ServiceUnavailable where no server answers, NotReady where the file of SQLite
    is not there or changes while it is read.
    """

    address: str
    since: datetime | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()

    @property
    def place(self) -> Path:
        """What its tables are called by where an engine complains."""
        return Path(TABLES)

    def digest(self) -> str:
        """A digest of the rows, made by the database: of all they hold in PostgreSQL, of the bytes
        of an SQLite file, else of what `_figures` counts.
        """
        if self._file:
            with steady(self._look):
                return digest_of(self._look, self._file.parent)
        described = []
        for table, columns in self._tables.items():
            with self._one_sentence(f"table {table}"):
                query = self._selected(table, self._measures(columns))
                figures = [str(value) for value in self._connection.execute(query).one()]
            kinds = {name: str(kind) for name, (_, kind) in columns.items()}
            described.append([table, kinds, figures])
        return _hashed(described)

    @contextmanager
    def reading(self, staging: Path) -> Iterator[Path]:
        """A folder of files of its tables in the layout `canonical`."""
        folder = staging / TABLES
        folder.mkdir()
        with steady(self._look):
            for table, columns in self._tables.items():
                with self._one_sentence(f"table {table}"):
                    self._export(table, columns, folder / f"{table}.parquet")
        yield folder

    def unread(self) -> list[str]:
        """Files beside those that are read; a database has none."""
        return []

    @cached_property
    def _file(self) -> Path | None:
        url = sa.make_url(self.address)
        return Path(cast(str, url.database)) if url.get_backend_name() == "sqlite" else None

    @cached_property
    def _look(self) -> Mapping[Path, tuple[int, ...]]:
        if self._file is None:
            return {}
        if not self._file.is_file():
            raise NotReady(f"{self._file}: there is no such file; --data names the database")
        log = self._file.with_name(f"{self._file.name}-wal")
        return look_at([self._file, *([log] if log.exists() else [])])

    @cached_property
    def _connection(self) -> sa.Connection:
        """A connection in a transaction that only reads, and sees nothing that begins after it."""
        url = sa.make_url(self.address)
        options: dict[str, Any] = {}
        if self._file:
            query = {"mode": "ro", "uri": "true"}
            url = url.set(database=f"file:{quote(str(self._file))}", query=query)
        elif url.get_backend_name() in ("postgresql", "mysql", "mariadb"):
            options["isolation_level"] = "REPEATABLE READ"
        if url.get_backend_name() == "postgresql":
            options["postgresql_readonly"] = True
        if url.drivername in ("postgresql", "postgres"):
            # Which driver SQLAlchemy takes by itself depends on its version.
            url = url.set(drivername="postgresql+psycopg2")
        with self._one_sentence():
            secret = os.environ.get(PASSWORD)
            engine = sa.create_engine(
                url.set(password=secret) if secret and not self._file else url,
                poolclass=sa.NullPool,
                hide_parameters=True,
            )
            connection = self._open.enter_context(engine.connect())
            for statement in SESSIONS.get(engine.dialect.name, ()):
                connection.exec_driver_sql(statement)
            connection.commit()
            return connection.execution_options(**options)

    @cached_property
    def _tables(self) -> dict[str, Columns]:
        """The contract's tables that are there, the log first, and how their columns are read."""
        found: dict[str, Columns] = {}
        with self._one_sentence(), warnings.catch_warnings():
            # Of types that it does not know, such as vectors; they are read as text.
            warnings.simplefilter("ignore", sa.exc.SAWarning)
            inspector = sa.inspect(self._connection)
            for table in CONTRACTS:
                if inspector.has_table(table):
                    known = {each["name"]: each["type"] for each in inspector.get_columns(table)}
                    found[table] = _read_as(known, self._file is not None)
                    self._require_columns(table, list(known))
            if LOG not in found:
                names = ", ".join(inspector.get_table_names()[:20]) or "no table"
                raise InputError(
                    f"{self.address}: there is no table {LOG} (found: {names}); add it, as a table "
                    "or a view"
                )
        return found

    def _require_columns(self, table: str, found: Sequence[str]) -> None:
        for name in CONTRACTS[table].required:
            if name not in found:
                raise InputError(
                    f"{self.address}, table {table}: column {name} is missing (found: "
                    f"{', '.join(found)}); add or rename it, or make a view"
                )

    def _selected(
        self, table: str, wanted: Sequence[sa.ColumnElement[Any]]
    ) -> sa.Select[tuple[Any, ...]]:
        query = sa.select(*wanted).select_from(sa.table(table))
        if table != LOG or self.since is None:
            return query
        moment, kind = self._tables[table][TIMESTAMP]
        bound = _bound(self.since, kind)
        # What is no instant is for the door to refuse.
        readable = moment >= bound if not pa.types.is_string(kind) else moment >= str(bound)
        epoch = [moment < "19"] if pa.types.is_string(kind) else []
        return query.where(sa.or_(readable, moment.is_(None), *epoch))

    def _export(self, table: str, columns: Columns, path: Path) -> None:
        query = self._selected(table, [each.label(name) for name, (each, _) in columns.items()])
        keys = ORDERS.get(table, CONTRACTS[table].required)
        schema = pa.schema([(name, kind) for name, (_, kind) in columns.items()])
        rows = self._connection.execute(
            query.order_by(*(columns[key][0] for key in keys)),
            execution_options={"stream_results": True, "yield_per": CHUNK},
        )
        with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
            for part in rows.partitions(CHUNK):
                writer.write_batch(
                    pa.record_batch(
                        [
                            self._column(table, each, values)
                            for each, values in zip(schema, zip(*part, strict=True), strict=True)
                        ],
                        schema=schema,
                    )
                )

    def _column(self, table: str, wanted: pa.Field, values: Sequence[Any]) -> pa.Array:
        try:
            return pa.array(values, wanted.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{self.address}, table {table}, column {wanted.name}: a value is no {wanted.type} "
                "although the column is declared so; repair it, or cast it in a view"
            ) from error

    def _measures(self, columns: Columns) -> list[sa.ColumnElement[Any]]:
        each = [column for column, _ in columns.values()]
        if self._connection.dialect.name != "postgresql":
            return _figures(columns)
        text = sa.cast(sa.func.row(*each), sa.Text)
        hashed = sa.cast(sa.func.hashtextextended(text, 0), sa.Numeric)
        return [sa.func.count(), sa.func.sum(hashed)]

    @contextmanager
    def _one_sentence(self, what: str = "") -> Iterator[None]:
        place = f"{self.address}, {what}" if what else self.address
        try:
            yield
        except sa.exc.NoSuchModuleError as error:
            raise InputError(
                f"{place}: SQLAlchemy knows no such kind of database; expected {EXAMPLE}"
            ) from error
        except ModuleNotFoundError as error:
            raise InputError(
                f"{place}: the driver {error.name} is not installed; install it, for PostgreSQL by "
                "pip install 'watchfunnel[postgres]'"
            ) from error
        except sa.exc.DBAPIError as error:
            said = " ".join(str(error.orig).split())
            gone = isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
            if gone and ("locked" in said if self._file else not WRONG.search(said)):
                raise ServiceUnavailable(
                    f"{place}: the database does not answer ({said[:200]}); see whether it runs"
                ) from error
            raise InputError(
                f"{place}: the database refuses ({said[:200]}); see address, user and rights"
            ) from error
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{place}: a value cannot be read ({error}); repair it, or cast it in a view"
            ) from error
        except sa.exc.SQLAlchemyError as error:
            said = " ".join(str(error).split())[:200]
            raise InputError(f"{place}: the database cannot be read ({said})") from error


# What a session is told before it reads: instants come in UTC, and nothing can be written.
SESSIONS = {
    "postgresql": ("SET TIME ZONE 'UTC'",),
    "mysql": ("SET SESSION time_zone = '+00:00'", "SET SESSION TRANSACTION READ ONLY"),
    "mariadb": ("SET SESSION time_zone = '+00:00'", "SET SESSION TRANSACTION READ ONLY"),
}


def _hashed(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _read_as(known: Mapping[str, Any], is_sqlite: bool) -> Columns:
    """How the columns of a table are selected, and as what they are written."""
    read = _read_of_sqlite if is_sqlite else _read
    return {name: read(sa.column(name, kind), kind) for name, kind in known.items()}


def _read(column: sa.ColumnElement[Any], kind: Any) -> tuple[sa.ColumnElement[Any], pa.DataType]:
    if isinstance(kind, sa.Boolean):
        return column, pa.bool_()
    if isinstance(kind, sa.Integer):
        return column, pa.uint64() if getattr(kind, "unsigned", False) else pa.int64()
    if isinstance(kind, sa.Float):
        return column, pa.float64()
    if isinstance(kind, sa.Numeric):
        return sa.type_coerce(column, sa.Numeric(asdecimal=False)), pa.float64()
    if isinstance(kind, sa.DateTime):
        return column, pa.timestamp("us", "UTC" if kind.timezone else None)
    if isinstance(kind, sa.Date):
        return column, pa.date32()
    if isinstance(kind, sa.ARRAY):
        return sa.cast(column, ARRAY(sa.Text)), pa.list_(pa.string())
    if isinstance(kind, sa.String) and not isinstance(kind, sa.Enum):
        return column, pa.string()
    return sa.cast(column, sa.Text), pa.string()


def _read_of_sqlite(
    column: sa.ColumnElement[Any], kind: Any
) -> tuple[sa.ColumnElement[Any], pa.DataType]:
    """Cells of SQLite hold what was put in, whatever the column was declared: instants mostly
    text, flags mostly 0 and 1.
    """
    if isinstance(kind, sa.Boolean | sa.Integer):
        return sa.type_coerce(column, sa.Integer), pa.int64()
    if isinstance(kind, sa.Float | sa.Numeric):
        return sa.type_coerce(column, sa.types.NullType()), pa.float64()
    return sa.cast(column, sa.Text), pa.string()


def _bound(since: datetime, kind: pa.DataType) -> Any:
    """The instant as a value that a column of a kind compares with; the day before, where it is
    text or a day. What comes too early is dropped when the rows are cleaned.
    """
    moment = since.astimezone(UTC)
    if pa.types.is_timestamp(kind):
        return moment if kind.tz else moment.replace(tzinfo=None)
    if pa.types.is_date(kind) or pa.types.is_string(kind):
        return (moment - timedelta(days=1)).date()
    return moment.timestamp()


def _figures(columns: Columns) -> list[sa.ColumnElement[Any]]:
    """Counts, extremes and sums of columns, as any database has them: a change that moves none of
    them is not seen.
    """
    figures: list[sa.ColumnElement[Any]] = [sa.func.count()]
    for column, kind in columns.values():
        figures.append(sa.func.count(column))
        if not pa.types.is_boolean(kind) and not pa.types.is_nested(kind):
            figures += [sa.func.min(column), sa.func.max(column)]
        if pa.types.is_string(kind):
            figures.append(sa.func.sum(sa.func.length(column)))
        if pa.types.is_integer(kind):
            figures.append(sa.func.sum(column))
        if pa.types.is_floating(kind):
            # A sum of floating numbers depends on their order.
            figures.append(sa.func.sum(sa.cast(column, sa.Numeric(38, 6))))
    return figures
