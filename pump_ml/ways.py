"""Which of several ways to measure the same are kept, as the assets say that are not judged."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml.errors import ConfigurationError, DataError
from pump_ml.problems import Problem, Target

log = logging.getLogger(__name__)

MOST = 20_000
"""Readings that a way is judged by at most, evenly chosen."""
LEAST_PROBABILITY = 1e-3
"""No true class is held to be less likely: one confident mistake would outweigh a thousand good answers."""


def choose(problem: Problem, readings: pd.DataFrame, sensors: Sequence[str]) -> Problem:
    """The problem with features that are means over the ways which carry over best from group to group.

    A way is worth how well a linear model with shrinkage (Ledoit and Wolf 2004), which learnt from its features and the
    other groups, answers each group: mean over groups and targets of the cross-entropy, or of the squared error over
    the labels' variance. Several ways are kept, as the best of many is best partly by chance.

    Args:
        problem: with `Alternatives`.
        readings: of the training and validation assets, with labels; what judges must not be among them.
        sensors: columns of the data.

    Returns:
        The problem without alternatives: its ``features`` are the columns of the kept ways and those asked for beside
        them, ``means`` the features that models see.

    Raises:
        ConfigurationError: see `Alternatives.columns`; or the column of the groups is missing.
        DataError: there are fewer than two groups.
    """
    asked = problem.alternatives
    if asked is None:
        return problem
    found = asked.columns(sensors)
    if asked.groups not in readings:
        raise ConfigurationError(f"problem {problem.name!r}: alternatives: the data have no label {asked.groups!r}")
    if readings.empty:
        raise DataError(f"problem {problem.name!r}: alternatives: no training or validation asset is there to choose")
    used = readings.iloc[np.unique(np.linspace(0, len(readings) - 1, MOST).astype(np.int64))]
    groups = used[asked.groups].astype(str).to_numpy()
    if len(np.unique(groups)) < 2:
        raise DataError(
            f"problem {problem.name!r}: alternatives: {asked.groups} is {', '.join(np.unique(groups))} in all training "
            "and validation assets; expected two groups or more"
        )
    worth = {way: _loss(used[list(columns.values())], used, groups, problem.targets) for way, columns in found.items()}
    kept = sorted(sorted(worth, key=lambda way: worth[way])[: asked.keep])
    log.info("%d of %d ways are kept: %s", len(kept), len(found), ", ".join(kept))
    means = {name: tuple(found[way][name] for way in kept) for name in found[kept[0]]}
    beside = [name for name in problem.features or () if not re.fullmatch(asked.pattern, name)]
    features = (*(column for way in kept for column in found[way].values()), *beside)
    return problem.model_copy(update={"alternatives": None, "features": features, "means": means})


def _loss(features: pd.DataFrame, labels: pd.DataFrame, groups: NDArray[Any], targets: Sequence[Target]) -> float:
    """How badly each group is answered by what learnt from the others; lower is better."""
    x = features.to_numpy(dtype=np.float64)
    losses = [
        (_entropy if target.kind == "classes" else _error)(x, labels[target.name].to_numpy(), groups == group)
        for target in targets
        for group in np.unique(groups)
    ]
    return float(np.mean(losses))


def _entropy(x: NDArray[np.float64], true: NDArray[Any], aside: NDArray[np.bool_]) -> float:
    """Mean cross-entropy of a linear discriminant."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # only where a model is made

    names = true.astype(str)
    if len(classes := np.unique(names[~aside])) < 2:
        return float(-np.log(LEAST_PROBABILITY))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x[~aside], names[~aside])
    places = np.searchsorted(classes, names[aside]).clip(max=len(classes) - 1)
    given = model.predict_proba(x[aside])[np.arange(aside.sum()), places]
    known = classes[places] == names[aside]
    return float(-np.log(np.maximum(np.where(known, given, 0.0), LEAST_PROBABILITY)).mean())


def _error(x: NDArray[np.float64], true: NDArray[Any], aside: NDArray[np.bool_]) -> float:
    """Mean squared error of ridge regression over the variance of the labels."""
    from sklearn.linear_model import RidgeCV  # only where a model is made
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values = true.astype(np.float64)
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 7))).fit(x[~aside], values[~aside])
    return float(np.mean((model.predict(x[aside]) - values[aside]) ** 2) / max(values.var(), 1e-12))
