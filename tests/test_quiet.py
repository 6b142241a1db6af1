"""Imports that talk, made quiet, and everything as before afterwards."""

import os
import subprocess
import sys
import threading

import pytest

from features.quiet import quietly

TALK = """
import os, sys, threading
from features.quiet import quietly
with quietly():
    os.write(2, b"from below")
    print("from above", file=sys.stderr)
    threading.Thread(target=lambda: print("from a thread")).start()
os.write(2, b"heard")
"""


def test_nothing_reaches_standard_error_while_it_lasts_and_all_does_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", TALK], capture_output=True, text=True, check=True)
    assert (done.stderr, done.stdout) == ("heard", "")


def test_threads_start_again_afterwards_even_after_an_error() -> None:
    ran = threading.Event()
    with pytest.raises(ImportError), quietly():
        raise ImportError
    thread = threading.Thread(target=ran.set)
    thread.start()
    thread.join()
    assert ran.is_set()


def test_no_file_stays_open() -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with quietly():
            pass
    assert len(os.listdir("/dev/fd")) == before
