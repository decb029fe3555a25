"""Motor pump sets in the field, and the telemetry that their controllers report every few seconds.

A set is a centrifugal pump with a diesel engine or an electric motor. Pressures, temperatures and consumption follow
from speed, flow and weather; a disturbance (`pump_ml.twin.set_events`) changes them until a protective threshold is
crossed, and that is the trip: the speed falls within one row while the controller still shows ``running`` 1. Units:
pressures bar gauge, temperatures degC, levels percent, ``Fuel_Con`` l/h, ``Intake`` kPa of vacuum behind the intake
screen, ``Hydraulic_Head`` metres of water.

The relations are textbook ones (affinity laws, a quadratic pump curve and system curve, first-order heating); their
figures, like all frequencies, are the twin's assumptions of an ordinary set of 50 to 250 kW.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import lfilter

from pump_ml.errors import ConfigurationError
from pump_ml.twin import set_events
from pump_ml.twin.duty import wander
from pump_ml.twin.set_events import DAY_S, Array, Disturbance, Drive, Run
from pump_ml.twin.set_readings import DIRTY, SENSORS, Dirt, measured, soil

OIL_LOW_BAR, HOT_C, PRIME_BAR, SLOW, BATTERY_V = 1.2, 103.0, -0.55, 0.86, 21.0
"""Protective thresholds: oil pressure, coolant (electric: oil) temperature, suction pressure at which the pump loses
its prime, share of the speed set point, battery of a 24 V system."""
BAR_M = 10.197
"""Metres of water in a bar."""
VISCOUS_K = 90.0
"""Oil that is so much hotter gives 1/e of the pressure."""
IDLE, IDLE_S = 0.65, 150.0
"""A diesel idles at this share of its speed after a start."""
ENGINE_ONLY = ("Fuel_T", "Cool_T", "Fuel_L", "Fuel_Con", "Exaust")
MOST_SETS, MOST_DAYS = 999, 400.0


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
        continuous: runs day and night; else from about 6 to 22 o'clock.
        variable: its speed follows the demand; else it is fixed.
        flexible: its pressures are wired to the analogue inputs, and reported as ``FlexAnalogue4_1`` (discharge) and
            ``FlexAnalogue4_2`` (suction).
        memory_min: how fast the demand forgets, minutes.
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
    continuous: bool
    variable: bool
    flexible: bool
    memory_min: float
    suction_bar: float
    oil_bar: float
    fuel_l_h: float
    offsets: tuple[float, ...]
    gains: tuple[float, ...]


def fleet(machines: int, seed: int) -> tuple[MotorPumpSet, ...]:
    """Machines that differ; the same seed gives the same ones, and a larger fleet begins with those of a smaller.

    Every third is electric, every seventh reports its pressures through the analogue inputs.

    Args:
        machines: how many, 1 to 999.
        seed: 0 or more.

    Raises:
        ConfigurationError: a number is out of its bounds.
    """
    if not 1 <= machines <= MOST_SETS:
        raise ConfigurationError(f"machines = {machines}; expected 1 to {MOST_SETS}")
    if seed < 0:
        raise ConfigurationError(f"seed = {seed}; expected 0 or more")
    return tuple(_set(number, np.random.default_rng([seed, number])) for number in range(machines))


def _set(number: int, rng: np.random.Generator) -> MotorPumpSet:
    electric = number % 3 == 2
    errors = rng.uniform(-1.0, 1.0, (2, len(SENSORS)))
    instruments = SENSORS.values()
    return MotorPumpSet(
        name=f"MP-{number + 1:03d}",
        drive="electric" if electric else "diesel",
        rated_rpm=float(rng.choice([1475.0, 1780.0] if electric else [1800.0, 2100.0])),
        rated_head_m=float(np.round(rng.uniform(35.0, 110.0), 1)),
        interval_s=float(np.round(rng.uniform(5.0, 12.0), 1)),
        trips_a_month=float(rng.uniform(8.0, 16.0)),
        continuous=bool(rng.random() < 0.6),
        variable=not electric or bool(rng.random() < 0.5),
        flexible=number % 7 == 4,
        memory_min=float(rng.uniform(10.0, 60.0)),
        suction_bar=float(rng.uniform(0.05, 0.2)),
        oil_bar=float(rng.uniform(3.2, 4.6)),
        fuel_l_h=float(rng.uniform(18.0, 55.0)),
        offsets=tuple(float(share * each.zero) for share, each in zip(errors[0], instruments, strict=True)),
        gains=tuple(float(share * each.gain) for share, each in zip(errors[1], instruments, strict=True)),
    )


def simulate(machine: MotorPumpSet, start: datetime, days: float, seed: int, dirt: Dirt = DIRTY) -> pd.DataFrame:
    """Telemetry of one machine, as its controller would have reported it.

    Args:
        machine: the set.
        start: time of the first row, with a time zone.
        days: length, above 0 and up to 400.
        seed: the same machine, start, days, seed and dirt give the same rows.
        dirt: what is wrong with the rows; `pump_ml.twin.set_readings.CLEAN` for nothing.

    Returns:
        ``timestamp`` (datetime64[us, UTC]), ``motor_pump`` (str), and the sensors (float64), of which a machine has
        only its own: the others are NaN.

    Raises:
        ConfigurationError: `start` has no zone, or a number is out of its bounds.
    """
    seconds, command, values, _ = _course(machine, start, days, seed)
    rng = _rng(machine, start, seed, 1)
    readings = measured(values, machine.offsets, machine.gains, rng)
    readings["Hydraulic_Head"] = np.round((readings["Recalque"] - readings["Succao"]) * BAR_M, 2)
    readings["running"] = command.astype(np.float64)
    readings["minutes_running"] = _minutes(seconds, command)
    nothing = np.full(len(seconds), np.nan)
    pressures = {"FlexAnalogue4_1": "Recalque", "FlexAnalogue4_2": "Succao"}
    for analogue, pressure in pressures.items():
        readings[analogue] = readings[pressure] if machine.flexible else nothing
        readings[pressure] = nothing if machine.flexible else readings[pressure]
    if machine.drive == "electric":
        readings |= dict.fromkeys(ENGINE_ONLY, nothing)
    since = (np.round(seconds, 3) * 1e6).astype("timedelta64[us]")
    first = pd.Timestamp(start).tz_convert(UTC).as_unit("us")
    frame = pd.DataFrame({"timestamp": first + pd.to_timedelta(since), "motor_pump": machine.name, **readings})
    return soil(frame, dirt, machine.interval_s, _rng(machine, start, seed, 2))


def history(machine: MotorPumpSet, start: datetime, days: float, seed: int) -> tuple[Disturbance, ...]:
    """What went wrong in the course that `simulate` tells with the same arguments, in order of time."""
    return tuple(_course(machine, start, days, seed)[3])


def _rng(machine: MotorPumpSet, start: datetime, seed: int, use: int) -> np.random.Generator:
    return np.random.default_rng([seed, crc32(machine.name.encode()), int(start.timestamp()), use])


def _course(
    machine: MotorPumpSet, start: datetime, days: float, seed: int
) -> tuple[Array, NDArray[np.bool_], dict[str, Array], list[Disturbance]]:
    """Seconds since `start`, the run command and the true values of each row, and what went wrong."""
    if start.tzinfo is None:
        raise ConfigurationError(
            f"start = {start.isoformat()}; expected a time zone, such as {start.isoformat()}+00:00"
        )
    if not 0.0 < days <= MOST_DAYS:
        raise ConfigurationError(f"days = {days!r}; expected above 0, up to {MOST_DAYS:g}")
    if seed < 0:
        raise ConfigurationError(f"seed = {seed}; expected 0 or more")
    rng = _rng(machine, start, seed, 0)
    rows = max(int(days * DAY_S / machine.interval_s), 2)
    seconds = (np.arange(rows) + 0.5 + rng.uniform(-0.1, 0.1, rows)) * machine.interval_s
    utc = start.astimezone(UTC)
    hour = utc.hour + utc.minute / 60.0
    runs = set_events.planned_runs(machine.continuous, days, hour, rng)
    drawn = set_events.draw(machine.drive, machine.trips_a_month, days, runs, rng)
    around = _surroundings(machine, hour + seconds / 3600.0, rng)
    # The demand and the weather do not depend on what goes wrong, so when a threshold is crossed can be told from the
    # course without trips; a disturbance begins long after the last restart, when the set is as warm as without it.
    turning, _ = _states(seconds, runs, [])
    healthy = _healthy(machine, seconds, turning, around)
    happened = [found for each in drawn if (found := _outcome(machine, each, seconds, healthy)) is not None]
    turning, command = _states(seconds, set_events.with_trips(runs, happened), happened)
    values = _healthy(machine, seconds, turning, around)
    for each in happened:
        rows_of = slice(*np.searchsorted(seconds, [each.onset_s, each.over_s]))
        part = {name: value[rows_of] for name, value in values.items()}
        for name, changed in _strained(machine, each, seconds[rows_of], part).items():
            values[name][rows_of] = changed
    values["Recalque"] = values["Succao"] + values.pop("head") / BAR_M
    return seconds, command, values, happened


def _outcome(
    machine: MotorPumpSet, drawn: Disturbance, seconds: Array, healthy: dict[str, Array]
) -> Disturbance | None:
    """The disturbance with the time of its trip; None for a near miss that would trip, and a trip that would not."""
    if drawn.trip_s is not None:  # sudden: in the row after
        row = min(int(np.searchsorted(seconds, drawn.trip_s)), len(seconds) - 1)
        return replace(drawn, trip_s=float(seconds[row]))
    rows = slice(*np.searchsorted(seconds, [drawn.onset_s, drawn.turns_s if not drawn.near_miss else drawn.over_s]))
    part = {name: value[rows] for name, value in healthy.items()}
    strained = part | _strained(machine, drawn, seconds[rows], part)
    crossed = {
        "oil": strained["Oil_P"] < OIL_LOW_BAR,
        "cooling": strained["Oil_T" if machine.drive == "electric" else "Cool_T"] > HOT_C,
        "suction": strained["Succao"] < PRIME_BAR,
        "fuel": strained["Eng_RPM"] < SLOW * part["Eng_RPM"],
        "charging": strained["Bat_V"] < BATTERY_V,
    }[drawn.cause]
    if drawn.near_miss:
        return None if crossed.any() else drawn
    return replace(drawn, trip_s=float(seconds[rows][crossed.argmax()])) if crossed.any() else None


def _states(
    seconds: Array, runs: list[Run], happened: list[Disturbance]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the shaft turns, and whether the controller says so, at each row."""
    turning = np.zeros(len(seconds), dtype=bool)
    command = turning.copy()
    trips = {each.trip_s for each in happened}
    for on, off in runs:
        first, last = np.searchsorted(seconds, [on, off])
        turning[first:last] = True
        # After a trip the controller notices some rows later; a commanded stop shows at once, or a row before.
        until = last + 3 + last % 7 if off in trips else last - int(last % 3 == 0)
        command[first:until] = True
    return turning, command


def _surroundings(machine: MotorPumpSet, hours: Array, rng: np.random.Generator) -> dict[str, Array]:
    """What the set does not decide: set point of the speed, resistance of the pipes, suction level, weather."""
    rows, step = len(hours), machine.interval_s

    def swing(size: float, memory_min: float) -> Array:
        return np.asarray(size * wander((rows,), step, memory_min, rng, np.float64), dtype=np.float64)

    around = 2.0 * np.pi / 24.0 * hours
    daily = -0.6 * np.cos(around) - 0.4 * np.cos(2.0 * around + 1.0)
    quick, slow = swing(1.0, machine.memory_min), swing(1.0, 480.0)
    speed = np.full(rows, 1.0)
    if machine.variable:
        changes = np.cumsum(rng.exponential(3.0, int(rows * step / 3600.0) + 8))
        levels = rng.choice([0.84, 0.89, 0.94, 1.0], len(changes) + 1)
        wanted = levels[np.searchsorted(changes, hours - hours[0])] + 0.01 * quick + 0.01 * daily
        keep = np.exp(-step / 20.0)  # the governor follows within half a minute
        speed = lfilter([1.0 - keep], [1.0, -keep], wanted, zi=[keep * wanted[0]])[0]
    clogged = (rng.random() + (hours - hours[0]) / 24.0 / rng.uniform(6.0, 12.0)) % 1.0  # cleaned when it is due
    result: dict[str, Array] = {
        "speed": np.clip(speed, 0.75, 1.05),
        "resistance": 0.7 * np.exp(-0.12 * daily - 0.10 * quick - 0.08 * slow),
        "suction": machine.suction_bar + swing(0.025, 300.0),
        "clogged": 0.10 * clogged**1.5,
        "ambient": 23.0 - 5.0 * np.cos(around - 0.6) + swing(2.0, 1500.0),
    }
    return result


def _healthy(
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


def _strained(machine: MotorPumpSet, found: Disturbance, seconds: Array, healthy: dict[str, Array]) -> dict[str, Array]:
    """What a disturbance makes of the values of the rows from its onset on: those that it changes.

    Its growth is scaled such that under the conditions of the onset it reaches the threshold when it has grown to 1.
    """
    grown = found.growth(seconds)
    at_onset = {name: float(value[0]) for name, value in healthy.items()}
    diesel = machine.drive == "diesel"
    turns = healthy["Eng_RPM"] > 0.05 * machine.rated_rpm
    if found.cause == "oil":
        # Below half full the oil pump draws air.
        enough = min(OIL_LOW_BAR / at_onset["Oil_P"], 1.0)
        level = healthy["Oil_L"] - (at_onset["Oil_L"] - (10.0 + 45.0 * enough**1.5)) * grown
        drawn = np.clip((level - 10.0) / 45.0, 0.0, 1.0) ** (1.0 / 1.5)
        return {"Oil_L": np.maximum(level, 0.0), "Oil_P": healthy["Oil_P"] * drawn}
    if found.cause == "cooling":
        hotter = (HOT_C - at_onset["Cool_T" if diesel else "Oil_T"]) * grown
        oil = 0.9 * hotter if diesel else hotter
        changed = {"Oil_T": healthy["Oil_T"] + oil, "Oil_P": healthy["Oil_P"] * np.exp(-oil / VISCOUS_K)}
        return changed | ({"Cool_T": healthy["Cool_T"] + hotter} if diesel else {})
    if found.cause == "suction":
        grown = grown * turns
        changed = {
            "Succao": healthy["Succao"] - (at_onset["Succao"] - PRIME_BAR) * grown,
            "head": healthy["head"] * (1.0 - 0.3 * np.minimum(grown, 1.0)),
            "Intake": healthy["Intake"] + 6.0 * grown,
            "air": 2.5 * grown,
        }
        return changed | {name: healthy[name] * (1.0 - 0.12 * grown) for name in ("Fuel_Con", "Exaust") if diesel}
    if found.cause == "fuel":
        hunting = 0.03 * grown * np.sin(2.0 * np.pi * seconds / (5.3 * machine.interval_s))
        speed = np.maximum(1.0 - 0.12 * grown + hunting, 0.6)
        return {
            "Eng_RPM": healthy["Eng_RPM"] * speed,
            "head": healthy["head"] * speed**2,
            "Oil_P": healthy["Oil_P"] * speed,
            "Fuel_Con": healthy["Fuel_Con"] * np.maximum(1.0 - 0.35 * grown, 0.3),
            "Exaust": healthy["Exaust"] * (1.0 - 0.12 * np.minimum(grown, 1.5)),
        }
    if found.cause == "charging":
        lost = np.minimum(1.5 * grown, 1.0)
        return {
            "Char_V": healthy["Char_V"] * (1.0 - 0.25 * lost),
            "Bat_V": healthy["Bat_V"] - (at_onset["Bat_V"] - BATTERY_V) * grown,
        }
    return {}


def _minutes(seconds: Array, command: NDArray[np.bool_]) -> Array:
    """Minutes since the last start, 0 while the set is not meant to run."""
    starts = command & ~np.concatenate([[False], command[:-1]])
    begun = np.maximum.accumulate(np.where(starts, seconds, 0.0))
    minutes: Array = np.where(command, np.floor((seconds - begun) / 60.0), 0.0)
    return minutes
