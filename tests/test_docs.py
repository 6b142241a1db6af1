"""The documents name what exists: links, subcommands, benchmarks and settings; and the first page
stays short.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from funnel.benchmarks import known
from funnel.cli import app
from funnel.config import FunnelConfig

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# Pages that name settings of earlier versions, and metrics, whose names look like settings.
NO_SETTINGS = {"CHANGELOG.md", "experiments.md", "report.md"}
LINES, WORDS = 150, 1_500

SECTIONS = "|".join(name for name in FunnelConfig.model_fields if name != "seed")
# A module after `python -m` is no setting, nor is a metric such as `recall.hr@50`.
SETTING = re.compile(rf"(?<![\w./-])(?<!-m )({SECTIONS})\.([a-z][a-z_]*)(?![\w./@(*])")
OVERRIDE = re.compile(r"--set '?([a-z_]+)\.([a-z_]+)=")
# What follows the dot of a file's name, and of the form in which settings are written.
NO_FIELDS = {"json", "parquet", "png", "md", "py", "field"}


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_blocks(text: str) -> list[str]:
    """Fenced blocks but diagrams, and indented ones after a blank line."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    unfenced = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?<=\n\n)(?: {4}.*\n)+", unfenced)
    return [body for language, body in fenced if language != "mermaid"] + indented


def code_spans(text: str) -> list[str]:
    unfenced = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", unfenced)


def funnel_commands(text: str) -> Iterator[list[str]]:
    """The words after `funnel` of every command in a page's code."""
    for code in (*code_blocks(text), *code_spans(text)):
        for line in code.replace("\\\n", " ").splitlines():
            if found := re.match(r"\s*(?:\.venv/bin/)?funnel ([a-z].*)", line):
                yield shlex.split(found[1], comments=True)


def settings_in(text: str) -> set[tuple[str, str]]:
    """(section, field) of every setting in a page's code, whatever section `--set` names."""
    found = (
        match
        for code in (*code_blocks(text), *code_spans(text))
        for of in (SETTING, OVERRIDE)
        for match in of.finditer(code)
    )
    return {(match[1], match[2]) for match in found if match[2] not in NO_FIELDS}


def fields_of(section: str) -> set[str]:
    """The fields of a section of the settings; none where there is no such section."""
    field = FunnelConfig.model_fields.get(section)
    model = field.annotation if field else None
    return (
        set(model.model_fields)
        if isinstance(model, type) and issubclass(model, BaseModel)
        else set()
    )


def test_readme_is_a_page_one_can_read() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    assert len(text.split()) <= WORDS


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    relative = [
        target.split("#")[0]
        for target in targets
        if "://" not in target and not target.startswith("#")
    ]
    assert [target for target in relative if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_that_is_named_exists(page: Path) -> None:
    commands = list(funnel_commands(page.read_text(encoding="utf-8")))
    there = typer.main.get_command(app).commands
    assert [words[0] for words in commands if words[0] not in there] == []
    benchmarks = [words[1:3] for words in commands if words[0] == "bench"]
    names = [tuple(word for word in words if re.fullmatch("[a-z_]+", word)) for words in benchmarks]
    assert [
        words for words in names if not any(of[: len(words)] == words for of in known(ROOT))
    ] == []


def test_commands_and_settings_are_found_in_code() -> None:
    text = (
        "`recall.k`, `recall.hr@50` and `report.json`:\n\n```sh\n.venv/bin/funnel run --set "
        "gone.x=1  # text\n```\n"
    )
    assert list(funnel_commands(text)) == [["run", "--set", "gone.x=1"]]
    assert settings_in(text) == {("recall", "k"), ("gone", "x")}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in NO_SETTINGS], ids=page_id
)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    named = settings_in(page.read_text(encoding="utf-8"))
    unknown = {f"{section}.{name}" for section, name in named if name not in fields_of(section)}
    assert unknown == set()


def test_every_variable_of_the_environment_is_on_the_page_of_the_person_on_duty() -> None:
    files = [*(ROOT / "dags").glob("*.py"), *(ROOT / "funnel").rglob("*.py")]
    read = {
        name
        for path in (*files, ROOT / "docker-compose.yml")
        for name in re.findall(r"WATCHFUNNEL_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))
    }
    page = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    assert {name for name in read if f"`{name}`" not in page} == set()
    assert len(page.splitlines()) <= LINES
