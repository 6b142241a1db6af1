"""Checkpoints: kept whole or not at all, in two slots in turn, and finished towers as they were."""

from pathlib import Path

import numpy as np
import pytest

from recall import checkpoints
from recall.checkpoints import Checkpoints, Fitted, Progress
from recall.tower import ItemFacts, Tower, TowerSpec

SHAPE = TowerSpec(as_of=3, items=4, dim=2, hidden=(), recency_windows=(1,))


def tower(value):
    weights = {
        "item_in": np.full((4, 2), value, np.float32),
        "kernel0": np.full((2, 2), -value, np.float32),
    }
    return Tower(SHAPE, weights, ItemFacts.plain(4))


def progress(value):
    rng = np.random.default_rng(value)
    epochs = [
        {"tower": 0, "epoch": n + 1, "rate": 0.2**n, "after": n, "loss": 1 / 3}
        for n in range(value)
    ]
    trainer = {"table/item_in.values": np.full((4, 2), value, np.float32), "rng": np.array("{}")}
    return Progress(epochs, value, value / 7, tower(value), trainer, dict(rng.bit_generator.state))


def same(one, other):
    """Whether two progresses are equal to the bit."""
    assert (one.epochs, one.best, one.best_rate, one.rng) == (
        other.epochs,
        other.best,
        other.best_rate,
        other.rng,
    )
    assert one.trainer.keys() == other.trainer.keys()
    for first, second in ((one.trainer, other.trainer), (one.tower.weights, other.tower.weights)):
        assert all(np.array_equal(first[name], second[name]) for name in first)
    return one.tower.shape == other.tower.shape


def test_progress_comes_back_as_it_was_kept_last(tmp_path):
    kept = Checkpoints(tmp_path / "made" / "on the way")
    assert kept.progress("a") is None
    for value in range(1, 5):
        kept.keep("a", progress(value))
        assert same(kept.progress("a"), progress(value))


def test_the_progress_of_another_tower_is_nobody_s(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.keep("a", progress(1))
    assert kept.progress("b") is None


def dying(*_, **__):
    raise KeyboardInterrupt


def half_written(path, **_):
    Path(path).write_bytes(b"half")
    raise KeyboardInterrupt


DEATHS = {
    "arrays": (checkpoints.np, "savez", half_written),
    "tower": (Tower, "save", lambda _, folder, name: half_written(folder / f"{name}.weights.h5")),
    "pointer": (Path, "replace", dying),
}


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("death", DEATHS)
def test_what_was_kept_before_survives_a_death_while_keeping(tmp_path, monkeypatch, before, death):
    """The slot that is half written is never the one that is read."""
    kept = Checkpoints(tmp_path)
    for value in range(1, before + 1):
        kept.keep("a", progress(value))
    with monkeypatch.context() as patch:
        patch.setattr(*DEATHS[death])
        with pytest.raises(KeyboardInterrupt):
            kept.keep("a", progress(9))
    assert same(kept.progress("a"), progress(before))
    kept.keep("a", progress(10))
    assert same(kept.progress("a"), progress(10))


def test_a_finished_tower_is_taken_as_it_is_and_its_progress_forgotten(tmp_path):
    kept = Checkpoints(tmp_path, tmp_path / "parts")
    kept.keep("a", progress(2))
    kept.finish("a", Fitted(tower(5), progress(3).epochs, 2))
    found = kept.finished("a")
    assert (found.epochs, found.best) == (progress(3).epochs, 2)
    np.testing.assert_array_equal(found.tower.weights["item_in"], tower(5).weights["item_in"])
    assert kept.progress("a") is None
    assert kept.finished("b") is None


@pytest.mark.parametrize("death", [DEATHS["tower"], (Path, "rename", dying)])
def test_a_tower_is_finished_when_all_of_it_is_there(tmp_path, monkeypatch, death):
    kept = Checkpoints(tmp_path, tmp_path / "parts")
    kept.keep("a", progress(2))
    with monkeypatch.context() as patch:
        patch.setattr(*death)
        with pytest.raises(KeyboardInterrupt):
            kept.finish("a", Fitted(tower(5), [], 0))
    assert kept.finished("a") is None
    assert same(kept.progress("a"), progress(2))


def test_without_a_folder_nothing_is_kept():
    nowhere = Checkpoints()
    nowhere.keep("a", progress(1))
    nowhere.finish("a", Fitted(tower(1), [], 0))
    assert nowhere.progress("a") is None
    assert nowhere.finished("a") is None
