"""The first version of the twin against the laws it quotes, and its dataset against literal values."""

import numpy as np
import pandas as pd
import pytest

from pump_ml.sources.simulated import LABELS, SimulatedSource
from pump_ml.twin.first import fleet, hydraulics, vibration
from pump_ml.twin.first.degradation import FAULTS, HEALTHY, MODES, SEVERITY_BANDS, FaultMode
from pump_ml.twin.first.instruments import PRESSURE, SPEED, TEMPERATURE, Instrument

ONE = np.ones(1)


def test_the_pump_delivers_its_rated_head_at_its_rated_point_and_more_at_shut_off() -> None:
    assert hydraulics.head(ONE, ONE) == pytest.approx(1.0)
    assert hydraulics.head(0 * ONE, ONE) == pytest.approx(1.2)


@pytest.mark.parametrize("r", [0.5, 0.8, 1.1])
def test_flow_goes_with_speed_and_head_with_its_square(r: float) -> None:
    q = np.linspace(0.2, 1.2, 5)
    assert hydraulics.head(r * q, r * np.ones(5)) == pytest.approx(r**2 * hydraulics.head(q, np.ones(5)))


@pytest.mark.parametrize(("static", "factor"), [(0.2, 1.0), (0.5, 1.0), (0.3, 0.85)])
def test_the_operating_point_lies_on_the_pump_curve_and_on_the_system_curve(static: float, factor: float) -> None:
    r, resistance = np.array([0.8, 0.9, 1.0]), np.array([0.6, 0.8, 1.0])
    q = hydraulics.operating_flow(r, static, resistance, factor)
    assert factor * hydraulics.head(q, r) == pytest.approx(static + resistance * q**2, rel=1e-9)


def test_efficiency_has_its_top_at_the_best_efficiency_point() -> None:
    load = np.linspace(0.1, 1.9, 181)
    eta = hydraulics.efficiency(load, np.ones_like(load), 0.8)
    assert load[eta.argmax()] == pytest.approx(1.0)
    assert eta.max() == pytest.approx(0.8)
    assert (eta > 0).all()


def test_shaft_power_is_that_of_the_textbook() -> None:
    # 100 m3/h of water at 20 degC lifted by 36.7 m at 100 %: close to 10 kW; half the efficiency doubles it.
    power = hydraulics.shaft_power_kw(100 * ONE, 36.7 * ONE, ONE)
    assert power == pytest.approx(998.2 * 9.80665 * 100 / 3600 * 36.7 / 1000)
    assert power == pytest.approx(10.0, abs=0.05)
    assert hydraulics.shaft_power_kw(100 * ONE, 36.7 * ONE, 0.5 * ONE) == pytest.approx(2 * power)


def test_a_motor_draws_rated_current_at_rated_power_and_its_magnetising_current_at_none() -> None:
    assert hydraulics.motor_current_a(75 * ONE, 75.0, 130.0) == pytest.approx(130.0)
    assert hydraulics.motor_current_a(0 * ONE, 75.0, 130.0) == pytest.approx(0.35 * 130.0)


def test_uncorrelated_vibration_adds_in_quadrature() -> None:
    assert vibration.overall(3 * ONE, 4 * ONE) == pytest.approx(5.0)
    assert vibration.order_velocity(3.0, 4.0, 0.5 * ONE) == pytest.approx(5.0 / 4)


def test_flow_induced_vibration_is_least_at_the_best_efficiency_point() -> None:
    load = np.linspace(0.5, 1.5, 101)
    assert load[vibration.off_design(load).argmin()] == pytest.approx(1.0)
    assert vibration.off_design(ONE) == pytest.approx(1.0)
    assert vibration.off_design(0.5 * ONE) == pytest.approx(1.3)


def test_the_modes_have_names_of_their_own() -> None:
    assert MODES[0] == "healthy"
    assert len(set(MODES)) == len(MODES) == 8


def observed(fault: FaultMode, damage: float) -> dict[str, float]:
    """Mean readings; the same seed gives the same pump, the same demand and the same noise at every damage."""
    pump = fleet.draw_pump(np.random.default_rng(3))
    readings = fleet.observe(pump, fault, damage, 240, 60.0, np.random.default_rng(4))
    return {name: float(values.mean()) for name, values in readings.items()}


@pytest.mark.parametrize(
    ("mode", "rising", "falling"),
    [
        pytest.param("bearing_wear", ["bearing_temperature_c", "acceleration_hf_g", "acceleration_kurtosis"], []),
        pytest.param("impeller_wear", ["vibration_1x_mm_s"], ["discharge_pressure_bar", "flow_m3_h"]),
        pytest.param("cavitation", ["vibration_vane_pass_mm_s", "acceleration_hf_g"], ["suction_pressure_bar"]),
        pytest.param("seal_leak", ["seal_leakage_l_h"], []),
        pytest.param("misalignment", ["vibration_2x_mm_s", "bearing_temperature_c"], []),
        pytest.param("imbalance", ["vibration_1x_mm_s", "vibration_rms_mm_s"], []),
        pytest.param("clogging", ["vibration_vane_pass_mm_s", "motor_power_kw"], ["flow_m3_h"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_moves_the_sensors_that_see_it(mode: str, rising: list[str], falling: list[str]) -> None:
    fault = next(each for each in FAULTS if each.name == mode)
    levels = [observed(fault, damage) for damage in (0.0, 0.5, 1.0)]
    for name in rising:
        assert levels[0][name] < levels[1][name] < levels[2][name], name
    for name in falling:
        assert levels[0][name] > levels[1][name] > levels[2][name], name


def test_no_damage_looks_healthy_whatever_the_fault() -> None:
    healthy = observed(HEALTHY, 0.0)
    assert all(observed(fault, 0.0) == healthy for fault in FAULTS)


def test_an_instrument_shows_the_truth_with_its_own_error_noise_and_resolution() -> None:
    true = np.full(20_000, 5.0)
    shown = PRESSURE.read(true, 10.0, (0.0, 0.0), np.random.default_rng(0))
    assert shown.mean() == pytest.approx(5.0, abs=1e-3)
    assert shown.std() == pytest.approx(np.hypot(0.0005 * 10, 0.001 * 5), rel=0.05)
    assert (np.round(shown, 3) == shown).all()
    off = PRESSURE.read(true, 10.0, (2.0, 0.0), np.random.default_rng(0))
    assert (off - shown).mean() == pytest.approx(0.0025 * 10, abs=1e-3)
    assert (SPEED.read(true, 3600.0, (0.0, 0.0), np.random.default_rng(0)) % 1 == 0).all()


def test_an_instrument_shows_nothing_below_zero_except_a_temperature() -> None:
    below = np.full(100, -1.0)
    assert (Instrument().read(below, 1.0, (0.0, 0.0), np.random.default_rng(0)) == 0.0).all()
    assert (TEMPERATURE.read(below, 100.0, (0.0, 0.0), np.random.default_rng(0)) < 0.0).all()


@pytest.fixture(scope="module")
def readings() -> pd.DataFrame:
    return SimulatedSource(pumps=7, samples=8, seed=7).fetch().readings


def test_a_dataset_holds_a_commissioning_record_and_the_samples_of_each_pump(readings: pd.DataFrame) -> None:
    sensors = [sensor.name for sensor, _ in fleet.SENSORS]
    assert list(readings) == ["asset_id", "run_id", "time", "commissioning", *sensors, *LABELS]
    lengths = readings.groupby(["asset_id", "commissioning", "run_id"]).size()
    assert (lengths.xs(True, level="commissioning") == 120).all()
    assert (lengths.xs(False, level="commissioning") == 60).all()
    assert lengths.groupby(level=["asset_id", "commissioning"]).size().tolist() == [8, 1] * 7
    record = readings[readings["commissioning"]]
    assert set(record["mode"]) == {"healthy"}
    assert (record["health_pct"] == 100.0).all()


def test_labels_agree_with_the_damage_that_was_simulated(readings: pd.DataFrame) -> None:
    samples = readings[~readings["commissioning"]].groupby("run_id").last()
    damage = 1 - samples["health_pct"] / 100
    low, high = np.array(SEVERITY_BANDS)[samples["severity"]].T
    assert ((low - 1e-5 <= damage) & (damage <= high + 1e-5)).all()
    assert ((samples["mode"] == "healthy") == (samples["severity"] == 0)).all()
    growth = samples["mode"].map({fault.name: fault.growth for fault in (HEALTHY, *FAULTS)})
    assert samples["rul_pct"].to_numpy() == pytest.approx(100 * (1 - damage ** (1 / growth)), abs=0.05)
    assert sorted(readings["mode"].unique()) == sorted(MODES)


def test_a_pump_does_not_depend_on_the_size_of_its_fleet(readings: pd.DataFrame) -> None:
    few = SimulatedSource(pumps=2, samples=8, seed=7).fetch().readings
    pd.testing.assert_frame_equal(few, readings.head(len(few)))


def test_another_seed_gives_other_pumps_under_other_names(readings: pd.DataFrame) -> None:
    other = SimulatedSource(pumps=7, samples=8, seed=8).fetch().readings
    assert not set(other["asset_id"]) & set(readings["asset_id"])
    assert (other["flow_m3_h"].to_numpy() != readings["flow_m3_h"].to_numpy()).mean() > 0.99


def test_the_dataset_is_the_same_on_every_machine() -> None:
    readings = SimulatedSource(pumps=3, samples=4, seed=7).fetch().readings
    first, last = readings.iloc[0], readings.iloc[-1]
    assert (first["run_id"], first["time"]) == ("v2-s7-p0000/commissioning", pd.Timestamp("2026-01-05T06:00:00Z"))
    assert (first["speed_rpm"], first["flow_m3_h"], first["vibration_rms_mm_s"]) == (2962.0, 292.72, 1.025)
    assert (last["run_id"], last["time"]) == ("v2-s7-p0002/003", pd.Timestamp("2026-02-27T06:59:00Z"))
    assert (last["motor_power_kw"], last["mode"], last["rul_pct"]) == (31.55, "cavitation", 8.435)


@pytest.mark.parametrize("samples", [4, 5, 9, 12])
def test_a_pump_ends_in_its_worst_state_whatever_the_number_of_samples(samples: int) -> None:
    readings = SimulatedSource(pumps=7, samples=samples).fetch().readings
    assert (readings.groupby("asset_id")["severity"].last() == 3).all()
    assert readings.groupby("asset_id")["mode"].last().nunique() == 7
