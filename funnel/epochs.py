"""How the epochs of a training are told, charted and drawn."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funnel.context import StepContext

# What a row says of its epoch beside figures that make a curve.
BOOKKEEPING = ("tower", "epoch", "after", "rate", "examples")


def curve_points(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an epoch that make curves."""
    return {name: float(value) for name, value in row.items() if name not in BOOKKEEPING}


def draw_epochs(
    context: "StepContext", epochs: Sequence[Mapping[str, Any]], cut_offs: Sequence[str] = ()
) -> None:
    """The curves by epoch as the artefact's picture; `cut_offs` says for each tower until when it
    was trained.
    """
    from funnel.evaluation.plots import loss_curves

    ends = [cut_offs[row["tower"]] if cut_offs else "" for row in epochs]
    loss_curves([curve_points(row) for row in epochs], context.out / "loss.png", ends)


def epoch_text(name: str, row: Mapping[str, Any]) -> str:
    """One epoch in one line."""
    return f"{name}: " + ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
    )
