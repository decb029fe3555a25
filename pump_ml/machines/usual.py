"""How far a machine is from its usual self: what its alarm looks at.

A machine trips a dozen times a month for half a dozen causes, too few to learn each cause from. What all of them share
is that some sensors leave what is usual under the conditions of the moment, faster and faster, and come near to the
limits that the controller protects. So the trees are not told which sensor that is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pump_ml.machines.preparation import RUNNING, Prepared
from pump_ml.machines.trips import SPEED, operating

Array = NDArray[np.float64]

MINUTE, LEVEL = 60.0, 300.0
"""Seconds over which readings are averaged: free of noise, and of the course."""
BEFORE = (1800.0, 5400.0)
"""What a minute is compared with: the mean of what lies between so many seconds before it."""
SPEEDS = (300.0, 900.0, 1800.0, 3600.0)
"""Seconds over which the speed is averaged: exhaust, water, oil and fuel are as warm as the load of such a time made
them, and the speed of a station that empties a sump changes more often than that."""
AGES_MIN = (20.0, 60.0, 150.0)
"""Minutes since the start between which the usual deviations differ: they are larger while a machine warms up."""
SLOPES_MIN = (5.0, 10.0, 20.0)
FURTHEST = 30.0
"""Deviations are cut at so many of the usual ones."""
TAIL, TAIL_SIGMAS = 0.95, 1.96
"""Share of a normal variable's deviations that are at most so many standard deviations."""
LEAST_MOMENTS = 200
"""Fewer of an age do not tell what is usual at it."""
RIDGE, SHRINK = 1e-2, 0.1
RESTLESS = "restless"
"""Column of the mean step of the speed from reading to reading: an engine that gets too little fuel hunts."""
SINCE = "minutes_running"
"""Column of the minutes since the last start, where the controller tells them."""
NOT_SENSORS = (RUNNING, SINCE)


@dataclass(frozen=True, eq=False)
class Moments:
    """A machine at work, each `every_s` seconds.

    Args:
        at: times in seconds since 1970, ascending, ``(n,)``.
        run: number of the uninterrupted run of the machine, ascending, ``(n,)``.
        since_min: minutes since the machine was started, as the controller tells, ``(n,)``; else since the run began,
            which a gap in the readings ends as well.
        sensors: columns of `minute`: those of the machine, and `RESTLESS`.
        minute: means over the last minute, ``(n, sensors)``, of `RESTLESS` over `LEVEL`; NaN where nothing is known.
        speed: means of the speed over each of `SPEEDS`, ``(n, 4)``.
    """

    at: Array
    run: NDArray[np.int64]
    since_min: Array
    sensors: tuple[str, ...]
    minute: Array
    speed: Array

    def of(self, sensors: tuple[str, ...]) -> Array:
        """Some columns of `minute`, ``(n, sensors)``."""
        found: Array = self.minute[:, [self.sensors.index(name) for name in sensors]]
        return found


def observe(prepared: Prepared, every_s: float) -> Moments:
    """The moments of a machine at work; nothing in them is of what comes later, nor of before it was started."""
    at, works = prepared.seconds, operating(prepared)
    begins = np.concatenate([[True], (np.diff(prepared.stretch) != 0) | (works[1:] != works[:-1])])
    run = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)[run]
    slot = np.floor((at - at[first]) / every_s)
    chosen = np.flatnonzero(works & np.concatenate([[True], (np.diff(slot) != 0) | begins[1:]]))
    sensors = tuple(name for name in prepared.sensors if name not in NOT_SENSORS)

    def mean(values: Array, span_s: float) -> Array:
        known = np.isfinite(values)
        level = float(np.median(values[known])) if known.any() else 0.0
        # Sums of small numbers keep their digits.
        sums = np.concatenate([[0.0], np.cumsum(np.where(known, values - level, 0.0))])
        counts = np.concatenate([[0], np.cumsum(known)])
        begin = np.maximum(np.searchsorted(at, at[chosen] - span_s, side="right"), first[chosen])
        with np.errstate(invalid="ignore"):  # nothing known: NaN
            found: Array = (sums[chosen + 1] - sums[begin]) / (counts[chosen + 1] - counts[begin]) + level
        return found

    since = (at[chosen] - at[first[chosen]]) / 60.0
    if SINCE in prepared.sensors:
        told = prepared.column(SINCE)[chosen]
        since = np.where(np.isfinite(told), told, since)
    speed = prepared.column(SPEED)
    steps = np.where(begins, np.nan, np.abs(np.diff(speed, prepend=np.nan)))
    return Moments(
        at=at[chosen],
        run=run[chosen],
        since_min=since,
        sensors=(*sensors, RESTLESS),
        minute=np.column_stack([*(mean(prepared.column(name), MINUTE) for name in sensors), mean(steps, LEVEL)]),
        speed=np.column_stack([mean(speed, span) for span in SPEEDS]),
    )


@dataclass(frozen=True, eq=False)
class Usual:
    """What a machine shows while nothing is wrong, learnt from moments long before a trip.

    Args:
        sensors: that it looks at.
        middle: median of each, in its unit, ``(sensors,)``.
        mean: of the conditions, ``(conditions,)``.
        scale: of the conditions, ``(conditions,)``.
        coefficients: what the conditions make of the sensors (ridge), ``(conditions, sensors)``.
        spread: usual deviation of each sensor from that, at each age since the start, ``(ages, sensors)``.
        changes: usual change of a deviation against before, and within ten minutes, ``(2, ages, sensors)``.
        precision: inverse covariance of deviations and of both changes, ``(3, sensors, sensors)``.
        centre: of the same, ``(3, sensors)``.
        limits: by sensor, the value at which the controller stops the machine.
    """

    sensors: tuple[str, ...]
    middle: Array
    mean: Array
    scale: Array
    coefficients: Array
    spread: Array
    changes: Array
    precision: Array
    centre: Array
    limits: Mapping[str, float]

    @classmethod
    def fit(cls, moments: Moments, healthy: NDArray[np.bool_], limits: Mapping[str, float]) -> Self:
        """Learn from the healthy moments.

        Args:
            moments: of the machine.
            healthy: those of the training part that are long before a trip, ``(n,)``.
            limits: of the plant; those of sensors that the machine does not have are left out.
        """
        found = moments.minute[healthy]
        # One that does not move tells nothing, and any move of it later would be infinitely far.
        moves = np.nanmax(found, axis=0) - np.nanmin(found, axis=0) > 1e-6 * np.abs(np.nanmedian(found, axis=0))
        sensors = tuple(name for name, moved in zip(moments.sensors, moves, strict=True) if moved or name == SPEED)
        table = moments.of(sensors)
        middle = np.nanmedian(table[healthy], axis=0)
        minute = np.where(np.isfinite(table), table, middle)
        conditions = _conditions(moments, middle[sensors.index(SPEED)])
        mean, scale = conditions[healthy].mean(axis=0), conditions[healthy].std(axis=0) + 1e-9
        mean[0], scale[0] = 0.0, 1.0  # the constant
        given = (conditions - mean) / scale
        penalty = RIDGE * healthy.sum() / 100.0 * np.eye(given.shape[1])
        penalty[0, 0] = 0.0  # the constant
        square = given[healthy].T @ given[healthy] + penalty
        coefficients = np.linalg.solve(square, given[healthy].T @ minute[healthy])
        off = minute - given @ coefficients
        ages = np.digitize(moments.since_min, AGES_MIN)
        spread = _scatters(off, healthy, ages)
        now, before, ten = _courses(_cut(off / spread[ages]), moments)
        changes = np.array([_scatters(now - then, healthy, ages) for then in (before, ten)])
        told = (now, *(_cut((now - then) / usual[ages]) for then, usual in zip((before, ten), changes, strict=True)))
        centre = np.array([np.median(each[healthy], axis=0) for each in told])
        precision = []
        for each in told:
            covariance = np.atleast_2d(np.cov(np.clip(each[healthy], -8.0, 8.0), rowvar=False))
            diagonal = np.diag(np.diag(covariance)) + 1e-6 * np.eye(len(covariance))
            precision.append(np.linalg.inv(covariance + SHRINK * diagonal))
        kept = {name: float(limit) for name, limit in limits.items() if name in sensors}
        return cls(sensors, middle, mean, scale, coefficients, spread, changes, np.array(precision), centre, kept)

    def features(self, moments: Moments) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """What the trees see, ``(n, features)``, and its names. A missing reading counts as the usual one.

        The largest deviations of single sensors, and of all of them together (Mahalanobis); how much of the way from
        the usual value to the protection's limit is left (1 to 0), how fast it gets less, and when it is used up.
        """
        table = moments.of(self.sensors)
        known = np.isfinite(table)
        expected = (_conditions(moments, self.middle[self.sensors.index(SPEED)]) - self.mean) / self.scale
        expected = expected @ self.coefficients
        minute = np.where(known, table, expected)
        ages = np.digitize(moments.since_min, AGES_MIN)
        now, before, ten = _courses(_cut((minute - expected) / self.spread[ages]), moments)
        told = {
            "level": now,
            "change": _cut((now - before) / self.changes[0][ages]),
            "course": _cut((now - ten) / self.changes[1][ages]),
        }
        found: dict[str, Array] = {}
        for place, (name, each) in enumerate(told.items()):
            apart = each - self.centre[place]
            pulled = apart @ self.precision[place]
            alone = _cut(pulled / np.sqrt(np.diag(self.precision[place])))  # given all other sensors
            found[f"{name}_together"] = np.sqrt(np.maximum((pulled * apart).sum(axis=1), 0.0))
            for what, values in ((name, each), (f"{name}_alone", alone)):
                largest = np.sort(np.abs(values), axis=1)
                found[f"{what}_largest"] = largest[:, -1]
                found[f"{what}_second"] = largest[:, max(-2, -largest.shape[1])]
        found["change_together_5min"] = _trailing(found["change_together"][:, None], moments, 0.0, LEVEL)[:, 0]
        found |= self._margins(moments, minute, expected)
        return np.column_stack(list(found.values())).astype(np.float32), tuple(found)

    def _margins(self, moments: Moments, minute: Array, expected: Array) -> dict[str, Array]:
        """How much is left to the limits: 1 is usual, at 0 the controller stops the machine."""
        left = []
        for name, limit in self.limits.items():
            place = self.sensors.index(name)
            way = self.middle[place] - limit
            whole = np.maximum(abs(way) * 0.3, np.abs(expected[:, place] - limit))
            left.append(np.clip((minute[:, place] - limit) * np.sign(way) / whole, -1.0, 3.0))
        if not left:
            return {}
        margins = np.column_stack(left)
        now = _trailing(margins, moments, 0.0, MINUTE)
        falls = [
            (now - _trailing(margins, moments, 60.0 * (each - 1.0), 60.0 * (each + 1.0))) / each for each in SLOPES_MIN
        ]
        drop = now - _trailing(margins, moments, *BEFORE)
        rows, nearest, fallen = np.arange(len(now)), now.argmin(axis=1), drop.argmin(axis=1)
        ordered = np.sort(now, axis=1)
        found = {
            "margin_least": ordered[:, 0],
            "margin_second": ordered[:, min(1, ordered.shape[1] - 1)],
            "margin_least_drop": drop[rows, nearest],
            "margin_drop": drop.min(axis=1),
            "margin_dropped": now[rows, fallen],
            "margin_dropped_fall_10min": falls[1][rows, fallen],
            "margin_fall": falls[1].min(axis=1),
        }
        for minutes, fall in zip(SLOPES_MIN, falls, strict=True):
            found[f"margin_least_fall_{minutes:g}min"] = fall[rows, nearest]
            ends = np.where(fall < -1e-4, now / np.maximum(-fall, 1e-4), 999.0)
            found[f"minutes_left_{minutes:g}min"] = np.minimum(ends.min(axis=1), 999.0)
        return found

    def to_json(self) -> dict[str, Any]:
        """For the model's file."""
        arrays = {name: value.tolist() for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {**arrays, "sensors": list(self.sensors), "limits": dict(self.limits)}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        arrays = {name: np.array(value) for name, value in state.items() if name not in ("sensors", "limits")}
        return cls(sensors=tuple(state["sensors"]), limits=state["limits"], **arrays)


def _conditions(moments: Moments, rated: float) -> Array:
    """What the machine is asked and how warm it is: speed now and before, time since the start, time of the day."""
    now = moments.minute[:, moments.sensors.index(SPEED)]
    now = np.where(np.isfinite(now), now, rated) / rated
    past = [np.where(np.isfinite(each), each, rated) / rated for each in moments.speed.T]
    since, day = moments.since_min, moments.at / 86400.0 * 2.0 * np.pi
    warm = [np.exp(-since / minutes) for minutes in (5.0, 15.0, 40.0)]
    return np.column_stack(
        [np.ones_like(now), now, now**2, now**3, *past, *(each**2 for each in past), *warm, np.sin(day), np.cos(day)]
    )


def _courses(deviation: Array, moments: Moments) -> tuple[Array, Array, Array]:
    """Deviations now, before (`BEFORE`) and ten minutes ago, each over some minutes."""
    now = _trailing(deviation, moments, 0.0, 120.0)
    return now, _trailing(deviation, moments, *BEFORE), _trailing(deviation, moments, 480.0, 720.0)


def _trailing(values: Array, moments: Moments, nearest_s: float, furthest_s: float) -> Array:
    """Mean over what lies between so many seconds before, in the same run; nearer ones where the run is younger."""
    at, count = moments.at, len(moments.at)
    first = np.searchsorted(moments.run, moments.run, side="left")
    sums = np.vstack([np.zeros(values.shape[1]), np.cumsum(values, axis=0)])
    begin = np.maximum(np.searchsorted(at, at - furthest_s, side="right"), first)
    end = np.searchsorted(at, at - nearest_s, side="right")
    end = np.minimum(np.maximum(end, begin + 1), np.arange(count) + 1)
    begin = np.minimum(begin, end - 1)
    found: Array = (sums[end] - sums[begin]) / (end - begin)[:, None]
    return found


def _scatters(values: Array, healthy: NDArray[np.bool_], ages: NDArray[np.int64]) -> Array:
    """Usual deviation of the healthy ones at each age, ``(ages, sensors)``; of all where an age has too few."""
    whole = _scatter(values[healthy])
    found = [values[healthy & (ages == age)] for age in range(len(AGES_MIN) + 1)]
    return np.array([_scatter(each) if len(each) >= LEAST_MOMENTS else whole for each in found])


def _scatter(values: Array) -> Array:
    """Usual deviation from the median, as a standard deviation; never 0.

    Robust against what is rare and far; but that a value moved tells nothing where it often does while nothing is
    wrong, as a fuel level at each filling, so its usual deviation reaches to the quantile `TAIL`.
    """
    centred = np.abs(values - np.median(values, axis=0))
    wide = np.maximum(1.4826 * np.median(centred, axis=0), np.quantile(centred, TAIL, axis=0) / TAIL_SIGMAS)
    scatter: Array = np.maximum(wide, 0.1 * values.std(axis=0) + 1e-9)
    return scatter


def _cut(values: Array) -> Array:
    cut: Array = np.clip(values, -FURTHEST, FURTHEST)
    return cut


def directions(names: Sequence[str]) -> dict[str, int]:
    """Whether a trip is the likelier the larger (1) or the smaller (-1) a feature is.

    A machine is not safer for being further from its usual self, or nearer to a limit. A dozen trips are too few for
    trees to find that out everywhere.
    """
    signs = {"level": 1, "change": 1, "course": 1, "margin": -1, "minutes": -1}
    return {name: signs[name.split("_")[0]] for name in names}
