"""What a DAG run is doing: a live table on a terminal, a line for each change anywhere else."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pump_ml.local.airflow_api import TaskState

STYLES = {
    "running": "bold cyan",
    "success": "green",
    "failed": "bold red",
    "upstream_failed": "red",
    "up_for_retry": "yellow",
    "awaiting_input": "bold magenta",
    "skipped": "dim",
}
ON_THE_WAY = ("none", "scheduled", "queued", "restarting")
"""States that pass by themselves: shown in the table, not worth a line."""

NAMING_S = 10.0
"""How long the line about a running mapped task waits for the task's name, which it renders once it runs."""


class Clock:
    """Says lines with the seconds since it was made."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._start = time.monotonic()

    def say(self, line: str) -> None:
        """Print ``[  41.3 s] line``."""
        stamp = f"[{time.monotonic() - self._start:6.1f} s] "
        # square brackets are text here: train[cnn1d]
        self.console.print(stamp + line, markup=False, highlight=False, soft_wrap=True)


class Progress:
    """Shows one DAG run; use it as a context manager and feed `update`.

    Args:
        clock: where lines go.
        dag: id of the DAG.
        order: its tasks, in the order to show them.
    """

    def __init__(self, clock: Clock, dag: str, order: Sequence[str]) -> None:
        self._clock, self._dag = clock, dag
        self._rank = {task: rank for rank, task in enumerate(order)}
        self._shown: dict[tuple[str, int], str] = {}
        self._seen: dict[tuple[str, int], float] = {}
        self._live = Live(console=clock.console, auto_refresh=False) if clock.console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, tasks: Sequence[TaskState]) -> None:
        """Show the task instances as they are now."""
        tasks = sorted(tasks, key=lambda task: (self._rank.get(task.task, 0), task.index))
        if self._live:
            self._live.update(_table(self._dag, tasks), refresh=True)
            return
        for task in tasks:
            key = (task.task, task.index)
            if task.state in ON_THE_WAY or self._shown.get(key) == task.state:
                continue
            since = self._seen.setdefault(key, time.monotonic())
            if task.state == "running" and not task.named and time.monotonic() - since < NAMING_S:
                continue
            self._shown[key] = task.state
            self._clock.say(f"{self._dag}  {task.label}  {task.state}")


def _table(dag: str, tasks: Sequence[TaskState]) -> Table:
    table = Table(title=dag, title_justify="left", box=None, pad_edge=False)
    table.add_column("task", min_width=24)
    table.add_column("state", min_width=14)
    table.add_column("seconds", justify="right")
    for task in tasks:
        style = STYLES.get(task.state, "dim")
        table.add_row(Text(task.label), Text(task.state.replace("none", "waiting"), style=style), _seconds(task))
    return table


def _seconds(task: TaskState) -> str:
    if task.started is None:
        return ""
    return f"{((task.ended or datetime.now(UTC)) - task.started).total_seconds():.1f}"
