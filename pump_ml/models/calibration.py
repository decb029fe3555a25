"""How sure an answer is: intervals for values and temperatures for probabilities, from assets that nothing learnt from.

What is fitted here is a handful of plain numbers a target; to answer takes NumPy alone.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Names = NDArray[np.str_]

BANDS = 4
"""Bands of the answered value for which a typical error is known."""
LEAST = 0.1
"""No typical error is taken to be smaller than this share of the mean error."""
COOLEST, HOTTEST = 0.25, 10.0
"""Between these a temperature is looked for. Held-out windows without a mistake would ask for 0, and the first mistake
would then be made with full certainty."""


@dataclass(frozen=True)
class Interval:
    """A conformal prediction interval, symmetric about the answered value.

    Half its width is a typical error times a factor. The typical error follows the answered value (a normalised score,
    Papadopoulos et al. 2011); the factor is that of the predicted fault mode (a Mondrian category, Boström and
    Johansson 2020), and the pooled one where too few assets of that mode were held out.

    Args:
        at: answered values, ascending, in the target's unit.
        errors: mean absolute error of the held-out windows that were answered about so, in the target's unit.
        pooled: factor over all held-out windows.
        by_mode: factor of each predicted mode that enough held-out assets showed.
    """

    at: tuple[float, ...]
    errors: tuple[float, ...]
    pooled: float
    by_mode: Mapping[str, float]

    @classmethod
    def fit(cls, value: Array, true: Array, assets: NDArray[Any], modes: Names | None, level: float) -> Self:
        """The interval that `level` of the windows of a new asset are to lie in.

        Windows of one asset are alike, so they count as fewer (`independent`), and a factor is a quantile only where
        as many assets were held out as it takes windows to know one (`least_assets`). Where there are fewer assets
        altogether, the pooled factor is the largest score of all: finite, but nobody can say that it is enough.

        Args:
            value: what was answered, ``(windows,)``.
            true: the labels.
            assets: the asset of each window.
            modes: the predicted mode of each window; None where the problem has none.
            level: share, between 0 and 1.
        """
        error = np.abs(true - value)
        bands = [band for band in np.array_split(np.argsort(value, kind="stable"), BANDS) if len(band)]
        at, place = np.unique([np.median(value[band]) for band in bands], return_inverse=True)
        means = np.bincount(place, [error[band].mean() for band in bands]) / np.bincount(place)
        errors = np.maximum(means, max(LEAST * error.mean(), np.finfo(np.float64).tiny))
        score = error / np.interp(value, at, errors)

        groups = {} if modes is None else {str(mode): modes == mode for mode in np.unique(modes)}
        known = {mode: here for mode, here in groups.items() if len(np.unique(assets[here])) >= least_assets(level)}
        enough = len(np.unique(assets)) >= least_assets(level)
        return cls(
            at=tuple(at.tolist()),
            errors=tuple(errors.tolist()),
            pooled=_quantile(score, assets, level) if enough else float(score.max()),
            by_mode={mode: _quantile(score[here], assets[here], level) for mode, here in known.items()},
        )

    def half_width(self, value: Array, modes: Names | None) -> Array:
        """Half the width for each answered value, in the target's unit, ``(windows,)``."""
        factors = [self.by_mode.get(mode, self.pooled) for mode in modes] if modes is not None else self.pooled
        half: Array = np.interp(value, self.at, self.errors) * factors
        return half


@dataclass(frozen=True)
class Calibration:
    """What a predictor's answers are calibrated with; empty, it changes nothing and gives no intervals.

    Args:
        intervals: by regression target.
        temperatures: by target of classes.
    """

    intervals: Mapping[str, Interval] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)

    def soften(self, target: str, probabilities: Array) -> Array:
        """Calibrated probabilities ``(windows, classes)``; their order does not change."""
        return at_temperature(probabilities, self.temperatures.get(target, 1.0))

    def to_json(self) -> dict[str, Any]:
        """For the predictor's file."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        intervals = {
            name: Interval(tuple(each["at"]), tuple(each["errors"]), each["pooled"], each["by_mode"])
            for name, each in content["intervals"].items()
        }
        return cls(intervals, content["temperatures"])


def least_assets(level: float) -> int:
    """How many assets a quantile of that level takes: 10 for 0.9, as with fewer all windows must lie inside."""
    return math.ceil(round(1.0 / (1.0 - level), 6))


def at_temperature(probabilities: Array, temperature: float) -> Array:
    """``softmax(log(p) / T)``, ``(windows, classes)`` (Guo et al. 2017): above 1 it softens, below 1 it sharpens.

    With ``1 / T`` it undoes what it did with ``T``.
    """
    powers = (probabilities / probabilities.max(axis=1, keepdims=True)) ** (1.0 / temperature)
    scaled: Array = powers / powers.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(probabilities: Array, codes: NDArray[np.int64]) -> float:
    """The temperature of the least cross-entropy on held-out windows (Guo et al. 2017).

    Args:
        probabilities: as the model gave them, ``(windows, classes)``.
        codes: position of the true class of each window.
    """
    from scipy.optimize import minimize_scalar  # only where a model is made

    given = np.maximum(probabilities, 1e-6)  # a forest gives zeros; one for a true class would outweigh all others

    def cross_entropy(log_temperature: float) -> float:
        scaled = at_temperature(given, math.exp(log_temperature))
        return float(-np.log(scaled[np.arange(len(codes)), codes]).mean())

    found = minimize_scalar(cross_entropy, bounds=(math.log(COOLEST), math.log(HOTTEST)), method="bounded")
    return math.exp(found.x)


def independent(missed: NDArray[np.bool_], assets: NDArray[Any]) -> float:
    """How many independent windows tell as much of a share as these do: between the numbers of assets and of windows.

    Windows over the design effect ``1 + (m - 1) * rho`` (Kish 1965); m is the mean number of windows of an asset, rho
    their intraclass correlation by one-way analysis of variance (Donner and Koval 1980).

    Args:
        missed: what the share is of, ``(windows,)``.
        assets: the asset of each window.
    """
    _, place, sizes = np.unique(assets, return_inverse=True, return_counts=True)
    windows, count = len(missed), len(sizes)
    if windows == count:
        return windows
    means = np.bincount(place, missed) / sizes
    size = (windows - np.square(sizes).sum() / windows) / (count - 1)
    between = (sizes * np.square(means - missed.mean())).sum() / (count - 1)
    within = np.square(missed - means[place]).sum() / (windows - count)
    total = between + (size - 1.0) * within
    rho = max((between - within) / total, 0.0) if total > 0.0 else 0.0
    return float(windows / (1.0 + (size - 1.0) * rho))


def _quantile(score: Array, assets: NDArray[Any], level: float) -> float:
    """Conformal quantile of scores: half the width of the interval that crepes gives about 0.

    crepes raises the level by ``1 + 1/n`` for n windows; here it is raised for as many as are independent.
    """
    with warnings.catch_warnings():  # its import sets a filter of warnings for the whole process
        from crepes import ConformalRegressor  # only where a model is made

    alike = independent(score > np.quantile(score, level), assets)
    raised = level * (1.0 + 1.0 / alike) / (1.0 + 1.0 / len(score))
    interval = ConformalRegressor().fit(score).predict_int(np.zeros(1), confidence=raised)
    return float(interval[0, 1])
