"""What the funnel as a whole is for: how much of what people went on to watch was in their lists."""

import numpy as np
import numpy.typing as npt

from recall.metrics import Holdout, hits

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]


def watch_seconds_share_at(k: int, ranked: Ints, holdout: Holdout, seconds: Floats) -> float:
    """Logged holdout seconds on items among the first k of the user's list / all logged holdout seconds.

    `ranked` is int32 [users, K], best first, 0 = no item; `seconds` is [n], aligned with the holdout's items.
    A watch of an unseen item (0) is one the list missed. NaN where the holdout has no seconds.
    """
    total = seconds.sum(dtype=np.float64)
    # Two sums of the same seconds in another order may differ in the last bit.
    return min(float(listed_seconds_at(k, ranked, holdout, seconds).sum() / total), 1.0) if total else float("nan")


def listed_seconds_at(k: int, ranked: Ints, holdout: Holdout, seconds: Floats) -> Floats:
    """Each user's logged holdout seconds on the first k items of the list, [users]; 0 without holdout."""
    _check(k, holdout, seconds)
    stride = int(holdout.items.max(initial=0)) + 1
    user, place = np.nonzero(hits(ranked[:, :k], holdout))
    listed = np.isin(holdout.rows * stride + holdout.items, user * stride + ranked[user, place])
    kept = np.where(listed, seconds, 0)
    return np.bincount(holdout.rows, weights=kept, minlength=holdout.users).astype(np.float64)


def _check(k: int, holdout: Holdout, seconds: Floats) -> None:
    if k < 1:
        raise ValueError(f"k counts the places of a list that are judged and is at least 1, found {k}")
    if seconds.shape != holdout.items.shape:
        raise ValueError(f"seconds must be one for each of {holdout.items.size} watches, found {seconds.shape}")
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise ValueError("seconds must be known and >= 0; fill the null ones before they are summed")
