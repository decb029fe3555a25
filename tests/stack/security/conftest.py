"""Somebody of each kind, and things of somebody else that they try to get at."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from access import ONCE, PUBLISHED, basic, docker
from harness import SMALL, Stack

from pump_ml.local.airflow_api import AirflowApi


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """Nobody: no login, no proxy, no redirect."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def containers(stack: Stack) -> dict[str, dict[str, Any]]:
    """Service -> what the engine knows of its container; also of those that have ended."""
    label = f"label=com.docker.compose.project={stack.project}"
    ids = docker("ps", "--all", "--quiet", "--filter", label).split()
    facts = {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in json.loads(docker("inspect", *ids))}
    assert {"postgres", "airflow-scheduler", *ONCE, *PUBLISHED} <= set(facts)
    return facts


@pytest.fixture(scope="module")
def op(stack: Stack) -> Iterator[AirflowApi]:
    with stack.airflow("op") as api:
        yield api


@pytest.fixture(scope="module")
def viewer(stack: Stack) -> Iterator[AirflowApi]:
    with stack.airflow("viewer") as api:
        yield api


@pytest.fixture(scope="module")
def dag_run(stack: Stack, op: AirflowApi) -> Iterator[str]:
    """A run of the DAG ``dataset`` that was started and ended by op; admin deletes it at the end."""
    run = f"security__{time.time():.0f}"
    op.trigger("dataset", run, {**SMALL, "publish": False})
    op.fail("dataset", run)
    assert op.state("dataset", run) == "failed"
    yield run
    with stack.airflow("admin") as admin:
        admin.ask("DELETE", f"/api/v2/dags/dataset/dagRuns/{run}", allowed=(204, 404))


@pytest.fixture(scope="module")
def theirs(stack: Stack) -> Iterator[dict[str, str]]:
    """What MLflow holds of a run that the tasks' user made, by its word in the cases below; deleted at the end."""
    name = f"security-{time.time():.0f}"
    with basic(stack, "pump-ml") as tasks:

        def make(path: str, **body: Any) -> Any:
            return tasks.post(f"/api/2.0/mlflow/{path}", json=body).raise_for_status().json()

        experiment = make("experiments/create", name=name)["experiment_id"]
        run = make("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
        make("registered-models/create", name=name)
        make("model-versions/create", name=name, source=f"runs:/{run}/model", run_id=run)
        make("registered-models/alias", name=name, alias="champion", version="1")
        file = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/note.txt"
        tasks.put(file, content=b"theirs").raise_for_status()
    yield {"EXPERIMENT": experiment, "RUN": run, "MODEL": name, "FILE": file}
    with basic(stack, "admin") as admin:
        admin.request("DELETE", "/api/2.0/mlflow/registered-models/delete", json={"name": name}).raise_for_status()
        admin.post("/api/2.0/mlflow/experiments/delete", json={"experiment_id": experiment}).raise_for_status()
