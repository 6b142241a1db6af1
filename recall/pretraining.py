"""Input embeddings learnt beforehand, by word2vec on the histories as sentences: the home of
gensim.
"""

import numpy as np

from features.arrays import Float32
from features.histories import Histories
from features.random_streams import Stream, rng_of
from recall.tower import TowerSpec

SPREAD = 0.05


def pretrained(histories: Histories, shape: TowerSpec, seed: int) -> Float32:
    """Rows [items, dim] for watched items from the watches before the shape's instant; unwatched
    ones are random.

    Skip-grams with negative sampling, window 5, 5 epochs; scaled to the spread of untrained tables;
    row 0 is zero.
    """
    from gensim.models import Word2Vec

    rows = (
        rng_of(seed, Stream.PRETRAINING)
        .normal(0, SPREAD, (shape.items, shape.dim))
        .astype(np.float32)
    )
    rows[0] = 0
    before = np.flatnonzero(histories.timestamps_us < shape.as_of)
    if not len(before):
        return rows
    sentences = np.split(
        histories.items[before], np.flatnonzero(np.diff(histories.users[before])) + 1
    )
    words = [sentence.astype(str).tolist() for sentence in sentences]
    # One worker: with more, the order of updates and so the result depends on the machine.
    model = Word2Vec(
        words,
        vector_size=shape.dim,
        window=5,
        sg=1,
        min_count=1,
        workers=1,
        seed=seed + 1,
        epochs=5,
    )
    fitted = model.wv.vectors / max(float(model.wv.vectors.std()), 1e-9) * SPREAD
    rows[np.array(model.wv.index_to_key, np.int64)] = fitted
    return rows
