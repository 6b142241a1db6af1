"""The configuration of a run: one small frozen section a stage, from TOML and from
`stage.field=value`.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from pydantic.fields import FieldInfo

from features.config import CleaningConfig, FeaturesConfig, SplitConfig
from features.errors import InputError
from ranking.config import OffPolicyConfig, PreRankConfig, RankingConfig, ReRankConfig
from recall.config import RecallConfig


class ReportConfig(BaseModel):
    """The report: at which list lengths."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: tuple[PositiveInt, ...] = Field(
        (10, 20, 50, 100, 200),
        description="List lengths, in places, at which metrics are reported; those that lists do "
        "not reach are left "
        "out.",
    )


class FunnelConfig(BaseModel):
    """Everything that can be chosen about a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of all randomness but the sample of users."
    )
    cleaning: CleaningConfig = Field(
        CleaningConfig(), description="Which rows are used, and what counts as a completed watch."
    )
    split: SplitConfig = Field(
        SplitConfig(), description="How the log is cut into history, labels and test window."
    )
    features: FeaturesConfig = Field(FeaturesConfig(), description="How the features read the log.")
    recall: RecallConfig = Field(RecallConfig(), description="How candidates are generated.")
    pre_rank: PreRankConfig = Field(
        PreRankConfig(), description="What happens between recall and ranking."
    )
    ranking: RankingConfig = Field(
        RankingConfig(), description="How candidates are scored and ordered."
    )
    re_rank: ReRankConfig = Field(
        ReRankConfig(), description="How final lists are made varied and allowed."
    )
    report: ReportConfig = Field(ReportConfig(), description="What is reported.")
    off_policy: OffPolicyConfig = Field(
        OffPolicyConfig(), description="How lists that were not shown are evaluated."
    )

    @model_validator(mode="after")
    def _pre_rank_fits_between_recall_and_ranking(self) -> Self:
        keep, most = self.pre_rank.keep, self.recall.k
        wanted = {"ranking.top_k": self.ranking.top_k} | (
            {"re_rank.pool": self.re_rank.pool} if self.re_rank.switches else {}
        )
        least_name = max(wanted, key=lambda name: wanted[name])
        if keep > most:
            raise ValueError(
                f"pre_rank.keep = {keep} is more than recall.k = {most}; keep at most what recall "
                "names"
            )
        if 0 < keep < wanted[least_name]:
            raise ValueError(
                f"pre_rank.keep = {keep} is fewer than {least_name} = {wanted[least_name]} orders; "
                f"keep more, or 0 for no pre-rank"
            )
        return self

    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults, as plain values by `section.field`."""
        defaults = flat(FunnelConfig().model_dump(mode="json"))
        return {
            name: value
            for name, value in flat(self.model_dump(mode="json")).items()
            if value != defaults[name]
        }

    def sections(self, names: Sequence[str]) -> dict[str, Any]:
        """The named sections as plain values, for an artefact's recipe; what they name is there by
        its content.
        """
        values = self.model_dump(mode="json", include=set(names))
        if "re_rank" in values and self.re_rank.exclusions:
            values["re_rank"]["exclusions_content"] = digest_of(Path(self.re_rank.exclusions))
        return values


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of settings as one level, by `section.field`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            {f"{name}.{key}": kept for key, kept in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return found


def config_of(path: Path | None = None, overrides: Sequence[str] = ()) -> FunnelConfig:
    """The defaults, overridden by a TOML file, then by texts `stage.field=value`. InputError where
    one is wrong.
    """
    values = _read(path) if path else {}
    for text in overrides:
        _override(values, text)
    try:
        config = FunnelConfig.model_validate(values)
    except ValidationError as error:
        raise refusal_of(error) from None
    if config.re_rank.exclusions:
        # A missing table is refused before anything is trained.
        digest_of(Path(config.re_rank.exclusions))
    return config


def digest_of(path: Path) -> str:
    """The content of a file as a text; InputError where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"{path}: the table of exclusions cannot be read ({error.strerror}); see "
            "re_rank.exclusions."
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: the configuration cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: this is not TOML ({error}); expected sections such as [recall] with k = 200."
        ) from None


def _override(values: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys) or len(keys) > 2:
        raise InputError(
            f"`{text}` is not an override; expected stage.field=value, as in recall.k=200."
        )
    section = values if len(keys) == 1 else values.setdefault(keys[0], {})
    if not isinstance(section, dict):
        raise InputError(f"`{keys[0]}` is a value, not a section, so `{text}` cannot be set.")
    field = fields_of(keys[0]).get(keys[-1]) if len(keys) == 2 else None
    is_list = field is not None and get_origin(field.annotation) is tuple
    section[keys[-1]] = _parsed(value.strip(), is_list)


def fields_of(section: str) -> dict[str, FieldInfo]:
    """The fields of a section; none where there is no such section."""
    field = FunnelConfig.model_fields.get(section)
    model = field.annotation if field else None
    return model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}


def _parsed(value: str, several: bool) -> Any:
    """Lists as JSON or as values with commas between, null as JSON, the rest as text, read by the
    type of the field.
    """
    if several and not value.startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    if value.startswith("[") or value == "null":
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _what_there_is(keys: Sequence[str]) -> str:
    """The name that is likest, or all that are there."""
    there = fields_of(keys[0]) if len(keys) > 1 else FunnelConfig.model_fields
    near = get_close_matches(keys[-1], there, 1)
    return (
        f"did you mean `{'.'.join([*keys[:-1], near[0]])}`?"
        if near
        else f"there are {', '.join(there)}."
    )


def refusal_of(error: ValidationError) -> InputError:
    """The first thing that is wrong with a configuration, as one sentence."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "configuration"
    if not first["loc"] and first["type"] == "value_error":
        return InputError(f"Configuration: {first['ctx']['error']}.")
    if first["type"] == "extra_forbidden":
        return InputError(
            f"Configuration: there is no `{name}`; "
            f"{_what_there_is([str(part) for part in first['loc']])}"
        )
    return InputError(f"Configuration: {name} = {first['input']!r} is refused: {first['msg']}.")
