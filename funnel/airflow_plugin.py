"""Airflow's UI leads to MLflow: a button on every task that has a run there, a link in the menu.

Airflow finds the plugin by the entry point `airflow.plugins` of this package.
"""

import os
from collections.abc import Mapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

# Internal to Airflow 3.3, and the one kind of global link that reads an XCom.
from airflow.serialization.definitions.operatorlink import XComOperatorLink


def menu(environment: Mapping[str, str] = os.environ) -> list[dict[str, Any]]:
    """The link to MLflow as browsers know it; none where it is a file."""
    address = environment.get("WATCHFUNNEL_MLFLOW_URL") or environment.get(
        "MLFLOW_TRACKING_URI", ""
    )
    if not address.startswith("http"):
        return []
    href = f"{address.rstrip('/')}/#/experiments?workflowType=machine_learning"
    return [{"name": "MLflow", "href": href, "destination": "nav", "category": "browse"}]


class WatchfunnelPlugin(AirflowPlugin):
    """The button reads the XCom `mlflow` that each task pushes (`funnel.airflow_tasks.LINK`)."""

    name = "watchfunnel"
    global_operator_extra_links = [XComOperatorLink(name="MLflow run", xcom_key="mlflow")]  # noqa: RUF012
    external_views = menu()
