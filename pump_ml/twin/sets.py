"""Motor pump sets in the field, and the telemetry that their controllers report every few seconds.

A disturbance (`pump_ml.twin.set_events`) changes what a set shows (`pump_ml.twin.set_physics`) until a protective
threshold is crossed, and that is the trip: the speed falls within one row while the controller still shows ``running``
1. ``Hydraulic_Head`` is in metres of water; the other units stand in `pump_ml.twin.set_physics`.
"""

from dataclasses import replace
from datetime import UTC, datetime
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml.errors import ConfigurationError
from pump_ml.twin import set_events, set_physics
from pump_ml.twin.set_events import DAY_S, Array, Disturbance, Run
from pump_ml.twin.set_physics import BAR_M, MotorPumpSet
from pump_ml.twin.set_readings import DIRTY, SENSORS, Dirt, measured, soil

__all__ = ["MotorPumpSet", "fleet", "history", "simulate"]

ENGINE_ONLY = ("Fuel_T", "Cool_T", "Fuel_L", "Fuel_Con", "Exaust")
MOST_SETS, MOST_DAYS = 9999, 400.0


def fleet(machines: int, seed: int) -> tuple[MotorPumpSet, ...]:
    """Machines that differ; the same seed gives the same ones, and a larger fleet begins with those of a smaller.

    Every third is electric, every seventh reports its pressures through the analogue inputs.

    Args:
        machines: how many, 1 to 9999.
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
    causes = set_events.CAUSES["electric" if electric else "diesel"]
    return MotorPumpSet(
        name=f"MP-{number + 1:03d}",
        drive="electric" if electric else "diesel",
        rated_rpm=float(rng.choice([1475.0, 1780.0] if electric else [1800.0, 2100.0])),
        rated_head_m=float(np.round(rng.uniform(35.0, 110.0), 1)),
        interval_s=float(np.round(rng.uniform(5.0, 12.0), 1)),
        trips_a_month=float(rng.uniform(8.0, 16.0)),
        weakness=str(rng.choice(list(causes), p=list(causes.values()))),
        continuous=bool(rng.random() < 0.6),
        variable=not electric or bool(rng.random() < 0.5),
        flexible=number % 7 == 4,
        memory_min=float(rng.uniform(10.0, 60.0)),
        fill_min=float(rng.uniform(6.0, 20.0)),
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
    drawn = set_events.draw(machine.drive, machine.weakness, machine.trips_a_month, days, runs, rng)
    around = set_physics.surroundings(machine, hour + seconds / 3600.0, rng)
    # The inflow and the weather do not depend on what goes wrong, so when a threshold is crossed can be told from the
    # course without trips; a disturbance begins long after the last restart, when the set is as warm as without it.
    turning, _ = _states(seconds, runs, [])
    healthy = set_physics.healthy(machine, seconds, turning, around)
    happened = [found for each in drawn if (found := _outcome(machine, each, seconds, healthy)) is not None]
    turning, command = _states(seconds, set_events.with_trips(runs, happened), happened)
    values = set_physics.healthy(machine, seconds, turning, around)
    for each in happened:
        rows_of = slice(*np.searchsorted(seconds, [each.onset_s, each.over_s]))
        part = {name: value[rows_of] for name, value in values.items()}
        for name, changed in set_physics.strained(machine, each, seconds[rows_of], part).items():
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
    crossed = set_physics.crossed(
        machine, drawn.cause, part | set_physics.strained(machine, drawn, seconds[rows], part), part
    )
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


def _minutes(seconds: Array, command: NDArray[np.bool_]) -> Array:
    """Minutes since the last start, 0 while the set is not meant to run."""
    starts = command & ~np.concatenate([[False], command[:-1]])
    begun = np.maximum.accumulate(np.where(starts, seconds, 0.0))
    minutes: Array = np.where(command, np.floor((seconds - begun) / 60.0), 0.0)
    return minutes
