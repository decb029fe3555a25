"""Operating point, power and motor current of a centrifugal pump.

Symbols: ``q`` flow and ``r`` speed, both as a fraction of the rated point. Arrays are float64 of one shape.
"""

import numpy as np
from numpy.typing import NDArray

from pump_ml.twin.hydraulics import GRAVITY_M_S2, WATER_KG_M3

Array = NDArray[np.float64]

SHUTOFF_HEAD = 1.2
"""Head at closed valve over rated head; 1.2 is the twin's choice.

API 610 prefers a head that rises towards shut-off, and for pumps in parallel a rise of at least 10 %.
"""
BAR_PER_M = WATER_KG_M3 * GRAVITY_M_S2 / 1e5
"""Pressure of one metre of water column, bar."""


def head(q: Array, r: Array) -> Array:
    """Pump head over rated head: a parabola through shut-off and the rated point, moved by the affinity laws.

    Affinity laws (ISO 9906, 6.1.2): flow goes with speed, head with its square.
    """
    return SHUTOFF_HEAD * r**2 - (SHUTOFF_HEAD - 1.0) * q**2


def operating_flow(r: Array, static: float, resistance: Array, head_factor: float) -> Array:
    """Flow where the pump curve meets the system curve ``static + resistance * q**2``, as a fraction of rated flow.

    Args:
        r: speed over rated speed.
        static: static head over rated head.
        resistance: friction of the system; ``1 - static`` passes through the rated point.
        head_factor: what a fault leaves of the pump's head, 1 for a new pump.
    """
    drop = head_factor * (SHUTOFF_HEAD - 1.0) + resistance
    return np.sqrt(np.maximum(head_factor * SHUTOFF_HEAD * r**2 - static, 1e-4) / drop)


def efficiency(q: Array, r: Array, best: float) -> Array:
    """Pump efficiency, a parabola with its top at the best-efficiency point: the twin's approximation."""
    load = q / r
    return best * np.clip(2.0 * load - load**2, 0.05, 1.0)


def shaft_power_kw(flow_m3_h: Array, head_m: Array, eta: Array) -> Array:
    """Shaft power ``rho g Q H / eta`` in kW."""
    return WATER_KG_M3 * GRAVITY_M_S2 * flow_m3_h / 3600.0 * head_m / eta / 1000.0


def motor_current_a(power_kw: Array, rated_kw: float, rated_a: float) -> Array:
    """Line current: the load's share and a magnetising share, at right angles; at rated power it is the rated current.

    A simplification of the circle diagram (Heyland, Ossanna). The magnetising share, 0.35 of rated, is an assumption.
    """
    return rated_a * np.sqrt(0.35**2 + (1.0 - 0.35**2) * (power_kw / rated_kw) ** 2)
