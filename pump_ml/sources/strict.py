"""What every part of a mapping is made of: frozen models, read from YAML, that refuse a key they do not know."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

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


ColumnName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Text = Annotated[str, Field(min_length=1)]
Unit = Annotated[str, AfterValidator(_known_unit)]
Regex = Annotated[str, Field(min_length=1), AfterValidator(_regex)]


def groups(*patterns: str | None) -> list[str]:
    """Names of the groups of regular expressions."""
    return [name for pattern in patterns if pattern for name in re.compile(pattern).groupindex]


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice: of two sensors of one name, YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


Model = TypeVar("Model", bound=Strict)


def names_in(folder: Path) -> tuple[str, ...]:
    """Names of the YAML files of a folder."""
    return tuple(sorted(file.stem for file in folder.glob("*.yaml")))


def load_yaml(kind: str, name: str | Path, shipped: Path, model: type[Model]) -> Model:
    """Read a model from YAML.

    Args:
        kind: what it is, for messages.
        name: of one in `shipped`, or the path of a ``.yaml`` file.
        shipped: folder of those that come with the package.
        model: what it becomes.

    Raises:
        UnknownNameError: none of this name comes with the package.
        ConfigurationError: the file is missing or breaks the schema; every key at fault is named.
    """
    file = Path(name).expanduser()
    if file.suffix not in (".yaml", ".yml"):
        if str(name) not in names_in(shipped):
            raise UnknownNameError(kind, str(name), names_in(shipped))
        file = shipped / f"{name}.yaml"
    if not file.is_file():
        raise ConfigurationError(
            f"{kind} {file.resolve()} does not exist; give the path of a YAML, or a name that ships: "
            f"{', '.join(names_in(shipped))}"
        )
    try:
        content = yaml.load(file.read_text("utf-8"), _UniqueKeys)  # noqa: S506 - it is a SafeLoader
        return model.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{kind} {file} cannot be read: {error}") from error
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc'])) or kind}: {fault['msg'].removeprefix('Value error, ').rstrip('.')}"
            for fault in error.errors()
        )
        raise ConfigurationError(f"{kind} {file}: {'; '.join(faults)}") from error
