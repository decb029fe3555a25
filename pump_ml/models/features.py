"""What families make of a window before they learn: statistics for trees, channels for networks.

Both hold the readings themselves and, where there are commissioning records, what they show beyond the asset's normal
(`pump_ml.models.normal_behaviour`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pump_ml.models.normal_behaviour import NormalBehaviour
from pump_ml.problems import Problem
from pump_ml.windows import Windows

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean, standard deviation, slope and last value of each sensor, mean and standard deviation of its residuals.

    Args:
        normal: the normal behaviour of the assets; None where there are no commissioning records.
    """

    normal: NormalBehaviour | None

    @classmethod
    def fit(cls, train: Windows, problem: Problem) -> Self:
        """From training windows only."""
        return cls(_normal(train, problem))

    def transform(self, windows: Windows) -> tuple[Array, list[str]]:
        """The statistics of each window.

        Returns:
            float64 ``(windows, columns)`` and the column names, ``STATISTIC(SENSOR)``.
        """
        x = windows.x
        steps = np.arange(x.shape[1]) - (x.shape[1] - 1) / 2.0
        blocks = {
            "mean": x.mean(axis=1),
            "std": x.std(axis=1),
            "slope": np.einsum("nts,t->ns", x, steps) / max(float(steps @ steps), 1.0),
            "last": x[:, -1],
        }
        names = [f"{statistic}({sensor})" for statistic in blocks for sensor in windows.sensors]
        if self.normal:
            found = self.normal.residuals(windows)
            (share, spread), (excess, _) = found.moments(found.share), found.moments(found.excess)
            beyond = {"share": share, "share_std": spread, "excess": excess}
            names += [f"{statistic}({sensor})" for statistic in beyond for sensor in self.normal.answers]
            blocks |= beyond
        return np.concatenate(list(blocks.values()), axis=1), names

    def to_json(self) -> dict[str, Any]:
        """For the predictor's file."""
        return {"normal": self.normal.to_json() if self.normal else None}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(_restored(state))


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels of a network, each with zero mean and unit variance over the training windows.

    Args:
        normal: the normal behaviour of the assets; None where there are no commissioning records.
        mean: of each channel over the training windows.
        scale: standard deviation of each channel over the training windows.
    """

    normal: NormalBehaviour | None
    mean: Array
    scale: Array

    @classmethod
    def fit(cls, train: Windows, problem: Problem) -> Self:
        """From training windows only."""
        unscaled = cls(_normal(train, problem), np.zeros(1), np.ones(1))
        raw = unscaled._raw(train)
        scale = raw.std(axis=(0, 1))
        return cls(unscaled.normal, raw.mean(axis=(0, 1)), np.where(scale > 1e-12, scale, 1.0))

    def transform(self, windows: Windows) -> NDArray[np.float32]:
        """float32 ``(windows, length, channels)``."""
        return ((self._raw(windows) - self.mean) / self.scale).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """For the predictor's file."""
        normal = self.normal.to_json() if self.normal else None
        return {"normal": normal, "mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(_restored(state), np.array(state["mean"]), np.array(state["scale"]))

    def _raw(self, windows: Windows) -> Array:
        if not self.normal:
            return windows.x
        return np.concatenate([windows.x, self.normal.residuals(windows).share], axis=2)


def _normal(train: Windows, problem: Problem) -> NormalBehaviour | None:
    if train.commissioning is None:
        return None
    return NormalBehaviour.fit(train.commissioning, train.sensors, problem.conditions)


def _restored(state: Mapping[str, Any]) -> NormalBehaviour | None:
    return NormalBehaviour.from_json(state["normal"]) if state["normal"] else None
