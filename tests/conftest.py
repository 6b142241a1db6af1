"""What several test files share: the composed stack as Compose reads it, requests to channels."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recall.candidates import Pairs
from recall.requests import Requests

COMPOSE_FILE = Path(__file__).parent.parent / "docker-compose.yml"


@pytest.fixture(scope="session")
def composed() -> Callable[[Mapping[str, str]], dict[str, Any]]:
    """The loaded file under given variables: `${NAME:?..}`, `${NAME:-default}` and `$$` are replaced.

    A required variable that is missing is a KeyError.
    """

    def load(variables: Mapping[str, str]) -> dict[str, Any]:
        def value(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            return "$" if not name else variables[name] if default is None else variables.get(name, default)

        pattern = r"\$(?:\$|\{(?P<name>\w+)(?::\?[^}]*|:-(?P<default>[^}]*))\})"
        loaded: dict[str, Any] = yaml.safe_load(re.sub(pattern, value, COMPOSE_FILE.read_text()))
        return loaded

    return load


@pytest.fixture(scope="session")
def asked() -> Callable[..., Requests]:
    """Requests of users 1, 2 .. with given last watches (newest first), vectors and seen (row, item) pairs."""

    def requests(
        watches: list[list[int]], seen: tuple[tuple[int, int], ...] = (), vectors: Any = ((0.0, 0.0),)
    ) -> Requests:
        last = np.array(watches, np.int32)
        users = np.arange(1, len(last) + 1, dtype=np.int32)
        codes = np.array(sorted((row << 32) | item for row, item in seen), np.int64)
        pairs = Pairs(codes, np.bincount(codes >> 32, minlength=len(users)))
        units = np.broadcast_to(np.array(vectors, np.float32), (len(users), len(vectors[0])))
        return Requests(users, np.ascontiguousarray(units), last, pairs, np.count_nonzero(last, axis=1))

    return requests
