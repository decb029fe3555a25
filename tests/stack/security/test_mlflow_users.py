"""What MLflow's viewer, op and the tasks' user may do, and what not."""

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
from access import API, basic
from harness import Stack

EXPERIMENT, RUN, VERSION = {"experiment_id": "EXPERIMENT"}, {"run_id": "RUN"}, {"name": "MODEL", "version": "1"}
TAG = {"key": "a", "value": "b"}
GRANT = {"username": "USER", "resource_type": "experiment", "resource_id": "0", "permission": "MANAGE"}
OTHERS_MAY_NOT: dict[str, tuple[str, str, Any]] = {
    "delete an experiment": ("POST", f"{API}/experiments/delete", EXPERIMENT),
    "rename an experiment": ("POST", f"{API}/experiments/update", EXPERIMENT | {"new_name": "mine"}),
    "tag an experiment": ("POST", f"{API}/experiments/set-experiment-tag", EXPERIMENT | TAG),
    "add a run": ("POST", f"{API}/runs/create", EXPERIMENT),
    "end a run": ("POST", f"{API}/runs/update", RUN | {"status": "KILLED"}),
    "delete a run": ("POST", f"{API}/runs/delete", RUN),
    "log a metric": ("POST", f"{API}/runs/log-metric", RUN | {"key": "test/rmse", "value": 0, "timestamp": 1}),
    "log a batch": ("POST", f"{API}/runs/log-batch", RUN | {"metrics": [], "params": [], "tags": []}),
    "tag a run": ("POST", f"{API}/runs/set-tag", RUN | TAG),
    "rename a model": ("POST", f"{API}/registered-models/rename", {"name": "MODEL", "new_name": "mine"}),
    "describe a model": ("PATCH", f"{API}/registered-models/update", {"name": "MODEL", "description": "mine"}),
    "delete a model": ("DELETE", f"{API}/registered-models/delete", {"name": "MODEL"}),
    "move an alias": ("POST", f"{API}/registered-models/alias", {"name": "MODEL", "alias": "champion", "version": "1"}),
    "delete an alias": ("DELETE", f"{API}/registered-models/alias?name=MODEL&alias=champion", None),
    "add a version": ("POST", f"{API}/model-versions/create", {"name": "MODEL", "source": "mlflow-artifacts:/1"}),
    "delete a version": ("DELETE", f"{API}/model-versions/delete", VERSION),
    "move a version to a stage": ("POST", f"{API}/model-versions/transition-stage", VERSION | {"stage": "Archived"}),
    "overwrite an artifact": ("PUT", "FILE", {}),
    "delete an artifact": ("DELETE", "FILE", None),
    "upload an artifact": ("POST", "/ajax-api/2.0/mlflow/upload-artifact?run_uuid=RUN&path=x.txt", {}),
    "make a user": ("POST", f"{API}/users/create", {"username": "intruder", "password": "x" * 16}),
    "open the page that makes users": ("GET", "/signup", None),
    "become an administrator": ("PATCH", f"{API}/users/update-admin", {"username": "USER", "is_admin": True}),
    "set another's password": ("PATCH", f"{API}/users/update-password", {"username": "admin", "password": "x" * 16}),
    "delete a user": ("DELETE", f"{API}/users/delete", {"username": "admin"}),
    "take rights": ("POST", "/api/3.0/mlflow/users/permissions/grant", GRANT),
    "make a role": ("POST", "/api/3.0/mlflow/roles/create", {"name": "mine", "workspace": "default"}),
    "send events elsewhere": ("POST", f"{API}/webhooks", {"name": "x", "url": "https://example.com", "events": []}),
}  # fmt: skip
VIEWER_MAY_NOT_EITHER: dict[str, tuple[str, str, Any]] = {
    "make an experiment": ("POST", f"{API}/experiments/create", {"name": "mine"}),
    "make a model": ("POST", f"{API}/registered-models/create", {"name": "mine"}),
    "make an experiment as the UI does": ("POST", "/ajax-api/2.0/mlflow/experiments/create", {"name": "mine"}),
    "make demo data": ("POST", "/ajax-api/3.0/mlflow/demo/generate", {}),
    "store a key of another server": ("POST", "/ajax-api/3.0/mlflow/gateway/secrets/create", {"secret_name": "x"}),
    "send traces": ("POST", "/v1/traces", {}),
    "start a job": ("POST", "/ajax-api/3.0/jobs/", {}),
    "change its password, which the health check has": (
        "PATCH", f"{API}/users/update-password",
        {"username": "viewer", "password": "x" * 16, "current_password": "x" * 16},
    ),
}  # fmt: skip


def told(client: httpx.Client, user: str, theirs: dict[str, str], case: tuple[str, str, Any]) -> httpx.Response:
    """MLflow's answer to a case, the words in capitals filled in."""
    method, path, body = case
    text = json.dumps(body)
    for word, value in {**theirs, "USER": user}.items():
        path, text = path.replace(word, value), text.replace(word, value)
    return client.request(method, path, json=json.loads(text))


def as_it_was(stack: Stack, theirs: dict[str, str]) -> None:
    with basic(stack, "viewer") as viewer:  # who may read all of it
        run = viewer.get(f"{API}/runs/get", params={"run_id": theirs["RUN"]}).raise_for_status().json()["run"]
        assert (run["info"]["status"], run["info"]["lifecycle_stage"]) == ("RUNNING", "active")
        assert not run["data"].get("metrics")
        model = viewer.get(f"{API}/registered-models/get", params={"name": theirs["MODEL"]}).raise_for_status().json()
        assert model["registered_model"]["aliases"] == [{"alias": "champion", "version": "1"}]
        experiment = viewer.get(f"{API}/experiments/get", params={"experiment_id": theirs["EXPERIMENT"]}).json()
        assert experiment["experiment"]["name"] == theirs["MODEL"]
        assert viewer.get(theirs["FILE"]).raise_for_status().content == b"theirs"
        users = viewer.get(f"{API}/users/list").raise_for_status().json()["users"]
        assert {user["username"]: user["is_admin"] for user in users} == {
            "admin": True,
            "op": False,
            "pump-ml": False,
            "viewer": False,
        }


def test_mlflows_viewer_reads_everything_and_changes_nothing(stack: Stack, theirs: dict[str, str]) -> None:
    with basic(stack, "viewer") as viewer:
        cases = OTHERS_MAY_NOT | VIEWER_MAY_NOT_EITHER
        found = {name: told(viewer, "viewer", theirs, case).status_code for name, case in cases.items()}
        assert found == dict.fromkeys(cases, 403)
        for path in ("experiments/search", "registered-models/search", "model-versions/search"):
            assert viewer.get(f"{API}/{path}", params={"max_results": 5}).is_success
        # What the UI and the Python client ask by POST.
        assert viewer.post(f"{API}/runs/search", json={"experiment_ids": [theirs["EXPERIMENT"]]}).json()["runs"]
        for path in ("experiments/search", "experiments/search-datasets", "logged-models/search"):
            body = {"max_results": 5, "experiment_ids": [theirs["EXPERIMENT"]]}
            assert viewer.post(f"/ajax-api/2.0/mlflow/{path}", json=body).is_success, path
        assert viewer.get("/").is_success
    as_it_was(stack, theirs)


OP_MAY = ("tag an experiment", "add a run", "log a batch", "tag a run", "describe a model", "move an alias")


def test_mlflows_op_edits_everything_and_deletes_and_administers_nothing(stack: Stack, theirs: dict[str, str]) -> None:
    cases = {
        name: case for name, case in OTHERS_MAY_NOT.items() if re.match("delete|make a|open|become|set|take|send", name)
    }
    with basic(stack, "op") as op:
        found = {name: told(op, "op", theirs, case).status_code for name, case in cases.items()}
        assert found == dict.fromkeys(cases, 403)
        as_it_was(stack, theirs)
        assert {name: told(op, "op", theirs, OTHERS_MAY_NOT[name]).status_code for name in OP_MAY} == dict.fromkeys(
            OP_MAY, 200
        )


def test_mlflows_python_client_works_for_the_viewer(stack: Stack, theirs: dict[str, str], tmp_path: Path) -> None:
    client = stack.mlflow("viewer")
    assert client.get_model_version_by_alias(theirs["MODEL"], "champion").run_id == theirs["RUN"]
    assert theirs["RUN"] in {run.info.run_id for run in client.search_runs([theirs["EXPERIMENT"]])}
    assert Path(client.download_artifacts(theirs["RUN"], "note.txt", str(tmp_path))).read_text() == "theirs"


def test_the_tasks_user_is_no_administrator_of_mlflow(stack: Stack) -> None:
    name = f"security-admins-{time.time():.0f}"
    with basic(stack, "admin") as admin, basic(stack, "pump-ml") as tasks:
        made = admin.post(f"{API}/experiments/create", json={"name": name}).raise_for_status().json()["experiment_id"]
        words = {"EXPERIMENT": made}
        cases = {
            name: case
            for name, case in OTHERS_MAY_NOT.items()
            if "EXPERIMENT" in json.dumps(case) or "users" in case[1] or "roles" in case[1] or "webhooks" in case[1]
        }
        assert len(cases) > 10
        found = {name: told(tasks, "pump-ml", words, case).status_code for name, case in cases.items()}
        assert found == dict.fromkeys(cases, 403)
        admin.post(f"{API}/experiments/delete", json={"experiment_id": made}).raise_for_status()
