"""The peer: DeepMatch's YoutubeDNN under Keras 3, fed and trained as in its own MovieLens example.

Its graph is assembled from its parts in the order of `deepmatch.models.youtubednn` (0.3.2), which
as shipped cannot be built under Keras 3; the two lambdas that normalise are `UnitNormalization`.
Defaults are the package's and the example's: temperature .05, L2 of 1e-6, hidden layers 128 and 64,
user features of 16 dimensions, Adam.
"""

import random
import warnings
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.shared.logs import Log
from benchmarks.shared.pace import Pace
from features.arrays import Float32

HIDDEN, SIDE_DIM, L2, TEMPERATURE = (128, 64), 16, 1e-6, 0.05
# More than any pace lets it have.
EPOCHS = 1_000_000
Example = tuple[int, list[int], int, int, int]
Fed = dict[str, npt.NDArray[Any]]


def frame_of(log: Log) -> pd.DataFrame:
    """A log as the example's builder takes it."""
    return pd.DataFrame(
        {"user_id": log.users, "movie_id": log.items, "timestamp": log.timestamps_us}
    )


def examples_of(data: pd.DataFrame, length: int) -> tuple[list[Example], list[Example]]:
    """(user, history newest first, item, label, history's length) of every watch but each user's
    first: train, test.

    In the manner of the example's `gen_data_set`: row by row, the last watch of each user being the
    test.
    """
    data = data.sort_values("timestamp")
    train: list[Example] = []
    test: list[Example] = []
    for user, rows in data.groupby("user_id"):
        watched = rows["movie_id"].tolist()
        for i in range(1, len(watched)):
            history = watched[:i]
            example = (user, history[::-1], watched[i], 1, min(i, length))
            (train if i < len(watched) - 1 else test).append(example)
    random.Random(0).shuffle(train)
    return train, test


def fed_by(examples: list[Example], log: Log, length: int) -> Fed:
    """Arrays for `fit`, in the manner of the example's `gen_model_input`: padded histories, user
    columns beside.
    """
    users = np.array([example[0] for example in examples])
    histories = np.zeros((len(examples), length), np.int32)
    # What Keras's pad_sequences does with padding="post", truncating="post".
    for row, example in enumerate(examples):
        kept = example[1][:length]
        histories[row, : len(kept)] = kept
    fed = {
        "user_id": users,
        "hist_movie_id": histories,
        "hist_len": np.array([example[4] for example in examples]),
    }
    fed |= {name: codes[users] for name, codes in log.sides.items()}
    return fed | {"movie_id": np.array([example[2] for example in examples])}


class Peer:
    """A YoutubeDNN under training, and the vectors it has come to."""

    def __init__(self, log: Log, train: Fed, dim: int, negatives: int, seed: int) -> None:
        from features.quiet import quietly

        with quietly():
            import deepmatch.models  # noqa: F401
            import keras
        keras.utils.set_random_seed(seed)
        length = train["hist_movie_id"].shape[1]
        self._train = train
        # deepmatch's layers take masks without saying so, and are told each time they are built or
        # traced.
        warnings.filterwarnings("ignore", message=".*does not support masking")
        self._model, self._user_model, self._items = _graph(
            log, train["movie_id"], (dim, length, negatives), seed
        )

    def fit(self, pace: Pace, batch: int) -> None:
        """`model.fit` over its arrays, until the pace says that it is enough."""
        import keras

        class Told(keras.callbacks.Callback):  # type: ignore[misc]
            def on_train_batch_end(self, *_: Any, **__: Any) -> None:
                if pace.step(batch):
                    self.model.stop_training = True

        # A last batch of another size would be compiled once more: what is over is left out, as on
        # our side.
        whole = len(self._train["movie_id"]) // batch * batch
        fed = {name: values[:whole] for name, values in self._train.items()}
        labels = np.ones(whole)
        self._model.fit(fed, labels, batch_size=batch, epochs=EPOCHS, verbose=0, callbacks=[Told()])

    def vectors(self, fed: Fed) -> tuple[Float32, Float32]:
        """User vectors of examples [n, dim] and item vectors [items, dim], both of length 1."""
        items = self._items.embeddings.numpy()
        named = {name: values for name, values in fed.items() if name != "movie_id"}
        users = self._user_model.predict(named, batch_size=4096, verbose=0)
        return users, items / np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)


def _graph(
    log: Log, watched: npt.NDArray[Any], sizes: tuple[int, int, int], seed: int
) -> tuple[Any, Any, Any]:
    """The compiled model, the part of it that gives user vectors, and its item embedding."""
    from features.quiet import quietly

    with quietly():
        import keras
        from deepctr.feature_column import SparseFeat, VarLenSparseFeat, build_input_features
        from deepctr.layers import DNN
        from deepctr.layers.utils import NoMask, combined_dnn_input
        from deepmatch.inputs import create_embedding_matrix, input_from_feature_columns
        from deepmatch.layers.core import EmbeddingIndex, PoolingLayer, SampledSoftmaxLayer
        from deepmatch.utils import NegativeSampler, sampledsoftmaxloss

    dim, length, negatives = sizes
    named = {"user_id": log.user_count} | {
        name: int(codes.max()) + 1 for name, codes in log.sides.items()
    }
    item = SparseFeat("movie_id", log.item_count, dim)
    history = SparseFeat("hist_movie_id", log.item_count, dim, embedding_name="movie_id")
    user_columns = [SparseFeat(name, size, SIDE_DIM) for name, size in named.items()]
    user_columns.append(VarLenSparseFeat(history, length, "mean", "hist_len"))
    counter = Counter(watched.tolist())
    counts = [counter.get(i, 0) for i in range(log.item_count)]
    sampler = NegativeSampler("frequency", negatives, "movie_id", counts)

    embeddings = create_embedding_matrix([*user_columns, item], L2, seed=seed)
    user_inputs, item_inputs = build_input_features(user_columns), build_input_features([item])
    sparse, dense = input_from_feature_columns(
        user_inputs, user_columns, L2, seed=seed, embedding_matrix_dict=embeddings
    )
    deep = DNN((*HIDDEN, dim), "relu", 0, 0, False, output_activation="linear", seed=seed)
    users = keras.layers.UnitNormalization()(deep(combined_dnn_input(sparse, dense)))
    everything = EmbeddingIndex(list(range(log.item_count)))(item_inputs["movie_id"])
    items = PoolingLayer()([NoMask()(embeddings["movie_id"](everything))])
    items = keras.layers.UnitNormalization()(items)
    loss = SampledSoftmaxLayer(sampler._asdict(), TEMPERATURE)(
        [items, users, item_inputs["movie_id"]]
    )
    model = keras.Model({**user_inputs, **item_inputs}, loss)
    # Its sampler has no XLA kernel.
    model.compile(optimizer="adam", loss=sampledsoftmaxloss, jit_compile=False)
    return model, keras.Model(dict(user_inputs), users), embeddings["movie_id"]
