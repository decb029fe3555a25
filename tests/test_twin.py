"""The physics of the digital twin against the laws it quotes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pump_ml.errors import ConfigurationError
from pump_ml.twin import degradation, duty, fleet, hydraulics, operation, vibration, waveform
from pump_ml.twin.datasets import Fleet, observe
from pump_ml.twin.degradation import FAULTS, HEALTHY, MODES, SEVERITY_BANDS, SEVERITY_FROM, FaultMode
from pump_ml.twin.instruments import IDEAL
from pump_ml.twin.operation import Demand, State, operate

PUMPS = [Fleet("v2", 40, seed=3).pump(number) for number in range(40)]


def steady(pump: fleet.Pump, *, speed: float = 1.0, resistance: float = 1.0, readings: int = 1) -> Demand:
    """One demand that stays, in usual weather; `resistance` is over that of the rated point."""
    ones = np.ones(readings)
    return Demand(
        speed=speed * ones,
        resistance=resistance * (1.0 - pump.site.static_head) * ones,
        ambient_c=pump.site.ambient_c * ones,
        liquid_c=pump.site.liquid_c * ones,
        days=np.zeros(readings),
        step_s=60.0,
    )


def at(pump: fleet.Pump, fault: FaultMode = HEALTHY, damage: float = 0.0, **demand: float) -> State:
    return operate(pump, fault, np.array([damage]), steady(pump, **demand))  # type: ignore[arg-type]


def named(name: str) -> FaultMode:
    return next(fault for fault in FAULTS if fault.name == name)


@pytest.mark.parametrize("pump", PUMPS[:8], ids=lambda pump: f"{pump.type.curves.head_m:.0f}m")
def test_a_new_pump_meets_its_rated_point_in_the_system_it_was_chosen_for(pump: fleet.Pump) -> None:
    state = at(pump)
    assert state.flow_m3_h == pytest.approx(pump.type.curves.flow_m3_h, rel=1e-6)
    assert state.head_m == pytest.approx(pump.type.curves.head_m, rel=1e-6)


@pytest.mark.parametrize("speed", [0.6, 0.7, 0.8, 0.9, 1.0, 1.1])
def test_flow_head_and_power_follow_the_affinity_laws_within_half_a_percent(speed: float) -> None:
    for pump in PUMPS:
        # Without static head a system has one affinity parabola, whatever the speed.
        free = replace(pump, site=replace(pump.site, static_head=0.0, npsh_available_m=100.0))
        one, other = at(free), at(free, speed=speed)
        assert other.flow_m3_h == pytest.approx(speed * one.flow_m3_h, rel=0.005)
        assert other.head_m == pytest.approx(speed**2 * one.head_m, rel=0.005)
        assert other.shaft_kw == pytest.approx(speed**3 * one.shaft_kw, rel=0.005)


@pytest.mark.parametrize(
    ("static", "factor", "speed"), [(0.2, 1.0, 1.0), (0.5, 1.0, 0.8), (0.3, 0.85, 0.9), (0, 1, 0.6)]
)
@pytest.mark.parametrize("shape", [(0.2, 0.05), (0.05, 0.2), (0.25, 0.0)])
def test_the_operating_point_lies_on_the_pump_curve_and_on_the_system_curve(
    static: float, factor: float, speed: float, shape: tuple[float, float]
) -> None:
    resistance = np.array([0.3, 0.6, 1.0, 3.0])
    x = hydraulics.operating_flow(np.full(4, speed), static, resistance, factor, shape)
    pump = factor * (1 + shape[0] * (1 - x**2) + shape[1] * (1 - x**3)) * speed**2
    assert pump == pytest.approx(static + resistance * (x * speed) ** 2, abs=1e-6)


def test_a_pump_that_cannot_lift_to_the_static_head_delivers_nothing() -> None:
    x = hydraulics.operating_flow(np.array([0.5]), 0.5, np.array([0.5]), 1.0, (0.1, 0.1))
    assert x.tolist() == [0.0]


def test_hydraulic_power_stays_below_shaft_power_and_that_below_electrical_power() -> None:
    for number in range(20):
        pump = PUMPS[number]
        for fault in FAULTS:
            demand = duty.calendar(pump, np.arange(24.0 * 14), 3600.0, np.random.default_rng(number))
            damage = np.linspace(0.0, 1.0, 24 * 14, dtype=np.float32)
            state = operate(pump, fault, damage, demand)
            runs = demand.speed > 0
            assert (state.hydraulic_kw[runs] < state.shaft_kw[runs]).all()
            assert (state.shaft_kw[runs] < state.electrical_kw[runs]).all()
            assert (state.hydraulic_kw[runs] >= 0).all()
            for power in (state.hydraulic_kw, state.shaft_kw, state.electrical_kw):
                assert (power[~runs] == 0).all()


def test_the_margin_over_the_npsh_required_is_negative_exactly_where_cavitation_starts() -> None:
    started = 0
    for pump in PUMPS:
        damage = np.linspace(0.0, 1.0, 4001)
        state = operate(pump, named("cavitation"), damage[:, None], steady(pump))
        margin = (state.npsh_available_m - state.npsh_required_m)[:, 0]
        assert np.array_equal(margin < 0, state.cavitation[:, 0] > 0)
        assert np.array_equal(margin < 0, state.levels.cavitation_g[:, 0] > 0)
        started += int((margin < 0).any() and (margin > 0).any())
    assert started == len(PUMPS)


def test_cavitation_ends_a_life_at_the_3_percent_drop_that_defines_npsh3() -> None:
    for pump in PUMPS[:10]:
        whole, gone = at(pump), at(pump, replace(named("cavitation"), efficiency_loss=0.0), 1.0)
        drop = 1 - gone.head_m / (whole.head_m * (gone.flow_m3_h / whole.flow_m3_h) ** 0)
        expected = pump.type.curves.head(gone.flow_m3_h, np.ones(1))
        assert gone.head_m / expected == pytest.approx(0.97, abs=0.01)
        assert drop > 0


def test_no_healthy_pump_cavitates_whatever_it_is_asked() -> None:
    for number, pump in enumerate(PUMPS):
        demand = duty.calendar(pump, np.arange(24.0 * 365), 3600.0, np.random.default_rng(number))
        assert not operate(pump, HEALTHY, np.zeros(1, dtype=np.float32), demand).cavitation.any()


def test_a_pump_that_stands_still_shows_no_flow_no_power_and_cools_to_its_surroundings() -> None:
    pump = PUMPS[0]
    demand = steady(pump, readings=600)
    demand = replace(demand, speed=np.where(np.arange(600) < 60, 1.0, 0.0))
    state = operate(pump, HEALTHY, np.zeros(1), demand)
    for name in ("speed_rpm", "flow_m3_h", "motor_current_a", "motor_power_kw", "oil_pressure_bar"):
        assert state.sensors[name][-1] == 0.0, name
    bearing = state.sensors["bearing_temperature_c"] - pump.site.ambient_c
    assert bearing[60 + 30] / bearing[59] == pytest.approx(np.exp(-31 / 30), rel=0.02)
    assert bearing[-1] < 0.01
    assert state.levels.order_1[-1] == 0.0


@pytest.mark.parametrize(
    ("mode", "rising", "falling"),
    [
        ("bearing_wear", ["bearing_temperature_c", "acceleration_hf_g", "vibration_rms_mm_s"], ["oil_pressure_bar"]),
        ("impeller_wear", ["vibration_1x_mm_s"], ["discharge_pressure_bar", "flow_m3_h"]),
        ("cavitation", [], ["suction_pressure_bar"]),
        ("seal_leak", ["seal_leakage_l_h"], []),
        ("misalignment", ["vibration_2x_mm_s", "bearing_temperature_c"], []),
        ("imbalance", ["vibration_1x_mm_s", "vibration_rms_mm_s"], []),
        ("clogging", ["vibration_vane_pass_mm_s", "motor_power_kw"], ["flow_m3_h"]),
    ],
)
def test_each_fault_moves_the_sensors_that_see_it(mode: str, rising: list[str], falling: list[str]) -> None:
    pump = PUMPS[1]
    levels = []
    for damage in (0.0, 0.5, 1.0):
        state = at(pump, named(mode), damage)
        levels.append({**state.sensors, **vibration.features(state.levels.flat())})
    for name in rising:
        assert levels[0][name] < levels[1][name] < levels[2][name], name
    for name in falling:
        assert levels[0][name] > levels[1][name] > levels[2][name], name


def test_late_cavitation_is_heard_and_a_spall_is_felt_most_in_the_middle_of_its_life() -> None:
    pump = PUMPS[1]

    def figure(mode: str, damage: float, name: str) -> float:
        return float(vibration.features(at(pump, named(mode), damage).levels.flat())[name][0])

    assert figure("cavitation", 1.0, "acceleration_hf_g") > 2 * figure("cavitation", 0.0, "acceleration_hf_g")
    kurtosis = [figure("bearing_wear", damage, "acceleration_kurtosis") for damage in (0.0, 0.5, 1.0)]
    assert kurtosis[0] < kurtosis[2] < kurtosis[1]


def test_no_damage_looks_healthy_whatever_the_fault() -> None:
    pump = PUMPS[2]
    healthy = at(pump)
    for fault in FAULTS:
        state = at(pump, fault, 0.0)
        assert all(np.array_equal(state.sensors[name], healthy.sensors[name]) for name in healthy.sensors)
        assert np.array_equal(state.levels.order_1, healthy.levels.order_1)
        assert not state.levels.impact_g.any()


def test_flow_induced_vibration_is_least_at_the_best_efficiency_point() -> None:
    load = np.linspace(0.5, 1.5, 101)
    assert load[vibration.off_design(load).argmin()] == pytest.approx(1.0)
    assert vibration.off_design(np.array([0.5, 1.0])) == pytest.approx([1.3, 1.0])


def test_new_pumps_shake_no_more_than_zone_a_allows_and_imbalance_ends_where_zone_d_begins() -> None:
    for pump in PUMPS:
        limits = operation.limits_mm_s(pump.type.motor.rated_kw)
        assert vibration.features(at(pump).levels.flat())["vibration_rms_mm_s"] < limits[0]
        gone = vibration.features(at(pump, named("imbalance"), 1.0).levels.flat())["vibration_rms_mm_s"]
        assert gone == pytest.approx(limits[2], rel=0.15)
        assert gone > limits[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_figures_without_a_waveform_have_the_mean_and_the_scatter_of_those_of_a_waveform(fault: FaultMode) -> None:
    stream, count = np.random.default_rng(5), 300
    for place, damage in enumerate((0.1, 0.5, 1.0)):
        pump = PUMPS[FAULTS.index(fault) + len(FAULTS) * place]
        demand = duty.stretches(pump, np.zeros(count), 1, 60.0, stream)
        levels = operate(pump, fault, np.array([damage]), demand).levels.scattered(stream).flat()
        law, drawn = vibration.features(levels), [vibration.features(levels, stream) for _ in range(25)]
        measured = []
        for row in range(count):
            near, far = (waveform.synthesise(levels.excitation(row, end), stream) for end in ("drive", "far"))
            figures = waveform.measure(near, float(levels.shaft_hz[row]), levels.vanes)
            measured.append({**figures, "vibration_nde_rms_mm_s": waveform.velocity_rms_mm_s(far)})
        for name in law:
            found = np.array([each[name] for each in measured]) / law[name]
            told = np.array([each[name] for each in drawn]) / law[name]
            # Three standard errors beside; most figures scatter by so little that these are nothing.
            allowed = 0.02 + 3.0 * found.std() / np.sqrt(count)
            assert found.mean() == pytest.approx(told.mean(), abs=allowed), (damage, name)
            assert 1 / 1.4 < found.std() / told.std() < 1.4, (damage, name)


def test_the_columns_of_a_row_with_a_waveform_are_those_of_the_waveform_within_2_percent() -> None:
    plan = Fleet("v2", 7, samples=4, waveforms_h=1)
    for number in range(7):
        rows = plan.rows(number)
        pump = plan.pump(number)
        assert len(rows.waveforms) == 4
        for record in rows.waveforms:
            (row,) = np.flatnonzero(rows.time_us == record.time_us)
            shaft_hz = rows.sensors["speed_rpm"][row] / 60
            told = waveform.measure(record.drive_end, shaft_hz, pump.type.vanes)
            told["vibration_nde_rms_mm_s"] = waveform.velocity_rms_mm_s(record.non_drive_end)
            for name in ("vibration_rms_mm_s", "vibration_nde_rms_mm_s", "acceleration_hf_g", "acceleration_crest"):
                if np.isfinite(rows.sensors[name][row]):
                    assert rows.sensors[name][row] == pytest.approx(told[name], rel=0.02, abs=0.002), name


@pytest.mark.parametrize("harmonic", [1, 2, 3])
def test_the_least_moderate_bearing_damage_stands_10_db_above_its_neighbours_in_the_envelope(harmonic: int) -> None:
    found = []
    for number, pump in enumerate(PUMPS[:20]):
        stream = np.random.default_rng(number)
        levels = at(pump, named("bearing_wear"), SEVERITY_BANDS[2][0]).levels.flat()
        wave = waveform.synthesise(levels.excitation(0), stream)
        frequency, lines = waveform.envelope_spectrum(wave, 2_500, 6_000)
        rate = harmonic * levels.blows * levels.shaft_hz[0]
        near = np.abs(frequency - rate) <= max(0.02 * rate, 2.5)
        around = (np.abs(frequency - rate) > 10) & (np.abs(frequency - rate) <= 30)
        found.append(20 * np.log10(lines[near].max() / np.median(lines[around])))
    assert min(found) > 10


def test_ideal_instruments_show_the_truth() -> None:
    plan = Fleet("v2", 3, options=IDEAL)
    pump = plan.pump(1)
    demand = steady(pump, readings=20)
    state = operate(pump, HEALTHY, np.zeros(1), demand)
    shown, _ = observe(pump, state, demand, plan.streams(1), IDEAL)
    for name, true in state.sensors.items():
        assert shown[name] == pytest.approx(true), name


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_used_life_undoes_the_growth_law_of_each_fault(fault: FaultMode) -> None:
    life = np.linspace(0.0, 1.0, 11)
    assert degradation.used_life(life**fault.growth, fault.growth) == pytest.approx(life)


def test_remaining_life_and_health_run_from_hundred_to_zero() -> None:
    damage = np.array([0.0, 0.25, 1.0, 1.5])
    assert degradation.health_pct(damage).tolist() == [100.0, 75.0, 0.0, 0.0]
    assert degradation.rul_pct(damage, 2.0).tolist() == [100.0, 50.0, 0.0, 0.0]


def test_the_severity_levels_keep_apart_and_the_borders_of_a_life_lie_between_them() -> None:
    for (_, high), (low, _) in pairwise(SEVERITY_BANDS):
        assert low - high > 0.09
    for severity, (low, high) in enumerate(SEVERITY_BANDS):
        assert degradation.severity(np.array([low, high])).tolist() == [severity, severity]
    assert SEVERITY_FROM[2:] == pytest.approx((2.5 / 6.6, 4.0 / 6.6))  # zones A|B and B|C over C|D


def test_the_modes_have_names_of_their_own() -> None:
    assert MODES[0] == "healthy"
    assert len(set(MODES)) == len(MODES) == 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pumps": 0}, "pumps = 0; expected 1 to"),
        ({"seed": -1}, "seed = -1; expected 0 to"),
        ({"samples": 0}, "samples = 0; expected 1 to"),
        ({"days": 0.0}, "days = 0.0; expected 1 to"),
        ({"step_s": 1.0}, "step_s = 1.0; expected 10 to"),
        ({"waveforms_h": -1.0}, "waveforms_h = -1.0; expected 0 to"),
        ({"dataset": "v9"}, "dataset = 'v9'; expected v2 or v3"),
        ({"pumps": 7.0}, "pumps = 7.0; expected a whole number from 1 to"),
        ({"days": "365"}, "days = '365'; expected a number from 1 to"),
    ],
)
def test_a_fleet_that_cannot_be_is_told_with_field_value_and_bound(given: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Fleet(**{"dataset": "v3", "pumps": 7, **given})  # type: ignore[arg-type]
