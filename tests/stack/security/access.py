"""How the security tests ask: as nobody, as a user, with a key."""

import re
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
from botocore.exceptions import ClientError
from harness import Stack

ONCE = {"volumes-setup", "postgres-setup", "s3-users", "s3-setup", "mlflow-setup", "airflow-setup"}
"""Services that end well and stay down."""
PUBLISHED = {"airflow-apiserver": ("airflow", "8080/tcp"), "mlflow": ("mlflow", "5000/tcp"), "s3": ("s3", "9000/tcp")}
REFUSED = (401, 403)


API = "/api/2.0/mlflow"


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout


def refused(answer: httpx.Response) -> bool:
    """Whether an answer is a no, or leads to the login page or to FAB's entrance, which leads there."""
    if answer.is_redirect:
        return bool(re.search(r"/auth/(login/.*)?$", answer.headers["location"]))
    return answer.status_code in REFUSED


def basic(stack: Stack, user: str) -> httpx.Client:
    """MLflow as one of its users."""
    login = (user, stack.secrets[f"MLFLOW_{user.upper().replace('-', '_')}_PASSWORD"])
    return httpx.Client(base_url=stack.address("mlflow"), auth=login, trust_env=False, timeout=60)


def csrf_token(browser: httpx.Client, base: str) -> str:
    """What Airflow's login page gives to its form; the session comes along as a cookie."""
    found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', browser.get(f"{base}/auth/login/").text)
    assert found
    return found[1]


def attempt(call: Callable[..., Any], **arguments: Any) -> Any:
    """What the store answers, or the word for why it does not."""
    try:
        return call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]


def denied(call: Callable[..., Any], **arguments: Any) -> bool:
    """Whether the store refuses a call by the caller's rights."""
    return bool(attempt(call, **arguments) == "AccessDenied")


def shown(secrets: dict[str, str], text: str) -> set[str]:
    """Names of the secrets that stand in a text."""
    return {name for name, value in secrets.items() for part in value.split(",") if len(part) > 8 and part in text}
