"""What joins recall and ranking: the pipeline in one process, artefacts, tracking, report and the
command line.

An artefact is made from what its parents hold, once. A log of five watches is read and cut:

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from features.split import Split
    >>> from funnel import make, request_for
    >>> days = [f"ann,film {n},2024-05-0{n},{60 * n}" for n in range(1, 6)]
    >>> log = "\\n".join(["user_id,item_id,timestamp,watch_seconds", *days])
    >>> with TemporaryDirectory() as data, TemporaryDirectory() as home:
    ...     _ = (Path(data) / "interactions.csv").write_text(log)
    ...     overrides = ["split.test_start=2024-05-04"]
    ...     request = request_for("canonical", data, home, run="first", overrides=overrides)
    ...     names = ("interactions", "split", "split")
    ...     *made, again = [make(name, request, tell=lambda line: None) for name in names]
    ...     instants = (again.folder / "split.json").read_text()
    >>> [(each.name, each.made) for each in (*made, again)]
    [('interactions', True), ('split', True), ('split', False)]
    >>> Split.model_validate_json(instants).described()["test_start"]
    '2024-05-04T00:00:00Z'

`run_pipeline` makes all of them, up to the report. `evaluate_lists` sets lists of a
`features.Dataset` beside popularity's: `docs/tour.ipynb` shows it.
"""

from typing import TYPE_CHECKING

from features.lazy import lazy_names

if TYPE_CHECKING:
    from funnel.config import FunnelConfig
    from funnel.evaluation.list_metrics import evaluate_lists
    from funnel.pipeline import Request, context_of, make, request_for
    from funnel.run import run_pipeline
    from funnel.store import Store

__all__ = [
    "FunnelConfig",
    "Request",
    "Store",
    "context_of",
    "evaluate_lists",
    "make",
    "request_for",
    "run_pipeline",
]

__getattr__ = lazy_names(
    __name__,
    {
        "FunnelConfig": "funnel.config",
        "Request": "funnel.pipeline",
        "Store": "funnel.store",
        "context_of": "funnel.pipeline",
        "evaluate_lists": "funnel.evaluation.list_metrics",
        "make": "funnel.pipeline",
        "request_for": "funnel.pipeline",
        "run_pipeline": "funnel.run",
    },
)
