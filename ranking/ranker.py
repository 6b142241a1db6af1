"""The ranking network from deepctr parts on Keras 3, and its training.

The ranker's home of TensorFlow and deepctr: what leaves this file is numpy (`ranking.scoring.Ranker`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from features.quiet import quietly

with quietly():
    import keras
    import tensorflow as tf
    from deepctr.layers import DNN

from ranking.calibration import calibration_factor
from ranking.columns import columns_of
from ranking.config import RankingConfig
from ranking.normalisers import Limits, normalisers_of, widened, width_of
from ranking.objectives import heads_of, length_yardstick, targets, yardstick_of
from ranking.rows import MERGED, RankingRows
from ranking.scoring import BLOCKS, SHARD, Ranker, RankerShape, lengths_of, space_of

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Epochs = list[dict[str, Any]]
Tell = Callable[[dict[str, Any]], None]

# A large log is read in larger batches, and beyond the largest an epoch is a random part of its rows, so that training
# does not take longer than it learns.
STEPS_AN_EPOCH, LARGEST_BATCH = 500, 2048
# Weight decay is stated for a training of so many steps; a longer one decays less a step, and as much in all.
DECAYED_STEPS = 600
# Rows of a batch are compared with so many of their neighbours.
PAIRED = 128
# Columns of a row's target that only the order reads.
ORDERED = 3
LAST_POSITION = 50


@dataclass(frozen=True)
class Trained:
    """The ranker that is served, the one that never saw the validation rows, and a row of losses for each epoch."""

    ranker: Ranker
    validation: Ranker
    epochs: Epochs


def train(
    rows: RankingRows, unit: str, config: RankingConfig, seed: int, on_epoch: Tell, validates: Flags | None = None
) -> Trained:
    """The ranker of training rows.

    Normalisers, yardstick and the cap on seconds are fitted on the rows that do not validate; those that do (flags [n];
    None: the last `validation_share` by instant) choose the epoch, give back the seconds that the cap took, and
    calibrate. With `refit` the net is then trained anew for as many epochs on all rows, the newest among them, and
    keeps the scale and the calibration.
    """
    early, late = (
        _split(rows, config.validation_share)
        if validates is None
        else (np.flatnonzero(~validates), np.flatnonzero(validates))
    )
    cap = seconds_cap(rows.seconds[early], rows.clicked[early], config.seconds_cap_quantile)
    capped = replace(rows, seconds=np.minimum(rows.seconds, cap))
    earlier, later = capped.take(early), capped.take(late)
    untrained = _untrained(earlier, cap, unit, config)
    weights, epochs = _fit(untrained, earlier, later, config, seed, on_epoch)
    scale = _lost_mass(rows.take(late), later)
    shape = untrained.shape.model_copy(update={"scale": scale})
    ranker = replace(untrained, shape=shape, weights=weights)
    ranker = _calibrated(ranker, rows.take(late)) if config.calibration == "scale" else ranker
    served = _refitted(ranker, capped, later, config, best_epoch(epochs), seed) if config.refit else ranker
    return Trained(served, ranker, epochs)


def best_epoch(epochs: Epochs) -> int:
    """The epoch of the lowest validation loss, the first being 1."""
    return int(min(epochs, key=lambda row: row["val_loss"])["epoch"])


def _refitted(
    ranker: Ranker, rows: RankingRows, later: RankingRows, config: RankingConfig, epochs: int, seed: int
) -> Ranker:
    """The ranker with a net trained on all rows, at the level that the first net had on the later ones."""
    again = replace(ranker, weights=_Training(ranker, rows, config, seed).run(epochs))
    first, second = (_uncalibrated_total(each, later) for each in (ranker, again))
    scale = ranker.shape.scale * (first / second if second else 1.0)
    return replace(again, shape=ranker.shape.model_copy(update={"scale": scale}))


def _uncalibrated_total(ranker: Ranker, rows: RankingRows) -> float:
    ranker = replace(ranker, shape=ranker.shape.model_copy(update={"calibration": 1.0}))
    return float((ranker.scores(*(rows.blocks[name] for name in BLOCKS)) * rows.weight).sum())


def seconds_cap(seconds: Float64, clicked: npt.NDArray[np.bool_], quantile: float) -> float:
    """The quantile of clicked seconds at which training winsorises T."""
    return float(np.quantile(seconds[clicked], quantile)) if clicked.any() else 1.0


def _split(rows: RankingRows, share: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Earlier and later rows by instant. What is of one instant stays together, unless it is all there is.

    Rows made from lists are of few instants, and no hour is like another: what learnt one is not judged by it.
    """
    order = np.argsort(rows.instants, kind="stable")
    cut = len(order) - max(round(len(order) * share), 1)
    ascending = rows.instants[order]
    begin, end = (int(np.searchsorted(ascending, ascending[cut], side)) for side in ("left", "right"))
    cut = begin or (end if end < len(order) else cut)
    return np.sort(order[:cut]), np.sort(order[cut:])


def _lost_mass(raw: RankingRows, capped: RankingRows) -> float:
    """Seconds of the validation rows over what the cap leaves of them."""
    left = float((capped.seconds * capped.weight).sum())
    return float((raw.seconds * raw.weight).sum()) / left if left else 1.0


def _calibrated(ranker: Ranker, rows: RankingRows) -> Ranker:
    """The ranker with its last step fitted on validation rows."""
    predicted = ranker.scores(*(rows.blocks[name] for name in BLOCKS))
    factor = calibration_factor(predicted, rows.seconds, rows.weight)
    return replace(ranker, shape=ranker.shape.model_copy(update={"calibration": factor}))


def _untrained(rows: RankingRows, cap: float, unit: str, config: RankingConfig) -> Ranker:
    blocks = rows.blocks
    columns = columns_of(blocks, config.without)
    spaces = {code: space_of(code) for name in BLOCKS for code in columns.codes[name]}
    limits = Limits(config.quantiles, config.vocabulary, config.vocabulary_clicks)
    read = {name: blocks[name].with_numbers_of(columns.numbers[name]) for name in BLOCKS}
    normalisers = normalisers_of(read, rows.clicked, spaces, limits)
    yardstick = (
        length_yardstick(rows.clicked, rows.seconds, lengths_of(blocks["item"]))
        if _measured_by_length(unit, config)
        else yardstick_of(config.objective, rows.clicked, rows.seconds)
    )
    shape = RankerShape(
        numbers=columns.numbers,
        codes=columns.codes,
        sizes={space: len(kept) + 1 for space, kept in normalisers.kept.items()},
        **config.model_dump(include={"hidden", "powers", "objective"}),
        **(_prior(rows, config) if MERGED in columns.numbers["pair"] else {}),
        unit=unit,
        seconds_cap=cap,
        yardstick=yardstick.unit,
        by_length=yardstick.by_length,
    )
    return Ranker(shape, normalisers, {}, yardstick)


def _prior(rows: RankingRows, config: RankingConfig) -> dict[str, Any]:
    """Recall's log chance as where the logits start, where it is known of the rows."""
    merged = rows.blocks["pair"].numbers.get(MERGED)
    if merged is None or not config.recall_prior:
        return {}
    known = ~np.isnan(merged)
    mean = np.average(np.exp(merged[known]), weights=rows.weight[known]) if known.any() else 1.0
    return {"prior": MERGED, "prior_unknown": float(np.log(mean))}


def _measured_by_length(unit: str, config: RankingConfig) -> bool:
    """Whether the odds count lengths of the item: the objective's odds are of T, and T is in seconds."""
    return config.measured_in == "length" and unit == "seconds" and config.objective in ("exact", "multi_task")


def _fit(
    ranker: Ranker, earlier: RankingRows, later: RankingRows, config: RankingConfig, seed: int, on_epoch: Tell
) -> tuple[dict[str, Float32], Epochs]:
    """The weights of the epoch with the lowest loss on the later rows; `patience` epochs without a lower one end it."""
    training = _Training(ranker, earlier, config, seed)
    # In the log's order neighbours are of one user, and what orders users would not count.
    shuffled = later.take(np.random.default_rng(seed).permutation(len(later)))
    held = _examples(ranker, shuffled)
    epochs: Epochs = []
    best: dict[str, Float32] = {}
    for epoch in range(1, config.epochs + 1):
        epochs.append({"epoch": epoch, "loss": training.epoch(), "val_loss": training.loss(held)})
        on_epoch(epochs[-1])
        if best_epoch(epochs) == epoch:
            best = training.weights
        if epoch - best_epoch(epochs) >= config.patience:
            break
    return best, epochs


class _Training:
    """A net and how it is stepped: Adam with decoupled weight decay, its rate falling to zero on a cosine.

    The loss is the objective's, plus `pairwise` times that of the order of rows, for the odds of seconds.
    """

    def __init__(self, ranker: Ranker, rows: RankingRows, config: RankingConfig, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()
        self._rng, self._positions = np.random.default_rng(seed), places_of(rows)
        self._examples = _examples(ranker, rows)
        self._batch = min(max(config.batch, -(-len(rows) // STEPS_AN_EPOCH)), max(config.batch, LARGEST_BATCH))
        self._graph = _Graph(ranker.shape, config.dropout, seed)
        steps = min(-(-len(rows) // self._batch), STEPS_AN_EPOCH) * config.epochs
        self._adam = self._graph.optimizer(config.learning_rate, config.weight_decay, steps)
        graph, pairwise = self._graph, config.pairwise
        compared = pairwise > 0 and config.objective in ("exact", "paper")
        signature = (graph.specs, tf.TensorSpec((None, 2 * heads_of(config.objective) + ORDERED)))

        def mean_loss(inputs: Any, target: Any, training: bool) -> Any:
            logits = graph.model(inputs, training=training)
            mean = tf.reduce_mean(_loss(target[:, :-ORDERED], logits))
            if not compared:
                return mean
            measure, seconds, weights = tf.unstack(target[:, -ORDERED:], axis=1)
            return mean + pairwise * _order_loss(seconds, weights, graph.steepness * (logits[:, 0] + measure))

        @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
        def held_loss(inputs: Any, target: Any) -> Any:
            return mean_loss(inputs, target, training=False)

        @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
        def step(inputs: Any, target: Any) -> Any:
            variables = graph.model.trainable_variables + ([graph.steepness] if compared else [])
            with tf.GradientTape() as tape:
                mean = mean_loss(inputs, target, training=True)
            self._adam.apply(tape.gradient(mean, variables), variables)
            return mean

        self._step, self._held_loss = step, held_loss

    def run(self, epochs: int) -> dict[str, Float32]:
        for _ in range(epochs):
            self.epoch()
        return self.weights

    def epoch(self) -> float:
        """One pass over shuffled rows, or over as many as make an epoch; its mean loss."""
        order = self._rng.permutation(len(self._examples.targets))[: STEPS_AN_EPOCH * self._batch]
        batches = (order[at : at + self._batch] for at in range(0, len(order), self._batch))
        means = [(len(rows), self._step(*self._examples.take(rows))) for rows in batches]
        return float(np.average([float(mean) for _, mean in means], weights=[rows for rows, _ in means]))

    def loss(self, examples: "_Examples") -> float:
        """Mean loss of rows that are not trained on."""
        size = len(examples.targets)
        shards = [np.arange(at, min(at + SHARD, size)) for at in range(0, size, SHARD)]
        means = [float(self._held_loss(*examples.take(rows))) for rows in shards]
        return float(np.average(means, weights=[len(rows) for rows in shards]))

    @property
    def weights(self) -> dict[str, Float32]:
        return self._graph.weights(self._positions)


@dataclass(frozen=True)
class _Examples:
    """Rows [n] as the net is fed them: numbers are widened batch by batch, so that memory grows with the log alone.

    `targets` [n, 2 x heads + ORDERED]: labels and weights by head; then, for the order, the log of what the odds are
    measured in, T in seconds, and the row's weight.
    """

    ranker: Ranker
    numbers: dict[str, Float32]
    codes: dict[str, Int32]
    prior: Float32 | None
    targets: Float32

    def take(self, rows: npt.NDArray[np.intp]) -> tuple[dict[str, Any], Float32]:
        shape = self.ranker.shape
        inputs: dict[str, Any] = {name: codes[rows] for name, codes in self.codes.items()}
        inputs |= {n: widened(x[rows], shape.powers) for n, x in self.numbers.items()}
        inputs |= {} if self.prior is None else {"prior": self.prior[rows]}
        return inputs, self.targets[rows]


def _examples(ranker: Ranker, rows: RankingRows) -> _Examples:
    shape, blocks = ranker.shape, rows.blocks
    codes = {f"codes_{name}": ranker.rows(name, blocks[name]) for name in BLOCKS if shape.codes[name]}
    codes |= {"position": places_of(rows)[:, None]}
    prior = ranker.prior(blocks["pair"])[:, None] if shape.prior else None
    numbers = {n: ranker.normalisers.numbers(blocks[n], shape.numbers[n]) for n in BLOCKS if shape.numbers[n]}
    measures = ranker.measures(blocks["item"])
    labels, weights = targets(shape.objective, rows.clicked, rows.seconds / measures)
    weights = weights * rows.weight[:, None]
    # A mean weight of one keeps the size of a step apart from the length of a watch.
    weights = weights / np.maximum(weights.mean(axis=0), 1e-12)
    order = np.stack([np.log(measures), rows.seconds, rows.weight], axis=1)
    columns = np.concatenate([labels, weights, order], axis=1)
    return _Examples(ranker, numbers, codes, prior, columns.astype(np.float32))


def places_of(rows: RankingRows) -> Int32:
    """Positions on the page as rows of their table, [n]: 0 unknown, the last one for all beyond."""
    return np.clip(rows.positions, 0, LAST_POSITION).astype(np.int32)


def _loss(target: Any, logits: Any) -> Any:
    """Weighted loss of logits [n, heads] by row; the target's columns are labels and weights."""
    labels, weights = tf.split(target, 2, axis=1)
    return tf.reduce_sum(weights * tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), axis=1)


def _order_loss(seconds: Any, weights: Any, scores: Any) -> Any:
    """Mean logistic loss of pairs of rows with unequal T, by the difference of their scores (Burges et al. 2005).

    A pair weighs the root of its difference of seconds: by the difference itself the order would be that of E[T],
    which the odds say already, with all the noise of long watches; alike, that of who is watched longer more often.
    Rows [n], which come shuffled, meet within groups of `PAIRED` neighbours; what is left over meets none. Fewer are
    one group.
    """
    rows = tf.shape(scores)[0]
    group = tf.minimum(rows, PAIRED)
    t, w, s = (tf.reshape(column[: rows // group * group], (-1, group)) for column in (seconds, weights, scores))
    longer = tf.sqrt(tf.nn.relu(t[:, :, None] - t[:, None, :])) * w[:, :, None] * w[:, None, :]
    losses = tf.nn.softplus(s[:, None, :] - s[:, :, None])
    return tf.reduce_sum(longer * losses) / tf.maximum(tf.reduce_sum(longer), 1e-6)


class _Tables(keras.layers.Layer):  # type: ignore[misc]
    """The embedding tables, one an id space, whoever reads it; out of vocabulary (row 0) is the zero vector."""

    def __init__(self, shape: RankerShape) -> None:
        super().__init__()
        start = keras.initializers.RandomNormal(stddev=0.01)
        self._by_space = {
            space: self.add_weight(shape=(size, shape.dims[space]), initializer=start, name=f"table_{space}")
            for space, size in shape.sizes.items()
        }

    def call(self, rows: Any, space: str) -> Any:
        return tf.gather(self._by_space[space], rows) * tf.cast(rows > 0, tf.float32)[..., None]

    @property
    def weights_by_name(self) -> dict[str, Any]:
        return {f"table_{space}": table for space, table in self._by_space.items()}


class _Graph:
    """The Keras model: tables and deepctr's DNN."""

    def __init__(self, shape: RankerShape, dropout: float, seed: int) -> None:
        self._shape, heads = shape, heads_of(shape.objective)
        self._tables = _Tables(shape)
        self._deep = DNN(shape.hidden, "relu", dropout_rate=dropout, seed=seed) if shape.hidden else None
        self._head = keras.layers.Dense(heads)
        self._position = keras.layers.Embedding(LAST_POSITION + 1, 1, embeddings_initializer="zeros")
        # How steep the order is in log seconds is learnt beside the net, and not served.
        self.steepness = keras.Variable(1.0, name="steepness")
        inputs = {name: keras.Input((width,), dtype=kind, name=name) for name, (width, kind) in self._inputs().items()}
        self.model = keras.Model(inputs, self._logits(inputs))

    def _inputs(self) -> dict[str, tuple[int, str]]:
        shape = self._shape
        per_number = width_of(shape.powers)
        numbers = {b: (per_number * len(shape.numbers[b]), "float32") for b in BLOCKS if shape.numbers[b]}
        codes = {f"codes_{b}": (len(shape.codes[b]), "int32") for b in BLOCKS if shape.codes[b]}
        prior = {"prior": (1, "float32")} if shape.prior else {}
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
        names = self._shape.codes[block]
        embedded = [
            self._tables(inputs[f"codes_{block}"][:, place], space=space_of(name)) for place, name in enumerate(names)
        ]
        return [*embedded, inputs[block]] if block in inputs else embedded

    def weights(self, positions: Int32) -> dict[str, Float32]:
        """The weights by their names in `ranking.scoring`, the last bias with the mean of the positions' [n]."""
        kernels = [*(self._deep.kernels if self._deep else []), self._head.kernel]
        biases = [*(self._deep.bias if self._deep else []), self._head.bias]
        named = self._tables.weights_by_name | _numbered("kernel", kernels) | _numbered("bias", biases)
        weights = {name: weight.numpy() for name, weight in named.items()}
        last = f"bias{len(biases) - 1}"
        by_position = self._position.embeddings.numpy()[:, 0]
        return weights | {last: weights[last] + by_position[positions].mean().astype(np.float32)}

    @property
    def specs(self) -> dict[str, Any]:
        """Shapes and kinds of the inputs by name."""
        return {name: tf.TensorSpec((None, width), kind) for name, (width, kind) in self._inputs().items()}

    def optimizer(self, learning_rate: float, decay: float, steps: int) -> Any:
        """Adam for so many steps, whose weight decay leaves tables and biases alone."""
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        adam = keras.optimizers.AdamW(rate, weight_decay=decay * min(DECAYED_STEPS / max(steps, 1), 1.0))
        tables = {id(table) for table in self._tables.weights_by_name.values()} | {id(self._position.embeddings)}
        variables = [*self.model.trainable_variables, self.steepness]
        adam.exclude_from_weight_decay(var_list=[v for v in variables if len(v.shape) < 2 or id(v) in tables])
        adam.build(variables)
        return adam


def _numbered(name: str, variables: Sequence[Any]) -> dict[str, Any]:
    return {f"{name}{place}": variable for place, variable in enumerate(variables)}
