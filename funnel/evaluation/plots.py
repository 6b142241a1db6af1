"""Pictures for people: each function writes one PNG from arrays; nothing is shown and no state is
kept.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.arrays import Flags
from ranking.metrics import by_bucket, quantile_buckets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = npt.NDArray[np.integer | np.floating]

_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9661f", "#8a8a8a"


def loss_curves(
    epochs: Sequence[Mapping[str, float]], path: Path, parts: Sequence[str] = ()
) -> None:
    """Every figure of the epochs (the first row is epoch 1), one panel for a figure and its `val_`
    twin.

    Epochs of one of the `parts`, one for each epoch, are a line of their own; a dashed line stands
    before the next.
    """
    from matplotlib.ticker import MaxNLocator

    table = pd.DataFrame(list(epochs), index=np.arange(1, len(epochs) + 1))
    part = pd.Series(list(parts) or "", index=table.index)
    names = list(dict.fromkeys(str(name).removeprefix("val_") for name in table.columns))
    figure, panels = _canvas(len(names), "Training, epoch by epoch")
    for panel, name in zip(panels, names, strict=True):
        twins = {name: ("training rows", _BLUE), f"val_{name}": ("validation rows", _ORANGE)}
        for column in table.columns.intersection(list(twins)):
            for number, (_, values) in enumerate(table[column].dropna().groupby(part, sort=False)):
                label, colour = twins[column]
                panel.plot(
                    values.index,
                    values,
                    "o-",
                    markersize=4,
                    color=colour,
                    label=label if not number else None,
                )
        _label(panel, name.replace("_", " ").replace("@", " at "), "epoch", "")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set(xlim=(0.5, max(len(table), 1) + 0.5))
        _mark_parts(panel, part)
    if any(str(name).startswith("val_") for name in table.columns):
        _legend(figure, panels[0])
    figure.savefig(path)


def seconds_by_bucket(predicted: Numbers, true: Numbers, path: Path, buckets: int = 20) -> None:
    """Mean true against mean predicted seconds in equally full buckets of the prediction, with the
    diagonal.
    """
    table = by_bucket(quantile_buckets(predicted, buckets), true, predicted)
    figure, (panel,) = _canvas(1, "Expected and true watch seconds")
    end = 1.05 * table[["predicted", "seconds"]].to_numpy().max(initial=1e-9)
    panel.plot([0, end], [0, end], color=_GREY, linestyle="--", label="calibrated")
    panel.plot(table["predicted"], table["seconds"], marker="o", color=_BLUE, label="impressions")
    panel.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    title = f"{len(true):,} impressions in {len(table)} buckets of the prediction"
    _label(panel, title, "mean predicted watch time (s)", "mean true watch time (s)")
    _legend(figure, panel)
    figure.savefig(path)


def calibration_bars(table: pd.DataFrame, path: Path) -> None:
    """Predicted over true seconds by slice with its interval: columns calibration, low, high and
    rows; 1 is right.
    """
    figure, (panel,) = _canvas(1, "Predicted over true watch seconds, by slice")
    places, ratio = np.arange(len(table)), table["calibration"].to_numpy()
    errors = np.abs(table[["low", "high"]].to_numpy().T - ratio)
    panel.axvline(1, color=_GREY, linestyle="--", label="calibrated")
    panel.errorbar(
        ratio,
        places,
        xerr=errors,
        fmt="o",
        color=_BLUE,
        capsize=3,
        label="with 95 % of bootstrapped users",
    )
    panel.set_yticks(
        places, [f"{name}\n({rows:,.0f} rows)" for name, rows in table["rows"].items()], fontsize=8
    )
    panel.invert_yaxis()
    _label(panel, "", "predicted / true seconds", "")
    _legend(figure, panel)
    figure.set_figheight(2 + 0.45 * len(table))
    figure.savefig(path)


def interval_points(
    table: pd.DataFrame,
    title: str,
    across: str,
    path: Path,
    note: str = "with 95 % intervals from bootstrapped users",
) -> None:
    """Values with their intervals, a row each: columns value, low, high; the last row is what they
    are measured by.
    """
    figure, (panel,) = _canvas(1, title)
    places, values = np.arange(len(table)), table["value"].to_numpy()
    # A bootstrap's middle need not hold the value itself.
    errors = np.maximum(np.stack([values - table["low"], table["high"] - values]), 0)
    panel.axvline(float(values[-1]), color=_GREY, linestyle="--")
    panel.errorbar(values, places, xerr=errors, fmt="o", color=_BLUE, capsize=3)
    panel.set_yticks(places, [str(name) for name in table.index])
    panel.invert_yaxis()
    _label(panel, note, across, "")
    figure.set_figheight(1.5 + 0.45 * len(table))
    figure.savefig(path)


def draw_choice(choice: Mapping[str, Any], path: Path) -> None:
    """What each order of the validation lists was worth beside the best; the chosen one comes
    last.
    """
    trials = sorted(choice["trials"], key=lambda trial: (trial["chosen"], trial["behind_best"]))
    if not trials:
        return
    worth = np.array(
        [
            np.exp(-trial["behind_best"]) if np.isfinite(trial["behind_best"]) else 0.0
            for trial in trials
        ]
    )
    error = worth * np.nan_to_num([trial["standard_error"] for trial in trials])
    table = pd.DataFrame(
        {"value": worth, "low": worth - error, "high": worth + error},
        index=[trial["list"] for trial in trials],
    )
    interval_points(
        table,
        "Which order of the lists was best before the test window",
        f"worth as a share of the best order's, by {choice['measure']}",
        path,
        "the chosen one last, with standard errors",
    )


def waterfall_bars(table: pd.DataFrame, path: Path) -> None:
    """What is left of the test window's seconds at each stage: a bar a row, column share; grey by
    `kind`.
    """
    figure, (panel,) = _canvas(1, "How much of what was watched next each stage still has")
    places, shares = np.arange(len(table)), 100 * table["share"].to_numpy()
    bars = panel.barh(
        places, shares, color=[_GREY if kind == "generator" else _BLUE for kind in table["kind"]]
    )
    panel.bar_label(bars, fmt="%.1f %%", padding=3, fontsize=9)
    panel.set_yticks(places, [str(name) for name in table.index])
    panel.invert_yaxis()
    panel.set(xlim=(0, 118))
    _label(panel, "grey: one candidate generator alone", "% of the test window's watch seconds", "")
    figure.set_figheight(1.5 + 0.4 * len(table))
    figure.savefig(path)


def candidate_popularity(candidate_counts: Numbers, catalogue_counts: Numbers, path: Path) -> None:
    """How popular the candidates are beside the whole catalogue: share with at least so many
    watches, log axes.

    Both are watches per item: `candidate_counts` of each candidate of each user, `catalogue_counts`
    of each item.
    """
    figure, (panel,) = _canvas(1, "Popularity of the candidates and of the catalogue")
    for counts, label, colour in (
        (catalogue_counts, "catalogue, each item once", _GREY),
        (candidate_counts, "candidates, as often as listed", _BLUE),
    ):
        values, share = _share_at_least(counts)
        median = f"median {np.median(counts):,.0f}" if len(counts) else "none"
        panel.step(values, share, where="pre", color=colour, label=f"{label} ({median})")
    most = max(float(candidate_counts.max(initial=10)), float(catalogue_counts.max(initial=10)))
    least = 0.5 / max(len(candidate_counts), len(catalogue_counts), 10)
    panel.set(xscale="log", yscale="log", xlim=(0.9, 1.2 * most), ylim=(least, 1.3))
    panel.xaxis.set_major_formatter("{x:,g}")
    _label(panel, "", "watches of the item", "share with at least so many watches")
    _legend(figure, panel)
    figure.savefig(path)


def share_bars(title: str, panels: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Shares as groups of bars with their value, a panel for each table: a group for each row, a
    bar for each column.

    A column has one colour in all panels; NaN has no bar. Each panel has a scale of its own, so
    small shares are seen.
    """
    figure, axes = _canvas(len(panels), title)
    columns = list(dict.fromkeys(column for table in panels.values() for column in table.columns))
    colours = dict(zip(columns, (_BLUE, _GREY, _ORANGE), strict=False))
    for panel, (name, table) in zip(axes, panels.items(), strict=True):
        _grouped(panel, table, colours)
        _label(panel, name, "%", "")
    handles = {
        label: bar
        for panel in axes
        for bar, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
    figure.set_figheight(
        max(4.6, 2 + 0.45 * max((table.size for table in panels.values()), default=0) / 1.8)
    )
    figure.savefig(path)


def data_profile(
    days: npt.NDArray[np.datetime64],
    clicked: Flags,
    seconds: Numbers,
    users: Numbers,
    path: Path,
) -> None:
    """A log at a glance: impressions and click rate by day, seconds of the clicked ones,
    impressions per user.

    All are aligned by impression, [n]: its UTC instant or day, whether clicked, watch seconds (NaN
    = unknown), user.
    """
    figure, panels = _canvas(
        4, f"The log: {len(days):,} impressions of {len(np.unique(users)):,} users"
    )
    by_day = pd.DataFrame({"day": days.astype("datetime64[D]"), "clicked": clicked}).groupby("day")[
        "clicked"
    ]
    _by_day(panels[0], by_day.size(), "Impressions per day (UTC)", "impressions")
    _by_day(panels[1], 100 * by_day.mean(), "Click rate per day (UTC)", "clicked (%)")
    _seconds_of_clicks(panels[2], seconds[clicked])
    _activity(panels[3], np.unique(users, return_counts=True)[1])
    figure.savefig(path)


def line_chart(table: pd.DataFrame, title: str, across: str, up: str, path: Path) -> None:
    """One line for each column of a table over its index."""
    figure, (panel,) = _canvas(1, title)
    for name, colour in zip(
        table.columns, itertools.cycle((_BLUE, _ORANGE, _GREY, "#2f8f4e", "#7a4fa3"))
    ):
        panel.plot(table.index, table[name], marker="o", markersize=4, color=colour, label=name)
    _label(panel, "", across, up)
    _legend(figure, panel)
    figure.savefig(path)


def index_sweep(trials: pd.DataFrame, target: float, path: Path) -> None:
    """Overlap with the exact index against queries a second (log axis); the chosen trial is ringed.

    A kind's line joins its best trials, those that no faster one equals; the others are faint
    points.

    Columns `kind`, `overlap`, `queries_per_second` and `chosen`, a row a trial; `target` is the
    overlap that passes.
    """
    figure, (panel,) = _canvas(1, "The index: overlap with exact against speed")
    panel.axhline(target, color=_GREY, linestyle="--", label=f"passes from {target:g}")
    for kind, rows in trials.sort_values("queries_per_second", ascending=False).groupby("kind"):
        front = rows[rows["overlap"] == rows["overlap"].cummax()]
        (drawn,) = panel.plot(
            front["queries_per_second"], front["overlap"], marker="o", markersize=4, label=str(kind)
        )
        panel.plot(
            rows["queries_per_second"], rows["overlap"], ".", color=drawn.get_color(), alpha=0.4
        )
    chosen = trials[trials["chosen"]]
    ring: dict[str, Any] = {
        "linestyle": "",
        "marker": "o",
        "markersize": 12,
        "markerfacecolor": "none",
        "markeredgecolor": _ORANGE,
    }
    panel.plot(chosen["queries_per_second"], chosen["overlap"], label="published", **ring)
    panel.set(xscale="log")
    _label(panel, "", "queries a second", "share of the exact best that were found")
    _legend(figure, panel)
    figure.savefig(path)


def _canvas(count: int, title: str) -> "tuple[Figure, list[Axes]]":
    """A figure that belongs to nobody (no pyplot, no display) with `count` panels, two in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 2) or 1
    rows = -(-count // columns) or 1
    figure = Figure(figsize=(6.4 * columns, 4.6 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _label(panel: "Axes", title: str, across: str, up: str) -> None:
    panel.set(title=title, xlabel=across, ylabel=up)
    panel.grid(alpha=0.25)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _mark_parts(panel: "Axes", part: "pd.Series[str]") -> None:
    """A line where a part of the epochs ends, and the part's name upright beside its first
    epoch.
    """
    first = part.drop_duplicates()
    for start, name in (
        zip(first.index.to_numpy() - 0.5, first, strict=True) if len(first) > 1 else ()
    ):
        panel.axvline(start, color=_GREY, linestyle="--", linewidth=0.8)
        place = panel.get_xaxis_transform()
        panel.text(
            start + 0.05,
            0.02,
            name,
            rotation=90,
            va="bottom",
            fontsize=7,
            color=_GREY,
            transform=place,
        )


def _legend(figure: "Figure", panel: "Axes") -> None:
    """One legend below all panels, where it covers nothing."""
    handles, labels = panel.get_legend_handles_labels()
    beside = 3 if sum(map(len, labels)) < 60 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=beside, frameon=False)


def _share_at_least(counts: Numbers) -> tuple[Numbers, Numbers]:
    """The counts that occur, above 0, and the share of all counts that are at least as high."""
    values, times = np.unique(counts, return_counts=True)
    share = np.cumsum(times[::-1])[::-1] / max(len(counts), 1)
    return values[values > 0], share[values > 0]


def _grouped(panel: "Axes", table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Horizontal bars in per cent, the table's first row at the top."""
    rows, thickness = np.arange(len(table)), 0.8 / max(len(table.columns), 1)
    for number, column in enumerate(table.columns):
        shares = 100 * table[column].to_numpy(np.float64)
        known = ~np.isnan(shares)
        middle = rows + (number - (len(table.columns) - 1) / 2) * thickness
        bars = panel.barh(
            middle[known], shares[known], thickness, color=colours[column], label=str(column)
        )
        panel.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
    panel.set_yticks(rows, [str(name) for name in table.index])
    panel.margins(x=0.12)
    panel.invert_yaxis()


def _by_day(
    panel: "Axes", values: "pd.Series[float] | pd.Series[int]", title: str, up: str
) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    dates = AutoDateLocator(maxticks=8)  # type: ignore[no-untyped-call]
    panel.bar(values.index.to_numpy(), values.to_numpy(), width=0.8, color=_BLUE)
    panel.xaxis.set_major_locator(dates)
    panel.xaxis.set_major_formatter(ConciseDateFormatter(dates))  # type: ignore[no-untyped-call]
    panel.yaxis.set_major_formatter("{x:,g}")
    _label(panel, title, "", up)


def _seconds_of_clicks(panel: "Axes", seconds: Numbers) -> None:
    """Histogram up to the 99th percentile: one forgotten tab would otherwise flatten it."""
    known = seconds[~np.isnan(seconds)]
    end = max(float(np.quantile(known, 0.99)), 1.0) if len(known) else 1.0
    panel.hist(np.minimum(known, end), bins=50, range=(0, end), color=_BLUE)
    panel.yaxis.set_major_formatter("{x:,g}")
    title = f"Watch time of {len(known):,} clicks, {len(seconds) - len(known):,} more unknown"
    _label(panel, title, f"seconds (the last bar: {end:,.0f} s and more)", "clicks")


def _activity(panel: "Axes", impressions: Numbers) -> None:
    values, share = _share_at_least(impressions)
    panel.step(values, 100 * share, where="pre", color=_BLUE)
    panel.set(xscale="log", ylim=(0, 105))
    panel.xaxis.set_major_formatter("{x:,g}")
    median = f", median {np.median(impressions):,.0f}" if len(impressions) else ""
    _label(
        panel,
        f"Activity of the users{median}",
        "impressions of the user",
        "users with at least so many (%)",
    )
