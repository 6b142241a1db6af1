"""What the place of a file says: whether it is a part of a table, the partition columns of its
rows, and what it is called.
"""

from itertools import takewhile
from pathlib import Path
from urllib.parse import unquote

from features.schema import CONTRACTS

# The folder that the tables of a database are staged in.
TABLES = "tables of a database"
# The value of a partition folder whose rows have none.
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def is_part(path: Path, data: Path) -> bool:
    """Whether a file holds rows of a table: folders inside the table's own are partitions, and
    names with `.` or `_` in front are what writers leave beside their parts.
    """
    inside = path.relative_to(data).parts[1:-1]
    hidden = path.name.startswith((".", "_"))
    return not hidden and all("=" in folder for folder in inside) and path.is_file()


def partition_of(path: Path) -> dict[str, str | None]:
    """The partition columns that the folders of a file give, the outermost first: day and hour of
    `day=2024-05-01/hour=7/part.parquet`.
    """
    pairs = [folder.partition("=") for folder in _partition_folders(path)]
    return {name: None if value == NO_VALUE else unquote(value) for name, _, value in pairs}


def file_name(path: Path) -> str:
    """What a file is called in a sentence: its name, below its partition folders; a table of a
    database by its own name.
    """
    if path.parent.name == TABLES:
        return f"table {path.stem}"
    return "/".join([*_partition_folders(path), path.name])


def _partition_folders(path: Path) -> list[str]:
    """Those between a file and its table's folder; whatever the data's own folder is called."""
    names = [folder.name for folder in path.parents]
    inside = list(takewhile(lambda name: "=" in name, names))
    return inside[::-1] if Path(names[len(inside)]).stem in CONTRACTS else []
