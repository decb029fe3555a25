"""Water: density and vapour pressure between 0 and 100 °C, and the suction head that is available.

Temperatures in °C, pressures in bar absolute.
"""

import numpy as np
from numpy.typing import NDArray

from pump_ml.twin.hydraulics import GRAVITY_M_S2

Array = NDArray[np.float64]

_IF97 = (
    0.11670521452767e4, -0.72421316703206e6, -0.17073846940092e2, 0.12020824702470e5, -0.32325550322333e7,
    0.14915108613530e2, -0.48232657361591e4, 0.40511340542057e6, -0.23855557567849, 0.65017534844798e3,
)  # fmt: skip


def vapour_pressure_bar(temperature_c: Array) -> Array:
    """Saturation pressure of water: the IAPWS industrial formulation 1997 (IAPWS R7-97), equation 30."""
    n1, n2, n3, n4, n5, n6, n7, n8, n9, n10 = _IF97
    kelvin = temperature_c + 273.15
    theta = kelvin + n9 / (kelvin - n10)
    a = theta**2 + n1 * theta + n2
    b = n3 * theta**2 + n4 * theta + n5
    c = n6 * theta**2 + n7 * theta + n8
    result: Array = 10.0 * (2.0 * c / (-b + np.sqrt(b**2 - 4.0 * a * c))) ** 4  # MPa to bar
    return result


def density_kg_m3(temperature_c: Array) -> Array:
    """Density of air-free water at 1 atm (G. S. Kell, J. Chem. Eng. Data 20, 1975, equation 16)."""
    t = temperature_c
    top = 999.83952 + t * (
        16.945176 + t * (-7.9870401e-3 + t * (-46.170461e-6 + t * (105.56302e-9 - 280.54253e-12 * t)))
    )
    result: Array = top / (1.0 + 16.879850e-3 * t)
    return result


def npsh_available_m(suction_bar: Array, temperature_c: Array, velocity_m_s: Array) -> Array:
    """Net positive suction head available in m: total head over vapour pressure at the suction flange (ISO 9906).

    Args:
        suction_bar: absolute pressure at the flange.
        temperature_c: of the liquid there.
        velocity_m_s: of the liquid there.
    """
    over = 1e5 * (suction_bar - vapour_pressure_bar(temperature_c))
    result: Array = over / (density_kg_m3(temperature_c) * GRAVITY_M_S2) + velocity_m_s**2 / (2.0 * GRAVITY_M_S2)
    return result
