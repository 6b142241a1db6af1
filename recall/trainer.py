"""YouTubeDNN's user tower, built from deepmatch and deepctr parts on Keras 3, and its training.

This is the home of TensorFlow and deepmatch: what leaves this file is numpy (`recall.tower.Tower`).
"""

import itertools
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.arrays import Flags, Float32, Int32
from features.quiet import quietly
from features.random_streams import Stream, rng_of

with quietly():
    import keras
    import tensorflow as tf
    from deepctr.feature_column import DenseFeat, SparseFeat, build_input_features
    from deepctr.layers import DNN
    from deepctr.layers.utils import combined_dnn_input
    from deepmatch.inputs import create_embedding_matrix, input_from_feature_columns

from features.ahead import made_ahead
from recall.config import RecallConfig
from recall.negative_sampling import Negatives
from recall.pooling import Pooling, distinct
from recall.row_adam import Arrays, EmbeddingTables, table_names
from recall.tower import POWERS, ItemFacts, Tower, TowerInputs, TowerSpec, poolings

INITIAL_SPREAD = 0.05
# Positives from which a step is worth compiling by XLA: it then takes up to a fifth less, but each
# new size seconds.
LARGE_STEP = 1024
# The share of scored items that hide who they are in a step, so that their side features learn to
# speak for them.
ID_DROPOUT = 0.1
# Inputs up to which a layer is trained at the full rate.
WIDE = 256
# The logit of what does not count.
NOTHING = -1e9


@dataclass(frozen=True)
class Batch:
    """Positives of one step: what the tower reads [n], the items watched next [n], and shared
    negatives.

    `shown` int32 [n, m] are further negatives of each positive: what its user was shown and did not
    click, 0 = none.
    """

    inputs: TowerInputs
    items: Int32
    negatives: Negatives
    shown: Int32 | None = None


@dataclass(frozen=True)
class Prepared:
    """What a step needs of its batch and no table has a say in, so that it can be made ahead of the
    step.

    `bags` by table; the distinct `scored` items [r], which of them are `known` [r, 1] (see
    `item_rows`), and how many rows a step of this size has `room` for; `fed`: what the graph is fed
    beside rows.
    """

    positives: int
    room: int
    bags: Mapping[str, Pooling]
    scored: Int32
    known: Float32 | None
    fed: tuple[Any, ...]


class TowerTrainer:
    """A tower under training.

    The large tables (items, tokens) stay in numpy and take row-wise Adam; the graph sees only the
    rows of a batch, so that a step costs what its rows cost, whatever the size of the catalogue.
    """

    def __init__(
        self, tower: Tower, config: RecallConfig, seed: int, id_dropout: float = ID_DROPOUT
    ) -> None:
        keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
        self._config, self._seed, self._id_dropout = config, seed, id_dropout
        self._graph = _Graph(tower.shape, config.dropout, seed)
        self._optimizer = _Adam(self._graph.variables, self._graph.shares)
        self._untouched = {
            name: variable.numpy() for name, variable in self._optimizer_state.items()
        }
        self._small_step = tf.function(self._gradients, reduce_retracing=True)
        self._large_step = tf.function(self._gradients, jit_compile=True)
        self._compiled: dict[tuple[int, int], Any] = {}
        self.start(tower)

    def start(self, tower: Tower) -> None:
        """Train this tower, which the trainer suits, from here on, optimisers and randomness as
        new.
        """
        # The compiled step is kept: to compile it again costs as much as thousands of steps.
        self.shape, self._facts = tower.shape, tower.facts
        self._graph.assign(tower.weights)
        self._assign_optimizer(self._untouched)
        self._tables = EmbeddingTables(
            tower.shape, tower.weights, tower.facts, self._config.learning_rate
        )
        self._rng = rng_of(self._seed, Stream.NEGATIVES)

    def suits(self, tower: Tower) -> bool:
        """Whether a tower has the layers and the category sizes that this trainer was built for."""
        tables = table_names(tower.shape)
        sizes = {
            name: weights.shape for name, weights in tower.weights.items() if name not in tables
        }
        return sizes == {name: weights.shape for name, weights in self._graph.weights().items()}

    def fit(self, batches: Iterator[Batch], rate: float = 1.0) -> tuple[float, int]:
        """One pass over batches at a share of the learning rate: mean loss of a positive (nats),
        and how many.
        """
        total, count = 0.0, 0
        for loss, positives in self.steps(batches, rate):
            total, count = total + loss * positives, count + positives
        return total / max(count, 1), count

    def steps(
        self, batches: Iterator[Batch], rate: float = 1.0
    ) -> Generator[tuple[float, int], None, None]:
        """As `fit`, step by step: the mean loss of a step's positives and how many; the next
        batches are made ahead.
        """
        with closing(made_ahead(map(self._prepared, batches))) as prepared:
            for step in prepared:
                yield self._train_on(step, rate), step.positives

    @property
    def tower(self) -> Tower:
        """The tower as it stands, in numpy."""
        tables = {name: values.copy() for name, values in self._tables.weights.items()}
        return Tower(self.shape, tables | self._graph.weights(), self._facts)

    def state(self) -> Arrays:
        """All that the next step depends on: training that is restored goes on as if it had never
        stopped.
        """
        tables = {f"table/{name}": values for name, values in self._tables.state().items()}
        optimizer = {name: variable.numpy() for name, variable in self._optimizer_state.items()}
        graph = {f"graph/{name}": values for name, values in self._graph.weights().items()}
        return (
            tables
            | optimizer
            | graph
            | {"rng": np.array(json.dumps(self._rng.bit_generator.state))}
        )

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on from a state of the same shape."""
        self._tables.restore(
            {key.removeprefix("table/"): a for key, a in state.items() if key.startswith("table/")}
        )
        self._graph.assign(
            {key.removeprefix("graph/"): a for key, a in state.items() if key.startswith("graph/")}
        )
        self._assign_optimizer(state)
        self._rng.bit_generator.state = json.loads(str(state["rng"]))

    def _prepared(self, batch: Batch) -> Prepared:
        own = np.zeros((len(batch.items), 0), np.int32) if batch.shown is None else batch.shown
        scored, places = distinct(
            np.concatenate([batch.items, batch.negatives.items, own.reshape(-1)])
        )
        codes, numbers = _plain_inputs(self.shape, batch.inputs)
        counted = (own > 0) & (own != batch.items[:, None]) if own.size else None
        kept = batch.items[:, None] != batch.negatives.items
        known, heard = self._known(len(scored)), self._heard(len(batch.items))
        # To hand an array over takes as long as many operations of the graph.
        fed = [codes, numbers, heard, places, batch.negatives.corrections, kept, counted]
        tensors = tuple(None if array is None else tf.constant(array) for array in fed)
        return Prepared(
            len(batch.items),
            len(places),
            poolings(self.shape, batch.inputs),
            scored,
            known,
            tensors,
        )

    def _train_on(self, step: Prepared, rate: float) -> float:
        tables, bags = self._tables.weights, step.bags
        pooled = {
            name: bag.means(np.take(tables[name], bag.rows, axis=0)) for name, bag in bags.items()
        }
        # As many rows as there may be: what is compiled for a size serves all steps of that size.
        rows = np.zeros((step.room, self.shape.dim), np.float32)
        rows[: len(step.scored)] = self._tables.item_rows(step.scored, step.known)
        # Arrays that TensorFlow turns into tensors itself cost it a millisecond.
        read = tf.nest.map_structure(
            tf.constant, (pooled, rows, np.float32(rate * self._config.learning_rate))
        )
        loss, gradients, row_gradient = self._step_for(step, read)(*read, *step.fed)
        # Unlike `numpy()`, this reads what the graph has written where it lies.
        by_row = {
            name: (bag.rows, bag.row_gradients(np.asarray(gradients[name])))
            for name, bag in bags.items()
        }
        of_rows = np.asarray(row_gradient)[: len(step.scored)]
        self._tables.apply(by_row, step.scored, step.known, of_rows, rate)
        return float(loss)

    def _step_for(self, step: Prepared, read: tuple[Any, ...]) -> Any:
        """The graph's step: a large one is compiled for its size, and found by it sooner than
        TensorFlow would.
        """
        if step.positives < LARGE_STEP:
            return self._small_step
        size = step.positives, step.room
        if size not in self._compiled:
            self._compiled[size] = self._large_step.get_concrete_function(*read, *step.fed)
        return self._compiled[size]

    def _known(self, rows: int) -> Float32 | None:
        """Which scored items show who they are, [rows, 1] of 0 and 1: the others are known by side
        features alone.
        """
        if not (self.shape.item_categories or self.shape.item_numbers) or not self._id_dropout:
            return None
        return (self._rng.random((rows, 1)) >= self._id_dropout).astype(np.float32)

    def _heard(self, positives: int) -> Flags | None:
        """Which embedded values dropout leaves, [positives, width]: drawn here, for it costs XLA a
        step.
        """
        if not self._config.dropout:
            return None
        values = self._rng.random((positives, _embedded_width(self.shape)), np.float32)
        return values >= np.float32(self._config.dropout)

    def _gradients(
        self,
        pooled: dict[str, Any],
        rows: Any,
        rate: Any,
        codes: Any,
        numbers: Any,
        heard: Any,
        *scoring: Any,
    ) -> Any:
        """Loss, gradients of the pooled inputs and of the item rows; the graph's own variables take
        their step.
        """
        with tf.GradientTape() as tape:
            tape.watch([pooled, rows])
            inputs = pooled | _named_inputs(self.shape, codes, numbers)
            inputs |= _named_share(self.shape, heard, self._config.dropout)
            users, vectors = self._graph.model(inputs, training=True), rows
            if self.shape.metric == "cosine":
                users = tf.math.l2_normalize(users, axis=1) / self.shape.temperature
                vectors = tf.math.l2_normalize(rows, axis=1)
            loss = sampled_softmax_loss(users, vectors, *scoring)
        variables = [variable.value for variable in self._graph.variables]
        of_pooled, of_rows, of_variables = tape.gradient(loss, (pooled, rows, variables))
        self._optimizer.apply(of_variables, rate)
        return loss, of_pooled, tf.convert_to_tensor(of_rows)

    @property
    def _optimizer_state(self) -> dict[str, Any]:
        """The variables of the graph that are no weights."""
        return {f"optimizer/{i}": variable for i, variable in enumerate(self._optimizer.variables)}

    def _assign_optimizer(self, values: Mapping[str, npt.NDArray[np.generic]]) -> None:
        for name, variable in self._optimizer_state.items():
            variable.assign(values[name])


class _Adam:
    """Adam of the graph's variables, each at its share of the rate; one fused operation each:
    Keras's takes a dozen.
    """

    def __init__(
        self,
        variables: list[Any],
        shares: list[float],
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-7,
    ) -> None:
        self._moved, self._shares = [variable.value for variable in variables], shares
        self._as_of = [
            [tf.Variable(tf.zeros_like(value)) for value in self._moved] for _ in range(2)
        ]
        self._powers = [tf.Variable(beta) for beta in (beta1, beta2)]
        self._betas, self._epsilon = (beta1, beta2), epsilon

    @property
    def variables(self) -> list[Any]:
        return [*self._powers, *self._as_of[0], *self._as_of[1]]

    def apply(self, gradients: list[Any], rate: Any) -> None:
        """One step at a learning rate."""
        beta1, beta2 = self._betas
        power1, power2 = (power.read_value() for power in self._powers)
        moved = zip(self._moved, self._shares, *self._as_of, gradients, strict=True)
        for value, share, first, second, gradient in moved:
            tf.raw_ops.ResourceApplyAdam(
                var=value.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=power1,
                beta2_power=power2,
                lr=rate * share,
                beta1=beta1,
                beta2=beta2,
                epsilon=self._epsilon,
                grad=tf.convert_to_tensor(gradient),
            )
        for power, beta in zip(self._powers, self._betas, strict=True):
            power.assign(power * beta)


def sampled_softmax_loss(
    users: Any, item_vectors: Any, places: Any, corrections: Any, kept: Any, shown: Any = None
) -> Any:
    """Mean cross-entropy of each positive against itself, the shared negatives
    (`negative_sampling`), and its own.

    users [n, dim], item_vectors [rows, dim]; `places` are rows of it: of the n positives, the s
    negatives, and, where `shown` [n, m] says which of them count, of n * m negatives that are one
    positive's own; corrections [s]; `kept` [n, s]: which negatives are not the positive itself ->
    scalar.
    """
    n, s = tf.shape(users)[0], tf.shape(corrections)[0]
    vectors = tf.gather(item_vectors, places)
    positive = tf.reduce_sum(users * vectors[:n], axis=1)
    logits = [
        positive[:, None],
        _log_sum_exp(users, vectors[n : n + s], corrections, kept)[:, None],
    ]
    if shown is not None:
        own = tf.reshape(vectors[n + s :], (n, -1, tf.shape(users)[1]))
        logits.append(tf.where(shown, tf.einsum("nd,nmd->nm", users, own), NOTHING))
    return tf.reduce_mean(tf.reduce_logsumexp(tf.concat(logits, axis=1), axis=1) - positive)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _log_sum_exp(users: Any, vectors: Any, corrections: Any, kept: Any) -> Any:
    """log sum_j exp(users_i . vectors_j - corrections_j) over the j that are kept: [n, dim], [s,
    dim] -> [n].

    What is [n, s] is as good as the whole cost, so it is passed over as few times as will do: the
    exponentials serve the sum and the gradient.
    """
    logits = tf.where(kept, tf.matmul(users, vectors, transpose_b=True) - corrections, NOTHING)
    top = tf.reduce_max(logits, axis=1, keepdims=True)
    powers = tf.exp(logits - top)
    total = tf.reduce_sum(powers, axis=1, keepdims=True)

    def gradient(of_sum: Any) -> Any:
        weights = of_sum[:, None] / total
        # Of two products with the large matrix on one side, this is the one that does not turn it
        # over.
        of_vectors = tf.transpose(tf.matmul(users * weights, powers, transpose_a=True))
        return tf.matmul(powers, vectors) * weights, of_vectors, None, None

    return tf.squeeze(tf.math.log(total) + top, axis=1), gradient


def new_tower(shape: TowerSpec, facts: ItemFacts, rng: np.random.Generator) -> Tower:
    """An untrained tower: small random tables, Glorot layers, row 0 zero."""
    tables = {name: _table(rng, *size) for name, size in _table_sizes(shape).items()}
    widths = [_embedded_width(shape) + _number_width(shape), *shape.hidden, shape.dim]
    layers: dict[str, Float32] = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        spread = np.sqrt(6 / (fan_in + fan_out))
        layers[f"kernel{i}"] = rng.uniform(-spread, spread, (fan_in, fan_out)).astype(np.float32)
        layers[f"bias{i}"] = np.zeros(fan_out, np.float32)
    return Tower(shape, tables | layers, facts)


def grown_tower(
    tower: Tower, shape: TowerSpec, facts: ItemFacts, rng: np.random.Generator
) -> Tower:
    """A warm start for a grown vocabulary: every old row kept, new rows initialised, layers as they
    are.
    """
    fresh = new_tower(shape, facts, rng).weights
    for name, weights in tower.weights.items():
        fresh[name][: len(weights)] = weights
    return Tower(shape, fresh, facts)


class _Graph:
    """The Keras model: deepctr inputs and embeddings, the wide layer, deepctr's DNN and a linear
    head.
    """

    def __init__(self, shape: TowerSpec, dropout: float, seed: int) -> None:
        columns = _feature_columns(shape)
        embeddings = create_embedding_matrix(columns, l2_reg=0, seed=seed)
        features = build_input_features(columns)
        sparse, dense = input_from_feature_columns(
            features, columns, 0, seed, embedding_matrix_dict=embeddings
        )
        wide = combined_dnn_input(sparse, dense)
        inputs = dict(features)
        if dropout:
            inputs["dropout"] = keras.Input(wide.shape[1:], name="dropout")
            wide = keras.layers.Multiply()([wide, inputs["dropout"]])
        deep = DNN(shape.hidden, "relu", seed=seed) if shape.hidden else None
        head = keras.layers.Dense(shape.dim)
        # A plain dict: Keras orders the inputs of another kind of mapping differently from what it
        # is called with.
        self.model = keras.Model(inputs, head(deep(wide) if deep else wide))
        kernels, biases = (
            [*(deep.kernels if deep else []), head.kernel],
            [*(deep.bias if deep else []), head.bias],
        )
        self._named = {name: layer.embeddings for name, layer in embeddings.items()}
        self._named |= {f"kernel{i}": kernel for i, kernel in enumerate(kernels)}
        self._named |= {f"bias{i}": bias for i, bias in enumerate(biases)}
        self._inputs = {f"kernel{i}": kernel.shape[0] for i, kernel in enumerate(kernels)}

    @property
    def variables(self) -> list[Any]:
        return list(self._named.values())

    @property
    def shares(self) -> list[float]:
        """Of the learning rate, by variable. A step of Adam moves what a layer puts out by its
        inputs times the rate: a wide layer takes smaller steps (Yang et al. 2021), or the deepest
        towers learn nothing.
        """
        return [min(WIDE / self._inputs.get(name, WIDE), 1.0) for name in self._named]

    def weights(self) -> dict[str, Float32]:
        return {name: variable.numpy() for name, variable in self._named.items()}

    def assign(self, weights: Mapping[str, npt.NDArray[np.generic]]) -> None:
        for name, variable in self._named.items():
            variable.assign(weights[name])


def _feature_columns(shape: TowerSpec) -> list[Any]:
    """deepctr's feature columns; what was pooled outside the graph comes in as dense columns."""
    dims = shape.category_dims
    categories = [
        SparseFeat(f"category_{name}", size, dims[name]) for name, size in shape.categories.items()
    ]
    watches = [DenseFeat("item_in", len(shape.recency_windows) * shape.dim)]
    tokens = [DenseFeat("tokens", shape.dim)] if shape.token_bag else []
    numbers = [DenseFeat("numbers", POWERS * len(shape.numbers))] if shape.numbers else []
    age = [DenseFeat("example_age", 1)] if shape.example_age else []
    return categories + watches + tokens + numbers + age


def _plain_inputs(shape: TowerSpec, inputs: TowerInputs) -> tuple[Int32, Float32]:
    """The inputs that need no pooling: codes [n, categories], and numbers with the example age [n,
    numbers].
    """
    columns = [inputs.categories[name] for name in shape.categories]
    codes = np.stack(columns, axis=1) if columns else np.zeros((len(inputs), 0), np.int32)
    return codes, np.concatenate([inputs.numbers, inputs.example_age[:, None]], axis=1)


def _named_inputs(shape: TowerSpec, codes: Any, numbers: Any) -> dict[str, Any]:
    """What `_plain_inputs` packed, under the names of `_feature_columns`."""
    named = {f"category_{name}": codes[:, i : i + 1] for i, name in enumerate(shape.categories)}
    named |= {"numbers": numbers[:, :-1]} if shape.numbers else {}
    return named | ({"example_age": numbers[:, -1:]} if shape.example_age else {})


def _named_share(shape: TowerSpec, heard: Any, dropout: float) -> dict[str, Any]:
    """What dropout multiplies the wide layer by: nothing, or what keeps the mean of its embedded
    values.

    Numbers are left alone: a dropped one would say 0, which is a value of its own and of the
    example age the newest.
    """
    if heard is None:
        return {}
    share = tf.cast(heard, tf.float32) / (1 - dropout)
    return {"dropout": tf.pad(share, [[0, 0], [0, _number_width(shape)]], constant_values=1.0)}


def _table_sizes(shape: TowerSpec) -> dict[str, tuple[int, int]]:
    rows = {"item_in": shape.items, "item_out": shape.items, "tokens": shape.tokens}
    rows |= {f"item_category_{name}": size for name, size in shape.item_categories.items()}
    rows |= {"item_values": POWERS * len(shape.item_numbers)}
    sizes = {name: (rows[name], shape.dim) for name in table_names(shape)}
    return sizes | {
        f"category_{name}": (size, shape.category_dims[name])
        for name, size in shape.categories.items()
    }


def _embedded_width(shape: TowerSpec) -> int:
    """Of the wide layer's values those that come first: pooled bags and categories."""
    bags = len(shape.recency_windows) + (1 if shape.token_bag else 0)
    return bags * shape.dim + sum(shape.category_dims[name] for name in shape.categories)


def _number_width(shape: TowerSpec) -> int:
    """Those that come last: numbers and the example age."""
    return POWERS * len(shape.numbers) + int(shape.example_age)


def _table(rng: np.random.Generator, rows: int, dim: int) -> Float32:
    table = rng.normal(0, INITIAL_SPREAD, (rows, dim)).astype(np.float32)
    table[0] = 0
    return table
