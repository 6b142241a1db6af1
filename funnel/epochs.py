"""How the epochs of a training are told and drawn."""

from collections.abc import Mapping
from typing import Any

from funnel.plots import loss_curves
from funnel.work import Work


def draw_epochs(work: Work, epochs: list[dict[str, Any]]) -> None:
    """The losses by epoch as the artefact's picture."""
    counts = ("tower", "epoch", "after", "examples")
    loss_curves([{k: v for k, v in row.items() if k not in counts} for row in epochs], work.out / "loss.png")


def epoch_text(name: str, row: Mapping[str, Any]) -> str:
    """One epoch in one line."""
    return f"{name}: " + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
