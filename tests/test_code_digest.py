"""An artefact is made anew for the code that its step reaches, and for no other change."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from funnel.code_digest import PACKAGES, ROOT, code_digest
from funnel.pipeline import STEPS, step_code

Change = Callable[[str, str, str], set[str]]


def digests(root: Path) -> dict[str, str]:
    return {name: step_code(name, root) for name in STEPS}


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return digests(ROOT)


@pytest.fixture
def changed(tmp_path: Path, before: dict[str, str]) -> Change:
    """The steps whose digests differ once a text of a module is replaced."""

    def change(path: str, old: str, new: str) -> set[str]:
        for package in PACKAGES:
            shutil.copytree(ROOT / package, tmp_path / package, copy_function=os.symlink)
        text = (tmp_path / path).read_text()
        assert old in text
        (tmp_path / path).unlink()
        (tmp_path / path).write_text(text.replace(old, new))
        return {name for name, digest in digests(tmp_path).items() if digest != before[name]}

    return change


@pytest.mark.parametrize(
    ("path", "old", "new", "anew"),
    [
        ("funnel/store.py", "KEPT_VERSIONS", "KEPT", set()),
        ("recall/trainer.py", "# The logit of what", "# Of what", set()),
        ("features/split_log.py", '"""The cut of a log', '"""A cut of a log', set()),
        ("recall/trainer.py", "INITIAL_SPREAD = 0.05", "INITIAL_SPREAD = 0.06", {"towers"}),
        ("ranking/train.py", "LEAST_GAIN = 1e-3", "LEAST_GAIN = 1e-2", {"ranker"}),
        ("features/data/formats/globo.py", "SECONDS = 1800.0", "SECONDS = 60.0", {"interactions"}),
        # What nothing calls is in no digest; pictures are in the report's alone.
        ("funnel/evaluation/plots.py", "def loss_curves", "EXTRA = 1\n\n\ndef loss_curves", set()),
        (
            "funnel/evaluation/plots.py",
            "def calibration_bars(",
            "def calibration_bars(*, x=0, ",
            {"report"},
        ),
    ],
)
def test_what_is_made_anew_after_a_change(
    changed: Change, path: str, old: str, new: str, anew: set[str]
) -> None:
    assert changed(path, old, new) == anew


def test_what_one_step_reads_of_its_context_is_its_own(changed: Change) -> None:
    """Towers are loaded by those steps that read them."""
    found = changed("funnel/context.py", "tower_*.json", "tower_?.json")
    assert {"candidates", "recommendations"} <= found
    assert not found & {"towers", "interactions", "ranker"}


def test_a_step_reaches_what_the_functions_of_its_module_call(tmp_path: Path) -> None:
    """Versions of a step: its constant, what its helper returns, the depth of a module, a stranger."""
    versions = [
        *(("1", "LEVEL", "2", "0"), ("2", "LEVEL", "2", "0"), ("1", "work(LEVEL)", "2", "0")),
        *(("1", "work(LEVEL)", "3", "0"), ("1", "work(LEVEL)", "3", "9")),
    ]
    seen = []
    for number, (level, returned, depth, stranger) in enumerate(versions):
        root = tmp_path / str(number)
        for package in ("funnel", "features"):
            (root / package).mkdir(parents=True)
        (root / "funnel" / "steps.py").write_text(
            f"from features.deep import work\nLEVEL = {level}\ndef step():\n    return helper()\n"
            f"def helper():\n    return {returned}\ndef other():\n    return {stranger}\n"
        )
        (root / "features" / "deep.py").write_text(f"def work(x):\n    return x + {depth}\n")
        seen.append(code_digest("funnel.steps", "step", root=root))
    assert len(set(seen)) == 4
    assert seen[3] == seen[4]
