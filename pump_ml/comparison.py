"""A score over another one, with an interval: the same resampled assets for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 1000
POWER = {"accuracy": 1, "mae": 1, "rmse": 2}
"""Metrics that are a mean over rows, of their value to this power; others cannot be resampled from sums."""

Sums = Mapping[str, tuple[float, float]]
"""Of each asset: rows, and what they add to the mean."""


@dataclass(frozen=True)
class Ratio:
    """A score over another one.

    Args:
        value: over all assets.
        low: lower end of the 95 % interval of a bootstrap over assets.
        high: its upper end.
    """

    value: float
    low: float
    high: float


def sums(rows: Mapping[str, int], scores: Mapping[str, float], metric: str) -> dict[str, tuple[float, float]]:
    """What each asset adds to a metric of `POWER`, from its rows and its own score."""
    return {asset: (float(rows[asset]), rows[asset] * score ** POWER[metric]) for asset, score in scores.items()}


def pooled(parts: Sequence[Sums]) -> dict[str, tuple[float, float]]:
    """Several runs as one: an asset that was judged in more of them counts with all of its rows."""
    found: dict[str, tuple[float, float]] = {}
    for part in parts:
        for asset, (rows, total) in part.items():
            before = found.get(asset, (0.0, 0.0))
            found[asset] = (before[0] + rows, before[1] + total)
    return found


def ratio(ours: Sums, theirs: Sums, metric: str, *, seed: int = 0) -> Ratio | None:
    """Our score over theirs, on the assets that both were judged on.

    Args:
        ours: see `sums`.
        theirs: the same; the rows of an asset may be others, as those of the twin's limit are.
        metric: of `POWER`.
        seed: of the resampling, which draws as many assets as there are, `DRAWS` times.

    Returns:
        None where they share no asset, or where theirs is 0.
    """
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        return None
    a, b = (np.array([each[asset] for asset in shared], dtype=np.float64) for each in (ours, theirs))
    drawn = np.random.default_rng(seed).integers(0, len(shared), (DRAWS, len(shared)))
    value = _over(a.sum(axis=0), b.sum(axis=0), metric)
    if not np.isfinite(value):
        return None
    draws = _over(a[drawn].sum(axis=1), b[drawn].sum(axis=1), metric)
    low, high = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
    return Ratio(float(value), float(low), float(high))


def _over(ours: Any, theirs: Any, metric: str) -> Any:
    """Ratio of the means of ``(…, 2)`` rows and sums."""
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = (ours[..., 1] / ours[..., 0]) / (theirs[..., 1] / theirs[..., 0])
    return squared ** (1 / POWER[metric])
