"""Imports that talk: libraries that greet, warn or ask the network when they are loaded."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Their import starts a thread that asks a package index for a newer version, and prints when it
# cannot.
CHECKING = ("deepctr", "deepmatch")


@contextmanager
def quietly() -> Iterator[None]:
    """While it lasts nothing reaches standard error; deepctr and deepmatch are loaded without their
    version check.

    TensorFlow prints lines before its logger can be told not to.
    """
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = level or "3"
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        for package in CHECKING:
            _import_unchecked(package)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        if level is None:
            del os.environ["TF_CPP_MIN_LOG_LEVEL"]


def _import_unchecked(package: str) -> None:
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None or spec.loader is None:
        return
    # The package's last line calls what is replaced here, so its submodule is loaded before it.
    sys.modules[package] = importlib.util.module_from_spec(spec)
    importlib.import_module(f"{package}.utils").check_version = lambda _: None  # type: ignore
    spec.loader.exec_module(sys.modules[package])
