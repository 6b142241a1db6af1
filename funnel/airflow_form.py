"""The form of the DAG `ingest`: its fields (Params) and what they say in the words of the
configuration.

A field of a setting has the bounds, the default and the description of that setting, and the form
and REST refuse what breaks them, by the field's name. WATCHFUNNEL_SOURCE, WATCHFUNNEL_DATA,
WATCHFUNNEL_SPLIT_MODE and WATCHFUNNEL_OVERRIDES are what the fields propose, and so what the
nightly run takes.
"""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from features.errors import InputError
from funnel.config import FunnelConfig, config_of, fields_of

if TYPE_CHECKING:
    from airflow.sdk import Param

Json = dict[str, Any]

SOURCES = (
    *("canonical", "globo", "kuairand", "kuairec", "movielens", "news", "recbole", "simulated"),
)
DATA, EVALUATION, TRAINING, LISTS, MORE = "Data", "Evaluation", "Training", "Lists", "More"
# Field of the form: its section, and the setting that it stands for.
SETTINGS = {
    "sample_users": (DATA, "cleaning.sample_users"),
    "last_days": (DATA, "cleaning.last_days"),
    "split_mode": (EVALUATION, "split.mode"),
    "test_start": (EVALUATION, "split.test_start"),
    "seed": (TRAINING, "seed"),
    "recall_dim": (TRAINING, "recall.dim"),
    "recall_epochs": (TRAINING, "recall.epochs"),
    "ranking_epochs": (TRAINING, "ranking.epochs"),
    "recall_k": (LISTS, "recall.k"),
    "ranking_top_k": (LISTS, "ranking.top_k"),
}
FIELDS = ("source", "data", *SETTINGS, "overrides")
# What the shape of a text in `overrides` must be; whether there is such a setting the run says.
OVERRIDE = r"^[a-z_]+(\.[a-z_]+)*=.+$"


def form(environment: Mapping[str, str] = os.environ) -> dict[str, "Param"]:
    """The Params by name, in the order of the form."""
    from airflow.sdk import Param

    proposed, further = _proposed(environment)
    settings = {
        name: Param(
            proposed.get(name, _default(setting)),
            title=setting,
            description=_field(setting).description,
            section=section,
            **_schema(setting),
        )
        for name, (section, setting) in SETTINGS.items()
    }
    source = Param(
        environment.get("WATCHFUNNEL_SOURCE") or "canonical",
        title="layout of the data",
        description="How the files of the log are laid out; `docs/data.md` describes each.",
        section=DATA,
        type="string",
        enum=list(SOURCES),
    )
    data = Param(
        environment.get("WATCHFUNNEL_DATA", ""),
        title="folder of the data",
        description="Where the log lies, as the workers see it, or the address of a database.",
        section=DATA,
        type="string",
    )
    overrides = Param(
        further,
        title="further settings",
        description="One a line, each as stage.field=value, such as `recall.negatives=2048`; they "
        "win over the fields above.",
        section=MORE,
        type=["null", "array"],
        items={"type": "string", "pattern": OVERRIDE},
    )
    return {"source": source, "data": data} | settings | {"overrides": overrides}


def overrides_of(params: Mapping[str, Any]) -> list[str]:
    """What the fields say as overrides of the configuration, the field `overrides` last."""
    fields = [
        f"{setting}={params[name]}"
        for name, (_, setting) in SETTINGS.items()
        if params.get(name) is not None
    ]
    return fields + list(params.get("overrides") or [])


def require_settings(params: Mapping[str, Any]) -> None:
    """InputError, with the fields to look at, where there is no such field, or the configuration
    refuses what one says.
    """
    unknown = sorted(set(params) - set(FIELDS))
    if unknown:
        near = get_close_matches(unknown[0], FIELDS, 1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(FIELDS)}."
        raise InputError(f"There is no field `{unknown[0]}` on the form; {hint}")
    try:
        config_of(None, overrides_of(params))
    except InputError as refusal:
        named = [
            f"`{name}`"
            for name, (_, setting) in SETTINGS.items()
            if re.search(rf"\b{setting}\b", str(refusal))
        ]
        fields = " and ".join([*named, "`overrides`"])
        raise InputError(
            f"{refusal} See the field{'s' if named else ''} {fields} of the form."
        ) from None


def in_words_of_the_form(sentence: str) -> str:
    """A sentence with the field of the form in place of the option of the command line."""
    return re.sub(r"--(data|source)\b", r"the field `\1` of the form", sentence)


def _proposed(environment: Mapping[str, str]) -> tuple[Json, list[str]]:
    """What the environment chooses: by field, and the overrides that no field stands for."""
    texts = environment.get("WATCHFUNNEL_OVERRIDES", "").split()
    if environment.get("WATCHFUNNEL_SPLIT_MODE"):
        texts.insert(0, f"split.mode={environment['WATCHFUNNEL_SPLIT_MODE']}")
    names = {setting: name for name, (_, setting) in SETTINGS.items()}
    chosen: Json = {}
    further = []
    for text in texts:
        setting, _, value = text.partition("=")
        try:
            parsed = _adapter(setting).validate_python(value) if setting in names else None
        except ValidationError:
            # The run refuses it by name; a form without fields would say nothing.
            parsed = None
        if parsed is None:
            further.append(text)
        else:
            chosen[names[setting]] = TypeAdapter(Any).dump_python(parsed, mode="json")
    return chosen, further


def _field(setting: str) -> FieldInfo:
    section, _, name = setting.rpartition(".")
    return fields_of(section)[name] if section else FunnelConfig.model_fields[name]


def _default(setting: str) -> Any:
    return TypeAdapter(Any).dump_python(_field(setting).default, mode="json")


def _adapter(setting: str) -> TypeAdapter[Any]:
    field = _field(setting)
    annotated: Any = Annotated[field.annotation, field]
    return TypeAdapter(annotated)


def _schema(setting: str) -> Json:
    """The JSON schema of a setting, as Airflow's form reads it: a value that may be missing is of
    the types `null` and its own.
    """
    schema = _adapter(setting).json_schema()
    kept = {
        name: value
        for name, value in schema.items()
        if name not in ("title", "description", "default", "anyOf")
    }
    if "anyOf" in schema:
        (own,) = (each for each in schema["anyOf"] if each["type"] != "null")
        kept |= own | {"type": ["null", own["type"]]}
    return kept
