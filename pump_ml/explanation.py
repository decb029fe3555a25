"""Why a model answers as it does: how much each sensor moved the answer away from that for a reference.

Shapley values (Shapley 1953) of a game whose players are the measured sensors that are no conditions: a sensor that
takes no part shows its reference, and what is derived follows. They are averaged over random orders of the sensors
(Strumbelj and Kononenko, KAIS 41, 2014), each with its reverse (Mitchell et al., JMLR 23, 2022). Whatever the orders
are, the values of all sensors add up to the answer less the answer at the reference.

The reference is what the asset showed under the same conditions when it was new; without commissioning records the
median of the training readings. A waveform is never replaced, so what it says is in both answers and in no sensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml.errors import DataError
from pump_ml.models import Predictor
from pump_ml.problems import Target
from pump_ml.schema import ASSET, KEYS
from pump_ml.windows import Windows

Array = NDArray[np.floating[Any]]

PERMUTATIONS = 16
"""Orders of the sensors for one explanation."""
SAMPLE, FEW = 32, 4
"""Windows, and orders for each, for the importance over all of them: seconds, and sensors that matter stand out."""
MOST = 2**23
"""Readings of all sensors in the copies of windows that are asked about at a time: 64 MiB."""


@dataclass(frozen=True, eq=False)
class Contributions:
    """How much each sensor moved each window's answers.

    Args:
        sensors: measured, and no conditions.
        answers: for the windows as they are, see `Predictor.table`.
        shown: mean of each sensor over each window, in its unit, ``(windows, sensors)``.
        reference: the same of what it is compared with.
        moved: for each target, in its unit or in the probability of the answered class, ``(windows, sensors)``.
    """

    sensors: tuple[str, ...]
    answers: pd.DataFrame
    shown: Array
    reference: Array
    moved: dict[str, Array]


def explain(
    predictor: Predictor, readings: pd.DataFrame, *, top: int = 3, permutations: int = PERMUTATIONS, seed: int = 0
) -> pd.DataFrame:
    """The sensors that mattered most for each answer of `Predictor.predict`.

    Args:
        predictor: any family's.
        readings: raw readings with the predictor's columns.
        top: how many sensors a target.
        permutations: orders of the sensors that are averaged over, each with its reverse; an even number.
        seed: of the orders.

    Returns:
        A row a window, target and sensor, what mattered most first: ``asset_id, run_id, time, target, answer,
        sensor``, ``value`` and ``reference`` (means over the window, in ``unit``), ``contribution`` in the target's
        unit or in the probability of the answered class, and all of it as ``text``.

    Raises:
        DataError: see `Predictor.predict`; or the model keeps no reference.
    """
    found = contributions(predictor, predictor.last_windows(readings), permutations=permutations, seed=seed)
    word = "normal" if predictor.normal else "usual"
    rows = []
    for place, answered in enumerate(found.answers.to_dict("records")):
        for target in predictor.problem.targets:
            moved = found.moved[target.name][place]
            for sensor in np.argsort(-np.abs(moved), kind="stable")[:top]:
                name, unit = found.sensors[sensor], predictor.units.get(found.sensors[sensor], "")
                value, usual = found.shown[place, sensor], found.reference[place, sensor]
                shown, expected = _apart(value, usual)
                rows.append({
                    **{key: answered[key] for key in KEYS},
                    "target": target.name,
                    "answer": answered[target.name],
                    "sensor": name,
                    "value": value,
                    "reference": usual,
                    "unit": unit,
                    "contribution": moved[sensor],
                    "text": f"{_told(answered, target)}: {name} shows {shown}{unit and ' ' + unit} where "
                    f"{expected} is {word}: {moved[sensor]:+.3g}",
                })  # fmt: skip
    return pd.DataFrame(rows)


def importance(predictor: Predictor, windows: Windows, *, seed: int) -> dict[str, dict[str, float]]:
    """Mean absolute contribution of each sensor over a sample of windows, by target; what matters most first."""
    chosen = np.zeros(len(windows), dtype=np.bool_)
    chosen[np.random.default_rng(seed).permutation(len(windows))[:SAMPLE]] = True
    found = contributions(predictor, windows.where(chosen), permutations=FEW, seed=seed)
    of_targets = {}
    for name, moved in found.moved.items():
        means = pd.Series(np.abs(moved).mean(axis=0), index=found.sensors)
        of_targets[name] = {str(k): float(f"{v:.4g}") for k, v in means.sort_values(ascending=False).items()}
    return of_targets


def contributions(predictor: Predictor, windows: Windows, *, permutations: int, seed: int) -> Contributions:
    """What each sensor did to the answers for windows that are cut already; see `explain`.

    Raises:
        DataError: the model keeps no reference.
    """
    problem, sensors = predictor.problem, windows.sensors
    measured = [name for name in sensors if name not in problem.derived]
    players = tuple(name for name in measured if name not in problem.conditions.names)
    places = [sensors.index(name) for name in players]
    masks, steps, order = _coalitions(len(players), permutations, seed)
    cut = Windows.stacked(windows.x, sensors, windows.rows, commissioning=windows.commissioning)
    shown, reference = cut.x, _reference(predictor, cut, measured).reshape(len(cut), cut.length, -1)
    size = max(MOST // (len(masks) * cut.length * len(sensors)), 1)
    answers, moved = [], []
    for some in cut.chunks(size):
        copies = np.repeat(shown[some, None, :, : len(measured)], len(masks), axis=1)
        copies[..., places] = np.where(masks[:, None], copies[..., places], reference[some, None][..., places])
        rows = windows.rows[some].loc[lambda rows: rows.index.repeat(len(masks))].reset_index(drop=True)
        # Copies in a row would look like an instrument that is stuck, so each is an asset of its own.
        names = [str(copy) for copy in range(len(rows))]
        records = windows.commissioning and {
            name: windows.commissioning[asset] for name, asset in zip(names, rows[ASSET], strict=True)
        }
        asked = Windows.stacked(
            problem.with_derived(sensors, copies.reshape(-1, len(measured))).reshape(-1, cut.length, len(sensors)),
            sensors,
            rows.assign(**{ASSET: names}),
            commissioning=records,
        )
        if windows.taken is not None:
            asked = replace(asked, waveforms=windows.waveforms, taken=windows.taken[some].repeat(len(masks)))
        table = predictor.table(asked)
        # The last coalition is that of all sensors.
        answered = table.iloc[len(masks) - 1 :: len(masks)]
        answers.append(answered)
        moved.append({
            target.name: _moved(_explained(table, answered, target).reshape(-1, len(masks)), steps, order)
            for target in problem.targets
        })  # fmt: skip
    return Contributions(
        players,
        pd.concat(answers, ignore_index=True).assign(**{ASSET: windows.rows[ASSET].to_numpy()}),
        shown[..., places].mean(axis=1),
        reference[..., places].mean(axis=1),
        {target.name: np.concatenate([part[target.name] for part in moved]) for target in problem.targets},
    )


def _coalitions(
    players: int, permutations: int, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Who takes part while players join one by one, in random orders and their reverses.

    Returns:
        The coalitions, ``(coalitions, players)``, nobody first and all last; which of them follow each other in each
        order, ``(orders, players + 1)``; and each player's place in it, ``(orders, players)``.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(players) for _ in range(max(permutations // 2, 1))]
    places = np.argsort(np.stack([*drawn, *(order[::-1] for order in drawn)]), axis=1)
    joined = places[:, None] < np.arange(players + 1)[:, None]
    masks, steps = np.unique(joined.reshape(-1, players), axis=0, return_inverse=True)
    return masks, steps.reshape(len(places), -1), places


def _moved(values: Array, steps: NDArray[np.int64], places: NDArray[np.int64]) -> Array:
    """Mean change as each player joins, ``(windows, players)``, of values ``(windows, coalitions)``."""
    moved: Array = np.take_along_axis(np.diff(values[:, steps], axis=-1), places[None], axis=-1).mean(axis=1)
    return moved


def _reference(predictor: Predictor, windows: Windows, measured: list[str]) -> Array:
    """What the windows' readings are compared with, ``(readings, sensors)`` or only those that are measured."""
    if predictor.normal:
        return predictor.normal.as_new(windows)
    if missing := [name for name in measured if name not in predictor.usual]:
        raise DataError(f"this model keeps no usual reading of {', '.join(missing)}; train it again")
    usual = np.array([predictor.usual[name] for name in measured])
    return np.broadcast_to(usual, (len(windows.readings), len(measured)))


def _explained(table: pd.DataFrame, answered: pd.DataFrame, target: Target) -> Array:
    """Of each copy of a window the value, or the probability of the class that the window itself is answered."""
    if target.kind == "regression":
        return table[target.name].to_numpy(dtype=np.float64)
    probabilities = table[[f"{target.name}_p_{name}" for name in target.classes]].to_numpy(dtype=np.float64)
    codes = np.array([target.classes.index(name) for name in answered[target.name]])
    chosen: Array = probabilities[np.arange(len(table)), codes.repeat(len(table) // len(codes))]
    return chosen


def _apart(value: float, usual: float) -> tuple[str, str]:
    """Both with four significant digits, or with as many, seven at most, as it takes to tell them apart."""
    digits = next((digits for digits in range(4, 8) if f"{value:.{digits}g}" != f"{usual:.{digits}g}"), 4)
    return f"{value:.{digits}g}", f"{usual:.{digits}g}"


def _told(answered: Mapping[Any, Any], target: Target) -> str:
    """An answer in words."""
    answer = answered[target.name]
    if target.kind == "regression":
        return f"{target.name} {answer:.4g}"
    return f"{target.name} {answer} (probability {answered[f'{target.name}_p_{answer}']:.2f})"
