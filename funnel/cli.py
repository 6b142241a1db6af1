"""The command `funnel`. Exit codes: 0 done, 2 bad input or configuration, 3 a check said no, 1
anything else.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from features.errors import InputError, ServiceUnavailable

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Home = Annotated[
    Path, typer.Option(help="Folder of the demo: data, artefacts, both services' files.")
]
Overrides = Annotated[
    list[str], typer.Option("--set", help="Override of the configuration: stage.field=value.")
]
# Columns that the tables of a report take at least.
WIDTH = 120
Source = Annotated[
    str, typer.Option(help="Layout of the data, e.g. canonical, kuairand, globo, movielens.")
]
Data = Annotated[
    str,
    typer.Option(help="Folder of the data, or address of a database: postgresql://user@host/db."),
]
Config = Annotated[Path | None, typer.Option(help="TOML file with sections such as \\[recall].")]


@app.command()
def run(
    source: Source,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for artefacts, lists and report.json.")],
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006
    tracking: Annotated[
        str | None, typer.Option(help="MLflow address; default: a database under --out.")
    ] = None,
    serve: Annotated[
        bool,
        typer.Option(help="Then also make the lists as of now for everybody, under --out/serving."),
    ] = False,
) -> None:
    """The whole line in one process: from a log to candidates, recommendations and a report under
    --out; exit code 3 where lists are to be served and are not fit for it.
    """
    from funnel.run import evaluate_then_serve, request_of, run_pipeline

    if not serve:
        run_pipeline(source, data, out, config, overrides, tracking)
    elif not evaluate_then_serve(request_of(source, data, out, config, overrides, tracking)):
        raise typer.Exit(3)


@app.command()
def verify(
    source: Source,
    data: Data,
    out: Annotated[Path, typer.Option(help="The --out of a run.")],
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Make every artefact of a run from nothing, in a scratch folder, and compare; exit code 3
    where one differs.
    """
    from funnel.run import request_of
    from funnel.verify import verify as compare

    if not compare(request_of(source, data, out, config, overrides, None)):
        raise typer.Exit(3)


@app.command()
def simulate(
    out: Annotated[
        Path, typer.Option(help="Folder for the canonical tables and the truth behind them.")
    ],
    users: Annotated[int | None, typer.Option(help="People on the first day.")] = None,
    impressions: Annotated[int | None, typer.Option(help="Impressions a day, about.")] = None,
    days: Annotated[int | None, typer.Option(help="Days; more days keep the earlier ones.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another world.")] = 0,
) -> None:
    """Write the simulated world: interactions, items, users, searches, and the truth they were
    drawn from.
    """
    from funnel.run import write_world

    rows = write_world(out, seed, users, impressions, days)
    typer.echo(f"{out}: {rows:,} impressions")


@app.command()
def demo(
    source: Annotated[str, typer.Option(help="Layout of the data.")] = "simulated",
    data: Annotated[
        str | None,
        typer.Option(help="Folder or database of the data; the simulated world needs none."),
    ] = None,
    home: Home = Path(".watchfunnel"),
) -> None:
    """Start MLflow and Airflow here, run the chain of DAGs, show what came of it. Both stay up
    until `funnel stop`.
    """
    from funnel.demo.demo import demo as show

    show(source, data, home)


@app.command()
def stop(home: Home = Path(".watchfunnel")) -> None:
    """Stop what `funnel demo` started."""
    from funnel.demo.services import stop as stop_services

    for name in stop_services(home):
        typer.echo(f"Stopped {name}.")


@app.command()
def recommend(
    user: Annotated[str, typer.Argument(help="Raw user id.")],
    out: Annotated[Path, typer.Option(help="The --out of a run.")],
) -> None:
    """Print a user's recommendations: rank, item, expected seconds (or watches, where the log has
    no seconds).
    """
    from funnel.run import print_recommendations

    print_recommendations(user, out)


@app.command()
def forget(
    users: Annotated[list[str], typer.Argument(help="Raw user ids.")],
    out: Annotated[Path, typer.Option(help="The --out of a run.")],
    tracking: Annotated[
        str | None, typer.Option(help="MLflow address; default: a database under --out.")
    ] = None,
) -> None:
    """Remove every version that was made of some users' rows, its copies in MLflow, and their rows
    of the lists, and say what went.
    """
    from funnel.run import print_forgotten

    print_forgotten(users, out, tracking)


@app.command()
def maintain(
    out: Annotated[Path, typer.Option(help="The --out of runs, or the home of a demo.")],
    tracking: Annotated[
        str | None, typer.Option(help="MLflow address; default: a database under --out.")
    ] = None,
) -> None:
    """Do what the DAG `maintenance` does every week: copy databases, close stale runs, remove what
    is old, report the disk.
    """
    from funnel.maintenance.chores import maintain as do_chores
    from funnel.maintenance.places import places_of

    # Another Airflow or MLflow that the shell's environment is set to is none of this home.
    own = {k: v for k, v in os.environ.items() if k.startswith("WATCHFUNNEL_")}
    if not do_chores(places_of(out, tracking, own)):
        raise typer.Exit(1)


@app.command()
def report(out: Annotated[Path, typer.Option(help="The --out of a run.")]) -> None:
    """Print the metrics of a run and three users' histories beside their recommendations."""
    from funnel.demo.showcase import show

    # Names of metrics are longer than a narrow terminal leaves room for.
    console = Console(markup=False, emoji=False)
    console.width = max(console.width, WIDTH)
    show(out, console)


# What follows the names belongs to the benchmark, `--help` included.
@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folder and file of benchmarks/, e.g. `recall cost`, then its options; empty: all."
        ),
    ] = None,
) -> None:
    """Run benchmarks of a checkout, each printing one table; of several, those that lack an option
    are left out.
    """
    from funnel.benchmarks import chosen, run_benchmarks

    raise typer.Exit(run_benchmarks(*chosen(names or [])))


def main() -> None:
    """Entry point: refusals are one sentence on standard error and exit code 2."""
    try:
        app(prog_name="funnel")
    except (InputError, ServiceUnavailable) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
