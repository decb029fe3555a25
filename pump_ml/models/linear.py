"""Linear models with shrinkage, for many columns and few assets: a linear discriminant, or ridge regression.

The covariance of the columns is drawn towards a multiple of the identity: ``(1 - s) C + s mean(diag C) I`` (Friedman,
JASA 84, 1989; Ledoit and Wolf, J. Multivar. Anal. 88, 2004). For classes, C is the covariance within them: the
directions that other faults move the columns in are unlearnt, so that combinations of faults which training never saw
are answered. Members that each see some of the sensors (random subspaces, Ho, IEEE PAMI 20, 1998) are averaged; as
their scores are linear, the mean is one linear model again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]
Columns = NDArray[np.floating[Any]]
"""Float ``(windows, columns)``."""

SHRINKAGES = (1e-1, 1e-2, 1e-3, 1e-4, 3e-5, 1e-5)
"""Of which the validation windows choose one."""
MOST = 20_000
"""Windows that a linear model learns from at most, evenly chosen: a covariance needs no more."""
CONSTANT = 1e-9
"""Standard deviation below which a column says nothing."""


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Scores are ``(columns - mean) / scale @ weights + offset``.

    Args:
        mean: of each column in training, ``(columns,)``.
        scale: its standard deviation; 1 for a constant column.
        weights: ``(columns, outputs)``; 0 for a constant column.
        offset: ``(outputs,)``.
        codes: the class of each output; empty for a regression, which has one output.
    """

    mean: Array
    scale: Array
    weights: Array
    offset: Array
    codes: NDArray[np.int64]

    def scores(self, columns: Columns) -> Array:
        """``(windows, outputs)``: log posteriors up to a constant, or values."""
        slopes = self.weights / self.scale[:, None]
        found: Array = columns @ slopes + (self.offset - self.mean @ slopes)
        return found

    def predict(self, columns: Columns) -> Array:
        """Values of a regression ``(windows,)``, or the probability of each of `codes` ``(windows, outputs)``."""
        scores = self.scores(columns)
        if not len(self.codes):
            return scores[:, 0]
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        found: Array = odds / odds.sum(axis=1, keepdims=True)
        return found

    def save(self, path: Path) -> None:
        """Arrays in NumPy's own format, which holds no pickles."""
        np.savez(path, mean=self.mean, scale=self.scale, weights=self.weights, offset=self.offset, codes=self.codes)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**arrays)


def fit_linear(
    columns: Columns,
    labels: NDArray[Any],
    owners: Sequence[str],
    error: Callable[[LinearModel], float],
    *,
    classes: bool,
    members: int,
    share: float,
    seed: int,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> LinearModel:
    """The mean of models that each see some of the sensors.

    Args:
        columns: of the training windows.
        labels: values, or class codes.
        owners: for each column the sensor that it is about.
        error: what a model is worth elsewhere, lower is better. It chooses the shrinkage, with a model of all sensors.
        classes: whether `labels` are codes.
        members: models that are averaged.
        share: of the sensors that a member sees.
        seed: of the choice of sensors.
        shrinkages: to choose from.
    """
    if len(columns) > MOST:
        chosen = np.linspace(0, len(columns) - 1, MOST).astype(np.int64)
        columns, labels = columns[chosen], labels[chosen]
    moments = _Moments.of(np.asarray(columns, dtype=np.float64), labels, classes=classes)
    whole = [moments.solve(moments.live, shrinkage) for shrinkage in shrinkages]
    best = int(np.argmin([error(model) for model in whole]))
    rng, about = np.random.default_rng(seed), np.array(owners)
    sensors = np.unique(about)
    seen = max(1, round(share * len(sensors)))
    sums: list[LinearModel] = []
    for _ in range(members):
        mask = moments.live & np.isin(about, rng.choice(sensors, seen, replace=False))
        sums.append(moments.solve(mask, shrinkages[best]))
    return LinearModel(
        moments.mean,
        moments.scale,
        np.mean([member.weights for member in sums], axis=0),
        np.mean([member.offset for member in sums], axis=0),
        moments.codes,
    )


@dataclass(frozen=True, eq=False)
class _Moments:
    """What the training windows say: a member needs a part of these, so they are worked out once.

    Args:
        mean: of each column.
        scale: standard deviation, 1 for a constant column.
        live: whether the column is not constant.
        covariance: of the scaled columns, within classes where there are some.
        right: right-hand side of the normal equations, ``(columns, outputs)``: the classes' means, or the covariance
            with the target.
        base: of the offset, ``(outputs,)``: log shares of the classes, or the target's mean.
        codes: classes that training saw.
    """

    mean: Array
    scale: Array
    live: NDArray[np.bool_]
    covariance: Array
    right: Array
    base: Array
    codes: NDArray[np.int64]

    @classmethod
    def of(cls, columns: Array, labels: NDArray[Any], *, classes: bool) -> Self:
        mean, spread = columns.mean(axis=0), columns.std(axis=0)
        live = spread > CONSTANT * np.maximum(np.abs(mean), 1.0)
        scale = np.where(live, spread, 1.0)
        scaled = (columns - mean) / scale
        if classes:
            codes, at = np.unique(labels, return_inverse=True)
            right = np.stack([scaled[at == place].mean(axis=0) for place in range(len(codes))], axis=1)
            scaled -= right.T[at]
            base = np.log(np.bincount(at) / len(at))
        else:
            codes, base = np.empty(0, dtype=np.int64), np.array([labels.mean()])
            right = scaled.T @ (labels - base)[:, None] / len(labels)
        return cls(mean, scale, live, scaled.T @ scaled / len(scaled), right, base, codes)

    def solve(self, mask: NDArray[np.bool_], shrinkage: float) -> LinearModel:
        """The model that sees the columns of `mask`."""
        weights, offset = np.zeros_like(self.right), self.base.copy()
        if mask.any():
            inside = (1.0 - shrinkage) * self.covariance[np.ix_(mask, mask)]
            diagonal = np.diag_indices_from(inside)
            inside[diagonal] += shrinkage * max(float(self.covariance.diagonal()[mask].mean()), CONSTANT)
            weights[mask] = cho_solve(cho_factor(inside, overwrite_a=True), self.right[mask])
            if len(self.codes):
                offset -= 0.5 * (self.right * weights).sum(axis=0)
        return LinearModel(self.mean, self.scale, weights, offset, self.codes)
