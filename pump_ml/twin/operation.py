"""A pump set at work: from what is asked of it and how damaged it is to everything its instruments could show.

All arrays are float, ``(readings,)`` or ``(stretches, readings)``: time runs along the last axis, stretches do not know
of each other. Float32 in, float32 out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from pump_ml.twin import hydraulics, liquid, vibration
from pump_ml.twin.degradation import FaultMode
from pump_ml.twin.fleet import Pump, suction_bar
from pump_ml.twin.hydraulics import ATMOSPHERE_BAR, GRAVITY_M_S2
from pump_ml.twin.vibration import Levels
from pump_ml.twin.zones import limits_mm_s

Array = NDArray[np.floating[Any]]

BEARING_MIN, WINDING_MIN = 30.0, 40.0
"""Thermal time constants in minutes: a bearing housing, and a fan-cooled motor that runs; assumptions."""


@dataclass(frozen=True)
class Demand:
    """What is asked of a pump, and what is around it.

    Args:
        speed: over rated speed; 0 where it stands still.
        resistance: friction of the system at rated flow, over rated head.
        ambient_c: temperature beside the pump.
        liquid_c: temperature of the liquid.
        days: since the last commissioning.
        step_s: from one reading to the next.
    """

    speed: Array
    resistance: Array
    ambient_c: Array
    liquid_c: Array
    days: Array
    step_s: float

    def part(self, rows: slice) -> Self:
        """Some of the readings, along the last axis."""
        names = ("speed", "resistance", "ambient_c", "liquid_c", "days")
        return replace(self, **{name: getattr(self, name)[..., rows] for name in names})


@dataclass(frozen=True)
class State:
    """The truth about a pump at each reading.

    Args:
        x: flow over rated flow at the pump's speed, 0 at rest.
        flow_m3_h: through the impeller.
        head_m: of the pump.
        hydraulic_kw: power that the liquid takes up.
        shaft_kw: power at the shaft.
        electrical_kw: power from the mains.
        npsh_available_m: at the suction flange.
        npsh_required_m: where cavitation starts, `pump_ml.twin.hydraulics.INCEPTION` times NPSH3.
        cavitation: 0 until it starts, 1 where it has cost 3 % of the head.
        levels: of vibration.
        sensors: true values by sensor name, all but the vibration's.
    """

    x: Array
    flow_m3_h: Array
    head_m: Array
    hydraulic_kw: Array
    shaft_kw: Array
    electrical_kw: Array
    npsh_available_m: Array
    npsh_required_m: Array
    cavitation: Array
    levels: Levels
    sensors: Mapping[str, Array]


def operate(pump: Pump, fault: FaultMode, damage: Array, demand: Demand) -> State:
    """Work out the operating point and what follows from it.

    Args:
        pump: the pump set.
        fault: the fault at work.
        damage: its damage, 0 to 1, as the demand's arrays or one figure for all.
        demand: what is asked.
    """
    kind, site, curves, motor = demand.speed.dtype.type, pump.site, pump.type.curves, pump.type.motor
    running = demand.speed > 0
    still = not running.all()
    r = np.where(running, demand.speed, kind(1.0)) if still else demand.speed
    d = np.asarray(damage, dtype=demand.speed.dtype)

    # --- hydraulics
    column, vapour = _liquid(site.liquid_c, site.heavier, demand.liquid_c)
    head_left = kind(1.0) - kind(fault.head_loss) * d
    x = hydraulics.operating_flow(r, site.static_head, demand.resistance, head_left, curves.head_shape)
    vessel = kind(suction_bar(site))
    lost = kind(fault.npsh_loss * (site.npsh_available_m - pump.type.npsh3_m)) * d

    def suction(x: Array) -> tuple[Array, Array, Array]:
        """Pressure at the flange, NPSH available, and how far cavitation has come."""
        flange = vessel - (kind(site.suction_loss_m) * np.square(x * r) + lost) * column
        available = (flange - vapour) / column
        n2, n3 = curves.npsh3_shape
        square = np.square(x)
        npsh3 = kind(pump.type.npsh3_m) * np.square(r) * (kind(1.0 + n2 + n3) - (kind(n2) + kind(n3) * x) * square)
        return flange, available, npsh3

    flange, available, npsh3 = suction(x)
    stage = hydraulics.cavitation(available, npsh3)
    if stage.any():
        head_left = head_left * hydraulics.head_after_cavitation(stage)
        x = hydraulics.operating_flow(r, site.static_head, demand.resistance, head_left, curves.head_shape)
        flange, available, npsh3 = suction(x)
        stage = hydraulics.cavitation(available, npsh3)
    h2, h3 = curves.head_shape
    square, r2 = np.square(x), np.square(r)
    head_m = kind(curves.head_m) * r2 * head_left * (kind(1.0 + h2 + h3) - (kind(h2) + kind(h3) * x) * square)
    flow = kind(curves.flow_m3_h) * x * r
    p1, p2 = curves.power_shape
    rated = curves.power_kw / (curves.density_kg_m3 * GRAVITY_M_S2 / 1e5)  # for a liquid of 1 bar a metre
    shape = kind(1.0 + p1 + p2) - kind(p1) * x - kind(p2) * square
    shaft = kind(rated) * column * r2 * r * shape * head_left / (kind(1.0) - kind(fault.efficiency_loss) * d)
    hydraulic = column * kind(1e5 / 3.6e6) * flow * head_m
    electrical, current = motor.electrical_kw(shaft), motor.current_a(shaft)
    if still:
        x, flow, head_m, stage = (np.where(running, value, kind(0.0)) for value in (x, flow, head_m, stage))
        hydraulic, shaft = (np.where(running, value, kind(0.0)) for value in (hydraulic, shaft))
        electrical, current = (np.where(running, value, kind(0.0)) for value in (electrical, current))
        flange = np.where(running, flange, vessel - lost * column)
        r = np.where(running, r, kind(0.0))
        r2 = np.square(r)

    # --- temperatures, oil, seal
    load = shaft * kind(1.0 / motor.rated_kw)
    warm = kind(pump.new.bearing_rise_k) * (kind(0.6) * r + kind(0.4) * load) + kind(fault.bearing_rise_k) * d * r
    bearing = demand.ambient_c + _lag(warm, demand.step_s, BEARING_MIN)
    heat = kind(pump.new.winding_rise_k / float(motor.losses_kw(np.array([motor.rated_kw]))[0])) * (electrical - shaft)
    winding = demand.ambient_c + _lag(heat, demand.step_s, WINDING_MIN)
    thin = kind(1.0) - kind(0.008) * (bearing - kind(50.0))  # oil thins as it warms, and leaks past the bearing
    oil = kind(pump.new.oil_bar) * np.minimum(r * kind(1.4), kind(1.0)) * thin * (kind(1.0) - kind(fault.oil_loss) * d)
    level = kind(95.0) - np.mod(kind(pump.new.oil_loss_pct) * demand.days, kind(35.0))  # topped up at 60 %
    leakage = (kind(pump.new.leakage_l_h) + kind(fault.leakage_l_h) * d) * np.sqrt(r)

    # --- vibration
    limit = limits_mm_s(motor.rated_kw)[-1]
    swirl = r2 * vibration.off_design(x)
    hiss = np.minimum(stage, kind(1.5))
    levels = Levels(
        shaft_hz=r * kind(curves.speed_rpm / 60.0),
        order_1=r2 * np.hypot(kind(pump.new.order_1_mm_s), kind(fault.order_1 * limit) * d),
        order_2=r2 * np.hypot(kind(pump.new.order_2_mm_s), kind(fault.order_2 * limit) * d),
        vane_pass=kind(pump.new.vane_pass_mm_s) * swirl * (kind(1.0) + kind(fault.vane_pass_gain) * d + hiss),
        floor=kind(pump.new.floor_mm_s) * swirl,
        noise_g=kind(pump.new.noise_g) * swirl * (kind(1.0) + kind(fault.noise_gain) * np.square(d)),
        cavitation_g=kind(CAVITATION_G) * r2 * hiss,
        impact_g=kind(fault.impact_g) * d * r,
        vanes=pump.type.vanes,
        blows=pump.type.drive_end.bpfo,
        non_drive_end=pump.new.non_drive_end,
    )
    return State(
        x=x,
        flow_m3_h=flow,
        head_m=head_m,
        hydraulic_kw=hydraulic,
        shaft_kw=shaft,
        electrical_kw=electrical,
        npsh_available_m=available,
        npsh_required_m=kind(hydraulics.INCEPTION) * npsh3,
        cavitation=stage,
        levels=levels,
        sensors={
            "speed_rpm": r * kind(curves.speed_rpm),
            "flow_m3_h": np.maximum(flow - leakage * kind(0.001), kind(0.0)),
            "suction_pressure_bar": flange,
            "discharge_pressure_bar": flange + head_m * column,
            "motor_current_a": current,
            "motor_power_kw": electrical,
            "fluid_temperature_c": demand.liquid_c,
            "ambient_temperature_c": demand.ambient_c,
            "bearing_temperature_c": bearing,
            "motor_temperature_c": winding,
            "oil_pressure_bar": oil,
            "oil_level_pct": level + np.zeros_like(r),
            "seal_leakage_l_h": leakage,
        },
    )


CAVITATION_G = 2.5
"""Acceleration above 2 kHz where cavitation has cost 3 % of the head; an assumption."""


def full_scales(pump: Pump) -> dict[str, float]:
    """Upper end of each instrument's span, in the sensor's unit."""
    curves, motor = pump.type.curves, pump.type.motor
    shut_off = curves.head_m * (1.0 + sum(curves.head_shape)) * GRAVITY_M_S2 * curves.density_kg_m3 / 1e5
    vessel = max(suction_bar(pump.site), ATMOSPHERE_BAR)
    amps = float(motor.current_a(np.array([motor.rated_kw]))[0])
    return {
        "speed_rpm": 3600.0,
        "flow_m3_h": 1.5 * curves.flow_m3_h,
        "suction_pressure_bar": 2.0 * vessel,
        "discharge_pressure_bar": 1.25 * (vessel + shut_off),
        "motor_current_a": 1.5 * amps,
        "motor_power_kw": 1.5 * motor.rated_kw,
        "fluid_temperature_c": 100.0,
        "ambient_temperature_c": 100.0,
        "bearing_temperature_c": 150.0,
        "motor_temperature_c": 200.0,
        "oil_pressure_bar": 4.0,
        "oil_level_pct": 100.0,
        "seal_leakage_l_h": 40.0,
        "vibration_rms_mm_s": 25.0,
        "vibration_nde_rms_mm_s": 25.0,
        "vibration_1x_mm_s": 25.0,
        "vibration_2x_mm_s": 25.0,
        "vibration_vane_pass_mm_s": 25.0,
        "acceleration_hf_g": 20.0,
        "acceleration_crest": 50.0,
        "acceleration_kurtosis": 50.0,
    }


def _liquid(usual_c: float, heavier: float, liquid_c: Array) -> tuple[Array, Array]:
    """Pressure of a metre of the liquid and its vapour pressure, in bar.

    Taken from `pump_ml.twin.liquid` at the usual temperature, with a straight line for the density and Clausius and
    Clapeyron's exponential for the vapour: within 0.1 % and 2 % over 10 K.
    """
    at = np.array([usual_c - 1.0, usual_c, usual_c + 1.0])
    kind = liquid_c.dtype.type
    density, vapour = liquid.density_kg_m3(at) * heavier, liquid.vapour_pressure_bar(at)
    warmer = liquid_c - kind(usual_c)
    column = kind(density[1] * GRAVITY_M_S2 / 1e5) + kind((density[2] - density[0]) / 2.0 * GRAVITY_M_S2 / 1e5) * warmer
    steam = kind(vapour[1]) * np.exp(kind(np.log(vapour[2] / vapour[0]) / 2.0) * warmer)
    return column, steam


def _lag(target: Array, step_s: float, constant_min: float) -> Array:
    """First-order lag, exact for steps: ``a = exp(-dt / tau)``; it starts in balance."""
    keep = float(np.exp(-step_s / (60.0 * constant_min)))
    kind = target.dtype.type
    begin = kind(keep) * target[..., :1]
    result: Array = lfilter([kind(1.0 - keep)], [kind(1.0), kind(-keep)], target, axis=-1, zi=begin)[0]
    return result
