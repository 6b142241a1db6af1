"""The contract itself as a folder of Parquet or CSV files, whole or in partitions; `funnel
simulate` writes the same layout.
"""

from features.data.fields import Field
from features.data.files import Part, Source
from features.schema import CONTRACTS


def _part(table: str) -> Part:
    contract = CONTRACTS[table]
    fields = tuple(
        Field(name, name, kind, name in contract.required) for name, kind in contract.kinds.items()
    )
    # Spark writes a folder `TABLE.parquet`; any folder may have partitions inside, `day=.../`.
    patterns = (
        f"{table}.parquet",
        f"{table}.parquet/**/*.parquet",
        f"{table}/**/*.parquet",
        f"{table}.csv",
        f"{table}.csv.gz",
        f"{table}/**/*.csv",
        f"{table}/**/*.csv.gz",
    )
    return Part(table, patterns, fields, keep_rest=True)


SOURCE = Source(layouts=(tuple(_part(table) for table in CONTRACTS),))
