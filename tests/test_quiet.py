"""Imports that talk, made quiet, and everything as before afterwards."""

import os
import subprocess
import sys

import pytest

from features.quiet import quietly

TALK = """
import os, sys
from features.quiet import quietly
with quietly():
    os.write(2, b"from below")
    print("from above", file=sys.stderr)
os.write(2, b"heard")
"""


def test_nothing_reaches_standard_error_while_it_lasts_and_all_does_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", TALK], capture_output=True, text=True, check=True)
    assert (done.stderr, done.stdout) == ("heard", "")


def test_no_library_asks_for_a_newer_version_of_itself() -> None:
    program = """
import threading
started = []
threading.Thread.start = started.append
from features.quiet import quietly
with quietly():
    import deepctr, deepmatch
print(deepctr.__version__, deepmatch.__version__, [t for t in started if "check" in str(t)])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0.9.4 0.3.2 []\n", "")


def test_the_environment_is_as_before_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    with pytest.raises(ImportError), quietly():
        raise ImportError
    assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ


def test_no_file_stays_open() -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with quietly():
            pass
    assert len(os.listdir("/dev/fd")) == before
