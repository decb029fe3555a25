"""What families make of a window before they learn: statistics for trees, channels for networks."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pump_ml.windows import Windows

Array = NDArray[np.float64]


def statistics(windows: Windows) -> tuple[Array, list[str]]:
    """Mean, standard deviation, slope, last value and change since commissioning of each window.

    Returns:
        float64 ``(windows, columns)`` and the column names, ``STATISTIC(SENSOR)``.
    """
    x = windows.x
    steps = np.arange(x.shape[1]) - (x.shape[1] - 1) / 2.0
    mean = x.mean(axis=1)
    blocks = {
        "mean": mean,
        "std": x.std(axis=1),
        "slope": np.einsum("nts,t->ns", x, steps) / max(float(steps @ steps), 1.0),
        "last": x[:, -1],
    }
    if windows.reference is not None:
        blocks["change"] = mean - windows.reference
        blocks["ratio"] = _relative(mean - windows.reference, windows.reference)
    names = [f"{statistic}({sensor})" for statistic in blocks for sensor in windows.sensors]
    return np.concatenate(list(blocks.values()), axis=1), names


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels of a network, each with zero mean and unit variance over the training windows.

    The channels are the readings and, where there is a commissioning record, their change and relative change since
    then.

    Args:
        mean: of each channel over the training windows.
        scale: standard deviation of each channel over the training windows.
    """

    mean: Array
    scale: Array

    @classmethod
    def fit(cls, train: Windows) -> Self:
        """Mean and scale of training windows only."""
        raw = _channels(train)
        scale = raw.std(axis=(0, 1))
        return cls(raw.mean(axis=(0, 1)), np.where(scale > 1e-12, scale, 1.0))

    def transform(self, windows: Windows) -> NDArray[np.float32]:
        """float32 ``(windows, length, channels)``."""
        return ((_channels(windows) - self.mean) / self.scale).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """For the predictor's file."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(np.array(state["mean"]), np.array(state["scale"]))


def _channels(windows: Windows) -> Array:
    if windows.reference is None:
        return windows.x
    reference = windows.reference[:, None, :]
    change = windows.x - reference
    return np.concatenate([windows.x, change, _relative(change, reference)], axis=2)


def _relative(change: Array, reference: Array) -> Array:
    """Relative change, on a logarithmic scale so that a fault's hundredfold leakage does not drown the rest."""
    ratio = change / np.maximum(np.abs(reference), 0.05)
    return np.sign(ratio) * np.log1p(np.abs(ratio))
