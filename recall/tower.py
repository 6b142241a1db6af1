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
    from deepctr.feature_column import DenseFeat, SparseFeat, build_input_features
    from deepctr.layers import DNN
    from deepctr.layers.utils import combined_dnn_input
    from deepmatch.inputs import create_embedding_matrix, input_from_feature_columns

from recall.config import RecallConfig
from recall.negatives import Negatives
from recall.pooling import distinct
from recall.vectors import Tower, TowerInputs, TowerShape, poolings

Float32 = npt.NDArray[np.float32]
INITIAL_SPREAD = 0.05
TABLES = ("item_in", "item_out", "tokens")


@dataclass(frozen=True)
class Batch:
    """Positives of one step: what the tower reads [n], the items watched next [n], and shared negatives."""

    inputs: TowerInputs
    items: npt.NDArray[np.int32]
    negatives: Negatives


class TowerTrainer:
    """A tower under training.

    The large tables (items, tokens) stay in numpy and take row-wise Adam; the graph sees only the rows of a batch,
    so that a step costs what its rows cost, whatever the size of the catalogue.
    """

    def __init__(self, tower: Tower, config: RecallConfig, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
        self._rate = config.learning_rate
        self._graph = _Graph(tower.shape, config.dropout, seed)
        self._optimizer = keras.optimizers.Adam(config.learning_rate)
        self._optimizer.build(self._graph.variables)
        self._untouched = [variable.numpy() for variable in self._optimizer.variables]
        self._step = tf.function(self._gradients, reduce_retracing=True)
        self.start(tower)

    def start(self, tower: Tower) -> None:
        """Train this tower from here on, the optimisers as new. Its layers are those the trainer was made for."""
        # The compiled step is kept: to compile it again costs as much as thousands of steps.
        self.shape = tower.shape
        self._graph.assign(tower.weights)
        for variable, value in zip(self._optimizer.variables, self._untouched, strict=True):
            variable.assign(value)
        tables = {name: tower.weights[name] for name in TABLES if name in tower.weights}
        self._tables = {name: RowAdam(values, self._rate) for name, values in tables.items()}

    def fit(self, batches: Iterator[Batch]) -> float:
        """One pass over batches; the mean loss of a positive (softmax cross-entropy, nats)."""
        total, count = 0.0, 0
        for batch in batches:
            total, count = total + self._train_on(batch) * len(batch.items), count + len(batch.items)
        return total / max(count, 1)

    @property
    def tower(self) -> Tower:
        """The tower as it stands, in numpy."""
        tables = {name: table.values.copy() for name, table in self._tables.items()}
        return Tower(self.shape, tables | self._graph.weights())

    def _train_on(self, batch: Batch) -> float:
        bags = poolings(self.shape, batch.inputs)
        pooled = {name: bag.means(self._tables[name].values[bag.rows]) for name, bag in bags.items()}
        scored, places = distinct(np.concatenate([batch.items, batch.negatives.items]))
        rows = self._tables["item_out"].values[scored]
        n = len(batch.items)
        loss, gradients, row_gradient = self._step(
            pooled, _plain_inputs(self.shape, batch.inputs), rows, places[:n], places[n:], batch.negatives.corrections
        )
        for name, bag in bags.items():
            self._tables[name].apply(bag.rows, bag.row_gradients(gradients[name].numpy()))
        self._tables["item_out"].apply(scored, row_gradient.numpy())
        return float(loss)

    def _gradients(
        self, pooled: dict[str, Any], plain: dict[str, Any], rows: Any, items: Any, negatives: Any, corrections: Any
    ) -> Any:
        """Loss, gradients of the pooled inputs and of the item rows; the graph's own variables take their step."""
        with tf.GradientTape() as tape:
            tape.watch([pooled, rows])
            users = self._graph.model(pooled | plain, training=True)
            loss = sampled_softmax_loss(users, rows, items, negatives, corrections)
        variables = [variable.value for variable in self._graph.variables]
        of_pooled, of_rows, of_variables = tape.gradient(loss, (pooled, rows, variables))
        self._optimizer.apply_gradients(zip(of_variables, self._graph.variables, strict=True))
        return loss, of_pooled, tf.convert_to_tensor(of_rows)


class RowAdam:
    """A table under Adam whose moments are kept and touched only for the rows a batch names."""

    def __init__(self, values: Float32, rate: float, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.values = values.copy()
        self._first, self._second = np.zeros_like(values), np.zeros_like(values)
        self._rate, self._beta1, self._beta2 = rate, beta1, beta2
        self._steps = 0

    def apply(self, rows: npt.NDArray[np.int32], gradient: Float32) -> None:
        """One step for distinct rows [r] with their gradients [r, dim]."""
        self._steps += 1
        first = self._beta1 * self._first[rows] + (1 - self._beta1) * gradient
        second = self._beta2 * self._second[rows] + (1 - self._beta2) * gradient**2
        self._first[rows], self._second[rows] = first, second
        rate = self._rate * np.sqrt(1 - self._beta2**self._steps) / (1 - self._beta1**self._steps)
        self.values[rows] -= np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8))


def sampled_softmax_loss(users: Any, item_out: Any, items: Any, negatives: Any, corrections: Any) -> Any:
    """Mean cross-entropy of each positive against itself and the shared negatives (see recall.negatives).

    users [n, dim], item_out [rows, dim]; items [n] and negatives [s] are rows of it; corrections [s] -> scalar.
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
        embeddings = create_embedding_matrix(columns, l2_reg=0, seed=seed)
        features = build_input_features(columns)
        sparse, dense = input_from_feature_columns(features, columns, 0, seed, embedding_matrix_dict=embeddings)
        wide = keras.layers.Dropout(dropout, seed=seed)(combined_dnn_input(sparse, dense))
        deep = DNN(shape.hidden, "relu", seed=seed) if shape.hidden else None
        head = keras.layers.Dense(shape.dim)
        # A plain dict: Keras orders the inputs of another kind of mapping differently from what it is called with.
        self.model = keras.Model(dict(features), head(deep(wide) if deep else wide))
        kernels, biases = [*(deep.kernels if deep else []), head.kernel], [*(deep.bias if deep else []), head.bias]
        self._named = {name: layer.embeddings for name, layer in embeddings.items()}
        self._named |= {f"kernel{i}": kernel for i, kernel in enumerate(kernels)}
        self._named |= {f"bias{i}": bias for i, bias in enumerate(biases)}

    @property
    def variables(self) -> list[Any]:
        return list(self._named.values())

    def weights(self) -> dict[str, Float32]:
        return {name: variable.numpy() for name, variable in self._named.items()}

    def assign(self, weights: dict[str, Float32]) -> None:
        for name, variable in self._named.items():
            variable.assign(weights[name])


def _feature_columns(shape: TowerShape) -> list[Any]:
    """deepctr's feature columns; what was pooled outside the graph comes in as dense columns."""
    categories = [
        SparseFeat(f"category_{name}", size, shape.category_dim(name)) for name, size in shape.categories.items()
    ]
    watches = [DenseFeat("item_in", len(shape.recency_windows) * shape.dim)]
    tokens = [DenseFeat("tokens", shape.dim)] if shape.token_bag else []
    numbers = [DenseFeat("numbers", 3 * len(shape.numbers))] if shape.numbers else []
    age = [DenseFeat("example_age", 1)] if shape.example_age else []
    return categories + watches + tokens + numbers + age


def _plain_inputs(shape: TowerShape, inputs: TowerInputs) -> dict[str, Any]:
    """The inputs that need no pooling, under the names of `_feature_columns`."""
    named: dict[str, Any] = {f"category_{name}": codes[:, None] for name, codes in inputs.categories.items()}
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
