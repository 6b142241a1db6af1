"""The composed stack, read: its schema, and one by one what can go wrong in the files."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

Composed = Callable[[Mapping[str, str]], dict[str, Any]]
ROOT = Path(__file__).parent.parent
GOOD_SECRETS = {
    "POSTGRES_PASSWORD": "p" * 24,
    "AIRFLOW_SECRET_KEY": "s" * 24,
    "AIRFLOW_ADMIN_PASSWORD": "a" * 24,
    "AIRFLOW_JWT_SECRET": "j" * 64,
    "AIRFLOW_FERNET_KEY": "f" * 44,
}
SECRETS = tuple(GOOD_SECRETS)
LONG_RUNNING = {
    *(
        "postgres",
        "mlflow",
        "airflow-apiserver",
        "airflow-scheduler",
        "airflow-dag-processor",
        "airflow-triggerer",
    ),
}


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def stack(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@pytest.fixture(scope="module")
def services(stack: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = stack["services"]
    return found


def airflow(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services.items() if name.startswith("airflow-")}


def fits_the_specification(stack: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "docker-compose.yml"
    file.write_text(yaml.safe_dump(stack))
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(file),
    ]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_file_fits_the_compose_specification(composed: Composed, tmp_path: Path) -> None:
    answer = fits_the_specification(composed(GOOD_SECRETS), tmp_path)
    assert answer.returncode == 0, answer.stdout


def test_a_misspelt_key_does_not_fit_the_compose_specification(
    composed: Composed, tmp_path: Path
) -> None:
    stack = composed(GOOD_SECRETS)
    stack["services"]["mlflow"]["depend_on"] = stack["services"]["mlflow"].pop("depends_on")
    answer = fits_the_specification(stack, tmp_path)
    assert answer.returncode == 1
    assert "depend_on" in answer.stdout


def test_every_service_that_is_waited_for_exists_and_can_meet_the_condition(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        for other, wish in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            if wish["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for the health of {other}"
            else:
                assert wish["condition"] == "service_completed_successfully"
                assert services[other].get("restart", "no") == "no", f"{other} never completes"


def test_nothing_waits_in_a_circle(services: dict[str, dict[str, Any]]) -> None:
    waiting = {name: set(service.get("depends_on", {})) for name, service in services.items()}
    while free := {name for name, others in waiting.items() if not others & waiting.keys()}:
        waiting = {name: others for name, others in waiting.items() if name not in free}
    assert not waiting


def test_every_long_running_service_has_a_health_check_and_comes_back(
    services: dict[str, dict[str, Any]],
) -> None:
    lasting = {
        name for name, service in services.items() if service.get("restart") == "unless-stopped"
    }
    assert lasting == LONG_RUNNING
    assert all("test" in services[name]["healthcheck"] for name in lasting)


def test_named_volumes_and_configs_are_declared_and_used(stack: dict[str, Any]) -> None:
    mounts = [
        mount for service in stack["services"].values() for mount in service.get("volumes", [])
    ]
    assert {mount.split(":")[0] for mount in mounts if mount[0].isalpha()} == set(stack["volumes"])
    configs = [
        config["source"]
        for service in stack["services"].values()
        for config in service.get("configs", [])
    ]
    assert set(configs) == set(stack["configs"])


def test_all_but_the_database_run_one_image(services: dict[str, dict[str, Any]]) -> None:
    assert {service["image"] for name, service in services.items() if name != "postgres"} == {
        "watchfunnel"
    }
    assert all(service["build"] == "." for name, service in services.items() if name != "postgres")


def test_a_stack_without_a_secret_is_refused_with_a_sentence(text: str, composed: Composed) -> None:
    for secret in SECRETS:
        uses = re.findall(rf"\$\{{{secret}[^}}]*\}}", text)
        assert uses
        assert all(
            re.fullmatch(rf"\$\{{{secret}:\?[^}}]*\.env\.example[^}}]*\}}", use) for use in uses
        )
        with pytest.raises(KeyError, match=secret):
            composed({name: value for name, value in GOOD_SECRETS.items() if name != secret})


def test_no_secret_is_written_into_the_file(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|FERNET|CONN|STORE_URI", variable):
                assert "${" in value, f"{name}: {variable}"


def test_every_secret_has_a_placeholder_in_the_example() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert {
        line.removesuffix("=change-me") for line in lines if line.endswith("=change-me")
    } == set(SECRETS)


def checked(stack: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    service = stack["services"]["check-secrets"]
    environment = {"PATH": os.environ["PATH"]} | service["environment"]
    return subprocess.run(service["command"], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("secret", SECRETS)
def test_placeholders_and_short_secrets_stop_the_stack_before_the_database_starts(
    composed: Composed, services: dict[str, dict[str, Any]], secret: str
) -> None:
    for poor, word in (("change-me", "placeholder"), ("short", "characters")):
        answer = checked(composed(GOOD_SECRETS | {secret: poor}))
        assert answer.returncode == 1
        assert secret in answer.stderr
        assert word in answer.stderr
    assert (
        services["postgres"]["depends_on"]["check-secrets"]["condition"]
        == "service_completed_successfully"
    )


def test_good_secrets_pass(composed: Composed) -> None:
    answer = checked(composed(GOOD_SECRETS))
    assert (answer.returncode, answer.stderr) == (0, "")


def test_all_parts_of_airflow_share_their_keys_and_find_the_execution_interface(
    services: dict[str, dict[str, Any]],
) -> None:
    shared = (
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__API__SECRET_KEY",
    )
    for variable in (*shared, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "WATCHFUNNEL_HOME"):
        assert (
            len({service["environment"][variable] for service in airflow(services).values()}) == 1
        )
    for service in airflow(services).values():
        address = service["environment"]["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
        assert address == "http://airflow-apiserver:8080/execution/"
        assert service["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert {"airflow-apiserver", "mlflow"} <= services.keys()


def settings(services: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for service in airflow(services).values():
        for variable in service["environment"]:
            if variable.startswith("AIRFLOW__"):
                _, section, option = variable.lower().split("__")
                yield section, option


def test_every_airflow_setting_exists_in_this_airflow(services: dict[str, dict[str, Any]]) -> None:
    from airflow.configuration import conf

    known = conf.configuration_description
    assert set(settings(services))
    for section, option in settings(services):
        assert option in known.get(section, {"options": ()})["options"], f"[{section}] {option}"


def test_mlflow_answers_the_other_containers_and_hands_on_artefacts(
    services: dict[str, dict[str, Any]],
) -> None:
    mlflow = services["mlflow"]
    assert "mlflow:*" in mlflow["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert "--serve-artifacts" in mlflow["command"]
    folder = next(
        word.split("=")[1]
        for word in mlflow["command"]
        if word.startswith("--artifacts-destination")
    )
    assert f"mlflow-artifacts:{folder}" in mlflow["volumes"]


def test_the_data_can_be_written_by_the_triggerer_alone(
    services: dict[str, dict[str, Any]],
) -> None:
    data = {
        name: mount
        for name, service in services.items()
        for mount in service.get("volumes", [])
        if "/data" in mount.split("}")[-1] and "DATA_FOLDER" in mount
    }
    assert {name for name, mount in data.items() if not mount.endswith(":ro")} == {
        "airflow-triggerer"
    }
    assert set(data) == set(airflow(services))


def test_both_uis_listen_on_the_loopback_unless_told_otherwise(
    services: dict[str, dict[str, Any]],
) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in ports)


def test_the_image_owns_every_folder_that_a_volume_takes_over(stack: dict[str, Any]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    made = next(line for line in dockerfile.splitlines() if "mkdir -p" in line).split()
    mounts = [
        mount
        for name, service in stack["services"].items()
        if name != "postgres"
        for mount in service.get("volumes", [])
    ]
    assert {mount.removesuffix(":ro").rsplit(":", 1)[1] for mount in mounts} <= set(made)
    assert "USER funnel" in dockerfile
