"""What the Makefile promises about the environment, and what a fresh machine must not be told."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment was installed after its files were written."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    for name, age in (("pyproject.toml", 100), ("constraints.txt", 100)):
        touched(tmp_path / name, -age)
    return tmp_path


def touched(path: Path, seconds: int) -> None:
    now = path.parent.stat().st_mtime
    os.utime(path, (now + seconds, now + seconds))


def plan(checkout: Path, *words: str) -> str:
    """What make would do."""
    return subprocess.run(
        ["make", "--no-print-directory", "-n", *words],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("target", ["install", "demo", "test", "check", "bench"])
def test_a_second_call_installs_nothing(checkout: Path, target: str) -> None:
    assert "pip install" not in plan(checkout, target)


@pytest.mark.parametrize("target", ["install", "demo", "test", "check", "bench"])
@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed_again(
    checkout: Path, target: str, changed: str
) -> None:
    touched(checkout / changed, 100)
    assert "pip install" in plan(checkout, target)


def test_a_fresh_checkout_installs_with_bytecode_and_the_pinned_versions(checkout: Path) -> None:
    (checkout / ".venv" / ".installed").unlink()
    install = next(line for line in plan(checkout, "test").splitlines() if "uv pip install" in line)
    assert "--compile-bytecode" in install
    assert "-c constraints.txt" in install


def test_the_demo_takes_a_source_and_a_folder(checkout: Path) -> None:
    assert plan(checkout, "demo").rstrip().endswith("funnel demo --source simulated")
    assert 'funnel demo --source kuairand --data "my data"' in plan(
        checkout, "demo", "SOURCE=kuairand", "DATA=my data"
    )


def test_the_tests_come_after_the_checks_and_in_the_installed_packages(checkout: Path) -> None:
    steps = plan(checkout, "test")
    assert steps.index("ruff check") < steps.index("mypy") < steps.index(".venv/bin/pytest")


def test_stopping_installs_nothing(checkout: Path) -> None:
    (checkout / ".venv" / ".installed").unlink()
    assert "pip install" not in plan(checkout, "stop")


@pytest.mark.parametrize(
    "name", ["Makefile", "Dockerfile", "constraints.txt", "pyproject.toml", ".ci/run"]
)
def test_no_file_names_a_package_index(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"--(extra-)?index|index-url|find-links|https?://", text)


def test_the_ci_script_can_be_run_and_passes_the_exit_code_on() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().splitlines()[-1] == "CI=true exec make test </dev/null"


def test_every_version_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(
        re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^ ]+", line) for line in lines if line.strip()
    )
