"""The client of MLflow: how it is set up, and the words that runs and versions are found by."""

import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any

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
    from mlflow.entities import RunStatus
    from mlflow.exceptions import MlflowException

from pump_ml.problems import Problem
from pump_ml.settings import Settings

KEY, PARENT, CHAMPION = "pump_ml.key", "mlflow.parentRunId", "champion"
OPENED = "pump_ml.opened"
"""Tag of a run: when a try took it up last, in seconds since 1970."""
CANDIDATE = "pump_ml.candidate"
"""Tag of a version that `pump_ml.steps.train` made: what it returned."""
SUPERSEDED = "pump_ml.superseded_by"
"""Tag of another version of the same run, which somebody or a dead try left: the version that counts."""
RUNNING, FINISHED = (RunStatus.to_string(status) for status in (RunStatus.RUNNING, RunStatus.FINISHED))
PAGE = 1000
"""Runs that a search asks for at a time."""

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
    """Id of the problem's experiment, made when it is not there."""
    return named_experiment(client, problem.name, problem.description, settings)


def named_experiment(client: "mlflow.MlflowClient", name: str, description: str, settings: Settings) -> str:
    """Id of an experiment, made when it is not there; it opens in the UI's model-training view."""
    found = client.get_experiment_by_name(name)
    if found is None:
        tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": description}
        location = settings.mlflow_artifacts and f"{settings.mlflow_artifacts}/{name}"
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException:  # another task made it in the meantime
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def search(client: "mlflow.MlflowClient", experiments: Sequence[str], wanted: str) -> list[Any]:
    """All runs that a filter finds, page by page."""
    found, token = [], None
    while True:
        page = client.search_runs(list(experiments), wanted, max_results=PAGE, page_token=token)
        found += page
        if not (token := page.token):
            return found
