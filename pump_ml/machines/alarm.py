"""The pre-failure alarm: boosted trees that say, from what went before, whether a machine trips within minutes."""

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from pump_ml.errors import DataError, PumpMLError
from pump_ml.machines.policy import Alarm, Policy
from pump_ml.machines.preparation import RUNNING, Prepared
from pump_ml.machines.trips import Caught, catch, episodes, operating, trips
from pump_ml.models import Watch

Array = NDArray[np.float64]

SPANS_S = (60.0, 300.0, 1800.0)
"""Means are taken over the last so many seconds: of the reading free of noise, of the course, of what was usual."""
MONTH_S = 30 * 86400.0
LEAST_AUC = 0.7
"""Below it an alarm tells so little that it may not lead: 0.5 is chance, and a few trips scatter by 0.1."""
THRESHOLDS = 60
"""Thresholds that are tried: quantiles of the held-out probabilities, finer the higher."""


class NoFailuresError(PumpMLError):
    """The period has no failures to learn from: an outcome, not a fault."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What the trees see: one row each `every_s` seconds while the machine works.

    Args:
        at: times in seconds since 1970, ascending, ``(n,)``.
        run: number of the uninterrupted run of the machine, ``(n,)``.
        features: ``(n, features)`` float32; NaN where nothing is known.
        names: of the features.
        trips_at: times of the trips in seconds, ascending.
    """

    at: Array
    run: NDArray[np.int64]
    features: NDArray[np.float32]
    names: tuple[str, ...]
    trips_at: Array

    def label(self, lead_s: float) -> NDArray[np.bool_]:
        """Whether a trip follows within `lead_s`, ``(n,)``."""
        following = np.searchsorted(self.trips_at, self.at, side="right")
        nearest = np.append(self.trips_at, np.inf)[following]
        return nearest - self.at <= lead_s

    def where(self, mask: NDArray[np.bool_]) -> "Rows":
        """Some of the rows, with the trips that came among them or soon after."""
        if not mask.any():
            return Rows(self.at[mask], self.run[mask], self.features[mask], self.names, self.trips_at[:0])
        return Rows(self.at[mask], self.run[mask], self.features[mask], self.names, self.trips_at)

    def between(self, begin: float, end: float) -> "Rows":
        """The rows, and the trips, of ``begin <= time < end``."""
        rows = (self.at >= begin) & (self.at < end)
        fell = (self.trips_at >= begin) & (self.trips_at < end)
        return Rows(self.at[rows], self.run[rows], self.features[rows], self.names, self.trips_at[fell])


@dataclass(frozen=True, eq=False)
class AlarmModel:
    """What was learnt of one machine.

    Args:
        booster: gives the probability that it trips within the lead.
        sensors: columns of the readings that it looks at.
        threshold: of the probability, chosen on held-out blocks of the training part.
        policy: how it was made.
        metrics: on the test part, see `judge`.
    """

    booster: xgboost.Booster
    sensors: tuple[str, ...]
    threshold: float
    policy: Alarm
    metrics: Mapping[str, float]

    def files(self, told: Mapping[str, Any]) -> dict[str, bytes]:
        """See `pump_ml.machines.kinds.Learnt`: the booster twice, once in XGBoost's own format."""
        content = {
            **told,
            "sensors": list(self.sensors),
            "threshold": self.threshold,
            "alarm": self.policy.model_dump(mode="json"),
        }
        return {
            "model": pickle.dumps(self.booster, protocol=5),
            "booster": bytes(self.booster.save_raw("ubj")),
            "about": json.dumps(content, indent=1).encode(),
        }

    def gate(self) -> tuple[bool, str]:
        """An alarm has to tell the rows before a trip from others: in its test part, or without trips there, before."""
        part = "test part" if np.isfinite(self.metrics["auc"]) else "held-out blocks, as its test part has no trip"
        auc = self.metrics["auc"] if np.isfinite(self.metrics["auc"]) else self.metrics["held_out_auc"]
        if auc > LEAST_AUC:
            return True, f"tells trips in its {part}: AUC {auc:.3f}"
        return False, f"does not tell trips in its {part}: AUC {auc:.3f}, expected above {LEAST_AUC:g}"


def learn(prepared: Prepared, policy: Policy, *, seed: int, watch: Watch | None = None) -> AlarmModel:
    """See `pump_ml.machines.kinds.Kind`."""
    return fit_alarm(prepared, policy.alarm, seed=seed, watch=watch)


def fit_alarm(prepared: Prepared, policy: Alarm, *, seed: int, watch: Watch | None = None) -> AlarmModel:
    """Learn one machine's alarm and judge it on its latest readings.

    What went before the test part is divided into blocks of time. Each is answered once by trees that learnt from the
    others; these answers say how many trees there should be and which threshold costs least.

    Args:
        prepared: the machine's readings.
        policy: labels, costs, and how long it learns.
        seed: of the trees.
        watch: called with each block.

    Raises:
        NoFailuresError: too few trips to learn from and to hold out.
        DataError: the test part has no row.
    """
    rows = observe(prepared, policy)
    lead = 60.0 * policy.lead_min
    cut = rows.at[int((1.0 - policy.test) * len(rows.at))] if len(rows.at) else 0.0
    known, test = rows.between(-np.inf, cut), rows.between(cut + lead, np.inf)
    if len(known.trips_at) < policy.least_trips:
        raise NoFailuresError(
            f"no failures to learn from: {len(known.trips_at)} trips before the test part, expected "
            f"{policy.least_trips} or more; choose a longer period. No model was made"
        )
    if not len(test.at):
        raise DataError(
            f"the test part has no row: the machine works in {len(rows.at)} rows of {policy.every_s:g} s; expected a "
            "longer period"
        )
    held_out = np.full(len(known.at), np.nan)
    most: list[int] = []
    for number, (begin, end) in enumerate(_blocks(known, policy.folds)):
        inside = (known.at >= begin) & (known.at < end)
        # What is near a block in time is in neither: a trip's course must not be on both sides.
        learn = (known.at < begin - lead) | (known.at >= end + lead)
        labels = known.label(lead)
        if not labels[learn].any() or not inside.any():
            continue
        booster = _learn(known, learn, inside, policy, seed)
        most.append(booster.best_iteration + 1)
        held_out[inside] = answers(booster, known.features[inside], rows.names)
        if watch is not None:
            watch(number, {"progress": (number + 1) / (policy.folds + 1)})
    answered = np.isfinite(held_out)
    if not known.label(lead)[answered].any():
        raise NoFailuresError(
            f"no failures to learn from: the {len(known.trips_at)} trips lie in one block of {policy.folds}, so none "
            "can be held out; choose a longer period. No model was made"
        )
    threshold = _threshold(known.where(answered), held_out[answered], policy)
    everything = np.ones(len(known.at), dtype=np.bool_)
    booster = _learn(known, everything, None, policy, seed, rounds=int(np.median(most)))
    if watch is not None:
        watch(policy.folds, {"progress": 1.0})
    metrics = judge(test, answers(booster, test.features, rows.names), threshold, policy)
    before = judge(known.where(answered), held_out[answered], threshold, policy)
    metrics |= {f"held_out_{name}": before[name] for name in ("auc", "pr_auc", "f1", "trips", "trips_caught")}
    return AlarmModel(booster, prepared.sensors, threshold, policy, metrics)


def observe(prepared: Prepared, policy: Alarm) -> Rows:
    """What the trees see of each moment: nothing of what comes later, nor of before the machine was started.

    Of each sensor its mean over the last minute, what that is above the means of five and of thirty minutes, and the
    scatter within five minutes; and how long the machine has been running.
    """
    at, works = prepared.seconds, operating(prepared)
    begins = np.concatenate([[True], (np.diff(prepared.stretch) != 0) | (works[1:] != works[:-1])])
    run = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)[run]
    # The first reading of each interval of `every_s` in a run.
    slot = np.floor((at - at[first]) / policy.every_s)
    chosen = np.flatnonzero(works & np.concatenate([[True], (np.diff(slot) != 0) | begins[1:]]))
    names, columns = [], []
    for place, sensor in enumerate(prepared.sensors):
        if sensor == RUNNING:
            continue
        means, scatter = _means(prepared.values[:, place], at, first, chosen)
        minute, five, thirty = means
        columns += [minute, minute - five, minute - thirty, scatter]
        names += [f"{sensor}_mean_1min", f"{sensor}_less_5min", f"{sensor}_less_30min", f"{sensor}_scatter_5min"]
    columns.append((at[chosen] - at[first[chosen]]) / 60.0)
    names.append("minutes_since_start")
    fell = trips(prepared, policy)
    return Rows(at[chosen], run[chosen], np.column_stack(columns).astype(np.float32), tuple(names), at[fell])


def _means(values: Array, at: Array, first: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[list[Array], Array]:
    """Means over the last `SPANS_S` up to each chosen row within its run, and the scatter over the middle one."""
    known = np.isfinite(values)
    level = float(np.median(values[known])) if known.any() else 0.0
    each = np.where(known, values - level, 0.0)  # sums of small numbers keep their digits
    sums, squares, counts = (np.concatenate([[0.0], np.cumsum(x)]) for x in (each, np.square(each), known))
    means = []
    scatter = np.empty(0)
    for span in SPANS_S:
        begin = np.maximum(np.searchsorted(at, at[chosen] - span, side="right"), first[chosen])
        count = counts[chosen + 1] - counts[begin]
        with np.errstate(invalid="ignore", divide="ignore"):  # nothing known: NaN
            mean = (sums[chosen + 1] - sums[begin]) / count
            if span == SPANS_S[1]:
                square = (squares[chosen + 1] - squares[begin]) / count
                scatter = np.sqrt(np.maximum(square - np.square(mean), 0.0))
        means.append(mean + level)
    return means, scatter


def _blocks(rows: Rows, number: int) -> list[tuple[float, float]]:
    """Blocks of time with about as many trips each: ``begin <= time < end``."""
    shares = np.array_split(rows.trips_at, min(number, len(rows.trips_at)))
    between = [(a[-1] + b[0]) / 2.0 for a, b in pairwise(shares)]
    return list(zip([-np.inf, *between], [*between, np.inf], strict=True))


def _learn(
    rows: Rows,
    learn: NDArray[np.bool_],
    stop: NDArray[np.bool_] | None,
    policy: Alarm,
    seed: int,
    rounds: int | None = None,
) -> xgboost.Booster:
    """Trees on some rows; as many as others say, or a given number. Trips weigh as much as all the rest."""
    labels = rows.label(60.0 * policy.lead_min)
    names = list(rows.names)
    inside = xgboost.DMatrix(rows.features[learn], labels[learn], feature_names=names)
    positive = max(int(labels[learn].sum()), 1)
    weight = policy.positive_weight * (learn.sum() - positive) / positive
    return xgboost.train(
        {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "max_depth": policy.depth,
            "eta": policy.rate,
            "subsample": 0.7,
            "colsample_bytree": 0.5,
            "min_child_weight": 5.0,
            "scale_pos_weight": weight,
            "tree_method": "hist",
            "nthread": 2,
            "seed": seed,
        },
        inside,
        num_boost_round=rounds or policy.rounds,
        evals=[]
        if stop is None
        else [(xgboost.DMatrix(rows.features[stop], labels[stop], feature_names=names), "held")],
        early_stopping_rounds=None if stop is None else policy.patience,
        verbose_eval=False,
    )


def answers(booster: xgboost.Booster, features: NDArray[np.float32], names: Sequence[str]) -> Array:
    """Probabilities of a trip within the lead, ``(n,)``, by the trees up to the best round where one was found."""
    best = booster.attr("best_iteration")
    trees = (0, int(best) + 1) if best is not None else (0, 0)
    found = booster.predict(xgboost.DMatrix(features, feature_names=list(names)), iteration_range=trees)
    return np.asarray(found, dtype=np.float64)


def _threshold(rows: Rows, probability: Array, policy: Alarm) -> float:
    """The threshold of the least cost, missed trips against false alarms; of equal ones the one of the best F1."""
    labels = rows.label(60.0 * policy.lead_min)
    quantiles = 1.0 - np.geomspace(0.5, 0.5 / THRESHOLDS**1.5, THRESHOLDS)
    best, cost = 0.5, (np.inf, np.inf)
    for threshold in np.unique(np.quantile(probability, quantiles)):
        found = _caught(rows, probability, float(threshold), policy)
        spent = policy.missed_trip * (found.trips - found.caught) + policy.false_alarm * found.false
        score = float(f1_score(labels, probability >= threshold, zero_division=0.0))
        if (spent, -score) < cost:
            best, cost = float(threshold), (spent, -score)
    return best


def _caught(rows: Rows, probability: Array, threshold: float, policy: Alarm) -> Caught:
    return catch(episodes(rows.at, probability, rows.run, threshold, policy), rows.trips_at, 60.0 * policy.lead_min)


def judge(rows: Rows, probability: Array, threshold: float, policy: Alarm) -> dict[str, float]:
    """Scores of the rows, and of the alarms.

    Returns:
        ``auc, pr_auc, precision, recall, f1`` of the rows at the threshold (NaN where the rows have one class only);
        ``trips, trips_caught, lead_min`` (median, minutes), ``alarms, false_alarms`` and
        ``false_alarms_per_month`` of 30 days; and ``mae, rmse, r2`` of the probability against the label.
    """
    labels = rows.label(60.0 * policy.lead_min)
    both = labels.any() and not labels.all()
    answered = probability >= threshold
    found = _caught(rows, probability, threshold, policy)
    months = (rows.at[-1] - rows.at[0]) / MONTH_S
    error = probability - labels
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.square(error).mean() ** 0.5),
        "r2": float(1.0 - np.square(error).mean() / labels.var()) if both else float("nan"),
        "auc": float(roc_auc_score(labels, probability)) if both else float("nan"),
        "pr_auc": float(average_precision_score(labels, probability)) if both else float("nan"),
        "precision": float(precision_score(labels, answered, zero_division=0.0)),
        "recall": float(recall_score(labels, answered, zero_division=0.0)) if both else float("nan"),
        "f1": float(f1_score(labels, answered, zero_division=0.0)) if both else float("nan"),
        "threshold": threshold,
        "trips": float(found.trips),
        "trips_caught": float(found.caught),
        "lead_min": float(np.median(found.lead_min)) if found.lead_min else float("nan"),
        "alarms": float(found.alarms),
        "false_alarms": float(found.false),
        "false_alarms_per_month": found.false / months if months > 0.0 else float("nan"),
        "test_rows": float(len(rows.at)),
    }
