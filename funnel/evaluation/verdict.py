"""Whether a run's lists are fit to serve: the final lists against every rival on the test window,
in one sentence.

Lists are compared as lists: by the seconds (or watches) of the test window that they hold at 10 and
at 50 places, or, where the log has propensities, by the off-policy estimate of seconds per
impression. They are fit where no rival is ahead by more than a standard error of the difference
over users.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from funnel.evaluation.evaluation_data import EvaluationData
from funnel.evaluation.list_metrics import ratio_error
from funnel.evaluation.off_policy_report import OffPolicy

Metrics = dict[str, float]

NAMES = {
    "recall": "recall's order",
    "popularity": "popularity",
    "item_knn": "item-kNN",
    "ease": "EASE",
}


@dataclass(frozen=True)
class Margin:
    """By how much the final lists are ahead of a rival's, with its standard error: `value` and
    `rival` in a unit.
    """

    measure: str
    rival: str
    final_value: float
    rival_value: float
    error: float

    @property
    def ahead(self) -> float:
        return self.final_value - self.rival_value

    @property
    def holds(self) -> bool:
        """Whether the rival is not ahead by more than a standard error."""
        return self.ahead >= -self.error


def margins_of(evaluation: EvaluationData, off_policy: OffPolicy) -> list[Margin]:
    """The margins that decide: by the off-policy estimate where there is one, else by what lists
    hold.
    """
    return _estimated(off_policy) or replayed_margins(evaluation)


def replayed_margins(evaluation: EvaluationData) -> list[Margin]:
    """Margins in the share of the test window's watch seconds that lists hold, by length and
    rival.
    """
    total = float(evaluation.clicked[1].sum())
    if not total:
        return []
    seconds = evaluation.clicked_seconds
    final = evaluation.gains(evaluation.final)
    rivals = {name: evaluation.gains(items) for name, items in evaluation.baselines.items()}
    held = {k: final.of_users(k, len(seconds)) for k in final.by_length}
    return [
        Margin(
            f"watch_seconds_share@{k}",
            name,
            float(mine.sum()) / total,
            float(theirs.sum()) / total,
            ratio_error(mine - theirs, seconds),
        )
        for k, mine in held.items()
        for name, rival in rivals.items()
        for theirs in [rival.of_users(k, len(seconds))]
    ]


def _estimated(off_policy: OffPolicy) -> list[Margin]:
    if off_policy.refused:
        return []
    found = off_policy.advantages()
    mine = off_policy.evaluations[""].doubly_robust.value
    return [
        Margin("seconds_per_impression", name, mine, mine - each.value, each.error)
        for name, each in found.items()
    ]


def verdict_of(evaluation: EvaluationData, off_policy: OffPolicy) -> dict[str, Any]:
    """`fit` (null where nothing was held out, or watched), the `sentence`, and the margins behind
    it.
    """
    if evaluation.context.split.mode == "none":
        return {
            "fit": None,
            "sentence": "Not evaluated: nothing was held out (split.mode = none).",
            "margins": [],
        }
    margins = margins_of(evaluation, off_policy)
    if not margins:
        return {
            "fit": None,
            "sentence": "Not evaluated: nobody with a list watched anything in the test window.",
            "margins": [],
        }
    fit = all(margin.holds for margin in margins)
    what = "watch time" if evaluation.context.unit == "seconds" else "watches"
    return {
        "fit": fit,
        "sentence": sentence_of(margins, what),
        "margins": [_row(margin) for margin in margins],
    }


def sentence_of(margins: list[Margin], what: str) -> str:
    """One sentence: fit or not, the strongest rival (of those that are ahead, if any are), and the
    margins.

    `what` is of the test window: its watch time, or its watches.
    """
    lost = [margin for margin in margins if not margin.holds]
    worst = min(lost or margins, key=lambda margin: margin.ahead / max(margin.error, 1e-12))
    measures = list(dict.fromkeys(margin.measure for margin in margins))
    of_rival = [margin for margin in margins if margin.rival == worst.rival]
    said = "; ".join(
        _said(margin, what)
        for margin in sorted(of_rival, key=lambda margin: measures.index(margin.measure))
    )
    head = (
        "Not fit to serve: behind"
        if lost
        else "Fit to serve: no rival is ahead by more than a standard error; the nearest is"
    )
    return f"{head} {NAMES[worst.rival]}: {said}."


def _said(margin: Margin, what: str) -> str:
    if margin.measure == "seconds_per_impression":
        return (
            f"{margin.final_value:.2f} seconds an impression (off-policy) against "
            f"{margin.rival_value:.2f}, "
            f"{margin.ahead:+.2f} +- {margin.error:.2f}"
        )
    k = margin.measure.split("@")[1]
    return (
        f"the first {k} hold {margin.final_value:.2%} of the test window's {what} against "
        f"{margin.rival_value:.2%}, {100 * margin.ahead:+.2f} +- {100 * margin.error:.2f} "
        "percentage points"
    )


def _row(margin: Margin) -> Mapping[str, Any]:
    return {
        "measure": margin.measure,
        "rival": margin.rival,
        "final": margin.final_value,
        "rival_value": margin.rival_value,
        "ahead": margin.ahead,
        "standard_error": margin.error,
    }
