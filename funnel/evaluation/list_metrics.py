"""What the funnel as a whole is for: how much of what people went on to watch was in their
lists.
"""

import numpy as np
import numpy.typing as npt

from recall.metrics import RelevantItems, hits

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]


def watch_seconds_share_at(k: int, ranked: Ints, relevant: RelevantItems, seconds: Floats) -> float:
    """Logged test window seconds on items among the first k of the user's list / all logged test
    window seconds.

    `ranked` is int32 [users, K], best first, 0 = no item; `seconds` is [n], aligned with the test
    window's items. A watch of an unseen item (0) is one the list missed. NaN where the test window
    has no seconds.
    """
    total = seconds.sum(dtype=np.float64)
    # Two sums of the same seconds in another order may differ in the last bit.
    return (
        min(float(listed_seconds_at(k, ranked, relevant, seconds).sum() / total), 1.0)
        if total
        else float("nan")
    )


def listed_seconds_at(k: int, ranked: Ints, relevant: RelevantItems, seconds: Floats) -> Floats:
    """Each user's logged test window seconds on the first k items of the list, [users]; 0 without
    test window.
    """
    _check(k, relevant, seconds)
    stride = int(relevant.items.max(initial=0)) + 1
    user, place = np.nonzero(hits(ranked[:, :k], relevant))
    listed = np.isin(relevant.rows * stride + relevant.items, user * stride + ranked[user, place])
    kept = np.where(listed, seconds, 0)
    return np.bincount(relevant.rows, weights=kept, minlength=relevant.users).astype(np.float64)


def _check(k: int, relevant: RelevantItems, seconds: Floats) -> None:
    if k < 1:
        raise ValueError(
            f"k counts the places of a list that are evaluated and is at least 1, found {k}"
        )
    if seconds.shape != relevant.items.shape:
        raise ValueError(
            f"seconds must be one for each of {relevant.items.size} watches, found {seconds.shape}"
        )
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise ValueError(
            "seconds must be known and >= 0; fill the null ones before they are summed"
        )
