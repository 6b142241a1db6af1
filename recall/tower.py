"""YouTubeDNN's user tower, built from deepmatch and deepctr parts on Keras 3, and its training.

This is the home of TensorFlow and deepmatch: what leaves this file is numpy (`recall.vectors.Tower`).
"""

import itertools
import json
from collections.abc import Iterator, Mapping
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
from recall.tables import Arrays, Tables, table_names
from recall.vectors import ItemFacts, Tower, TowerInputs, TowerShape, poolings

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
INITIAL_SPREAD = 0.05


@dataclass(frozen=True)
class Batch:
    """Positives of one step: what the tower reads [n], the items watched next [n], and shared negatives.

    `shown` int32 [n, m] are further negatives of each positive: what its user was shown and did not click, 0 = none.
    """

    inputs: TowerInputs
    items: Int32
    negatives: Negatives
    shown: Int32 | None = None


class TowerTrainer:
    """A tower under training.

    The large tables (items, tokens) stay in numpy and take row-wise Adam; the graph sees only the rows of a batch,
    so that a step costs what its rows cost, whatever the size of the catalogue.
    """

    def __init__(self, tower: Tower, config: RecallConfig, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
        self._config, self._seed = config, seed
        self._graph = _Graph(tower.shape, config.dropout, seed)
        self._optimizer = keras.optimizers.Adam(config.learning_rate)
        self._optimizer.build(self._graph.variables)
        self._untouched = {name: variable.numpy() for name, variable in self._hidden_state.items()}
        self._step = tf.function(self._gradients, reduce_retracing=True)
        self.start(tower)

    def start(self, tower: Tower) -> None:
        """Train this tower, which the trainer suits, from here on, optimisers and randomness as new."""
        # The compiled step is kept: to compile it again costs as much as thousands of steps.
        self.shape, self._facts = tower.shape, tower.facts
        self._graph.assign(tower.weights)
        self._assign_hidden(self._untouched)
        self._tables = Tables(tower.shape, tower.weights, tower.facts, self._config.learning_rate)
        self._rng = np.random.default_rng([self._seed, 2])

    def suits(self, tower: Tower) -> bool:
        """Whether a tower has the layers and the category sizes that this trainer was built for."""
        tables = table_names(tower.shape)
        sizes = {name: weights.shape for name, weights in tower.weights.items() if name not in tables}
        return sizes == {name: weights.shape for name, weights in self._graph.weights().items()}

    def fit(self, batches: Iterator[Batch], rate: float = 1.0) -> tuple[float, int]:
        """One pass over batches at a share of the learning rate: mean loss of a positive (nats), and how many."""
        self._optimizer.learning_rate.assign(rate * self._config.learning_rate)
        total, count = 0.0, 0
        for batch in batches:
            total, count = total + self._train_on(batch, rate) * len(batch.items), count + len(batch.items)
        return total / max(count, 1), count

    @property
    def tower(self) -> Tower:
        """The tower as it stands, in numpy."""
        tables = {name: values.copy() for name, values in self._tables.weights.items()}
        return Tower(self.shape, tables | self._graph.weights(), self._facts)

    def state(self) -> Arrays:
        """All that the next step depends on: training that is restored goes on as if it had never stopped."""
        tables = {f"table/{name}": values for name, values in self._tables.state().items()}
        hidden = {name: variable.numpy() for name, variable in self._hidden_state.items()}
        graph = {f"graph/{name}": values for name, values in self._graph.weights().items()}
        return tables | hidden | graph | {"rng": np.array(json.dumps(self._rng.bit_generator.state))}

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on from a state of the same shape."""
        self._tables.restore({key.removeprefix("table/"): a for key, a in state.items() if key.startswith("table/")})
        self._graph.assign({key.removeprefix("graph/"): a for key, a in state.items() if key.startswith("graph/")})
        self._assign_hidden(state)
        self._rng.bit_generator.state = json.loads(str(state["rng"]))

    def _train_on(self, batch: Batch, rate: float) -> float:
        bags = poolings(self.shape, batch.inputs)
        tables = self._tables.weights
        pooled = {name: bag.means(np.take(tables[name], bag.rows, axis=0)) for name, bag in bags.items()}
        n, s = len(batch.items), len(batch.negatives.items)
        own = np.zeros((n, 0), np.int32) if batch.shown is None else batch.shown
        scored, places = distinct(np.concatenate([batch.items, batch.negatives.items, own.reshape(-1)]))
        known = self._known(len(scored))
        shown = places[n + s :].reshape(own.shape), (own > 0) & (own != batch.items[:, None])
        loss, gradients, row_gradient = self._step(
            pooled,
            _plain_inputs(self.shape, batch.inputs),
            self._tables.item_rows(scored, known),
            places[:n],
            places[n : n + s],
            batch.negatives.corrections,
            shown if own.size else None,
        )
        by_row = {name: (bag.rows, bag.row_gradients(gradients[name].numpy())) for name, bag in bags.items()}
        self._tables.apply(by_row, scored, known, row_gradient.numpy(), rate)
        return float(loss)

    def _known(self, rows: int) -> Float32 | None:
        """Which scored items show who they are, [rows, 1] of 0 and 1: the others are known by side features alone."""
        if not (self.shape.item_categories or self.shape.item_numbers) or not self._config.id_dropout:
            return None
        return (self._rng.random((rows, 1)) >= self._config.id_dropout).astype(np.float32)

    def _gradients(
        self,
        pooled: dict[str, Any],
        plain: dict[str, Any],
        rows: Any,
        items: Any,
        negatives: Any,
        corrections: Any,
        shown: Any,
    ) -> Any:
        """Loss, gradients of the pooled inputs and of the item rows; the graph's own variables take their step."""
        with tf.GradientTape() as tape:
            tape.watch([pooled, rows])
            users, vectors = self._graph.model(pooled | plain, training=True), rows
            if self.shape.metric == "cosine":
                users = tf.math.l2_normalize(users, axis=1) / self.shape.temperature
                vectors = tf.math.l2_normalize(rows, axis=1)
            loss = sampled_softmax_loss(users, vectors, items, negatives, corrections, shown)
        variables = [variable.value for variable in self._graph.variables]
        of_pooled, of_rows, of_variables = tape.gradient(loss, (pooled, rows, variables))
        self._optimizer.apply_gradients(zip(of_variables, self._graph.variables, strict=True))
        return loss, of_pooled, tf.convert_to_tensor(of_rows)

    @property
    def _hidden_state(self) -> dict[str, Any]:
        """Variables that are no weights: the optimiser's, and the dropout's randomness."""
        optimizer = {f"optimizer/{i}": variable for i, variable in enumerate(self._optimizer.variables)}
        return optimizer | {f"dropout/{i}": v for i, v in enumerate(self._graph.model.non_trainable_variables)}

    def _assign_hidden(self, values: Mapping[str, npt.NDArray[np.generic]]) -> None:
        for name, variable in self._hidden_state.items():
            variable.assign(values[name])


def sampled_softmax_loss(
    users: Any, item_vectors: Any, items: Any, negatives: Any, corrections: Any, shown: Any = None
) -> Any:
    """Mean cross-entropy of each positive against itself, the shared negatives (see recall.negatives), and its own.

    users [n, dim], item_vectors [rows, dim]; items [n] and negatives [s] are rows of it; corrections [s]; `shown` is
    (rows of it [n, m], which of them count [n, m]) -> scalar.
    """
    positive = tf.reduce_sum(users * tf.gather(item_vectors, items), axis=1)
    others = tf.matmul(users, tf.gather(item_vectors, negatives), transpose_b=True) - corrections
    logits = [positive[:, None], _masked(others, tf.not_equal(items[:, None], negatives[None, :]))]
    if shown is not None:
        logits.append(_masked(tf.einsum("nd,nmd->nm", users, tf.gather(item_vectors, shown[0])), shown[1]))
    return tf.reduce_mean(tf.reduce_logsumexp(tf.concat(logits, axis=1), axis=1) - positive)


def _masked(logits: Any, kept: Any) -> Any:
    return tf.where(kept, logits, tf.constant(-1e9, logits.dtype))


def new_tower(shape: TowerShape, facts: ItemFacts, rng: np.random.Generator) -> Tower:
    """An untrained tower: small random tables, Glorot layers, row 0 zero."""
    tables = {name: _table(rng, *size) for name, size in _table_sizes(shape).items()}
    widths = [_wide_width(shape), *shape.hidden, shape.dim]
    layers: dict[str, Float32] = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        spread = np.sqrt(6 / (fan_in + fan_out))
        layers[f"kernel{i}"] = rng.uniform(-spread, spread, (fan_in, fan_out)).astype(np.float32)
        layers[f"bias{i}"] = np.zeros(fan_out, np.float32)
    return Tower(shape, tables | layers, facts)


def grown_tower(tower: Tower, shape: TowerShape, facts: ItemFacts, rng: np.random.Generator) -> Tower:
    """A warm start for a grown vocabulary: every old row kept, new rows initialised, layers as they are."""
    fresh = new_tower(shape, facts, rng).weights
    for name, weights in tower.weights.items():
        fresh[name][: len(weights)] = weights
    return Tower(shape, fresh, facts)


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

    def assign(self, weights: Mapping[str, npt.NDArray[np.generic]]) -> None:
        for name, variable in self._named.items():
            variable.assign(weights[name])


def _feature_columns(shape: TowerShape) -> list[Any]:
    """deepctr's feature columns; what was pooled outside the graph comes in as dense columns."""
    dims = shape.category_dims
    categories = [SparseFeat(f"category_{name}", size, dims[name]) for name, size in shape.categories.items()]
    watches = [DenseFeat("item_in", len(shape.recency_windows) * shape.dim)]
    tokens = [DenseFeat("tokens", shape.dim)] if shape.token_bag else []
    numbers = [DenseFeat("numbers", shape.powers * len(shape.numbers))] if shape.numbers else []
    age = [DenseFeat("example_age", 1)] if shape.example_age else []
    return categories + watches + tokens + numbers + age


def _plain_inputs(shape: TowerShape, inputs: TowerInputs) -> dict[str, Any]:
    """The inputs that need no pooling, under the names of `_feature_columns`."""
    named: dict[str, Any] = {f"category_{name}": codes[:, None] for name, codes in inputs.categories.items()}
    named |= {"numbers": inputs.numbers} if shape.numbers else {}
    return named | ({"example_age": inputs.example_age[:, None]} if shape.example_age else {})


def _table_sizes(shape: TowerShape) -> dict[str, tuple[int, int]]:
    rows = {"item_in": shape.items, "item_out": shape.items, "tokens": shape.tokens}
    rows |= {f"item_category_{name}": size for name, size in shape.item_categories.items()}
    rows |= {"item_values": shape.powers * len(shape.item_numbers)}
    sizes = {name: (rows[name], shape.dim) for name in table_names(shape)}
    return sizes | {f"category_{name}": (size, shape.category_dims[name]) for name, size in shape.categories.items()}


def _wide_width(shape: TowerShape) -> int:
    bags = len(shape.recency_windows) + (1 if shape.token_bag else 0)
    categories = sum(shape.category_dims[name] for name in shape.categories)
    return bags * shape.dim + categories + shape.powers * len(shape.numbers) + int(shape.example_age)


def _table(rng: np.random.Generator, rows: int, dim: int) -> Float32:
    table = rng.normal(0, INITIAL_SPREAD, (rows, dim)).astype(np.float32)
    table[0] = 0
    return table
