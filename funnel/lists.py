"""Lists as files: candidates and recommendations with raw ids, one row an item, written user shard by user shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.tables import ITEM, RANK, SCORE, USER
from features.vocabulary import Vocabulary

Int32 = npt.NDArray[np.int32]

USERS_A_SHARD = 10_000


@dataclass(frozen=True)
class RawIds:
    """The two vocabularies that turn indexes into the ids that came in."""

    users: Vocabulary
    items: Vocabulary


@dataclass(frozen=True)
class Ranked:
    """Lists of users [n]: items [n, k] best first, 0 past a list's end, and their scores [n, k]."""

    users: Int32
    items: Int32
    scores: npt.NDArray[Any]


def write_lists(path: Path, ids: RawIds, lists: Ranked, constants: dict[str, str]) -> None:
    """Write user_id, item_id, rank (1..k), score and constant columns, in the order of the users, then of rank."""
    writer: pq.ParquetWriter | None = None
    for table in _tables(ids, lists, constants):
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd", compression_level=1)
        writer.write_table(table)
    if writer:
        writer.close()


def _tables(ids: RawIds, lists: Ranked, constants: dict[str, str]) -> Iterator[pa.Table]:
    for at in range(0, max(len(lists.users), 1), USERS_A_SHARD):
        shard = slice(at, at + USERS_A_SHARD)
        row, column = np.nonzero(lists.items[shard])
        columns = {
            USER: ids.users.id_of(lists.users[shard][row]),
            ITEM: ids.items.id_of(lists.items[shard][row, column]),
            RANK: pa.array((column + 1).astype(np.int32)),
            SCORE: pa.array(lists.scores[shard][row, column].astype(np.float32)),
        }
        codes = np.zeros(len(row), np.int8)
        yield pa.table(columns | {n: pa.DictionaryArray.from_arrays(codes, [v]) for n, v in constants.items()})
