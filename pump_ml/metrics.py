"""Metrics: plain functions of (true, predicted) that know which direction is better."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from pump_ml.errors import ConfigurationError, UnknownNameError


@dataclass(frozen=True)
class Metric:
    """A named metric.

    Args:
        name: as it stands in a problem's YAML.
        better: direction.
        function: plain function of (true, predicted).
        error: turns a value into an error that is 0 at best, so that targets of different metrics can be weighed.
    """

    name: str
    better: Literal["higher", "lower"]
    function: Callable[[Any, Any], float]

    def __call__(self, true: ArrayLike, predicted: ArrayLike) -> float:
        """The metric's value.

        Raises:
            ConfigurationError: the arrays differ in length, are empty, or are not finite.
        """
        t, p = np.asarray(true), np.asarray(predicted)
        if t.shape != p.shape or t.ndim != 1 or t.size == 0:
            raise ConfigurationError(f"metric {self.name}: need two equally long rows, got {t.shape} and {p.shape}")
        for values in (t, p):
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ConfigurationError(f"metric {self.name}: values must be finite")
        return float(self.function(t, p))

    def passes(self, value: float, threshold: float) -> bool:
        """Whether `value` reaches `threshold`; a value that is no number never does."""
        return bool(value >= threshold if self.better == "higher" else value <= threshold)

    def shortfall(self, value: float) -> float:
        """Distance from a perfect value, never negative: 1 - value where higher is better, else the value."""
        return 1.0 - value if self.better == "higher" else value


def accuracy(true: Any, predicted: Any) -> float:
    """Share of right answers."""
    return float(np.mean(true == predicted))


def macro_f1(true: Any, predicted: Any) -> float:
    """F1 averaged over the classes that occur (scikit-learn)."""
    from sklearn.metrics import f1_score  # heavy

    return float(f1_score(true, predicted, average="macro"))


def mae(true: Any, predicted: Any) -> float:
    """Mean absolute error, in the target's unit."""
    return float(np.mean(np.abs(predicted - true)))


def rmse(true: Any, predicted: Any) -> float:
    """Root of the mean squared error, in the target's unit."""
    return float(np.sqrt(np.mean((predicted - true) ** 2)))


def r2(true: Any, predicted: Any) -> float:
    """Share of the variance that is explained (scikit-learn)."""
    from sklearn.metrics import r2_score  # heavy

    return float(r2_score(true, predicted))


def cmapss_score(true: Any, predicted: Any) -> float:
    """PHM08 score S (Saxena et al. 2008, eq. 1): late answers cost more than early ones; summed over assets."""
    d = predicted - true
    return float(np.sum(np.where(d < 0, np.expm1(-d / 13.0), np.expm1(d / 10.0))))


def calibration_error(confidence: Any, right: Any, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): ``sum over bins of |B|/n * |share right in B - mean confidence|``.

    It is no metric of a problem, since it takes probabilities.

    Args:
        confidence: probability of the answered class, ``(rows,)``.
        right: whether the answer was right.
        bins: of equal width; one holds what is above its lower edge, up to its upper edge.
    """
    place = np.clip(np.ceil(np.asarray(confidence) * bins).astype(int) - 1, 0, bins - 1)
    surplus = np.bincount(place, np.asarray(right, dtype=np.float64) - confidence, minlength=bins)
    return float(np.abs(surplus).sum() / len(place))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "higher", accuracy),
        Metric("macro_f1", "higher", macro_f1),
        Metric("mae", "lower", mae),
        Metric("rmse", "lower", rmse),
        Metric("r2", "higher", r2),
        Metric("cmapss_score", "lower", cmapss_score),
    )
}


def get(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]
