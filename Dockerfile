# One image for every service of docker-compose.yml: Airflow, MLflow, TensorFlow and the four packages.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1 \
    TF_CPP_MIN_LOG_LEVEL=3 \
    AIRFLOW_HOME=/opt/airflow

# TensorFlow and faiss need the OpenMP runtime, the DAG `maintenance` needs pg_dump.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 postgresql-client \
    && rm -rf /var/lib/apt/lists/* \
    && pip install uv \
    && useradd --uid 50000 --create-home funnel

WORKDIR /opt/watchfunnel

# The libraries are a layer of their own: a change of the code does not install them again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN uv pip install --system --constraint constraints.txt --requirements pyproject.toml --extra postgres

COPY features features
COPY recall recall
COPY ranking ranking
COPY funnel funnel
RUN uv pip install --system --no-deps .
COPY dags dags

# Named volumes take over the owner of the folder they are mounted on.
RUN mkdir -p /opt/airflow/logs /opt/artefacts /opt/mlflow /data \
    && chown -R funnel: /opt/airflow /opt/artefacts /opt/mlflow
USER funnel
