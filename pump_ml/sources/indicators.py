"""The condition indicators that a mapping may ask for, by name, with their parameters.

To add one: write its formula in `pump_ml.indicators`, then either list it in `STATISTICS`, if it is one number without
parameters, or make a class of it here and put it into `Indicator`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from pump_ml import indicators as formulas
from pump_ml.errors import ConfigurationError
from pump_ml.indicators import Array
from pump_ml.sources.strict import ColumnName, Strict

STATISTICS: Mapping[str, tuple[Callable[[Array], Array], bool]] = {
    "rms": (formulas.rms, True),
    "std": (formulas.std, True),
    "peak": (formulas.peak, True),
    "crest": (formulas.crest, False),
    "kurtosis": (formulas.kurtosis, False),
}
"""Formula, and whether it has the channel's unit."""


class _Indicator(Strict, ABC):
    """What all indicators have.

    Args:
        channels: which waveforms it is taken of; default all.
        prefix: put before its columns' names, to tell two of a kind apart.
    """

    channels: tuple[ColumnName, ...] = ()
    prefix: ColumnName | None = None

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Its columns, without their channel."""

    @property
    def has_unit(self) -> bool:
        """True where its columns have the unit of the channel; else they are pure numbers."""
        return False

    @property
    def speed(self) -> str | float | None:
        """The sensor with the shaft speed, or the speed in rpm; None where it is of no matter."""
        return None

    @abstractmethod
    def of(self, waves: Array, rate_hz: float, shaft_hz: Array) -> Array:
        """Its columns ``(waveforms, names)``.

        Args:
            waves: ``(waveforms, samples)``.
            rate_hz: samples a second.
            shaft_hz: ``(waveforms,)``; NaN where no speed is given.
        """


class Statistic(_Indicator):
    """One number of the samples, or its natural logarithm."""

    kind: Literal["rms", "std", "peak", "crest", "kurtosis"]
    log: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """See `_Indicator`."""
        return (f"log_{self.kind}" if self.log else self.kind,)

    @property
    def has_unit(self) -> bool:
        """See `_Indicator`."""
        return STATISTICS[self.kind][1] and not self.log

    def of(self, waves: Array, rate_hz: float, shaft_hz: Array) -> Array:
        """See `_Indicator`."""
        del rate_hz, shaft_hz
        found = STATISTICS[self.kind][0](waves)[:, None]
        return np.log(found) if self.log else found


class Bands(_Indicator):
    """Logarithm of the mean amplitude in equal bands of the Hann spectrum.

    Args:
        number: how many bands between 0 and half the sampling rate.
    """

    kind: Literal["bands"]
    number: int = Field(gt=0)

    @property
    def names(self) -> tuple[str, ...]:
        """See `_Indicator`."""
        width = len(str(self.number))
        return tuple(f"band_{place:0{width}d}" for place in range(1, self.number + 1))

    def of(self, waves: Array, rate_hz: float, shaft_hz: Array) -> Array:
        """See `_Indicator`."""
        del rate_hz, shaft_hz
        if self.number > waves.shape[1] // 2:
            raise ConfigurationError(
                f"waveforms.indicators: {self.number} bands of waveforms of {waves.shape[1]} samples; expected at most "
                f"{waves.shape[1] // 2}"
            )
        return np.log(formulas.band_amplitudes(waves, self.number))


class Envelope(_Indicator):
    """Logarithm of the envelope's amplitude at orders of the shaft speed over the floor.

    Args:
        orders: multiples of the shaft speed, by the name that the columns get.
        harmonics: of each order, the first included.
        speed_rpm: a sensor in rpm, or the speed itself.
        bands_hz: where resonances are; the mean over them.
        each_band: columns of each band instead, ``LOW_HIGH_ORDER``, for a problem whose training assets choose.
        tolerance: share of an order by which slip may move it.
        floor_orders: from which order to which the floor is taken; default within two orders of each.
        squared: of the squared envelope.
    """

    kind: Literal["envelope"]
    orders: dict[ColumnName, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    harmonics: int = Field(1, gt=0)
    speed_rpm: Annotated[float, Field(gt=0)] | ColumnName
    bands_hz: tuple[tuple[float, float], ...] = Field(min_length=1)
    each_band: bool = False
    tolerance: float = Field(0.015, ge=0, lt=0.5)
    floor_orders: tuple[float, float] | None = None
    squared: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, pairs in (("bands_hz", self.bands_hz), ("floor_orders", (self.floor_orders or (0.0, 1.0),))):
            if bad := [list(pair) for pair in pairs if not 0 <= pair[0] < pair[1]]:
                raise ValueError(f"{key}: {bad[0]}; expected two numbers from 0 up, the lower one first")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """See `_Indicator`."""
        lines = tuple(self.orders)
        if self.harmonics > 1:
            lines = tuple(f"{name}_{harmonic}" for name in lines for harmonic in range(1, self.harmonics + 1))
        if not self.each_band:
            return lines
        return tuple(f"{low:.0f}_{high:.0f}_{line}" for low, high in self.bands_hz for line in lines)

    @property
    def speed(self) -> str | float | None:
        """See `_Indicator`."""
        return self.speed_rpm

    def of(self, waves: Array, rate_hz: float, shaft_hz: Array) -> Array:
        """See `_Indicator`."""
        multiples = np.outer(list(self.orders.values()), np.arange(1, self.harmonics + 1)).reshape(-1)
        logs = [
            np.log(
                formulas.envelope_orders(
                    waves, rate_hz, shaft_hz, multiples, band_hz=band, tolerance=self.tolerance,
                    floor_orders=self.floor_orders, squared=self.squared,
                )
            )
            for band in self.bands_hz
        ]  # fmt: skip
        found: Array = np.concatenate(logs, axis=1) if self.each_band else np.mean(logs, axis=0)
        return found


Indicator = Annotated[Statistic | Bands | Envelope, Field(discriminator="kind")]
