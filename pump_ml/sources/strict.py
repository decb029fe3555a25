"""What every part of a mapping is made of: frozen models that refuse a key they do not know."""

import re
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pump_ml.errors import ConfigurationError, UnknownNameError
from pump_ml.schema import UNITS, check_unit


class Strict(BaseModel):
    """Part of a mapping."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(UnknownNameError("key", str(key), cls.model_fields))
        return data


def _known_unit(unit: str) -> str:
    try:
        check_unit(unit, where="sensor")
    except ConfigurationError as error:
        words = [word for word in re.findall(r"[^\W\d_]+", unit) if word not in UNITS]
        near = [match for word in words for match in get_close_matches(word, dir(UNITS), n=2)]
        raise ValueError(f"{error}; close: {', '.join(near) or 'none'}") from error
    return unit


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"regular expression {pattern!r}: {error}") from error
    return pattern


ColumnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Text = Annotated[str, Field(min_length=1)]
Unit = Annotated[str, AfterValidator(_known_unit)]
Regex = Annotated[str, Field(min_length=1), AfterValidator(_regex)]


def groups(*patterns: str | None) -> list[str]:
    """Names of the groups of regular expressions."""
    return [name for pattern in patterns if pattern for name in re.compile(pattern).groupindex]
