"""MLflow: runs, registered models and the alias ``champion``. The only package that knows it.

A run is found again by the tag ``pump_ml.key``, so a step that is tried again goes on in the run it had opened. Several
tries may be alive at once (a task whose supervisor was killed is tried again while its process goes on), and each may
die between any two calls. What must happen once happens under a lock of the ledger, and has one commit point:

    a run's existence     `open_parent`, `child_run`: the run is made with its key in one call
    a model's version     `register`: the version is made with the tag `CANDIDATE` in one call
    a machine's model     `keep`: the version is made with its key in one call
    the champion          `crown`: the alias is moved; the ledger's row follows it
"""

# The client first: it sets what MLflow reads when it is imported.
from pump_ml.registry.client import (
    CANDIDATE,
    CHAMPION,
    KEY,
    PARENT,
    SUPERSEDED,
    connect,
    experiment,
    named_experiment,
    prepare,
)
from pump_ml.registry.machines import Publication, Version, keep, machine_champion, versions
from pump_ml.registry.orphans import OpenRun, close, finish, kill, open_runs, parents
from pump_ml.registry.runs import (
    child_run,
    find_run,
    log_dataset,
    log_parameters,
    log_points,
    log_values,
    open_parent,
    trial_run,
)
from pump_ml.registry.versions import (
    MODEL,
    champion,
    changing,
    crown,
    load_model,
    log_predictor,
    predictor_of,
    register,
    registered,
    signature,
)

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "KEY",
    "MODEL",
    "PARENT",
    "SUPERSEDED",
    "OpenRun",
    "Publication",
    "Version",
    "champion",
    "changing",
    "child_run",
    "close",
    "connect",
    "crown",
    "experiment",
    "find_run",
    "finish",
    "keep",
    "kill",
    "load_model",
    "log_dataset",
    "log_parameters",
    "log_points",
    "log_predictor",
    "log_values",
    "machine_champion",
    "named_experiment",
    "open_parent",
    "open_runs",
    "parents",
    "predictor_of",
    "prepare",
    "register",
    "registered",
    "signature",
    "trial_run",
    "versions",
]
