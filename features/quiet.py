"""Imports that talk: libraries that greet, warn or ask the network when they are loaded."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly() -> Iterator[None]:
    """While it lasts nothing reaches standard error and no thread starts.

    TensorFlow prints lines before its logger can be told not to; deepctr and deepmatch each start a
    thread that asks a package index for a newer version and prints when it cannot.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    start = threading.Thread.start
    threading.Thread.start = lambda _: None  # type: ignore
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        threading.Thread.start = start  # type: ignore
