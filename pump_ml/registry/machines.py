"""Models of single machines: one registered model a machine and kind, each with its own alias ``champion``.

Everything is found again by the key of what asked for it, so one that died half way is finished by whoever comes next.
Hold the machine's lock around `keep` and `machine_champion`; machines don't wait for each other.
"""

import contextlib
import io
import math
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow

from pump_ml.registry.client import CHAMPION, FINISHED, KEY, OPENED, named_experiment
from pump_ml.registry.runs import find_run, log_parameters, log_points, now
from pump_ml.registry.versions import CORE, MODEL, code, pinned
from pump_ml.settings import PACKAGE, Settings

EXPERIMENT = "machines"
DESCRIPTION = "Models of single machines: health forecasts (gru) and pre-failure alarms (xgb)."
CODE = ("errors.py", "machines", "schema.py", "settings.py")
"""What of this package such a model needs to answer."""
REQUIRES = {"gru": (*CORE, "keras", "tensorflow-cpu", "tensorflow"), "xgb": (*CORE, "xgboost")}


@dataclass(frozen=True)
class Publication:
    """What is registered for one model of a machine.

    Args:
        name: of the registered model: one a machine and kind.
        machine: as the plant names it, for the tag.
        kind: ``gru`` or ``xgb``, for the tag.
        key: what asked for it.
        parameters: to log.
        metrics: to log; None is left out.
        files: name -> content of what travels in the model.
    """

    name: str
    machine: str
    kind: str
    key: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Version:
    """A registered version, the run that logged it, and the key of what asked for it."""

    name: str
    version: str
    run: str
    key: str


def keep(client: "mlflow.MlflowClient", wanted: Publication, settings: Settings, *, again: bool) -> Version:
    """Log a model in a run of its own and register it, once.

    Args:
        client: of MLflow.
        wanted: what to register.
        settings: where experiments keep their artifacts.
        again: an earlier try may have done some of it; without, nothing is looked for.
    """
    tags = {"machine": wanted.machine, "kind": wanted.kind}
    experiment = named_experiment(client, EXPERIMENT, DESCRIPTION, settings)
    run = find_run(client, experiment, wanted.key) if again else None
    if run is None:
        label = f"{wanted.machine} {wanted.kind}"
        run = client.create_run(experiment, run_name=label, tags={KEY: wanted.key, OPENED: now(), **tags})
    run_id = str(run.info.run_id)
    found = [each for each in versions(client, wanted.name) if each.key == wanted.key] if again else []
    if not found:
        log_parameters(client, run_id, wanted.parameters)
        numbers = {name: value for name, value in wanted.metrics.items() if value is not None and math.isfinite(value)}
        log_points(client, run_id, [(f"test/{name}", value, 0) for name, value in numbers.items()])
        logged = _logged(client, experiment, run_id) if again else {}
        address = f"models:/{logged['READY']}" if "READY" in logged else _log(run_id, wanted, logged.get("PENDING"))
        with contextlib.suppress(mlflow.exceptions.MlflowException):  # it is there already
            client.create_registered_model(wanted.name, tags=tags)
        with contextlib.redirect_stderr(io.StringIO()):  # MLflow announces each version there
            made = mlflow.register_model(address, wanted.name, tags={KEY: wanted.key, **tags})
        found = [Version(wanted.name, str(made.version), run_id, wanted.key)]
    if client.get_run(run_id).info.status != FINISHED:
        client.set_terminated(run_id, status=FINISHED)
    return min(found, key=lambda version: int(version.version))  # a request that was sent twice may leave two


def versions(client: "mlflow.MlflowClient", name: str | None = None) -> list[Version]:
    """All versions that `keep` registered, of one registered model or of all of them."""
    wanted = f"name = '{name}'" if name else "name LIKE 'machine-%'"
    found: list[Version] = []
    token = None
    while True:
        page = client.search_model_versions(wanted, max_results=1000, page_token=token)
        found += [Version(v.name, str(v.version), v.run_id, v.tags[KEY]) for v in page if KEY in v.tags]
        if not (token := page.token):
            return found


def machine_champion(client: "mlflow.MlflowClient", name: str) -> Version | None:
    """The version that stands as the machine's champion, or None.

    It is searched for: a server with logins forbids to ask for a model by its name that is not there yet.
    """
    models = client.search_registered_models(f"name = '{name}'", max_results=1)
    number = models[0].aliases.get(CHAMPION) if models else None
    if number is None:
        return None
    found = client.get_model_version(name, str(number))
    return Version(name, str(found.version), found.run_id, found.tags.get(KEY, ""))


def _logged(client: "mlflow.MlflowClient", experiment: str, run_id: str) -> dict[str, str]:
    """Status -> id of the model that an earlier try logged: READY is whole, PENDING is to be gone on with."""
    return {str(m.status): m.model_id for m in client.search_logged_models([experiment], f"source_run_id = '{run_id}'")}


def _log(run_id: str, wanted: Publication, begun: str | None) -> str:
    """Log the model in a run, or go on with the one that was begun; returns its address."""
    with tempfile.TemporaryDirectory() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's hints about type hints, and that there is no signature
        folder = Path(made) / "files"
        folder.mkdir()
        for name, content in wanted.files.items():
            (folder / name).write_bytes(content)
        package = code(Path(made), CODE)
        for unused in ("publishing.py", "reconciling.py", "records.py", "pyfunc.py"):
            (package / "machines" / unused).unlink(missing_ok=True)
        # One that was begun is the run's output already, and MLflow takes no output twice.
        with (
            contextlib.nullcontext()
            if begun
            else mlflow.start_run(run_id=run_id, nested=True, log_system_metrics=False)
        ):
            info = mlflow.pyfunc.log_model(
                name=MODEL,
                model_id=begun,
                python_model=str(PACKAGE / "machines" / "pyfunc.py"),
                artifacts={"files": str(folder)},
                code_paths=[str(package)],
                signature=False,  # the files know their columns; MLflow would warn that there is none
                pip_requirements=pinned(REQUIRES[wanted.kind]),
                metadata={"machine": wanted.machine, "kind": wanted.kind},
            )
    return str(info.model_uri)
