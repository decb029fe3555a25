"""MLflow: runs, registered models and the alias ``champion``. The only module that knows it.

A run is found again by the tag ``pump_ml.key``, so a step that is tried again goes on in the run it had opened.
"""

import contextlib
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

# Before the import, which reads them: nothing is sent anywhere, and the log holds what matters.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow
    from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunStatus
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

from pump_ml import catalog
from pump_ml.errors import ConfigurationError
from pump_ml.models import Predictor
from pump_ml.problems import Problem
from pump_ml.schema import ASSET, COMMISSIONING, RUN, TIME
from pump_ml.settings import PACKAGE, Settings

KEY, PARENT, CHAMPION = "pump_ml.key", "mlflow.parentRunId", "champion"
CORE = ("numpy", "pandas", "pydantic", "pydantic-settings", "pyyaml", "pint", "universal-pathlib")
MODEL = "model"

logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
logging.getLogger("mlflow.models.utils").setLevel(logging.ERROR)  # says that columns beyond the signature are ignored
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)


def connect(settings: Settings | None = None) -> "mlflow.MlflowClient":
    """A client of the deployment's MLflow; the embedded store is made when it is not there."""
    settings = settings or Settings.load()
    if settings.tracking_uri is None:
        settings.home.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(settings.tracking)
    mlflow.set_registry_uri(settings.tracking)
    if settings.tracking_uri is None:
        # MLflow exports both, and the next Settings would take the embedded store for a server that keeps artifacts.
        for exported in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            os.environ.pop(exported, None)
    return mlflow.MlflowClient()


def prepare() -> None:
    """Make MLflow's embedded store ready, so that parallel tasks don't all migrate it."""
    connect().search_experiments(max_results=1)


def experiment(client: "mlflow.MlflowClient", problem: Problem, settings: Settings) -> str:
    """Id of the problem's experiment, made when it is not there; it opens in the UI's model-training view."""
    found = client.get_experiment_by_name(problem.name)
    if found is None:
        tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": problem.description}
        location = settings.mlflow_artifacts and f"{settings.mlflow_artifacts}/{problem.name}"
        try:
            return str(client.create_experiment(problem.name, artifact_location=location, tags=tags))
        except MlflowException:  # another task made it in the meantime
            found = client.get_experiment_by_name(problem.name)
    return str(found.experiment_id)


def find_run(client: "mlflow.MlflowClient", experiment_id: str, key: str) -> Any | None:
    """The run with this key, or None."""
    runs = client.search_runs([experiment_id], filter_string=f"tags.`{KEY}` = '{key}'", max_results=1)
    return runs[0] if runs else None


def open_parent(client: "mlflow.MlflowClient", experiment_id: str, key: str, name: str, tags: Mapping[str, str]) -> str:
    """Id of the run that stands for a whole training run; opened again when it was there."""
    run = find_run(client, experiment_id, key)
    if run is None:
        run = client.create_run(experiment_id, run_name=name, tags={KEY: key, **tags})
    client.update_run(run.info.run_id, status="RUNNING")
    return str(run.info.run_id)


@contextlib.contextmanager
def child_run(
    client: "mlflow.MlflowClient", experiment_id: str, parent: str, key: str, name: str, tags: Mapping[str, str]
) -> Iterator[str]:
    """A run below `parent`: a new one, or on a retry the one that was opened before. It ends FINISHED or FAILED."""
    run = find_run(client, experiment_id, key)
    mlflow.set_system_metrics_sampling_interval(2)
    with mlflow.start_run(
        run_id=run.info.run_id if run else None,
        experiment_id=None if run else experiment_id,
        run_name=None if run else name,
        tags={KEY: key, PARENT: parent, **tags},
        log_system_metrics=True,
    ) as active:
        yield str(active.info.run_id)


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
    since MLflow notes the same dataset once a run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's hints about integer columns and ambiguous sources
        # The profile holds sizes only; ten rows are enough for the schema.
        dataset = mlflow.data.from_pandas(
            readings.head(10), source=source, name=f"{key}/{context}", digest=content_hash[:36]
        )
        if run is None:
            mlflow.log_input(dataset, context=context)
        else:
            tags = [InputTag("mlflow.data.context", context)]
            mlflow.MlflowClient().log_inputs(run, [DatasetInput(dataset._to_mlflow_entity(), tags)])


def log_predictor(predictor: Predictor, example: pd.DataFrame) -> str:
    """Log the predictor in the active run as a model that takes raw readings; returns its address.

    Args:
        predictor: what was learnt.
        example: readings of one asset, which are stored as the input example.
    """
    family = catalog.load("family", catalog.FAMILIES, predictor.family)
    example = example[list(predictor.columns)].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's hints about type hints
        predictor.save(Path(folder))
        info = mlflow.pyfunc.log_model(
            name=MODEL,
            python_model=str(PACKAGE / "models" / "pyfunc.py"),
            artifacts={"predictor": folder},
            code_paths=[str(PACKAGE)],
            signature=signature(predictor),
            input_example=example,
            pip_requirements=[f"{name}=={found}" for name in (*CORE, *family.requires) if (found := _version(name))],
            metadata={"family": predictor.family, "problem": predictor.problem.name},
        )
    return str(info.model_uri)


def signature(predictor: Predictor) -> ModelSignature:
    """Columns in and out. Time may be a timestamp with or without zone, or a count of cycles."""
    kinds = {ASSET: "string", RUN: "string", COMMISSIONING: "boolean"}
    keys = [ColSpec("string", ASSET), ColSpec("string", RUN), ColSpec(AnyType(), TIME)]
    inputs = [ColSpec(AnyType() if c == TIME else kinds.get(c, "double"), c) for c in predictor.columns]
    outputs = list(keys)
    for target in predictor.problem.targets:
        outputs.append(ColSpec("string" if target.kind == "classes" else "double", target.name))
        outputs += [ColSpec("double", f"{target.name}_p_{name}") for name in target.classes]
    return ModelSignature(Schema(inputs), Schema(outputs))


def register(client: "mlflow.MlflowClient", name: str, model_uri: str, run_id: str, tags: Mapping[str, str]) -> str:
    """Register a run's model once; a second call for the same run gives the version that the first one made."""
    if found := registered(client, name, run_id):
        return found[0]
    with contextlib.redirect_stderr(io.StringIO()):  # MLflow announces each version there
        made = mlflow.register_model(model_uri, name, tags=dict(tags))
    return str(made.version)


def registered(client: "mlflow.MlflowClient", name: str, run_id: str) -> tuple[str, dict[str, str]] | None:
    """The version of `name` that this run registered, and its tags; or None."""
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    return (str(found[0].version), dict(found[0].tags)) if found else None


def load_model(name: str, which: str) -> Any:
    """The pyfunc model of a version number or of an alias such as ``champion``.

    Raises:
        ConfigurationError: there is no such model.
    """
    address = f"models:/{name}/{which}" if which.isdigit() else f"models:/{name}@{which.removeprefix('@')}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's hints about type hints
            return mlflow.pyfunc.load_model(address)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise  # a lost connection is worth a retry
        raise ConfigurationError(
            f"{address} cannot be loaded: {error}; registered models: "
            f"{', '.join(m.name for m in mlflow.MlflowClient().search_registered_models()) or 'none'}"
        ) from error


def predictor_of(model: Any) -> Predictor:
    """The predictor inside a loaded pyfunc model."""
    predictor: Predictor = model.unwrap_python_model().predictor
    return predictor


def champion(client: "mlflow.MlflowClient", name: str) -> tuple[str, str] | None:
    """Version and family of the standing champion, or None."""
    try:
        found = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        # No such model, or no such alias; anything else says nothing about the champion, and must not dethrone it.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return str(found.version), str(found.tags.get("family", "unknown"))


def crown(client: "mlflow.MlflowClient", name: str, challenger: str) -> None:
    """Move the alias ``champion`` to this version."""
    client.set_registered_model_alias(name, CHAMPION, challenger)


def parents(client: "mlflow.MlflowClient", key: str) -> list[str]:
    """Ids of the runs with this key, in any experiment."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`{KEY}` = '{key}'")
    return [str(run.info.run_id) for run in runs]


def close(client: "mlflow.MlflowClient", parent: str, status: str) -> int:
    """End a parent run, and kill the runs below it that are still open; returns how many were.

    A parent that has ended keeps its status, unless the run turned out well after all.
    """
    run = client.get_run(parent)
    below = client.search_runs(
        [run.info.experiment_id], filter_string=f"tags.`{PARENT}` = '{parent}'", max_results=1000
    )
    orphans = [r for r in below if r.info.status == RunStatus.to_string(RunStatus.RUNNING)]
    for orphan in orphans:
        client.set_terminated(orphan.info.run_id, status="KILLED")
    if status == "FINISHED" or run.info.status == RunStatus.to_string(RunStatus.RUNNING):
        client.set_terminated(parent, status=status)
    return len(orphans)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
