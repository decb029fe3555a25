"""Scorecards: how good answers are, target by target, and the pictures that explain it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml import metrics
from pump_ml.errors import DataError, LeakError
from pump_ml.models import Predictor
from pump_ml.models.calibration import Calibration, at_temperature
from pump_ml.problems import Problem, Target
from pump_ml.schema import ASSET, KEYS
from pump_ml.windows import Windows

Values = dict[str, dict[str, float]]
"""Target -> metric -> value."""


@dataclass(frozen=True)
class Coverage:
    """Which share of the true values lies inside of the intervals.

    Args:
        by_mode: for each true fault mode; empty where the problem names none.
        by_asset: quantiles of the assets' shares, such as ``"0.05"``: what the worst twentieth of the assets gets.
    """

    by_mode: dict[str, float]
    by_asset: dict[str, float]


@dataclass(frozen=True)
class Scorecard:
    """What a family's answers are worth on one set of rows.

    Args:
        family: who answered.
        rows: how many rows were judged.
        values: each target's metrics over all rows. Where the answers say how sure they are, also ``coverage`` and mean
            ``width`` of the intervals, in the target's unit, and ``ece`` (`pump_ml.metrics.calibration_error`) after
            and ``ece_before`` the temperature.
        by_asset: the target's own metric for each asset.
        by_mode: the same for each fault mode; empty where the problem names none.
        coverage: of each target that was answered with an interval.
        passed: whether each target reached its threshold; None where there is no threshold.
    """

    family: str
    rows: int
    values: Values
    by_asset: dict[str, dict[str, float]]
    by_mode: dict[str, dict[str, float]]
    coverage: dict[str, Coverage]
    passed: dict[str, bool | None]

    def to_json(self) -> dict[str, Any]:
        """The JSON report; a value that is no number is None."""
        content: dict[str, Any] = json_safe(asdict(self))
        return content

    def headline(self, problem: Problem) -> dict[str, float]:
        """Each target's own metric."""
        return {target.name: self.values[target.name][target.metric] for target in problem.targets}


def json_safe(content: Any) -> Any:
    """The same with None for every number that JSON does not have."""
    if isinstance(content, dict):
        return {key: json_safe(value) for key, value in content.items()}
    if isinstance(content, list):
        return [json_safe(value) for value in content]
    return None if isinstance(content, float) and not np.isfinite(content) else content


def judge(
    family: str, answers: pd.DataFrame, truth: pd.DataFrame, problem: Problem, calibration: Calibration | None = None
) -> Scorecard:
    """Compare answers with the truth at the same asset, run and time.

    Args:
        family: who answered.
        answers: key columns and a column a target; see `pump_ml.models.Predictor.predict` for intervals and
            probabilities, which may be missing.
        truth: the same, with the labels; its rows are the ones to judge, and each must have been answered.
        problem: targets and metrics.
        calibration: what the answers are calibrated with, to say what the probabilities were worth before.

    Raises:
        DataError: a row of `truth` has no answer or more than one, or there are no rows.
    """
    if truth.empty:
        raise DataError("there are no rows to judge; expected at least one window of a test asset")
    if answers.duplicated(list(KEYS)).any():
        raise DataError(f"{family} gave more than one answer to a row; expected one for each asset, run and time")
    names = [target.name for target in problem.targets]
    certainty = [name for target in problem.targets for name in _certainty_columns(target) if name in answers]
    asked = answers[[*KEYS, *names, *certainty]]
    joined = truth.merge(asked, on=list(KEYS), how="left", suffixes=("", "_answer"), validate="1:1")
    if unanswered := int(joined[[f"{name}_answer" for name in names]].isna().any(axis=1).sum()):
        raise DataError(f"{family} left {unanswered} of {len(truth)} rows without an answer")
    values = {
        target.name: _measure(joined, target, every=True) | _certainty(joined, target, calibration or Calibration())
        for target in problem.targets
    }
    return Scorecard(
        family=family,
        rows=len(joined),
        values=values,
        by_asset=_by(joined, ASSET, problem),
        by_mode=_by(joined, problem.mode, problem) if problem.mode else {},
        coverage={t.name: _coverage(joined, t, problem) for t in problem.targets if f"{t.name}_low" in joined},
        passed={
            target.name: None
            if target.threshold is None
            else metrics.get(target.metric).passes(values[target.name][target.metric], target.threshold)
            for target in problem.targets
        },
    )


def _measure(rows: pd.DataFrame, target: Target, *, every: bool) -> dict[str, float]:
    true, predicted = rows[target.name], rows[f"{target.name}_answer"]
    if target.kind == "classes":
        true, predicted = true.astype(str), predicted.astype(str)
    names = (target.metric, *(target.more_metrics if every else ()))
    return {name: metrics.get(name)(true.to_numpy(), predicted.to_numpy()) for name in names}


def _by(rows: pd.DataFrame, column: str, problem: Problem) -> dict[str, dict[str, float]]:
    return {
        str(group): {t.name: _measure(members, t, every=False)[t.metric] for t in problem.targets}
        for group, members in rows.groupby(column)
    }


def inside(rows: pd.DataFrame, target: Target) -> "pd.Series[bool]":
    """Whether each true value lies inside of its interval.

    Args:
        rows: the truth with the columns ``TARGET_low`` and ``TARGET_high`` of the answers.
        target: of regression.
    """
    return rows[target.name].between(rows[f"{target.name}_low"], rows[f"{target.name}_high"])


def _certainty_columns(target: Target) -> list[str]:
    if target.kind == "classes":
        return [f"{target.name}_p_{name}" for name in target.classes]
    return [f"{target.name}_low", f"{target.name}_high"]


def _certainty(rows: pd.DataFrame, target: Target, calibration: Calibration) -> dict[str, float]:
    """How far one may trust what the answers say of their own certainty; empty where they say nothing."""
    columns = _certainty_columns(target)
    if not set(columns) <= set(rows):
        return {}
    given = rows[columns].to_numpy(dtype=np.float64)
    if target.kind == "regression":
        return {"coverage": float(inside(rows, target).mean()), "width": float(np.mean(given[:, 1] - given[:, 0]))}
    right = rows[target.name].astype(str) == rows[f"{target.name}_answer"].astype(str)
    before = at_temperature(given, 1.0 / calibration.temperatures.get(target.name, 1.0))
    return {
        "ece": metrics.calibration_error(given.max(axis=1), right),
        "ece_before": metrics.calibration_error(before.max(axis=1), right),
    }


def _coverage(rows: pd.DataFrame, target: Target, problem: Problem) -> Coverage:
    hit = inside(rows, target)
    by_asset = hit.astype(np.float64).groupby(rows[ASSET]).mean()
    return Coverage(
        by_mode={str(m): float(share) for m, share in hit.groupby(rows[problem.mode]).mean().items()}
        if problem.mode
        else {},
        by_asset={f"{quantile:g}": float(by_asset.quantile(quantile)) for quantile in (0.05, 0.25, 0.5)},
    )


def as_learnt(labels: pd.DataFrame, problem: Problem) -> pd.DataFrame:
    """Labels as training and validation see them: cut at each target's cap."""
    caps = {target.name: target.train_cap for target in problem.targets if target.train_cap is not None}
    return labels.assign(**{name: labels[name].clip(upper=cap) for name, cap in caps.items()})


def seen(predictor: Predictor, judged: Windows) -> NDArray[np.bool_]:
    """Which windows a model may have seen: those of an asset that anything in it, a scaler included, was fitted on.

    Where it was fitted on readings until a known time, a window of such an asset that begins later is new to it.
    """
    known: NDArray[np.bool_] = judged.rows[ASSET].isin(predictor.assets).to_numpy()
    begins = judged.begins
    if predictor.fitted_until is None or begins is None or begins.dtype.kind != "M":
        return known
    return known & (begins <= predictor.fitted_until).to_numpy()


def refuse_seen(predictor: Predictor, judged: Windows) -> None:
    """Refuse to judge a model on windows that it may have seen, see `seen`.

    Raises:
        LeakError: there is such a window.
    """
    if known := sorted(judged.rows.loc[seen(predictor, judged), ASSET].unique()):
        until = f" until {predictor.fitted_until}" if predictor.fitted_until is not None else ""
        raise LeakError(
            f"the model was fitted on {len(known)} of the assets it is to be judged by ({', '.join(known[:5])}"
            f"{' …' if len(known) > 5 else ''}){until}; fit scalers and models on the training part only"
        )


def naive_answers(train: pd.DataFrame, rows: pd.DataFrame, problem: Problem) -> pd.DataFrame:
    """The same answer for every row: the commonest class, the median (for MAE) or the mean of the training labels."""
    columns: dict[str, Any] = {}
    for target in problem.targets:
        labels = train[target.name]
        if target.kind == "classes":
            columns[target.name] = labels.astype(str).mode().iloc[0]
        else:
            capped = labels if target.train_cap is None else labels.clip(upper=target.train_cap)
            columns[target.name] = float(capped.median() if target.metric == "mae" else capped.mean())
    return rows[list(KEYS)].assign(**columns)


def relative_error(values: dict[str, float], allowed: dict[str, float], problem: Problem) -> float:
    """Error over allowed error, averaged over the targets: below 1 is inside, and lower is better.

    Args:
        values: each target's own metric.
        allowed: what each metric may be: the thresholds, or the baseline's values.
        problem: targets.
    """
    ratios = []
    for target in problem.targets:
        metric = metrics.get(target.metric)
        ratios.append(metric.shortfall(values[target.name]) / max(metric.shortfall(allowed[target.name]), 1e-9))
    return float(np.mean(ratios))
