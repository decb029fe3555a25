"""Where a pump works on its curve, and what cavitation takes from it.

Symbols: ``x`` is the flow over rated flow at the pump's speed, ``r`` speed over rated speed; heads are over rated head.
Arrays keep their dtype, so that a fleet's years are worked out in float32.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

GRAVITY_M_S2 = 9.80665
"""Standard gravity, ISO 80000-3."""
WATER_KG_M3 = 998.2
"""Density of water at 20 °C."""
ATMOSPHERE_BAR = 1.01325
INCEPTION = 2.0
"""NPSH available over NPSH3 where cavitation starts: noise and erosion begin long before the head has dropped by 3 %.

Two to four times NPSH3 is usual (Gülich, Centrifugal Pumps, section 6.2; quoted from memory); the twin takes two, and
calls ``INCEPTION * NPSH3`` the NPSH required.
"""


def operating_flow(
    r: Array, static: float, resistance: Array, head_factor: Array | float, head_shape: tuple[float, float]
) -> Array:
    """Flow ``x`` where the pump's curve meets the system curve ``static + resistance * (x r)**2``.

    Newton's method from the answer for a curve without its cubic term; four steps bring the heads together within
    1e-6 of rated head.

    Args:
        r: speed over rated speed, above 0.
        static: static head over rated head.
        resistance: friction of the system at rated flow, over rated head.
        head_factor: what a fault leaves of the pump's head, 1 for a new pump.
        head_shape: ``h2, h3`` of `pump_ml.twin.curves.Curves`.

    Returns:
        ``x``; 0 where the static head is more than the pump gives.
    """
    h2, h3 = head_shape
    over = np.maximum(head_factor * (1.0 + h2 + h3) - static / r**2, 0.0)
    square, cube = head_factor * h2 + resistance, head_factor * h3
    x = np.sqrt(over / np.maximum(square + cube, 1e-3))
    for _ in range(4):
        x = x - (x * x * (square + cube * x) - over) / np.maximum(x * (2.0 * square + 3.0 * cube * x), 1e-6)
    return np.maximum(x, 0.0)


def cavitation(npsh_available_m: Array, npsh3_m: Array) -> Array:
    """How far cavitation has come: 0 until it starts, 1 where the head has dropped by 3 %.

    Args:
        npsh_available_m: of the installation.
        npsh3_m: of the pump at this flow and speed (ISO 9906).
    """
    return np.maximum((INCEPTION - npsh_available_m / npsh3_m) / (INCEPTION - 1.0), 0.0)


def head_after_cavitation(stage: Array) -> Array:
    """What cavitation leaves of the head: 97 % at stage 1, by the definition of NPSH3 (ISO 9906).

    The cube between, so that the head gives way late, is the twin's choice; below 70 % it says no more.
    """
    result: Array = np.maximum(1.0 - 0.03 * stage**3, 0.7)
    return result
