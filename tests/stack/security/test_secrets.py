"""Where no secret may be found."""

import json
import os
import re
import stat
import subprocess
from typing import Any

import pytest
from access import docker, shown
from harness import ROOT, Stack


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
