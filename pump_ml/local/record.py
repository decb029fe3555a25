"""What a running stack writes down about itself: ``var/run/stack.json``."""

import json
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a text file, indented; a file that is absent or empty says so."""
    if not log.exists():
        return "  (no log was written)"
    with log.open(errors="replace") as file:
        return "".join(f"  {line.rstrip()}\n" for line in deque(file, maxlen=lines)).rstrip("\n") or "  (it is empty)"


@dataclass(frozen=True)
class Spec:
    """What a supervisor is asked to run; no secrets, since it stands in a command line.

    Args:
        home: the absolute ``var`` folder.
        components: name -> command.
        airflow: address of Airflow.
        mlflow: address of the MLflow UI, None without one.
        schedule: whether the scheduler starts DAGs by itself.
        owner: the process whose end ends the stack; None for a stack that stays up.
    """

    home: Path
    components: dict[str, list[str]]
    airflow: str
    mlflow: str | None
    schedule: bool
    owner: int | None

    def log(self, component: str) -> Path:
        """The log file of a component."""
        return self.home / "logs" / f"{component}.log"

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The spec behind `to_json`."""
        return cls(**_with_path(json.loads(text)))


@dataclass(frozen=True)
class Record:
    """A stack that was started.

    Args:
        home: the absolute ``var`` folder.
        supervisor: process id of the supervisor.
        pids: component -> process id.
        airflow: address of Airflow.
        mlflow: address of the MLflow UI, None without one.
        schedule: whether the scheduler starts DAGs by itself.
        owner: the process whose end ends the stack; None for a stack that stays up.
        started: seconds since 1970.
        failure: why the stack stopped by itself; None while it runs.
    """

    home: Path
    supervisor: int
    pids: dict[str, int]
    airflow: str
    mlflow: str | None
    schedule: bool
    owner: int | None
    started: float
    failure: str | None = None

    @classmethod
    def of(cls, spec: Spec, *, supervisor: int, pids: dict[str, int]) -> Self:
        """The record of a stack that starts now."""
        return cls(
            home=spec.home,
            supervisor=supervisor,
            pids=pids,
            airflow=spec.airflow,
            mlflow=spec.mlflow,
            schedule=spec.schedule,
            owner=spec.owner,
            started=time.time(),
        )

    @classmethod
    def read(cls, home: Path) -> Self | None:
        """The record in `home`; None without one, or when it is no record."""
        try:
            return cls(**_with_path(json.loads(_path(home).read_text())))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self) -> None:
        """Replace the record in one step: a reader sees the old one or the new one."""
        path = _path(self.home)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self), default=str, indent=2))
        draft.replace(path)

    def failed(self, why: str) -> Self:
        """This record with a reason why the stack stopped."""
        return replace(self, failure=why)


def forget(home: Path) -> None:
    """Remove the record in `home`, if there is one."""
    _path(home).unlink(missing_ok=True)


def _path(home: Path) -> Path:
    return home / "run" / "stack.json"


def _with_path(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "home": Path(fields["home"])}
