"""What the net is asked for, and how seconds are read off its answer.

A row's target is a label in [0, 1] and a weight for each head of the net; its logits [n, heads] are
read back as expected seconds. T is the watch seconds of a click and 0 otherwise, p the chance of a
click.
"""

from dataclasses import dataclass

import numpy as np

from features.arrays import Flags, Float64

LARGEST_LOGIT = 20.0
# Seconds; what is shorter measures no watch.
SHORTEST = 1.0


@dataclass(frozen=True)
class TargetScale:
    """What seconds are measured by: `unit` of them, or the item's length.

    With `by_length`, `unit` is what an item counts whose length is unknown.
    """

    unit: float = 1.0
    by_length: bool = False

    def measures(self, lengths: Float64) -> Float64:
        """Seconds that the odds of each row count as one, by the lengths of the items (NaN
        unknown): [n] -> [n].
        """
        if not self.by_length:
            return np.ones(len(lengths))
        return np.maximum(np.where(np.isnan(lengths), self.unit, lengths), SHORTEST)


def heads_of(objective: str) -> int:
    """Logits the net answers with: a click and its seconds apart, or one."""
    return 2 if objective == "multi_task" else 1


def target_scale_of(objective: str, clicked: Flags, seconds: Float64) -> TargetScale:
    """What training rows [n] say of seconds: a click alone stands for its mean."""
    return (
        TargetScale(float(seconds[clicked].mean()))
        if objective == "click" and clicked.any()
        else TargetScale()
    )


def length_scale(clicked: Flags, seconds: Float64, lengths: Float64) -> TargetScale:
    """By the item's length; one of unknown length counts the mean seconds of such clicks, else of
    all clicks.

    A watch then says how much of the item was watched, and long items do not drown the others: with
    T in seconds a row weighs 1 + T. The odds are E[T / length], so odds times length is E[T] as
    before.
    """
    alike = clicked & np.isnan(lengths)
    used = alike if alike.any() else clicked
    return TargetScale(
        max(float(seconds[used].mean()), SHORTEST) if used.any() else SHORTEST, by_length=True
    )


def targets_of(objective: str, clicked: Flags, seconds: Float64) -> tuple[Float64, Float64]:
    """Labels and weights [n, heads] such that the weighted loss of the labels is the objective.

    `paper`: clicks weigh T, the rest 1; odds sum(T) / (N - k), which is E[T] / (1 - p) (section
    4.2). `exact`: every row is one unit of negative weight plus T of positive weight, so the odds
    are exactly E[T], T in whatever it is measured in; as one row with label T / (1 + T) and weight
    1 + T. `click`: p. `multi_task`: p, and by the exact odds of clicked rows E[T | click].
    """
    ones, odds = np.ones(len(seconds)), seconds / (1 + seconds)
    if objective == "paper":
        columns = [(clicked.astype(np.float64), np.where(clicked, seconds, 1.0))]
    elif objective == "click":
        columns = [(clicked.astype(np.float64), ones)]
    elif objective == "multi_task":
        columns = [(clicked.astype(np.float64), ones), (odds, np.where(clicked, 1 + seconds, 0.0))]
    else:
        columns = [(odds, 1 + seconds)]
    return np.stack([label for label, _ in columns], axis=1), np.stack(
        [weight for _, weight in columns], axis=1
    )


def expected(objective: str, logits: Float64, target_scale: TargetScale) -> Float64:
    """Expected seconds [n] that logits [n, heads] stand for; under `paper` they are E[T] / (1 -
    p).
    """
    first = logits[:, 0]
    if objective == "click":
        return _chance(first) * target_scale.unit
    if objective == "multi_task":
        return _chance(first) * np.exp(np.minimum(logits[:, 1], LARGEST_LOGIT))
    return np.exp(np.minimum(first, LARGEST_LOGIT))


def _chance(logits: Float64) -> Float64:
    chance: Float64 = 1 / (1 + np.exp(-logits))
    return chance
