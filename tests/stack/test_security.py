"""Who is let in, what each may do, and what a container could reach if somebody broke into it: docs/security.md."""

import base64
import json
import os
import re
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import jwt
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from harness import ROOT, SMALL, Stack

from pump_ml.errors import StackError
from pump_ml.local.airflow_api import AirflowApi

ONCE = {"volumes", "postgres-setup", "s3-users", "s3-setup", "mlflow-setup", "airflow-setup"}
"""Services that end well and stay down."""
PUBLISHED = {"airflow-apiserver": ("airflow", "8080/tcp"), "mlflow": ("mlflow", "5000/tcp"), "s3": ("s3", "9000/tcp")}
REFUSED = (401, 403)

# What answers without a login; docs/security.md lists it too. None of it holds data of the plant.
AIRFLOW_OPEN = (
    "GET /{rest_of_path:path}",  # the page that asks for the login, at every address that nothing else answers
    "GET /health",  # "moved"
    "GET /api/v1/{_:path}",
    "GET /api/{_:path}",
    "GET /api/v2/version",
    "GET /api/v2/monitor/health",
    "GET /api/v2/auth/login",  # both only lead to the login page
    "GET /api/v2/auth/logout",
    "GET /execution/health",
    "GET /execution/health/ping",
    "GET /auth/",
    "GET /auth/back",
    "GET /auth/login/",
    "POST /auth/login/",
    "GET /auth/logout",
    "GET /auth/logout/",
    "POST /auth/token",  # these take name and password
    "POST /auth/token/cli",
    "POST /auth/api/v1/security/login",
)
AIRFLOW_DOCUMENTS = re.compile(r"GET (/auth|/execution)?/(openapi\.json|docs(/oauth2-redirect)?|redoc|changelog)")
"""Airflow's own description of its API, and nothing of this installation."""
AIRFLOW_FILES = re.compile(r"GET /(auth/)?static/.*")
AIRFLOW_ACTIONS = re.compile(r"POST /auth/\w+/(action_post|action/<string:name>/<pk>)")
"""These fail over an action that is not there before they ask for rights; another test asks for one that is."""
MLFLOW_OPEN = (
    "GET /health",
    "GET /api/3.0/mlflow/server-info",  # kind of store, no data
    "GET /ajax-api/3.0/mlflow/server-info",
)
MLFLOW_FILES = re.compile(r"GET /(static/<path:filename>|static-files/<path:path>)")

AIRFLOW_ROUTES = """
import json
from airflow.api_fastapi.app import create_app

def walk(app, prefix):
    for route in getattr(app, "routes", []):
        path = prefix + route.path
        if hasattr(route, "app") and not hasattr(route, "endpoint"):
            found.append(("GET", path + "/"))  # an application that is mounted, whatever it is
            walk(route.app, path)
        else:
            found.extend((method, path) for method in getattr(route, "methods", None) or ["GET"])
    rules = getattr(getattr(app, "app", None), "url_map", None)  # a Flask application
    for rule in rules.iter_rules() if rules else []:
        found.extend((method, prefix + rule.rule) for method in rule.methods)

found = []
walk(create_app("all"), "")
print(json.dumps(found))
"""
MLFLOW_ROUTES = """
import json, os, sys
from pathlib import Path
server = next(p for p in Path("/proc").iterdir() if p.name.isdigit() and b"uvicorn" in (p / "cmdline").read_bytes())
os.environ.update(pair.split("=", 1) for pair in (server / "environ").read_text().split(chr(0)) if pair)
sys.path.insert(0, os.environ["PYTHONPATH"])
from mlflow.server import app as flask
from mlflow.server.auth import create_app
found = [(method, route.path) for route in create_app().routes for method in getattr(route, "methods", None) or []]
found += [(method, rule.rule) for rule in flask.url_map.iter_rules() for method in rule.methods]
print(json.dumps(found))
"""


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


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout


def routes(stack: Stack, service: str, script: str) -> set[tuple[str, str]]:
    """Method and path of everything that a server answers, asked of its own code in its own container."""
    done = stack.compose("exec", "-T", service, "python", "-W", "ignore", "-c", script)
    return {(method, path) for method, path in json.loads(done.stdout.splitlines()[-1])}


def answers(http: httpx.Client, base: str, found: set[tuple[str, str]]) -> dict[str, httpx.Response]:
    """What somebody is told at each route, its parameters filled in."""
    return {
        f"{method} {path}": http.request(method, base + re.sub(r"\{[^}]*\}|<[^>]*>", "1", path))
        for method, path in sorted(found, reverse=True)  # POST before GET, which logs out
        if method not in ("HEAD", "OPTIONS")
    }


def refused(answer: httpx.Response) -> bool:
    """Whether an answer is a no, or leads to the login page or to FAB's entrance, which leads there."""
    if answer.is_redirect:
        return bool(re.search(r"/auth/(login/.*)?$", answer.headers["location"]))
    return answer.status_code in REFUSED


def basic(stack: Stack, user: str) -> httpx.Client:
    """MLflow as one of its users."""
    login = (user, stack.secrets[f"MLFLOW_{user.upper().replace('-', '_')}_PASSWORD"])
    return httpx.Client(base_url=stack.address("mlflow"), auth=login, trust_env=False, timeout=60)


# --- nobody -----------------------------------------------------------------------------------------------------------
def test_airflow_answers_nobody_at_any_route_of_itself_and_of_what_is_mounted_into_it(stack: Stack) -> None:
    found = routes(stack, "airflow-apiserver", AIRFLOW_ROUTES)
    base = stack.address("airflow")
    users = "SELECT username, password, active FROM ab_user ORDER BY 1"
    before = stack.sql("airflow", users)
    with httpx.Client(trust_env=False, timeout=60) as nobody:
        # The execution API's routes are versions of each other, made at its first request; its description has them.
        versions = re.findall(r"20\d\d-\d\d-\d\d", nobody.get(f"{base}/execution/docs").text)
        described = nobody.get(f"{base}/execution/openapi.json", params={"version": max(versions)}).json()["paths"]
        found |= {(method.upper(), f"/execution{path}") for path, methods in described.items() for method in methods}
        assert len(found) > 300
        # Anybody has the token that a form wants; without it the forms would refuse for that reason alone.
        nobody.headers["X-CSRFToken"] = csrf_token(nobody, base)
        told = answers(nobody, base, found)
    patterns = (AIRFLOW_DOCUMENTS, AIRFLOW_FILES, AIRFLOW_ACTIONS)
    known = {*AIRFLOW_OPEN, *(route for route in told if any(pattern.fullmatch(route) for pattern in patterns))}
    # An application that is mounted may have nothing at its own address.
    known |= {
        route for route, answer in told.items() if route.endswith("/") and answer.status_code == httpx.codes.NOT_FOUND
    }
    assert {
        route: answer.status_code for route, answer in told.items() if not refused(answer) and route not in known
    } == {}
    for api in ("/api/v2/dags", "/ui/dags", "/execution/task-instances", "/auth/fab/v1/users", "/auth/users/list/"):
        assert any(api in route and refused(answer) for route, answer in told.items()), api
    assert stack.sql("airflow", users) == before


def test_airflows_forms_copy_no_role_for_nobody(stack: Stack) -> None:
    base = stack.address("airflow")
    roles = "SELECT count(*) FROM ab_role"
    before = stack.sql("airflow", roles)
    with httpx.Client(trust_env=False, timeout=60) as nobody:
        nobody.headers["X-CSRFToken"] = csrf_token(nobody, base)
        for path, form in (("action_post", {"action": "copyrole", "rowid": "1"}), ("action/copyrole/1", {})):
            assert nobody.post(f"{base}/auth/roles/{path}", data=form).is_redirect, path
    assert stack.sql("airflow", roles) == before


def csrf_token(browser: httpx.Client, base: str) -> str:
    """What Airflow's login page gives to its form; the session comes along as a cookie."""
    found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', browser.get(f"{base}/auth/login/").text)
    assert found
    return found[1]


def test_the_pages_of_airflow_that_are_open_hold_no_data(stack: Stack, http: httpx.Client) -> None:
    base = stack.address("airflow")
    shell = http.get(f"{base}/dags/training")  # any address: the browser asks the API for its content
    assert "training" not in shell.text
    health = http.get(f"{base}/api/v2/monitor/health").json()
    assert set(health) == {"metadatabase", "scheduler", "triggerer", "dag_processor"}
    assert http.get(f"{base}/auth/register/form").status_code == httpx.codes.NOT_FOUND  # nobody makes an own account


def test_mlflow_answers_nobody_but_with_its_health(stack: Stack, http: httpx.Client) -> None:
    found = routes(stack, "mlflow", MLFLOW_ROUTES)
    assert len(found) > 400
    told = answers(http, stack.address("mlflow"), found)
    known = {*MLFLOW_OPEN, *filter(MLFLOW_FILES.fullmatch, told)}
    assert {
        route: answer.status_code for route, answer in told.items() if not refused(answer) and route not in known
    } == {}
    for api in (
        "/api/2.0/mlflow/runs/",
        "/mlflow-artifacts/artifacts",
        "/ajax-api/2.0/",
        "/graphql",
        "/signup",
        "/gateway/",
    ):
        assert any(api in route and answer.status_code in REFUSED for route, answer in told.items()), api


def _forged(stack: Stack, http: httpx.Client) -> dict[str, str]:
    login = {"username": "viewer", "password": stack.secrets["AIRFLOW_VIEWER_PASSWORD"]}
    token = http.post(f"{stack.address('airflow')}/auth/token", json=login).json()["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    admin = {**claims, "sub": "1"}
    header, _, signature = token.split(".")
    encoded = base64.urlsafe_b64encode(json.dumps(admin).encode()).decode().rstrip("=")
    return {
        "unsigned": jwt.encode(admin, "", algorithm="none"),
        "signed with another key": jwt.encode(admin, "x" * 64, algorithm="HS512"),
        "with another user put in": f"{header}.{encoded}.{signature}",
        "of nonsense": "a.b.c",
    }


def test_a_forged_token_does_not_open_airflow(stack: Stack, http: httpx.Client) -> None:
    for name, token in _forged(stack, http).items():
        for api in ("/api/v2/dags", "/ui/config", "/auth/fab/v1/users"):
            asked = stack.address("airflow") + api
            assert http.get(asked, headers={"Authorization": f"Bearer {token}"}).status_code in REFUSED, (name, api)
            assert http.get(asked, headers={"Cookie": f"_token={token}"}).status_code in REFUSED, (name, api)


def test_a_users_token_is_none_of_a_task(stack: Stack, http: httpx.Client) -> None:
    login = {"username": "admin", "password": stack.secrets["AIRFLOW_ADMIN_PASSWORD"]}
    token = http.post(f"{stack.address('airflow')}/auth/token", json=login).json()["access_token"]
    answer = http.get(
        f"{stack.address('airflow')}/execution/variables/anything", headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code in REFUSED


@pytest.mark.parametrize("user", ["admin", "op", "viewer", "nobody"])
def test_a_wrong_or_empty_password_opens_nothing(stack: Stack, http: httpx.Client, user: str) -> None:
    for password in ("", user, "wrong"):
        answer = http.post(f"{stack.address('airflow')}/auth/token", json={"username": user, "password": password})
        assert not answer.is_success, (user, password)
        login = {"username": user, "password": password, "provider": "db"}
        assert not http.post(f"{stack.address('airflow')}/auth/api/v1/security/login", json=login).is_success
        answer = http.get(f"{stack.address('mlflow')}/api/2.0/mlflow/users/current", auth=(user, password))
        assert answer.status_code == httpx.codes.UNAUTHORIZED, (user, password)


def test_an_anonymous_request_to_s3_finds_nothing_and_changes_nothing(stack: Stack) -> None:
    s3 = boto3.client(
        "s3", endpoint_url=stack.address("s3"), region_name="us-east-1",
        config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}),
    )  # fmt: skip
    told = attempt(s3.list_buckets)  # some stores refuse this question, others have nothing to tell
    assert told == "AccessDenied" or told["Buckets"] == []
    for bucket in ("mlflow", "pump-data", "models"):
        for call in (s3.list_objects_v2, s3.list_object_versions, s3.get_bucket_policy, s3.delete_bucket):
            assert denied(call, Bucket=bucket), (bucket, call)
        assert denied(s3.get_object, Bucket=bucket, Key="anything")
        assert denied(s3.put_object, Bucket=bucket, Key="anything", Body=b"x")
        assert denied(s3.delete_object, Bucket=bucket, Key="anything")
    assert denied(s3.create_bucket, Bucket="anonymous")


def test_a_known_key_with_another_secret_opens_no_bucket(stack: Stack) -> None:
    for access in ("S3_ROOT_USER", "S3_MLFLOW_ACCESS_KEY", "S3_PUMP_ML_ACCESS_KEY"):
        s3 = boto3.client(
            "s3", endpoint_url=stack.address("s3"), region_name="us-east-1",
            aws_access_key_id=stack.secrets[access], aws_secret_access_key="x" * 40,
            config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        assert attempt(s3.list_buckets) == "SignatureDoesNotMatch"


# --- who may do what --------------------------------------------------------------------------------------------------
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


API = "/api/2.0/mlflow"
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


OP_MAY = ("tag an experiment", "tag a run", "describe a model", "move an alias")


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


def test_mlflows_python_client_works_for_the_viewer(
    stack: Stack, theirs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else MLflow sends its client to the store, by the store's name inside the stack.
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    client = stack.mlflow("viewer")
    assert client.get_model_version_by_alias(theirs["MODEL"], "champion").run_id == theirs["RUN"]
    assert client.search_runs([theirs["EXPERIMENT"]])[0].info.run_id == theirs["RUN"]
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


BUCKETS = {"MLFLOW": {"mlflow"}, "PUMP_ML": {"pump-data", "models"}}


@pytest.mark.parametrize("client", BUCKETS)
def test_a_clients_keys_write_its_own_buckets_and_touch_no_other(stack: Stack, client: str) -> None:
    root, s3 = stack.s3(), stack.s3(client)
    key = f"security/{client}"
    for bucket in ("mlflow", "pump-data", "models"):
        root.put_object(Bucket=bucket, Key=key, Body=b"there")
        version = root.head_object(Bucket=bucket, Key=key)["VersionId"]
        there = {"Bucket": bucket, "Key": key}
        if bucket in BUCKETS[client]:
            assert s3.get_object(**there)["Body"].read() == b"there"
            s3.put_object(**there, Body=b"mine")
            assert any(one["Key"] == key for one in s3.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"])
            # What was written over is still there.
            assert root.get_object(**there, VersionId=version)["Body"].read() == b"there"
        else:
            assert denied(s3.list_objects_v2, Bucket=bucket)
            assert denied(s3.get_object, **there)
            assert denied(s3.put_object, **there, Body=b"mine")
            assert denied(s3.create_multipart_upload, **there)
            mine = min(BUCKETS[client])
            assert denied(s3.copy_object, Bucket=mine, Key=key, CopySource=there), "by copying"
        assert denied(s3.delete_object, **there)
        assert denied(s3.delete_object, **there, VersionId=version)
        told = attempt(s3.delete_objects, Bucket=bucket, Delete={"Objects": [{"Key": key}]})
        assert told == "AccessDenied" or not told.get("Deleted")  # this one answers 200 and says inside what failed
        assert denied(s3.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
        assert denied(s3.put_bucket_policy, Bucket=bucket, Policy=json.dumps(EVERYBODY).replace("BUCKET", bucket))
        assert denied(s3.put_object_acl, **there, ACL="public-read")
        assert denied(s3.delete_bucket, Bucket=bucket)
        root.delete_object(**there)
    assert isinstance(attempt(s3.create_bucket, Bucket=f"security-{client.lower().replace('_', '-')}"), str)


EVERYBODY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::BUCKET/*"}],
}


def attempt(call: Callable[..., Any], **arguments: Any) -> Any:
    """What the store answers, or the word for why it does not."""
    try:
        return call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]


def denied(call: Callable[..., Any], **arguments: Any) -> bool:
    """Whether the store refuses a call by the caller's rights."""
    return bool(attempt(call, **arguments) == "AccessDenied")


def test_a_database_role_enters_its_own_database_and_is_no_superuser(stack: Stack) -> None:
    rights = stack.sql(
        "postgres",
        "SELECT rolname, (SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database "
        "WHERE datallowconn AND has_database_privilege(rolname, datname, 'CONNECT')), "
        "rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls "
        "FROM pg_roles WHERE rolcanlogin ORDER BY 1",
    )
    assert rights == [
        "airflow|airflow|f",
        "ledger|ledger|f",
        "mlflow|mlflow|f",
        "postgres|airflow,ledger,mlflow,postgres,template1|t",
    ]
    assert stack.sql("postgres", "SELECT count(*) FROM pg_auth_members WHERE member > 16383") == ["0"]


ENTER = """
import os, sys
import psycopg2
own = os.environ["PUMP_ML_LEDGER_URL"].replace("+psycopg2", "")
psycopg2.connect(own).close()
for other in ("airflow", "mlflow", "postgres"):
    try:
        psycopg2.connect(own.rsplit("/", 1)[0] + "/" + other)
    except psycopg2.OperationalError as error:
        assert "permission denied" in str(error), error
    else:
        sys.exit("the ledger's role got into " + other)
try:
    psycopg2.connect(host="postgres", user="postgres", dbname="postgres")
except psycopg2.OperationalError as error:
    assert "no password supplied" in str(error), error
else:
    sys.exit("the superuser needs no password")
"""


def test_the_ledgers_login_opens_no_other_database(stack: Stack) -> None:
    stack.compose("exec", "-T", "airflow-scheduler", "python", "-c", ENTER)


# --- attacks through a browser ----------------------------------------------------------------------------------------
def test_a_wrong_host_header_is_refused_by_mlflow_even_with_a_login(stack: Stack) -> None:
    with basic(stack, "admin") as admin:
        for host in ("evil.example", "evil.example:5000", "127.0.0.1.evil.example", "169.254.169.254"):
            answer = admin.get(f"{API}/experiments/get?experiment_id=0", headers={"Host": host})
            assert answer.status_code == httpx.codes.FORBIDDEN, host
            assert "DNS rebinding" in answer.text
        assert admin.get(f"{API}/experiments/get?experiment_id=0").is_success


def test_another_site_cannot_use_a_browsers_login(stack: Stack, http: httpx.Client) -> None:
    evil = {"Origin": "https://evil.example"}
    with basic(stack, "admin") as admin:
        answer = admin.post(f"{API}/experiments/create", json={"name": "by another site"}, headers=evil)
        assert answer.status_code == httpx.codes.FORBIDDEN
        framed = admin.get("/", headers=evil)
        assert framed.headers["x-frame-options"] == "SAMEORIGIN"
        assert framed.headers["x-content-type-options"] == "nosniff"
    asks = {**evil, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for base, path in (("airflow", "/api/v2/dags"), ("mlflow", f"{API}/runs/search"), ("s3", "/mlflow/x")):
        for answer in (
            http.get(stack.address(base) + path, headers=evil),
            http.options(stack.address(base) + path, headers=asks),
        ):
            assert "access-control-allow-origin" not in answer.headers, base


def test_airflows_cookies_stay_with_airflow_and_its_pages(stack: Stack) -> None:
    base = stack.address("airflow")
    login = {"username": "viewer", "password": stack.secrets["AIRFLOW_VIEWER_PASSWORD"]}
    with httpx.Client(trust_env=False, timeout=60) as browser:
        token = csrf_token(browser, base)
        assert not browser.post(f"{base}/auth/login/", data=login).has_redirect_location  # another site has no token
        done = browser.post(f"{base}/auth/login/", data={**login, "csrf_token": token})
    assert done.is_redirect
    cookies = {cookie.split("=")[0]: cookie.lower() for cookie in done.headers.get_list("set-cookie")}
    assert {"session", "_token"} <= set(cookies)
    for name, cookie in cookies.items():
        assert "samesite=lax" in cookie, name
        assert "httponly" in cookie, name


# --- containers -------------------------------------------------------------------------------------------------------
def listening(port: int) -> set[str]:
    """Addresses of this host at which something listens on a port."""
    found = set()
    for file, family in (("/proc/net/tcp", socket.AF_INET), ("/proc/net/tcp6", socket.AF_INET6)):
        for line in Path(file).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found


def test_three_ports_are_published_and_all_on_loopback(stack: Stack, containers: dict[str, dict[str, Any]]) -> None:
    published = {
        service: {port: bound for port, bound in one["HostConfig"]["PortBindings"].items() if bound}
        for service, one in containers.items()
        if one["HostConfig"]["PortBindings"]
    }
    assert published == {
        service: {inside: [{"HostIp": "127.0.0.1", "HostPort": str(stack.ports[name])}]}
        for service, (name, inside) in PUBLISHED.items()
    }
    for service, one in containers.items():
        assert not one["HostConfig"]["PublishAllPorts"], service
        bound = [bound for ports in (one["NetworkSettings"]["Ports"] or {}).values() for bound in ports or []]
        assert {at["HostIp"] for at in bound} <= {"127.0.0.1"}, service
    for name, port in stack.ports.items():
        assert listening(port) == {"127.0.0.1"}, name


def test_no_container_has_a_way_out_and_only_three_are_reached_from_outside(
    stack: Stack, containers: dict[str, dict[str, Any]]
) -> None:
    inside = json.loads(docker("network", "inspect", f"{stack.project}_inside"))[0]
    assert inside["Internal"]
    for service, one in containers.items():
        networks = {name.removeprefix(f"{stack.project}_") for name in one["NetworkSettings"]["Networks"]}
        assert one["HostConfig"]["NetworkMode"] != "host", service
        assert "outside" not in networks or service in PUBLISHED, service
    outside = json.loads(docker("network", "inspect", f"{stack.project}_outside"))[0]
    assert outside["Options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"
    at = containers["s3"]["NetworkSettings"]["Networks"][f"{stack.project}_outside"]["IPAddress"]
    tries = {
        ("mlflow", at, 9000): True,  # its neighbour, so the way of asking is right
        ("mlflow", "1.1.1.1", 443): False,
        ("airflow-scheduler", at, 9000): False,  # from the inner network not even to the outer one of the same stack
        ("airflow-scheduler", "1.1.1.1", 443): False,
    }
    for (service, host, port), goes in tries.items():
        connect = f"import socket; socket.create_connection(({host!r}, {port}), 3)"
        done = stack.compose("exec", "-T", service, "python", "-c", connect, check=False)
        assert (done.returncode == 0) == goes, (service, host, port)


def test_no_process_of_any_container_is_root(containers: dict[str, dict[str, Any]]) -> None:
    for service, one in containers.items():
        user = one["Config"]["User"].split(":")[0]
        if service == "volumes":
            continue  # the next test
        assert user not in ("", "0", "root"), service
        if one["State"]["Running"]:
            processes = [
                line.split(None, 2) for line in docker("top", one["Id"], "-eo", "pid,uid,comm").splitlines()[1:]
            ]
            assert processes, service
            assert not [comm for _, uid, comm in processes if uid == "0"], service
            # The engine answers for the host's view; the process's own is all four of its ids.
            ids = Path(f"/proc/{processes[0][0]}/status").read_text()
            assert "\nUid:\t0" not in ids, service
        else:
            assert service in ONCE, service


def test_the_one_root_only_hands_over_volumes(containers: dict[str, dict[str, Any]]) -> None:
    one = containers["volumes"]
    host = one["HostConfig"]
    assert one["Config"]["User"] == "root"
    assert (one["State"]["Running"], one["State"]["ExitCode"]) == (False, 0)
    assert host["CapDrop"] == ["ALL"]
    assert [cap.removeprefix("CAP_") for cap in host["CapAdd"]] == ["CHOWN"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"]
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert one["Config"]["Entrypoint"] == ["sh", "-c"]
    assert one["Config"]["Cmd"] == ["chown postgres:postgres /postgres && chown 10001:10001 /s3 /redis"]
    assert {mount["Type"] for mount in one["Mounts"]} == {"volume"}
    assert not [entry for entry in one["Config"]["Env"] if "PASSWORD" in entry or "SECRET" in entry]


def test_every_container_is_locked_down(containers: dict[str, dict[str, Any]]) -> None:
    for service, one in containers.items():
        host = one["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"] or service == "volumes", service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert not any("unconfined" in option for option in host["SecurityOpt"]), service
        assert not host["Privileged"], service
        assert not host["Devices"], service
        assert host["PidsLimit"] == 4096, service
        assert (host["PidMode"], host["UTSMode"]) == ("", ""), service
        assert host["IpcMode"] == "private", service
        assert host["Init"], service
        assert host["LogConfig"]["Config"]["max-size"], service
        for mount in one["Mounts"]:
            assert "docker.sock" not in mount["Source"] + mount["Destination"], service
            # From the host's folders a container reads; what it writes is a volume's.
            assert mount["Type"] in ("volume", "tmpfs") or not mount["RW"], (service, mount["Source"])
        if service not in ONCE:
            assert 0 < host["Memory"] <= 16 * 2**30, service
            assert host["RestartPolicy"]["Name"] == "unless-stopped", service


def test_our_images_have_a_user_and_no_shell_for_it(containers: dict[str, dict[str, Any]]) -> None:
    for service in ("airflow-apiserver", "mlflow"):
        image = json.loads(docker("inspect", containers[service]["Image"]))[0]
        assert image["Config"]["User"] == "10001:10001"
        passwd = docker("exec", containers[service]["Id"], "cat", "/etc/passwd").splitlines()
        assert "pump:x:10001:10001::/nonexistent:/usr/sbin/nologin" in passwd


# --- secrets ----------------------------------------------------------------------------------------------------------
def shown(secrets: dict[str, str], text: str) -> set[str]:
    """Names of the secrets that stand in a text."""
    return {name for name, value in secrets.items() for part in value.split(",") if len(part) > 8 and part in text}


def test_no_secret_is_on_a_command_line(stack: Stack, containers: dict[str, dict[str, Any]]) -> None:
    for service, one in containers.items():
        started = json.dumps([one["Path"], one["Args"], one["Config"].get("Healthcheck"), one["Config"]["Labels"]])
        assert not shown(stack.secrets, started), service
        if one["State"]["Running"]:
            assert not shown(stack.secrets, docker("top", one["Id"], "-eo", "pid,args")), service


def test_no_secret_is_in_an_image(stack: Stack, containers: dict[str, dict[str, Any]]) -> None:
    for service in ("airflow-apiserver", "mlflow"):
        image = containers[service]["Image"]
        made = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
        config = json.loads(docker("inspect", image))[0]["Config"]
        assert not shown(stack.secrets, made + json.dumps(config)), service
        names = {entry.split("=")[0] for entry in config["Env"]}
        assert not [name for name in names if re.search("PASSW|SECRET|KEY|TOKEN|CONN", name)], service
        # Neither did a file of secrets come along with the sources.
        files = docker("exec", containers[service]["Id"], "ls", "-A", "/", "/opt", "/opt/pump_ml", "/opt/pump_ml/setup")
        assert not [name for name in files.split() if name.startswith(".env") or name.endswith((".pem", ".key"))]


@pytest.mark.usefixtures("dag_run", "theirs")
def test_no_secret_is_in_any_log(stack: Stack) -> None:
    logs = stack.compose("--profile", "celery", "logs", "--no-color")
    assert len(logs.stdout) > 10_000
    assert not shown(stack.secrets, logs.stdout + logs.stderr)
    values = [part for value in stack.secrets.values() for part in value.split(",") if len(part) > 8]
    script = (
        "import pathlib, sys; values = sys.stdin.buffer.read().split(); files = [f for f in "
        "pathlib.Path('/opt/airflow/logs').rglob('*') if f.is_file()]; "
        "print(len(files), [str(f) for f in files if any(v in f.read_bytes() for v in values)])"
    )
    done = subprocess.run(
        ["docker", "exec", "-i", stack.container("airflow-scheduler"), "python", "-c", script],
        input="\n".join(values), capture_output=True, text=True, check=True,
    )  # fmt: skip
    count, _, found = done.stdout.strip().partition(" ")
    assert int(count) > 0
    assert found == "[]"


def test_the_file_of_secrets_is_for_its_owner_alone(stack: Stack) -> None:
    facts = (stack.folder / ".env").stat()
    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert facts.st_uid == os.geteuid()
    values = [value for name, value in stack.secrets.items() if not name.endswith("_PORT")]
    assert len(values) == len(set(values)) >= 21, "a secret serves twice"


def test_compose_refuses_to_start_without_the_file_of_secrets() -> None:
    known = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG")
    done = subprocess.run(
        ["docker", "compose", "--env-file", "/dev/null", "config"],
        cwd=ROOT, env={name: os.environ[name] for name in known if name in os.environ},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "run make init" in done.stderr
