"""The physics of a motor pump set: a centrifugal pump with a diesel engine or an electric motor.

Pressures, temperatures and consumption follow from speed, flow and weather; a disturbance (`pump_ml.twin.set_events`)
changes them until a protective threshold is crossed. The relations are textbook ones (affinity laws, a quadratic pump
curve and system curve, first-order heating); their figures are the twin's assumptions of an ordinary set of 50 to
250 kW. Units: pressures bar gauge, temperatures degC, levels percent, ``Fuel_Con`` l/h, ``Intake`` kPa of vacuum behind
the intake screen.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from pump_ml.twin.duty import wander
from pump_ml.twin.set_events import Array, Disturbance, Drive

OIL_LOW_BAR, HOT_C, PRIME_BAR, SLOW, BATTERY_V = 1.2, 103.0, -0.55, 0.86, 21.0
"""Protective thresholds: oil pressure, coolant (electric: oil) temperature, suction pressure at which the pump loses
its prime, share of the speed set point, battery of a 24 V system."""
BAR_M = 10.197
"""Metres of water in a bar."""
VISCOUS_K = 90.0
"""Oil that is so much hotter gives 1/e of the pressure."""
SUMP_BAR, PUMPED = 0.08, (0.25, 0.85)
"""Pressure of the sump's working band (0.8 m), and what a set pumps slowly and fast, as shares of a full inflow."""
IDLE, IDLE_S = 0.65, 150.0
"""A diesel idles at this share of its speed after a start."""


@dataclass(frozen=True)
class MotorPumpSet:
    """One machine.

    Args:
        name: as the controller reports it, such as ``MP-001``.
        drive: diesel or electric.
        rated_rpm: rated speed.
        rated_head_m: head at rated speed and flow, metres of water.
        interval_s: from one row to the next, 5 to 12 s.
        trips_a_month: in 30 days.
        weakness: the cause of most of its disturbances.
        continuous: runs day and night; else from about 6 to 22 o'clock.
        variable: it works at two speeds, as the sump's level asks; else its speed is fixed, and a valve opens instead.
        flexible: its pressures are wired to the analogue inputs, and reported as ``FlexAnalogue4_1`` (discharge) and
            ``FlexAnalogue4_2`` (suction).
        memory_min: how fast the inflow forgets, minutes.
        fill_min: in so many minutes a full inflow fills the working band of the sump.
        suction_bar: pressure at the suction flange without flow, bar gauge.
        oil_bar: oil pressure at rated speed and usual oil temperature (95 °C; electric 60 °C).
        fuel_l_h: fuel consumption at full load.
        offsets: zero error of each of `pump_ml.twin.set_readings.SENSORS`, in its unit.
        gains: gain error of each, as a share.
    """

    name: str
    drive: Drive
    rated_rpm: float
    rated_head_m: float
    interval_s: float
    trips_a_month: float
    weakness: str
    continuous: bool
    variable: bool
    flexible: bool
    memory_min: float
    fill_min: float
    suction_bar: float
    oil_bar: float
    fuel_l_h: float
    offsets: tuple[float, ...]
    gains: tuple[float, ...]


def surroundings(machine: MotorPumpSet, hours: Array, rng: np.random.Generator) -> dict[str, Array]:
    """What the set does not decide: set point of the speed, resistance of the pipes, suction level, weather."""
    rows, step = len(hours), machine.interval_s

    def swing(size: float, memory_min: float) -> Array:
        return np.asarray(size * wander((rows,), step, memory_min, rng, np.float64), dtype=np.float64)

    around = 2.0 * np.pi / 24.0 * hours
    daily = -0.6 * np.cos(around) - 0.4 * np.cos(2.0 * around + 1.0)
    quick, slow = swing(1.0, machine.memory_min), swing(1.0, 480.0)
    level, fast = _sump(0.55 + 0.12 * daily + 0.06 * quick, step, machine.fill_min, float(rng.random()))
    speed = np.full(rows, 1.0)
    if machine.variable:
        wanted = np.where(fast, 0.99, 0.87) + 0.01 * quick
        keep = np.exp(-step / 20.0)  # the governor follows within half a minute
        speed = lfilter([1.0 - keep], [1.0, -keep], wanted, zi=[keep * wanted[0]])[0]
    clogged = (rng.random() + (hours - hours[0]) / 24.0 / rng.uniform(6.0, 12.0)) % 1.0  # cleaned when it is due
    result: dict[str, Array] = {
        "speed": np.clip(speed, 0.75, 1.05),
        # At a fixed speed a valve opens instead.
        "resistance": 0.7 * np.exp(-0.10 * quick - 0.08 * slow - (0.0 if machine.variable else 0.3) * fast),
        "suction": machine.suction_bar + SUMP_BAR * (level - 0.5) + swing(0.01, 300.0),
        "clogged": 0.10 * clogged**1.5,
        "ambient": 23.0 - 5.0 * np.cos(around - 0.6) + swing(2.0, 1500.0),
    }
    return result


def _sump(inflow: Array, step_s: float, fill_min: float, first: float) -> tuple[Array, NDArray[np.bool_]]:
    """Level of the sump, 0 to 1 of its working band, and whether the set works fast, at each row.

    The set empties the sump fast from the upper limit down to the lower one, and works slowly while it fills: the
    two-level control of a pumping station. So the course of the suction pressure tells when the speed will change.

    Args:
        inflow: share of the band that flows in within `fill_min`.
        step_s: from row to row.
        fill_min: minutes.
        first: level at the first row.
    """
    share, level, fast = step_s / 60.0 / fill_min, first, first > 0.5
    levels, states = np.empty(len(inflow)), np.empty(len(inflow), dtype=bool)
    for row, more in enumerate(inflow.tolist()):
        level += share * (more - (PUMPED[1] if fast else PUMPED[0]))
        fast = level > 0.0 if fast else level >= 1.0
        levels[row], states[row] = level, fast
    return np.clip(levels, -0.2, 1.2), states


def healthy(
    machine: MotorPumpSet, seconds: Array, turning: NDArray[np.bool_], around: dict[str, Array]
) -> dict[str, Array]:
    """True values while nothing is wrong; ``head`` is the pump's, in metres."""
    step, ambient = machine.interval_s, around["ambient"]
    edges = np.flatnonzero(np.diff(turning)) + 1
    parts = list(zip([0, *edges.tolist()], [*edges.tolist(), len(seconds)], strict=True))

    def follow(target: Array, run_s: float, stand_s: float, first: float) -> Array:
        """First-order, with another time constant while the set stands still."""
        result, state = np.empty(len(target)), first
        for begin, end in parts:
            keep = float(np.exp(-step / (run_s if turning[begin] else stand_s)))
            result[begin:end] = lfilter([1.0 - keep], [1.0, -keep], target[begin:end], zi=[keep * state])[0]
            state = float(result[end - 1])
        return result

    wanted = np.where(turning, around["speed"], 0.0)
    if machine.drive == "diesel":
        idle = int(IDLE_S / step)
        for begin, _ in parts:
            if turning[begin]:
                wanted[begin : begin + idle] = np.minimum(wanted[begin : begin + idle], IDLE)
    speed = follow(wanted, 4.0, 0.5, 0.0)
    # Pump curve h = 1.2 n² - 0.2 q², system h = 0.3 + r q², all as shares of the rated point.
    flow = np.sqrt(np.maximum(1.2 * speed**2 - 0.3, 0.0) / (0.2 + around["resistance"]))
    head = 1.2 * speed**2 - 0.2 * flow**2
    load = 0.35 * speed**3 + 0.65 * flow * head
    at_first = float(ambient[0])
    run_hours = np.cumsum(turning) * step / 3600.0
    values = {"Eng_RPM": machine.rated_rpm * speed, "head": follow(machine.rated_head_m * head, 6.0, 400.0, 0.0)}
    values["Succao"] = around["suction"] - (0.22 + around["clogged"]) * flow**2
    values["Intake"] = 2.0 + (9.0 + 60.0 * around["clogged"]) * flow**2
    values["air"] = np.zeros(len(seconds))
    if machine.drive == "diesel":
        warm = np.where(turning, 78.0 + 10.0 * load + 0.3 * (ambient - 23.0), ambient)
        values["Cool_T"] = follow(warm, 480.0, 6000.0, at_first)
        values["Oil_T"] = follow(
            np.where(turning, values["Cool_T"] + 2.0 + 12.0 * load, ambient), 420.0, 5400.0, at_first
        )
        values["Exaust"] = follow(np.where(turning, ambient + 110.0 + 340.0 * load, ambient), 60.0, 900.0, at_first)
        fuel = np.where(turning, machine.fuel_l_h * (0.12 * speed + 0.88 * load), 0.0)
        values["Fuel_Con"] = follow(fuel, 6.0, 0.5, 0.0)
        values["Fuel_T"] = follow(np.where(turning, ambient + 9.0 + 8.0 * load, ambient), 1500.0, 5000.0, at_first)
        tank_l = 24.0 * machine.fuel_l_h
        values["Fuel_L"] = 95.0 - (100.0 / tank_l * np.cumsum(fuel) * step / 3600.0) % 70.0
        charging = np.where(turning, 28.0, 0.0)
    else:
        values["Oil_T"] = follow(np.where(turning, ambient + 36.0 * load + 8.0, ambient), 1500.0, 5000.0, at_first)
        charging = np.full(len(seconds), 27.3)  # from the mains
    values["Oil_L"] = 92.0 - (machine.oil_bar + 0.028 * run_hours) % 16.0 - 4.0 * np.minimum(speed, 1.0)
    usual = 95.0 if machine.drive == "diesel" else 60.0
    thick = np.exp((usual - values["Oil_T"]) / VISCOUS_K)
    values["Oil_P"] = np.minimum(machine.oil_bar * speed * thick, 6.5)  # the relief valve opens
    values["Char_V"] = charging
    values["Bat_V"] = follow(np.where(charging > 0.0, charging - 0.4, 25.2), 300.0, 1800.0, 25.4)
    return values


def strained(machine: MotorPumpSet, found: Disturbance, seconds: Array, usual: dict[str, Array]) -> dict[str, Array]:
    """What a disturbance makes of the values of the rows from its onset on: those that it changes.

    Its growth is scaled such that under the conditions of the onset it reaches the threshold when it has grown to 1.
    """
    grown = found.growth(seconds)
    at_onset = {name: float(value[0]) for name, value in usual.items()}
    diesel = machine.drive == "diesel"
    turns = usual["Eng_RPM"] > 0.05 * machine.rated_rpm
    if found.cause == "oil":
        # Below half full the oil pump draws air.
        enough = min(OIL_LOW_BAR / at_onset["Oil_P"], 1.0)
        level = usual["Oil_L"] - (at_onset["Oil_L"] - (10.0 + 45.0 * enough**1.5)) * grown
        drawn = np.clip((level - 10.0) / 45.0, 0.0, 1.0) ** (1.0 / 1.5)
        return {"Oil_L": np.maximum(level, 0.0), "Oil_P": usual["Oil_P"] * drawn}
    if found.cause == "cooling":
        hotter = (HOT_C - at_onset["Cool_T" if diesel else "Oil_T"]) * grown
        oil = 0.9 * hotter if diesel else hotter
        changed = {"Oil_T": usual["Oil_T"] + oil, "Oil_P": usual["Oil_P"] * np.exp(-oil / VISCOUS_K)}
        return changed | ({"Cool_T": usual["Cool_T"] + hotter} if diesel else {})
    if found.cause == "suction":
        grown = grown * turns
        changed = {
            "Succao": usual["Succao"] - (at_onset["Succao"] - PRIME_BAR) * grown,
            "head": usual["head"] * (1.0 - 0.3 * np.minimum(grown, 1.0)),
            "Intake": usual["Intake"] + 6.0 * grown,
            "air": 2.5 * grown,
        }
        return changed | {name: usual[name] * (1.0 - 0.12 * grown) for name in ("Fuel_Con", "Exaust") if diesel}
    if found.cause == "fuel":
        hunting = 0.03 * grown * np.sin(2.0 * np.pi * seconds / (5.3 * machine.interval_s))
        speed = np.maximum(1.0 - 0.12 * grown + hunting, 0.6)
        return {
            "Eng_RPM": usual["Eng_RPM"] * speed,
            "head": usual["head"] * speed**2,
            "Oil_P": usual["Oil_P"] * speed,
            "Fuel_Con": usual["Fuel_Con"] * np.maximum(1.0 - 0.35 * grown, 0.3),
            "Exaust": usual["Exaust"] * (1.0 - 0.12 * np.minimum(grown, 1.5)),
        }
    if found.cause == "charging":
        lost = np.minimum(1.5 * grown, 1.0)
        return {
            "Char_V": usual["Char_V"] * (1.0 - 0.25 * lost),
            "Bat_V": usual["Bat_V"] - (at_onset["Bat_V"] - BATTERY_V) * grown,
        }
    return {}


def crossed(machine: MotorPumpSet, cause: str, values: dict[str, Array], usual: dict[str, Array]) -> NDArray[np.bool_]:
    """Where the protection against a cause would stop the set.

    Args:
        machine: the set.
        cause: of a disturbance that gives a sign.
        values: as the disturbance makes them.
        usual: as they are without it.
    """
    hot = "Oil_T" if machine.drive == "electric" else "Cool_T"
    found: NDArray[np.bool_] = {
        "oil": values["Oil_P"] < OIL_LOW_BAR,
        "cooling": values[hot] > HOT_C,
        "suction": values["Succao"] < PRIME_BAR,
        "fuel": values["Eng_RPM"] < SLOW * usual["Eng_RPM"],
        "charging": values["Bat_V"] < BATTERY_V,
    }[cause]
    return found
