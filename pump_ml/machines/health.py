"""The health score of a motor pump: how good its lubrication and its hydraulics are, 0 to 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pump_ml.errors import DataError
from pump_ml.machines.policy import Health

Array = NDArray[np.float64]


@dataclass(frozen=True)
class HealthScore:
    """Weighted mean of norms, each a sensor between two of its percentiles, cut at 0 and 1.

    As configured by default, ``lubrication = 0.5 (Oil_P + Oil_L)``, ``hydraulic = 0.5 (Recalque + Succao)`` and
    ``health = 0.5 lubrication + 0.5 hydraulic``, where a name stands for its norm. Of a sensor that is better the
    nearer to zero the norm is 1 less that of its absolute value. A sensor that does not move has the norm 1: it says
    nothing against the machine.

    Args:
        weights: of each sensor; they add up to 1.
        bounds: what counts as 0 and as 1 of each sensor, in its unit; of absolute values where it is in `near_zero`.
        near_zero: sensors that are better the nearer to zero.
    """

    weights: Mapping[str, float]
    bounds: Mapping[str, tuple[float, float]]
    near_zero: tuple[str, ...]

    @classmethod
    def fit(cls, columns: Mapping[str, Array], policy: Health) -> Self:
        """Percentiles of the training part.

        Args:
            columns: readings of each sensor in the training part, while the machine ran, ``(rows,)``; NaN is left out.
            policy: the formula.

        Raises:
            DataError: a sensor of the formula has no reading there.
        """
        bounds = {}
        for name in policy.sensors:
            found = columns[name][np.isfinite(columns[name])] if name in columns else np.empty(0)
            if not len(found):
                raise DataError(
                    f"sensor {name} has no usable reading in the training part while the machine ran, and the health "
                    f"score is made of {', '.join(policy.sensors)}; look at the instrument and the period, or state "
                    "another formula"
                )
            low, high = np.percentile(np.abs(found) if name in policy.near_zero else found, policy.percentiles)
            bounds[name] = (float(low), float(high))
        return cls(policy.weights, bounds, policy.near_zero)

    def of(self, columns: Mapping[str, Array]) -> Array:
        """The score of each reading, 0 to 1, ``(rows,)``; NaN where a sensor is missing."""
        first = next(iter(self.weights))
        total = np.zeros(len(columns[first]))
        for name, weight in self.weights.items():
            low, high = self.bounds[name]
            values = np.abs(columns[name]) if name in self.near_zero else columns[name]
            norm = (
                np.clip((values - low) / (high - low), 0.0, 1.0)
                if high > low
                else np.where(np.isnan(values), np.nan, 1)
            )
            total += weight * (1.0 - norm if name in self.near_zero and high > low else norm)
        return total

    def to_json(self) -> dict[str, Any]:
        """For the model's file."""
        return {"weights": dict(self.weights), "bounds": dict(self.bounds), "near_zero": list(self.near_zero)}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        bounds = {name: (low, high) for name, (low, high) in state["bounds"].items()}
        return cls(state["weights"], bounds, tuple(state["near_zero"]))
