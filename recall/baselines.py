"""Lists that no network has made and that the funnel's must beat: item-based neighbours, and EASE
(Steck 2019).

Both read the distinct completed watches of each user strictly before an instant, both leave out
what was seen, and both are filled up with what is most watched: whoever has no history gets
popularity's list.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.linalg import inv

from features.arrays import Float32, Int32, Intp
from features.histories import Histories
from features.timeline import pair_keys, pairs_of
from recall.candidates import SHARD, Candidates, Pairs, first, pairs_before, shards_of
from recall.generators.base import Named, Requests, seen_only
from recall.generators.popular import Popular, popularity
from recall.generators.spread import Sparse, SpreadAnswer, strongest

# Of each item so many nearest ones count, their cosine shrunk as if so many more people had watched
# but one of the two; of each user the last so many watches: whoever has watched thousands says
# little of what goes together.
NEIGHBOURS, SHRINK, LAST = 100, 10.0, 200
# EASE inverts a dense matrix: of more watched items than this it takes minutes and gigabytes.
EASE_ITEMS = 10_000
# The best HR@50 of a grid on MovieLens-1M, and within a standard error of the best on
# MovieLens-100K and KuaiRand (of watches that came before their tests); 250 and 1,000 are hardly
# worse anywhere.
PENALTY = 500.0
# Pairs of watches that a block of an item x item product adds up, about: some 200 MB.
BLOCK = 1 << 23


@dataclass(frozen=True)
class LogBefore:
    """What lists are made of: what was watched and what was seen strictly before an instant, and
    how many `items` there were, padding included.
    """

    watches: Histories
    seen: Histories
    items: int
    as_of: int

    def history(self, last: int | None = None) -> Sparse:
        """The watches by user and item; see `watched_before`."""
        return watched_before(self.watches, self.items, self.as_of, last)


def item_knn_lists(log: LogBefore, users: Int32, k: int) -> Candidates:
    """The k unseen items that are nearest to all that each user has watched: lists of users [n],
    filled by popularity.

    An item's score is the sum of its `item_cosines` to the user's watched items; a filler's lies
    below all of them.
    """
    history, nearest = log.history(), item_cosines(log.history(LAST))

    def named(requests: Requests) -> Named:
        return SpreadAnswer("item_knn", history[requests.users] @ nearest, requests).named(k)

    return filled_lists(named, log, users, k)


def ease_lists(log: LogBefore, users: Int32, k: int) -> Candidates:
    """The k unseen items with the largest score of EASE: lists of users [n], filled by popularity.

    ValueError where `ease_fits` says that there are too many items.
    """
    history = log.history()
    model = ease(history, PENALTY)

    def named(requests: Requests) -> Named:
        return model.named(history[requests.users], requests, k)

    return filled_lists(named, log, users, k)


def filled_lists(
    named: Callable[[Requests], Named], log: LogBefore, users: Int32, k: int
) -> Candidates:
    """What is named for users [n], shard by shard, then the most watched of what they had not seen.

    A filler scores 1 - its share of all watches below whatever is named of the same list, or below
    0.
    """
    counts, seen = popularity(log.watches, log.items, log.as_of), log.seen
    items, scores = (
        np.zeros((len(users), k), np.int32),
        np.full((len(users), k), -np.inf, np.float32),
    )
    everybody, catalogue = (
        np.zeros(int(users.max(initial=0)) + 1, np.int32),
        np.arange(len(counts)) > 0,
    )
    popular = Popular(counts[None, :] / max(counts.sum(), 1), catalogue, everybody, {})
    for rows in shards_of(seen.ends(users, log.as_of) - seen.offsets[users], k):
        requests = seen_only(users[rows], pairs_before(users[rows], seen, log.as_of))
        items[rows], scores[rows] = _with_fillers(
            named(requests), popular.answer(requests).named(k), k
        )
    return Candidates(users, items, scores)


def ease_fits(log: LogBefore) -> bool:
    """Whether few enough items were watched before an instant for EASE: at most EASE_ITEMS."""
    return int(np.count_nonzero(popularity(log.watches, log.items, log.as_of))) <= EASE_ITEMS


def watched_before(watches: Histories, items: int, as_of: int, last: int | None = None) -> Sparse:
    """1 where a user watched an item strictly before an instant, float32 [users, items]; of the
    `last` watches only.
    """
    kept = np.flatnonzero(
        (watches.timestamps_us < as_of) & (watches.items < items) & (watches.items > 0)
    )
    count = len(watches.offsets) - 1
    if last is not None:
        ends = watches.ends(np.arange(count), as_of)
        kept = kept[ends[watches.users[kept]] - kept <= last]
    pairs = (watches.users[kept], watches.items[kept])
    matrix = sparse.coo_array((np.ones(len(kept), np.float32), pairs), shape=(count, items)).tocsr()
    matrix.data[:] = 1
    return matrix


def item_cosines(history: Sparse) -> Sparse:
    """Shrunk cosines of items' columns of a binary history [users, items]: float32 [items, items],
    0 on the diagonal.

    together / (sqrt(n_i n_j) + SHRINK) of what n_i, n_j and both have watched; each row keeps its
    NEIGHBOURS largest.
    """
    norms = np.sqrt(np.asarray(history.sum(axis=0), np.float32).ravel())
    of_items = history.T.tocsr()
    nearest = [sparse.csr_array((0, history.shape[1]), dtype=np.float32)]
    for rows in _blocks(history):
        together = (of_items[rows] @ history).tocoo()
        row, column = together.coords
        other = row + rows.start != column
        row, column = row[other], column[other]
        cosines = together.data[other] / (
            norms[row + rows.start] * norms[column] + np.float32(SHRINK)
        )
        block = sparse.coo_array((cosines, (row, column)), shape=together.shape).tocsr()
        nearest.append(strongest(block, NEIGHBOURS))
    return sparse.vstack(nearest, format="csr")


def _blocks(history: Sparse) -> Iterator[slice]:
    """Slices of a history's items, so many that a block's share of history.T @ history adds up some
    BLOCK products.
    """
    lengths = np.diff(history.indptr).astype(np.float32)
    products = np.cumsum(history.T @ lengths, dtype=np.float64)
    starts = np.flatnonzero(np.diff(products // BLOCK, prepend=-1)).tolist()
    yield from (slice(*bounds) for bounds in pairwise([*starts, len(products)]))


@dataclass(frozen=True)
class Ease:
    """B = I - P / diag(P) with P = (X'X + penalty I)^-1, of the watches X [users, watched items]
    (Steck 2019, eq. 8).

    `known` [w] are the watched items, ascending. `inverse` is P [w, w]; or, where there are fewer
    users than items, (X X' + penalty I)^-1 [u, u], which P follows from: (I - X' inverse X) /
    penalty (Woodbury).
    """

    known: Int32
    watches: Sparse
    inverse: Float32
    penalty: float

    def scores(self, history: Sparse) -> Float32:
        """What users with these watches [n, items] get from each known item: history @ B, [n,
        w].
        """
        mine = history[:, self.known]
        scores: Float32 = mine.toarray() - self._times_inverse(mine) / self._diagonal
        return scores

    def named(self, history: Sparse, requests: Requests, k: int) -> Named:
        """The k best unseen items of each request with any watch, history [n, items] its
        watches.
        """
        scores = self.scores(history)
        row, item = pairs_of(requests.seen.codes)
        known = np.isin(item, self.known)
        scores[row[known], np.searchsorted(self.known, item[known])] = -np.inf
        scores[np.diff(history.indptr) == 0] = -np.inf
        places = _largest(scores, k)
        values = np.take_along_axis(scores, places, axis=1)
        return Named(*first(values > -np.inf, self.known[places], values, k))

    @cached_property
    def _diagonal(self) -> Float32:
        """diag(P), [w]."""
        if not self._by_users:
            return np.diagonal(self.inverse)
        quadratic = np.zeros(len(self.known), np.float32)
        for at in range(0, len(self.inverse), SHARD):
            products = self.inverse[at : at + SHARD] @ self.watches
            quadratic += np.asarray(
                self.watches[at : at + SHARD].multiply(products).sum(axis=0)
            ).ravel()
        return (1 - quadratic) / np.float32(self.penalty)

    def _times_inverse(self, mine: Sparse) -> Float32:
        """mine @ P: [n, w] -> [n, w]."""
        if self._by_users:
            spread = (mine @ self.watches.T).toarray() @ self.inverse @ self.watches
            products: Float32 = (mine.toarray() - spread) / np.float32(self.penalty)
        else:
            products = mine @ self.inverse
        return products

    @property
    def _by_users(self) -> bool:
        return len(self.inverse) < len(self.known)


def ease(history: Sparse, penalty: float = PENALTY) -> Ease:
    """EASE of a binary history [users, items]; ValueError where more than EASE_ITEMS items were
    watched.
    """
    known = np.flatnonzero(np.asarray(history.sum(axis=0)).ravel()).astype(np.int32)
    if len(known) > EASE_ITEMS:
        raise ValueError(f"EASE is for at most {EASE_ITEMS:,} watched items, found {len(known):,}")
    watches = history[np.diff(history.indptr) > 0][:, known]
    few = watches.T.tocsr() if watches.shape[0] < watches.shape[1] else watches
    return Ease(known, watches, _inverted(_gram(few), penalty), penalty)


def _gram(matrix: Sparse) -> Float32:
    """matrix.T @ matrix of a binary matrix [n, m], dense: [m, m]."""
    transposed = matrix.T.tocsr()
    gram = np.zeros((matrix.shape[1], matrix.shape[1]), np.float32)
    for rows in _blocks(matrix):
        gram[rows] = (transposed[rows] @ matrix).toarray()
    return gram


def _inverted(gram: Float32, penalty: float) -> Float32:
    """(gram + penalty I)^-1 by Cholesky, made in the place of a symmetric matrix [m, m]."""
    np.einsum("ii->i", gram)[:] += np.float32(penalty)
    # Its counts are whole and the penalty bounds its condition: 32 bits give scores to three digits
    # or more.
    inverse: Float32 = inv(gram, overwrite_a=True, assume_a="pos")
    return inverse


def _largest(scores: Float32, k: int) -> Intp:
    """Places of the k largest scores of each row [n, m], the largest first: [n, min(k, m)]."""
    if k < scores.shape[1]:
        places = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    else:
        places = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def _with_fillers(named: Named, fillers: Named, k: int) -> tuple[Int32, Float32]:
    """The first k of what is named [n, m] and of what else fills the lists [n, k]."""
    there, row = named.items > 0, np.arange(len(named.items))[:, None]
    listed = Pairs(np.sort(pair_keys(row, named.items)[there]), there.sum(axis=1))
    lowest = np.where(there, named.scores, 0).min(axis=1, initial=0)
    kept = np.hstack([there, (fillers.items > 0) & ~listed.holds(row, fillers.items)])
    scores = np.hstack([named.scores, fillers.scores - 1 + lowest[:, None]])
    return first(kept, np.hstack([named.items, fillers.items]), scores.astype(np.float32), k)
