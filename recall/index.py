"""Nearest neighbours by inner product, the metric the tower is trained in: faiss, exact and
approximate.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from features.arrays import Float32, Int32, Int64

# faiss multiplies matrices only from 128,000 numbers of queries on, 2,000 queries of 64 dimensions,
# and compares row by row below: measured at a million rows, that is 7 times slower for 1,000
# queries and no faster for two.
faiss.cvar.distance_compute_blas_threshold = 256

TRAINING_POINTS_PER_CELL = 64


@dataclass(frozen=True)
class ItemIndex:
    """Vectors in faiss, and which item each of its rows is: `items` [rows], ascending, never 0."""

    index: faiss.Index
    items: Int32

    def __len__(self) -> int:
        return len(self.items)

    def search(self, user_vectors: Float32, k: int) -> tuple[Int32, Float32]:
        """The k best items of each user and their inner products, best first: [n, dim] -> [n, k],
        [n, k].

        Only fewer than k items in the index leave item 0 (padding) with score -inf at the end:
        where an approximate search finds fewer, that user's are searched again, all of them.
        """
        queries = np.ascontiguousarray(user_vectors, dtype=np.float32)
        scores, rows = self.index.search(queries, k)
        short = np.flatnonzero((rows[:, : len(self)] < 0).any(axis=1))
        if len(short):
            scores[short], rows[short] = _searched_whole(self.index, queries[short], k)
        # Row -1, faiss's word for nothing, is the padding at the end.
        items = np.append(self.items, np.int32(0))[rows]
        return items, np.where(rows >= 0, scores, -np.inf).astype(np.float32)

    @property
    def megabytes(self) -> float:
        """Its size as saved, which is about what it takes in memory."""
        written = [0]

        def count(piece: bytes) -> int:
            written[0] += len(piece)
            return len(piece)

        writer = faiss.PyCallbackIOWriter(count, 1 << 20)  # type: ignore[attr-defined]
        faiss.write_index(self.index, writer)
        return written[0] / 1e6

    def tune(self, parameters: Mapping[str, int]) -> None:
        """Set how much a search looks at: `nprobe` and `k_factor_rf`. Kept when saved."""
        for name, value in parameters.items():
            faiss.ParameterSpace().set_index_parameter(self.index, name, value)

    def save(self, path: Path) -> None:
        """Two files: `path` itself, and the items beside it under the same name with `.npy`."""
        faiss.write_index(self.index, str(path))
        np.save(path.with_suffix(".npy"), self.items)

    @classmethod
    def load(cls, path: Path) -> "ItemIndex":
        return cls(faiss.read_index(str(path)), np.load(path.with_suffix(".npy")))


def index_of(item_vectors: Float32, items: Int32 | None = None) -> ItemIndex:
    """The exact index of [n, dim] vectors: of `items`, ascending, or of items 1..n - 1.

    Row 0 is padding and can never be recommended: a list of items that holds it is a ValueError.
    """
    listed = _listed(item_vectors, items)
    return ItemIndex(_exact(item_vectors[listed]), listed)


def approximate_index_of(kind: str, item_vectors: Float32, items: Int32 | None = None) -> ItemIndex:
    """As `index_of`, of kind `ivf` or `pq`, still to be tuned. Equal vectors make an equal
    index.
    """
    listed = _listed(item_vectors, items)
    return ItemIndex(_BUILDERS[kind](item_vectors[listed]), listed)


def cells_of(vectors: int) -> int:
    """Cells of an `ivf` or `pq` index: 2 roots of the vectors, each at least 39, faiss's minimum
    for training.
    """
    return max(1, min(round(2 * math.sqrt(vectors)), vectors // 39))


def _listed(item_vectors: Float32, items: Int32 | None) -> Int32:
    listed = (
        np.arange(1, len(item_vectors), dtype=np.int32) if items is None else items.astype(np.int32)
    )
    if len(listed) and (
        listed[0] < 1 or listed[-1] >= len(item_vectors) or (np.diff(listed) < 1).any()
    ):
        raise ValueError(
            f"items of an index ascend within 1..{len(item_vectors) - 1}; found {listed}"
        )
    return listed


def _exact(vectors: Float32) -> faiss.Index:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def _ivf(vectors: Float32) -> faiss.Index:
    cells, dim = faiss.IndexFlatL2(vectors.shape[1]), vectors.shape[1]
    index = faiss.IndexIVFFlat(cells, dim, cells_of(len(vectors)), faiss.METRIC_INNER_PRODUCT)
    return _filled(index, index, vectors)


def _pq(vectors: Float32) -> faiss.Index:
    """4 bits a dimension of what is left after the cell's mean, scanned in registers; the best
    again, exactly.
    """
    cells, dim = faiss.IndexFlatL2(vectors.shape[1]), vectors.shape[1]
    index = faiss.IndexIVFPQFastScan(
        cells, dim, cells_of(len(vectors)), dim, 4, faiss.METRIC_INNER_PRODUCT
    )
    index.by_residual = True
    return _filled(index, faiss.IndexRefineFlat(index), vectors)


_BUILDERS: dict[str, Callable[[Float32], faiss.Index]] = {"ivf": _ivf, "pq": _pq}


def _filled(cells: faiss.IndexIVF, whole: faiss.Index, vectors: Float32) -> faiss.Index:
    """`whole` trained on a sample and filled; `cells`, in it, has the means of the vectors as its
    cells.

    Vectors go to the nearest mean, by distance. A query goes to the means of the largest inner
    product with it: they estimate the mean score in a cell, so that where long vectors are is
    looked at first.
    """
    wanted = min(len(vectors), TRAINING_POINTS_PER_CELL * cells.nlist)
    sample = np.sort(np.random.default_rng(0).permutation(len(vectors))[:wanted])
    cells.cp.max_points_per_centroid, cells.cp.niter = TRAINING_POINTS_PER_CELL, 10
    whole.train(np.ascontiguousarray(vectors[sample]))
    whole.add(np.ascontiguousarray(vectors))
    means = _exact(cells.quantizer.reconstruct_n(0, cells.nlist))
    means.this.disown()  # type: ignore[attr-defined]
    cells.quantizer, cells.own_fields = means, True
    return whole


def _searched_whole(index: faiss.Index, queries: Float32, k: int) -> tuple[Float32, Int64]:
    """Scores and rows of the k best, nothing left out."""
    if isinstance(index, faiss.IndexRefine):
        index = index.refine_index
    every_cell = None
    if isinstance(index, faiss.IndexIVF):
        every_cell = faiss.SearchParametersIVF(nprobe=index.nlist)  # type: ignore[call-arg]
    scores, rows = index.search(queries, k, params=every_cell)
    return scores, rows
