"""YouTubeDNN's user tower, built from deepmatch and deepctr parts on Keras 3, and its training.

This is the home of TensorFlow and deepmatch: what leaves this file is numpy (`recall.vectors.Tower`).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.quiet import quietly

with quietly():
    import keras
    import tensorflow as tf
    from deepctr.feature_column import DenseFeat, SparseFeat, VarLenSparseFeat, build_input_features
    from deepctr.layers import DNN
    from deepctr.layers.utils import combined_dnn_input
    from deepmatch.inputs import create_embedding_matrix, input_from_feature_columns

from recall.config import RecallConfig
from recall.negatives import Negatives
from recall.vectors import Tower, TowerInputs, TowerShape

Float32 = npt.NDArray[np.float32]
INITIAL_SPREAD = 0.05


@dataclass(frozen=True)
class Batch:
    """Positives of one step: what the tower reads [n], the items watched next [n], and shared negatives."""

    inputs: TowerInputs
    items: npt.NDArray[np.int32]
    negatives: Negatives


class TowerTrainer:
    """A tower under training. Tables take row-wise Adam: a step costs what its rows cost, not the catalogue."""

    def __init__(self, tower: Tower, config: RecallConfig, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
        self.shape = tower.shape
        self._graph = _Graph(tower.shape, config.dropout, seed)
        self._graph.assign(tower.weights)
        self._rows = _RowAdam(self._graph.tables, config.learning_rate)
        self._dense = keras.optimizers.Adam(config.learning_rate)
        self._dense.build(self._graph.layers)
        self._step = tf.function(self._train_step, reduce_retracing=True)

    def fit(self, batches: Iterator[Batch]) -> float:
        """One pass over batches; the mean loss of a positive (softmax cross-entropy, nats)."""
        total, count = 0.0, 0
        for batch in batches:
            tensors = _tensors(self.shape, batch.inputs)
            loss = self._step(tensors, batch.items, batch.negatives.items, batch.negatives.corrections)
            total, count = total + float(loss) * len(batch.items), count + len(batch.items)
        return total / max(count, 1)

    @property
    def tower(self) -> Tower:
        """The tower as it stands, in numpy."""
        return Tower(self.shape, self._graph.weights())

    def _train_step(self, inputs: dict[str, Any], items: Any, negatives: Any, corrections: Any) -> Any:
        with tf.GradientTape() as tape:
            users = self._graph.model(inputs, training=True)
            loss = sampled_softmax_loss(users, self._graph.item_out.value, items, negatives, corrections)
        variables = [variable.value for variable in self._graph.tables + self._graph.layers]
        gradients = tape.gradient(loss, variables)
        self._rows.apply(gradients[: len(self._graph.tables)])
        self._dense.apply_gradients(zip(gradients[len(self._graph.tables) :], self._graph.layers, strict=True))
        return loss


def sampled_softmax_loss(users: Any, item_out: Any, items: Any, negatives: Any, corrections: Any) -> Any:
    """Mean cross-entropy of each positive against itself and the shared negatives (see recall.negatives).

    users [n, dim], item_out [items, dim], items [n], negatives [s], corrections [s] -> scalar.
    """
    positive = tf.reduce_sum(users * tf.gather(item_out, items), axis=1)
    others = tf.matmul(users, tf.gather(item_out, negatives), transpose_b=True) - corrections
    hits = tf.equal(items[:, None], negatives[None, :])
    others = tf.where(hits, tf.constant(-1e9, others.dtype), others)
    normaliser = tf.reduce_logsumexp(tf.concat([positive[:, None], others], axis=1), axis=1)
    return tf.reduce_mean(normaliser - positive)


def new_tower(shape: TowerShape, rng: np.random.Generator) -> Tower:
    """An untrained tower: small random tables, Glorot layers, row 0 zero."""
    tables = {name: _table(rng, *size) for name, size in _table_sizes(shape).items()}
    widths = [_wide_width(shape), *shape.hidden, shape.dim]
    layers: dict[str, Float32] = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        spread = np.sqrt(6 / (fan_in + fan_out))
        layers[f"kernel{i}"] = rng.uniform(-spread, spread, (fan_in, fan_out)).astype(np.float32)
        layers[f"bias{i}"] = np.zeros(fan_out, np.float32)
    return Tower(shape, tables | layers)


def grown_tower(tower: Tower, shape: TowerShape, rng: np.random.Generator) -> Tower:
    """A warm start for a grown vocabulary: every old row kept, new rows initialised, layers as they are."""
    fresh = new_tower(shape, rng).weights
    for name, weights in tower.weights.items():
        fresh[name][: len(weights)] = weights
    return Tower(shape, fresh)


class _Graph:
    """The Keras model: deepctr inputs and embeddings, the wide layer, deepctr's DNN and a linear head."""

    def __init__(self, shape: TowerShape, dropout: float, seed: int) -> None:
        columns = _feature_columns(shape)
        item_column = SparseFeat("item_out", shape.items, shape.dim)
        embeddings = create_embedding_matrix([*columns, item_column], l2_reg=0, seed=seed)
        features = build_input_features(columns)
        sparse, dense = input_from_feature_columns(features, columns, 0, seed, embedding_matrix_dict=embeddings)
        wide = keras.layers.Dropout(dropout, seed=seed)(combined_dnn_input(sparse, dense))
        self._deep = DNN(shape.hidden, "relu", seed=seed) if shape.hidden else None
        self._head = keras.layers.Dense(shape.dim)
        self.model = keras.Model(dict(features), self._head(self._deep(wide) if self._deep else wide))
        embeddings["item_out"].build((None, 1))
        self._embeddings = {name: layer for name, layer in embeddings.items() if layer.built}

    @property
    def item_out(self) -> Any:
        return self._embeddings["item_out"].embeddings

    @property
    def tables(self) -> list[Any]:
        return [layer.embeddings for layer in self._embeddings.values()]

    @property
    def layers(self) -> list[Any]:
        return list(self._layer_variables().values())

    def weights(self) -> dict[str, Float32]:
        variables = self._variables()
        return {name: variables[name].numpy() for name in variables}

    def assign(self, weights: dict[str, Float32]) -> None:
        for name, variable in self._variables().items():
            variable.assign(weights[name])

    def _variables(self) -> dict[str, Any]:
        return {name: layer.embeddings for name, layer in self._embeddings.items()} | self._layer_variables()

    def _layer_variables(self) -> dict[str, Any]:
        kernels = [*(self._deep.kernels if self._deep else []), self._head.kernel]
        biases = [*(self._deep.bias if self._deep else []), self._head.bias]
        named = {f"kernel{i}": kernel for i, kernel in enumerate(kernels)}
        return named | {f"bias{i}": bias for i, bias in enumerate(biases)}


class _RowAdam:
    """Adam that keeps and touches moments only for the rows a batch names (TensorFlow calls it lazy)."""

    def __init__(self, tables: list[Any], rate: float, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self._tables = [table.value for table in tables]
        self._moments = [(tf.Variable(tf.zeros_like(t)), tf.Variable(tf.zeros_like(t))) for t in self._tables]
        self._rate, self._beta1, self._beta2 = rate, beta1, beta2
        self._steps = tf.Variable(0.0)

    def apply(self, gradients: list[Any]) -> None:
        self._steps.assign_add(1.0)
        correction = tf.sqrt(1 - self._beta2**self._steps) / (1 - self._beta1**self._steps)
        for table, moments, gradient in zip(self._tables, self._moments, gradients, strict=True):
            self._apply_rows(table, *moments, gradient, self._rate * correction)

    def _apply_rows(self, table: Any, first: Any, second: Any, gradient: Any, rate: Any) -> None:
        rows, place = tf.unique(gradient.indices)
        summed = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
        mean = self._beta1 * tf.gather(first, rows) + (1 - self._beta1) * summed
        square = self._beta2 * tf.gather(second, rows) + (1 - self._beta2) * tf.square(summed)
        first.scatter_update(tf.IndexedSlices(mean, rows))
        second.scatter_update(tf.IndexedSlices(square, rows))
        table.scatter_sub(tf.IndexedSlices(rate * mean / (tf.sqrt(square) + 1e-8), rows))


def _feature_columns(shape: TowerShape) -> list[Any]:
    """deepctr's feature columns; the windows share one embedding, and so do all watches."""
    categories = [
        SparseFeat(f"category_{name}", size, shape.category_dim(name)) for name, size in shape.categories.items()
    ]
    watches = [
        VarLenSparseFeat(SparseFeat(f"last_{w}", shape.items, shape.dim, embedding_name="item_in"), w, "mean")
        for w in shape.recency_windows
    ]
    token = SparseFeat("tokens", shape.tokens, shape.dim)
    tokens = [VarLenSparseFeat(token, shape.token_bag, "mean")] if shape.token_bag else []
    numbers = [DenseFeat("numbers", 3 * len(shape.numbers))] if shape.numbers else []
    age = [DenseFeat("example_age", 1)] if shape.example_age else []
    return categories + watches + tokens + numbers + age


def _tensors(shape: TowerShape, inputs: TowerInputs) -> dict[str, Any]:
    """The inputs under the names of `_feature_columns`."""
    named: dict[str, Any] = {f"category_{name}": codes[:, None] for name, codes in inputs.categories.items()}
    named |= {f"last_{w}": inputs.watches[:, :w] for w in shape.recency_windows}
    named |= {"tokens": inputs.tokens} if shape.token_bag else {}
    named |= {"numbers": inputs.numbers} if shape.numbers else {}
    return named | ({"example_age": inputs.example_age[:, None]} if shape.example_age else {})


def _table_sizes(shape: TowerShape) -> dict[str, tuple[int, int]]:
    sizes = {"item_in": (shape.items, shape.dim), "item_out": (shape.items, shape.dim)}
    sizes |= {f"category_{name}": (size, shape.category_dim(name)) for name, size in shape.categories.items()}
    return sizes | ({"tokens": (shape.tokens, shape.dim)} if shape.token_bag else {})


def _wide_width(shape: TowerShape) -> int:
    bags = len(shape.recency_windows) + (1 if shape.token_bag else 0)
    categories = sum(shape.category_dim(name) for name in shape.categories)
    return bags * shape.dim + categories + 3 * len(shape.numbers) + int(shape.example_age)


def _table(rng: np.random.Generator, rows: int, dim: int) -> Float32:
    table = rng.normal(0, INITIAL_SPREAD, (rows, dim)).astype(np.float32)
    table[0] = 0
    return table
