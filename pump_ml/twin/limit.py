"""The best score that anyone can reach on dataset v2 or v3, estimated from the twin's own state.

**Who sees a window** of 60 readings and the commissioning record. `pump_ml.twin.evidence` gives the likelihood of what
was shown under each fault and damage, for who knows the pump's curves, site and condition when new; a model has to
learn those, so it should stay below. v2 takes the mean over a window, v3 each reading. With the dataset's own law as
prior (v2: faults, bands of damage; v3: moments of many lives drawn as the dataset draws them, so that damage, remaining
life and fault hang together) this is a posterior over the labels; its most probable class and its median are the best
answers for accuracy and mean absolute error. Neither the clock nor the pump's age is used, and of the growth inside a
window only that it blurs the damage. Damage is all that a window can tell of faults, so for them this is the limit. How
long a pump will last also depends on its age; who guesses that, by the season for instance, does better than
`rul_pct_by_window`.

**Who knows the past of a life exactly** (v3, `rul_pct`): fault, age, when damage began, and its whole path. Nobody can
know more before the end, and that is what stays open. Its prior is the Weibull law, and the path so far is a gamma
bridge to it: increments over the grid of the process and the rest up to 1 are Dirichlet
(`pump_ml.twin.degradation.draw_life`).

The interval is that of the pumps that were drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pump_ml.errors import ConfigurationError
from pump_ml.twin import degradation, evidence, outlook
from pump_ml.twin.datasets import SAMPLE, Fleet, Rows, draw_lives, draw_samples
from pump_ml.twin.degradation import FAULTS, HEALTHY, SEVERITY_BANDS
from pump_ml.twin.evidence import Seen
from pump_ml.twin.instruments import NAMES
from pump_ml.twin.operation import Demand
from pump_ml.twin.outlook import Prior

Array = NDArray[np.float64]
Json = dict[str, Any]

METRICS = {"severity": "accuracy", "mode": "accuracy", "rul_pct": "mae", "health_pct": "mae", "rul_hours": "mae"}
BY_WINDOW = {"rul_pct": "rul_pct_by_window", "rul_hours": "rul_hours_by_window"}
"""Names of what a window of v3 says of the end."""
GIVEN = {
    "rul_pct": "fault, age, onset and the damage's whole path so far, exactly",
    **dict.fromkeys(BY_WINDOW.values(), "a window and the commissioning record, neither clock nor age"),
}
"""Of v3, where it is not a window and all that may be known beside."""

WINDOWS = 8
"""Windows of a pump of v3; their ends lie evenly over the rows at which one can end."""
WARM_UP = 8
"""Readings before a window of v3 that still warm the pump up: half-hourly, they leave 0.3 % of the slowest lag."""
KNOTS = {"v2": np.linspace(0.15, 0.95, 13), "v3": np.linspace(0.0, 1.0, 15) ** 1.5}
"""Damages at which the likelihood is worked out first."""
FINE = 200
"""Damages of each severity of v2 in the posterior."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """What may be behind the windows of a pump.

    Args:
        weights: ``(windows, candidates)``, summing to 1 in each window.
        candidates: labels of each candidate, by name.
        truth: labels of each window, by name.
    """

    weights: Array
    candidates: dict[str, NDArray[Any]]
    truth: dict[str, NDArray[Any]]

    def scores(self) -> dict[str, Array]:
        """Of the best answers, by target and window: 1 for a right class, else the absolute error."""
        return {
            name: (self.most(name) == self.truth[name]).astype(float)
            if metric == "accuracy"
            else np.abs(self.quantile(name, 0.5) - self.truth[name])
            for name, metric in METRICS.items()
            if name in self.truth
        }

    def most(self, name: str) -> NDArray[np.int64]:
        """The most probable class of each window."""
        classes = self.candidates[name]
        sums = [self.weights[:, classes == each].sum(axis=1) for each in range(classes.max() + 1)]
        found: NDArray[np.int64] = np.stack(sums, axis=1).argmax(axis=1)
        return found

    def quantile(self, name: str, share: float) -> Array:
        """Of a target, at each window."""
        values = self.candidates[name]
        order = np.argsort(values)
        reached = np.cumsum(self.weights[:, order], axis=1)
        found: Array = values[order][(reached < share).sum(axis=1).clip(max=len(values) - 1)]
        return found


def estimate(
    fleet: Fleet, numbers: Sequence[int] | None = None, progress: Callable[[float], None] | None = None
) -> Json:
    """The limit of each target, with the 95 % interval of a bootstrap over pumps.

    Args:
        fleet: whose windows are judged.
        numbers: of its pumps; None takes all.
        progress: told the share that is done.

    Returns:
        ``dataset``, ``pumps`` (that have a window), ``windows``, and ``targets``: by name ``metric``, ``limit``,
        ``low`` and ``high``, and ``given`` where it is for who knows something else than a window.

    Raises:
        ConfigurationError: the pumps have no window of 60 readings.
    """
    chosen = range(fleet.pumps) if numbers is None else numbers
    found = list(scores(fleet, chosen, progress).values())
    given = GIVEN if fleet.dataset == "v3" else {}
    targets: Json = {
        name: {
            "metric": METRICS.get(name, "mae"),
            **_interval([each[name] for each in found]),
            **({"given": given[name]} if name in given else {}),
        }
        for name in found[0]
    }
    windows = sum(len(each["rul_pct"]) for each in found)
    return {"dataset": fleet.dataset, "pumps": len(found), "windows": windows, "targets": targets}


def scores(
    fleet: Fleet, numbers: Sequence[int], progress: Callable[[float], None] | None = None
) -> dict[int, dict[str, Array]]:
    """What the best answers score at each window, by pump and target: 1 for a right class, else the absolute error.

    Args:
        fleet: whose windows are judged.
        numbers: of its pumps; those without a window are left out.
        progress: told the share that is done.

    Raises:
        ConfigurationError: the pumps have no window of 60 readings.
    """
    priors: dict[bool, Prior] = {}
    found = {}
    for place, number in enumerate(numbers):
        if of_pump := _scores(fleet, number, priors):
            found[number] = of_pump
        if progress:
            progress((place + 1) / len(numbers))
    if not found:
        raise ConfigurationError(f"limit: no window of {SAMPLE} readings in {len(numbers)} pumps; expected 1 or more")
    return found


def _interval(found: list[Array]) -> Json:
    sums = np.array([each.sum() for each in found])
    counts = np.array([len(each) for each in found])
    drawn = np.random.default_rng(0).integers(0, len(found), (1000, len(found)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "limit": round(float(sums.sum() / counts.sum()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def _scores(fleet: Fleet, number: int, priors: dict[bool, Prior]) -> dict[str, Array]:
    """Of each window of a pump, by target; empty if it has no window."""
    if fleet.dataset == "v2":
        return posterior_v2(fleet, number).scores()
    found = posterior_v3(fleet, number, priors)
    if found is None:
        return {}
    posterior, past = found
    return {BY_WINDOW.get(name, name): each for name, each in posterior.scores().items()} | {"rul_pct": past}


def shown(fleet: Fleet, number: int) -> tuple[Rows, Array]:
    """A pump's readings, and ``(rows, sensors)`` of them: NaN where nothing was shown, or the value before was.

    Who knows a plant sees an instrument that is stuck. The twin tells by readings without any other error.
    """
    bare = replace(fleet.options, bias=False, drift=False, noise=False, quantisation=False)
    spells, none = (
        replace(fleet, waveforms_h=0.0, options=options).rows(number).sensors
        for options in (bare, replace(bare, stuck=0.0, missing=0.0))
    )
    rows = replace(fleet, waveforms_h=0.0).rows(number)
    readings = [np.where(spells[name] == none[name], rows.sensors[name], np.nan) for name in NAMES]
    return rows, np.stack(readings, axis=-1).astype(np.float64)


def _known(fleet: Fleet, number: int) -> Array:
    """How far the commissioning record misleads about each sensor, in standard deviations."""
    return np.random.default_rng([fleet.seed, number, int(fleet.dataset[1:])]).standard_normal(len(NAMES))


def posterior_v2(fleet: Fleet, number: int) -> Posterior:
    """Of the samples of a pump of v2."""
    made = draw_samples(fleet, number, fleet.streams(number))
    _, readings = shown(fleet, number)
    seen = Seen(
        pump=made.pump,
        options=fleet.options,
        shown=readings[-SAMPLE * fleet.samples :].reshape(fleet.samples, SAMPLE, len(NAMES)),
        demand=made.demand,
        before=0,
        blocks=1,
        grows=False,
        known=_known(fleet, number),
    )
    grids = [low + (high - low) * (np.arange(FINE) + 0.5) / FINE for low, high in SEVERITY_BANDS]
    fine, knots = np.concatenate(grids[1:]), KNOTS["v2"]
    healthy = evidence.log_likelihood(seen, HEALTHY, np.zeros((fleet.samples, 1))) + np.zeros(FINE)
    faulty = [np.stack([curve(fine) for curve in evidence.curves(seen, fault, knots)]) for fault in FAULTS]
    grade = np.repeat(np.arange(len(SEVERITY_BANDS)), FINE)
    damage = np.concatenate([grids[0], *[fine] * len(FAULTS)])
    growth = np.concatenate([np.ones(FINE), *(np.full(len(fine), fault.growth) for fault in FAULTS)])
    candidates: dict[str, NDArray[Any]] = {
        "severity": np.concatenate([grade[:FINE], *[grade[FINE:]] * len(FAULTS)]),
        "mode": np.concatenate([np.zeros(FINE, dtype=int), np.repeat(np.arange(len(FAULTS)) + 1, len(fine))]),
        "rul_pct": 100.0 * (1.0 - damage ** (1.0 / growth)),
        "health_pct": degradation.health_pct(damage),
    }
    # Each severity is equally likely, and each fault in it.
    weights = np.concatenate([healthy, *(each - np.log(len(FAULTS)) for each in faulty)], axis=1)
    grown = np.where(made.severity > 0, made.fault.growth, 1.0)
    truth = {
        "severity": made.severity,
        "mode": np.where(made.severity > 0, FAULTS.index(made.fault) + 1, 0),
        "rul_pct": 100.0 * (1.0 - made.damage ** (1.0 / grown)),
        "health_pct": degradation.health_pct(made.damage),
    }
    return Posterior(_normal(weights), candidates, truth)


def _normal(log_weights: Array) -> Array:
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    found: Array = weights / weights.sum(axis=1, keepdims=True)
    return found


def posterior_v3(fleet: Fleet, number: int, priors: dict[bool, Prior]) -> tuple[Posterior, Array] | None:
    """Of windows of a pump of v3, and the error in `rul_pct` of who knows the past exactly; None if it has no window.

    Args:
        fleet: whose windows.
        number: of the pump.
        priors: those drawn before, by whether a pump runs day and night; a missing one is added.
    """
    made = draw_lives(fleet, number, fleet.streams(number))
    everywhere = outlook.window_ends(made.services)
    if not everywhere:
        return None
    places = ((np.arange(WINDOWS) + 0.5) / WINDOWS * len(everywhere)).astype(int)
    ends = [everywhere[place] for place in np.unique(places)]
    kind = made.pump.site.continuous
    if kind not in priors:
        priors[kind] = outlook.draw_prior(fleet, made.pump)
    prior = priors[kind]
    rows, readings = shown(fleet, number)
    record = int(rows.commissioning.sum())
    # The rows between two services, when a pump is repaired, are not in the dataset.
    starts = record + np.cumsum([0, *(each.rows.stop - each.rows.start for each in made.services)])
    windows, asked = [], []
    for service, row in ends:
        last = starts[made.services.index(service)] + row
        windows.append(readings[last - SAMPLE + 1 : last + 1])
        before = np.arange(row - SAMPLE - WARM_UP + 1, row + 1).clip(min=0)  # a life begins in balance
        asked.append(service.rows.start + before)
    names = (*evidence.DEMAND_SPREAD, "days")
    values = {name: getattr(made.demand, name)[np.array(asked)].astype(np.float64) for name in names}
    seen = Seen(
        pump=made.pump,
        options=fleet.options,
        shown=np.stack(windows),
        demand=Demand(**values, step_s=fleet.step_s),
        before=WARM_UP,
        blocks=SAMPLE,
        grows=True,
        known=_known(fleet, number),
    )
    weights = np.empty((len(ends), len(prior.damage)))
    for place, fault in enumerate(FAULTS):
        among = prior.fault == place
        for window, curve in enumerate(evidence.curves(seen, fault, KNOTS["v3"])):
            weights[window, among] = curve(prior.damage[among])
    operated = np.array([service.operated[row] for service, row in ends])
    damage = np.array([service.life.at(service.operated[row : row + 1])[0] for service, row in ends])
    end_h = np.array([service.life.end_h for service, _ in ends])
    fault_at = np.array([FAULTS.index(service.life.fault) for service, _ in ends])
    truth = outlook.labels(fault_at, damage, operated, end_h)
    past = np.array([
        abs(outlook.known_past(service, at, service is made.services[0]) - 100.0 * (1.0 - at / service.life.end_h))
        for (service, _), at in zip(ends, operated, strict=True)
    ])  # fmt: skip
    return Posterior(_normal(weights), prior.labels, truth), past
