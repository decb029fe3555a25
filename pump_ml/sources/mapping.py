"""The YAML that tells which files hold which columns: from a plant's own names to `pump_ml.schema`."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pump_ml.errors import ConfigurationError, UnknownNameError
from pump_ml.schema import ASSET, COMMISSIONING, PART, RUN, TIME, UNITS, Sensor, check_unit
from pump_ml.settings import PACKAGE

SHIPPED = PACKAGE / "conf" / "sources"
ColumnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(UnknownNameError("key", str(key), cls.model_fields))
        return data


class Format(_Strict):
    """How a file is written.

    Args:
        kind: ``csv`` and ``tsv`` have a header; ``text`` has none and is divided by white space.
        columns: names of the columns of a ``text`` file, from left to right.
        delimiter: what divides the cells of a ``csv`` file; default a comma.
        decimal: the decimal mark.
        encoding: of the text; the default reads UTF-8 with and without a byte-order mark.
    """

    kind: Literal["csv", "tsv", "text", "parquet"]
    columns: tuple[Text, ...] = ()
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8-sig"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "text") != bool(self.columns):
            raise ValueError("columns belong to kind 'text', and to no other: its files have no header")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns: a name stands twice in {', '.join(self.columns)}")
        if self.delimiter and self.kind != "csv":
            raise ValueError(f"a delimiter belongs to kind 'csv', not {self.kind!r}")
        if self.kind == "csv" and (self.delimiter or ",") == self.decimal:
            raise ValueError(f"delimiter and decimal are both {self.decimal!r}; state the delimiter, often ';'")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ValueError(f"encoding {self.encoding!r} does not exist; often used: utf-8, cp1252") from None
        return self


class Files(_Strict):
    """Files of one kind.

    Args:
        pattern: shell pattern of the name, in any folder; ``.gz`` at the end of a name does not count.
        part: the data's own division.
        life_left: pattern of one file with a number per asset, in order of asset: life left after its last row.
    """

    pattern: Text
    part: Literal["train", "test"] | None = None
    life_left: Text | None = None


class TimeColumn(_Strict):
    """Where the time stands.

    Args:
        column: name in the file.
        kind: a count of cycles, or a point in time.
        format: strptime format of a timestamp; default ISO 8601.
        timezone: zone of the timestamps that carry none, such as ``UTC``; without it they are refused.
    """

    column: Text
    kind: Literal["cycle", "timestamp"]
    format: Text | None = None
    timezone: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "cycle" and (self.format or self.timezone):
            raise ValueError("format and timezone belong to kind 'timestamp', not 'cycle'")
        if self.timezone and self.timezone not in available_timezones():
            near = get_close_matches(self.timezone, available_timezones(), n=3)
            raise ValueError(f"timezone {self.timezone!r} does not exist; close: {', '.join(near) or 'none'}")
        return self


class SensorColumn(_Strict):
    """A numeric column; its key in the YAML is its new name, which ends in the unit.

    Args:
        column: name in the file.
        unit: unit in the file, ``""`` for a pure number.
        description: what is measured, where.
        convert_to: unit that the readings get; default `unit`.
        min: lowest credible reading, in the final unit; validation quarantines what is below.
        max: highest credible reading, in the final unit.
    """

    column: Text
    unit: str = ""
    description: str = ""
    convert_to: str | None = None
    min: float | None = None
    max: float | None = None

    @field_validator("unit", "convert_to")
    @classmethod
    def _unit_exists(cls, unit: str | None) -> str | None:
        try:
            check_unit(unit or "", where="sensor")
        except ConfigurationError as error:
            words = [word for word in re.findall(r"[^\W\d_]+", unit or "") if word not in UNITS]
            near = [match for word in words for match in get_close_matches(word, dir(UNITS), n=2)]
            raise ValueError(f"{error}; close: {', '.join(near) or 'none'}") from error
        return unit

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        if not UNITS.Quantity(1.0, self.unit).is_compatible_with(self.final_unit):
            raise ValueError(f"unit {self.unit!r} cannot become {self.convert_to!r}: they measure different things")
        return self

    @property
    def final_unit(self) -> str:
        """Unit of the readings that the source gives."""
        return self.unit if self.convert_to is None else self.convert_to


class Label(_Strict):
    """A column that models may be asked for: derived from the time, or taken from a column.

    Args:
        derive: time left to the last row of the run, in cycles or hours, plus the file's life_left.
        cap: derived labels are cut at it.
        column: name in the file.
        map: the label of each cell, by its text; a cell that is not listed gets none.
        type: ``number`` (float64) or ``class`` (str).
    """

    derive: Literal["cycles_to_last_row", "hours_to_last_row"] | None = None
    cap: float | None = Field(None, gt=0)
    column: Text | None = None
    map: dict[Annotated[str, Field(coerce_numbers_to_str=True)], float | str] | None = None
    type: Literal["number", "class"] = "number"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.derive) == bool(self.column):
            raise ValueError("a label has either 'derive' or 'column'")
        if self.derive and (self.map or self.type == "class"):
            raise ValueError("map and type belong to a label that is taken from a column")
        if self.cap and not self.derive:
            raise ValueError("cap belongs to a derived label")
        for cell, value in (self.map or {}).items():
            if (self.type == "class") != isinstance(value, str):
                raise ValueError(f"map.{cell}: {value!r} does not fit type {self.type!r}")
        return self

    @property
    def is_text(self) -> bool:
        """True where the cells are read as text: a class, or looked up in the map."""
        return self.type == "class" or self.map is not None


class CommissioningRule(_Strict):
    """The first rows of each asset, in order of the files, that count as commissioning."""

    first: int = Field(gt=0)


class FileMapping(_Strict):
    """A whole mapping.

    Args:
        name: of the data; it begins the names of their snapshots.
        description: what they are, for people.
        format: how the files are written.
        files: which files, in order; an asset that spans files needs them in order of time.
        asset_id: template over columns, ``{part}`` and ``{stem}``, the file's name without folder and endings.
        run_id: template of an uninterrupted stretch; default the asset.
        time: where the time stands.
        sensors: by their new names.
        labels: by their new names.
        commissioning: which rows; default none.
        suite: name of the Great Expectations suite.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    description: str = ""
    format: Format
    files: tuple[Files, ...] = Field(min_length=1)
    asset_id: Text
    run_id: Text | None = None
    time: TimeColumn
    sensors: dict[ColumnName, SensorColumn] = Field(min_length=1)
    labels: dict[ColumnName, Label] = Field(default_factory=dict)
    commissioning: CommissioningRule | None = None
    suite: Text = "telemetry"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, taken in (("sensors", {ASSET, RUN, TIME, COMMISSIONING, PART}), ("labels", set(self.sensors))):
            for name in getattr(self, key).keys() & (taken | {ASSET, RUN, TIME, COMMISSIONING, PART}):
                raise ValueError(f"{key}.{name}: the name is taken, choose another")
        answers = {label.column: name for name, label in self.labels.items() if label.column}
        for name, sensor in self.sensors.items():
            if sensor.column in answers:
                raise ValueError(
                    f"sensors.{name}: column {sensor.column!r} is the label {answers[sensor.column]!r}; "
                    "a model would learn from its answer"
                )
        units = {"cycle": "cycles_to_last_row", "timestamp": "hours_to_last_row"}
        derived = {name: label.derive for name, label in self.labels.items() if label.derive}
        for name, derive in derived.items():
            if derive != units[self.time.kind]:
                raise ValueError(f"labels.{name}: time of kind {self.time.kind!r} derives {units[self.time.kind]!r}")
        parts = {bool(files.part) for files in self.files}
        if len(parts) > 1 or ("part" in set(fields(self.asset_id, self.run_id)) and parts != {True}):
            raise ValueError("files: give a part for each entry; some have one, or a template uses it")
        if any(files.life_left for files in self.files) and (not derived or self.run_id):
            raise ValueError("files: life_left needs a derived label, and counts from the asset's last row: no run_id")
        for column, key in self.columns.items() if self.format.columns else ():
            if column not in self.format.columns:
                raise ValueError(f"{key}: {UnknownNameError('column', column, self.format.columns)}")
        return self

    @field_validator("asset_id", "run_id")
    @classmethod
    def _plain_template(cls, template: str | None) -> str | None:
        try:
            pieces = list(Formatter().parse(template or ""))
        except ValueError as error:
            raise ValueError(f"template {template!r}: {error}; expected such as '{{part}}-{{unit}}'") from error
        if any(field == "" or spec or conversion for _, field, spec, conversion in pieces):
            raise ValueError(f"template {template!r}: braces hold a column name and nothing else")
        return template

    @property
    def columns(self) -> dict[str, str]:
        """The columns that must stand in a file, each with the key that asks for it."""
        asked = {self.time.column: "time.column"}
        asked |= {field: "asset_id" for field in fields(self.asset_id) if field not in ("part", "stem")}
        asked |= {field: "run_id" for field in fields(self.run_id) if field not in ("part", "stem")}
        asked |= {sensor.column: f"sensors.{name}.column" for name, sensor in self.sensors.items()}
        return asked | {label.column: f"labels.{name}.column" for name, label in self.labels.items() if label.column}

    @property
    def text_columns(self) -> set[str]:
        """The columns whose cells are names, so that ``NA`` is a name too."""
        classes = {label.column for label in self.labels.values() if label.column and label.is_text}
        return classes | set(fields(self.asset_id, self.run_id))

    @property
    def limits(self) -> dict[str, list[float | None]]:
        """``[min, max]`` of each sensor that has one of them."""
        rules = {name: [sensor.min, sensor.max] for name, sensor in self.sensors.items()}
        return {name: rule for name, rule in rules.items() if rule != [None, None]}

    def schema_sensors(self) -> tuple[Sensor, ...]:
        """The sensors as `pump_ml.schema` has them."""
        return tuple(Sensor(name, sensor.final_unit, sensor.description) for name, sensor in self.sensors.items())


def fields(*templates: str | None) -> Iterator[str]:
    """Names between the braces of `templates`."""
    for template in templates:
        yield from (field for _, field, _, _ in Formatter().parse(template or "") if field)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice: of two sensors of one name, YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def shipped() -> tuple[str, ...]:
    """Names of the mappings that come with the package."""
    return tuple(sorted(file.stem for file in SHIPPED.glob("*.yaml")))


def load_mapping(mapping: str | Path) -> FileMapping:
    """Read a mapping.

    Args:
        mapping: name of a shipped one, or the path of a ``.yaml`` file.

    Raises:
        UnknownNameError: no mapping of this name comes with the package.
        ConfigurationError: the file is missing or breaks the schema; every key at fault is named.
    """
    file = Path(mapping).expanduser()
    if file.suffix not in (".yaml", ".yml"):
        if str(mapping) not in shipped():
            raise UnknownNameError("mapping", str(mapping), shipped())
        file = SHIPPED / f"{mapping}.yaml"
    if not file.is_file():
        raise ConfigurationError(
            f"mapping {file.resolve()} does not exist; give the path of a YAML, or a name that ships: "
            f"{', '.join(shipped())}"
        )
    try:
        content = yaml.load(file.read_text("utf-8"), _UniqueKeys)  # noqa: S506 - it is a SafeLoader
        return FileMapping.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"mapping {file} cannot be read: {error}") from error
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc'])) or 'mapping'}: {fault['msg'].removeprefix('Value error, ').rstrip('.')}"
            for fault in error.errors()
        )
        raise ConfigurationError(f"mapping {file}: {'; '.join(faults)}") from error
