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
from scipy.ndimage import uniform_filter1d
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from pump_ml.errors import PumpMLError, TooFewReadingsError
from pump_ml.machines.kinds import Watch
from pump_ml.machines.policy import Alarm, Policy
from pump_ml.machines.preparation import Prepared
from pump_ml.machines.trips import Caught, catch, episodes, trips
from pump_ml.machines.usual import LEAST_MOMENTS, Usual, directions, observe

Array = NDArray[np.float64]

HEALTHY_S = 3 * 3600.0
"""So long before a trip a machine counts as healthy."""
APART_S = 5400.0
"""What is so near to a block of time is not learnt from when the block is answered: a trip's course must not be on both
sides."""
MONTH_S = 30 * 86400.0
LEAST_AUC = 0.7
"""Below it an alarm tells so little that it may not lead: 0.5 is chance, and a few trips scatter by 0.1."""
THRESHOLDS = 40
"""Thresholds that are tried: quantiles of the held-out probabilities, finer the higher."""
AROUND = 3
"""The cost of a threshold is the mean of its own and of so many on each side."""


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
        """Some of the rows, with all trips."""
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
        usual: what the machine shows while nothing is wrong.
        sensors: columns of the readings that it looks at.
        threshold: of the probability, chosen on held-out blocks of the training part.
        policy: how it was made.
        metrics: on the test part, see `judge`.
        test_from: when its test part begins, in seconds since 1970.
    """

    booster: xgboost.Booster
    usual: Usual
    sensors: tuple[str, ...]
    threshold: float
    policy: Alarm
    metrics: Mapping[str, float]
    test_from: float

    def files(self, told: Mapping[str, Any]) -> dict[str, bytes]:
        """See `pump_ml.machines.kinds.Learnt`: the booster twice, once in XGBoost's own format."""
        content = {
            **told,
            "sensors": list(self.sensors),
            "threshold": self.threshold,
            "usual": self.usual.to_json(),
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


def learn(
    prepared: Prepared, policy: Policy, limits: Mapping[str, float], *, seed: int, watch: Watch | None = None
) -> AlarmModel:
    """See `pump_ml.machines.kinds.Kind`."""
    return fit_alarm(prepared, policy.alarm, limits, seed=seed, watch=watch)


def fit_alarm(
    prepared: Prepared, policy: Alarm, limits: Mapping[str, float], *, seed: int, watch: Watch | None = None
) -> AlarmModel:
    """Learn one machine's alarm and judge it on its latest readings.

    What went before the test part is divided into blocks of time. Each is answered once by trees that learnt from the
    others, and learnt what is usual from them; these answers say which threshold costs least.

    Args:
        prepared: the machine's readings.
        policy: labels, costs, and how long it learns.
        limits: by sensor, the value at which the controller stops the machine.
        seed: of the trees.
        watch: called with each block.

    Raises:
        NoFailuresError: too few trips to learn from and to hold out.
        DataError: the test part has no row.
    """
    moments = observe(prepared, policy.every_s)
    fell = prepared.seconds[trips(prepared, policy)]
    lead = 60.0 * policy.lead_min
    cut = moments.at[int((1.0 - policy.test) * len(moments.at))] if len(moments.at) else 0.0
    before = int((fell < cut).sum())
    if before < policy.least_trips:
        raise NoFailuresError(
            f"no failures to learn from: {before} trips before the test part, expected {policy.least_trips} or more; "
            "choose a longer period. No model was made"
        )
    before_trip = fell[fell < cut]
    following = np.append(before_trip, np.inf)[np.searchsorted(before_trip, moments.at, side="right")] - moments.at
    healthy = (moments.at < cut) & (following > HEALTHY_S)
    if healthy.sum() < LEAST_MOMENTS:
        raise TooFewReadingsError(
            f"the machine has {healthy.sum()} of {len(moments.at)} moments at work that are more than "
            f"{HEALTHY_S / 3600:g} hours before a trip; expected {LEAST_MOMENTS} or more, to learn what is usual"
        )

    def rows_of(usual: Usual) -> Rows:
        return Rows(moments.at, moments.run, *usual.features(moments), fell)

    usual = Usual.fit(moments, healthy, limits)
    rows = rows_of(usual)
    # Whether a trip follows within the lead is not known of what is nearer to the end.
    known, test = rows.between(-np.inf, cut - lead), rows.between(cut + max(lead, APART_S), np.inf)
    if not len(test.at):
        raise TooFewReadingsError(
            f"the test part has no row: the machine works in {len(rows.at)} rows of {policy.every_s:g} s; expected a "
            "longer period"
        )
    held_out = np.full(len(known.at), np.nan)
    for number, (begin, end) in enumerate(_blocks(known, policy.folds)):
        inside = (known.at >= begin) & (known.at < end)
        learn = (known.at < begin - APART_S) | (known.at >= end + APART_S)
        apart = (moments.at < begin - APART_S) | (moments.at >= end + APART_S)
        if not known.label(lead)[learn].any() or not inside.any() or (healthy & apart).sum() < LEAST_MOMENTS:
            continue
        fold = rows_of(Usual.fit(moments, healthy & apart, limits)).between(-np.inf, cut - lead)
        held_out[inside] = answers(_learn(fold, learn, policy, seed), fold.features[inside], fold.names)
        if watch is not None:
            watch(number, {"progress": (number + 1) / (policy.folds + 1)})
    answered = np.isfinite(held_out)
    if not known.label(lead)[answered].any():
        raise NoFailuresError(
            f"no failures to learn from: the {len(known.trips_at)} trips lie in one block of {policy.folds}, so none "
            "can be held out; choose a longer period. No model was made"
        )
    threshold = cheapest_threshold(known.where(answered), held_out[answered], policy)
    booster = _learn(known, np.ones(len(known.at), dtype=np.bool_), policy, seed)
    if watch is not None:
        watch(policy.folds, {"progress": 1.0})
    metrics = judge(test, answers(booster, test.features, rows.names), threshold, policy)
    held = judge(known.where(answered), held_out[answered], threshold, policy)
    metrics |= {f"held_out_{name}": held[name] for name in ("auc", "pr_auc", "f1", "trips", "trips_caught")}
    return AlarmModel(booster, usual, prepared.sensors, threshold, policy, metrics, float(test.at[0]))


def _blocks(rows: Rows, number: int) -> list[tuple[float, float]]:
    """Blocks of time with about as many trips each: ``begin <= time < end``."""
    shares = np.array_split(rows.trips_at, min(number, len(rows.trips_at)))
    between = [(a[-1] + b[0]) / 2.0 for a, b in pairwise(shares)]
    return list(zip([-np.inf, *between], [*between, np.inf], strict=True))


def _learn(rows: Rows, learn: NDArray[np.bool_], policy: Alarm, seed: int) -> xgboost.Booster:
    """Trees on some rows. All rows before a trip together weigh `positive_weight` times as much as all others."""
    labels = rows.label(60.0 * policy.lead_min)[learn]
    positive = int(labels.sum())
    return xgboost.train(
        {
            "objective": "binary:logistic",
            "max_depth": policy.depth,
            "eta": policy.rate,
            "subsample": 0.6,
            "colsample_bynode": 0.3,
            "min_child_weight": 20.0,
            "lambda": 5.0,
            "scale_pos_weight": policy.positive_weight * (len(labels) - positive) / positive,
            "monotone_constraints": directions(rows.names),
            "tree_method": "hist",
            "nthread": 2,
            "seed": seed,
        },
        xgboost.DMatrix(rows.features[learn], labels, feature_names=list(rows.names)),
        num_boost_round=policy.rounds,
    )


def answers(booster: xgboost.Booster, features: NDArray[np.float32], names: Sequence[str]) -> Array:
    """Probabilities of a trip within the lead, ``(n,)``."""
    return np.asarray(booster.predict(xgboost.DMatrix(features, feature_names=list(names))), dtype=np.float64)


def cheapest_threshold(rows: Rows, probability: Array, policy: Alarm) -> float:
    """The threshold of the least cost, missed trips against false alarms; of like ones the one of the best F1.

    A dozen trips tell the cost of a threshold in leaps, so it is its mean over the thresholds around it, and those
    that lie within a false alarm of the least are not told apart. There is no bound on the false alarms: three weeks
    hold two or three, and a bound on so small a number now and then left no threshold but one that warns of nothing.
    """
    labels = rows.label(60.0 * policy.lead_min)
    tried = np.unique(np.quantile(probability, 1.0 - np.geomspace(0.3, 0.3 / 300.0, THRESHOLDS)))
    found = [_caught(rows, probability, each, policy) for each in tried.tolist()]
    cost = [policy.missed_trip * (each.trips - each.caught) + policy.false_alarm * each.false for each in found]
    around = uniform_filter1d(np.array(cost), 2 * AROUND + 1, mode="nearest")
    scores = [f1_score(labels, probability >= each, zero_division=0.0) for each in tried.tolist()]
    like = around <= around.min() + policy.false_alarm
    return float(tried[np.where(like, scores, -1.0).argmax()])


def _months(rows: Rows) -> float:
    return float((rows.at[-1] - rows.at[0]) / MONTH_S)


def _caught(rows: Rows, probability: Array, threshold: float, policy: Alarm) -> Caught:
    return catch(episodes(rows.at, probability, rows.run, threshold, policy), rows.trips_at, 60.0 * policy.lead_min)


def judge(rows: Rows, probability: Array, threshold: float, policy: Alarm) -> dict[str, float]:
    """Scores of the rows, and of the alarms.

    Returns:
        ``auc, pr_auc, precision, recall, f1`` of the rows at the threshold (NaN where the rows have one class only);
        ``trips, trips_caught, lead_min`` (median, minutes), ``alarms, false_alarms``, ``false_alarms_per_month`` of 30
        days, ``alarm_share`` of the time at work in which one was on; and ``mae, rmse, r2`` of the probability against
        the label.
    """
    labels = rows.label(60.0 * policy.lead_min)
    both = labels.any() and not labels.all()
    answered = probability >= threshold
    found = _caught(rows, probability, threshold, policy)
    months = _months(rows)
    error = probability - labels
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.square(error).mean() ** 0.5),
        "r2": float(1.0 - np.square(error).mean() / labels.var()) if both else float("nan"),
        "auc": float(roc_auc_score(labels, probability)) if both else float("nan"),
        "pr_auc": float(average_precision_score(labels, probability)) if both else float("nan"),
        "precision": float(precision_score(labels, answered, zero_division=0.0)) if both else float("nan"),
        "recall": float(recall_score(labels, answered, zero_division=0.0)) if both else float("nan"),
        "f1": float(f1_score(labels, answered, zero_division=0.0)) if both else float("nan"),
        "threshold": threshold,
        "trips": float(found.trips),
        "trips_caught": float(found.caught),
        "lead_min": float(np.median(found.lead_min)) if found.lead_min else float("nan"),
        "alarms": float(found.alarms),
        "false_alarms": float(found.false),
        "false_alarms_per_month": found.false / months if months > 0.0 else float("nan"),
        "alarm_share": found.on_s / max(float(len(rows.at)) * policy.every_s, 1.0),
        "test_rows": float(len(rows.at)),
    }
