"""`funnel run`: the whole line in one process."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from features.data.files import refusing_engine_errors
from features.data.ingest import in_words
from features.data.sources import address_of, opened
from features.errors import InputError
from features.schema import CHANCE, EXPECTED_SECONDS, ITEM, RANK, TITLE, UNIT, USER
from features.simulation.simulated_log import simulate_into
from features.simulation.world import WorldConfig
from funnel.config import config_of, refusal_of
from funnel.forget import forget, forget_erased
from funnel.maintenance.stale_runs import close_stale_runs
from funnel.observer import observe
from funnel.pipeline import (
    STEPS,
    Observer,
    Outcome,
    Request,
    make,
    publish_files,
    stale_steps,
    verdict_of,
)
from funnel.store import store_in
from funnel.titles import titles_of

# Ids and names of columns may look like markup or emoji: all is printed as it is.
CONSOLE = Console(markup=False, emoji=False)


def run_pipeline(
    source: str,
    data: Path | str,
    out: Path,
    config: Path | None,
    overrides: Sequence[str],
    tracking: str | None,
) -> list[Outcome]:
    """Make every artefact of the pipeline under `out`, or find it up to date, and publish the files
    outsiders read.
    """
    request = request_of(source, data, out, config, overrides, tracking)
    with request.store.locked():
        return _run(request)


def evaluate_then_serve(request: Request) -> bool:
    """Run a request, and then the one for the lists as of now, for everybody, unless the evaluation
    says that lists are not fit to serve; returns whether they are there.

    Where the request holds nothing out, its own lists are those.
    """
    with request.store.locked():
        _run(request)
        if request.purpose == "serving":
            return True
        serving = request.serving()
        if verdict_of(request.shown)["fit"] is False:
            CONSOLE.print(f"The lists in {serving.shown} stay as they are.", soft_wrap=True)
            return False
        _run(serving)
    return True


def _run(request: Request) -> list[Outcome]:
    # Where nothing is to be done there is nothing to observe.
    stale = stale_steps(request)
    close_stale_runs(request.tracking if stale else None)
    observer = observe(request) if stale else Observer()
    outcomes = _walk(request, observer)
    files = publish_files(request)
    observer.on_end()
    for sentence in forget_erased(request):
        CONSOLE.print(sentence, soft_wrap=True, highlight=False)
    if not request.follows:
        sentence = verdict_of(request.shown)["sentence"]
        CONSOLE.print(sentence, soft_wrap=True, highlight=False)
    CONSOLE.print(f"Done: {', '.join(str(file) for file in files)}", soft_wrap=True)
    return outcomes


def request_of(
    source: str,
    data: Path | str,
    out: Path,
    config: Path | None,
    overrides: Sequence[str],
    tracking: str | None,
) -> Request:
    """The request of a run, MLflow under `out` unless its address is given; InputError where there
    is no data or a setting is wrong.
    """
    chosen, out = config_of(config, overrides), out.resolve()
    return Request(
        source=source,
        data=address_of(source, data),
        home=str(out),
        run=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}",
        tracking=tracking or f"sqlite:///{out / 'mlflow' / 'mlflow.db'}",
        config=chosen,
    )


def _walk(request: Request, observer: Observer) -> list[Outcome]:
    outcomes: list[Outcome] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=CONSOLE, disable=not CONSOLE.is_terminal) as progress:
        bar = progress.add_task("starting", total=len(STEPS))
        # Lines stay whole: whoever reads a file of them searches in it.
        tell = partial(progress.console.print, soft_wrap=True, highlight=False)
        for name in STEPS:
            progress.update(bar, description=name)
            outcomes.append(make(name, request, tell, observer))
            tell(outcomes[-1].line)
            progress.advance(bar)
    if not any(outcome.made for outcome in outcomes):
        CONSOLE.print(
            "Same data, same configuration, same code: everything was up to date, nothing was "
            "done.",
            soft_wrap=True,
        )
    if not outcomes[0].made:
        CONSOLE.print(_log_in_words(request), soft_wrap=True, highlight=False)
    return outcomes


def _log_in_words(request: Request) -> str:
    """The log that was read before, and the files beside it that are not read."""
    summary = json.loads((request.store.path("interactions") / "summary.json").read_text())
    with opened(request.source, request.data) as view:
        return f"the log: {in_words(summary | {'unread': view.unread()})}"


def write_world(
    out: Path, seed: int, users: int | None, impressions: int | None, days: int | None
) -> int:
    """Simulate a world, with its defaults where None is given, and write its tables; returns the
    log's rows.

    `impressions` are those of a day, about, so that more days leave the earlier ones as they were.
    InputError where there is no such world.
    """
    given = {"users": users, "impressions_a_day": impressions, "days": days}
    try:
        config = WorldConfig(
            seed=seed, **{name: value for name, value in given.items() if value is not None}
        )
    except ValidationError as error:
        raise refusal_of(error) from None
    return simulate_into(out, config)


def print_forgotten(users: Sequence[str], out: Path, tracking: str | None = None) -> None:
    """Forget users, and say what was removed."""
    forgotten = forget(users, out, tracking)
    who = f"user {users[0]}" if len(users) == 1 else f"{len(users)} users"
    if not forgotten.versions + forgotten.rows:
        unsure = f" Removed, as it may have been: {forgotten.described}." * bool(
            forgotten.described
        )
        CONSOLE.print(f"{out}: nothing here was made of rows of {who}.{unsure}", soft_wrap=True)
        return
    CONSOLE.print(
        f"{out}: removed what was made of rows of {who}: {forgotten.described}. Erase the rows of "
        "the log too, then `funnel run` makes the lists anew.",
        soft_wrap=True,
    )


def print_recommendations(user: str, out: Path) -> None:
    """Print one user's list as of now, or where none were made that as of the test window, with
    titles where the log has them; InputError where the user has none.
    """
    served, evaluated = (out / folder / "recommendations.parquet" for folder in ("serving", "."))
    path = served if served.exists() else evaluated
    if not path.exists():
        raise InputError(
            f"{path}: there are no recommendations here; run `funnel run --out {out}` first."
        )
    with refusing_engine_errors([path]):
        lists = pq.read_table(path)
    mine = lists.filter(pc.equal(pc.cast(lists[USER], "string"), user)).sort_by(RANK)
    if not mine.num_rows:
        raise InputError(
            f"{path}: user {user} has no list; lists are for the users of the test window, or for "
            "all users of the log with `funnel run --serve` or split.mode = none."
        )
    titles = titles_of(store_in(out), mine[ITEM].to_pylist())
    named = (ITEM, TITLE) if titles else (ITEM,)
    table = Table(RANK, *named, f"expected {mine[UNIT][0].as_py()}, if shown", "chance to be next")
    for row in mine.select([RANK, ITEM, EXPECTED_SECONDS, CHANCE]).to_pylist():
        names = (str(row[ITEM]), titles.get(row[ITEM], ""))[: len(named)]
        # As text: brackets in a name are no markup.
        cells = (Text(name) for name in names)
        figures = (f"{row[EXPECTED_SECONDS]:.2f}", f"{row[CHANCE]:.2%}")
        table.add_row(str(row[RANK]), *cells, *figures)
    CONSOLE.print(table)
