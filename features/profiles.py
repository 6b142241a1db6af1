"""What is known of users and items as of an instant, a row each: what the artefact `profiles` shows."""

import numpy as np
import pandas as pd

from features.sides import Side
from features.tallies import Tally


def profiles(side: Side, tally: Tally, size: int, as_of: int) -> pd.DataFrame:
    """One row for each of `size` indexes: side columns, and `tally:<name>` counts strictly before an instant."""
    counts = tally.as_of(np.arange(size), as_of)
    names = ("shown", "clicks", "known", "seconds")
    return side.frame.reindex(range(size)).assign(**{f"tally:{name}": counts[name] for name in names})
