"""Who is forgotten is in no version any more; who left with a moving window is not taken for
erased.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from funnel.forget import forget, forget_erased
from funnel.pipeline import Request
from funnel.run import print_forgotten, run_pipeline
from funnel.store import PURPOSES, ArtefactKey, Manifest, Store
from funnel.tracking import MlflowTracker, client_at

START = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artefacts")


@pytest.fixture
def asked(tmp_path: Path) -> Request:
    return Request(source="canonical", data=str(tmp_path), home=str(tmp_path), run="now")


def table(users: list[int], first_day: int = 0) -> pa.Table:
    days = [START + timedelta(days=first_day + n) for n in range(len(users))]
    return pa.table({"user_id": users, "timestamp": pa.array(days, pa.timestamp("us", "UTC"))})


def log(store: Store, users: list[int], first_day: int = 0, **config: int) -> Manifest:
    rows = table(users, first_day)
    key = ArtefactKey("interactions", config, "code", {"data": f"{users}{first_day}{config}"})
    return store.make(key, lambda out: pq.write_table(rows, out / "interactions.parquet"))


def made_of(store: Store, name: str, *parents: Manifest) -> Manifest:
    contents = {parent.name: parent.content for parent in parents}
    key = ArtefactKey(name, {}, "code", contents)
    return store.make(key, lambda out: writing(out, str(contents)))


def writing(out: Path, text: str) -> None:
    (out / "content.txt").write_text(text)


Held = Callable[[], set[tuple[str, str]]]


@pytest.fixture
def held(store: Store) -> Held:
    return lambda: {
        (path.parent.parent.name, path.parent.name) for path in store.root.rglob("manifest.json")
    }


def key(manifest: Manifest) -> tuple[str, str]:
    return manifest.name, manifest.version


def test_all_that_was_made_of_a_users_rows_goes_and_nothing_else(
    store: Store, held: Held, tmp_path: Path
) -> None:
    with_them, without = log(store, [1, 7, 2]), log(store, [1, 2])
    gone = [with_them, made_of(store, "split", with_them)]
    gone.append(made_of(store, "vocabulary", with_them, gone[-1]))
    gone.append(made_of(store, "towers", gone[-1]))
    kept = [without, made_of(store, "split", without)]
    assert held() == {key(each) for each in gone + kept}
    shown = [tmp_path / purpose / "recommendations.parquet" for purpose in PURPOSES]
    for path in shown:
        path.parent.mkdir()
        pq.write_table(pa.table({"user_id": [1, 7, 7]}), path)
    forgotten = forget(["7"], tmp_path)
    assert held() == {key(each) for each in kept}
    assert [pq.read_table(path)["user_id"].to_pylist() for path in shown] == [[1], [1]]
    assert forgotten.described == (
        "interactions 1, split 1, vocabulary 1, towers 1, evaluation/recommendations.parquet 2, "
        "serving/recommendations.parquet 2"
    )


def test_a_user_of_any_table_of_the_log_is_found(store: Store, held: Held, tmp_path: Path) -> None:
    """Rows that were set aside, and users without interactions, in a table or a folder of days."""
    names = ("rejected.parquet", "users.parquet", "day=2024-05-01/part.parquet")
    for number, name in enumerate(names):

        def write(out: Path, name: str = name) -> None:
            pq.write_table(table([1, 2]), out / "interactions.parquet")
            (out / name).parent.mkdir(exist_ok=True)
            pq.write_table(pa.table({"user_id": ["7", None]}), out / name)

        store.make(ArtefactKey("interactions", {}, "code", {"data": str(number)}), write)
    assert forget(["7"], tmp_path).versions["interactions"] == len(names)
    assert held() == set()


def test_what_nobody_can_tell_to_be_free_of_a_user_goes_too(
    store: Store, held: Held, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished towers, what killed runs left, artefacts of older versions of the code."""
    kept = made_of(store, "towers", log(store, [1, 2]))
    home = store.root / "towers"
    hidden = [
        home / ".parts" / "key",
        home / ".scratch-1",
        home / ".partial-2",
        home / ".parts" / ".k.1",
    ]
    hidden += [tmp_path / ".verify-x", store.root / "ledger"]
    for folder in hidden:
        folder.mkdir(parents=True)
    files = [home / ".evaluation.4711", tmp_path / ".candidates.parquet.4711"]
    for file in (*files, store.root / "ledger" / "evaluation"):
        file.write_text("x")
    print_forgotten(["7"], tmp_path)
    assert [path for path in hidden + files if path.exists()] == []
    assert key(kept) in held()
    assert "Removed, as it may have been: kept for later runs 8." in capsys.readouterr().out


@pytest.mark.slow
def test_copies_in_mlflow_go_with_the_versions_unless_their_data_are_free_of_the_user(
    store: Store, tmp_path: Path
) -> None:
    address = f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}"
    with_them, without = log(store, [1, 7, 2]), log(store, [1, 2])
    data = {
        "with them": with_them.parents["data"],
        "without": without.parents["data"],
        "of a log that is gone": "unknown",
    }
    folders = {}
    for name, digest in data.items():
        tracker = MlflowTracker(address, name)
        tracker.open("recall")
        tracker.log_dataset("recall", "simulated", digest, "/data", {})
        weights = tmp_path / "tower_00.weights.h5"
        weights.write_text("weights")
        tracker.log_file("recall", weights, "towers")
        tracker.log_dict("recall", {}, "manifests/towers.json")
        info = client_at(address).get_run(tracker.open("recall")).info
        folders[name] = Path(info.artifact_uri.removeprefix("file://"))
    # A server keeps files beside its database, and calls the place by another name.
    moved = tmp_path / "mlflow" / "artifacts" / "9" / "run" / "artifacts"
    moved.parent.mkdir(parents=True)
    folders["with them"].rename(moved)
    with closing(sqlite3.connect(tmp_path / "mlflow" / "mlflow.db")) as database:
        database.execute(
            "UPDATE runs SET artifact_uri = 'mlflow-artifacts:/9/run/artifacts' WHERE artifact_uri = ?",
            [folders["with them"].as_uri()],
        )
        database.commit()
    folders["with them"] = moved
    assert forget(["7"], tmp_path).runs == 2
    left = {
        name: sorted(path.name for path in folder.iterdir()) for name, folder in folders.items()
    }
    assert left == {
        "with them": ["manifests"],
        "without": ["manifests", "towers"],
        "of a log that is gone": ["manifests"],
    }


def test_a_version_in_force_is_forgotten_too(store: Store, held: Held, tmp_path: Path) -> None:
    made_of(store, "split", log(store, [1, 7]))
    forget(["7"], tmp_path)
    assert (held(), store.versions()) == (set(), {})


def test_who_is_not_there_is_said_not_to_be(
    store: Store, held: Held, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log(store, [1, 2])
    print_forgotten(["7"], tmp_path)
    assert "nothing here was made of rows of user 7" in " ".join(capsys.readouterr().out.split())
    assert len(held()) == 1


def test_a_folder_without_artefacts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no artefacts here"):
        forget(["7"], tmp_path / "nowhere")


def test_older_versions_of_an_erased_user_go_and_are_told(
    store: Store, held: Held, asked: Request
) -> None:
    old = log(store, [1, 7, 2])
    made_of(store, "split", old)
    kept = [new := log(store, [1, 1, 2]), made_of(store, "split", new)]
    (sentence,) = forget_erased(asked)
    assert sentence.endswith("(interactions 1, split 1).")
    assert held() == {key(each) for each in kept}
    assert forget_erased(asked) == []


def test_a_shared_version_in_force_stays(store: Store, held: Held, asked: Request) -> None:
    """The cut of both logs is one content, so what was made of it is as good as new."""
    old = log(store, [1, 7, 2])
    towers = made_of(store, "towers", made_of(store, "split", old))
    log(store, [1, 1, 2])
    forget_erased(asked)
    assert key(towers) in held()


def test_who_left_with_a_moving_window_is_not_erased(
    store: Store, held: Held, asked: Request
) -> None:
    log(store, [7, 1, 2])
    log(store, [1, 2, 3], first_day=1)
    assert forget_erased(asked) == []
    assert len(held()) == 2


def test_who_was_left_out_by_another_rule_is_not_erased(
    store: Store, held: Held, asked: Request
) -> None:
    log(store, [1, 7, 2])
    log(store, [1, 1, 2], sample=2)
    assert forget_erased(asked) == []
    assert len(held()) == 2


@pytest.mark.slow
def test_after_forgetting_no_table_no_weight_and_no_database_holds_the_user(
    tiny_log: Path, tiny_models: tuple[str, ...], tmp_path: Path
) -> None:
    """A whole run; one user's rows are erased from the log, forgotten in its home, and run again."""
    data, out, user = tmp_path / "data", tmp_path / "out", "a-name-that-is-nowhere-else"
    # Without the truth behind it, which knows users by number.
    shutil.copytree(tiny_log, data, ignore=shutil.ignore_patterns("truth"))
    log = pq.read_table(data / "interactions.parquet")
    ids = pc.cast(log["user_id"], pa.string())
    busiest = pc.value_counts(ids).to_pylist()
    name = max(busiest, key=lambda each: each["counts"])["values"]
    named = {path: renamed(path, name, user) for path in data.glob("*.parquet")}
    for path, rows in named.items():
        pq.write_table(rows, path, compression="none")

    def holders() -> set[str]:
        return {
            str(path.relative_to(out)).split("/")[1 if "artefacts" in path.parts else 0]
            for path in out.rglob("*")
            if path.is_file() and user in text_of(path)
        }

    run_pipeline("canonical", data, out, None, tiny_models, None)
    weights = set(out.rglob("*.h5"))
    assert {"interactions", "vocabulary"} <= holders()
    for path, rows in named.items():
        if "user_id" in rows.column_names:
            pq.write_table(rows.filter(pc.not_equal(rows["user_id"], user)), path)
    print_forgotten([user], out)
    assert holders() == set()
    assert set(out.rglob("*.h5")) == set()
    run_pipeline("canonical", data, out, None, tiny_models, None)
    assert holders() == set()
    assert len(weights) == len(set(out.rglob("*.h5")))


def renamed(path: Path, user: str, name: str) -> pa.Table:
    """A table with ids of users as text, one of them under another name."""
    rows = pq.read_table(path)
    if "user_id" not in rows.column_names:
        return rows
    ids = pc.cast(rows["user_id"], pa.string())
    called = pc.if_else(pc.equal(ids, user), pa.scalar(name), ids)
    return rows.set_column(rows.column_names.index("user_id"), "user_id", called)


def text_of(path: Path) -> str:
    """What a file says, a table as its cells."""
    if path.suffix == ".parquet":
        return str(pq.read_table(path).to_pylist())
    return path.read_bytes().decode(errors="replace")
