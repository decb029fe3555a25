"""The machines of a fleet, trained in one run: which batches they come in, and what became of all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pump_ml.catalog import MOST_BATCHES
from pump_ml.machines.policy import Policy

TRAINED = ("trained", "published before")
NO_FAILURES, TOO_FEW, FAILED = "no failures", "too few readings", "failed"
BATCH_S = 150.0
"""Estimated seconds of work that make a batch. A task of Airflow costs about 14 s of CPU before it trains: a process,
imports, the network's first step; so it stays under a tenth."""
METRICS = {
    "gru": ("mae", "rmse", "r2", "skill_over_persistence"),
    "xgb": ("auc", "f1", "trips", "trips_caught", "false_alarms_per_month"),
}
"""What the roll-up tells of each kind."""


def _forecast_s(rows: int, policy: Policy) -> float:
    learnt = policy.forecast
    windows = min((1.0 - learnt.test - learnt.validation) * rows, learnt.windows)
    return 2.5 + 0.0003 * learnt.epochs * windows + 0.00001 * rows


def _alarm_s(rows: int, policy: Policy) -> float:
    return 0.7 + 0.00006 * rows * policy.alarm.rounds / 150.0


COSTS: Mapping[str, Callable[[int, Policy], float]] = {"gru": _forecast_s, "xgb": _alarm_s}
"""Estimated seconds of CPU that a machine takes by kind, from its rows. Only the proportions matter: a slow computer
starts tasks slowly too."""


@dataclass(frozen=True)
class Batch:
    """Machines that one task trains one after the other, all of the same kind."""

    kind: str
    machines: tuple[str, ...]

    @property
    def name(self) -> str:
        """``MP-001 gru`` or ``MP-001 … MP-020 gru (20)``."""
        if len(self.machines) == 1:
            return f"{self.machines[0]} {self.kind}"
        return f"{self.machines[0]} … {self.machines[-1]} {self.kind} ({len(self.machines)})"


def batches(rows: Mapping[str, int], kinds: Sequence[str], policy: Policy, batch_s: float = BATCH_S) -> list[Batch]:
    """Divide the work into tasks.

    Args:
        rows: of each machine, in the order in which they are trained.
        kinds: of models.
        policy: how long they learn.
        batch_s: estimated seconds from which a batch is full; so a machine that takes as long alone is alone in its
            task. It is raised where that could make more tasks than Airflow maps.
    """
    costs = {kind: {machine: COSTS[kind](count, policy) for machine, count in rows.items()} for kind in kinds}
    most = (MOST_BATCHES - len(kinds)) / 2  # the last batch of a kind is not full, nor is one before a machine alone
    batch_s = max(batch_s, sum(sum(each.values()) for each in costs.values()) / most)
    return [batch for kind in kinds for batch in _of_kind(kind, costs[kind], batch_s)]


def _of_kind(kind: str, costs: Mapping[str, float], batch_s: float) -> Iterator[Batch]:
    taken: list[str] = []
    seconds = 0.0
    for machine, cost in costs.items():
        if taken and (seconds >= batch_s or cost >= batch_s):
            yield Batch(kind, tuple(taken))
            taken, seconds = [], 0.0
        taken.append(machine)
        seconds += cost
    if taken:
        yield Batch(kind, tuple(taken))


def summary(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count what became of a fleet.

    Args:
        outcomes: of each machine and kind; see `pump_ml.machines.training.Outcome.to_json`.

    Returns:
        ``planned``, ``trained``, ``no_failures``, ``too_few``, ``failed``; ``share`` trained of those that could be,
        which leaves out the ones without failures or without enough readings to learn from; and by kind the same
        counts, ``champions`` and ``median`` of each of `METRICS`, None where no model has it.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for each in outcomes:
        kinds.setdefault(each["kind"], []).append(each)
    counted = _counted(outcomes)
    could = counted["planned"] - counted["no_failures"] - counted["too_few"]
    return counted | {
        "share": counted["trained"] / could if could else 1.0,
        "kinds": {
            kind: _counted(of_kind)
            | {
                "champions": sum(bool(each.get("champion")) for each in of_kind),
                "median": {name: _median(of_kind, name) for name in METRICS[kind]},
            }
            for kind, of_kind in kinds.items()
        },
    }


def told(counted: Mapping[str, Any]) -> str:
    """Counts in words: ``37 of 40 trained, 2 without failures to learn from, 1 failed``."""
    words = [f"{counted['trained']} of {counted['planned']} trained"]
    if counted["no_failures"]:
        words.append(f"{counted['no_failures']} without failures to learn from")
    if counted["too_few"]:
        words.append(f"{counted['too_few']} with too few readings")
    return ", ".join([*words, f"{counted['failed']} failed"])


def _counted(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = [each["outcome"] for each in outcomes]
    return {
        "planned": len(found),
        "trained": sum(each in TRAINED for each in found),
        "no_failures": found.count(NO_FAILURES),
        "too_few": found.count(TOO_FEW),
        "failed": found.count(FAILED),
    }


def _median(outcomes: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    values = [each["metrics"][metric] for each in outcomes if each.get("metrics", {}).get(metric) is not None]
    return float(median(values)) if values else None
