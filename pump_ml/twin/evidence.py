"""What the readings of a window say about fault and damage: their likelihood, from the twin's own equations.

The observer knows a pump's curves, site and condition when new, and its instruments as well as a commissioning record
leaves them known. For a fault and a damage the twin works out what the instruments would show over the window's own
sequence of demand; what was shown may lie beside it by

- noise, resolution, the flicker of vibration and the scatter of its short records, reading by reading;
- demand and weather, reading by reading: nobody is told them, so they pull all sensors along at once;
- what commissioning leaves of each instrument's constant errors, and its drift, alike over the window;
- the growth of the damage inside the window, which ends at the damage in question; in `SEGMENTS` steps.

All of these are Gaussian, and act in straight lines around the truth; the leakage, which a display cuts at zero, has
the mean and variance of a Gaussian cut there. Readings that an instrument did not show, or while it was stuck, count
as unseen.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator
from scipy.special import ndtr

from pump_ml.twin import degradation, vibration
from pump_ml.twin.degradation import FaultMode
from pump_ml.twin.fleet import Pump
from pump_ml.twin.instruments import NAMES, SENSORS, Options
from pump_ml.twin.operation import Demand, full_scales, operate

Array = NDArray[np.float64]

DEMAND_SPREAD = {"speed": 0.058, "resistance": 0.17, "ambient_c": 3.5, "liquid_c": 1.7}
"""Standard deviation of demand and weather over a fleet (`pump_ml.twin.duty`): wide beside what the sensors tell of
them. Resistance as a share; a fixed speed is known."""
COMMISSIONING_READINGS = 120
CLOSER = 4
"""Damages tried on both sides of the best one of a first round."""
SEGMENTS = 6
"""Steps of the damage inside a window."""
FAULTY_H = 2_000.0
"""Hours from a fault's onset to the end, about half of a median life of v3."""
FLOOR = 1e-5
"""Share of full scale to which nothing is known better, so that ideal instruments divide nothing by zero."""


LEAKAGE = NAMES.index("seal_leakage_l_h")
CUT = [NAMES.index("oil_pressure_bar"), LEAKAGE]
"""Sensors with an error of zero that come to nothing: the oil's pressure at rest, the leakage when all is well."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Windows of one pump.

    Args:
        pump: the pump set.
        options: of its instruments.
        shown: ``(windows, readings, sensors)``, NaN where nothing was shown or a sensor was stuck.
        demand: ``(windows, before + readings)``, float64; the first `before` readings only warm the pump up.
        before: how many.
        blocks: that the readings of a window are averaged in: as many as readings keeps each, 1 takes their mean.
        grows: whether damage grows inside a window.
        known: by how many standard deviations the commissioning record misleads about each sensor, ``(sensors,)``.
    """

    pump: Pump
    options: Options
    shown: Array
    demand: Demand
    before: int
    blocks: int
    grows: bool
    known: Array


def curves(seen: Seen, fault: FaultMode, knots: Array) -> list[Akima1DInterpolator]:
    """Log likelihood of each window as a function of the damage.

    Args:
        seen: the windows.
        fault: at work.
        knots: damages at which it is worked out, ``(damages,)``; then, beside the best of them, `CLOSER` more a side.
    """
    first = np.broadcast_to(knots, (len(seen.shown), len(knots)))
    found = log_likelihood(seen, fault, first)
    best = found.argmax(axis=1).clip(1, len(knots) - 2)
    parts = np.arange(1, CLOSER + 1) / (CLOSER + 1)
    closer = np.concatenate(
        [knots[best + side, None] + (knots[best + side + 1] - knots[best + side])[:, None] * parts for side in (-1, 0)],
        axis=1,
    )
    damage = np.concatenate([first, closer], axis=1)
    found = np.concatenate([found, log_likelihood(seen, fault, closer)], axis=1)
    order = np.argsort(damage, axis=1)
    # Akima's curves are local: unlike a spline they do not swing where cavitation begins.
    return [Akima1DInterpolator(at[by], value[by]) for at, value, by in zip(damage, found, order, strict=True)]


def log_likelihood(seen: Seen, fault: FaultMode, damage: Array) -> Array:
    """Of each window under each damage at its end, both ``(windows, damages)``; a constant is left out."""
    path, growth = _path(seen, fault, damage)
    each = _expected(seen, fault, path, seen.demand)
    counts = np.isfinite(seen.shown)[:, None]
    number = _added(counts, seen.blocks)
    once = np.maximum(number, 1)
    shown = _added(np.nan_to_num(seen.shown)[:, None], seen.blocks) / once
    expected = _added(each * counts, seen.blocks) / once
    more, own, demanded, scattered = _spread(seen, fault, path, expected)
    constant, drift = _constant(seen, expected, own + np.sum(np.square(scattered), axis=-1))
    expected = expected + more + constant * seen.known
    # A mean over a block scatters less; what demand does to it is the same throughout.
    own, scattered = own / once, scattered / np.sqrt(once.max(axis=-1))[..., None, None]
    expected, own, share = _cut(seen, expected, own)
    pulls = np.concatenate([demanded, scattered], axis=-1) * share[..., None]
    if seen.grows:
        steeper = (_expected(seen, fault, path + 2e-3, seen.demand) - each) / 2e-3 * share
        growth = -steeper[..., None] * growth[..., None, :]
    else:
        growth = np.zeros((*expected.shape, 0))
    return _gaussian(
        shown - expected, np.where(number > 0, own, np.inf), pulls, np.hypot(constant, drift) * share, growth
    )


def _gaussian(off: Array, variance: Array, pulls: Array, common: Array, growth: Array) -> Array:
    """Log density of what is off, by the inversion and determinant lemmas: first within a block, then across them.

    Args:
        off: ``(windows, damages, blocks, sensors)``.
        variance: of each by itself, infinite where it was not seen.
        pulls: what moves several at once in a block, one standard deviation each, ``(..., sensors, pulls)``.
        common: what moves a sensor in all blocks at once.
        growth: what moves all sensors in all blocks at once, ``(..., sensors, steps)``.
    """
    weight, sensors = 1.0 / variance, off.shape[-1]
    scaled = weight[..., None] * pulls
    root = np.linalg.cholesky(np.eye(pulls.shape[-1]) + np.swapaxes(pulls, -1, -2) @ scaled)
    across = np.linalg.solve(root, np.swapaxes(scaled, -1, -2))  # windows, damages, blocks, pulls, sensors
    told = (across @ off[..., None])[..., 0]
    quadratic = np.sum(weight * off**2, axis=(-1, -2)) - np.sum(told**2, axis=(-1, -2))
    spread = -np.sum(np.log(weight, where=weight > 0, out=np.zeros_like(weight)), axis=(-1, -2))
    spread += 2.0 * np.sum(np.log(np.diagonal(root, axis1=-2, axis2=-1)), axis=(-1, -2))

    lines = np.concatenate([across * common[..., None, :], across @ growth], axis=-1)
    lines = lines.reshape(*lines.shape[:2], -1, lines.shape[-1])
    middle = np.zeros((*quadratic.shape, lines.shape[-1], lines.shape[-1]))
    middle[..., range(sensors), range(sensors)] = np.sum(weight * common**2, axis=-2)
    crossed = np.sum((weight * common)[..., None] * growth, axis=2)
    middle[..., :sensors, sensors:], middle[..., sensors:, :sensors] = crossed, np.swapaxes(crossed, -1, -2)
    middle[..., sensors:, sensors:] = np.sum(np.swapaxes(growth, -1, -2) @ (weight[..., None] * growth), axis=2)
    middle += np.eye(middle.shape[-1]) - np.swapaxes(lines, -1, -2) @ lines
    weighed = weight * off
    right = np.concatenate(
        [np.sum(weighed * common, axis=2), np.sum(weighed[..., None] * growth, axis=(2, 3))], axis=-1
    )
    right -= (told.reshape(*told.shape[:2], 1, -1) @ lines)[..., 0, :]
    explained = np.sum(right * np.linalg.solve(middle, right[..., None])[..., 0], axis=-1)
    found: Array = -0.5 * (quadratic - explained + spread + np.linalg.slogdet(middle)[1])
    return found


def _path(seen: Seen, fault: FaultMode, damage: Array) -> tuple[Array, Array]:
    """Damage over a window that ends at `damage`, and how its growth there may differ from the mean.

    The mean is that of a life of usual length, ``share ** growth``; the scatter that of the gamma bridge back from the
    damage reached, and half of the growth for lives that are longer or shorter.

    Returns:
        Damage, ``(windows, damages, before + readings)``; what is still to come of each step's deviation, one standard
        deviation of it, ``(windows, damages, readings, steps)``.
    """
    operated = np.cumsum(seen.demand.speed > 0, axis=-1) * (seen.demand.step_s / 3600.0)
    left = operated[:, -1:] - operated  # hours of operation to the window's end
    if not seen.grows:
        return np.broadcast_to(damage[..., None], (*damage.shape, left.shape[-1])), np.zeros(0)
    hours = np.maximum(left[:, seen.before], 1e-6)[:, None]
    rate = fault.growth * np.maximum(damage, 1e-9) ** (1.0 - 1.0 / fault.growth) / FAULTY_H
    grown = np.minimum(rate * hours, damage)  # windows, damages
    path = np.maximum(damage[..., None] - grown[..., None] * (left / hours)[:, None], 0.0)
    step = grown / SEGMENTS
    jump = np.sqrt(damage * step / (degradation.SCATTER * damage + 1.0) + (0.5 * step) ** 2)
    to_come = np.clip((left / hours)[:, seen.before :, None] * SEGMENTS - np.arange(SEGMENTS), 0.0, 1.0)
    return path, jump[..., None, None] * to_come[:, None]


def _expected(seen: Seen, fault: FaultMode, path: Array, demand: Demand) -> Array:
    """What the instruments show on average, ``(windows, damages, readings, sensors)``, without the warm-up."""
    state = operate(seen.pump, fault, path, _apart(demand))
    return _read(seen, {**state.sensors, **vibration.features(state.levels)}, path.shape)


def _apart(demand: Demand) -> Demand:
    """With an axis for the damages between windows and readings."""
    return replace(demand, **{name: getattr(demand, name)[:, None] for name in (*DEMAND_SPREAD, "days")})


def _read(seen: Seen, values: dict[str, Any], shape: tuple[int, ...]) -> Array:
    """Instruments' answers to true values, with the errors that stay."""
    scales = full_scales(seen.pump)
    read = np.empty((*shape[:-1], shape[-1] - seen.before, len(SENSORS)))
    for place, ((sensor, instrument), errors) in enumerate(zip(SENSORS, seen.pump.errors, strict=True)):
        read[..., place] = values[sensor.name][..., seen.before :]
        if seen.options.bias:
            offset = errors.zero * (instrument.span * scales[sensor.name] + instrument.absolute)
            read[..., place] = read[..., place] * (1.0 + errors.gain * instrument.reading) + offset
    return read


def _added(values: Any, blocks: int) -> Array:
    """Sums over the readings of each block, ``(windows, damages, blocks, sensors)``."""
    windows, damages, readings, sensors = values.shape
    found: Array = values.reshape(windows, damages, blocks, readings // blocks, sensors).sum(axis=3)
    return found


SHAKEN = [place for place, name in enumerate(NAMES) if name.startswith(("vibration", "acceleration"))]
"""Places of the vibration monitor's figures."""
JOINT, SINGLE = len(vibration.FLICKER) + 4, 4
"""Draws of the flicker and of a record (`pump_ml.twin.vibration`): the last move one figure each."""


class _OneByOne:
    """Stands for a random generator, once for each draw: there the draw is a standard deviation, all others nothing."""

    def __init__(self) -> None:
        self.draw = 0

    def standard_normal(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """The next draw, up in one half along the first axis, and down in the other."""
        found = np.zeros(shape, dtype)
        found[self.draw], found[shape[0] // 2 + self.draw] = 1.0, -1.0
        self.draw += 1
        return found


def _shaken(seen: Seen, levels: vibration.Levels, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """What each draw does to the monitor's figures: slope and bend, ``(draws, ..., figures)``."""
    draws = JOINT + SINGLE
    names = [field.name for field in fields(levels) if field.name not in ("vanes", "blows", "non_drive_end")]
    tiled: dict[str, Any] = {name: np.broadcast_to(getattr(levels, name), (2 * draws, *shape)) for name in names}
    each = replace(levels, **tiled)
    rng: Any = _OneByOne()
    moved, usual = vibration.features(each.scattered(rng), rng), vibration.features(levels)
    slope, bend = np.empty((2, draws, *shape[:-1], shape[-1] - seen.before, len(SHAKEN)))
    for column, place in enumerate(SHAKEN):
        gain = 1.0 + seen.pump.errors[place].gain * SENSORS[place][1].reading * seen.options.bias
        figure = gain * moved[NAMES[place]][..., seen.before :]
        up, down = figure[:draws], figure[draws:]
        slope[..., column] = 0.5 * (up - down)
        bend[..., column] = 0.5 * (up + down) - gain * usual[NAMES[place]][..., seen.before :]
    return slope, bend


def _spread(seen: Seen, fault: FaultMode, path: Array, expected: Array) -> tuple[Array, Array, Array, Array]:
    """How a reading lies around what is expected, one standard deviation each.

    Returns:
        What scatter adds to the mean, and each sensor's own variance, ``(windows, damages, blocks, sensors)``; what
        demand and weather, and what flicker and scatter of vibration do to all of them, ``(..., sensors, pulls)``.
    """
    demand = seen.demand
    if seen.blocks == 1:
        names = (*DEMAND_SPREAD, "days")
        demand = replace(demand, **{name: getattr(demand, name).mean(axis=-1, keepdims=True) for name in names})
        path = path[..., -1:]
    state = operate(seen.pump, fault, path, _apart(demand))
    values = {**state.sensors, **vibration.features(state.levels)}
    base = _read(seen, values, path.shape)
    demanded = []
    for name, spread in DEMAND_SPREAD.items():
        if name == "speed" and not seen.pump.site.variable_speed:
            continue
        usual = getattr(demand, name)
        share = 1.0 if name.endswith("_c") else usual  # a pump at rest stays at rest
        moved = _expected(seen, fault, path, replace(demand, **{name: usual + 0.02 * spread * share}))
        demanded.append(50.0 * (moved - base))  # the slope counts, where the demand really was

    slope, bend = _shaken(seen, state.levels, path.shape)
    own, more, scattered = _noise(seen, expected), np.zeros_like(expected), np.zeros((*expected.shape, JOINT))
    more[..., SHAKEN] = bend.sum(axis=0)
    own[..., SHAKEN] += np.square(slope[JOINT:]).sum(axis=0)
    scattered[..., SHAKEN, :] = np.moveaxis(slope[:JOINT], 0, -1)
    return more, own, np.stack(demanded, axis=-1), scattered


def _noise(seen: Seen, expected: Array) -> Array:
    """Variance of a reading by noise and resolution."""
    scales = full_scales(seen.pump)
    variance = np.empty_like(expected)
    for place, (sensor, instrument) in enumerate(SENSORS):
        scale, value = scales[sensor.name], expected[..., place]
        variance[..., place] = (FLOOR * scale) ** 2
        if seen.options.noise:
            share = instrument.noise_reading
            variance[..., place] += (instrument.noise_span * scale) ** 2 + instrument.noise_absolute**2
            variance[..., place] += (share * value) ** 2
        if seen.options.quantisation:
            variance[..., place] += instrument.resolution**2 / 12.0
    return variance


def _constant(seen: Seen, expected: Array, scatter: Array) -> tuple[Array, Array]:
    """What the commissioning record leaves of constant errors, and the drift, ``(windows, damages, blocks, sensors)``.

    Args:
        seen: the windows.
        expected: what a sensor shows.
        scatter: variance of a reading.
    """
    scales = full_scales(seen.pump)
    constant = np.sqrt(scatter / COMMISSIONING_READINGS) * seen.options.bias
    # A zero so low that the record showed nothing but zeros is not known from it.
    zero = SENSORS[LEAKAGE][1].span * scales["seal_leakage_l_h"]
    low = seen.pump.new.leakage_l_h + seen.pump.errors[LEAKAGE].zero * zero
    above = ndtr(low / np.sqrt(scatter[..., LEAKAGE]))
    constant[..., LEAKAGE] = np.minimum(constant[..., LEAKAGE] / np.sqrt(np.maximum(above, 1e-6)), 0.5 * zero)
    span = np.array([instrument.drift_span * scales[sensor.name] for sensor, instrument in SENSORS])
    years = seen.demand.days[:, -1, None, None, None] / 365.25
    return constant, np.broadcast_to(0.5 * span * years * seen.options.drift, expected.shape)


def _cut(seen: Seen, expected: Array, variance: Array) -> tuple[Array, Array, Array]:
    """Mean and variance where a display shows no less than nothing, and what is left there of a slope."""
    share = np.ones_like(expected)
    own = _noise(seen, expected)[..., CUT]
    sigma, mean = np.sqrt(own), expected[..., CUT]
    above = ndtr(mean / sigma)
    density = np.exp(-0.5 * (mean / sigma) ** 2) / np.sqrt(2.0 * np.pi)
    shown = mean * above + sigma * density
    second = (mean**2 + own) * above + mean * sigma * density
    less = np.maximum(second - shown**2, 0.0025 * own) / own
    expected, variance = expected.copy(), variance.copy()
    expected[..., CUT] = shown
    variance[..., CUT] *= less
    share[..., CUT] = above
    return expected, variance, share
