"""Induction motors of class IE3: what they take from the mains for a shaft power."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Nominal full-load efficiency in per cent, 50 Hz, by rated power in kW (IEC 60034-30-1:2014, class IE3; as quoted in
# makers' brochures, the standard itself was not read).
RATED_KW = (4.0, 5.5, 7.5, 11.0, 15.0, 18.5, 22.0, 30.0, 37.0, 45.0, 55.0, 75.0, 90.0, 110.0, 132.0, 160.0, 200.0)
_IE3: dict[int, tuple[float, ...]] = {
    2: (88.1, 89.2, 90.1, 91.2, 91.9, 92.4, 92.7, 93.3, 93.7, 94.0, 94.3, 94.7, 95.0, 95.2, 95.4, 95.6, 95.8),
    4: (88.6, 89.6, 90.4, 91.4, 92.1, 92.6, 93.0, 93.6, 93.9, 94.2, 94.6, 95.0, 95.2, 95.4, 95.6, 95.8, 96.0),
}
FIXED_SHARE = 0.31
"""Share of the full-load losses that does not depend on load (iron, friction, fan). It makes the efficiency flat
between half and full load, as rating plates have it: 91.2, 91.8 and 91.3 % at 4/4, 3/4 and 1/2 of 11 kW."""


@dataclass(frozen=True)
class Motor:
    """A motor by its rating plate.

    Args:
        rated_kw: shaft power; 4 to 200 kW are in the table, beyond it the nearest counts.
        poles: 2 or 4.
        volts: line voltage.
        power_factor: at full load.
    """

    rated_kw: float
    poles: Literal[2, 4]
    volts: float = 400.0
    power_factor: float = 0.86

    @property
    def efficiency(self) -> float:
        """At full load."""
        return float(np.interp(np.log(self.rated_kw), np.log(RATED_KW), _IE3[self.poles])) / 100.0

    def losses_kw(self, shaft_kw: Array) -> Array:
        """What becomes heat in a running motor: a fixed share, and one with the square of the load."""
        full = self.rated_kw * (1.0 / self.efficiency - 1.0)
        result: Array = full * (FIXED_SHARE + (1.0 - FIXED_SHARE) * (shaft_kw / self.rated_kw) ** 2)
        return result

    def electrical_kw(self, shaft_kw: Array) -> Array:
        """Active power from the mains of a running motor, always more than the shaft's."""
        return shaft_kw + self.losses_kw(shaft_kw)

    def current_a(self, shaft_kw: Array) -> Array:
        """Line current: the share of the active power, and a magnetising share at right angles that does not change.

        A simplification of the circle diagram (Heyland, Ossanna); at rated power it gives the rated current.
        """
        per_amp = 3.0**0.5 * self.volts / 1000.0
        full = self.rated_kw / self.efficiency
        magnetising = float(full / self.power_factor * np.sqrt(1.0 - self.power_factor**2))
        result: Array = np.hypot(self.electrical_kw(shaft_kw), magnetising) / per_amp
        return result
