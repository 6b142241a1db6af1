"""Training the ranker: what is fitted on which rows, how many epochs, and at what level its seconds
are served.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from features.arrays import Flags, Float32, Float64, Intp
from features.dataset import Dataset
from features.errors import InputError
from features.random_streams import Stream, rng_of
from ranking.calibration import calibration_factor
from ranking.config import RankingConfig
from ranking.encoders import VocabularyLimits, columns_of, fit_encoders
from ranking.examples import MERGED, Exposures, RankingRows, build_examples, target_seconds
from ranking.leakage_check import check_leakage
from ranking.losses import length_scale, target_scale_of
from ranking.model import BLOCKS, Ranker, RankerSpec, lengths_of, space_of
from ranking.recommend import Recommender, recommender_of
from ranking.trainer import RankerTrainer
from ranking.training_state import Epochs, RankerCallbacks, TrainingState

# The relative fall of the validation loss below which epochs have taught nothing.
LEAST_GAIN = 1e-3


@dataclass(frozen=True)
class Trained:
    """The ranker that is served, the one that never saw the validation rows, and a row of losses
    for each epoch.
    """

    ranker: Ranker
    validation: Ranker
    epochs: Epochs


def train_ranker(
    rows: RankingRows,
    unit: str,
    config: RankingConfig,
    seed: int,
    callbacks: RankerCallbacks = RankerCallbacks(),  # noqa: B008
    validates: Flags | None = None,
) -> Trained:
    """The ranker of training rows.

    Encoders, target_scale and the cap on seconds are fitted on the rows that do not validate; those
    that do (flags [n]; None: the last `validation_share` by instant) choose the epoch, give back
    the seconds that the cap took, and calibrate. With `refit` the net is then trained anew for as
    many epochs on all rows, the newest among them, and keeps the scale and the calibration.
    """
    early, late = (
        split_rows(rows, config.validation_share)
        if validates is None
        else (np.flatnonzero(~validates), np.flatnonzero(validates))
    )
    cap = seconds_cap(rows.seconds[early], rows.clicked[early], config.seconds_cap_quantile)
    capped = replace(rows, seconds=np.minimum(rows.seconds, cap))
    earlier, later = capped.take(early), capped.take(late)
    untrained = untrained_ranker(earlier, cap, unit, config)
    weights, epochs = _fit(untrained, earlier, later, config, seed, callbacks)
    validation = _levelled(replace(untrained, weights=weights), rows.take(late), later, config)
    if not config.refit:
        return Trained(validation, validation, epochs)
    trainer = RankerTrainer(validation.spec, build_examples(validation, capped), config, seed)
    weights = _refitted(trainer, best_epoch(epochs), callbacks)
    return Trained(_at_level_of(validation, weights, later), validation, epochs)


def fit_recommender(
    dataset: Dataset,
    recall: dict[str, Float64],
    config: RankingConfig,
    seed: int,
    callbacks: RankerCallbacks = RankerCallbacks(),  # noqa: B008
) -> Recommender:
    """A ranker of the impressions before `test_start`, with recall's columns of them, {name: [n]};
    it recommends as of `test_start`.

    InputError where the log does not say what was shown and not clicked, or a feature looks ahead.
    """
    features, shown, split = dataset.features, dataset.training, dataset.split
    if not dataset.impressions.tell_what_was_shown(split.test_start):
        raise InputError(
            "The log has clicks alone, and a ranker of impressions needs what was shown and not "
            "clicked; `funnel run` ranks such a log by recall's lists."
        )
    exposures = Exposures.of(shown, features, recall)
    check_leakage(features, exposures, shown.requests_us, rng_of(seed, Stream.LEAKAGE_CHECK))
    seconds = target_seconds(shown, shown, dataset.unit)
    rows = RankingRows.of(features, exposures, shown.clicked, seconds)
    ranker = train_ranker(rows, dataset.unit, config, seed, callbacks).ranker
    return recommender_of(ranker, features, split.test_start, len(dataset.items))


def has_learnt(epochs: Epochs, patience: int) -> bool:
    """Whether the last `patience` epochs lowered the validation loss by less than `LEAST_GAIN` of
    it.
    """
    if len(epochs) <= patience:
        return False
    before = min(row["val_loss"] for row in epochs[:-patience])
    return bool(min(row["val_loss"] for row in epochs) > before * (1 - LEAST_GAIN))


def best_epoch(epochs: Epochs) -> int:
    """The epoch of the lowest validation loss, the first being 1."""
    return int(min(epochs, key=lambda row: row["val_loss"])["epoch"])


def _fit(
    ranker: Ranker,
    earlier: RankingRows,
    later: RankingRows,
    config: RankingConfig,
    seed: int,
    callbacks: RankerCallbacks,
) -> tuple[dict[str, Float32], Epochs]:
    """The weights of the epoch with the lowest loss on the later rows; `patience` epochs in which
    it falls by less than `LEAST_GAIN` end the training.
    """
    trainer = RankerTrainer(ranker.spec, build_examples(ranker, earlier), config, seed)
    # In the log's order neighbours are of one user, and what orders users would not count.
    shuffled = later.take(rng_of(seed, Stream.RANKER_VALIDATION).permutation(len(later)))
    held = build_examples(ranker, shuffled)
    epochs, best = _resumed(trainer, "fit", callbacks)
    while len(epochs) < trainer.epochs and not has_learnt(epochs, config.patience):
        row = {"epoch": len(epochs) + 1, "loss": trainer.epoch(), "val_loss": trainer.loss(held)}
        epochs.append(row)
        callbacks.on_epoch(row)
        best = trainer.weights if best_epoch(epochs) == len(epochs) else best
        callbacks.keep("fit", TrainingState(epochs, best, trainer.state()))
    return best, epochs


def _resumed(
    trainer: RankerTrainer, net: str, callbacks: RankerCallbacks
) -> tuple[Epochs, dict[str, Float32]]:
    """The epochs of a net that a killed training has left, from whose state the trainer goes on,
    and the best one's weights.
    """
    state = callbacks.state(net)
    if state is None:
        return [], {}
    trainer.restore(state.trainer)
    return state.epochs, dict(state.best)


def _levelled(
    ranker: Ranker, raw: RankingRows, capped: RankingRows, config: RankingConfig
) -> Ranker:
    """The ranker with the seconds that the cap took given back, and calibrated, both by validation
    rows [n].
    """
    left = float((capped.seconds * capped.weight).sum())
    scale = float((raw.seconds * raw.weight).sum()) / left if left else 1.0
    ranker = ranker.with_spec(scale=scale)
    if config.calibration == "none":
        return ranker
    predicted = ranker.scores(*(raw.blocks[name] for name in BLOCKS))
    return ranker.with_spec(calibration=calibration_factor(predicted, raw.seconds, raw.weight))


def _refitted(
    trainer: RankerTrainer, epochs: int, callbacks: RankerCallbacks
) -> dict[str, Float32]:
    """The weights after so many epochs."""
    done, _ = _resumed(trainer, "refit", callbacks)
    for epoch in range(len(done) + 1, epochs + 1):
        done.append({"epoch": epoch, "loss": trainer.epoch()})
        callbacks.keep("refit", TrainingState(done, {}, trainer.state()))
    return trainer.weights


def _at_level_of(ranker: Ranker, weights: dict[str, Float32], later: RankingRows) -> Ranker:
    """A ranker with other weights, at the level that it had on the later rows."""
    again = replace(ranker, weights=weights)
    first, second = (
        float(
            (
                each.with_spec(calibration=1.0).scores(*(later.blocks[b] for b in BLOCKS))
                * later.weight
            ).sum()
        )
        for each in (ranker, again)
    )
    return again.with_spec(scale=ranker.spec.scale * (first / second if second else 1.0))


def seconds_cap(seconds: Float64, clicked: Flags, quantile: float) -> float:
    """The quantile of clicked seconds at which training winsorises T."""
    return float(np.quantile(seconds[clicked], quantile)) if clicked.any() else 1.0


def split_rows(rows: RankingRows, share: float) -> tuple[Intp, Intp]:
    """Earlier and later rows by instant. What is of one instant stays together, unless it is all
    there is.

    Rows made from lists are of few instants, and no hour is like another: what learnt one is not
    judged by it.
    """
    order = np.argsort(rows.timestamps_us, kind="stable")
    cut = len(order) - max(round(len(order) * share), 1)
    ascending = rows.timestamps_us[order]
    begin, end = (
        int(np.searchsorted(ascending, ascending[cut], side)) for side in ("left", "right")
    )
    cut = begin or (end if end < len(order) else cut)
    return np.sort(order[:cut]), np.sort(order[cut:])


def untrained_ranker(rows: RankingRows, cap: float, unit: str, config: RankingConfig) -> Ranker:
    """A ranker without weights, its encoders and target scale fitted on rows whose T is cut at
    `cap` seconds.
    """
    columns = columns_of(rows.blocks, config.without)
    spaces = {code: space_of(code) for name in BLOCKS for code in columns.codes[name]}
    limits = VocabularyLimits(config.quantiles, config.vocabulary, config.vocabulary_clicks)
    read = {name: rows.blocks[name].with_numbers_of(columns.numbers[name]) for name in BLOCKS}
    encoders = fit_encoders(read, rows.clicked, spaces, limits)
    # The odds count lengths of the item where the objective's odds are of T, and T is in seconds.
    by_length = (
        config.measured_in == "length"
        and unit == "seconds"
        and config.objective in ("exact", "multi_task")
    )
    target_scale = (
        length_scale(rows.clicked, rows.seconds, lengths_of(rows.blocks["item"]))
        if by_length
        else target_scale_of(config.objective, rows.clicked, rows.seconds)
    )
    spec = RankerSpec(
        numbers=columns.numbers,
        codes=columns.codes,
        sizes={space: len(kept) + 1 for space, kept in encoders.kept.items()},
        **config.model_dump(include={"hidden", "powers", "objective"}),
        **(_prior(rows) if config.recall_prior and MERGED in columns.numbers["pair"] else {}),
        unit=unit,
        seconds_cap=cap,
        target_scale=target_scale.unit,
        by_length=target_scale.by_length,
    )
    return Ranker(spec, encoders, {})


def _prior(rows: RankingRows) -> dict[str, Any]:
    """Recall's log chance as where the logits start; where it is unknown, the log of the mean
    chance.
    """
    merged = rows.blocks["pair"].numbers[MERGED]
    known = ~np.isnan(merged)
    mean = np.average(np.exp(merged[known]), weights=rows.weight[known]) if known.any() else 1.0
    return {"prior": MERGED, "prior_unknown": float(np.log(mean))}
