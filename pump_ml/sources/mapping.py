"""The YAML that tells which files hold which columns: from a plant's own names to `pump_ml.schema`."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Annotated, Literal, Self
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from pump_ml.errors import UnknownNameError
from pump_ml.schema import ASSET, COMMISSIONING, PART, RUN, TIME, UNITS, Sensor
from pump_ml.settings import PACKAGE
from pump_ml.sources.arrays import Arrays
from pump_ml.sources.strict import ColumnName, Regex, Strict, Text, Unit, groups, load_yaml, names_in
from pump_ml.sources.waveforms import WaveformColumns

SHIPPED = PACKAGE / "conf" / "sources"
DERIVED = {"cycle": ("cycles_to_last_row", "percent_to_last_row"), "timestamp": ("hours_to_last_row",)}
"""What may be derived from each kind of time."""
CellMap = dict[Annotated[str, Field(coerce_numbers_to_str=True)], float]


class Format(Strict):
    """How a file is written.

    Args:
        kind: ``csv`` and ``tsv`` have a header; ``text`` has none and is divided by white space; ``npz`` and ``npy``
            hold arrays.
        columns: names of the columns from left to right, of a ``text`` file, or a ``csv`` or ``tsv`` without header.
        delimiter: what divides the cells of a ``csv`` file; default a comma.
        decimal: the decimal mark.
        encoding: of the text; the default reads UTF-8 with and without a byte-order mark.
    """

    kind: Literal["csv", "tsv", "text", "parquet", "npz", "npy"]
    columns: tuple[Text, ...] = ()
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8-sig"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "text" and not self.columns) or (self.columns and not self.is_text):
            raise ValueError("columns belong to kind 'text', and to csv and tsv whose files have no header")
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

    @property
    def is_text(self) -> bool:
        """True for files of lines and cells."""
        return self.kind in ("csv", "tsv", "text")

    @property
    def is_arrays(self) -> bool:
        """True for files of arrays."""
        return self.kind in ("npz", "npy")


class Files(Strict):
    """Files of one kind.

    Args:
        pattern: shell pattern of the name, in any folder; ``.gz`` at the end of a name does not count.
        name: regular expression that is searched in the name with its folder; its named groups are columns.
        part: the data's own division.
        life_left: pattern of one file with a number per asset, in order of asset: life left after its last row.
    """

    pattern: Text
    name: Regex | None = None
    part: Literal["train", "test"] | None = None
    life_left: Text | None = None


class TimeColumn(Strict):
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


class SensorColumn(Strict):
    """A numeric column, or the time since its run began; its key in the YAML is its new name, which ends in the unit.

    Args:
        column: name in the file.
        map: the reading of each cell, by its text; a cell that is not listed gets none.
        derive: cycles, or hours, since the first row of the run.
        factor: what a derived reading is multiplied by: hours a cycle.
        unit: unit in the file, or of what is derived; ``""`` for a pure number.
        description: what is measured, where.
        convert_to: unit that the readings get; default `unit`.
        min: lowest credible reading, in the final unit; validation quarantines what is below.
        max: highest credible reading, in the final unit.
    """

    column: Text | None = None
    map: CellMap | None = None
    derive: Literal["elapsed"] | None = None
    factor: float | None = None
    unit: Unit = ""
    description: str = ""
    convert_to: Unit | None = None
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.derive) == bool(self.column):
            raise ValueError("a sensor has either 'column' or 'derive'")
        if (self.map and self.derive) or (self.factor is not None and not self.derive):
            raise ValueError("map belongs to a column, factor to 'derive'")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        if not UNITS.Quantity(1.0, self.unit).is_compatible_with(self.final_unit):
            raise ValueError(f"unit {self.unit!r} cannot become {self.convert_to!r}: they measure different things")
        return self

    @property
    def final_unit(self) -> str:
        """Unit of the readings that the source gives."""
        return self.unit if self.convert_to is None else self.convert_to


class Label(Strict):
    """A column that models may be asked for: derived from the time, or taken from a column.

    Args:
        derive: time left to the last row of the run plus the file's life_left, in cycles or hours, or in percent of the
            whole for cycles that count from 0.
        cap: derived labels are cut at it.
        column: name in the file.
        map: the label of each cell, by its text; a cell that is not listed gets none.
        type: ``number`` (float64) or ``class`` (str).
    """

    derive: Literal["cycles_to_last_row", "hours_to_last_row", "percent_to_last_row"] | None = None
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


class CommissioningRule(Strict):
    """The first rows of each asset, in order of the files, that count as commissioning."""

    first: int = Field(gt=0)


class FileMapping(Strict):
    """A whole mapping.

    Args:
        name: of the data; it begins the names of their snapshots.
        description: what they are, for people.
        format: how the files are written.
        arrays: how arrays are rows, of the kinds that hold arrays.
        files: which files, in order; an asset that spans files needs them in order of time.
        asset_id: template over columns, ``{part}`` and ``{stem}``, the file's name without folder and endings.
        run_id: template of an uninterrupted stretch; default the asset.
        time: where the time stands.
        sensors: by their new names.
        waveforms: those taken at readings: arrays with samples, Parquet columns of lists, or text files of which each
            is one waveform and so one reading.
        labels: by their new names.
        commissioning: which rows; default none.
        suite: name of the Great Expectations suite.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    description: str = ""
    format: Format
    arrays: Arrays | None = None
    files: tuple[Files, ...] = Field(min_length=1)
    asset_id: Text
    run_id: Text | None = None
    time: TimeColumn
    sensors: dict[ColumnName, SensorColumn] = Field(default_factory=dict)
    waveforms: WaveformColumns | None = None
    labels: dict[ColumnName, Label] = Field(default_factory=dict)
    commissioning: CommissioningRule | None = None
    suite: Text = "telemetry"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_names()
        self._check_labels()
        self._check_arrays()
        parts = {bool(files.part) for files in self.files}
        if len(parts) > 1 or ("part" in set(fields(self.asset_id, self.run_id)) and parts != {True}):
            raise ValueError("files: give a part for each entry; some have one, or a template uses it")
        derived = any(label.derive for label in self.labels.values())
        if any(files.life_left for files in self.files) and (not derived or self.run_id):
            raise ValueError("files: life_left needs a derived label, and counts from the asset's last row: no run_id")
        known = self._known()
        for column, key in self.columns.items() if known else ():
            if column not in known:
                raise ValueError(f"{key}: {UnknownNameError('column', column, known)}")
        return self

    def _check_names(self) -> None:
        """Every column has a name of its own."""
        sensors = [sensor.name for sensor in self.schema_sensors()]
        if not sensors:
            raise ValueError("sensors: expected one or more, or indicators of waveforms")
        keys = {ASSET, RUN, TIME, COMMISSIONING, PART}
        for name in sensors:
            if name in keys or sensors.count(name) > 1:
                raise ValueError(f"sensors.{name}: the name is taken, choose another")
        for name in self.labels.keys() & {*sensors, *keys}:
            raise ValueError(f"labels.{name}: the name is taken, choose another")
        from_names = groups(*(files.name for files in self.files))
        if taken := {"part", "stem"} & {*from_names, *(self.arrays.known if self.arrays else ())}:
            raise ValueError(f"group {taken.pop()!r}: the name is taken, choose another")

    def _check_labels(self) -> None:
        """No sensor is a label, and labels are derived from the kind of time there is."""
        answers = {label.column: name for name, label in self.labels.items() if label.column}
        for key, column in self._learnt():
            if column in answers:
                raise ValueError(
                    f"{key}: column {column!r} is the label {answers[column]!r}; a model would learn from its answer"
                )
        for name, label in self.labels.items():
            if label.derive and label.derive not in (fit := DERIVED[self.time.kind]):
                raise ValueError(
                    f"labels.{name}: time of kind {self.time.kind!r} derives {' or '.join(map(repr, fit))}"
                )

    def _check_arrays(self) -> None:
        """Arrays, waveforms and the format fit together."""
        if bool(self.arrays) != self.format.is_arrays:
            raise ValueError(f"arrays: kinds npz and npy need them, others have none; kind is {self.format.kind!r}")
        if self.arrays and self.arrays.needs_archive and self.format.kind == "npy":
            raise ValueError("arrays: a npy file is one array; beside, and columns named by an array, need npz")
        if self.arrays and ("sample" in self.arrays.axes) != bool(self.waveforms):
            raise ValueError("arrays.axes: an axis 'sample' needs waveforms, and waveforms of arrays need that axis")
        for indicator in self.waveforms.indicators if self.waveforms else ():
            if isinstance(speed := indicator.speed, str):
                if speed not in self.sensors:
                    raise ValueError(f"waveforms.indicators: {UnknownNameError('sensor', speed, self.sensors)}")
                if self.sensors[speed].derive or self.sensors[speed].final_unit != "rpm":
                    raise ValueError(f"waveforms.indicators: sensor {speed!r} is not in rpm; give it convert_to: rpm")

    def _known(self) -> list[str]:
        """The columns of every file, where the mapping alone says which they are; else none."""
        listed = list(self.format.columns)
        if self.arrays and self.arrays.names_columns:
            listed = list(self.arrays.known)
        return listed and [*listed, *groups(*(files.name for files in self.files))]

    def _learnt(self) -> Iterator[tuple[str, str]]:
        """Key and column of what models learn from."""
        for name, sensor in self.sensors.items():
            if sensor.column:
                yield f"sensors.{name}", sensor.column
        for name, channel in self.waveforms.channels.items() if self.waveforms else ():
            yield f"waveforms.channels.{name}", channel.column

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
        asked |= {column: f"{key}.column" for key, column in self._learnt()}
        return asked | {label.column: f"labels.{name}.column" for name, label in self.labels.items() if label.column}

    @property
    def text_columns(self) -> set[str]:
        """The columns whose cells are names, so that ``NA`` is a name too."""
        classes = {label.column for label in self.labels.values() if label.column and label.is_text}
        mapped = {sensor.column for sensor in self.sensors.values() if sensor.column and sensor.map}
        return classes | mapped | set(fields(self.asset_id, self.run_id))

    @property
    def limits(self) -> dict[str, list[float | None]]:
        """``[min, max]`` of each sensor that has one of them."""
        rules = {name: [sensor.min, sensor.max] for name, sensor in self.sensors.items()}
        return {name: rule for name, rule in rules.items() if rule != [None, None]}

    def schema_sensors(self) -> tuple[Sensor, ...]:
        """The sensors as `pump_ml.schema` has them, and behind them the indicators of waveforms."""
        given = (Sensor(name, sensor.final_unit, sensor.description) for name, sensor in self.sensors.items())
        return (*given, *(self.waveforms.sensors() if self.waveforms else ()))


def fields(*templates: str | None) -> Iterator[str]:
    """Names between the braces of `templates`."""
    for template in templates:
        yield from (field for _, field, _, _ in Formatter().parse(template or "") if field)


def shipped() -> tuple[str, ...]:
    """Names of the mappings that come with the package."""
    return names_in(SHIPPED)


def load_mapping(mapping: str | Path) -> FileMapping:
    """Read a mapping.

    Args:
        mapping: name of a shipped one, or the path of a ``.yaml`` file.

    Raises:
        UnknownNameError: no mapping of this name comes with the package.
        ConfigurationError: the file is missing or breaks the schema; every key at fault is named.
    """
    return load_yaml("mapping", mapping, SHIPPED, FileMapping)
