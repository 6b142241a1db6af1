"""The configuration: defaults, then the file, then overrides; whatever is wrong is refused by
name.
"""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from features.errors import InputError
from funnel.config import FunnelConfig, config_of


def written(folder: Path, text: str) -> Path:
    path = folder / "funnel.toml"
    path.write_text(text)
    return path


def test_nothing_given_is_the_defaults() -> None:
    config = config_of()
    assert config == FunnelConfig()
    assert (config.split.mode, config.recall.k, config.ranking.top_k, config.seed) == (
        "time",
        200,
        50,
        0,
    )


def test_an_override_beats_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "seed = 3\n[recall]\nk = 100\ndim = 16\n[split]\nmode = 'last'\n")
    config = config_of(path, ["recall.k=50"])
    assert (config.recall.k, config.recall.dim, config.seed, config.split.mode) == (
        50,
        16,
        3,
        "last",
    )
    assert config.ranking == FunnelConfig().ranking


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("split.test_start=2022-04-16T16:00:00Z", datetime(2022, 4, 16, 16, tzinfo=UTC)),
        ("recall.recency_windows=[1, 5]", (1, 5)),
        ("recall.recency_windows=[]", ()),
        ("ranking.chance_weight=null", None),
        ("ranking.powers=false", False),
        ("cleaning.last_days = 2.5", 2.5),
        ("features.clock=order", "order"),
        ("recall.recency_windows=1, 5", (1, 5)),
        ("recall.recency_windows=7", (7,)),
        ("recall.generators=tower,popular", ("tower", "popular")),
    ],
)
def test_an_override_is_read_by_the_type_of_its_field(text: str, value: object) -> None:
    stage, field = text.partition("=")[0].strip().split(".")
    assert getattr(getattr(config_of(None, [text]), stage), field) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recall.kk=3", "there is no `recall.kk`; did you mean `recall.k`?"),
        ("recal.k=3", "there is no `recal`; did you mean `recall`?"),
        ("off_policy.xyz=3", "there are k, temperature, least_effective_sample, random_exposure."),
        ("re_rank.exclusions=nowhere.csv", "nowhere.csv: the table of exclusions cannot be read"),
        ("recall.k=many", "recall.k = 'many' is refused"),
        ("recall.k=0", "recall.k = '0' is refused"),
        ("recall.k=1.5", "recall.k"),
        ("recall.depth=5", "recall.depth = '5' is refused"),
        ("recall.sampler=nonsense", "recall.sampler = 'nonsense' is refused"),
        ("recall.learning_rate=0", "recall.learning_rate = '0' is refused"),
        ("recall.dropout=1", "recall.dropout = '1' is refused"),
        ("recall.hidden=[64]", "there is no `recall.hidden`"),
        ("recall.recency_windows=[64", "recall.recency_windows"),
        ("split.mode=random", "split.mode = 'random' is refused"),
        ("split.test_start=tomorrow", "split.test_start = 'tomorrow' is refused"),
        ("recall.k", "`recall.k` is not an override; expected stage.field=value"),
        ("=3", "is not an override"),
        ("recall..k=3", "is not an override"),
        ("recall.k.deep=3", "is not an override"),
        ("recall=3", "recall"),
    ],
)
def test_a_wrong_override_is_refused_in_one_sentence_that_names_it(text: str, words: str) -> None:
    with pytest.raises(InputError) as refusal:
        config_of(None, [text])
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_value_is_not_a_section() -> None:
    with pytest.raises(InputError, match="`seed` is a value"):
        config_of(None, ["seed=3", "seed.deep=4"])


def test_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InputError, match="min_history 5 is above max_history 2"):
        config_of(None, ["cleaning.min_history=5", "cleaning.max_history=2"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["pre_rank.keep=201"], "pre_rank.keep = 201 is more than recall.k = 200"),
        (
            ["recall.k=2000", "pre_rank.keep=49"],
            "pre_rank.keep = 49 is fewer than ranking.top_k = 50",
        ),
        (
            ["pre_rank.keep=80", "re_rank.diversity=mmr"],
            "pre_rank.keep = 80 is fewer than re_rank.pool = 100",
        ),
    ],
)
def test_a_pre_rank_that_does_not_fit_between_recall_and_ranking_is_refused(
    overrides: list[str], words: str
) -> None:
    with pytest.raises(InputError) as refusal:
        config_of(None, overrides)
    assert str(refusal.value).startswith(f"Configuration: {words}")
    assert "\n" not in str(refusal.value)


def test_a_pre_rank_keeps_from_the_lists_length_to_all_candidates_or_is_off() -> None:
    assert config_of(None, ["ranking.top_k=500"]).pre_rank.keep == 0
    assert config_of(None, ["pre_rank.keep=50"]).pre_rank.keep == 50
    assert config_of(None, ["pre_rank.keep=200"]).pre_rank.keep == 200


@pytest.mark.parametrize("text", ["[recall\nk = 3", "k: 3", "[recall]\nk = 3\nk = 4"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="this is not TOML"):
        config_of(written(tmp_path, text))


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        config_of(tmp_path / "nowhere.toml")
    with pytest.raises(InputError, match="cannot be read"):
        config_of(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"seed = '\xe9'")
    with pytest.raises(InputError, match="this is not TOML"):
        config_of(tmp_path / "latin.toml")


def test_an_unknown_field_in_the_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no `ranking\.depth`"):
        config_of(written(tmp_path, "[ranking]\ndepth = 3\n"))


def test_a_configuration_cannot_be_changed_and_survives_json() -> None:
    config = config_of(
        None, ["split.test_start=2022-04-16T16:00:00Z", "recall.recency_windows=[8]"]
    )
    with pytest.raises(ValidationError):
        config.recall.k = 3  # type: ignore[misc]
    assert FunnelConfig.model_validate_json(config.model_dump_json()) == config


def test_sections_are_plain_values_and_only_those_named() -> None:
    sections = config_of(None, ["recall.recency_windows=[8]"]).sections(["recall", "seed"])
    assert set(sections) == {"recall", "seed"}
    assert sections["recall"]["recency_windows"] == [8]
