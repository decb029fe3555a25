"""Velocity by shaft order and acceleration in the bearing band, as a vibration monitor computes them.

Velocities are RMS in mm/s (ISO 20816-1), acceleration above 1 kHz is RMS in g.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def off_design(load: Array) -> Array:
    """Growth of flow-induced vibration away from the best-efficiency point: 1 there, quadratic in the distance.

    The factor is the twin's choice: 30 % more at ``load`` = 0.5, 4.8 % more at 1.2. Limits of vibration follow the same
    idea, they are wider away from the preferred region (API 610, HI 9.6.4); they state no such formula.
    """
    return 1.0 + 1.2 * (load - 1.0) ** 2


def order_velocity(residual: float, fault: float, r: Array) -> Array:
    """Velocity of one shaft order: residual and fault in quadrature, as phases differ; grows with speed squared."""
    return float(np.hypot(residual, fault)) * r**2


def overall(*components: Array) -> Array:
    """Overall velocity RMS of uncorrelated components (Parseval)."""
    total: Array = np.sqrt(np.sum(np.square(components), axis=0))
    return total
