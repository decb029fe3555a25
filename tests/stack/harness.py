"""The full stack for its tests: the project's own docker-compose.yaml, under a name, ports and secrets of its own."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.config import Config
from mlflow import MlflowClient

from pump_ml.compose.environment import read
from pump_ml.compose.status import size
from pump_ml.errors import StackError
from pump_ml.local.airflow_api import AirflowApi

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "pump-ml-test"
SMALL = {"pumps": 60, "samples": 6, "seed": 7}
"""A dataset that is made in seconds and still lets a baseline pass its gate."""
TELEMETRY_PASSWORD = secrets.token_hex(16)
"""Of the database of single machines' telemetry, beside the stack's own."""
# Thresholds that such a dataset reaches: what is tested is the platform, not how well its models learn.
VARIABLES = {
    "CONFIG_FOLDER": str(ROOT / "tests" / "stack" / "config"),
    "TARGETS_FILE": "/etc/pump_ml/targets.yaml",
    "PUMP_ML_TELEMETRY_URL": f"postgresql+psycopg2://telemetry:{TELEMETRY_PASSWORD}@postgres/telemetry",
}
QUICK = {"families": ["baseline", "xgb"], "preset": "quick"}
BUILD_S, START_S, RUN_S = 1500.0, 600.0, 900.0
OUTER_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
"""What the `make` that runs the tests would hand on to those in them."""


NEEDED = (
    "docker-compose.yaml", "Dockerfile", ".dockerignore", "Makefile", "pyproject.toml", "README.md", "LICENSE",
    "requirements.lock", "requirements-mlflow.lock", "pump_ml", "expectations", "dags", "plugins", "deploy",
)  # fmt: skip
"""What of a checkout the stack is made from."""


def host(folder: Path) -> Path:
    """A checkout of this commit as another machine has it; a ``.env`` that lies there is kept."""
    folder.mkdir(exist_ok=True)
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@dataclass(frozen=True)
class Stack:
    """A full stack under test, handled as its users do: by ``make`` in its checkout.

    Args:
        folder: the checkout, with its ``.env``.
        project: its name for compose.
        ports: ``airflow``, ``mlflow`` and ``s3``, on 127.0.0.1.
        variables: more variables of its compose file, such as ``AIRFLOW_EXECUTOR``.
    """

    folder: Path
    project: str
    ports: Mapping[str, int]
    variables: Mapping[str, str]

    @property
    def secrets(self) -> dict[str, str]:
        """The content of ``.env``."""
        return read(self.folder / ".env")

    def compose(self, *words: str, check: bool = True, timeout: float = START_S) -> "subprocess.CompletedProcess[str]":
        """Run ``docker compose`` on this stack."""
        return self._run(["docker", "compose", *words], check, timeout)

    def make(self, *words: str, timeout: float = BUILD_S) -> str:
        """Run ``make``; its standard output."""
        return self._run(["make", "--silent", *words], check=True, timeout=timeout).stdout

    def _run(self, command: list[str], check: bool, timeout: float) -> "subprocess.CompletedProcess[str]":
        ports = {f"{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        ours = {name: value for name, value in os.environ.items() if name not in OUTER_MAKE}
        done = subprocess.run(
            command, cwd=self.folder, env={**ours, "COMPOSE_PROJECT_NAME": self.project, **ports, **self.variables},
            capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done

    def up(self, *words: str) -> None:
        """``make up``: start it and wait until everything is healthy."""
        try:
            self.make("up", *words)
        except AssertionError as error:
            states = self.compose("--profile", "celery", "ps", "--all", check=False).stdout
            logs = self.compose("--profile", "celery", "logs", "--no-color", "--tail", "30", check=False).stdout
            raise AssertionError(f"{error}\n{states}\n{logs[-20000:]}") from None

    def down(self, *, volumes: bool) -> None:
        """Stop it, with its volumes if asked."""
        if not volumes:
            self.make("down")
            return
        self.compose("--profile", "celery", "kill", check=False)  # nothing is left to be ended well
        self.compose("--profile", "celery", "down", "--volumes")

    def container(self, service: str) -> str:
        """Id of the service's (first) container."""
        return self.compose("ps", "--all", "--quiet", service).stdout.split()[0]

    @contextmanager
    def without(self, service: str, by: str = "stop") -> Iterator[None]:
        """A service is stopped, or paused (`by` "pause"), as long as this lasts."""
        self.compose(by, service)
        try:
            yield
        finally:
            self.compose({"stop": "start", "pause": "unpause"}[by], service)

    def address(self, name: str) -> str:
        """``http://127.0.0.1:PORT`` of ``airflow``, ``mlflow`` or ``s3``."""
        return f"http://127.0.0.1:{self.ports[name]}"

    @contextmanager
    def airflow(self, user: str = "admin") -> Iterator[AirflowApi]:
        """Airflow's REST API as one of its users."""
        with AirflowApi(self.address("airflow"), self.secrets[f"AIRFLOW_{user.upper()}_PASSWORD"], user=user) as api:
            yield api

    def mlflow(self, user: str = "admin") -> MlflowClient:
        """MLflow as one of its users; the login stands in the environment, where MLflow looks for it."""
        for part in ("DOWNLOAD", "UPLOAD"):  # see pump_ml.registry
            os.environ[f"MLFLOW_ENABLE_PROXY_MULTIPART_{part}"] = "false"
        os.environ["MLFLOW_TRACKING_USERNAME"] = user
        os.environ["MLFLOW_TRACKING_PASSWORD"] = self.secrets[f"MLFLOW_{user.upper().replace('-', '_')}_PASSWORD"]
        return MlflowClient(self.address("mlflow"), self.address("mlflow"))

    def s3(self, client: str = "ROOT") -> Any:
        """A plain boto3 client with the keys of ``ROOT``, ``MLFLOW`` or ``PUMP_ML``."""
        names = ("USER", "PASSWORD") if client == "ROOT" else ("ACCESS_KEY", "SECRET_KEY")
        access, secret = (self.secrets[f"S3_{client}_{name}"] for name in names)
        return boto3.client(
            "s3", endpoint_url=self.address("s3"), aws_access_key_id=access, aws_secret_access_key=secret,
            region_name="us-east-1", config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip

    def sql(self, database: str, query: str) -> list[str]:
        """Rows of a query, fields separated by ``|``."""
        words = ("exec", "-T", "postgres", "psql", "-U", "postgres", "-qAt", "-d", database, "-c", query)
        return self.compose(*words).stdout.splitlines()

    def run_dag(self, dag: str, name: str, conf: Mapping[str, Any]) -> str:
        """Run a DAG to its end; its final state."""
        with self.airflow() as api:
            assert eventually(lambda: api.dag(dag) is not None, 60), f"Airflow does not know the DAG {dag}"
            api.trigger(dag, name, conf)
        return self.follow(dag, name)

    def follow(self, dag: str, name: str, seconds: float = RUN_S) -> str:
        """Wait for a DAG run's end, through any outage; its final state."""
        state = "unknown"

        def ended() -> bool:
            nonlocal state
            try:
                with self.airflow() as api:
                    state = api.state(dag, name)
            except (httpx.HTTPError, StackError) as error:
                state = f"unknown: {error}"
            return state in ("success", "failed")

        assert eventually(ended, seconds, every=1.0), f"{dag} {name} is {state} after {seconds:.0f} s"
        return state

    def learns(self, run: str, family: str) -> bool:
        """Whether a family's task has told the end of an epoch, and goes on."""
        with self.airflow() as api:
            running = [task for task in api.tasks("training", run) if task.state == "running"]
            said = [
                str(event["event"])
                for task in running
                if task.label == f"train[{family}]"
                for event in api.log("training", run, task)
            ]
        return any(re.match(rf"train {family}: \d+ %", line) for line in said)

    def memory(self) -> dict[str, float]:
        """Bytes that each running container takes, as Docker counts them."""
        ids = self.compose("ps", "--quiet").stdout.split()
        words = ["docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", *ids]
        listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return {line.split()[0].removeprefix(f"{self.project}-"): size(line.split()[1]) for line in listed.splitlines()}

    def tasks(self, dag: str, name: str) -> dict[str, str]:
        """State of each task instance by its label, such as ``train[xgb]``."""
        with self.airflow() as api:
            return {task.label: task.state for task in api.tasks(dag, name)}


def eventually(holds: Callable[[], bool], seconds: float, *, every: float = 0.5) -> bool:
    """Whether something comes true in time."""
    deadline = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(every)
    return found


def crash(stack: Stack, service: str, container: str | None = None) -> None:
    """kill -9 of a container's first process, and so of all of them; unlike `docker kill`, it counts as a crash."""
    done = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Pid}}", container or stack.container(service)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    pid = int(done.stdout)
    assert pid > 1, f"{service} does not run"
    os.kill(pid, signal.SIGKILL)


RESULTS: list[dict[str, Any]] = []
"""What the tests measured; printed at the end of the run."""


def show(rows: list[dict[str, Any]]) -> None:
    """Keep measured figures for the end of the run."""
    RESULTS.extend(rows)
