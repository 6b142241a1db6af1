"""Pictures are written, hold what they were given, and survive the thin data of a first run."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from funnel.evaluation import plots
from funnel.evaluation.plots import (
    candidate_popularity,
    data_profile,
    index_sweep,
    interval_points,
    loss_curves,
    seconds_by_bucket,
    share_bars,
)
from funnel.evaluation.ranking_report import calibration_table
from funnel.evaluation.recall_report import draw_recall

DAY = np.datetime64("2025-01-01")
NONE = np.array([])


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000


@pytest.fixture
def panels(monkeypatch):
    """The panels of the picture drawn last."""
    drawn, canvas = [], plots._canvas

    def remembered(count, title):
        figure, axes = canvas(count, title)
        drawn[:] = axes
        return figure, axes

    monkeypatch.setattr(plots, "_canvas", remembered)
    return drawn


@pytest.fixture(autouse=True)
def _loud():
    """Whatever matplotlib or numpy complain about is a fault of the picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def line(panel, label):
    (found,) = [line for line in panel.get_lines() if line.get_label().startswith(label)]
    return found


def legend(panel):
    """What the legends of a picture say: they stand below its panels, where they cover nothing."""
    assert panel.get_legend() is None
    return [text.get_text() for found in panel.figure.legends for text in found.get_texts()]


def test_estimates_stand_in_their_intervals_and_the_last_is_the_measure(tmp_path, panels):
    rows = {"final": (5, 4, 7), "outside": (3, 3.5, 4), "the log": (2, 1, 3)}
    table = pd.DataFrame.from_dict(
        rows, orient="index", columns=["value", "low", "high"], dtype=float
    )
    interval_points(table, "estimates", "seconds", tmp_path / "points.png")
    assert is_png(tmp_path / "points.png")
    assert panels[0].get_lines()[0].get_xdata() == [2, 2]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list(rows)
    (bars,) = panels[0].containers[0][2]
    assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [[4, 7], [3, 4], [1, 3]]


def test_loss_curves_put_a_figure_and_its_validation_twin_in_one_panel(tmp_path, panels):
    loss_curves(
        [{"loss": 3.0, "val_loss": 3.5}, {"loss": 2.0, "val_loss": 3.0}], tmp_path / "loss.png"
    )
    assert is_png(tmp_path / "loss.png")
    assert [panel.get_title() for panel in panels] == ["loss"]
    assert line(panels[0], "training").get_xydata().tolist() == [[1, 3], [2, 2]]
    assert line(panels[0], "validation").get_xydata().tolist() == [[1, 3.5], [2, 3]]
    assert legend(panels[0]) == ["training rows", "validation rows"]


def test_each_tower_has_a_curve_of_its_own_its_cut_off_is_marked_and_a_hit_rate_is_not_called_training(
    tmp_path, panels
):
    epochs = [
        {"loss": 3.0, "hit_rate@50": 0.2},
        {"loss": 2.0, "hit_rate@50": 0.3},
        {"loss": 5.0},
        {"loss": 4.0},
    ]
    ends = ["until noon", "until noon", "until night", "until night"]
    loss_curves(epochs, tmp_path / "loss.png", ends)
    loss, hits = panels
    curves = [
        drawn.get_xydata().tolist() for drawn in loss.get_lines() if drawn.get_marker() == "o"
    ]
    assert curves == [[[1, 3], [2, 2]], [[3, 5], [4, 4]]]
    assert [mark.get_text() for mark in loss.texts] == ["until noon", "until night"]
    assert [
        drawn.get_xdata()[0] for drawn in loss.get_lines() if drawn.get_linestyle() == "--"
    ] == [0.5, 2.5]
    assert hits.get_title() == "hit rate at 50"
    assert legend(loss) == []


def test_seconds_by_bucket_shows_means_of_both_against_the_diagonal(tmp_path, panels):
    seconds_by_bucket(
        np.array([1.0, 3.0, 10.0, 20.0]),
        np.array([0.0, 2.0, 30.0, 10.0]),
        tmp_path / "s.png",
        buckets=2,
    )
    assert is_png(tmp_path / "s.png")
    assert line(panels[0], "impressions").get_xydata().tolist() == [[2, 1], [15, 20]]
    diagonal = line(panels[0], "calibrated").get_xydata()
    assert (diagonal[:, 0] == diagonal[:, 1]).all()


def test_popularity_is_the_share_with_at_least_so_many_watches_on_log_axes(tmp_path, panels):
    candidate_popularity(np.array([5, 5, 1]), np.array([0, 0, 1, 5]), tmp_path / "p.png")
    assert is_png(tmp_path / "p.png")
    assert (panels[0].get_xscale(), panels[0].get_yscale()) == ("log", "log")
    assert line(panels[0], "catalogue").get_xydata().tolist() == [[1, 0.5], [5, 0.25]]
    np.testing.assert_allclose(line(panels[0], "candidates").get_xydata(), [[1, 1], [5, 2 / 3]])


def test_shares_are_bars_in_per_cent_by_row_and_column_and_nan_has_none(tmp_path, panels):
    slices = pd.DataFrame(
        {"candidates": [0.5, 0.25], "popularity": [0.1, np.nan]}, index=["new", "old"]
    )
    share_bars("Slices", {"hr@50": slices, "found": slices[:1]}, tmp_path / "b.png")
    assert is_png(tmp_path / "b.png")
    first, second = panels
    assert (first.get_title(), second.get_title()) == ("hr@50", "found")
    assert [text.get_text() for text in first.get_yticklabels()] == ["new", "old"]
    bars = [(bar.get_width(), round(bar.get_y() + bar.get_height() / 2)) for bar in first.patches]
    assert bars == [(50, 0), (25, 1), (10, 0)]
    assert legend(first) == ["candidates", "popularity"]
    assert [text.get_text() for text in first.texts] == ["50", "25", "10"]
    assert first.yaxis_inverted()


def test_a_small_share_has_a_scale_and_a_value_of_its_own(tmp_path, panels):
    report = {
        f"recall.generator_{name}@50/new_items": share
        for name, share in (("named", 0.9), ("hits", 0.8))
    }
    draw_recall(report | {"recall.generator_unique_hits@50/new_items": 0.003}, tmp_path)
    shares, alone = panels
    assert [text.get_text() for text in shares.get_yticklabels()] == ["new items"]
    assert alone.patches[0].get_width() == pytest.approx(0.3)
    assert alone.get_xlim()[1] < 0.5
    assert [text.get_text() for text in alone.texts] == ["0.3"]
    assert legend(shares) == ["named", "hits", "only it hit"]


def test_slices_without_rows_are_left_out_and_the_others_stand_in_their_order():
    rows = {"duration_over_60": 7, "duration_under_10": 3, "users_with_0_clicks": 0}
    report = {f"ranking.rows/{name}": count for name, count in rows.items()}
    assert list(calibration_table(report).index) == ["duration under 10", "duration over 60"]


def test_the_profile_counts_days_rates_seconds_and_users(tmp_path, panels):
    days = DAY + np.array([0, 0, 0, 2])
    clicked, seconds = np.array([True, True, False, True]), np.array([10.0, np.nan, 99.0, 30.0])
    data_profile(days, clicked, seconds, np.array([1, 1, 1, 2]), tmp_path / "d.png")
    assert is_png(tmp_path / "d.png")
    per_day, rate, watch, activity = panels
    assert [bar.get_height() for bar in per_day.patches] == [3, 1]
    assert [bar.get_height() for bar in rate.patches] == pytest.approx([200 / 3, 100])
    assert sum(bar.get_height() for bar in watch.patches) == 2
    assert "1 more unknown" in watch.get_title()
    assert activity.get_lines()[0].get_xydata().tolist() == [[1, 100], [3, 50]]


def test_a_forgotten_tab_does_not_flatten_the_histogram(tmp_path, panels):
    seconds = np.append(np.linspace(1, 60, 999), 1e6)
    data_profile(
        np.repeat(DAY, 1000),
        np.ones(1000, dtype=bool),
        seconds,
        np.arange(1000),
        tmp_path / "d.png",
    )
    bars = panels[2].patches
    assert bars[-1].get_x() < 61
    assert sum(bar.get_height() for bar in bars) == 1000


def test_thin_data_still_makes_a_picture(tmp_path):
    loss_curves([{"loss": 1.0}], tmp_path / "loss.png")
    seconds_by_bucket(np.zeros(3), np.zeros(3), tmp_path / "seconds.png")
    candidate_popularity(np.array([2, 1]), np.array([1, 2]), tmp_path / "popularity.png")
    data_profile(
        np.array([DAY]),
        np.array([False]),
        np.array([np.nan]),
        np.array([7]),
        tmp_path / "profile.png",
    )
    assert all(is_png(path) for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 4


def test_no_data_still_makes_a_picture(tmp_path):
    warnings.simplefilter("ignore")  # A logarithmic axis without a point says so.
    loss_curves([], tmp_path / "loss.png")
    seconds_by_bucket(NONE, NONE, tmp_path / "seconds.png")
    candidate_popularity(NONE, NONE, tmp_path / "popularity.png")
    nobody = NONE.astype(bool)
    data_profile(
        NONE.astype("datetime64[D]"), nobody, NONE, NONE.astype(int), tmp_path / "profile.png"
    )
    nothing = {"kind": ["exact"], "overlap": [1.0], "queries_per_second": [0.0], "chosen": [True]}
    index_sweep(pd.DataFrame(nothing), 0.99, tmp_path / "index_sweep.png")
    assert len(list(tmp_path.iterdir())) == 5


def test_drawing_needs_no_display_and_importing_no_matplotlib(tmp_path):
    script = (
        "import sys, funnel.evaluation.plots as p; assert 'matplotlib' not in sys.modules; "
        f"p.loss_curves([{{'loss': 1.0}}], {str(tmp_path / 'x.png')!r}); assert "
        "'matplotlib.pyplot' not in sys.modules"
    )
    bare = {
        name: value for name, value in os.environ.items() if name not in {"DISPLAY", "MPLBACKEND"}
    }
    subprocess.run([sys.executable, "-c", script], env=bare, check=True)
    assert is_png(tmp_path / "x.png")


def test_the_sweep_is_overlap_against_speed_with_what_is_published_ringed(tmp_path, panels):
    trials = pd.DataFrame(
        {
            "kind": ["exact", "ivf", "ivf", "ivf", "pq"],
            "overlap": [1.0, 0.9, 0.995, 0.8, 0.5],
            "queries_per_second": [100.0, 9_000.0, 4_000.0, 6_000.0, 20_000.0],
            "chosen": [False, False, True, False, False],
        }
    )
    index_sweep(trials, 0.99, tmp_path / "index_sweep.png")
    assert is_png(tmp_path / "index_sweep.png")
    assert panels[0].get_xscale() == "log"
    assert line(panels[0], "ivf").get_xydata().tolist() == [[9_000, 0.9], [4_000, 0.995]]
    assert line(panels[0], "published").get_xydata().tolist() == [[4_000, 0.995]]
    assert set(line(panels[0], "passes").get_ydata()) == {0.99}


def test_a_sweep_of_the_exact_index_alone_is_a_picture_too(tmp_path):
    trials = pd.DataFrame(
        {"kind": ["exact"], "overlap": [1.0], "queries_per_second": [50.0], "chosen": [True]}
    )
    index_sweep(trials, 0.99, tmp_path / "index_sweep.png")
    assert is_png(tmp_path / "index_sweep.png")
