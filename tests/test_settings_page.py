"""The page of settings: every field says what it means, and the page says it as the classes do."""

import pytest

from funnel.config import FunnelConfig, fields_of
from funnel.settings_page import PAGE, settings_page

FIELDS = FunnelConfig.model_fields | {
    f"{section}.{name}": field
    for section in FunnelConfig.model_fields
    for name, field in fields_of(section).items()
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_means_in_a_sentence(name):
    description = FIELDS[name].description
    assert description
    assert description[0].isupper()
    assert description.endswith(".")
    assert "\n" not in description


def test_the_page_has_every_field_once_with_its_default():
    page = settings_page()
    for name in FIELDS:
        assert page.count(f"\n## {name}\n" if fields_of(name) else f"\n| `{name}` | ") == 1
    assert "| `recall.recency_windows` | `[1, 3, 10, 50]` |" in page
    assert "| `ranking.powers` | `true` |" in page
    assert "| `ranking.chance_weight` | unset |" in page
    assert "| `recall.metric` | `cosine` |" in page


def test_a_cell_is_not_ended_by_a_bar_in_its_text():
    rows = [line for line in settings_page().splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {4}


def test_the_page_of_settings_is_the_classes():
    assert PAGE.read_text() == settings_page(), "run `python -m funnel.settings_page`"
