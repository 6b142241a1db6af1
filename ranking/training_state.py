"""Training of the ranker that was killed goes on where it was, from the state after its last epoch.

A file for each net, written beside its place and renamed into it; the result of resumed training is
that of training that was never stopped.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.arrays import Float32

Epochs = list[dict[str, Any]]
State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TrainingState:
    """Where the training of a net stands: a row for each epoch, the weights of the best one, and
    what the next one starts from.
    """

    epochs: Epochs
    best: Mapping[str, Float32]
    trainer: State


@dataclass(frozen=True)
class RankerCallbacks:
    """Who is told of each epoch, and the folder, made with the first one, in which training is kept
    (None: it is not).
    """

    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None
    folder: Path | None = None

    def state(self, net: str) -> TrainingState | None:
        """Where the training of a net stood after its last epoch that was kept."""
        path = self.folder / f"{net}.npz" if self.folder else None
        if path is None or not path.exists():
            return None
        with np.load(path, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
        best, trainer = (
            {
                name.removeprefix(kind): array
                for name, array in kept.items()
                if name.startswith(kind)
            }
            for kind in ("best/", "trainer/")
        )
        return TrainingState(json.loads(str(kept["epochs"])), best, trainer)

    def keep(self, net: str, state: TrainingState) -> None:
        """Keep where the training of a net stands, in place of what was kept before."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"best/{name}": array for name, array in state.best.items()}
        arrays |= {f"trainer/{name}": array for name, array in state.trainer.items()}
        arrays["epochs"] = np.array(json.dumps(state.epochs))
        partial = self.folder / f".{net}.{os.getpid()}.npz"
        np.savez(partial, allow_pickle=False, **arrays)
        partial.replace(self.folder / f"{net}.npz")
