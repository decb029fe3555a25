"""Runs that nobody ends any more, and how they are ended."""

from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient

from pump_ml.registry.client import FINISHED, KEY, OPENED, PARENT, RUNNING, search


def parents(client: MlflowClient, key: str) -> list[str]:
    """Ids of the runs with this key, in any experiment."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`{KEY}` = '{key}'")
    return [str(run.info.run_id) for run in runs]


def close(client: MlflowClient, parent: str, status: str) -> int:
    """End a parent run, and kill the runs below it that are still open; returns how many were.

    A parent that has ended keeps its status, unless the run turned out well after all.
    """
    run = client.get_run(parent)
    orphans = _running(client, run)
    for orphan in orphans:
        client.set_terminated(orphan.info.run_id, status="KILLED")
    if status == FINISHED or run.info.status == RUNNING:
        client.set_terminated(parent, status=status)
    return len(orphans)


def finish(client: MlflowClient, run: Any) -> None:
    """End a run well whose work is done, though the try that did it died before it said so."""
    if run.info.status != FINISHED:
        client.set_terminated(run.info.run_id, status=FINISHED)


@dataclass(frozen=True)
class OpenRun:
    """A run of ours that MLflow calls RUNNING.

    Args:
        run: its id.
        key: what it is found by.
        dag: DAG and DAG run it came from; None for one from the command line.
        seen: its last sign of life, in seconds since 1970: when a try took it up, and the newest metric, of which a
            living process logs some every two seconds. A parent lives in the runs below it.
    """

    run: str
    key: str
    dag: tuple[str, str] | None
    seen: float


def open_runs(client: MlflowClient) -> list[OpenRun]:
    """All runs of ours that are RUNNING, those below a parent before their parents."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    found = search(client, experiments, f"attributes.status = '{RUNNING}'")
    ours = [run for run in found if KEY in run.data.tags]
    return [_open_run(client, run) for run in sorted(ours, key=lambda run: PARENT not in run.data.tags)]


def kill(client: MlflowClient, left: OpenRun) -> bool:
    """End a run as KILLED, unless it ended or showed a sign of life since it was looked at; True if it was killed."""
    run = client.get_run(left.run)
    if run.info.status != RUNNING or _open_run(client, run) != left:
        return False
    client.set_terminated(left.run, status="KILLED")
    return True


def _open_run(client: MlflowClient, run: Any) -> OpenRun:
    tags = run.data.tags
    family = [run] if PARENT in tags else [run, *_below(client, run)]
    return OpenRun(
        run=str(run.info.run_id),
        key=tags[KEY],
        dag=(tags["dag_id"], tags["run_id"]) if {"dag_id", "run_id"} <= set(tags) else None,
        seen=max(sign_of_life(each) for each in family),
    )


def sign_of_life(run: Any) -> float:
    """When a run showed last that it lives, in seconds since 1970."""
    metrics = max((metric.timestamp for metric in run.data.to_proto().metrics), default=0)
    ended = run.info.end_time if run.info.status != "KILLED" else None  # by others, when it was dead
    times = (run.info.start_time or 0, ended or 0, metrics)
    return max(*(milliseconds / 1000 for milliseconds in times), float(run.data.tags.get(OPENED, 0)))


def _running(client: MlflowClient, parent: Any) -> list[Any]:
    """The open runs below a parent, and below those: trials stand under the tuning of their family."""
    found = [below for below in _below(client, parent) if below.info.status == RUNNING]
    return [run for below in found for run in (below, *_running(client, below))]


def _below(client: MlflowClient, parent: Any) -> list[Any]:
    """The runs below a parent."""
    return search(client, [parent.info.experiment_id], f"tags.`{PARENT}` = '{parent.info.run_id}'")
