"""What a DAG or a shell may ask for. Each step takes and returns small JSON; frames travel by key, never by value.

    plan_shards -> make_shard(…) -> fetch -> validate -> snapshot              a dataset
    plan -> train(baseline) -> gate -> [tune(…)] -> train(…) -> evaluate -> promote -> report    a training run
    plan_machines -> train_batch(…) -> roll_up                                 the models of a fleet's machines

A step may be tried again at any time: it finds what an earlier try finished by its key, and does the rest. Heavy
imports stand inside the functions.
"""

from pump_ml.steps.common import Json, Progress, log_progress, step
from pump_ml.steps.dataset import fetch, make_shard, plan_shards, snapshot, validate
from pump_ml.steps.fleet import plan_machines, read_outcomes, roll_up, train_batch
from pump_ml.steps.machines import reconcile_machines, train_machine
from pump_ml.steps.outcome import close, evaluate, promote, reconcile, report
from pump_ml.steps.training import check_names, gate, own_problem, plan, read_candidates, read_plan, train
from pump_ml.steps.tuning import tune

__all__ = [
    "Json",
    "Progress",
    "check_names",
    "close",
    "evaluate",
    "fetch",
    "gate",
    "log_progress",
    "make_shard",
    "own_problem",
    "plan",
    "plan_machines",
    "plan_shards",
    "promote",
    "read_candidates",
    "read_outcomes",
    "read_plan",
    "reconcile",
    "reconcile_machines",
    "report",
    "roll_up",
    "snapshot",
    "step",
    "train",
    "train_batch",
    "train_machine",
    "tune",
    "validate",
]
