"""The YAML that tells what a plant's SQL table of telemetry holds: columns, units, ranges."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from pump_ml.schema import ASSET, COMMISSIONING, PART, RUN, TIME, Sensor
from pump_ml.settings import PACKAGE
from pump_ml.sources.mapping import TimeColumn
from pump_ml.sources.strict import ColumnName, Strict, Text, Unit, load_yaml, names_in

SHIPPED = PACKAGE / "conf" / "plants"


class PlantSensor(Strict):
    """A numeric column; its key in the YAML is its name everywhere after.

    Args:
        column: name in the table; default the sensor's.
        alternatives: columns that stand in for it, the first that fits, where the table has no such column, or nothing
            in it for a machine.
        unit: a unit that pint knows; ``""`` for a pure number.
        description: what is measured, where.
        min: lowest physically plausible reading; the source passes on what is below, preparation counts it as missing.
        max: highest physically plausible reading.
        stops_at: value at which the controller stops the machine to protect it; an alarm looks at what is left to it.
        required: a table without the column is refused; else the readings are missing.
    """

    column: Text | None = None
    alternatives: tuple[Text, ...] = ()
    unit: Unit = ""
    description: str = ""
    min: float
    max: float
    stops_at: float | None = None
    required: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"min {self.min:g} is not below max {self.max:g}")
        return self


class Plant(Strict):
    """A whole mapping of a table.

    Args:
        name: of the data; it begins the names of their snapshots.
        description: what they are, for people.
        table: name of the table or view.
        namespace: schema of the database that holds it; unset, where the connection looks first.
        time: where the time stands, of kind ``timestamp``; its zone is needed where times carry none.
        machine: column with the machine's name.
        sensors: by their names.
        suite: name of the Great Expectations suite.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    description: str = ""
    table: Text
    namespace: Text | None = None
    time: TimeColumn
    machine: Text
    sensors: dict[ColumnName, PlantSensor] = Field(min_length=1)
    suite: Text = "telemetry"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.time.kind != "timestamp" or self.time.format:
            raise ValueError("time: expected kind 'timestamp' without format; a table holds times, or text in ISO 8601")
        if taken := {ASSET, RUN, TIME, COMMISSIONING, PART} & set(self.sensors):
            raise ValueError(f"sensors.{taken.pop()}: the name is taken, choose another")
        claimed: dict[str, str] = {self.time.column: "time.column", self.machine: "machine"}
        for name in self.sensors:
            for column in self.candidates(name):
                if column in claimed:
                    raise ValueError(f"sensors.{name}: column {column!r} is that of {claimed[column]} already")
                claimed[column] = f"sensors.{name}"
        return self

    def candidates(self, sensor: str) -> tuple[str, ...]:
        """Columns that may hold a sensor, the best first."""
        told = self.sensors[sensor]
        return (told.column or sensor, *told.alternatives)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest plausible reading of each sensor."""
        return {name: (told.min, told.max) for name, told in self.sensors.items()}

    @property
    def limits(self) -> dict[str, float]:
        """Where the controller stops the machine, of the sensors that have such a limit."""
        return {name: told.stops_at for name, told in self.sensors.items() if told.stops_at is not None}

    def schema_sensors(self) -> tuple[Sensor, ...]:
        """The sensors as `pump_ml.schema` has them."""
        return tuple(Sensor(name, told.unit, told.description) for name, told in self.sensors.items())


def shipped() -> tuple[str, ...]:
    """Names of the mappings that come with the package."""
    return names_in(SHIPPED)


def load_plant(mapping: str | Path | Plant) -> Plant:
    """Read a mapping.

    Args:
        mapping: name of a shipped one, the path of a ``.yaml`` file, or one that was read before.

    Raises:
        UnknownNameError: no mapping of this name comes with the package.
        ConfigurationError: the file is missing or breaks the schema; every key at fault is named.
    """
    return mapping if isinstance(mapping, Plant) else load_yaml("plant", mapping, SHIPPED, Plant)
