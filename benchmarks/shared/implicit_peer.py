"""The peers: `implicit`'s ALS and BPR, trained on the completed watches of a run and asked for
lists of its users.

Both have the package's defaults (100 factors, 15 rounds of ALS, 100 of BPR): of a small grid of
factors, weights and rates none was better on every log. As our baselines' lists, theirs leave out
what was seen and are filled up by popularity.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from features.arrays import Int32
from recall.baselines import LogBefore, filled_lists, watched_before
from recall.candidates import Candidates
from recall.generators.base import Named, Requests

MODELS = ("ALS", "BPR")
# What implicit lists for want of anything else has the lowest score that there is.
LOWEST = -1e38


def is_there() -> bool:
    """Whether the package is installed."""
    return find_spec("implicit") is not None


def lists_of(
    name: str, log: LogBefore, users: Int32, k: int, seed: int, **settings: Any
) -> Candidates:
    """The k best unseen items of users [n] by a model of MODELS, trained on what was watched before
    an instant.

    `settings` are the model's own where they are not the package's defaults.
    """
    history, clicks = log.history(), watched_before(log.seen, log.items, log.as_of)
    known = np.flatnonzero(np.asarray(history.sum(axis=0)).ravel()).astype(np.int32)
    lengths = np.diff(history.indptr)
    model = trained(name, sparse.csr_matrix(history[:, known]), seed, settings)

    def named(requests: Requests) -> Named:
        mine = sparse.csr_matrix(clicks[requests.users][:, known])
        places, scores = model.recommend(requests.users, mine, N=min(k, len(known)))
        listed = (scores > LOWEST) & (lengths[requests.users] > 0)[:, None]
        return Named(
            np.where(listed, known[places], 0).astype(np.int32), np.where(listed, scores, 0)
        )

    return filled_lists(named, log, users, k)


def trained(name: str, history: Any, seed: int, settings: Mapping[str, Any]) -> Any:
    """A model of MODELS, trained on a binary history, scipy.sparse.csr_matrix [users, items]."""
    from implicit.cpu.als import AlternatingLeastSquares
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    makers = {"ALS": AlternatingLeastSquares, "BPR": BayesianPersonalizedRanking}
    # With several threads BPR is another model each time.
    threads = {"ALS": 0, "BPR": 1}
    # The package warns of a BLAS with several threads, which slow down its many small products.
    with threadpool_limits(1, "blas"):
        model = makers[name](random_state=seed, num_threads=threads[name], **settings)
        model.fit(history, show_progress=False)
    return model
