"""A home that was refreshed day by day is equal, artefact by artefact, to a run from nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from features.errors import InputError
from features.simulation.simulated_log import simulate, write
from features.simulation.world import WorldConfig
from funnel import cli, verify
from funnel.pipeline import STEPS, Outcome, Request, make, publish_files, request_for
from funnel.verify import differing_artefacts

pytestmark = pytest.mark.slow

DAYS = (8, 9)
BLOCKS = "recall.blocks=12"


def world_of(days: int, folder: Path) -> Path:
    """A small world that grows: its earlier days are the same, whatever their number."""
    config = WorldConfig(
        users=40,
        users_a_day=2,
        items=80,
        items_a_day=5,
        days=days,
        impressions_a_day=300,
        topics=8,
        favourite_topics=2,
    )
    write(*simulate(config), folder)
    return folder


@pytest.fixture(scope="module")
def refreshed(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: tuple[str, ...]
) -> tuple[Request, list[set[int]]]:
    """A home that was refreshed on two days, and which towers each refresh trained."""
    home, trained = tmp_path_factory.mktemp("refreshed"), []
    for days in DAYS:
        data = world_of(days, tmp_path_factory.mktemp(f"days_{days}"))
        told: list[str] = []
        # The source says that it is canonical: the truth behind the world is another day's.
        request = request_for(
            "canonical", str(data), str(home / "out"), "r", None, (*tiny_models, BLOCKS)
        )
        for name in STEPS:
            make(name, request, told.append)
        publish_files(request)
        trained.append(
            {int(line.split(",")[0].split()[-1]) for line in told if line.startswith("towers: tow")}
        )
    return request, trained


def test_a_refresh_trains_the_towers_of_its_new_days_alone(
    refreshed: tuple[Request, list[set[int]]],
) -> None:
    towers = len(list(refreshed[0].store.path("towers").glob("tower_*.json")))
    assert refreshed[1] == [set(range(towers - 1)), {towers - 1}]


def test_a_home_refreshed_day_by_day_is_equal_to_a_run_from_nothing_and_what_differs_is_named(
    refreshed: tuple[Request, list[set[int]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_models: tuple[str, ...],
) -> None:
    """The report of the home is said to be another one: all else is equal, and so is what was
    made.
    """
    request, made = refreshed[0], dict[str, str]()
    path = request.store.path("report") / "manifest.json"
    before = path.read_text()
    content = json.loads(before)["content"]
    path.write_text(json.dumps(json.loads(before) | {"content": "another"}))

    def told(name: str, *given: Any) -> Outcome:
        outcome = make(name, *given)
        made[name] = outcome.content
        return outcome

    monkeypatch.setattr(verify, "make", told)
    sets = [part for value in (*tiny_models, BLOCKS) for part in ("--set", value)]
    where = ["--source", "canonical", "--data", request.data, "--out", request.home]
    monkeypatch.setattr(sys, "argv", ["funnel", "verify", *where, *sets])
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        path.write_text(before)
    assert left.value.code == 3
    said = capsys.readouterr().out
    lines = [f"{name}: {'differs' if name == 'report' else 'equal'}" for name in STEPS]
    assert said.splitlines()[: len(STEPS)] == lines
    assert "differs from a run from nothing in report." in said
    assert made["report"] == content
    assert not list(Path(request.home).glob(".verify-*"))


def test_a_home_that_is_not_up_to_date_is_not_compared(
    refreshed: tuple[Request, list[set[int]]], tiny_models: tuple[str, ...]
) -> None:
    request = refreshed[0]
    other = request_for(
        "canonical", request.data, request.home, "r", None, (*tiny_models, BLOCKS, "seed=7")
    )
    with pytest.raises(InputError, match=r"towers, .* are not up to date.*`funnel run`"):
        differing_artefacts(other)
