"""Lists as files: candidates and recommendations with raw ids, one row an item, written user shard
by user shard.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.arrays import Int32, UInt16
from features.schema import ITEM, RANK, SCORE, USER
from features.timeline import pair_keys
from features.vocabulary import Vocabulary

USERS_A_SHARD = 10_000
GENERATORS = "generators"


@dataclass(frozen=True)
class RawIds:
    """The two vocabularies that turn indexes into the ids that came in."""

    users: Vocabulary
    items: Vocabulary


@dataclass(frozen=True)
class Ranked:
    """Lists of users [n]: items [n, k] best first, 0 past a list's end, their scores [n, k], each
    generator's rank of them [n, k] (1 = its best, 0 = it did not name the item), in the generators'
    order, and further `numbers` [n, k].
    """

    users: Int32
    items: Int32
    scores: npt.NDArray[Any]
    ranks: Mapping[str, UInt16]
    numbers: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def write_lists(
    path: Path,
    ids: RawIds,
    shards: Iterable[Ranked],
    constants: Mapping[str, str],
    ranks: bool = False,
) -> None:
    """Write user_id, item_id, rank (1..k), score, further numbers and generators, by user in their
    order, then by rank.

    The lists come in shards of users, at least one. `generators` are the names of the generators
    that named the item, joined by commas in their order; with `ranks` follow columns
    `<generator>_rank` (null = it did not name the item), and then constant columns.
    """
    writer: pq.ParquetWriter | None = None
    for shard in shards:
        table = _table(ids, shard, constants, ranks)
        writer = writer or pq.ParquetWriter(
            path, table.schema, compression="zstd", compression_level=1
        )
        writer.write_table(table)
    if writer:
        writer.close()


def _table(ids: RawIds, lists: Ranked, constants: Mapping[str, str], ranks: bool) -> pa.Table:
    row, column = np.nonzero(lists.items)
    of_generators = {name: values[row, column] for name, values in lists.ranks.items()}
    columns = {
        USER: ids.users.id_of(lists.users[row]),
        ITEM: ids.items.id_of(lists.items[row, column]),
        RANK: pa.array((column + 1).astype(np.int32)),
        SCORE: pa.array(lists.scores[row, column].astype(np.float32)),
        **{
            name: pa.array(values[row, column].astype(np.float32))
            for name, values in lists.numbers.items()
        },
        GENERATORS: _names(of_generators, len(row)),
    }
    columns |= {
        f"{n}_rank": pa.array(values, mask=values == 0)
        for n, values in of_generators.items()
        if ranks
    }
    codes = np.zeros(len(row), np.int8)
    return pa.table(
        columns | {n: pa.DictionaryArray.from_arrays(codes, [v]) for n, v in constants.items()}
    )


def _names(ranks: Mapping[str, UInt16], rows: int) -> pa.DictionaryArray:
    """The names of the generators that named each row, joined by commas."""
    codes = np.zeros(rows, np.int16)
    for place, values in enumerate(ranks.values()):
        codes[values > 0] += 2**place
    # Number 0 is no name, 1 the first, 2 the second, 3 both: the last name varies slowest.
    subsets = [
        ",".join(compress(ranks, reversed(chosen)))
        for chosen in product((False, True), repeat=len(ranks))
    ]
    return pa.DictionaryArray.from_arrays(codes, subsets)


def ranks_of(chosen: Int32, items: Int32, ranks: Mapping[str, UInt16]) -> dict[str, UInt16]:
    """The generators' ranks [n, m] of items chosen [n, m] out of lists of items, both [n, k]; 0 for
    none.
    """
    order = np.argsort(items, axis=1, kind="stable")
    sorted_items = np.take_along_axis(items, order, axis=1)
    codes = pair_keys(np.arange(len(items))[:, None], sorted_items)
    wanted = pair_keys(np.arange(len(chosen))[:, None], chosen)
    flat = np.minimum(
        np.searchsorted(codes.ravel(), wanted.ravel()), max(codes.size - 1, 0)
    ).reshape(chosen.shape)
    found = codes.ravel()[flat] == wanted if codes.size else np.zeros(chosen.shape, bool)
    place = order.ravel()[flat] if codes.size else flat
    kept = found & (chosen > 0)
    return {
        n: np.where(kept, np.take_along_axis(values, place, axis=1), 0)
        for n, values in ranks.items()
    }


class ArrayFile:
    """An .npy file of rows that are appended: [n, ...], as numpy writes and maps it."""

    def __init__(self, path: Path, rows: int, width: int, dtype: npt.DTypeLike) -> None:
        self.file = path.open("wb")
        self.dtype = np.dtype(dtype)
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (rows, width),
        }
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, rows: npt.NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(rows, self.dtype).data)

    def close(self) -> None:
        self.file.close()
