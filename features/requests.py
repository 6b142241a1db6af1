"""When each impression's page was asked for: what a server had to choose the page by came before.

All rows of one request have the features of one instant, that of the request, and not of the row's
own place on the page: a server chooses a page before any of it is seen.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from features.arrays import Int32, Int64
from features.compiled import first_within
from features.schema import REQUEST, SECOND


def with_requests(log: pa.Table, within_seconds: float) -> pa.Table:
    """The log in indexes, sorted by user and time, with `request_us`, microseconds UTC.

    The requests are those of its column `request_id`; where it has none, the rows of a user
    `within_seconds` of the first.
    """
    codes = np.full(len(log), -1, np.int32)
    if REQUEST in log.column_names:
        codes = pd.factorize(log[REQUEST].to_pandas())[0].astype(np.int32)
    users, timestamps_us = log["user"].to_numpy(), log["timestamp_us"].to_numpy()
    asked = requests_us(users, timestamps_us, codes, round(within_seconds * SECOND))
    return log.append_column("request_us", pa.array(asked))


def requests_us(
    users: Int32,
    timestamps_us: Int64,
    request_codes: Int32,
    within_us: int,
) -> Int64:
    """The instants at which impressions [n], sorted by user and time, were asked for: [n].

    Rows of one user and one code (>= 0) are one request, which was made at the first of them. Rows
    of code -1 are one request where they come within `within_us` of the first.
    """
    asked = timestamps_us.copy()
    coded = np.flatnonzero(request_codes >= 0)
    order = coded[np.lexsort((timestamps_us[coded], request_codes[coded], users[coded]))]
    if len(order):
        key = np.stack([users[order], request_codes[order]])
        begins = np.append(True, (key[:, 1:] != key[:, :-1]).any(axis=0))
        asked[order] = timestamps_us[order][begins][np.cumsum(begins) - 1]
    uncoded = np.flatnonzero(request_codes < 0)
    if within_us and len(uncoded):
        first = np.empty(len(uncoded), np.int64)
        first_within(users[uncoded], timestamps_us[uncoded], within_us, first)
        asked[uncoded] = first
    return asked
