"""Nearest neighbours by inner product, the metric the tower was trained in: faiss, exact."""

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ItemIndex:
    """The vectors of items 1..n; faiss's own row r is item r + 1."""

    index: faiss.Index

    @property
    def items(self) -> int:
        return int(self.index.ntotal)

    def search(self, user_vectors: Float32, k: int) -> tuple[Int32, Float32]:
        """The k best items of each user and their scores, best first: [n, dim] -> [n, k], [n, k].

        Fewer than k items in the index leave item 0 (nobody) with score -inf at the end.
        """
        scores, rows = self.index.search(np.ascontiguousarray(user_vectors), k)
        items = (rows + 1).astype(np.int32)
        return items, np.where(items > 0, scores, -np.inf).astype(np.float32)

    def save(self, path: Path) -> None:
        faiss.write_index(self.index, str(path))

    @classmethod
    def load(cls, path: Path) -> "ItemIndex":
        return cls(faiss.read_index(str(path)))


def index_of(item_vectors: Float32) -> ItemIndex:
    """The exact index of [items, dim] vectors; row 0, nobody, is left out and can never be recommended."""
    index = faiss.IndexFlatIP(item_vectors.shape[1])
    index.add(np.ascontiguousarray(item_vectors[1:]))
    return ItemIndex(index)
