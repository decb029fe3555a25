"""The twin's motor against rating plates, and its water against tables."""

import numpy as np
import pytest

from pump_ml.twin import liquid
from pump_ml.twin.motor import Motor


def test_vapour_pressure_is_that_of_the_standards_check_values() -> None:
    # IAPWS R7-97, table 35
    kelvin, megapascal = np.array([300.0, 500.0, 600.0]), [0.353658941e-2, 0.263889776e1, 0.123443146e2]
    assert liquid.vapour_pressure_bar(kelvin - 273.15) / 10 == pytest.approx(megapascal, rel=1e-8)


def test_density_is_that_of_the_table() -> None:
    celsius = np.array([0.0, 4.0, 20.0, 50.0, 80.0])
    assert liquid.density_kg_m3(celsius) == pytest.approx([999.84, 999.97, 998.21, 988.04, 971.79], abs=0.02)


def test_an_open_cold_suction_has_about_ten_metres_and_a_boiling_one_none() -> None:
    still = np.zeros(2)
    at = np.array([20.0, 99.974])  # boils at 1 atm
    assert liquid.npsh_available_m(np.full(2, 1.01325), at, still) == pytest.approx([10.11, 0.0], abs=0.02)


@pytest.mark.parametrize(("load", "told"), [(1.0, 0.912), (0.75, 0.918), (0.5, 0.913)])
def test_efficiency_at_part_load_is_that_of_a_rating_plate(load: float, told: float) -> None:
    motor = Motor(11.0, 2)
    shaft = np.array([load * 11.0])
    assert shaft / motor.electrical_kw(shaft) == pytest.approx(told, abs=0.004)


@pytest.mark.parametrize("rated", [4.0, 11.0, 50.0, 200.0])
@pytest.mark.parametrize("poles", [2, 4])
def test_a_running_motor_takes_more_than_it_gives_and_its_current_grows_with_the_load(rated: float, poles: int) -> None:
    motor = Motor(rated, poles)  # type: ignore[arg-type] # pytest hands an int
    shaft = np.linspace(0.0, 1.2 * rated, 50)
    assert (motor.electrical_kw(shaft) > shaft).all()
    assert (np.diff(motor.current_a(shaft)) > 0).all()
    assert 0.25 < motor.current_a(shaft)[0] / motor.current_a(np.array([rated]))[0] < 0.6


def test_the_rated_current_is_that_of_the_plate() -> None:
    # Grundfos NB 65-160/157, 11 kW, 2 poles: 20.8 to 19.8 A at 380 to 415 V
    assert Motor(11.0, 2).current_a(np.array([11.0])) == pytest.approx(20.3, abs=0.3)
