"""How one column of a published file becomes one column of the contract."""

from dataclasses import dataclass
from typing import cast

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from features.schema import Kind

UTC = dt.Timestamp(timezone="UTC")
SECONDS, MILLISECONDS = 1.0, 0.001
# Beyond this (year 6429) the arithmetic of milliseconds overflows; the checks call such instants
# unreadable.
FARTHEST_MILLISECONDS = 1.4e14


@dataclass(frozen=True)
class Field:
    """One column: its name here, its name in the file, and what it holds.

    `unit` is the seconds in one unit of the file's number (instants, durations); `separator` parts
    the categories of a text cell; `whole` says that the published ids are integers and nothing
    else.
    """

    name: str
    raw: str
    kind: Kind
    required: bool = False
    unit: float = SECONDS
    separator: str = "|"
    whole: bool = False

    def accepts(self, kind: dt.DataType) -> bool:
        """Whether a typed (Parquet) column can hold this field at all; one without a value can."""
        return kind.is_null() or isinstance(kind, ACCEPTED[self.kind])

    def value(self, raw: ir.Value) -> ir.Value:
        """The typed value; null where the cell is blank or cannot be read."""
        if raw.type().is_null():
            return ibis.null(TYPES[self.kind])
        if raw.type().is_string():
            raw = ibis.ifelse(is_blank(raw), ibis.null("string"), raw)
        if self.kind == "id":
            return _whole(raw) if self.whole else _id(raw)
        if self.kind == "timestamp":
            return _instant(raw, self.unit)
        if self.kind == "flag":
            return _flag(raw)
        if self.kind == "number":
            return _number(raw) * self.unit
        if self.kind == "categories":
            return _categories(raw, self.separator)
        return raw.cast("string")


# What a column of each kind holds, whatever its file held; ids may be strings instead.
TYPES: dict[Kind, dt.DataType] = {
    "id": dt.int64,
    "timestamp": UTC,
    "flag": dt.boolean,
    "number": dt.float64,
    "category": dt.string,
    "categories": dt.Array(dt.string),
    "text": dt.string,
}
# Whole numbers are exact in a double up to here.
EXACT_IN_DOUBLES = 2.0**53
ACCEPTED: dict[Kind, tuple[type[dt.DataType], ...]] = {
    # Floating: pandas writes whole ids so where one of them is null.
    "id": (dt.Integer, dt.Floating, dt.String, dt.UUID),
    "timestamp": (dt.Timestamp, dt.Date, dt.Numeric, dt.String),
    "flag": (dt.Boolean, dt.Numeric),
    "number": (dt.Numeric,),
    "category": (dt.String, dt.Numeric, dt.Boolean),
    "categories": (dt.Array, dt.String),
    "text": (dt.String,),
}


def same(name: str, kind: Kind, required: bool = False) -> Field:
    """A field whose column has the contract's own name."""
    return Field(name, name, kind, required)


def whole_id(name: str, raw: str) -> Field:
    """A required id that the published file writes as an integer."""
    return Field(name, raw, "id", required=True, whole=True)


def is_blank(raw: ir.Value) -> ir.BooleanValue:
    """Whether a cell says nothing: null, not a number, or text of nothing but spaces."""
    blank = raw.isnull()
    if raw.type().is_floating():
        blank |= cast(ir.FloatingValue, raw).isnan()
    if raw.type().is_string():
        blank |= cast(ir.StringValue, raw).strip() == ""
    return blank


def _id(raw: ir.Value) -> ir.Value:
    if raw.type().is_floating():
        number = cast(ir.FloatingValue, raw)
        whole = number.try_cast("int64")
        exact = (whole.cast("float64") == number) & (number.abs() < EXACT_IN_DOUBLES)
        return ibis.ifelse(exact, whole, ibis.null("int64"))
    # Unsigned 64-bit hashes do not fit int64; as text they are kept.
    fits = raw.type().is_integer() and not raw.type().is_uint64()
    return raw.cast("int64" if fits else "string")


def _whole(raw: ir.Value) -> ir.Value:
    number = raw.try_cast("int64")
    # A cast alone would read "1.5" as 2.
    return ibis.ifelse(number.cast("string") == raw.cast("string"), number, ibis.null("int64"))


def _number(raw: ir.Value) -> ir.NumericValue:
    number = cast(ir.FloatingValue, raw.try_cast("float64"))
    return ibis.ifelse(number.isnan(), ibis.null("float64"), number)


def _instant(raw: ir.Value, unit: float) -> ir.Value:
    if raw.type().is_timestamp() or raw.type().is_date():
        return raw.cast("timestamp").cast(UTC) if raw.type().is_date() else raw.cast(UTC)
    counted = _since_1970(_number(raw), unit)
    return ibis.coalesce(counted, raw.try_cast(UTC)) if raw.type().is_string() else counted


def _since_1970(number: ir.NumericValue, unit: float) -> ir.Value:
    milliseconds = number * round(unit * 1000)
    readable = milliseconds.abs() < FARTHEST_MILLISECONDS
    whole = ibis.ifelse(readable, milliseconds.round().cast("int64"), ibis.null("int64"))
    return cast(ir.IntegerValue, whole).as_timestamp("ms").cast(UTC)


def _flag(raw: ir.Value) -> ir.Value:
    if raw.type().is_boolean():
        return raw
    number = _number(raw)
    flag = ibis.cases((number == 1, True), (number == 0, False))
    return ibis.coalesce(flag, raw.try_cast("bool")) if raw.type().is_string() else flag


def _categories(raw: ir.Value, separator: str) -> ir.Value:
    if raw.type().is_array():
        return raw.cast("array<string>")
    text = cast(ir.StringValue, raw).strip()
    is_written_list = text.startswith("[") & text.endswith("]")
    parts = ibis.ifelse(is_written_list, _listed(text), text.split(separator))
    return parts.map(lambda part: part.strip()).filter(lambda part: part != "")


def _listed(text: ir.StringValue) -> ir.Value:
    """The values of a list that was written as text, by Python, JSON or numpy: `['a', "b's"]`, `[1,
    2]`, `['a' 'b']`.
    """
    inside = text.substr(1, text.length() - 2)
    # Between quotes a comma belongs to the value.
    quoted = inside.re_split(r"""['"]\s*,\s*['"]|'\s+'|"\s+\"""")
    values = ibis.ifelse(inside.re_search(r"""^\s*['"]"""), quoted, inside.split(","))
    return values.map(lambda value: value.strip().re_replace(r"""^['"]|['"]$""", ""))
