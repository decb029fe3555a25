"""Nobody is let in: not without a login, not with a forged one. docs/security.md lists what is open."""

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor

import boto3
import httpx
import jwt
import pytest
from access import REFUSED, attempt, csrf_token, denied, refused
from botocore import UNSIGNED
from botocore.config import Config
from harness import Stack

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


def routes(stack: Stack, service: str, script: str) -> set[tuple[str, str]]:
    """Method and path of everything that a server answers, asked of its own code in its own container."""
    done = stack.compose("exec", "-T", service, "python", "-W", "ignore", "-c", script)
    return {(method, path) for method, path in json.loads(done.stdout.splitlines()[-1])}


def answers(http: httpx.Client, base: str, found: set[tuple[str, str]], at_once: int = 1) -> dict[str, httpx.Response]:
    """What somebody is told at each route, its parameters filled in."""
    # POST before GET, which logs out
    asked = sorted((route for route in found if route[0] not in ("HEAD", "OPTIONS")), reverse=True)

    def ask(route: tuple[str, str]) -> httpx.Response:
        method, path = route
        return http.request(method, base + re.sub(r"\{[^}]*\}|<[^>]*>", "1", path))

    with ThreadPoolExecutor(at_once) as pool:
        return {f"{method} {path}": answer for (method, path), answer in zip(asked, pool.map(ask, asked), strict=True)}


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
    told = answers(http, stack.address("mlflow"), found, at_once=8)
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
