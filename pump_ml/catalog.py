"""The names one may choose. Being listed here means being tested; nothing heavy is imported."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pump_ml.errors import UnknownNameError

SOURCES: Mapping[str, str] = {
    "simulated": "pump_ml.sources.simulated:SimulatedSource",
    "files": "pump_ml.sources.files:FilesSource",
    "sql": "pump_ml.sources.sql:SqlSource",
}

PROBLEMS: Mapping[str, str] = {
    "cwru": "conf/problems/cwru.yaml",
    "diagnosis": "conf/problems/diagnosis.yaml",
    "femto": "conf/problems/femto.yaml",
    "hydraulic": "conf/problems/hydraulic.yaml",
    "lives": "conf/problems/lives.yaml",
    "rul": "conf/problems/rul.yaml",
}

FAMILIES: Mapping[str, str] = {
    "baseline": "pump_ml.models.baseline:Baseline",
    "xgb": "pump_ml.models.xgb:Xgb",
    "cnn1d": "pump_ml.models.cnn1d:Cnn1d",
    "cnn2d": "pump_ml.models.cnn2d:Cnn2d",
    "gru": "pump_ml.models.gru:Gru",
}

MACHINE_MODELS: Mapping[str, str] = {
    "gru": "pump_ml.machines.forecast:learn",
    "xgb": "pump_ml.machines.alarm:learn",
}
"""Kinds of models of single machines: health forecast, pre-failure alarm."""

BENCHMARKS = ("twin_v2", "twin_v3", "fd001", "hydraulic", "femto", "cwru")
"""Fixed protocols: conf/benchmarks.yaml."""

PRESETS = ("quick", "standard", "full")
"""How long families learn: conf/presets.yaml."""

FLEETS = ("small", "standard", "large")
"""Sizes of simulated fleets: conf/fleets.yaml."""

DATASETS: Mapping[str, str] = {"v2": "diagnosis", "v3": "lives"}
"""Of the twin: samples at separated severity levels, and whole lives; and the problem that each is for."""

MOST_TRIALS = 1_000
"""Trials of one family in one training run: more than that is a typing error."""

MOST_SHARDS = 1_000
"""Parts of a simulated fleet; Airflow maps a task over 1024 things at most."""

MOST_BATCHES = 1_000
"""Tasks of one kind of work on a fleet's machines, for the same reason."""

POOLS: Mapping[str, int] = {"training": 3, "ingestion": 2, "machines": 2}
"""Pools of Airflow, which are also the names of the queues of their tasks, and the slots of each. A pool that does not
exist leaves its tasks waiting for ever, so whatever sets up an Airflow makes all of these."""


def load(kind: str, entries: Mapping[str, str], name: str) -> Any:
    """Import the object behind `name`.

    Raises:
        UnknownNameError: `entries` has no such name; the message lists the ones it has.
    """
    if name not in entries:
        raise UnknownNameError(kind, name, entries)
    module, attribute = entries[name].split(":")
    return getattr(import_module(module), attribute)
