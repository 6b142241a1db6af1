"""Search queries as histories of tokens: unigrams and bigrams, deliberately without the order of a
query's words.
"""

import ibis
import numpy as np
import pyarrow as pa

from features.histories import Histories, histories_of
from features.schema import QUERY, TIMESTAMP, USER
from features.split_log import timestamp_us_of
from features.vocabulary import Vocabulary


def token_histories(searches: ibis.Table, users: Vocabulary) -> tuple[Vocabulary, Histories]:
    """The token vocabulary, by first use, and each user's tokens in time order (paper, section
    3.3).

    A query is lower-cased and split at what is not a letter or a digit. Users outside `users` are
    left out.
    """
    rows = searches.mutate(
        row=ibis.row_number(),
        timestamp_us=timestamp_us_of(searches[TIMESTAMP]),
        words=_words(searches),
    )
    tokens = rows.mutate(token=rows.words.concat(_bigrams(rows.words))).unnest("token")
    table = (
        tokens.order_by("timestamp_us", "row", "token")
        .select(USER, "timestamp_us", "token")
        .to_pyarrow()
    )
    vocabulary = _by_first_use(table)
    who = users.index_of(table[USER].combine_chunks())
    what = vocabulary.index_of(table["token"].combine_chunks())
    timestamps_us = table["timestamp_us"].to_numpy()
    order = np.flatnonzero(who)[np.argsort(who[who > 0], kind="stable")]
    return vocabulary, histories_of(who[order], what[order], timestamps_us[order], len(users))


def _words(searches: ibis.Table) -> ibis.Value:
    text = searches[QUERY].lower().re_replace(r"[^\p{L}\p{N}]+", " ").strip()
    return text.split(" ").filter(lambda word: word != "")


def _bigrams(words: ibis.Value) -> ibis.Value:
    pairs = words[:-1].zip(words[1:])
    return pairs.map(lambda pair: pair.f1 + " " + pair.f2)


def _by_first_use(table: pa.Table) -> Vocabulary:
    first = (
        table.group_by("token")
        .aggregate([("timestamp_us", "min")])
        .sort_by([("timestamp_us_min", "ascending"), ("token", "ascending")])
    )
    return Vocabulary(first["token"].combine_chunks(), first["timestamp_us_min"].to_numpy())
