"""The characteristic curves of a pump type: head, shaft power and NPSH3 against flow and speed.

Each curve is a polynomial through the rated point. Power is modelled and efficiency follows from it, so that a pump
against a closed valve takes power and has no efficiency, as real ones do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pump_ml.twin.hydraulics import GRAVITY_M_S2, WATER_KG_M3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """A pump's curves at rated speed; other speeds follow by the affinity laws (ISO 9906).

    With ``x`` the flow over rated flow, at rated speed::

        head  / head_m   = 1 + h2 (1 - x²) + h3 (1 - x³)
        power / power_kw = 1 + p1 (1 - x)  + p2 (1 - x²)
        npsh3 / npsh3_m  = 1 + n2 (1 - x²) + n3 (1 - x³)

    The forms are the twin's choice: flat at shut-off as a stable curve is, and within 1.3 % of the head and 4.5 % of
    the shaft power in the tables of the data sheets that ship (`fit`).

    Args:
        flow_m3_h: rated flow.
        head_m: rated head.
        power_kw: shaft power at the rated point.
        speed_rpm: rated speed.
        head_shape: ``h2, h3``.
        power_shape: ``p1, p2``.
        npsh3_m: NPSH3 at the rated point; None where it is not known.
        npsh3_shape: ``n2, n3``.
        density_kg_m3: of the liquid that the power is for.
    """

    flow_m3_h: float
    head_m: float
    power_kw: float
    speed_rpm: float
    head_shape: tuple[float, float]
    power_shape: tuple[float, float]
    npsh3_m: float | None = None
    npsh3_shape: tuple[float, float] = (0.0, 0.0)
    density_kg_m3: float = WATER_KG_M3

    def head(self, flow_m3_h: Array, speed: Array) -> Array:
        """Head in m.

        Args:
            flow_m3_h: flow, not negative.
            speed: speed over rated speed, above 0; head goes with its square at the same ``flow / speed``.
        """
        x = flow_m3_h / (self.flow_m3_h * speed)
        h2, h3 = self.head_shape
        result: Array = self.head_m * speed**2 * (1 + h2 * (1 - x**2) + h3 * (1 - x**3))
        return result

    def shaft_power(self, flow_m3_h: Array, speed: Array, density_kg_m3: float | None = None) -> Array:
        """Shaft power in kW; it goes with the cube of the speed, and with the liquid's density."""
        x = flow_m3_h / (self.flow_m3_h * speed)
        p1, p2 = self.power_shape
        heavier = (density_kg_m3 or self.density_kg_m3) / self.density_kg_m3
        result: Array = self.power_kw * heavier * speed**3 * (1 + p1 * (1 - x) + p2 * (1 - x**2))
        return result

    def npsh3(self, flow_m3_h: Array, speed: Array) -> Array:
        """Net positive suction head in m at which the head has fallen by 3 % (ISO 9906); with the speed squared.

        Raises:
            ValueError: it is not known for this type.
        """
        if self.npsh3_m is None:
            raise ValueError("this pump type has no NPSH3")
        x = flow_m3_h / (self.flow_m3_h * speed)
        n2, n3 = self.npsh3_shape
        result: Array = self.npsh3_m * speed**2 * (1 + n2 * (1 - x**2) + n3 * (1 - x**3))
        return result

    def efficiency(self, flow_m3_h: Array, speed: Array) -> Array:
        """Pump efficiency: hydraulic over shaft power, 0 at no flow."""
        return hydraulic_power_kw(flow_m3_h, self.head(flow_m3_h, speed), self.density_kg_m3) / self.shaft_power(
            flow_m3_h, speed
        )


def hydraulic_power_kw(flow_m3_h: Array, head_m: Array, density_kg_m3: float = WATER_KG_M3) -> Array:
    """Power that the liquid takes up, ``rho g Q H``, in kW."""
    result: Array = density_kg_m3 * GRAVITY_M_S2 * flow_m3_h / 3600.0 * head_m / 1000.0
    return result


def fit(x: Sequence[float] | Array, ratio: Sequence[float] | Array, powers: tuple[int, int]) -> tuple[float, float]:
    """The two shape numbers of a curve through the rated point that come nearest to a table, by least squares.

    Args:
        x: flow over rated flow of each row, two rows at least, none of them the rated point.
        ratio: the curve's value over its rated value.
        powers: the exponents of ``x`` in the two terms: 2 and 3 for head and NPSH3, 1 and 2 for power.
    """
    at, value = np.asarray(x, dtype=float), np.asarray(ratio, dtype=float)
    terms = np.stack([1 - at ** powers[0], 1 - at ** powers[1]], axis=1)
    found, *_ = np.linalg.lstsq(terms, value - 1, rcond=None)
    return float(found[0]), float(found[1])
