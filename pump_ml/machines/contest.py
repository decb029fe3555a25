"""A machine's new model against its champion: both on the same rows, which neither learnt from if the data go on."""

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from pump_ml import artifacts
from pump_ml.errors import ModelFileError
from pump_ml.machines.answering import Forecaster, Warner, from_files
from pump_ml.machines.records import StoredModel
from pump_ml.machines.sequences import create_sequences, unbroken
from pump_ml.machines.trips import operating, trips
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
        usable = operating(prepared) & np.isfinite(prepared.values).all(axis=1)
        length, horizon = model.policy.sequence_length, model.policy.horizon
        starts = unbroken(prepared.stretch, usable, length, horizon)
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
    challenger: Forecaster | Warner,
    champion: StoredModel | None,
    readings: pd.DataFrame,
    since: float,
    settings: Settings,
) -> tuple[bool, str]:
    """Whether a challenger takes the champion's place, and why.

    A champion whose files cannot be used any more is replaced. Where neither can be measured, since nothing happened,
    the champion stays.
    """
    if champion is None:
        return True, "the first that may lead"
    try:
        standing = load(champion, settings)
    except ModelFileError as error:
        return True, f"the champion cannot be used any more: {error}"
    name = MEASURE[champion.kind]
    theirs, ours = measure(standing, readings, since), measure(challenger, readings, since)
    told = f"{name} {ours:.3f} against {theirs:.3f} of the champion of {champion.created_at:%Y-%m-%d %H:%M:%S}"
    if ours > theirs or (np.isfinite(ours) and np.isnan(theirs)):
        return True, f"better than the champion: {told}"
    return False, f"not better than the champion: {told}"


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
