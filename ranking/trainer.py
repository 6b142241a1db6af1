"""The ranking network from deepctr parts on Keras 3, and how it is stepped.

The ranker's home of TensorFlow and deepctr: what leaves this file is numpy
(`ranking.model.Ranker`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features.arrays import Float32, Int32
from features.quiet import quietly
from features.random_streams import Stream, rng_of

with quietly():
    import keras
    import tensorflow as tf
    from deepctr.layers import DNN

from ranking.config import RankingConfig
from ranking.encoders import width_of
from ranking.examples import LAST_POSITION, RankerExamples, Targets
from ranking.losses import heads_of
from ranking.model import BLOCKS, SHARD, RankerSpec, space_of

# A large log is read in larger batches, and beyond the largest an epoch is a random part of its
# rows, so that training does not take longer than it learns.
STEPS_AN_EPOCH, LARGEST_BATCH = 500, 2048
# Steps after which a net has learnt what it will: a large log has fewer epochs than asked for.
MOST_STEPS = 2_000
# Weight decay is stated for a training of so many steps; a longer one decays less a step, and as
# much in all.
DECAYED_STEPS = 600
# Rows of a batch are compared with so many of their neighbours.
PAIRED = 128


class RankerTrainer:
    """A network and how it is stepped: Adam with decoupled weight decay, its rate falling to zero
    on a cosine over `epochs`.

    The loss is the objective's, plus `pairwise` times that of the order of rows, for the odds of
    seconds.
    """

    def __init__(
        self, spec: RankerSpec, examples: RankerExamples, config: RankingConfig, seed: int
    ) -> None:
        keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
        self._examples, self._rng = examples, rng_of(seed, Stream.RANKER_BATCHES)
        self._batch = min(
            max(config.batch, -(-len(examples) // STEPS_AN_EPOCH)), max(config.batch, LARGEST_BATCH)
        )
        self._network = RankerNetwork(spec, config.dropout, seed)
        steps = min(-(-len(examples) // self._batch), STEPS_AN_EPOCH)
        self.epochs = min(config.epochs, -(-MOST_STEPS // max(steps, 1)))
        self._adam = self._network.optimizer(
            config.learning_rate, config.weight_decay, steps * self.epochs
        )
        self._pairwise = config.pairwise if config.objective in ("exact", "paper") else 0.0
        of_head, of_row = tf.TensorSpec((None, heads_of(spec.objective))), tf.TensorSpec((None,))
        signature = (self._network.specs, Targets(of_head, of_head, of_row, of_row, of_row))
        self._step = tf.function(self._descend, input_signature=signature)
        self._held_loss = tf.function(self._loss, input_signature=signature)

    def epoch(self) -> float:
        """One pass over shuffled rows, or over as many as make an epoch; its mean loss."""
        order = self._rng.permutation(len(self._examples))[: STEPS_AN_EPOCH * self._batch]
        batches = (order[at : at + self._batch] for at in range(0, len(order), self._batch))
        means = [(len(rows), self._step(*self._examples.take(rows))) for rows in batches]
        return float(
            np.average([float(mean) for _, mean in means], weights=[rows for rows, _ in means])
        )

    def loss(self, examples: RankerExamples) -> float:
        """Mean loss of rows that are not trained on."""
        size = len(examples)
        shards = [np.arange(at, min(at + SHARD, size)) for at in range(0, size, SHARD)]
        means = [float(self._held_loss(*examples.take(rows))) for rows in shards]
        return float(np.average(means, weights=[len(rows) for rows in shards]))

    @property
    def weights(self) -> dict[str, Float32]:
        """The weights by their names in `ranking.model`."""
        return self._network.weights(self._examples.codes["position"][:, 0])

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on: training that is restored goes on as if it had never
        stopped.
        """
        variables = {str(place): value.numpy() for place, value in enumerate(self._variables)}
        return variables | {"rng": np.array(json.dumps(self._rng.bit_generator.state))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same training."""
        for place, variable in enumerate(self._variables):
            variable.assign(state[str(place)])
        self._rng.bit_generator.state = json.loads(str(state["rng"]))

    @property
    def _variables(self) -> list[Any]:
        # Those of the model hold the seeds of its dropout.
        return [*self._network.model.variables, self._network.steepness, *self._adam.variables]

    def _descend(self, inputs: Any, targets: Targets) -> Any:
        variables = self._network.model.trainable_variables + (
            [self._network.steepness] if self._pairwise else []
        )
        with tf.GradientTape() as tape:
            mean = self._loss(inputs, targets, training=True)
        self._adam.apply(tape.gradient(mean, variables), variables)
        return mean

    def _loss(self, inputs: Any, targets: Targets, training: bool = False) -> Any:
        """Mean loss of a batch."""
        logits = self._network.model(inputs, training=training)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(targets.labels, logits)
        mean = tf.reduce_mean(tf.reduce_sum(targets.weights * losses, axis=1))
        if not self._pairwise:
            return mean
        scores = self._network.steepness * (logits[:, 0] + targets.log_measures)
        return mean + self._pairwise * order_loss(targets.seconds, targets.row_weights, scores)


def order_loss(seconds: Any, weights: Any, scores: Any) -> Any:
    """Mean logistic loss of pairs of rows with unequal T, by the difference of their scores (Burges
    et al. 2005).

    A pair weighs the root of its difference of seconds: by the difference itself the order would be
    that of E[T], which the odds say already, with all the noise of long watches; alike, that of who
    is watched longer more often. Rows [n], which come shuffled, meet within groups of `PAIRED`
    neighbours; what is left over meets none. Fewer are one group.
    """
    rows = tf.shape(scores)[0]
    group = tf.minimum(rows, PAIRED)
    t, w, s = (
        tf.reshape(column[: rows // group * group], (-1, group))
        for column in (seconds, weights, scores)
    )
    longer = tf.sqrt(tf.nn.relu(t[:, :, None] - t[:, None, :])) * w[:, :, None] * w[:, None, :]
    losses = tf.nn.softplus(s[:, None, :] - s[:, :, None])
    return tf.reduce_sum(longer * losses) / tf.maximum(tf.reduce_sum(longer), 1e-6)


class _Tables(keras.layers.Layer):  # type: ignore[misc]
    """The embedding tables, one an id space, whoever reads it; out of vocabulary (row 0) is the
    zero vector.
    """

    def __init__(self, spec: RankerSpec) -> None:
        super().__init__()
        start = keras.initializers.RandomNormal(stddev=0.01)
        self._by_space = {
            space: self.add_weight(
                shape=(size, spec.dims[space]), initializer=start, name=f"table_{space}"
            )
            for space, size in spec.sizes.items()
        }

    def call(self, rows: Any, space: str) -> Any:
        return tf.gather(self._by_space[space], rows) * tf.cast(rows > 0, tf.float32)[..., None]

    @property
    def weights_by_name(self) -> dict[str, Any]:
        return {f"table_{space}": table for space, table in self._by_space.items()}


class RankerNetwork:
    """The Keras model: tables and deepctr's DNN."""

    def __init__(self, spec: RankerSpec, dropout: float, seed: int) -> None:
        self._spec, heads = spec, heads_of(spec.objective)
        self._tables = _Tables(spec)
        self._deep = (
            DNN(spec.hidden, "relu", dropout_rate=dropout, seed=seed) if spec.hidden else None
        )
        self._head = keras.layers.Dense(heads)
        self._position = keras.layers.Embedding(
            LAST_POSITION + 1, 1, embeddings_initializer="zeros"
        )
        # How steep the order is in log seconds is learnt beside the net, and not served.
        self.steepness = keras.Variable(1.0, name="steepness")
        inputs = {
            name: keras.Input((width,), dtype=kind, name=name)
            for name, (width, kind) in self._inputs().items()
        }
        self.model = keras.Model(inputs, self._logits(inputs))

    def _inputs(self) -> dict[str, tuple[int, str]]:
        spec = self._spec
        per_number = width_of(spec.powers)
        numbers = {
            b: (per_number * len(spec.numbers[b]), "float32") for b in BLOCKS if spec.numbers[b]
        }
        codes = {f"codes_{b}": (len(spec.codes[b]), "int32") for b in BLOCKS if spec.codes[b]}
        prior = {"prior": (1, "float32")} if spec.prior else {}
        return numbers | codes | {"position": (1, "int32")} | prior

    def _logits(self, inputs: Mapping[str, Any]) -> Any:
        read = [part for block in BLOCKS for part in self._read(block, inputs)]
        wide = keras.layers.Concatenate()(read) if len(read) > 1 else read[0]
        logits = self._head(self._deep(wide) if self._deep else wide)
        if "prior" in inputs:
            logits = logits + keras.ops.pad(inputs["prior"], ((0, 0), (0, logits.shape[1] - 1)))
        # Where it stood on the page is told apart from what it is, and left out when serving.
        return logits + keras.layers.Flatten()(self._position(inputs["position"]))

    def _read(self, block: str, inputs: Mapping[str, Any]) -> list[Any]:
        names = self._spec.codes[block]
        embedded = [
            self._tables(inputs[f"codes_{block}"][:, place], space=space_of(name))
            for place, name in enumerate(names)
        ]
        return [*embedded, inputs[block]] if block in inputs else embedded

    def weights(self, positions: Int32) -> dict[str, Float32]:
        """The weights by their names in `ranking.model`, the last bias with the mean of the
        positions' [n].
        """
        kernels = [*(self._deep.kernels if self._deep else []), self._head.kernel]
        biases = [*(self._deep.bias if self._deep else []), self._head.bias]
        named = (
            self._tables.weights_by_name | _numbered("kernel", kernels) | _numbered("bias", biases)
        )
        weights = {name: weight.numpy() for name, weight in named.items()}
        last = f"bias{len(biases) - 1}"
        by_position = self._position.embeddings.numpy()[:, 0]
        return weights | {last: weights[last] + by_position[positions].mean().astype(np.float32)}

    @property
    def specs(self) -> dict[str, Any]:
        """Shapes and kinds of the inputs by name."""
        return {
            name: tf.TensorSpec((None, width), kind)
            for name, (width, kind) in self._inputs().items()
        }

    def optimizer(self, learning_rate: float, decay: float, steps: int) -> Any:
        """Adam for so many steps, whose weight decay leaves tables and biases alone."""
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        adam = keras.optimizers.AdamW(
            rate, weight_decay=decay * min(DECAYED_STEPS / max(steps, 1), 1.0)
        )
        tables = {id(table) for table in self._tables.weights_by_name.values()} | {
            id(self._position.embeddings)
        }
        variables = [*self.model.trainable_variables, self.steepness]
        adam.exclude_from_weight_decay(
            var_list=[v for v in variables if len(v.shape) < 2 or id(v) in tables]
        )
        adam.build(variables)
        return adam


def _numbered(name: str, variables: Sequence[Any]) -> dict[str, Any]:
    return {f"{name}{place}": variable for place, variable in enumerate(variables)}
