"""Where a benchmark's figures go: one table on the screen, and the same one in MLflow."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from rich.console import Console
from rich.table import Table

from funnel.tracking import BENCHMARKS, MlflowTracker

WIDTH = 160
DATABASE = Path("out", "benchmarks", "mlflow.db")


def publish(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    tracking: str | None,
    pictures: Sequence[Path] = (),
) -> None:
    """Print a benchmark's rows as one table and log it: as CSV, and every figure as `<first
    cell>.<column>`.

    `tracking` is an MLflow address; without one MLFLOW_TRACKING_URI, else a database under
    `out/benchmarks` of the working directory. The same benchmark again goes on with its run:
    figures keep what they were before. InputError where no server answers at the address.
    """
    Console(width=None if sys.stdout.isatty() else WIDTH).print(_table(name, rows))
    address = tracking or os.environ.get("MLFLOW_TRACKING_URI")
    tracker = MlflowTracker(address or f"sqlite:///{DATABASE.resolve()}", name.replace("'", ""))
    tracker.open(BENCHMARKS)
    tracker.log_metrics(BENCHMARKS, _figures(rows))
    tracker.log_table(BENCHMARKS, pd.DataFrame([dict(row) for row in rows]), "table.csv")
    for picture in pictures:
        tracker.log_file(BENCHMARKS, picture)
    tracker.log_tags(BENCHMARKS, {"watchfunnel.machine": machine()})
    tracker.close(BENCHMARKS)


def machine() -> str:
    """What the figures were measured on: cores, memory, system, Python."""
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.machine()}"
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {system}, Python "
        f"{platform.python_version()}"
    )


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = _columns(rows)
    table = Table(title=name, caption=machine())
    for column in columns:
        table.add_column(
            column, justify="right" if any(_is_figure(row.get(column)) for row in rows) else "left"
        )
    for row in rows:
        table.add_row(*(_shown(row.get(column)) for column in columns))
    return table


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every row's columns, in the order in which they first come."""
    return list(dict.fromkeys(column for row in rows for column in row))


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    first = _columns(rows)[0] if rows else ""
    return {
        f"{row.get(first)}.{column}": float(value)
        for row in rows
        for column, value in row.items()
        if column != first and _is_figure(value)
    }


def _is_figure(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if not _is_figure(value):
        return str(value)
    return f"{value:,.0f}" if value == np.floor(value) or abs(value) >= 1000 else f"{value:.4g}"
