"""What families look at instead of the sensors: combinations that stand out of noise, or means over several ways."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pump_ml.errors import DataError
from pump_ml.problems import Problem
from pump_ml.windows import Windows, gather

Array = NDArray[np.floating[Any]]


def find(train: Windows, problem: Problem) -> Array | None:
    """What is looked at instead of the sensors, ``(sensors, signals)``; None where they are."""
    if problem.denoise:
        return find_signals(train)
    if not problem.means:
        return None
    columns = [np.isin(train.sensors, parts) / len(parts) for parts in problem.means.values()]
    rest = [np.array(train.sensors) == name for name in train.sensors if not _averaged(name, problem)]
    return np.stack([*columns, *rest], axis=1).astype(np.float64)


def _averaged(sensor: str, problem: Problem) -> bool:
    return any(sensor in parts for parts in problem.means.values())


def find_signals(train: Windows) -> Array:
    """What the sensors measure together: directions in which windows differ by more than one reading scatters.

    Minimum noise fractions (Green et al. 1988): eigenvectors of the covariance of the windows' means against that of
    the noise, which is half the covariance of the differences between neighbouring readings.

    Args:
        train: what is learnt from.

    Returns:
        ``(sensors, signals)``, the clearest first; the noise of each signal has unit variance.

    Raises:
        DataError: there is none, or there are too few windows to tell.
    """
    if len(train) < 2:
        raise DataError(f"denoise: {len(train)} training windows; expected two or more that differ")
    from scipy.linalg import eigh  # only where a model is made

    means = np.concatenate(
        [gather(train.readings, train.starts[some], train.length).mean(axis=1) for some in train.chunks()]
    )
    edges = np.bincount(train.starts, minlength=len(train.readings))
    edges -= np.bincount(train.starts + train.length - 1, minlength=len(train.readings))
    steps = np.diff(train.readings, axis=0)[np.cumsum(edges)[:-1] > 0]
    noise = steps.T @ steps / max(2 * len(steps), 1)
    apart = np.atleast_2d(np.cov(means.T))
    # What never moves, or never within a window, would make of the noise a matrix that cannot be inverted.
    least = 1e-9 * np.maximum(np.diag(noise), np.diag(apart))
    ratios, directions = eigh(apart, noise + np.diag(np.where(least > 0.0, least, 1.0)))
    if not (kept := ratios > 1.0).any():
        raise DataError(
            f"denoise: no combination of the {len(ratios)} sensors differs between windows by more than its readings "
            "scatter; drop denoise from the problem"
        )
    found: Array = directions[:, kept][:, ::-1]
    return found


def shown(windows: Windows, signals: Array | None) -> Windows:
    """The windows with signals in the place of sensors, where there are some."""
    if signals is None:
        return windows
    names = tuple(f"signal_{place + 1}" for place in range(signals.shape[1]))
    return replace(windows, readings=windows.readings @ signals, sensors=names)
