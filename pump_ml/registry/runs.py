"""Runs: one of each key, whoever opens it, and what is logged in it."""

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException

from pump_ml import ledger
from pump_ml.registry.client import FINISHED, KEY, OPENED, PARENT, RUNNING
from pump_ml.registry.orphans import sign_of_life

log = logging.getLogger(__name__)


def find_run(client: "mlflow.MlflowClient", experiment_id: str, key: str) -> Any | None:
    """The run with this key, or None."""
    runs = client.search_runs([experiment_id], filter_string=f"tags.`{KEY}` = '{key}'", max_results=1)
    return runs[0] if runs else None


def open_parent(client: "mlflow.MlflowClient", experiment_id: str, key: str, name: str, tags: Mapping[str, str]) -> str:
    """Id of the run that stands for a whole training run; opened again when it was there, unless it is FINISHED.

    Tries that race get the same run.
    """
    with _opening(experiment_id):
        run = find_run(client, experiment_id, key)
        if run is None:
            run = client.create_run(experiment_id, run_name=name, tags={KEY: key, OPENED: now(), **tags})
        elif run.info.status != FINISHED:
            client.set_tag(run.info.run_id, OPENED, now())
            client.update_run(run.info.run_id, status=RUNNING)
    return str(run.info.run_id)


@contextlib.contextmanager
def child_run(
    client: "mlflow.MlflowClient", experiment_id: str, parent: str, key: str, name: str, tags: Mapping[str, str]
) -> Iterator[str]:
    """A run below `parent`: a new one, or on a retry the one that was opened before; the active one in the block.

    It ends FINISHED, or FAILED when the block raises, unless another try ended it FINISHED meanwhile. Tries that race
    get the same run.
    """
    mlflow.set_system_metrics_sampling_interval(2)
    status, active = "FAILED", None
    try:
        with _opening(experiment_id):
            run = find_run(client, experiment_id, key)
            if run and run.info.status == RUNNING:
                log.warning(
                    "%s: an earlier try ended without a word: killed, maybe out of memory. Its last sign of life was "
                    "%.0f s ago; this try goes on in its MLflow run %s",
                    key, time.time() - sign_of_life(run), run.info.run_id,
                )  # fmt: skip
            active = mlflow.start_run(
                run_id=run.info.run_id if run else None,
                experiment_id=None if run else experiment_id,
                run_name=None if run else name,
                tags={KEY: key, PARENT: parent, OPENED: now(), **tags},
                log_system_metrics=True,
            )
        yield str(active.info.run_id)
        status = FINISHED
    finally:
        if active and status != FINISHED:
            with contextlib.suppress(MlflowException):  # what was raised tells more than that MLflow is away too
                status = FINISHED if client.get_run(active.info.run_id).info.status == FINISHED else status
        if active:
            mlflow.end_run(status)


@contextlib.contextmanager
def trial_run(
    client: "mlflow.MlflowClient", experiment_id: str, parent: str, key: str, name: str, tags: Mapping[str, str]
) -> Iterator[str]:
    """A run of one trial below its tuning run; it ends FINISHED, or FAILED when the block raises.

    Its key is of this try alone, so it is made without a lock, and beside the active run.
    """
    run = client.create_run(experiment_id, run_name=name, tags={KEY: key, PARENT: parent, OPENED: now(), **tags})
    status = "FAILED"
    try:
        yield str(run.info.run_id)
        status = FINISHED
    finally:
        client.set_terminated(run.info.run_id, status=status)


def _opening(experiment_id: str) -> AbstractContextManager[None]:
    """One process at a time looks whether a run or a dataset is there, and makes it."""
    return ledger.lock(f"mlflow/experiment/{experiment_id}")


def now() -> str:
    """The value of the tag `OPENED`."""
    return f"{time.time():.0f}"


def log_parameters(client: "mlflow.MlflowClient", run: str, parameters: Mapping[str, Any]) -> None:
    """Log parameters; the same ones again change nothing."""
    client.log_batch(run, params=[Param(name, str(value)) for name, value in parameters.items()])


def log_points(client: "mlflow.MlflowClient", run: str, points: Sequence[tuple[str, float, int]]) -> None:
    """Log points ``(name, value, step)``, a thousand a call as MLflow allows."""
    now = int(time.time() * 1000)
    measured = [Metric(name, value, now, step) for name, value, step in points]
    for start in range(0, len(measured), 1000):
        client.log_batch(run, metrics=measured[start : start + 1000])


def log_values(client: "mlflow.MlflowClient", run: str, part: str, values: Mapping[str, Mapping[str, float]]) -> None:
    """Log each target's metrics as ``part/target_metric``."""
    log_points(client, run, [(f"{part}/{t}_{m}", v, 0) for t, found in values.items() for m, v in found.items()])


def log_dataset(
    readings: pd.DataFrame, *, key: str, content_hash: str, source: str, context: str, run: str | None = None
) -> None:
    """Lineage: which snapshot a run (the active one) read, and for what.

    The digest is the snapshot's own, since MLflow's covers the first 10,000 rows only. The purpose stands in the name,
    since MLflow notes the same dataset once a run. Tries that race note it once: MLflow itself would fail for one of
    them, as it looks first whether the dataset is there and then adds it.
    """
    client = mlflow.MlflowClient()
    run = run or str(mlflow.active_run().info.run_id)
    with _opening(client.get_run(run).info.experiment_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's hints about integer columns and ambiguous sources
        # The profile holds sizes only; ten rows are enough for the schema.
        dataset = mlflow.data.from_pandas(
            readings.head(10), source=source, name=f"{key}/{context}", digest=content_hash[:36]
        )
        tags = [InputTag("mlflow.data.context", context)]
        client.log_inputs(run, [DatasetInput(dataset._to_mlflow_entity(), tags)])
