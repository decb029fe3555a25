"""A machine's new model against its champion: both on the same period, which the new one did not learn from."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from pump_ml import artifacts
from pump_ml.errors import DataError, ModelFileError
from pump_ml.machines.answering import Forecaster, Warner, from_files
from pump_ml.machines.policy import Forecast
from pump_ml.machines.records import StoredModel
from pump_ml.machines.sequences import create_sequences, unbroken
from pump_ml.machines.trips import trips
from pump_ml.machines.usual import observe
from pump_ml.settings import Settings

MEASURE = {"gru": "skill over persistence", "xgb": "average precision"}
"""What models of a kind are compared by; higher is better."""


def measure(model: Forecaster | Warner, readings: pd.DataFrame, since: float) -> float:
    """`MEASURE` of a model on the readings from a time on; NaN where there is nothing to measure.

    Each forecast is of the model's own score, so errors of two models cannot be compared, but what each is better than
    a score that stays as it is.

    Args:
        model: which one.
        readings: raw, of its machine.
        since: in seconds since 1970.
    """
    prepared = model.prepare(readings)
    if isinstance(model, Forecaster):
        length, horizon = model.policy.sequence_length, model.policy.horizon
        starts = unbroken(prepared.stretch, model.whole(prepared), length, horizon)
        starts = starts[prepared.seconds[starts] >= since]
        if not len(starts):
            return float("nan")
        starts = starts[:: -(-len(starts) // model.policy.windows)]
        table = model.table(prepared)
        windows, asked = create_sequences(table, length, horizon=horizon)
        true = asked[starts].astype(np.float64)
        stays = np.square(table[length - 1 :, -1][starts].astype(np.float64) - true).mean()
        missed = np.square(model.answer(windows[starts]) - true).mean()
        return float(1.0 - missed / stays) if stays > 0.0 else float("nan")
    moments = observe(prepared, model.policy.every_s)
    fell = prepared.seconds[trips(prepared, model.policy)]
    following = np.append(fell, np.inf)[np.searchsorted(fell, moments.at, side="right")]
    label = following - moments.at <= 60.0 * model.policy.lead_min
    judged = moments.at >= since
    if not label[judged].any():
        return float("nan")
    return float(average_precision_score(label[judged], model.answer(moments)[judged]))


def better(
    challenger: Callable[[], Forecaster | Warner],
    champion: StoredModel | None,
    readings: pd.DataFrame,
    since: float,
    settings: Settings,
) -> tuple[bool, str]:
    """Whether a challenger, which is only made where there is a champion, takes its place, and why.

    A champion whose files cannot be used any more is replaced. Where neither can be measured, since nothing happened,
    the champion stays.
    """
    if champion is None:
        return True, "the first that may lead"
    try:
        standing = load(champion, settings)
        theirs = measure(standing, readings, since)
    except (ModelFileError, DataError, ValueError, TypeError, KeyError) as error:  # also one of an older version
        return True, f"the champion cannot be used any more: {type(error).__name__}: {error}"
    new = challenger()
    if _question(standing) != _question(new):
        return True, "the champion answers another question: its horizon, lead or definition of a trip is another"
    name, ours = MEASURE[champion.kind], measure(new, readings, since)
    told = f"{name} {ours:.3f} against {theirs:.3f} of the champion of {champion.created_at:%Y-%m-%d %H:%M:%S}"
    if ours > theirs or (np.isfinite(ours) and np.isnan(theirs)):
        return True, f"better than the champion: {told}"
    return False, f"not better than the champion: {told}"


def _question(model: Forecaster | Warner) -> tuple[float, ...]:
    """What a model is asked, as far as scores depend on it."""
    asked = model.policy
    if isinstance(asked, Forecast):
        return (asked.sequence_length, asked.horizon)
    return (asked.lead_min, asked.fall, asked.least_rpm, asked.every_s)


def load(model: StoredModel, settings: Settings | None = None) -> Forecaster | Warner:
    """A published model from its files of safe formats, each held against the SHA-256 that was recorded.

    Raises:
        ModelFileError: a file is missing or was altered.
    """
    store = artifacts.store(settings or Settings.load())
    contents = {}
    for role in artifacts.SAFE[model.kind]:
        file = model.files[role]
        found = store.read(file.key)
        if found is None:
            raise ModelFileError(f"{store.address(file.key)} is not there; restore it from a backup")
        artifacts.check(found.content, file.sha256, store.address(file.key))
        contents[role] = found.content
    if model.kind == "gru":
        return from_files(contents["scaling"], network=contents["network"])
    return from_files(contents["about"], booster=contents["booster"])
