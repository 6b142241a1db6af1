"""The ranking network from deepctr parts on Keras 3, trained as a weighted logistic regression.

The ranker's home of TensorFlow and deepctr: what leaves this file is numpy (`ranking.scoring.Ranker`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from features.quiet import quietly

with quietly():
    import keras
    import tensorflow as tf
    from deepctr.feature_column import DenseFeat, SparseFeat, build_input_features, input_from_feature_columns
    from deepctr.layers import DNN
    from deepctr.layers.utils import combined_dnn_input

from ranking.config import RankingConfig
from ranking.normalisers import normalisers_of
from ranking.rows import RankingRows
from ranking.scoring import BLOCKS, POWERS, Ranker, RankerShape

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Epochs = list[dict[str, Any]]

# A large log takes larger steps, so that an epoch is not many more of them.
STEPS_AN_EPOCH = 500


def targets(objective: str, clicked: npt.NDArray[np.bool_], seconds: Float64) -> tuple[Float64, Float64]:
    """Label in [0, 1] and weight of each row [n] such that weighted cross-entropy is the objective.

    `paper`: clicks weigh T, the rest 1; odds sum(T) / (N - k), which is E[T] / (1 - p) (section 4.2). `exact`: every
    row is one unit of negative weight plus T of positive weight, so the odds are exactly E[T]; as one row with label
    T / (1 + T) and weight 1 + T.
    """
    if objective == "paper":
        return clicked.astype(np.float64), np.where(clicked, seconds, 1.0)
    return seconds / (1 + seconds), 1 + seconds


def train(
    rows: RankingRows, unit: str, config: RankingConfig, seed: int, on_epoch: Callable[[dict[str, Any]], None]
) -> tuple[Ranker, Epochs]:
    """The ranker of training rows, and a row of losses for each epoch.

    Normalisers and the cap on seconds are fitted on the earlier rows; the last `validation_share` of the rows by
    instant chooses the epoch and gives back the seconds that the cap took.
    """
    earlier, later = _split(rows, config.validation_share)
    cap = seconds_cap(rows.take(earlier), config.seconds_cap_quantile)
    untrained = _untrained(rows.take(earlier), cap, unit, config)
    capped = replace(rows, seconds=np.minimum(rows.seconds, cap))
    weights, epochs = _fit(untrained, capped.take(earlier), capped.take(later), config, seed, on_epoch)
    shape = untrained.shape.model_copy(update={"scale": _lost_mass(rows.take(later), capped.take(later))})
    return Ranker(shape, untrained.normalisers, weights), epochs


def seconds_cap(rows: RankingRows, quantile: float) -> float:
    """The quantile of clicked seconds at which training winsorises T."""
    clicked = rows.seconds[rows.clicked]
    return float(np.quantile(clicked, quantile)) if len(clicked) else 1.0


def _split(rows: RankingRows, share: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Earlier and later rows by instant. Rows of one instant (made from candidates) are split by their order."""
    order = np.argsort(rows.instants, kind="stable")
    cut = len(order) - max(round(len(order) * share), 1)
    return np.sort(order[:cut]), np.sort(order[cut:])


def _lost_mass(raw: RankingRows, capped: RankingRows) -> float:
    """Seconds of the validation rows over what the cap leaves of them."""
    left = float((capped.seconds * capped.weight).sum())
    return float((raw.seconds * raw.weight).sum()) / left if left else 1.0


def _untrained(rows: RankingRows, cap: float, unit: str, config: RankingConfig) -> Ranker:
    blocks = rows.blocks
    normalisers = {
        name: normalisers_of(block, rows.clicked, config.quantiles, config.vocabulary, config.vocabulary_clicks)
        for name, block in blocks.items()
    }
    shape = RankerShape(
        numbers={name: tuple(blocks[name].numbers) for name in BLOCKS},
        codes={name: normalisers[name].sizes for name in BLOCKS},
        hidden=config.hidden,
        objective=config.objective,
        unit=unit,
        seconds_cap=cap,
    )
    return Ranker(shape, normalisers, {})


def _fit(
    ranker: Ranker,
    earlier: RankingRows,
    later: RankingRows,
    config: RankingConfig,
    seed: int,
    on_epoch: Callable[[dict[str, Any]], None],
) -> tuple[dict[str, Float32], Epochs]:
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    graph = _Graph(ranker.shape, config.dropout, seed)
    graph.model.compile(keras.optimizers.Adam(config.learning_rate), keras.losses.BinaryCrossentropy(from_logits=True))
    epochs: Epochs = []

    def note(epoch: int, logs: dict[str, float]) -> None:
        epochs.append({"epoch": epoch + 1, "loss": float(logs["loss"]), "val_loss": float(logs["val_loss"])})
        on_epoch(epochs[-1])

    stop = keras.callbacks.EarlyStopping("val_loss", patience=config.patience, restore_best_weights=True)
    inputs, labels, weights = _arrays(ranker, earlier, config.objective)
    # A mean weight of one keeps the size of a step apart from the length of a watch.
    mean = weights.mean()
    held = _arrays(ranker, later, config.objective)
    graph.model.fit(
        inputs,
        labels,
        sample_weight=weights / mean,
        validation_data=(held[0], held[1], held[2] / mean),
        batch_size=max(config.batch, len(earlier) // STEPS_AN_EPOCH),
        epochs=config.epochs,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=note), stop],
        verbose=0,
    )
    return graph.weights(), epochs


def _arrays(ranker: Ranker, rows: RankingRows, objective: str) -> tuple[dict[str, Any], Float64, Float64]:
    """The net's inputs by name, labels and weights, [n] each."""
    inputs: dict[str, Any] = {}
    for block in BLOCKS:
        codes = ranker.normalisers[block].codes(rows.blocks[block])
        inputs |= {f"code_{name}": values[:, None] for name, values in codes.items()}
    inputs["numbers"] = np.concatenate([ranker.normalisers[b].numbers(rows.blocks[b]) for b in BLOCKS], axis=1)
    labels, weights = targets(objective, rows.clicked, rows.seconds)
    return inputs, labels, weights * rows.weight


class _Graph:
    """The Keras model: deepctr inputs and embeddings, deepctr's DNN, one logit."""

    def __init__(self, shape: RankerShape, dropout: float, seed: int) -> None:
        columns = _feature_columns(shape)
        features = build_input_features(columns)
        sparse, dense = input_from_feature_columns(features, columns, 0, seed)
        wide = combined_dnn_input(sparse, dense)
        self._deep = DNN(shape.hidden, "relu", dropout_rate=dropout, seed=seed) if shape.hidden else None
        self._head = keras.layers.Dense(1)
        self.model = keras.Model(dict(features), self._head(self._deep(wide) if self._deep else wide))
        for table in self._tables.values():
            _hold_first_row_at_zero(table)

    def weights(self) -> dict[str, Float32]:
        tables = {name: table.numpy() for name, table in self._tables.items()}
        kernels = [*(self._deep.kernels if self._deep else []), self._head.kernel]
        biases = [*(self._deep.bias if self._deep else []), self._head.bias]
        named = {f"kernel{i}": kernel.numpy() for i, kernel in enumerate(kernels)}
        return tables | named | {f"bias{i}": bias.numpy() for i, bias in enumerate(biases)}

    @property
    def _tables(self) -> dict[str, Any]:
        embeddings = [layer for layer in self.model.layers if isinstance(layer, keras.layers.Embedding)]
        return {layer.name.removeprefix("sparse_emb_"): layer.embeddings for layer in embeddings}


def _hold_first_row_at_zero(table: Any) -> None:
    """Out of vocabulary is the zero vector, in training too (paper, section 4.1)."""
    rows = table.shape[0]
    mask = tf.concat([tf.zeros((1, 1)), tf.ones((rows - 1, 1))], axis=0)
    table.constraint = lambda values: values * mask
    table.assign(table * mask)


def _feature_columns(shape: RankerShape) -> list[Any]:
    sizes = {name: size for block in BLOCKS for name, size in shape.codes[block].items()}
    start = keras.initializers.RandomNormal(stddev=0.01)
    codes = [
        SparseFeat(f"code_{name}", size, shape.code_dim(size), embeddings_initializer=start)
        for name, size in sizes.items()
    ]
    return [*codes, DenseFeat("numbers", POWERS * sum(len(names) for names in shape.numbers.values()))]
