"""Killed at any instant: the old artefact or the new one, and the same command again finishes with
the same content.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from funnel.pipeline import PUBLISHED, STEPS, request_for
from funnel.pipeline import make as make_step
from funnel.store import (
    KEPT_VERSIONS,
    MANIFEST,
    ArtefactKey,
    Manifest,
    Store,
    content_digest,
    publish,
)
from recall.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

FUNNEL = Path(sys.executable).parent / "funnel"
# What touches the file system and passes an audit hook before it does.
TOUCHES = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.listdir",
    "os.scandir",
)


def artefact_key(value: int) -> ArtefactKey:
    return ArtefactKey("lists", {"value": value}, "code", {})


def make(root: Path, value: int) -> Manifest:
    """One cheap artefact of two files, shown at the root as the line shows its lists."""

    def write_files(folder: Path) -> None:
        (folder / "a.txt").write_text(f"a{value}" * 100)
        (folder / "deep").mkdir()
        (folder / "deep" / "b.txt").write_text(f"b{value}" * 100)

    store = Store(root)
    manifest = store.make(artefact_key(value), write_files)
    publish(store.path("lists") / "a.txt", root / "shown.txt")
    return manifest


def killed_at(touch: int, program: Callable[[], object]) -> bool:
    """Run a program in a fork that is killed as it is about to touch the file system for the nth
    time.
    """
    child = os.fork()
    if not child:
        left = iter(range(touch))

        def die_when_used_up() -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(lambda event, _: die_when_used_up() if event in TOUCHES else None)
        # A file is empty between its opening and its first write, of which no audit hook hears.
        sys.setprofile(
            lambda _, event, called: die_when_used_up() if _writes(event, called) else None
        )
        program()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _writes(event: str, called: object) -> bool:
    return event == "c_call" and getattr(called, "__name__", "") == "write"


def whole(folder: Path) -> bool:
    """Whether a version is what its manifest says, file by file."""
    manifest = json.loads((folder / MANIFEST).read_text())
    found = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    found.pop(MANIFEST)
    digests = {name: facts["digest"] for name, facts in manifest["files"].items()}
    return {name: content_digest(path) for name, path in found.items()} == digests


def test_a_store_killed_at_each_of_its_touches_of_the_disk_holds_the_old_version_or_the_new(
    tmp_path: Path,
) -> None:
    """Every point is tried: while writing, describing, renaming, pointing, removing an old version,
    publishing.
    """
    prepared = tmp_path / "prepared"
    for value in range(KEPT_VERSIONS):
        make(prepared, value)
    new = make(shutil.copytree(prepared, tmp_path / "undisturbed"), 9)
    versions = {artefact_key(value).version for value in (KEPT_VERSIONS - 1, 9)}
    shown = {f"a{value}" * 100 for value in (KEPT_VERSIONS - 1, 9)}
    deaths = 0
    while (
        killed_at(deaths, lambda: make(root, 9))
        if (root := _copy(prepared, tmp_path, deaths))
        else False
    ):
        home = root / "lists"
        assert Store(root).manifest("lists").version in versions
        assert all(whole(path) for path in home.iterdir() if path.is_dir() and path.name[0] != ".")
        assert (root / "shown.txt").read_text() in shown
        assert make(root, 9) == new
        assert (root / "shown.txt").read_text() == "a9" * 100
        assert not list(home.glob(".partial-*"))
        deaths += 1
    assert deaths > 20


def _copy(prepared: Path, place: Path, number: int) -> Path:
    return shutil.copytree(prepared, place / f"killed-{number}")


def started(data: Path, out: Path, settings: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    words = [word for setting in settings for word in ("--set", setting)]
    target: list[str | Path] = ["--source", "canonical", "--data", data, "--out", out]
    return subprocess.Popen([FUNNEL, "run", *target, *words], stdout=subprocess.DEVNULL)


def kill_in(artefact: str, out: Path, process: "subprocess.Popen[bytes]", delay: float) -> None:
    """Kill a run that many seconds after it began to write an artefact."""
    until = time.monotonic() + 120
    while not list((out / "artefacts" / artefact).glob("*")):
        assert process.poll() is None, f"the run ended before it came to {artefact}"
        assert time.monotonic() < until
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def contents(out: Path) -> dict[str, str]:
    """The content hash of every artefact in force, and of the files that outsiders read."""
    store = Store(out / "artefacts")
    shown = [file for files in PUBLISHED.values() for file in files if file != "report.json"]
    made = {name: store.manifest(name).content for name in STEPS}
    return made | {file: content_digest(out / file) for file in shown}


@pytest.fixture(scope="module")
def data(tiny_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log in canonical form, without the truth behind it."""
    ignored = shutil.ignore_patterns("truth")
    return shutil.copytree(tiny_log, tmp_path_factory.mktemp("canonical") / "log", ignore=ignored)


def test_a_run_killed_twice_and_started_again_ends_where_an_undisturbed_one_does(
    data: Path, tiny_models: tuple[str, ...], tmp_path: Path
) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    undisturbed = started(data, calm, tiny_models)
    delays = np.random.default_rng(5).random(2)
    for artefact, delay in zip(("towers", "ranker"), delays, strict=True):
        kill_in(artefact, killed, started(data, killed, tiny_models), float(delay))
        folders = [
            path for path in killed.glob("artefacts/*/*") if path.is_dir() and path.name[0] != "."
        ]
        assert all(whole(folder) for folder in folders)
    assert started(data, killed, tiny_models).wait() == 0
    assert undisturbed.wait() == 0
    assert contents(killed) == contents(calm)
    assert not list(killed.glob("artefacts/*/.partial-*"))


class Killed(BaseException):
    """The process ends here."""


def test_towers_go_on_from_what_a_killed_run_left_and_nothing_of_it_is_left_behind(
    data: Path, tiny_models: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch's loss is altered where the killed run kept it: the finished artefact has it
    so.
    """
    out = tmp_path / "out"
    request = request_for(
        "canonical",
        str(data),
        str(out),
        "killed",
        f"sqlite:///{tmp_path / 'mlflow.db'}",
        tiny_models,
    )
    for name in list(STEPS)[: list(STEPS).index("towers")]:
        make_step(name, request)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "finish", killed)
        with pytest.raises(Killed):
            make_step("towers", request)
    (left,) = out.glob("artefacts/towers/.scratch-*/progress.json")
    progress = json.loads(left.read_text())
    progress["epochs"][0]["loss"] = 123.0
    left.write_text(json.dumps(progress))
    outcome = make_step("towers", request)
    epochs = json.loads(
        (out / "artefacts" / "towers" / outcome.version / "epochs.json").read_text()
    )
    assert [row["loss"] == 123 for row in epochs] == [True] + [False] * (len(epochs) - 1)
    assert len(epochs) > 1
    assert not list(out.glob("artefacts/towers/.scratch-*"))
