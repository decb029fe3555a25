"""The frame that everybody passes: columns, their units, and the rows' keys."""

import re
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd
import pint
from numpy.typing import NDArray

from pump_ml.errors import ConfigurationError, DataError

ASSET = "asset_id"
"""Name of the pump (str). The unit of every split but one by time."""
RUN = "run_id"
"""One uninterrupted stretch of readings of an asset (str); no window spans two runs."""
TIME = "time"
"""When: a UTC timestamp (datetime64[us, UTC]), or a count of cycles (int64)."""
COMMISSIONING = "commissioning"
"""True for the readings of the asset's first healthy hours, which a model may use as its reference (bool)."""
PART = "part"
"""The data's own division, "train" or "test" (str); absent where the data bring none."""

KEYS = (ASSET, RUN, TIME)

UNITS: pint.UnitRegistry[Any] = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
UNITS.define("m3 = meter ** 3")  # the plain spelling of data sheets: m3/h


@dataclass(frozen=True)
class Sensor:
    """One numeric column of readings (float64).

    Args:
        name: column name, which ends in the unit: ``discharge_pressure_bar``.
        unit: a unit that pint knows, or ``""`` for a pure number.
        description: what is measured, where.

    Raises:
        ConfigurationError: the unit does not exist.
    """

    name: str
    unit: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        check_unit(self.unit, where=f"sensor {self.name!r}")


@dataclass(frozen=True, eq=False)
class Waveforms:
    """Records of many samples each, taken at some of the readings, all at one rate and of one length.

    Args:
        rows: ``asset_id, run_id, time`` of the reading that each was taken at.
        values: float32 ``(waveforms, channels, samples)``, in the channels' units; None where only the usable ones are
            listed, for who asks when they were taken.
        channels: what the second axis of `values` is, such as ``drive_end_g``.
        rate_hz: samples a second.

    Raises:
        DataError: rows, values and channels do not fit together.
    """

    rows: pd.DataFrame
    values: NDArray[np.float32] | None
    channels: tuple[Sensor, ...]
    rate_hz: float

    def __post_init__(self) -> None:
        if self.values is None:
            return
        if self.values.ndim != 3 or self.values.shape[:2] != (len(self.rows), len(self.channels)):
            raise DataError(
                f"waveforms of shape {self.values.shape}; expected ({len(self.rows)}, {len(self.channels)}, samples): "
                f"one for each row and each of the channels {', '.join(each.name for each in self.channels)}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def in_columns(cls, readings: pd.DataFrame, channels: tuple[Sensor, ...], rate_hz: float, samples: int) -> Self:
        """The waveforms that stand in cells of readings, as lists or arrays; a reading without one has an empty cell.

        Raises:
            DataError: a channel is missing, or a waveform has another length than `samples`.
        """
        if missing := [each.name for each in channels if each.name not in readings]:
            raise DataError(
                f"readings lack {', '.join(missing)}, a column of waveforms; expected an array of {samples} samples in "
                "the cells of the readings that one was taken at, and nothing in the others"
            )
        cells = readings[[each.name for each in channels]]
        there = cells.map(np.size).gt(1).all(axis=1).to_numpy()
        waves = [[np.asarray(cell, dtype=np.float32) for cell in row] for row in cells[there].itertuples(index=False)]
        if strange := {wave.size for row in waves for wave in row} - {samples}:
            raise DataError(f"a waveform has {min(strange)} samples, expected {samples} at {rate_hz:g} Hz")
        values = np.array(waves, dtype=np.float32).reshape(len(waves), len(channels), samples)
        return cls(readings.loc[there, list(KEYS)].reset_index(drop=True), values, channels, rate_hz)

    def in_cells(self, readings: pd.DataFrame) -> pd.DataFrame:
        """Readings with the usable waveforms in the cells of a column for each channel, as `in_columns` takes them.

        Raises:
            DataError: only listed, without their values.
        """
        if self.values is None:
            raise DataError("waveforms without their values cannot stand in cells; read them whole")
        kept = self.usable()
        columns = {
            channel.name: pd.Series(list(self.values[kept, place]), dtype=object)
            for place, channel in enumerate(self.channels)
        }
        rows = self.rows.loc[kept, list(KEYS)].reset_index(drop=True)
        return readings.merge(rows.assign(**columns), on=list(KEYS), how="left")

    def usable(self) -> NDArray[np.bool_]:
        """Which are records that say something: finite, not flat, and the only one of their reading."""
        if self.values is None:
            return np.ones(len(self), dtype=np.bool_)
        found = np.array([bool(np.isfinite(each).all() and np.ptp(each, axis=1).all()) for each in self.values], bool)
        found &= ~self.rows.duplicated(list(KEYS), keep=False).to_numpy()
        return found


@dataclass(frozen=True, eq=False)
class Telemetry:
    """What a source gives: readings of many assets, in time order within each run.

    Args:
        readings: columns ``asset_id, run_id, time, commissioning``, maybe ``part``, the sensors and the labels.
        sensors: the columns a model may learn from.
        labels: the columns it may be asked for, never learn from.
        suite: name of the Great Expectations suite that the readings promise to meet.
        origin: source name and parameters, JSON; the same origin gives the same rows.
        waveforms: taken at some of the readings; None where there are none, or where they were not asked for.
    """

    readings: pd.DataFrame
    sensors: tuple[Sensor, ...]
    labels: tuple[str, ...]
    suite: str
    origin: dict[str, Any] = field(default_factory=dict)
    waveforms: Waveforms | None = None


def check_unit(unit: str, *, where: str) -> None:
    """Raise ConfigurationError, naming `where`, when pint does not know `unit`."""
    try:
        UNITS.parse_units(unit)
    except Exception as error:  # pint raises UndefinedUnitError, TokenError, ValueError and more for a bad string
        raise ConfigurationError(
            f"{where}: unit {unit!r} does not exist; expected a unit such as bar, kPa, degC, mm/s, rpm or percent"
        ) from error


def convert(values: pd.Series, unit: str, to: str) -> pd.Series:
    """Values in `unit` given in `to`; temperatures count as absolute ones."""
    if unit == to:
        return values
    quantity = UNITS.Quantity(values.to_numpy(dtype=float), unit).to(to)
    return pd.Series(quantity.magnitude, index=values.index, name=values.name)


def natural(name: str) -> list[Any]:
    """Sort key in which ``unit-2`` stands before ``unit-10``."""
    return [int(piece) if odd % 2 else piece for odd, piece in enumerate(re.split(r"(\d+)", name))]
