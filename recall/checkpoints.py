"""Training that was killed goes on where it was: finished towers, and the state after the last
epoch.

Files, each written beside its place and renamed into it; the result of resumed training
is that of training that was never stopped.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recall.row_adam import Arrays
from recall.tower import Tower

Epochs = list[dict[str, Any]]


@dataclass(frozen=True)
class Fitted:
    """A finished tower, a row for each of its epochs, and which of them was kept (1 = the
    first).
    """

    tower: Tower
    epochs: Epochs
    best: int


@dataclass(frozen=True)
class Progress:
    """Where a training run stands: its epochs, the best one's tower, and what the next one
    starts from.
    """

    epochs: Epochs
    best: int
    best_rate: float
    tower: Tower
    trainer: Mapping[str, npt.NDArray[np.generic]]
    rng: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """Where training is kept, folders that are made with the first of it (None: nothing is kept).

    `folder` is for the training run at hand, `parts` for finished towers, each in a folder that is
    called by the key of all that it depends on: later trainings, of a longer log, take them from
    there.
    """

    folder: Path | None = None
    parts: Path | None = None

    def finished(self, key: str) -> Fitted | None:
        """The tower of a training run that was finished."""
        if self.parts is None or not (self.parts / key).exists():
            return None
        # What has not been used for long is removed.
        os.utime(self.parts / key)
        facts = json.loads((self.parts / key / "epochs.json").read_text())
        return Fitted(Tower.load(self.parts / key, "tower"), facts["epochs"], facts["best"])

    def finish(self, key: str, fitted: Fitted) -> None:
        """Keep a finished tower; the state of its training is no longer needed."""
        if self.parts is not None:
            partial = self.parts / f".{key}.{os.getpid()}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            fitted.tower.save(partial, "tower")
            facts = {"epochs": fitted.epochs, "best": fitted.best}
            (partial / "epochs.json").write_text(json.dumps(facts))
            partial.rename(self.parts / key)
        if self.folder is not None:
            (self.folder / "progress.json").unlink(missing_ok=True)

    def progress(self, key: str) -> Progress | None:
        """Where the training run stood after its last epoch that was kept."""
        facts = self._read("progress")
        if facts is None or self.folder is None or facts["key"] != key:
            return None
        slot = facts["slot"]
        with np.load(self.folder / f"{slot}.npz", allow_pickle=False) as file:
            trainer = {name: file[name] for name in file.files}
        tower = Tower.load(self.folder, slot)
        return Progress(
            facts["epochs"], facts["best"], facts["best_rate"], tower, trainer, facts["rng"]
        )

    def keep(self, key: str, progress: Progress) -> None:
        """Keep where the training run stands, in place of what was kept before."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self._read("progress")
        # Two slots in turn: the one that progress.json names is never written to.
        slot = "slot_b" if before and before["slot"] == "slot_a" else "slot_a"
        trainer: Arrays = dict(progress.trainer)
        np.savez(self.folder / f"{slot}.npz", allow_pickle=False, **trainer)
        progress.tower.save(self.folder, slot)
        facts = {"epochs": progress.epochs, "best": progress.best, "best_rate": progress.best_rate}
        self._write("progress", facts | {"key": key, "slot": slot, "rng": progress.rng})

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / f"{name}.json" if self.folder else None
        return json.loads(path.read_text()) if path and path.exists() else None

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        assert self.folder is not None
        partial = self.folder / f".{name}.{os.getpid()}"
        partial.write_text(json.dumps(value))
        partial.replace(self.folder / f"{name}.json")
