"""What is asked of a pump over days and weeks: demand, stand-stills, weather.

Demand is followed by speed where there is a converter, else by throttling. All swings are first-order random walks
around a daily and a weekly course; their sizes are the twin's assumptions.
"""

from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from pump_ml.twin.fleet import Pump
from pump_ml.twin.operation import Demand

Array = NDArray[np.floating[Any]]

DAY_H, WEEK_H, YEAR_H = 24.0, 168.0, 8766.0


def wander(shape: tuple[int, ...], step_s: float, memory_min: float, rng: np.random.Generator, kind: Any) -> Array:
    """A first-order random walk of unit variance along the last axis, that forgets within `memory_min` minutes."""
    keep = float(np.exp(-step_s / (60.0 * memory_min)))
    shocks = rng.standard_normal(shape, dtype=kind)
    shocks[..., 1:] *= kind(np.sqrt(1.0 - keep**2))  # the first is as it is: the walk starts in balance
    result: Array = lfilter([kind(1.0)], [kind(1.0), kind(-keep)], shocks, axis=-1)
    return result


def stretches(pump: Pump, days: Array, readings: int, step_s: float, rng: np.random.Generator) -> Demand:
    """Stretches apart from each other, each at a demand and in weather of its own; the pump runs in all of them.

    Args:
        pump: the pump set.
        days: when each begins, in days since commissioning, ``(stretches,)``.
        readings: of a stretch.
        step_s: between them.
        rng: source of the demand.
    """
    shape, kind = (len(days), readings), np.float64

    def level(low: float, high: float) -> Array:
        return rng.uniform(low, high, (len(days), 1))

    def swing(size: float, memory_min: float) -> Array:
        return size * wander(shape, step_s, memory_min, rng, kind)

    speed, slow = level(0.80, 1.0), swing(0.01, 15.0)
    resistance = (1.0 - pump.site.static_head) * np.exp(level(-0.3, 0.3) + swing(0.05, 20.0))
    return Demand(
        speed=speed + slow if pump.site.variable_speed else np.ones(shape),
        resistance=resistance,
        ambient_c=pump.site.ambient_c + level(-6.0, 6.0) + swing(0.3, 60.0),
        liquid_c=pump.site.liquid_c + level(-3.0, 3.0) + swing(0.2, 60.0),
        days=np.asarray(days, dtype=kind)[:, None] + np.arange(readings) * (step_s / 86400.0),
        step_s=step_s,
    )


def calendar(pump: Pump, hours: NDArray[np.float64], step_s: float, rng: np.random.Generator) -> Demand:
    """Weeks on end, as the calendar goes; float32.

    Demand is highest in the morning and the evening of working days. A pump that does not run day and night runs from
    6 to 22 o'clock on working days, and now and then for less.

    Args:
        pump: the pump set.
        hours: of each reading, since Monday 0:00 UTC of the week of commissioning.
        step_s: between readings.
        rng: source of the demand.
    """
    kind, count = np.float32, len(hours)
    hour = (hours % DAY_H).astype(kind)
    weekday = (hours % WEEK_H < 5 * DAY_H).astype(kind)
    around = kind(2.0 * pi / DAY_H) * hour
    daily = -np.cos(around) * kind(0.6) - np.cos(kind(2.0) * around + kind(1.0)) * kind(0.4)
    course = daily * (kind(0.4) + kind(0.6) * weekday) + kind(0.5) * wander((count,), step_s, 300.0, rng, kind)
    season = np.cos((2.0 * pi / YEAR_H) * (hours - 200.0 * DAY_H)).astype(kind)
    ambient = (
        kind(pump.site.ambient_c) + kind(6.0) * season - kind(3.0) * np.cos(around - kind(0.6))
        + kind(1.5) * wander((count,), step_s, 1500.0, rng, kind)
    )  # fmt: skip
    liquid = kind(pump.site.liquid_c) + kind(3.0) * season + kind(0.5) * wander((count,), step_s, 600.0, rng, kind)
    quick = wander((count,), step_s, 20.0, rng, kind)
    speed = np.ones(count, dtype=kind)
    if pump.site.variable_speed:
        speed = np.clip(kind(0.90) + kind(0.05) * course + kind(0.01) * quick, kind(0.78), kind(1.0))
    throttled = kind(-0.12) * course if not pump.site.variable_speed else kind(0.05) * course
    resistance = kind(1.0 - pump.site.static_head) * np.exp(np.clip(throttled, -0.35, 0.35) + kind(0.05) * quick)
    if not pump.site.continuous:
        shift = (hour >= 6.0) & (hour < 22.0) & (weekday > 0)
        speed = speed * shift
    return Demand(speed, resistance, ambient, liquid, (hours / DAY_H).astype(kind), step_s)
