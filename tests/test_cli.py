"""The command `funnel`: its exit codes, and one sentence on standard error where the input is
wrong.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from funnel import cli as command_line
from funnel.maintenance.chores import CHORES

pytestmark = pytest.mark.slow

COMMANDS = [
    command.callback.__name__
    for command in command_line.app.registered_commands
    if command.callback
]
LOG = "user_id,item_id,timestamp,clicked,watch_seconds\n" + "".join(
    f"{user},{item},2024-05-{1 + (user + item) % 20:02d}T00:00:00Z,1,{item + 10}\n"
    for user in range(5)
    for item in range(8)
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    (place / "interactions.csv").write_text(LOG)
    return place


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


class Said:
    """What a command came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Shell:
    """Runs the entry point in this process with the arguments of a command line."""

    def __init__(self, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self._patch, self._captured = patch, captured

    def __call__(self, *arguments: str | Path) -> Said:
        self._patch.setattr(sys, "argv", ["funnel", *map(str, arguments)])
        code = _exit_code_of(command_line.main)
        said = self._captured.readouterr()
        return Said(code, said.out, said.err)

    def run(self, data: Path, out: Path, *options: str | Path, source: str = "canonical") -> Said:
        """`funnel run` on a folder's log, with further options."""
        return self("run", "--source", source, "--data", data, "--out", out, *options)


def _exit_code_of(program: Callable[[], None]) -> int:
    try:
        program()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def funnel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def refused(said: Said, words: str) -> bool:
    """Exit code 2 and exactly one line on standard error, which holds the words."""
    assert (said.code, said.err.count("\n"), "Traceback" in said.err) == (2, 1, False), said.err
    assert said.err.startswith(("InputError: ", "NotReady: "))
    assert words in said.err, said.err
    return True


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(funnel: Shell, command: str) -> None:
    said = funnel(command, "--help")
    assert said.code == 0
    assert "Usage: funnel" in said.out


def test_the_installed_command_lists_all_commands() -> None:
    program = Path(sys.executable).parent / "funnel"
    done = subprocess.run([program, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


def test_an_unknown_command_or_option_is_bad_input(funnel: Shell) -> None:
    assert funnel("fly").code == 2
    assert funnel("run", "--sauce", "canonical").code == 2
    assert funnel("run", "--source", "canonical").code == 2


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("recall.kk=3", "there is no `recall.kk`"),
        ("recall.k=-1", "recall.k = '-1' is refused"),
        ("recall.k", "is not an override"),
        ("split.mode=random", "split.mode"),
        ("split.test_start=soon", "split.test_start"),
        ("recall.depth=7", "recall.depth = '7' is refused"),
        ("recall.sampler=nonsense", "recall.sampler = 'nonsense' is refused"),
        ("recall.learning_rate=0", "recall.learning_rate = '0' is refused"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_written(
    funnel: Shell, data: Path, tmp_path: Path, setting: str, words: str
) -> None:
    said = funnel.run(data, tmp_path / "out", "--set", setting)
    assert refused(said, words)
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_refused(funnel: Shell, tmp_path: Path) -> None:
    said = funnel.run(tmp_path / "nowhere", tmp_path / "out")
    assert refused(said, "there is no such folder")
    assert not (tmp_path / "out").exists()


def test_a_missing_configuration_is_refused(funnel: Shell, data: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.toml"
    said = funnel.run(data, tmp_path / "out", "--config", nowhere)
    assert refused(said, "nowhere.toml: the configuration cannot be read")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "split.test_start=2030-01-01",
            "split.test_start = 2030-01-01T00:00:00Z lies outside the log",
        ),
        (
            "split.test_start=2001-01-01",
            "split.test_start = 2001-01-01T00:00:00Z lies outside the log",
        ),
        ("split.label_start=2024-05-11T22:00:00", "does not lie after split.label_start"),
        ("cleaning.min_history=99", "no interaction is left after cleaning"),
        ("features.clock=order", 'split.mode = "time" needs features.clock = "time"'),
    ],
)
def test_a_setting_that_the_log_does_not_bear_is_refused(
    funnel: Shell, data: Path, tmp_path: Path, tracking: str, setting: str, words: str
) -> None:
    out = tmp_path / "out"
    assert refused(funnel.run(data, out, "--tracking", tracking, "--set", setting), words)
    assert not list(out.glob("*.*"))
    assert not list(out.glob("artefacts/split/*"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("user_id,item_id\n1,2\n", "timestamp"),
        ("user_id,item_id,timestamp\n", "interactions.csv"),
        (
            "user_id,item_id,timestamp\n1,2,never\n",
            "interactions.csv, column timestamp: row 1 holds 'never'",
        ),
    ],
)
def test_a_faulty_log_is_refused_with_file_column_and_value(
    funnel: Shell, data: Path, tmp_path: Path, tracking: str, content: str, words: str
) -> None:
    (data / "interactions.csv").write_text(content)
    out = tmp_path / "out"
    said = funnel.run(data, out, "--tracking", tracking)
    assert refused(said, words)
    assert not list(out.glob("*.*"))


def test_a_column_called_like_a_feature_is_refused(
    funnel: Shell, data: Path, tmp_path: Path, tracking: str
) -> None:
    (data / "users.csv").write_text("user_id,shown\n0,0.5\n1,1.5\n")
    out = tmp_path / "out"
    said = funnel.run(data, out, "--tracking", tracking)
    assert refused(
        said,
        "The users table has a column shown, and user_shown is a feature that is made of the log",
    )
    assert not list(out.glob("artefacts/profiles/*"))


def test_an_unknown_source_is_refused_with_the_known_ones(
    funnel: Shell, data: Path, tmp_path: Path, tracking: str
) -> None:
    out = tmp_path / "out"
    said = funnel.run(data, out, "--tracking", tracking, source="tiktok")
    assert refused(said, "source 'tiktok' is unknown; choose one of canonical, globo")


def test_a_tracking_address_that_leads_nowhere_is_refused(
    funnel: Shell, data: Path, tmp_path: Path
) -> None:
    said = funnel.run(data, tmp_path / "out", "--tracking", "nowhere")
    assert refused(said, "tracking address nowhere")


def test_the_world_is_simulated_into_a_folder_so_many_impressions_a_day(
    funnel: Shell, tmp_path: Path
) -> None:
    rows = {}
    for days in ("1", "3"):
        said = funnel(
            "simulate", "--out", tmp_path, "--users", "200", "--impressions", "2000", "--days", days
        )
        assert said.code == 0
        rows[days] = pq.read_table(tmp_path / "interactions.parquet").to_pylist()
    assert len(rows["1"]) == pytest.approx(2_000, rel=0.5)
    assert rows["3"][: len(rows["1"])] == rows["1"]
    assert len(rows["3"]) > 2 * len(rows["1"])


def test_a_world_that_cannot_be_is_refused(funnel: Shell, tmp_path: Path) -> None:
    assert refused(funnel("simulate", "--out", tmp_path, "--days", "0"), "days")
    assert not list(tmp_path.iterdir())


def test_a_users_list_is_printed_in_its_order(funnel: Shell, tmp_path: Path) -> None:
    columns = {"user_id": [5, 5, 6], "item_id": [70, 80, 90], "rank": [2, 1, 1]}
    numbers = {"expected_seconds": [12.0, 2.5, 3.0], "chance": [0.001, 0.25, 0.5]}
    table = pa.table(columns | numbers | {"unit": ["seconds"] * 3})
    pq.write_table(table, tmp_path / "recommendations.parquet")
    said = funnel("recommend", "5", "--out", tmp_path)
    assert said.code == 0
    assert said.out.index("80") < said.out.index("70")
    assert "12.00" in said.out
    assert "25.00%" in said.out
    assert "90" not in said.out
    assert refused(funnel("recommend", "7", "--out", tmp_path), "user 7 has no list")


def test_ids_that_look_like_markup_are_printed_as_they_are(funnel: Shell, tmp_path: Path) -> None:
    names = ["[unknown]", "[re:jazz]", "[/b]", "a:heart:b"]
    numbers = {"expected_seconds": [1.0] * 4, "chance": [0.1] * 4, "unit": ["seconds"] * 4}
    table = pa.table({"user_id": ["[u]"] * 4, "item_id": names, "rank": [1, 2, 3, 4]} | numbers)
    pq.write_table(table, tmp_path / "recommendations.parquet")
    said = funnel("recommend", "[u]", "--out", tmp_path)
    assert all(name in said.out for name in names)


def test_lists_that_cannot_be_read_are_refused(funnel: Shell, tmp_path: Path) -> None:
    (tmp_path / "recommendations.parquet").write_text("no Parquet")
    assert refused(funnel("recommend", "5", "--out", tmp_path), "cannot be read")


def test_what_was_never_run_has_no_lists_and_no_report(funnel: Shell, tmp_path: Path) -> None:
    assert refused(funnel("recommend", "5", "--out", tmp_path), "there are no recommendations here")
    assert refused(funnel("report", "--out", tmp_path), "there is no artefact")


def test_a_home_is_maintained_and_a_chore_that_fails_is_exit_code_1(
    funnel: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Databases that the shell knows of belong to somebody else.
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said = funnel("maintain", "--out", tmp_path)
    assert said.code == 0
    assert [line.split(":")[0] for line in said.out.splitlines()] == list(CHORES)
    (tmp_path / "disk.json").write_text("{")
    said = funnel("maintain", "--out", tmp_path)
    assert said.code == 1
    assert "disk: failed. " in said.out
    assert funnel("maintain", "--out", tmp_path / "nowhere").code == 2


@pytest.mark.parametrize(
    "names", [("nothing",), ("recall", "nothing"), ("shared",), ("recall", "cost", "further")]
)
def test_an_unknown_benchmark_is_refused_with_those_there_are(
    funnel: Shell, names: tuple[str, ...]
) -> None:
    said = funnel("bench", *names)
    assert refused(said, f"There is no benchmark `{' '.join(names)}`; there are: ")
    assert "recall ablation, recall cost" in said.err
    assert "shared tables" not in said.err


def test_any_other_fault_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(command_line, "app", broken)
    monkeypatch.setattr(sys, "argv", ["funnel"])
    with pytest.raises(ZeroDivisionError):
        command_line.main()


def test_a_refusal_anywhere_is_exit_code_2(funnel: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(**_: str) -> None:
        raise InputError("the log is empty")

    monkeypatch.setattr(command_line, "app", refusing)
    said = funnel()
    assert (said.code, said.err) == (2, "InputError: the log is empty\n")
