"""What Airflow's viewer and op may not do."""

import json
from typing import Any

import pytest

from pump_ml.errors import StackError
from pump_ml.local.airflow_api import AirflowApi

DAG = "/api/v2/dags/dataset"
YEAR = "2026-01-01T00:00:00Z"
VIEWER_MAY_NOT: dict[str, tuple[str, str, Any]] = {
    "trigger a run": ("POST", f"{DAG}/dagRuns", {"dag_run_id": "security__no", "logical_date": None, "conf": {}}),
    "pause a DAG": ("PATCH", DAG, {"is_paused": True}),
    "pause all DAGs": ("PATCH", "/api/v2/dags?dag_id_pattern=%25", {"is_paused": True}),
    "clear tasks": ("POST", f"{DAG}/clearTaskInstances", {"dry_run": False, "dag_run_id": "RUN"}),
    "clear a run": ("POST", f"{DAG}/dagRuns/RUN/clear", {"dry_run": False}),
    "mark a run": ("PATCH", f"{DAG}/dagRuns/RUN", {"state": "success"}),
    "delete a run": ("DELETE", f"{DAG}/dagRuns/RUN", None),
    "delete a DAG": ("DELETE", DAG, None),
    "backfill": ("POST", "/api/v2/backfills", {"dag_id": "dataset", "from_date": YEAR, "to_date": YEAR}),
    "resize a pool": ("PATCH", "/api/v2/pools/training", {"slots": 99}),
    "make a variable": ("POST", "/api/v2/variables", {"key": "security", "value": "x"}),
    "read variables": ("GET", "/api/v2/variables", None),
    "make a connection": ("POST", "/api/v2/connections", {"connection_id": "security", "conn_type": "http"}),
    "read connections": ("GET", "/api/v2/connections", None),
    "read the configuration": ("GET", "/api/v2/config", None),
    "start an asset's DAGs": ("POST", "/api/v2/assets/events", {"asset_id": 1, "extra": {}}),
    "read users": ("GET", "/auth/fab/v1/users", None),
    "make a user": ("POST", "/auth/fab/v1/users", {}),
    "promote itself": ("PATCH", "/auth/fab/v1/users/viewer", {"roles": [{"name": "Admin"}]}),
    "make a role": ("POST", "/auth/fab/v1/roles", {}),
}  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), VIEWER_MAY_NOT.values(), ids=VIEWER_MAY_NOT.keys())
def test_airflows_viewer_reads_and_may_not(
    viewer: AirflowApi, dag_run: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    assert forbidden(viewer, method, path.replace("RUN", dag_run), json.loads(json.dumps(body).replace("RUN", dag_run)))
    assert viewer.state("dataset", dag_run) == "failed"
    assert not (viewer.dag("dataset") or {})["is_paused"]


OP_MAY_NOT: dict[str, tuple[str, str, Any]] = {
    "read users": ("GET", "/auth/fab/v1/users", None),
    "make a user": ("POST", "/auth/fab/v1/users", {}),
    "promote itself": ("PATCH", "/auth/fab/v1/users/op", {"roles": [{"name": "Admin"}]}),
    "delete a user": ("DELETE", "/auth/fab/v1/users/viewer", None),
    "make a role": ("POST", "/auth/fab/v1/roles", {}),
    "change a role": ("PATCH", "/auth/fab/v1/roles/Op", {"name": "Op", "actions": []}),
}


@pytest.mark.parametrize(("method", "path", "body"), OP_MAY_NOT.values(), ids=OP_MAY_NOT.keys())
def test_airflows_op_starts_and_ends_runs_and_may_not(
    op: AirflowApi, dag_run: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    assert op.state("dataset", dag_run) == "failed"
    assert forbidden(op, method, path, body)


def forbidden(api: AirflowApi, method: str, path: str, body: Any) -> bool:
    """Whether Airflow answers 403."""
    try:
        api.ask(method, path, body=body)
    except StackError as error:
        return "(403)" in str(error)
    return False
