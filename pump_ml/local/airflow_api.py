"""The few requests of Airflow's REST API that a local run needs."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from graphlib import TopologicalSorter
from types import TracebackType
from typing import Any, Self

import httpx

from pump_ml.errors import StackError

LAST_LINES, FRAMES = 15, 3
SETTLES_S, ENDINGS = 0.5, 6
COMPONENTS = ("metadatabase", "scheduler", "dag_processor", "triggerer")


@dataclass(frozen=True)
class TaskState:
    """One task instance of a DAG run.

    Args:
        task: id of the task.
        index: index of a mapped task, -1 otherwise.
        label: what to call it: ``train[cnn1d]`` for a mapped task, else its id.
        named: False for a mapped task that has only its number in `label`, maybe until it has rendered its name.
        state: Airflow's word for it; ``"none"`` before the scheduler looked at it.
        tries: how often it was started.
        started: when it was started, None before.
        ended: when it ended, None before.
    """

    task: str
    index: int
    label: str
    named: bool
    state: str
    tries: int
    started: datetime | None
    ended: datetime | None


class AirflowApi:
    """A client of one Airflow; use it as a context manager.

    Args:
        base: its address, such as ``http://127.0.0.1:8080``.
        password: of the user.
        user: who asks.

    Raises:
        StackError: Airflow refuses a request; the message holds its reason.
        httpx.TransportError: nobody answers at `base`.
    """

    def __init__(self, base: str, password: str, *, user: str = "admin") -> None:
        # trust_env=False: a proxy for the world outside must not see requests to this machine
        self._http = httpx.Client(base_url=base, timeout=60, trust_env=False)
        self._login = {"username": user, "password": password}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._http.close()

    def healthy(self) -> bool:
        """Whether every component has reported in lately."""
        health = self._http.get("/api/v2/monitor/health")
        return health.is_success and all((health.json()[name] or {}).get("status") == "healthy" for name in COMPONENTS)

    def lets_in(self) -> bool:
        """Whether this is the Airflow that the password belongs to; another one may have taken the port first."""
        try:
            self._log_in()
        except StackError:
            return False
        return True

    def warm(self) -> None:
        """Pay for the first request of a task now: it builds the execution API, which takes seconds."""
        self._http.get("/execution/health")

    def ensure_pool(self, name: str, slots: int) -> None:
        """Create a pool unless it exists; a pool that somebody resized stays as it is."""
        pool = {"name": name, "slots": slots, "description": "training runs at a time", "include_deferred": False}
        self.ask("POST", "/api/v2/pools", body=pool, allowed=(409,))

    def dag(self, dag: str) -> dict[str, Any] | None:
        """A DAG as Airflow knows it, None when it does not."""
        return self.ask("GET", f"/api/v2/dags/{dag}", allowed=(404,))

    def set_paused(self, dag: str, *, paused: bool) -> None:
        """Let the scheduler run a DAG, or not."""
        self.ask("PATCH", f"/api/v2/dags/{dag}", body={"is_paused": paused})

    def import_errors(self) -> dict[str, str]:
        """File -> stack trace, for every DAG file that cannot be imported."""
        found = self.ask("GET", "/api/v2/importErrors") or {}
        return {one["filename"]: one["stack_trace"] for one in found["import_errors"]}

    def trigger(self, dag: str, run: str, conf: Mapping[str, Any]) -> None:
        """Start a run named `run`."""
        body = {"dag_run_id": run, "logical_date": None, "conf": dict(conf)}
        self.ask("POST", f"/api/v2/dags/{dag}/dagRuns", body=body)

    def state(self, dag: str, run: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        return str((self.ask("GET", f"/api/v2/dags/{dag}/dagRuns/{run}") or {})["state"])

    def fail(self, dag: str, run: str) -> None:
        """Mark a run failed, which also ends its tasks.

        On SQLite, where no row is locked, a scheduler that is looking at the run just now may see its tasks ended and
        write over the state; so the state is looked at again, and the mark repeated until it stays. On PostgreSQL the
        two may lock each other out, which Airflow answers with 500: then it is asked again, too.
        """
        for left in reversed(range(ENDINGS)):
            deadlock = (500,) if left else ()
            self.ask("PATCH", f"/api/v2/dags/{dag}/dagRuns/{run}", body={"state": "failed"}, allowed=deadlock)
            time.sleep(SETTLES_S)
            if self.state(dag, run) == "failed":
                return

    def unfinished(self, dag: str) -> list[str]:
        """The runs of a DAG that are queued or running."""
        query = {"state": ["queued", "running"], "limit": 100}
        found = self.ask("GET", f"/api/v2/dags/{dag}/dagRuns", query=query, allowed=(404,)) or {"dag_runs": []}
        return [one["dag_run_id"] for one in found["dag_runs"]]

    def order(self, dag: str) -> list[str]:
        """The tasks of a DAG, each after the ones it waits for."""
        found = (self.ask("GET", f"/api/v2/dags/{dag}/tasks") or {})["tasks"]
        sorter = TopologicalSorter[str]({task["task_id"]: () for task in found})
        for task in found:
            for later in task["downstream_task_ids"]:
                sorter.add(later, task["task_id"])
        return list(sorter.static_order())

    def tasks(self, dag: str, run: str) -> list[TaskState]:
        """All task instances of a run."""
        instances: list[dict[str, Any]] = []
        while True:
            query = {"limit": 100, "offset": len(instances)}
            page = self.ask("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances", query=query) or {}
            instances += page["task_instances"]
            if not page["task_instances"] or len(instances) >= page["total_entries"]:
                return [_task(one) for one in instances]

    def log(self, dag: str, run: str, task: TaskState) -> list[dict[str, Any]]:
        """The last try's log: events with ``event``, ``level`` and maybe ``error_detail``."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task.task}/logs/{task.tries}"
        found = self.ask("GET", path, query={"map_index": task.index, "full_content": True}) or {}
        return [one if isinstance(one, dict) else {"event": str(one)} for one in found["content"]]

    def xcom(self, dag: str, run: str, task: str) -> Any:
        """What a task returned.

        Raises:
            StackError: it returned nothing.
        """
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        return (self.ask("GET", path) or {})["value"]

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        allowed: tuple[int, ...] = (),
    ) -> dict[str, Any] | None:
        """The JSON answer of any address of the API; None for a status in `allowed`."""
        if "Authorization" not in self._http.headers:
            self._log_in()
        answer = self._http.request(method, path, json=body, params=query)
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # the token of a long run has expired
            self._log_in()
            answer = self._http.request(method, path, json=body, params=query)
        if answer.status_code in allowed:
            return None
        if not answer.is_success:
            raise StackError(f"Airflow refused {method} {path} ({answer.status_code}): {_reason(answer)}")
        return dict(answer.json())

    def _log_in(self) -> None:
        answer = self._http.post("/auth/token", json=self._login)
        if not answer.is_success:
            raise StackError(
                f"Airflow at {self._http.base_url} refused the login of {self._login['username']}: {_reason(answer)}"
            )
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def last_words(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """The last lines of a task's log that say something: what it printed, and its exception with our own frames."""
    said: list[str] = []
    for event in log:
        if event.get("error_detail"):
            said += [line for error in event["error_detail"] for line in _exception(error)]
        elif not _routine(event):
            said += str(event["event"]).splitlines()
    return [line for line in said if line.strip()][-LAST_LINES:]


def _routine(event: Mapping[str, Any]) -> bool:
    """Whether Airflow talks about itself; what a task prints has the logger ``task.stdout``."""
    logger = str(event.get("logger", "task"))
    return (logger == "task" or logger.startswith("airflow.")) and event.get("level") not in ("error", "critical")


def _exception(error: Mapping[str, Any]) -> list[str]:
    first, *more = f"{error['exc_type']}: {error['exc_value']}".splitlines()
    own = [frame for frame in error["frames"] if "site-packages" not in frame["filename"]]
    return [
        f"caused by {first}" if error["is_cause"] else first,
        *more,
        *error["exc_notes"],
        *(f"  at {frame['filename']}:{frame['lineno']} in {frame['name']}" for frame in own[-FRAMES:]),
    ]


def _reason(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text.strip()[:500]
    # a parameter out of range is explained in the first paragraph; the others repeat its schema
    return detail.split("\n\n")[0] if isinstance(detail, str) else json.dumps(detail)


def _task(found: Mapping[str, Any]) -> TaskState:
    index = int(found["map_index"])
    name = found["rendered_map_index"]
    return TaskState(
        task=found["task_id"],
        index=index,
        label=found["task_id"] if index < 0 else f"{found['task_id']}[{index if name is None else name}]",
        named=index < 0 or name is not None,
        state=found["state"] or "none",
        tries=int(found["try_number"]),
        started=_time(found["start_date"]),
        ended=_time(found["end_date"]),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
