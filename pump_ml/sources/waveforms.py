"""Waveforms of a mapping: channels with their units, and the condition indicators that become sensors."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pump_ml.errors import UnknownNameError
from pump_ml.indicators import Array
from pump_ml.schema import Sensor
from pump_ml.sources.indicators import Indicator
from pump_ml.sources.strict import ColumnName, Strict, Text, Unit

logger = logging.getLogger(__name__)

AT_ONCE = 256
"""Waveforms whose indicators are computed together: what is in memory beside them."""


class Channel(Strict):
    """One signal of each waveform; its key in the YAML is its new name, which ends in the unit.

    Args:
        column: name in the file.
        unit: after scaling; ``g`` is gram, the acceleration is ``standard_gravity``.
        scale: units a count.
        subtract_mean: whether each waveform's own mean is taken away: the offset of an accelerometer says nothing.
        description: what is measured, where.
    """

    column: Text
    unit: Unit = ""
    scale: float = 1.0
    subtract_mean: bool = False
    description: str = ""

    def of(self, record: NDArray[Any]) -> NDArray[np.float32]:
        """Values float32 ``(waveforms, samples)`` from what the file holds."""
        values: NDArray[np.float32] = record.astype(np.float32) * np.float32(self.scale)
        if self.subtract_mean:
            values -= values.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        return values


class WaveformColumns(Strict):
    """The waveforms at some of the readings.

    Args:
        rate_hz: samples a second.
        samples: of a waveform; one of another length counts as missing. Default: all have one length, or are refused.
        channels: by their new names.
        indicators: what becomes of them as sensors of the same reading.
    """

    rate_hz: float = Field(gt=0)
    samples: int | None = Field(None, gt=1)
    channels: dict[ColumnName, Channel] = Field(min_length=1)
    indicators: tuple[Indicator, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for place, indicator in enumerate(self.indicators):
            if unknown := [name for name in indicator.channels if name not in self.channels]:
                raise ValueError(f"indicators.{place}: {UnknownNameError('channel', unknown[0], self.channels)}")
            if indicator.kind == "envelope" and (top := max(high for _, high in indicator.bands_hz)) > self.rate_hz / 2:
                raise ValueError(
                    f"indicators.{place}: bands_hz ends at {top:g} Hz, above half the sampling rate, "
                    f"{self.rate_hz / 2:g} Hz"
                )
        names = [sensor.name for sensor in self.sensors()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"indicators: {', '.join(twice[:3])} stands twice; give one of them a prefix")
        return self

    def sensors(self) -> tuple[Sensor, ...]:
        """The indicators as `pump_ml.schema` has them, in the order of `columns`."""
        return tuple(
            Sensor(full, unit, f"{name.replace('_', ' ')} of {channel}")
            for indicator in self.indicators
            for channel in indicator.channels or self.channels
            for name, full, unit in self._named(indicator, channel)
        )

    def _named(self, indicator: Indicator, channel: str) -> Iterator[tuple[str, str, str]]:
        """Name, full name and unit of the columns of an indicator of a channel: ``horizontal_g`` to ``_rms_g``."""
        stem, _, unit = channel.rpartition("_")
        stem, unit = (stem, f"_{unit}") if stem else (channel, "")
        for name in indicator.names:
            full = "_".join(filter(None, (stem, indicator.prefix, name)))
            yield name, full + unit * indicator.has_unit, self.channels[channel].unit * indicator.has_unit

    def stacked(self, records: Mapping[str, NDArray[Any]], where: str) -> NDArray[np.float32]:
        """All channels ``(waveforms, channels, samples)``, from a file's records ``(waveforms, samples)``."""
        columns = [channel.column for channel in self.channels.values()]
        fitting = [self._fitting(records[column], f"{where}: waveforms of column {column!r}") for column in columns]
        return np.stack(
            [channel.of(each) for channel, each in zip(self.channels.values(), fitting, strict=True)], axis=1
        )

    def _fitting(self, record: NDArray[Any], told: str) -> NDArray[Any]:
        """The record of a column, or gaps where it has another length than is stated."""
        found = record.shape[1]
        if self.samples is None or self.samples == found:
            return record
        logger.warning("%s have %d samples, not %d, and count as missing", told, found, self.samples)
        return np.full((len(record), self.samples), np.nan, dtype=np.float32)

    def columns(self, waves: NDArray[np.float32], readings: pd.DataFrame) -> pd.DataFrame:
        """The indicators of waveforms ``(waveforms, channels, samples)``, float64; NaN where one cannot be computed.

        `readings` are those that they were taken at. A waveform that is flat or has a gap says nothing: all its
        indicators are NaN, and validation quarantines the reading.
        """
        names = [sensor.name for sensor in self.sensors()]
        found = np.full((len(waves), len(names)), np.nan)
        places = {channel: place for place, channel in enumerate(self.channels)}
        for start in range(0, len(waves), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            at = 0
            for indicator in self.indicators:
                shaft_hz = _shaft_hz(indicator.speed, readings.iloc[some])
                for channel in indicator.channels or self.channels:
                    values = _telling(waves[some, places[channel]])
                    with np.errstate(divide="ignore", invalid="ignore"):
                        numbers = indicator.of(values, self.rate_hz, shaft_hz)
                    found[some, at : at + numbers.shape[1]] = np.where(np.isfinite(numbers), numbers, np.nan)
                    at += numbers.shape[1]
        return pd.DataFrame(found, columns=names, index=readings.index)


def _telling(waves: NDArray[np.float32]) -> Array:
    """The waveforms as float64, NaN throughout where one is flat or has a gap: rounding would make numbers of it."""
    telling = np.isfinite(waves).all(axis=1) & (waves != waves[:, :1]).any(axis=1)
    return np.where(telling[:, None], waves.astype(np.float64), np.nan)


def _shaft_hz(speed: str | float | None, readings: pd.DataFrame) -> Array:
    """Revolutions a second at each reading."""
    if isinstance(speed, str):
        found: Array = readings[speed].to_numpy(dtype=np.float64) / 60
        return found
    return np.full(len(readings), np.nan if speed is None else speed / 60)
