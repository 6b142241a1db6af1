"""The demo: MLflow and Airflow on this machine, and what came out."""
