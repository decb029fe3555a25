"""What v3's law says of a life: before anything is seen of it, and once its whole past is known.

Both follow the scheme by which `pump_ml.twin.datasets` draws lives: Weibull, with onset, a gamma process that ends at
1, a random age when the record begins, planned maintenance, pumps that are withdrawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import gammaln

from pump_ml.twin import degradation, duty
from pump_ml.twin.datasets import MEDIAN_LIFE_H, PLANNED, SAMPLE, Fleet, Service, draw_hours, draw_services
from pump_ml.twin.degradation import FAULTS
from pump_ml.twin.fleet import Pump

Array = NDArray[np.float64]

PRIOR_PUMPS, PRIOR_MOMENTS = 4_000, 50
"""Pumps drawn for a prior, and moments of each: some hundred within a point of any damage of any fault."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Moments of lives as v3 has them, equally likely: fault (its place in `FAULTS`), damage, labels by name."""

    fault: NDArray[np.int64]
    damage: Array
    labels: dict[str, NDArray[Any]]


def labels(fault: NDArray[np.int64], damage: Array, operated: Array, end_h: Array) -> dict[str, NDArray[Any]]:
    """As `pump_ml.twin.datasets` writes them."""
    grade = degradation.severity(damage)
    return {
        "severity": grade,
        "mode": np.where(grade > 0, fault + 1, 0),
        "rul_pct": 100.0 * (1.0 - operated / end_h),
        "health_pct": degradation.health_pct(damage),
        "rul_hours": end_h - operated,
    }


def window_ends(services: Sequence[Service]) -> list[tuple[Service, int]]:
    """All rows at which a window of one life can end, counted in its service."""
    return [(each, row) for each in services for row in range(SAMPLE - 1, each.rows.stop - each.rows.start)]


def draw_prior(fleet: Fleet, pump: Pump) -> Prior:
    """Draw moments at which a window of v3 may end, for pumps that run when this one does."""
    rng = np.random.default_rng([fleet.seed, 3])
    hours = np.arange(max(2, int(fleet.days * 86400.0 / fleet.step_s)), dtype=np.float64) * (fleet.step_s / 3600.0)
    running = duty.calendar(pump, hours, fleet.step_s, rng).speed > 0
    drawn = []
    for number in range(PRIOR_PUMPS):
        record = len(draw_hours(fleet, rng))
        fault = FAULTS[number % len(FAULTS)]
        services = list(draw_services(fault, running[:record], fleet.step_s / 3600.0, rng))
        lengths = np.array([max(0, each.rows.stop - each.rows.start - SAMPLE + 1) for each in services])
        if not lengths.sum():
            continue
        moments = ((np.arange(PRIOR_MOMENTS) + rng.random()) / PRIOR_MOMENTS * lengths.sum()).astype(int)
        ends = np.cumsum(lengths)
        for place, each in enumerate(services):
            rows = moments[(moments >= ends[place] - lengths[place]) & (moments < ends[place])]
            operated = each.operated[rows - (ends[place] - lengths[place]) + SAMPLE - 1]
            which = np.full(len(rows), FAULTS.index(each.life.fault))
            drawn.append((which, each.life.at(operated), operated, np.full(len(rows), each.life.end_h)))
    columns = [np.concatenate(column) for column in zip(*drawn, strict=True)]
    return Prior(columns[0], columns[1], labels(*columns))


TINY = 1e-9
"""Increments of damage below this count as such, not by their size: the process makes some far smaller ones."""


def known_past(service: Service, now: float, first: bool) -> float:
    """Median of `rul_pct`, for who knows the life so far exactly.

    The increments of the damage so far, at the points of its own grid, and the rest up to 1 are Dirichlet for a given
    end, with shapes that depend on it. That the grid ends at the end as well is taken as unknown.

    Args:
        service: the life.
        now: hours of operation since it began.
        first: whether the record began in the midst of it.
    """
    life = service.life
    ends = MEDIAN_LIFE_H * np.linspace(0.05, 3.0, 1200)
    # Weibull of slope 2, cut as draw_life cuts it
    weight = stats.weibull_min.logpdf(ends, 2.0, scale=MEDIAN_LIFE_H / np.log(2.0) ** 0.5)
    low, high = MEDIAN_LIFE_H * (-np.log(1.0 - np.array([0.02, 0.98])) / np.log(2.0)) ** 0.5
    possible = (ends >= low) & (ends <= high) & (ends > now)
    if first:  # the record began at 0 to 90 % of it
        possible &= service.age_h <= 0.9 * ends
        weight = weight - np.log(0.9 * ends)
    planned = ((now - service.age_h) / np.maximum(ends - service.age_h, 1e-9) - 0.1) / 0.9
    weight = weight + np.log(1.0 - PLANNED * planned.clip(0.0, 1.0))  # no maintenance so far
    if now <= life.onset_h:
        later = (0.7 * ends - np.maximum(now, 0.3 * ends)) / (0.4 * ends)
        possible &= later > 0
        weight = weight + np.log(later.clip(min=1e-300))
    else:
        possible &= (0.3 * ends <= life.onset_h) & (life.onset_h <= 0.7 * ends)
        weight = weight - np.log(0.4 * ends)
        passed = (life.grid_h >= life.onset_h) & (life.grid_h <= now)
        times = life.grid_h[passed] - life.onset_h
        rise = np.diff(life.damage[passed])
        share = (times / np.maximum(ends[:, None] - life.onset_h, 1e-9)).clip(0.0, 1.0) ** life.fault.growth
        shape = np.maximum(degradation.SCATTER * np.diff(share, axis=1), 1e-3)
        rest = np.maximum(degradation.SCATTER * (1.0 - share[:, -1]), 1e-3)
        seen = np.where(
            rise > TINY,
            (shape - 1.0) * np.log(np.maximum(rise, TINY)) - gammaln(shape),
            shape * np.log(TINY) - gammaln(shape + 1.0),
        ).sum(axis=1)
        whole = gammaln(shape.sum(axis=1) + rest)
        weight = weight + whole + seen - gammaln(rest) + (rest - 1.0) * np.log(max(1.0 - life.damage[passed][-1], TINY))
    weight = np.where(possible, weight, -np.inf)
    reached = np.cumsum(np.exp(weight - weight.max()))
    end = ends[int(np.searchsorted(reached, 0.5 * reached[-1]))]  # what is left rises with the end
    return float(100.0 * (1.0 - now / end))
