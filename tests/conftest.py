"""What several test files share: the composed stack as Compose reads it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

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
