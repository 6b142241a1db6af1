"""The benchmarks of a checkout: which there are, and how they are run, each as a process of its
own.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from features.errors import InputError

ROOT = Path(__file__).parents[1]
FOLDER = "benchmarks"
SHARED = "shared"
LEFT_OUT = 2


def known(root: Path = ROOT) -> list[tuple[str, ...]]:
    """The names of every benchmark of a checkout: `("recall", "cost")` is
    `benchmarks/recall/cost.py`.
    """
    folder = root / FOLDER
    found = [path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py")]
    return sorted(names for names in found if names[0] != SHARED)


def chosen(arguments: Sequence[str], root: Path = ROOT) -> tuple[list[tuple[str, ...]], list[str]]:
    """The benchmarks that the leading names stand for, and the options after them; InputError where
    there is none.
    """
    names = tuple(takewhile(lambda word: not word.startswith("-"), arguments))
    there = known(root)
    found = [of for of in there if of[: len(names)] == names]
    if not found:
        options = ", ".join(" ".join(of) for of in there) or f"none, as {root / FOLDER} is missing"
        raise InputError(f"There is no benchmark `{' '.join(names)}`; there are: {options}.")
    return found, list(arguments[len(names) :])


def run_benchmarks(benchmarks: Sequence[tuple[str, ...]], options: Sequence[str]) -> int:
    """Run them one after the other; returns the exit code: that of the first that failed, else 0.

    One of several that refuses its options (exit code 2) says so in a line and is no failure.
    """
    codes = [_run(names, options) for names in benchmarks]
    passed = (0, LEFT_OUT) if len(codes) > 1 else (0,)
    return next((code for code in codes if code not in passed), 0)


def _run(names: Sequence[str], options: Sequence[str]) -> int:
    # The caller's directory stays the working one, so that relative paths among the options mean
    # what they say.
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", ".".join([FOLDER, *names]), *options]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode
