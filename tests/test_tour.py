"""The tour is what its code makes: it runs in a fresh kernel, and its figures hold."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"
MOST_LINES, MOST_BYTES = 20, 60_000
# What the last cell of a copy prints for this test.
TOLD = "import json\nprint(json.dumps([figures.to_dict('index'), calibration]))"


def code_of(tour: Any) -> list[Any]:
    return [cell for cell in tour.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def committed() -> Any:
    return nbformat.read(TOUR, as_version=4)


@pytest.fixture(scope="module")
def figures(
    committed: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, dict[str, float]], float]:
    """The table of lists, and expected over true seconds, of a tour that was run anew."""
    tour = nbformat.v4.new_notebook(cells=[*committed.cells, nbformat.v4.new_code_cell(TOLD)])
    place = tmp_path_factory.mktemp("kernel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(place))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(place))
        resources = {"metadata": {"path": str(place)}}
        done = NotebookClient(
            tour, timeout=500, kernel_name="python3", resources=resources
        ).execute()
    table, calibration = json.loads(done.cells[-1].outputs[0].text)
    return table, calibration


def test_recommendations_hold_far_more_than_popularity(figures: Any) -> None:
    table, _ = figures
    ours, popular = table["recommended"], table["popularity"]
    assert ours["watch_seconds_share@10"] > 2 * popular["watch_seconds_share@10"]
    assert ours["hr@10"] > 1.5 * popular["hr@10"]
    assert ours["ndcg@10"] > 2 * popular["ndcg@10"]
    assert ours["watch_seconds_share@10"] > table["paper's order"]["watch_seconds_share@10"]


def test_the_seconds_are_true(figures: Any) -> None:
    assert figures[1] == pytest.approx(1, abs=0.15)


def test_the_committed_figures_are_those_of_the_code(committed: Any, figures: Any) -> None:
    texts = [
        out.data["text/plain"]
        for cell in code_of(committed)
        for out in cell.outputs
        if "data" in out
    ]
    (shown,) = [text for text in texts if "popularity" in text]
    for name, row in figures[0].items():
        numbers = re.search(rf"^{name}((?: +[\d.]+)+)$", shown, re.MULTILINE)
        assert numbers is not None
        assert [float(n) for n in numbers[1].split()] == pytest.approx(list(row.values()), abs=0.05)


def test_the_tour_is_short_and_committed_as_it_ran(committed: Any) -> None:
    cells = code_of(committed)
    # After the imports, up to the first list that is shown; the figures and their plots follow.
    made = [line for cell in cells[1:5] for line in cell.source.splitlines()]
    assert len(made) <= MOST_LINES
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"]
    pictures = [out.data["image/png"] for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == 2
    assert all(len(base64.b64decode(picture)) < MOST_BYTES for picture in pictures)
