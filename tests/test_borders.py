"""Who may import whom, read from the code itself; and what must not be loaded too early."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A package may import itself and these.
MAY_IMPORT = {
    "features": set(),
    "recall": {"features"},
    "ranking": {"features"},
    "funnel": {"features", "recall", "ranking"},
    "dags": {"features", "recall", "ranking", "funnel"},
}
# Each outside library has one home.
HOMES = {
    "airflow": (
        "dags/",
        "funnel/airflow_form.py",
        "funnel/airflow_plugin.py",
        "funnel/airflow_tasks.py",
    ),
    "mlflow": ("funnel/tracking.py",),
    "tensorflow": ("recall/trainer.py", "ranking/trainer.py"),
    "keras": ("recall/trainer.py", "ranking/trainer.py"),
    "deepmatch": ("recall/trainer.py",),
    "deepctr": ("recall/trainer.py", "ranking/trainer.py"),
    "faiss": ("recall/index.py",),
    "gensim": ("recall/pretraining.py",),
    "numba": ("features/compiled.py", "recall/compiled_loops.py"),
    "sklearn": (),
    "ibis": ("features/",),
    "duckdb": ("features/",),
    "matplotlib": ("funnel/evaluation/plots.py",),
    "sqlalchemy": ("features/data/database.py",),
    "pickle": (),
    "joblib": (),
    "cloudpickle": (),
    "dill": (),
    "marshal": (),
    "shelve": (),
}
HEAVY = (
    *("tensorflow", "keras", "deepctr", "deepmatch", "faiss", "gensim", "numba"),
    *("mlflow", "pandas", "matplotlib", "duckdb", "ibis"),
)
FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, anywhere in it; an import that is relative stays in its
    package.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_package_imports_only_what_lies_below_it(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {module.split(".")[0] for module in imported(path)} & set(MAY_IMPORT)
    assert ours <= MAY_IMPORT[package] | {package}


@pytest.mark.parametrize("library", HOMES)
def test_each_outside_library_has_one_home(library: str) -> None:
    users = {
        place(path)
        for path in FILES
        if library in {module.split(".")[0] for module in imported(path)}
    }
    assert not {user for user in users if not user.startswith(HOMES[library] or ("nowhere",))}


def test_every_home_is_lived_in() -> None:
    for library, homes in HOMES.items():
        for home in homes:
            mine = [path for path in FILES if place(path).startswith(home)]
            assert any(
                library in {module.split(".")[0] for module in imported(path)} for path in mine
            ), (library, home)


def test_nothing_is_ever_unpickled() -> None:
    allowing = [
        place(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and getattr(node.value, "value", True)
    ]
    assert allowing == []


def loaded_by(program: str, home: Path) -> set[str]:
    """The heavy libraries in memory after a program has run in a fresh process."""
    program += (
        f"\nimport sys\nprint('LOADED', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"AIRFLOW_HOME": str(home)},
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("LOADED")[1].split())


def test_the_command_line_loads_nothing_heavy_before_it_works(tmp_path: Path) -> None:
    assert loaded_by("import funnel.cli", tmp_path) == set()


def test_the_packages_load_nothing_heavy_before_a_name_is_asked_for(tmp_path: Path) -> None:
    assert loaded_by("import features, recall, ranking, funnel", tmp_path) == set()
    assert loaded_by("from recall import RecallConfig", tmp_path) == set()


def test_a_dag_file_loads_nothing_heavy_when_it_is_parsed(tmp_path: Path) -> None:
    files = sorted(str(path) for path in (ROOT / "dags").glob("*.py"))
    assert files
    run_all = f"import runpy, airflow.sdk\nfor file in {files!r}: runpy.run_path(file)"
    assert loaded_by(run_all, tmp_path) == loaded_by("import airflow.sdk", tmp_path)
