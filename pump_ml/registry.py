"""MLflow: runs, registered models and the alias ``champion``. The only module that knows it.

A run is found again by the tag ``pump_ml.key``, so a step that is tried again goes on in the run it had opened. Several
tries may be alive at once (a task whose supervisor was killed is tried again while its process goes on), and each may
die between any two calls. What must happen once happens under a lock of the ledger, and has one commit point:

    a run's existence     `open_parent`, `child_run`: the run is made with its key in one call
    a model's version     `register`: the version is made with the tag `CANDIDATE` in one call
    the champion          `crown`: the alias is moved; the ledger's row follows it
"""

import contextlib
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

# Before the import, which reads them: nothing is sent anywhere, and the log holds what matters.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Artifacts go through the server, whole: in parts it would send a client to its store's inner address.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # an image without git is no error; its commit is in the tags
# A call to a server that is down gives up after 126 s (measured), so an outage of two minutes does not cost the hours
# that a model learnt; MLflow's own default is 4 minutes. One that never answers is dropped after a minute, not two.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "6")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow
    from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunStatus
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

from pump_ml import catalog, ledger
from pump_ml.errors import ConfigurationError
from pump_ml.models import Predictor
from pump_ml.problems import Problem
from pump_ml.schema import ASSET, COMMISSIONING, RUN, TIME
from pump_ml.settings import PACKAGE, Settings

KEY, PARENT, CHAMPION = "pump_ml.key", "mlflow.parentRunId", "champion"
OPENED = "pump_ml.opened"
"""Tag of a run: when a try took it up last, in seconds since 1970."""
CANDIDATE = "pump_ml.candidate"
"""Tag of a version that `pump_ml.steps.train` made: what it returned."""
SUPERSEDED = "pump_ml.superseded_by"
"""Tag of another version of the same run, which somebody or a dead try left: the version that counts."""
RUNNING, FINISHED = (RunStatus.to_string(status) for status in (RunStatus.RUNNING, RunStatus.FINISHED))
CORE = ("numpy", "pandas", "pydantic", "pydantic-settings", "pyyaml", "pint", "universal-pathlib")
MODEL = "model"
PAGE = 1000
"""Runs that a search asks for at a time."""

log = logging.getLogger(__name__)
logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
logging.getLogger("mlflow.models.utils").setLevel(logging.ERROR)  # says that columns beyond the signature are ignored
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
for part in ("environment", "git_utils"):  # miss pip and git in an image that has neither
    logging.getLogger(f"mlflow.utils.{part}").setLevel(logging.ERROR)
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
            if found is None:
                raise
    return str(found.experiment_id)


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
            run = client.create_run(experiment_id, run_name=name, tags={KEY: key, OPENED: _now(), **tags})
        elif run.info.status != FINISHED:
            client.set_tag(run.info.run_id, OPENED, _now())
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
                    key, time.time() - _sign_of_life(run), run.info.run_id,
                )  # fmt: skip
            active = mlflow.start_run(
                run_id=run.info.run_id if run else None,
                experiment_id=None if run else experiment_id,
                run_name=None if run else name,
                tags={KEY: key, PARENT: parent, OPENED: _now(), **tags},
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


def _opening(experiment_id: str) -> AbstractContextManager[None]:
    """One process at a time looks whether a run is there, and makes it."""
    return ledger.lock(f"mlflow/experiment/{experiment_id}")


def _now() -> str:
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
    with tempfile.TemporaryDirectory() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's hints about type hints
        folder = Path(made) / "predictor"  # the name that the artifact shows
        folder.mkdir()
        predictor.save(folder)
        info = mlflow.pyfunc.log_model(
            name=MODEL,
            python_model=str(PACKAGE / "models" / "pyfunc.py"),
            artifacts={"predictor": str(folder)},
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


def changing(name: str) -> AbstractContextManager[None]:
    """The lock of those who add a version to a registered model, or read its champion to replace it."""
    return ledger.lock(f"mlflow/model/{name}")


def register(
    client: "mlflow.MlflowClient", name: str, model_uri: str, run_id: str, tags: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Register a run's model once, whoever else tries.

    The commit point is the one call that makes the version with its tags. Before it the run has no version, and a retry
    learns again; after it each retry finds the version. Other versions of the run, from a request that was sent twice,
    from a try that died or made by hand, are tagged with the one that counts.

    Args:
        client: of MLflow.
        name: the registered model, made when it is not there.
        model_uri: what `log_predictor` returned.
        run_id: the run that learnt it.
        tags: of the version, `CANDIDATE` among them.

    Returns:
        The run's version and its tags: another try's, if that was faster.
    """
    with changing(name):
        if found := registered(client, name, run_id):
            return found
        with contextlib.redirect_stderr(io.StringIO()):  # MLflow announces each version there
            made = mlflow.register_model(model_uri, name, tags=dict(tags))
        counts = registered(client, name, run_id) or (str(made.version), dict(tags))
        for other in client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
            if str(other.version) != counts[0]:
                log.warning(
                    "version %s of %s is of the same run as version %s, which counts", other.version, name, counts[0]
                )
                client.set_model_version_tag(name, other.version, SUPERSEDED, counts[0])
    return counts


def registered(client: "mlflow.MlflowClient", name: str, run_id: str) -> tuple[str, dict[str, str]] | None:
    """The version of `name` that this run registered, and its tags; or None.

    A version counts when it is READY and has the tag `CANDIDATE`; of several, which a request that was sent twice may
    leave, the first.
    """
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    whole = [v for v in found if v.status == "READY" and CANDIDATE in v.tags and SUPERSEDED not in v.tags]
    first = min(whole, key=lambda version: int(version.version), default=None)
    return (str(first.version), dict(first.tags)) if first else None


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
    """Move the alias ``champion`` to this version: the commit point of a promotion. Hold `changing` around it."""
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
    orphans = [below for below in _below(client, run) if below.info.status == RUNNING]
    for orphan in orphans:
        client.set_terminated(orphan.info.run_id, status="KILLED")
    if status == FINISHED or run.info.status == RUNNING:
        client.set_terminated(parent, status=status)
    return len(orphans)


def finish(client: "mlflow.MlflowClient", run: Any) -> None:
    """End a run well whose work is done, though the try that did it died before it said so."""
    if run.info.status != FINISHED:
        client.set_terminated(run.info.run_id, status=FINISHED)


@dataclass(frozen=True)
class OpenRun:
    """A run of ours that MLflow calls RUNNING.

    Args:
        run: its id.
        key: what it is found by.
        dag: DAG and DAG run it came from; None for one from the command line.
        seen: its last sign of life, in seconds since 1970: when a try took it up, and the newest metric, of which a
            living process logs some every two seconds. A parent lives in the runs below it.
    """

    run: str
    key: str
    dag: tuple[str, str] | None
    seen: float


def open_runs(client: "mlflow.MlflowClient") -> list[OpenRun]:
    """All runs of ours that are RUNNING, those below a parent before their parents."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    found = _search(client, experiments, f"attributes.status = '{RUNNING}'")
    ours = [run for run in found if KEY in run.data.tags]
    return [_open_run(client, run) for run in sorted(ours, key=lambda run: PARENT not in run.data.tags)]


def kill(client: "mlflow.MlflowClient", left: OpenRun) -> bool:
    """End a run as KILLED, unless it ended or showed a sign of life since it was looked at; True if it was killed."""
    run = client.get_run(left.run)
    if run.info.status != RUNNING or _open_run(client, run) != left:
        return False
    client.set_terminated(left.run, status="KILLED")
    return True


def _open_run(client: "mlflow.MlflowClient", run: Any) -> OpenRun:
    tags = run.data.tags
    family = [run] if PARENT in tags else [run, *_below(client, run)]
    return OpenRun(
        run=str(run.info.run_id),
        key=tags[KEY],
        dag=(tags["dag_id"], tags["run_id"]) if {"dag_id", "run_id"} <= set(tags) else None,
        seen=max(_sign_of_life(each) for each in family),
    )


def _sign_of_life(run: Any) -> float:
    """When a run showed last that it lives, in seconds since 1970."""
    metrics = max((metric.timestamp for metric in run.data.to_proto().metrics), default=0)
    ended = run.info.end_time if run.info.status != "KILLED" else None  # by others, when it was dead
    times = (run.info.start_time or 0, ended or 0, metrics)
    return max(*(milliseconds / 1000 for milliseconds in times), float(run.data.tags.get(OPENED, 0)))


def _below(client: "mlflow.MlflowClient", parent: Any) -> list[Any]:
    """The runs below a parent."""
    return _search(client, [parent.info.experiment_id], f"tags.`{PARENT}` = '{parent.info.run_id}'")


def _search(client: "mlflow.MlflowClient", experiments: Sequence[str], wanted: str) -> list[Any]:
    found, token = [], None
    while True:
        page = client.search_runs(list(experiments), wanted, max_results=PAGE, page_token=token)
        found += page
        if not (token := page.token):
            return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
