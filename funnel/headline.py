"""What a person reads first of a run: what was changed, the metrics to look at first, and all of
them as a table.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

# In the order of the report's table; MLflow sorts by name.
HEADLINES = (
    *("recall.hr@10", "recall.hr@50", "recall.hr@200", "recall.ndcg@10", "recall.coverage@200"),
    "recall.new_item_recall@200",
    *(
        "ranking.auc",
        "ranking.gauc_by_rows",
        "ranking.xauc",
        "ranking.weighted_user_loss",
        "ranking.mae",
    ),
    *("ranking.calibration", "funnel.hr@10", "funnel.ndcg@10", "funnel.watch_seconds_share@10"),
    *("funnel.watch_seconds_share@50", "funnel.oracle_share@10"),
)
# What they are read beside: the rivals' share, what the log has to be evaluated on, how lists are
# ordered, estimates.
BESIDE = (
    *(
        f"funnel.watch_seconds_share@{k}.{rival}"
        for k in (10, 50)
        for rival in ("popularity", "recall")
    ),
    *(
        "funnel.users",
        "recall.users",
        "recall.hr@50.popularity",
        "ranking.impressions",
        "ranking.xauc.item_mean",
    ),
    *(
        "list_order.chance_weight",
        "off_policy.doubly_robust",
        "off_policy.doubly_robust.recall",
        "waterfall.merged",
    ),
)
CHANGES_SHOWN = 4


def headline(figures: Mapping[str, float]) -> dict[str, float]:
    """The metrics to look at first, of all figures of a report."""
    return {name: figures[name] for name in (*HEADLINES, *BESIDE) if name in figures}


def changes_text(changed: Mapping[str, Any]) -> str:
    """The changed settings in a few words; `defaults` where nothing was changed."""
    texts = [f"{name}={_text(value)}" for name, value in changed.items()]
    more = f" and {len(texts) - CHANGES_SHOWN} more" if len(texts) > CHANGES_SHOWN else ""
    return ", ".join(texts[:CHANGES_SHOWN]) + more or "defaults"


def metrics_table(figures: Mapping[str, float]) -> pd.DataFrame:
    """Every figure of a report in a row: stage, metric, at (list length), slice, of (a rival,
    empty: ours), value.
    """
    pattern = re.compile(
        r"(?P<stage>\w+)\.(?P<metric>\w+)(@(?P<at>\d+))?(/(?P<slice>\w+))?(\.(?P<of>\w+))?"
    )
    rows = {
        name: match.groupdict("") if (match := pattern.fullmatch(name)) else {"metric": name}
        for name in figures
    }
    return pd.DataFrame([row | {"value": figures[name]} for name, row in rows.items()])


def markdown_table(metrics: Mapping[str, float]) -> str:
    """Metrics as a table in Markdown; nothing where there are none."""
    rows = [f"| {name} | {value:,.4g} |" for name, value in sorted(metrics.items())]
    return "\n".join(["| metric | value |", "|---|---:|", *rows]) if rows else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
