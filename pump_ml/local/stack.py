"""Airflow and MLflow as one supervised group of processes on this machine, bound to 127.0.0.1 only."""

import base64
import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import httpx

from pump_ml.catalog import POOLS
from pump_ml.errors import StackError
from pump_ml.local import processes
from pump_ml.local.airflow_api import AirflowApi
from pump_ml.local.record import Record, Spec, forget, tail
from pump_ml.settings import CHECKOUT, Settings, environment

START_S = 180.0
STOP_S = 20.0
PORTS_TRIED = 50

Say = Callable[[str], None]
"""Takes one line for the user."""


@dataclass(frozen=True)
class StackConfig:
    """Where a local stack lives and what it serves.

    Args:
        home: the absolute ``var`` folder; there is at most one stack in it.
        dags: folder of the DAG files.
        plugins: folder of the Airflow plugins; it may be absent.
        airflow_port: wished for; the next free one is taken if it is in use.
        mlflow_port: likewise.
    """

    home: Path
    dags: Path
    plugins: Path
    airflow_port: int = 8080
    mlflow_port: int = 5000

    @classmethod
    def of_project(cls) -> Self:
        """The project's own stack, under ``var/`` of the working directory unless the settings say otherwise."""
        project = CHECKOUT if (CHECKOUT / "dags").is_dir() else Path.cwd()
        return cls(home=Settings.load().home, dags=project / "dags", plugins=project / "plugins")

    @property
    def airflow_home(self) -> Path:
        """Airflow's own folder: its database, its configuration file and the logs of tasks."""
        return self.home / "airflow"


def running(config: StackConfig) -> Record | None:
    """The record of the stack that is up in this ``var`` folder; None without one.

    A record that a crash left behind counts for nothing: its process id must carry the mark of this stack.
    """
    record = Record.read(config.home)
    return record if record and processes.belongs(record.supervisor, config.home) else None


def start(config: StackConfig, *, schedule: bool, mlflow: bool, owned: bool, say: Say) -> Record:
    """Start the stack and wait until every component is healthy.

    Args:
        config: where.
        schedule: whether cron slots and assets start DAGs; without, only runs asked for by hand do.
        mlflow: whether to serve the MLflow UI too.
        owned: whether the stack ends with the calling process.
        say: gets a line for each step.

    Raises:
        StackError: a component died or did not get healthy, or another process is starting this stack.
    """
    if not config.dags.is_dir():
        raise StackError(f"no DAG folder at {config.dags}; start in the project's folder")
    with _lock(config.home):
        processes.end(config.home, grace_s=2.0)  # what a crash may have left
        airflow = _address(config.airflow_port, "Airflow", say)
        ui = _address(config.mlflow_port, "MLflow", say, but=airflow) if mlflow else None
        if mlflow and _remote(Settings.load().tracking):
            ui = _without_login(Settings.load().tracking)
        env = _environment(config, airflow=airflow, mlflow=ui, schedule=schedule)
        _prepare(config, env, say)
        spec = Spec(
            home=config.home,
            components=_components(mlflow_port=_port(ui) if ui and not _remote(Settings.load().tracking) else None),
            airflow=airflow,
            mlflow=ui,
            schedule=schedule,
            owner=os.getpid() if owned else None,
        )
        say("starting Airflow" + (" and MLflow" if mlflow else ""))
        _detach(spec, env)
        try:
            return _wait_until_ready(config)
        except BaseException:
            stop(config)
            raise


def stop(config: StackConfig) -> bool:
    """End the stack in this ``var`` folder, whoever started it; True if anything was running.

    Only processes that carry the mark of this stack are touched, so a record left by a crash does no harm.
    """
    record = running(config)
    everybody = processes.of_stack(config.home)
    if record:
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.supervisor, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while processes.belongs(record.supervisor, config.home) and time.monotonic() < deadline:
            time.sleep(0.1)
    processes.end(config.home, grace_s=2.0, known=everybody)
    forget(config.home)
    return bool(everybody)


def check(config: StackConfig) -> Record:
    """The record of the stack, which must be up.

    Raises:
        StackError: it stopped; the message names the component that died and the end of its log.
    """
    up = running(config)
    if up:
        return up
    record = Record.read(config.home)
    raise StackError(record.failure if record and record.failure else f"the stack in {config.home} was stopped")


def api(config: StackConfig, record: Record) -> AirflowApi:
    """A client of the stack's Airflow."""
    return AirflowApi(record.airflow, password(config))


def password(config: StackConfig) -> str:
    """The password of the Airflow user ``admin``."""
    return str(json.loads(_password_file(config).read_text())["admin"])


# --- preparation ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[None]:
    folder = home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another process is starting the stack in {home}; wait for it, then try again") from None
        yield


def _address(wished: int, name: str, say: Say, *, but: str | None = None) -> str:
    """``http://127.0.0.1:PORT`` with the first free port from `wished` on."""
    for port in range(wished, wished + PORTS_TRIED):
        address = f"http://127.0.0.1:{port}"
        if address != but and _free(port):
            if port != wished:
                say(f"port {wished} is taken, so {name} uses {port}")
            return address
    raise StackError(f"no free port for {name} among {wished}..{wished + PORTS_TRIED - 1}; end what listens there")


def _free(port: int) -> bool:
    with socket.socket() as probe:  # somebody may listen on all interfaces, which a bind does not notice everywhere
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that a stopped stack just left is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _port(address: str) -> int:
    return int(address.rsplit(":", 1)[1])


def _without_login(address: str) -> str:
    """The address as it may be shown: without ``user:password@``."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _remote(tracking: str) -> bool:
    return tracking.startswith(("http://", "https://"))


def _secrets(config: StackConfig) -> dict[str, str]:
    """Keys that all components share, made once and readable by their owner only."""
    file = config.airflow_home / "secrets.json"
    if not file.exists():
        _write_private(
            file,
            {
                "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                "jwt": secrets.token_urlsafe(64),
                "api": secrets.token_urlsafe(32),
            },
        )
    if not _password_file(config).exists():
        _write_private(_password_file(config), {"admin": secrets.token_urlsafe(12)})
    return dict(json.loads(file.read_text()))


def _password_file(config: StackConfig) -> Path:
    return config.airflow_home / "passwords.json"


def _write_private(file: Path, content: Mapping[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".tmp")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(content, out)
    draft.replace(file)


def _environment(config: StackConfig, *, airflow: str, mlflow: str | None, schedule: bool) -> dict[str, str]:
    """The environment of every process of the stack."""
    keys = _secrets(config)
    inherited = environment()
    settings = Settings.load()
    fixed = {
        processes.MARK: str(config.home),
        "SPT_NOENV": "1",  # a process that renames itself would otherwise overwrite the mark
        "PYTHONUNBUFFERED": "1",  # a log is complete when its process dies
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "PUMP_ML_VAR": str(config.home),  # a task may run in another working directory
        "AIRFLOW_HOME": str(config.airflow_home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{config.airflow_home / 'airflow.db'}",
        "AIRFLOW__CORE__DAGS_FOLDER": str(config.dags),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(config.plugins),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",  # tasks at a time; a TensorFlow task takes about 1 GB
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",  # the weekly training waits for its first Monday
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": str(schedule),
        # one login, one machine
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",  # not a secret: user and role
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_password_file(config)),
        "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
        "AIRFLOW__API__SECRET_KEY": keys["api"],
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(_port(airflow)),
        "AIRFLOW__API__BASE_URL": airflow,
        "AIRFLOW__API__WORKERS": "1",  # each further one takes 300 MB
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{airflow}/execution/",
        # the defaults are made for many machines: on one they cost seconds a task
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",  # default 5, slept out while a finished task holds its slot
        "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "60",  # default 3: a busy API server would kill running tasks
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",  # default 1, paid between a task and the next
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",  # default 300, after a crash
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",  # default 300: a new DAG file shows up soon
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes for generative AI that nobody here asks
    }
    quiet = {
        "TF_CPP_MIN_LOG_LEVEL": "2",  # TensorFlow: warnings and errors only
        "OMP_WAIT_POLICY": "passive",  # idle threads sleep: spinning ones slow down the other trainings tenfold
        "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing leaves this machine
        "GX_ANALYTICS_ENABLED": "false",  # likewise
    }
    ui = {"PUMP_ML_MLFLOW_UI": settings.mlflow_ui or mlflow} if mlflow else {}
    store = {
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri or f"sqlite:///{config.home / 'mlflow.db'}",
        "MLFLOW_ARTIFACTS_DESTINATION": (config.home / "mlartifacts").as_uri(),
    }
    return quiet | dict(inherited) | fixed | ui | (store if mlflow and not _remote(settings.tracking) else {})


def _components(*, mlflow_port: int | None) -> dict[str, list[str]]:
    """Name -> command. -P: a file of the working directory must not shadow a library."""
    module = [sys.executable, "-P", "-m"]
    # Airflow's log servers listen on all interfaces; on one machine the files themselves are there to be read
    alone = "--skip-serve-logs"
    commands = {
        "api-server": [*module, "airflow", "api-server"],
        "scheduler": [*module, "airflow", "scheduler", alone],
        "dag-processor": [*module, "airflow", "dag-processor"],
        "triggerer": [*module, "airflow", "triggerer", alone],
    }
    if mlflow_port:
        address = ["--host", "127.0.0.1", "--port", str(mlflow_port)]
        commands["mlflow"] = [*module, "mlflow", "server", *address, "--workers", "1"]
    return commands


def _prepare(config: StackConfig, env: Mapping[str, str], say: Say) -> None:
    """Bring every database to the version that is installed; a stamp spares Airflow's when it is there already."""
    (config.home / "logs").mkdir(parents=True, exist_ok=True)
    stamp, wanted = config.airflow_home / "migrated", version("apache-airflow-core")
    current = stamp.exists() and stamp.read_text() == wanted and (config.airflow_home / "airflow.db").exists()
    own = "from pump_ml import ledger, registry; ledger.prepare(); registry.prepare()"
    commands = {"prepare": [sys.executable, "-P", "-c", own]}
    if not current:
        say("preparing the databases")
        commands["migrate"] = [sys.executable, "-P", "-m", "airflow", "db", "migrate"]
    _run_all(config, commands, env)
    if not current:
        stamp.write_text(wanted)


def _run_all(config: StackConfig, commands: Mapping[str, list[str]], env: Mapping[str, str]) -> None:
    """Run commands side by side; each must succeed."""
    with contextlib.ExitStack() as stack:
        children = {}
        for name, command in commands.items():
            log = stack.enter_context((config.home / "logs" / f"{name}.log").open("wb"))
            child = subprocess.Popen(  # noqa: S603 - our own command
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            children[name] = stack.enter_context(child)
        try:
            codes = {name: child.wait() for name, child in children.items()}
        except BaseException:
            for child in children.values():
                child.kill()
            raise
    for name, code in codes.items():
        if code:
            log_file = config.home / "logs" / f"{name}.log"
            raise StackError(
                f"{name} ended with exit code {code}. Its log is {log_file}, which ends:\n{tail(log_file)}"
            )


def _detach(spec: Spec, env: Mapping[str, str]) -> None:
    """Start the supervisor in a session of its own, so that it outlives this process and its terminal."""
    forget(spec.home)
    with spec.log("supervisor").open("wb") as log:
        child = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-P", "-m", "pump_ml.local.supervisor", spec.to_json()],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    threading.Thread(target=child.wait, daemon=True).start()  # reaps it, should it end before this process does
    deadline = time.monotonic() + 30
    while Record.read(spec.home) is None:
        if child.poll() is not None or time.monotonic() > deadline:
            raise StackError(f"the supervisor did not start:\n{tail(spec.log('supervisor'))}")
        time.sleep(0.05)


def _wait_until_ready(config: StackConfig) -> Record:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        record = check(config)
        with contextlib.suppress(httpx.TransportError), api(config, record) as client:
            if client.healthy() and client.lets_in() and _mlflow_ready(record):
                client.warm()
                for pool, slots in POOLS.items():
                    client.ensure_pool(pool, slots)
                return record
        time.sleep(0.3)
    raise StackError(f"the stack did not get healthy in {START_S:.0f} s; look at the logs in {config.home / 'logs'}")


def _mlflow_ready(record: Record) -> bool:
    # its /health answers before the database does
    return (
        record.mlflow is None
        or httpx.get(
            f"{record.mlflow}/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}, timeout=30
        ).is_success
    )


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that ``finally`` runs; outside the main thread, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
