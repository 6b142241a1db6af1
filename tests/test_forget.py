"""Who is forgotten is in no version any more; who left with a moving window is not taken for
erased.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from funnel.forget import forget, forget_erased
from funnel.pipeline import Request
from funnel.run import print_forgotten
from funnel.store import PURPOSES, ArtefactKey, Manifest, Store

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
