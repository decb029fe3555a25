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
from pump_ml.windows import Windows, gather

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

    def transform(self, windows: Windows) -> tuple[NDArray[np.float32], list[str]]:
        """The statistics of each window.

        Returns:
            float32 ``(windows, columns)`` and the column names, ``STATISTIC(SENSOR)``.
        """
        found = self.normal.residuals(windows) if self.normal else None
        names = [
            f"{statistic}({sensor})" for statistic in ("mean", "std", "slope", "last") for sensor in windows.sensors
        ]
        if self.normal:
            beyond = ("share", "share_std", "excess")
            names += [f"{statistic}({sensor})" for statistic in beyond for sensor in self.normal.answers]
        table = np.empty((len(windows), len(names)), dtype=np.float32)
        for some in windows.chunks():
            x = gather(windows.readings, windows.starts[some], windows.length)
            steps = np.arange(x.shape[1]) - (x.shape[1] - 1) / 2.0
            slope = np.einsum("nts,t->ns", x, steps) / max(float(steps @ steps), 1.0)
            blocks = [x.mean(axis=1), x.std(axis=1), slope, x[:, -1]]
            if found:
                excess, _ = found.moments(found.excess, windows, some)
                blocks += [*found.moments(found.share, windows, some), excess]
            table[some] = np.concatenate(blocks, axis=1)
        return table, names

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
        raw, weights = unscaled._raw(train), train.uses / train.uses.sum()
        mean = weights @ raw
        scale = np.sqrt(weights @ np.square(raw - mean))
        return cls(unscaled.normal, mean, np.where(scale > 1e-12, scale, 1.0))

    def transform(self, windows: Windows) -> NDArray[np.float32]:
        """The channels of the windows' readings, float32 ``(readings, channels)``; `windows.starts` cuts them."""
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
            return windows.readings
        return np.concatenate([windows.readings, self.normal.residuals(windows).share], axis=1)


def _normal(train: Windows, problem: Problem) -> NormalBehaviour | None:
    if train.commissioning is None:
        return None
    return NormalBehaviour.fit(train.commissioning, train.sensors, problem.conditions)


def _restored(state: Mapping[str, Any]) -> NormalBehaviour | None:
    return NormalBehaviour.from_json(state["normal"]) if state["normal"] else None
