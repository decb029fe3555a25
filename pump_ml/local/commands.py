"""What ``pump-ml local run | machines | ui | stop | status`` do."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
from rich.console import Console

from pump_ml import steps
from pump_ml.errors import StackError
from pump_ml.local import command, stack
from pump_ml.local.airflow_api import AirflowApi, last_words
from pump_ml.local.progress import Clock, Progress
from pump_ml.local.record import Record
from pump_ml.local.stack import StackConfig

DATASET, SNAPSHOT = "dataset", "snapshot"
"""The DAG that makes a dataset, and its task that returns the snapshot's key."""
TRAINING, REPORT = "training", "report"
"""The DAG that trains, and its task that returns the report."""
MACHINES, ROLL_UP = "machines", "roll_up"
"""The DAG that trains the models of single machines, and its task that counts them."""
PREFIX = "local__"
"""How the runs that `run` starts are named."""
POLL_S = 0.7
PARSE_S, BROKEN_S = 60.0, 10.0
"""How long a DAG may take to be read: in general, and while some file does not import."""
SILENCE_S = 60.0


def run(
    dataset_conf: Mapping[str, Any], training_conf: Mapping[str, Any], *, config: StackConfig | None = None
) -> dict[str, Any]:
    """Make a dataset, train on it, and return the training report; progress goes to stderr.

    A stack that is up (`ui`) is used and left up, otherwise one is started and stopped.

    Args:
        dataset_conf: parameters of the DAG ``dataset``.
        training_conf: parameters of the DAG ``training``; its ``snapshot`` is the new one unless it names another.
        config: where; None is the project's own stack.

    Raises:
        StackError: the stack did not start, a DAG cannot be imported, or a task failed; the message holds the end of
            the task's log.
    """
    config = config or StackConfig.of_project()
    clock = Clock(Console(stderr=True))
    name = _new_name()
    training = False
    try:
        with _ready(config, clock, DATASET, TRAINING) as api:
            # the new dataset must not start a training of its own beside the one that is asked for
            with _paused(api, TRAINING, paused=True), _paused(api, DATASET, paused=False):
                _run_dag(config, clock, api, DATASET, name, dataset_conf)
                key = api.xcom(DATASET, name, SNAPSHOT)["snapshot"]
            with _paused(api, TRAINING, paused=False):
                training = True
                _run_dag(config, clock, api, TRAINING, name, {"snapshot": key, **training_conf})
                return dict(api.xcom(TRAINING, name, REPORT))
    except BaseException:
        if training:  # the stack ended before the DAG's own teardown could close its runs in MLflow
            steps.close(f"{TRAINING}/{name}")
        raise


def run_machines(conf: Mapping[str, Any], *, config: StackConfig | None = None) -> dict[str, Any]:
    """Train the models of single machines, and return what the roll-up counted; progress goes to stderr.

    A stack that is up (`ui`) is used and left up, otherwise one is started and stopped.

    Args:
        conf: parameters of the DAG ``machines``.
        config: where; None is the project's own stack.

    Raises:
        StackError: the stack did not start, the DAG cannot be imported, or too few machines were trained.
    """
    config = config or StackConfig.of_project()
    clock = Clock(Console(stderr=True))
    name = _new_name()
    with _ready(config, clock, MACHINES) as api, _paused(api, MACHINES, paused=False):
        _run_dag(config, clock, api, MACHINES, name, conf)
        return dict(api.xcom(MACHINES, name, ROLL_UP))


def ui(*, config: StackConfig | None = None) -> None:
    """Start Airflow and MLflow in the background, unless they are up, and print where they are.

    Raises:
        StackError: the stack did not start, or a `run` is using it.
    """
    config = config or StackConfig.of_project()
    console = Console()
    with stack.ending_on_signals():
        record = _unowned(config) or stack.start(
            config, schedule=True, mlflow=True, owned=False, say=Clock(Console(stderr=True)).say
        )
    rows = {
        "Airflow": f"{record.airflow}  login admin, password {stack.password(config)}",
        "training": f"{record.airflow}/dags/{TRAINING}",
        **({"MLflow": _experiment(record.mlflow)} if record.mlflow else {}),
        "stop": command("stop"),
    }
    for name, value in rows.items():
        console.print(f"{name:9} {value}", markup=False, highlight=False, soft_wrap=True)


def stop(*, config: StackConfig | None = None) -> None:
    """End everything that `run` or `ui` started; nothing to end is fine."""
    ended = stack.stop(config or StackConfig.of_project())
    Console().print("stopped" if ended else "nothing was running")


def status(*, config: StackConfig | None = None) -> bool:
    """Print whether the stack is up and where; True if it is."""
    config = config or StackConfig.of_project()
    record = stack.running(config)
    console = Console()
    if record is None:
        console.print(f"not running; start it with `{command('ui')}`")
        return False
    since = datetime.fromtimestamp(record.started).astimezone()
    rows = {
        "Airflow": record.airflow,
        **({"MLflow": record.mlflow} if record.mlflow else {}),
        "since": f"{since:%Y-%m-%d %H:%M:%S}",
        "used by": f"process {record.owner}"
        if record.owner
        else f"nobody in particular; it stays up until `{command('stop')}`",
        "processes": ", ".join(f"{name} {pid}" for name, pid in record.pids.items()),
        "logs": str(config.home / "logs"),
    }
    for name, value in rows.items():
        console.print(f"{name:9} {value}", markup=False, highlight=False, soft_wrap=True)
    return True


def _new_name() -> str:
    return f"{PREFIX}{datetime.now(UTC):%Y-%m-%dT%H-%M-%S-%f}"


@contextlib.contextmanager
def _ready(config: StackConfig, clock: Clock, *dags: str) -> Iterator[AirflowApi]:
    """A stack that has read these DAGs, for the time of the block."""
    with stack.ending_on_signals(), _stack(config, clock) as record, stack.api(config, record) as api:
        for dag in dags:
            _wait_until_parsed(api, dag, record)
        yield api


@contextlib.contextmanager
def _stack(config: StackConfig, clock: Clock) -> Iterator[Record]:
    """The stack that is up, or a new one for the time of the block."""
    record = _unowned(config)
    if record:
        clock.say(f"using Airflow at {record.airflow}, which stays up")
        yield record
        return
    # without cron and assets: nothing starts beside the run that is asked for
    record = stack.start(config, schedule=False, mlflow=False, owned=True, say=clock.say)
    try:
        clock.say(f"Airflow is ready at {record.airflow}")
        with stack.api(config, record) as api:
            for dag in (DATASET, TRAINING, MACHINES):
                for left in api.unfinished(dag):
                    if left.startswith(PREFIX):  # a run that was killed would go on beside the new one
                        api.fail(dag, left)
        yield record
    finally:
        clock.say("stopping Airflow")
        stack.stop(config)


def _unowned(config: StackConfig) -> Record | None:
    record = stack.running(config)
    if record and record.owner:
        raise StackError(
            f"process {record.owner} is using the stack in {config.home} for a run of its own, which you can watch at "
            f"{record.airflow}; wait for it, or end it with `{command('stop')}`"
        )
    return record


def _wait_until_parsed(api: AirflowApi, dag: str, record: Record) -> None:
    """Wait until Airflow has read the DAG since the stack was started: its database may hold an older version."""
    begun = time.monotonic()
    while True:
        known = api.dag(dag) or {}
        parsed = known.get("last_parsed_time")
        if parsed and not known["is_stale"] and datetime.fromisoformat(parsed).timestamp() >= record.started:
            return
        errors = api.import_errors()
        if time.monotonic() - begun > (BROKEN_S if errors else PARSE_S):
            found = "\n".join(f"{file}:\n{trace.rstrip()}" for file, trace in errors.items())
            raise StackError(f"Airflow found no DAG {dag!r} in its DAG folder. {found or 'No file failed to import.'}")
        time.sleep(0.3)


@contextlib.contextmanager
def _paused(api: AirflowApi, dag: str, *, paused: bool) -> Iterator[None]:
    """Pause or unpause a DAG for the time of the block."""
    before = bool((api.dag(dag) or {})["is_paused"])
    if before == paused:
        yield
        return
    api.set_paused(dag, paused=paused)
    try:
        yield
    finally:
        with contextlib.suppress(httpx.TransportError, StackError):  # a stack that died has said why already
            api.set_paused(dag, paused=before)


def _run_dag(config: StackConfig, clock: Clock, api: AirflowApi, dag: str, name: str, conf: Mapping[str, Any]) -> None:
    """Run a DAG to its end."""
    api.trigger(dag, name, conf)
    clock.say(f"{dag}  started as {name}")
    try:
        state = _follow(config, clock, api, dag, name)
    except BaseException:
        # its tasks must not go on, nor come back with the next start
        with contextlib.suppress(httpx.HTTPError, StackError):
            api.fail(dag, name)
        raise
    clock.say(f"{dag}  {state}")
    if state != "success":
        raise StackError(_why(config, api, dag, name))


def _follow(config: StackConfig, clock: Clock, api: AirflowApi, dag: str, name: str) -> str:
    """Show the run's progress until it ends; its final state."""
    answered = time.monotonic()
    with Progress(clock, dag, api.order(dag)) as progress:
        while True:
            try:
                state = api.state(dag, name)
                progress.update(api.tasks(dag, name))
                answered = time.monotonic()
            except httpx.TransportError as error:
                stack.check(config)
                if time.monotonic() - answered > SILENCE_S:
                    raise StackError(f"Airflow at {stack.check(config).airflow} does not answer: {error}") from error
            else:
                if state in ("success", "failed"):
                    return state
            time.sleep(POLL_S)


def _why(config: StackConfig, api: AirflowApi, dag: str, name: str) -> str:
    """What the failed tasks of a run logged last."""
    failed = [task for task in api.tasks(dag, name) if task.state == "failed"]
    if not failed:
        return f"DAG {dag} failed without a failed task; look at {config.home / 'logs' / 'scheduler.log'}"
    parts = [f"DAG {dag} failed."]
    for task in failed:
        path = config.airflow_home / "logs" / f"dag_id={dag}" / f"run_id={name}" / f"task_id={task.task}"
        path = path if task.index < 0 else path / f"map_index={task.index}"
        log = last_words(api.log(dag, name, task))
        parts += [f"{task.label}, try {task.tries}:", *(f"  {line}" for line in log or ["(it logged nothing)"])]
        parts += [f"  full log: {path / f'attempt={task.tries}.log'}"]
    return "\n".join(parts)


def _experiment(mlflow: str) -> str:
    """Address of the experiment that changed last, of all experiments while there is none."""
    answer = httpx.post(
        f"{mlflow}/api/2.0/mlflow/experiments/search",
        json={"max_results": 1, "order_by": ["last_update_time DESC"], "filter": "name != 'Default'"},
        timeout=30,
    )
    found = answer.json().get("experiments") if answer.is_success else None
    path = f"/{found[0]['experiment_id']}/runs" if found else ""
    return f"{mlflow}/#/experiments{path}?workflowType=machine_learning"
