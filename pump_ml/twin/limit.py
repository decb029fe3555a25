"""The best score that anyone can reach on dataset v2 or v3, estimated from the twin's own state.

**From readings to damage.** The twin knows each pump's curves, site and condition when new, and what was asked of it on
average. For every fault and damage on a grid it works out what the instruments would show on average over a window, and
how far the shown mean may lie from that: noise, flicker and quantisation over the readings that were shown, what a
commissioning record leaves of an instrument's constant errors, its drift, and demand and weather, which nobody reads
exactly. All of these are taken as Gaussian, and demand as acting in a straight line. With the dataset's own faults and
damage as prior this is a posterior; its most probable class and its median are the best answers for accuracy and mean
absolute error. A model knows less (curves and sites it has to learn), so it should stay below. The interval is that of
the pumps that were drawn.

**From damage to remaining life** (v3; there, for `rul_pct` alone). Even who knows the damage and when it began does not
know when it will end: the rest is that of a gamma bridge with an unknown end, whose density is a Beta's
(`pump_ml.twin.degradation.draw_life`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pump_ml.twin import degradation, vibration
from pump_ml.twin.datasets import MEDIAN_LIFE_H, SAMPLE, SAMPLE_S, Fleet, Samples, draw_samples
from pump_ml.twin.degradation import FAULTS, HEALTHY, SEVERITY_BANDS, FaultMode
from pump_ml.twin.instruments import NAMES, SENSORS, Errors
from pump_ml.twin.operation import Demand, full_scales, operate

Array = NDArray[np.float64]
Json = dict[str, Any]

GRID = 12
"""Damages of each severity at which a fault is tried."""
DEMAND_SPREAD = {"speed": 0.058, "resistance": 0.17, "ambient_c": 3.5, "liquid_c": 1.7}
"""Standard deviation of a sample's mean demand and weather over a fleet (`pump_ml.twin.duty.stretches`): nobody is told
them, they have to be read from the sensors as well. Resistance as a share; a fixed speed is known."""
MODEL_ERROR = 2e-3
"""Share of each mean by which a window's mean and what follows from the mean demand may differ."""


def estimate(fleet: Fleet, progress: Callable[[float], None] | None = None) -> Json:
    """The limit of each target, with the 95 % interval of a bootstrap over pumps.

    Returns:
        ``dataset``, ``pumps``, ``windows``, and ``targets``: by name ``metric``, ``limit``, ``low`` and ``high``.
    """
    found = []
    for number in range(fleet.pumps):
        found.append(_pump(fleet, number) if fleet.dataset == "v2" else _remaining_life(fleet, number))
        if progress:
            progress((number + 1) / fleet.pumps)
    return {
        "dataset": fleet.dataset,
        "pumps": fleet.pumps,
        "windows": sum(len(each["rul_pct"]) for each in found),
        "targets": {
            name: {"metric": metric, **_interval([each[name] for each in found])}
            for name, metric in METRICS.items()
            if name in found[0]
        },
    }


METRICS = {"severity": "accuracy", "mode": "accuracy", "rul_pct": "mae", "health_pct": "mae"}


def _interval(scores: list[Array]) -> Json:
    sums = np.array([each.sum() for each in scores])
    counts = np.array([len(each) for each in scores])
    drawn = np.random.default_rng(0).integers(0, len(scores), (1000, len(scores)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "limit": round(float(sums.sum() / counts.sum()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def _pump(fleet: Fleet, number: int) -> dict[str, Array]:
    """Score of each window of one pump, by target."""
    streams = fleet.streams(number)
    truth = draw_samples(fleet, number, streams)
    if not fleet.options.bias:
        exact = tuple(Errors(0.0, 0.0, 0.0) for _ in truth.pump.errors)
        truth = replace(truth, pump=replace(truth.pump, errors=exact))
    rows = fleet.rows(number)
    first = len(rows) - SAMPLE * fleet.samples
    shown = np.stack([rows.sensors[name][first:].reshape(fleet.samples, SAMPLE) for name in NAMES], axis=-1)
    seen = np.isfinite(shown).sum(axis=1)
    # A sensor that showed nothing in a window says nothing: its mean counts as known to no better than its span.
    mean = np.where(seen > 0, np.nansum(shown, axis=1) / np.maximum(seen, 1), 0.0)

    candidates = [(HEALTHY, 0, np.zeros(1))]
    candidates += [(f, s, _inside(*SEVERITY_BANDS[s])) for f in FAULTS for s in range(1, len(SEVERITY_BANDS))]
    weights, modes, grades, damages, growths = [], [], [], [], []
    for fault, grade, grid in candidates:
        weights.append(_log_likelihood(truth, fault, grid, mean, seen))
        prior = 1.0 / len(SEVERITY_BANDS) if fault is HEALTHY else 1.0 / len(SEVERITY_BANDS) / len(FAULTS) / len(grid)
        weights[-1] += np.log(prior)
        modes += [0 if fault is HEALTHY else FAULTS.index(fault) + 1] * len(grid)
        grades += [grade] * len(grid)
        damages.append(grid if grade else np.array([np.mean(SEVERITY_BANDS[0])]))
        growths += [fault.growth if grade else 1.0] * len(grid)
    log_posterior = np.concatenate(weights, axis=1)
    posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    mode, severity, damage = np.array(modes), np.array(grades), np.concatenate(damages)
    growth = np.array(growths)
    health = 100.0 * (1.0 - damage)
    life = 100.0 * (1.0 - damage ** (1.0 / growth))
    true_mode = np.where(truth.severity > 0, FAULTS.index(truth.fault) + 1, 0)
    grown = np.where(truth.severity > 0, truth.fault.growth, 1.0)
    return {
        "severity": (_most(posterior, severity) == truth.severity).astype(float),
        "mode": (_most(posterior, mode) == true_mode).astype(float),
        "rul_pct": np.abs(_median(posterior, life) - 100.0 * (1.0 - truth.damage ** (1.0 / grown))),
        "health_pct": np.abs(_median(posterior, health) - degradation.health_pct(truth.damage)),
    }


def _inside(low: float, high: float) -> Array:
    """Middles of equal parts."""
    return low + (high - low) * (np.arange(GRID) + 0.5) / GRID


def _most(posterior: Array, classes: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.stack([posterior[:, classes == each].sum(axis=1) for each in range(classes.max() + 1)], axis=1)
    found: NDArray[np.int64] = sums.argmax(axis=1)
    return found


def _median(posterior: Array, values: Array) -> Array:
    order = np.argsort(values)
    reached = np.cumsum(posterior[:, order], axis=1)
    found: Array = values[order][(reached < 0.5).sum(axis=1).clip(max=len(values) - 1)]
    return found


def _log_likelihood(truth: Samples, fault: FaultMode, damage: Array, shown: Array, seen: NDArray[np.int64]) -> Array:
    """Of each window's mean under each damage, ``(windows, damages)``."""
    base = {name: getattr(truth.demand, name).mean(axis=1) for name in (*DEMAND_SPREAD, "days")}
    expected = _expected(truth, fault, damage, base)
    pulls = []
    for name, spread in DEMAND_SPREAD.items():
        if name == "speed" and not truth.pump.site.variable_speed:
            continue
        scale = spread * (base[name] if name == "resistance" else np.ones_like(base[name]))
        step = 0.02 * scale  # the slope counts, where the demand really was
        pulls.append(50.0 * (_expected(truth, fault, damage, {**base, name: base[name] + step}) - expected))
    pull = np.stack(pulls, axis=-1)  # windows, damages, sensors, demands
    variance = _variance(truth, expected, seen[:, None, :], base["days"])
    off = shown[:, None, :] - expected
    # N(off; 0, diag(variance) + pull pullT), by the matrix determinant and inversion lemmas
    scaled = pull / variance[..., None]
    inner = np.eye(pull.shape[-1]) + np.einsum("wdsk,wdsl->wdkl", pull, scaled)
    right = np.einsum("wdsk,wds->wdk", scaled, off)
    quadratic = np.sum(off**2 / variance, axis=-1) - np.einsum(
        "wdk,wdk->wd", right, np.linalg.solve(inner, right[..., None])[..., 0]
    )
    found: Array = -0.5 * (quadratic + np.sum(np.log(variance), axis=-1) + np.linalg.slogdet(inner)[1])
    return found


def _expected(truth: Samples, fault: FaultMode, damage: Array, demand: dict[str, Array]) -> Array:
    """What the instruments show on average in a steady window, ``(windows, damages, sensors)``."""
    shape = (len(demand["speed"]), len(damage))
    steady = Demand(
        **{name: np.repeat(values, len(damage))[:, None] for name, values in demand.items()}, step_s=SAMPLE_S
    )
    state = operate(truth.pump, fault, np.tile(damage, shape[0])[:, None], steady)
    values = {**state.sensors, **vibration.features(state.levels.flat())}
    scales = full_scales(truth.pump)
    read = []
    for (sensor, instrument), errors in zip(SENSORS, truth.pump.errors, strict=True):
        offset = errors.zero * (instrument.span * scales[sensor.name] + instrument.absolute)
        read.append(values[sensor.name].reshape(shape) * (1.0 + errors.gain * instrument.reading) + offset)
    return np.stack(read, axis=-1)


SCATTER = {
    "vibration_rms_mm_s": 0.03, "vibration_nde_rms_mm_s": 0.035, "vibration_1x_mm_s": 0.045, "vibration_2x_mm_s": 0.10,
    "vibration_vane_pass_mm_s": 0.07, "acceleration_hf_g": 0.05, "acceleration_crest": 0.07,
    "acceleration_kurtosis": 0.03,
}  # fmt: skip
"""Scatter of the vibration monitor's figures from reading to reading, as a share; drawn from `vibration.features`."""
COMMISSIONING_READINGS = 120


def _variance(truth: Samples, expected: Array, seen: NDArray[np.int64], days: Array) -> Array:
    """Of a window's mean around what is expected, sensor by sensor; constant errors are known from commissioning."""
    scales = full_scales(truth.pump)
    columns = []
    for place, (sensor, instrument) in enumerate(SENSORS):
        scale, value = scales[sensor.name], expected[..., place]
        share = SCATTER.get(sensor.name, instrument.noise_reading)
        noise = (instrument.noise_span * scale) ** 2 + instrument.noise_absolute**2 + (share * value) ** 2
        noise += instrument.resolution**2 / 12.0
        often = 1.0 / np.maximum(seen[..., place], 1) + 1.0 / COMMISSIONING_READINGS
        drift = (instrument.drift_span * scale / 2.0 * days[:, None] / 365.25) ** 2
        silent = np.where(seen[..., place] == 0, 1e3 * scale**2, 0.0)
        columns.append(noise * often + drift + (MODEL_ERROR * value) ** 2 + silent)
    return np.stack(columns, axis=-1)


MOMENTS = 50


def _remaining_life(fleet: Fleet, number: int) -> dict[str, Array]:
    """Error of the best answer at moments of a life, for who knows the damage, and when it began."""
    rng = fleet.streams(number).life
    fault = FAULTS[int(rng.integers(len(FAULTS)))]
    life = degradation.draw_life(fault, MEDIAN_LIFE_H, rng)
    now = rng.uniform(0.0, life.end_h, MOMENTS)
    damage = np.clip(life.at(now), 1e-6, 1.0 - 1e-6)
    ends = MEDIAN_LIFE_H * np.linspace(0.05, 3.0, 1200)
    # Weibull of slope 2, cut as draw_life cuts it
    prior = stats.weibull_min.pdf(ends, 2.0, scale=MEDIAN_LIFE_H / np.log(2.0) ** 0.5)
    low, high = MEDIAN_LIFE_H * (-np.log(1.0 - np.array([0.02, 0.98])) / np.log(2.0)) ** 0.5
    prior = np.where((ends >= low) & (ends <= high), prior, 0.0)
    began = life.onset_h
    errors = []
    for at, done in zip(now, damage, strict=True):
        if at <= began:  # no damage yet: the onset is later than now
            weight = prior * np.clip((0.7 * ends - np.maximum(at, 0.3 * ends)) / (0.4 * ends), 0.0, 1.0)
        else:
            possible = (0.3 * ends <= began) & (began <= 0.7 * ends) & (ends > at)
            share = np.where(possible, ((at - began) / np.maximum(ends - began, 1e-9)).clip(0.0, 1.0), 0.5)
            shape = degradation.SCATTER * share**fault.growth
            bridge = stats.beta.pdf(done, shape, degradation.SCATTER - shape)
            weight = np.where(possible & (shape < degradation.SCATTER), prior / (0.4 * ends) * bridge, 0.0)
        weight = weight * (ends > at)
        left = 100.0 * (1.0 - at / ends)  # rises with the end
        reached = np.cumsum(weight) / weight.sum()
        answer = left[int(np.searchsorted(reached, 0.5))]
        errors.append(abs(answer - 100.0 * (1.0 - at / life.end_h)))
    return {"rul_pct": np.array(errors)}
