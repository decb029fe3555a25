"""When a machine works, when it trips, and how well alarms told of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pump_ml.machines.policy import Alarm
from pump_ml.machines.preparation import RUNNING, Prepared

SPEED = "Eng_RPM"
"""Column of the speed of the engine, or of the motor, in revolutions a minute."""
STANDSTILL = 0.1
"""Share of the speed that a machine has most of the time, below which it does not work: it starts or stops."""

OLDEST = 4.0
"""An alarm that began more than so many leads before a trip does not count as one that told of it."""

Array = NDArray[np.float64]


def operating(prepared: Prepared) -> NDArray[np.bool_]:
    """Whether the machine works: it is told to run, and turns, ``(rows,)``; where it doesn't say so, all the time."""
    works = np.ones(len(prepared), dtype=np.bool_)
    if RUNNING in prepared.sensors and np.isfinite(told := prepared.column(RUNNING)).any():
        works &= told >= 0.5
    if SPEED in prepared.sensors:
        speed = prepared.column(SPEED)
        turning = speed[works & (speed > 0.0)]
        if len(turning):
            works &= speed >= STANDSTILL * np.median(turning)
    return works


def trips(prepared: Prepared, policy: Alarm) -> NDArray[np.int64]:
    """Rows of unasked stops: the speed fell by the share `fall` or more since the reading before, and nobody asked.

    Nobody asked where the controller still says that the machine runs. A fall across a gap is not known.
    """
    speed, told = prepared.column(SPEED), prepared.column(RUNNING) >= 0.5
    fell = (speed[:-1] >= policy.least_rpm) & (speed[1:] <= (1.0 - policy.fall) * speed[:-1])
    unasked = told[:-1] & told[1:] & (np.diff(prepared.stretch) == 0)
    return np.flatnonzero(fell & unasked) + 1


@dataclass(frozen=True)
class Episode:
    """An alarm from its beginning to its end, in seconds since 1970."""

    begin: float
    end: float


def episodes(at: Array, probability: Array, run: NDArray[np.int64], threshold: float, policy: Alarm) -> list[Episode]:
    """Alarms with hysteresis: above the threshold for a while they begin, well below it, or at a stop, they end.

    Args:
        at: times of the answers in seconds, ascending, ``(n,)``.
        probability: of a trip, ``(n,)``.
        run: number of the uninterrupted run of the machine that each answer lies in, ascending, ``(n,)``.
        threshold: of the probability.
        policy: how long, and how far below.
    """
    found: list[Episode] = []
    since = begin = None
    for number, (now, value) in enumerate(zip(at.tolist(), probability.tolist(), strict=True)):
        if number and run[number] != run[number - 1]:
            if begin is not None:
                found.append(Episode(begin, float(at[number - 1])))
            since = begin = None
        if begin is not None:
            if value < policy.off_below * threshold:
                found.append(Episode(begin, now))
                since = begin = None
        elif value < threshold:
            since = None
        else:
            since = now if since is None else since
            begin = now if now - since >= policy.on_for_s else None
    if begin is not None:
        found.append(Episode(begin, float(at[-1])))
    return found


@dataclass(frozen=True)
class Caught:
    """How alarms and trips went together.

    Args:
        trips: that could have been warned of: the machine worked before them.
        caught: those before which an alarm was on at some time of the lead.
        lead_min: from the beginning of the alarm to the trip, of those caught, in minutes.
        alarms: episodes.
        false: those that no trip followed within the lead, or only after hours.
        on_s: how long alarms were on, in seconds.
    """

    trips: int
    caught: int
    lead_min: tuple[float, ...]
    alarms: int
    false: int
    on_s: float


def catch(alarms: Sequence[Episode], trips_at: Array, lead_s: float) -> Caught:
    """Hold alarms against trips.

    An alarm tells of a trip when it is on at some time from `lead_s` before it until it; one that ended earlier, or was
    followed by none, is false; so is one that began more than `OLDEST` leads before it.
    """
    begin, end = (np.array([getattr(each, name) for each in alarms]) for name in ("begin", "end"))
    told = (begin[None, :] < trips_at[:, None]) & (end[None, :] >= trips_at[:, None] - lead_s)
    told &= begin[None, :] >= trips_at[:, None] - OLDEST * lead_s  # an alarm that is on for hours tells nothing
    lead = [float((trip - begin[row].min()) / 60.0) for trip, row in zip(trips_at, told, strict=True) if row.any()]
    false = int((~told.any(axis=0)).sum()) if len(alarms) else 0
    on_s = float(sum(each.end - each.begin for each in alarms))
    return Caught(len(trips_at), len(lead), tuple(lead), len(alarms), false, on_s)
