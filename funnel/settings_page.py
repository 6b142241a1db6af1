"""`docs/settings.md`, written from the descriptions of the settings: `python -m
funnel.settings_page`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from funnel.config import FunnelConfig, fields_of

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = """# Settings

Settings come from TOML (`--config funnel.toml`), from `--set stage.field=value` (`--set
ranking.hidden=256,128`), which beats the file, or from the Params of the DAG `ingest`. An unknown
field, or a value out of bounds, is refused by name.

Written by `python -m funnel.settings_page` from the configuration's classes; a test holds it. *The
paper* is Covington, Adams and Sargin, Deep Neural Networks for YouTube Recommendations (2016).
"""


def settings_page() -> str:
    """The page: a table of what has no section, then one for each section, a row for each field
    with its default.
    """
    fields, defaults = FunnelConfig.model_fields, FunnelConfig().model_dump(mode="json")
    sections = {name: field for name, field in fields.items() if isinstance(defaults[name], dict)}
    single = {name: field for name, field in fields.items() if name not in sections}
    return f"{HEAD}\n{_table(single, defaults)}" + "".join(
        "\n## "
        f"{name}\n\n{field.description}\n\n{_table(fields_of(name), defaults[name], f'{name}.')}"
        for name, field in sections.items()
    )


def _table(fields: Mapping[str, FieldInfo], defaults: Mapping[str, Any], prefix: str = "") -> str:
    rows = (
        _row(f"{prefix}{name}", defaults[name], field.description or "")
        for name, field in fields.items()
    )
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _row(name: str, default: Any, meaning: str) -> str:
    shown = (
        "unset"
        if default is None
        else f"`{default if isinstance(default, str) else json.dumps(default)}`"
    )
    # A bare bar would end the cell.
    meaning = meaning.replace("|", "\\|")
    return f"| `{name}` | {shown} | {meaning} |"


if __name__ == "__main__":
    PAGE.write_text(settings_page())
