"""Evaluation zones of vibration severity for rotodynamic pumps.

ISO 10816-7:2009, table A.1, which covers pumps above 1 kW; ISO 20816-3 leaves them out. The limits are those that
Europump's "Guidelines on Pump Vibration" (2013) quotes; the standard itself was not read.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

LARGE_KW = 200.0
LIMITS_MM_S: dict[tuple[int, bool], tuple[float, float, float]] = {
    (1, False): (2.5, 4.0, 6.6),
    (1, True): (3.5, 5.0, 7.6),
    (2, False): (3.2, 5.1, 8.5),
    (2, True): (4.2, 6.1, 9.5),
}
"""(category, above 200 kW) -> velocity RMS where A meets B, B meets C, and C meets D."""
ZONES = ("A", "B", "C", "D")
"""A: as of a new pump; B: fit for long operation; C: for a limited time; D: does damage."""


def limits_mm_s(power_kw: float, category: Literal[1, 2] = 1) -> tuple[float, float, float]:
    """The three limits of a pump.

    Args:
        power_kw: of the pump.
        category: 1 for pumps that must be reliable or are dangerous to fail, 2 for others.

    Raises:
        ValueError: the standard has no limits for it.
    """
    if category not in (1, 2):
        raise ValueError(f"category {category}: ISO 10816-7 has 1 and 2")
    if not power_kw > 1.0:
        raise ValueError(f"power {power_kw} kW: ISO 10816-7 begins above 1 kW")
    return LIMITS_MM_S[category, power_kw > LARGE_KW]


def zone(velocity_mm_s: NDArray[np.float64], power_kw: float, category: Literal[1, 2] = 1) -> NDArray[np.str_]:
    """Zone of each velocity RMS; a limit itself belongs to the better zone."""
    return np.array(ZONES)[np.searchsorted(limits_mm_s(power_kw, category), velocity_mm_s, side="left")]
