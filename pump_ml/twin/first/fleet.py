"""A fleet: pumps that differ from each other, and what their instruments record in a given state of damage."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml.schema import Sensor
from pump_ml.twin.first import degradation, hydraulics, instruments, vibration
from pump_ml.twin.first.degradation import FaultMode
from pump_ml.twin.first.instruments import Instrument
from pump_ml.twin.hydraulics import ATMOSPHERE_BAR

Array = NDArray[np.float64]

SENSORS: tuple[tuple[Sensor, Instrument], ...] = (
    (Sensor("speed_rpm", "rpm", "shaft speed"), instruments.SPEED),
    (Sensor("flow_m3_h", "m3/h", "delivered flow, after the seal"), instruments.FLOW),
    (Sensor("suction_pressure_bar", "bar", "absolute, at the suction flange"), instruments.PRESSURE),
    (Sensor("discharge_pressure_bar", "bar", "absolute, at the discharge flange"), instruments.PRESSURE),
    (Sensor("motor_current_a", "A", "line current"), instruments.ELECTRIC),
    (Sensor("motor_power_kw", "kW", "active power"), instruments.ELECTRIC),
    (Sensor("fluid_temperature_c", "degC", "at the suction flange"), instruments.TEMPERATURE),
    (Sensor("ambient_temperature_c", "degC", "beside the pump"), instruments.TEMPERATURE),
    (Sensor("bearing_temperature_c", "degC", "drive-end bearing housing"), instruments.TEMPERATURE),
    (Sensor("motor_temperature_c", "degC", "motor winding"), instruments.TEMPERATURE),
    (Sensor("seal_leakage_l_h", "l/h", "at the seal's drain"), instruments.LEAKAGE),
    (Sensor("vibration_rms_mm_s", "mm/s", "velocity RMS 10 to 1000 Hz, drive-end bearing"), instruments.VELOCITY),
    (Sensor("vibration_1x_mm_s", "mm/s", "velocity RMS at shaft frequency"), instruments.VELOCITY),
    (Sensor("vibration_2x_mm_s", "mm/s", "velocity RMS at twice shaft frequency"), instruments.VELOCITY),
    (Sensor("vibration_vane_pass_mm_s", "mm/s", "velocity RMS at vane-pass frequency"), instruments.VELOCITY),
    (Sensor("acceleration_hf_g", "g_0", "acceleration RMS over 1 kHz"), instruments.ACCELERATION),
    (Sensor("acceleration_kurtosis", "", "kurtosis of the acceleration, 3 for noise"), instruments.KURTOSIS),
)


@dataclass(frozen=True)
class Pump:
    """One pump set as built and installed. Healthy vibration lies in zone A of ISO 10816-7."""

    flow_m3_h: float
    head_m: float
    speed_rpm: float
    efficiency: float
    variable_speed: bool
    static_head: float
    suction_head_m: float
    ambient_c: float
    fluid_c: float
    bearing_rise_k: float
    motor_rise_k: float
    order_1_mm_s: float
    order_2_mm_s: float
    vane_pass_mm_s: float
    floor_mm_s: float
    broadband_g: float
    leakage_l_h: float
    errors: tuple[tuple[float, float], ...]
    """Zero and gain error of each instrument, in standard deviations of its class; two of them are its limit."""

    @property
    def rated_kw(self) -> float:
        """Motor rating: shaft power at the rated point and 15 % of margin.

        That is the middle class of API 610's table (25 % below 22 kW, 15 % to 55 kW, 10 % above); here it is one figure
        for the whole fleet.
        """
        point = np.ones(1)
        shaft = hydraulics.shaft_power_kw(self.flow_m3_h * point, self.head_m * point, self.efficiency * point)
        return 1.15 * float(shaft[0])


def draw_pump(rng: np.random.Generator) -> Pump:
    """A pump from the fleet's distributions: sizes log-uniform over a catalogue, the rest around common values."""
    return Pump(
        flow_m3_h=float(np.exp(rng.uniform(np.log(50.0), np.log(400.0)))),
        head_m=float(np.exp(rng.uniform(np.log(25.0), np.log(80.0)))),
        speed_rpm=float(rng.choice([1480.0, 2960.0])),
        efficiency=float(rng.uniform(0.70, 0.84)),
        variable_speed=bool(rng.random() < 0.5),
        static_head=float(rng.uniform(0.2, 0.5)),
        suction_head_m=float(rng.uniform(1.0, 5.0)),
        ambient_c=float(rng.uniform(12.0, 28.0)),
        fluid_c=float(rng.uniform(10.0, 30.0)),
        bearing_rise_k=float(rng.uniform(18.0, 30.0)),
        motor_rise_k=float(rng.uniform(45.0, 65.0)),
        order_1_mm_s=float(rng.lognormal(np.log(0.8), 0.25)),
        order_2_mm_s=float(rng.lognormal(np.log(0.25), 0.25)),
        vane_pass_mm_s=float(rng.lognormal(np.log(0.40), 0.25)),
        floor_mm_s=float(rng.lognormal(np.log(0.5), 0.2)),
        broadband_g=float(rng.lognormal(np.log(0.5), 0.25)),
        leakage_l_h=float(rng.uniform(0.02, 0.2)),
        # Limits of error hold for 95 % of instruments; none beyond one and a half limits leaves the factory.
        errors=tuple(
            (float(zero), float(gain)) for zero, gain in np.clip(rng.standard_normal((len(SENSORS), 2)), -3.0, 3.0)
        ),
    )


def observe(
    pump: Pump, fault: FaultMode, damage: float, readings: int, step_s: float, rng: np.random.Generator
) -> dict[str, Array]:
    """Readings of one stretch in which the damage stands still.

    Args:
        pump: the pump set.
        fault: the fault at work.
        damage: its damage, 0 to 1.
        readings: how many readings.
        step_s: seconds between them.
        rng: source of the demand and of the noise.

    Returns:
        One array of length `readings` a sensor, in the order of `SENSORS`.
    """
    minutes = step_s / 60.0
    base_speed = rng.uniform(0.80, 1.0) if pump.variable_speed else 1.0
    r = base_speed + (0.01 * _wander(readings, minutes, 15.0, rng) if pump.variable_speed else np.zeros(readings))
    resistance = (1.0 - pump.static_head) * np.exp(
        rng.uniform(-0.3, 0.3) + 0.05 * _wander(readings, minutes, 20.0, rng)
    )
    ambient = pump.ambient_c + rng.uniform(-6.0, 6.0) + 0.3 * _wander(readings, minutes, 60.0, rng)
    fluid = pump.fluid_c + rng.uniform(-3.0, 3.0) + 0.2 * _wander(readings, minutes, 60.0, rng)

    head_factor = 1.0 - fault.head_loss * damage
    q = hydraulics.operating_flow(r, pump.static_head, resistance, head_factor)
    load = q / r
    head_m = pump.head_m * head_factor * hydraulics.head(q, r)
    eta = hydraulics.efficiency(q, r, pump.efficiency) * (1.0 - fault.efficiency_loss * damage)
    shaft_kw = hydraulics.shaft_power_kw(pump.flow_m3_h * q, head_m, eta)
    motor_kw = shaft_kw / 0.93  # IE3 at 22 kW, four poles (IEC 60034-30-1); one figure for the fleet
    rated_a = pump.rated_kw / (np.sqrt(3.0) * 0.4 * 0.86 * 0.93)  # 400 V, power factor 0.86

    suction_m = pump.suction_head_m - 0.6 * q**2  # friction of the suction line
    suction = (ATMOSPHERE_BAR + suction_m * hydraulics.BAR_PER_M) * (1.0 - fault.suction_loss * damage)
    discharge = suction + head_m * hydraulics.BAR_PER_M
    leakage = pump.leakage_l_h + fault.leakage_l_h * damage

    load_share = motor_kw * 0.93 / pump.rated_kw
    bearing = ambient + pump.bearing_rise_k * (0.6 * r + 0.4 * load_share) + fault.bearing_rise_k * damage * r
    winding = ambient + pump.motor_rise_k * (0.25 + 0.75 * load_share**2)

    swirl = vibration.off_design(load)
    order_1 = vibration.order_velocity(pump.order_1_mm_s, fault.order_1_mm_s * damage, r)
    order_2 = vibration.order_velocity(pump.order_2_mm_s, fault.order_2_mm_s * damage, r)
    vane_pass = pump.vane_pass_mm_s * r**2 * swirl * (1.0 + fault.vane_pass_gain * damage)
    broadband = pump.broadband_g * r**2 * np.sqrt(swirl) * (1.0 + fault.broadband_gain * damage)
    # The high-frequency band's share of the velocity: 0.15 mm/s for each g, an assumption.
    velocity = vibration.overall(order_1, order_2, vane_pass, pump.floor_mm_s * r * swirl, 0.15 * broadband)
    kurtosis = np.full(readings, 3.0 + fault.kurtosis * damage)

    rated_discharge = ATMOSPHERE_BAR + hydraulics.SHUTOFF_HEAD * pump.head_m * hydraulics.BAR_PER_M
    true_and_span = (
        (pump.speed_rpm * r, 3600.0),
        (pump.flow_m3_h * q - leakage / 1000.0, 1.5 * pump.flow_m3_h),
        (suction, 2.5),
        (discharge, 1.5 * rated_discharge),
        (hydraulics.motor_current_a(shaft_kw, pump.rated_kw, rated_a), 1.5 * rated_a),
        (motor_kw, 1.5 * pump.rated_kw),
        (fluid, 100.0),
        (ambient, 100.0),
        (bearing, 150.0),
        (winding, 200.0),
        (np.full(readings, leakage), 40.0),
        (velocity, 25.0),
        (order_1, 25.0),
        (order_2, 25.0),
        (vane_pass, 25.0),
        (broadband, 20.0),
        (kurtosis, 20.0),
    )
    return {
        sensor.name: instrument.read(true, span, error, rng)
        for (sensor, instrument), (true, span), error in zip(SENSORS, true_and_span, pump.errors, strict=True)
    }


def _wander(readings: int, minutes: float, memory_min: float, rng: np.random.Generator) -> Array:
    """A unit-variance first-order random walk around zero that forgets within `memory_min` minutes."""
    keep = np.exp(-minutes / memory_min)
    shocks = np.sqrt(1.0 - keep**2) * rng.standard_normal(readings)
    shocks[0] = rng.standard_normal()
    value = 0.0
    walk = np.empty(readings)
    for step, shock in enumerate(shocks):
        value = keep * value + shock
        walk[step] = value
    return walk


def samples_v2(asset_id: str, pump_number: int, samples: int, seed: np.random.SeedSequence) -> pd.DataFrame:
    """Dataset v2 of one pump: its commissioning record and independent one-hour samples at separated severity levels.

    Each pump has one fault mode (they take turns over the fleet); its samples take turns over the four severity
    levels, at a random damage within the level's band.

    Args:
        asset_id: the pump's name.
        pump_number: its place in the fleet, from 0.
        samples: how many samples of 60 readings, one a minute.
        seed: the pump's own random stream.

    Returns:
        Columns ``asset_id, run_id, time, commissioning``, the sensors, and ``severity, mode, rul_pct, health_pct``.
    """
    rng = np.random.default_rng(seed)
    pump = draw_pump(rng)
    fault = degradation.FAULTS[pump_number % len(degradation.FAULTS)]
    commissioned = pd.Timestamp("2026-01-05T06:00:00Z") + pd.Timedelta(days=pump_number % 28)

    # Ten hours, so that the record spans the duty range: ten settings of demand, twelve readings each.
    record = [observe(pump, degradation.HEALTHY, 0.0, 12, 300.0, rng) for _ in range(10)]
    frames = [
        _labelled(
            {name: np.concatenate([part[name] for part in record]) for name in record[0]},
            run_id=f"{asset_id}/commissioning",
            start=commissioned,
            step_s=300.0,
            state=(degradation.HEALTHY, 0, 0.0),
        )
    ]
    for number in range(samples):
        # Counted back from the last sample, so that a pump ends in its worst state whatever their number.
        severity = (number - samples) % len(degradation.SEVERITY_BANDS)
        damage = float(rng.uniform(*degradation.SEVERITY_BANDS[severity]))
        at_work = fault if severity else degradation.HEALTHY
        frames.append(
            _labelled(
                observe(pump, at_work, damage, 60, 60.0, rng),
                run_id=f"{asset_id}/{number:03d}",
                start=commissioned + pd.Timedelta(days=30 + 7 * number),
                step_s=60.0,
                state=(at_work, severity, damage),
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    frame.insert(0, "asset_id", asset_id)
    frame.insert(3, "commissioning", frame["run_id"].str.endswith("/commissioning"))
    return frame


def _labelled(
    readings: dict[str, Array], *, run_id: str, start: pd.Timestamp, step_s: float, state: tuple[FaultMode, int, float]
) -> pd.DataFrame:
    fault, severity, damage = state
    count = len(next(iter(readings.values())))
    times = pd.date_range(start, periods=count, freq=pd.Timedelta(seconds=step_s))
    level = np.array([damage])
    return pd.DataFrame(
        {"run_id": run_id, "time": times.as_unit("us")}
        | readings
        | {
            "severity": severity,
            "mode": fault.name,
            # Rounded to what a report shows; the last digits of a power differ between processors.
            "rul_pct": round(float(degradation.rul_pct(level, fault.growth)[0]), 3),
            "health_pct": round(float(degradation.health_pct(level)[0]), 3),
        }
    )
