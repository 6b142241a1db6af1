"""The store: an artefact that exists is up to date, and readers see the old version or the new
one.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from funnel.store import (
    KEPT_VERSIONS,
    MANIFEST,
    MEASURED,
    ArtefactKey,
    Store,
    canonical_json,
    is_linked,
    link,
    publish,
    store_in,
    write_atomically,
)


def artefact_key(
    value: int = 1, name: str = "lists", code: str = "c", **parents: str
) -> ArtefactKey:
    return ArtefactKey(name, {"value": value}, code, parents)


def writer(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.txt").write_text(text)
        pq.write_table(pa.table({"x": [1, 2]}), folder / "b.parquet")

    return write


def refusing(folder: Path) -> None:
    (folder / "half.txt").write_text("half")
    raise InputError("the input is wrong")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artefacts")


def test_an_artefact_is_described_by_a_hash_and_size_and_shape_of_each_file(store: Store) -> None:
    manifest = store.make(artefact_key(parents="p"), writer("hello"))
    assert set(manifest.files) == {"deep/a.txt", "b.parquet"}
    assert manifest.files["deep/a.txt"]["bytes"] == 5
    assert (manifest.files["b.parquet"]["rows"], manifest.files["b.parquet"]["columns"]) == (
        2,
        {"x": "int64"},
    )
    assert (manifest.config, manifest.code, manifest.parents) == (
        {"value": 1},
        "c",
        {"parents": "p"},
    )
    assert store.manifest("lists") == manifest
    assert (store.path("lists") / "deep" / "a.txt").read_text() == "hello"


def test_what_was_measured_is_described_but_no_part_of_the_content(store: Store) -> None:
    def timed(text: str, seconds: str) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            writer(text)(folder)
            (folder / MEASURED).mkdir()
            (folder / MEASURED / "speed.csv").write_text(seconds)

        return write

    slow, fast = (store.make(artefact_key(value), timed("hello", f"{value} s")) for value in (1, 2))
    assert set(slow.files) == {"deep/a.txt", "b.parquet", "measured/speed.csv"}
    assert slow.files != fast.files
    assert (
        slow.content == fast.content != store.make(artefact_key(3), timed("other", "2 s")).content
    )


def test_what_exists_is_not_made_again(store: Store) -> None:
    first = store.make(artefact_key(), writer("once"))
    assert store.holds(artefact_key())
    assert store.make(artefact_key(), refusing) == first


@pytest.mark.parametrize(
    "other",
    [artefact_key(2), artefact_key(name="rows"), artefact_key(code="d"), artefact_key(parent="x")],
    ids=["config", "name", "code", "p"],
)
def test_whatever_determines_an_artefact_makes_another_version(
    store: Store, other: ArtefactKey
) -> None:
    store.make(artefact_key(), writer("one"))
    assert not store.holds(other)
    assert other.version != artefact_key().version


def test_equal_content_has_equal_hashes_whatever_it_was_made_of(store: Store) -> None:
    contents = [
        store.make(artefact_key(value), writer(text)).content
        for value, text in ((1, "a"), (2, "a"), (3, "b"))
    ]
    assert contents[0] == contents[1] != contents[2]


def test_a_refused_step_leaves_the_old_version_in_force_and_the_retry_finishes(
    store: Store,
) -> None:
    old = store.make(artefact_key(1), writer("old"))
    with pytest.raises(InputError, match="the input is wrong"):
        store.make(artefact_key(2), refusing)
    assert store.manifest("lists") == old
    assert not store.holds(artefact_key(2))
    store.make(artefact_key(2), writer("new"))
    assert sorted(path.name for path in store.path("lists").iterdir()) == [
        "b.parquet",
        "deep",
        MANIFEST,
    ]


def test_a_refused_step_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(InputError):
        store.make(artefact_key(), refusing)
    assert list((store.root / "lists").iterdir()) == []


def test_what_an_attempt_left_for_the_next_one_outlives_a_refusal_and_goes_with_the_artefact(
    store: Store,
) -> None:
    scratch = store.scratch(artefact_key())
    assert not scratch.exists()
    scratch.mkdir(parents=True)
    (scratch / "progress").write_text("half way")
    with pytest.raises(InputError):
        store.make(artefact_key(), refusing)
    assert (store.scratch(artefact_key()) / "progress").read_text() == "half way"
    store.make(artefact_key(), writer("whole"))
    assert {path.name for path in (store.root / "lists").iterdir()} == {
        artefact_key().version,
        "evaluation",
    }


def test_another_artefact_never_finds_what_an_attempt_left(store: Store) -> None:
    places = {
        store.scratch(other)
        for other in (
            artefact_key(1),
            artefact_key(2),
            artefact_key(1, code="d"),
            artefact_key(1, name="rows"),
        )
    }
    assert len(places) == 4
    assert store.scratch(artefact_key(1)) == store.scratch(artefact_key(1))


def test_what_was_never_made_is_refused_with_what_to_do(store: Store) -> None:
    with pytest.raises(InputError, match="no artefact `lists`; run the steps before it first"):
        store.path("lists")
    with pytest.raises(InputError, match="no artefact `lists` of version nix"):
        Store(store.root, {"lists": "nix"}).manifest("lists")


def test_a_pinned_version_is_read_until_the_artefact_is_made_anew(store: Store) -> None:
    old, new = (
        store.make(artefact_key(1), writer("old")),
        store.make(artefact_key(2), writer("new")),
    )
    pinned = Store(store.root, {"lists": old.version})
    assert (pinned.manifest("lists"), store.manifest("lists")) == (old, new)
    pinned.make(artefact_key(3), writer("newer"))
    assert pinned.manifest("lists").config == {"value": 3}


def test_a_version_that_was_in_force_again_is_not_the_first_to_go(store: Store) -> None:
    for value in (0, 1, 2):
        store.make(artefact_key(value), writer(str(value)))
    store.make(artefact_key(0), refusing)
    store.make(artefact_key(3), writer("3"))
    assert [value for value in range(4) if store.holds(artefact_key(value))] == [0, 2, 3]


def test_the_newest_few_versions_are_kept_and_the_one_in_force_always(store: Store) -> None:
    for value in range(6):
        store.make(artefact_key(value), writer(str(value)))
    assert (
        len([path for path in (store.root / "lists").iterdir() if path.is_dir()]) == KEPT_VERSIONS
    )
    assert [value for value in range(6) if store.holds(artefact_key(value))] == [3, 4, 5]
    oldest = store.make(artefact_key(3), refusing)
    assert store.manifest("lists") == oldest
    assert store.versions() == {"lists": artefact_key(3).version}


def test_what_is_served_stays_in_force_whatever_is_evaluated_and_the_other_way_round(
    store: Store,
) -> None:
    served = Store(store.root, purpose="serving")
    served.make(artefact_key(1), writer("served"))
    for value in range(2, 8):
        store.make(artefact_key(value), writer(str(value)))
    assert served.manifest("lists").config == {"value": 1}
    assert store.manifest("lists").config == {"value": 7}
    served.make(artefact_key(7), refusing)
    assert served.versions() == store.versions()
    store.remove(store.manifest("lists"))
    assert served.versions() == store.versions() == {}


def test_a_home_is_shown_as_evaluated_or_where_nothing_was_as_served(tmp_path: Path) -> None:
    served = Store(tmp_path / "artefacts", purpose="serving")
    served.make(artefact_key(1), writer("served"))
    assert store_in(tmp_path).manifest("lists").config == {"value": 1}
    Store(tmp_path / "artefacts").make(artefact_key(2), writer("evaluated"))
    assert store_in(tmp_path).manifest("lists").config == {"value": 2}


def test_an_older_run_cannot_undo_what_a_newer_one_has_made(store: Store) -> None:
    older, newer = (
        Store(store.root, run=run, started=started)
        for run, started in (("monday", "2025-01-06T04:00"), ("tuesday", "2025-01-07T04:00"))
    )
    older.make(artefact_key(1), writer("monday"))
    newer.make(artefact_key(2), writer("tuesday"))
    with pytest.raises(InputError, match="run monday is superseded by that of the run tuesday"):
        older.make(artefact_key(1), refusing)
    assert newer.manifest("lists").config == {"value": 2}
    older.make(artefact_key(2), refusing)
    newer.make(artefact_key(1), refusing)
    assert store.manifest("lists").config == {"value": 1}


def test_only_the_version_in_force_is_current(store: Store) -> None:
    for value in (1, 2):
        store.make(artefact_key(value), writer(str(value)))
    assert [store.is_current(artefact_key(value)) for value in (1, 2, 3)] == [False, True, False]


def test_one_run_holds_the_store_at_a_time(store: Store) -> None:
    with (
        store.locked(),
        pytest.raises(InputError, match="another run is writing here"),
        Store(store.root).locked(),
    ):
        pass
    with store.locked():
        pass


def test_a_killed_holder_lets_go(store: Store) -> None:
    store.root.mkdir(parents=True)
    program = (
        "import sys, time, pathlib; from funnel.store import Store\n"
        "with Store(pathlib.Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(store.root)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout as said:
        assert said.readline() == "held\n"
        with pytest.raises(InputError), store.locked():
            pass
        holder.kill()
        holder.wait()
    with store.locked():
        pass


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "current").write_text("old and long")
    write_atomically(tmp_path / "current", b"new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("current", "new")]


def test_a_file_is_published_again_and_again(tmp_path: Path) -> None:
    for text in ("one", "two"):
        source = tmp_path / text
        source.write_text(text)
        for _ in range(2):
            publish(source, tmp_path / "shown.txt")
            assert (tmp_path / "shown.txt").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "shown.txt", "two"]


def test_a_name_points_to_the_file_that_was_linked_last(tmp_path: Path) -> None:
    for folder in ("evaluation", "serving"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lists.txt").write_text(folder)
        assert not is_linked(tmp_path / folder / "lists.txt", tmp_path / "lists.txt")
        for _ in range(2):
            link(tmp_path / folder / "lists.txt", tmp_path / "lists.txt")
            assert (tmp_path / "lists.txt").read_text() == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluation",
        "lists.txt",
        "serving",
    ]


def test_equal_values_are_equal_text() -> None:
    assert canonical_json({"b": 1, "a": (1, 2)}) == canonical_json({"a": [1, 2], "b": 1})
    assert json.loads(canonical_json({"at": Path("x")})) == {"at": "x"}
