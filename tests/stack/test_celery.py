"""The profile celery: more workers are faster, and one that dies in the middle of its work loses nothing."""

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from harness import Stack, crash, eventually, show

# So long that learning outweighs what a task costs besides, and about as long for both: two workers are no faster
# than the slower network.
LONG = {"gru": {"epochs": 80, "patience": 80}, "cnn1d": {"epochs": 200, "patience": 200}}
CONF = {"families": ["baseline", "gru", "cnn1d"], "preset": "quick", "hyper": LONG}


@pytest.fixture(scope="module")
def celery(stack: Stack) -> Iterator[Stack]:
    """The stack with two workers, each of which fits one family at a time."""
    variables = {"AIRFLOW_EXECUTOR": "CeleryExecutor", "COMPOSE_PROFILES": "celery", "WORKER_CONCURRENCY": "1"}
    celery = replace(stack, variables=stack.variables | variables)
    celery.up("PROFILE=celery", "WORKERS=2")
    yield celery
    celery.compose("rm", "--stop", "--force", "airflow-worker", "redis")


def instances(celery: Stack, name: str) -> list[dict[str, Any]]:
    with celery.airflow() as api:
        found = api.ask("GET", f"/api/v2/dags/training/dagRuns/{name}/taskInstances", query={"limit": 100})
    assert found
    return [one for one in found["task_instances"] if one["task_id"] == "train"]


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(celery: Stack, snapshot: str) -> None:
    name = f"worker-killed__{time.time():.0f}"
    with celery.airflow() as api:
        api.trigger("training", name, {"snapshot": snapshot, **CONF})
    assert eventually(lambda: celery.learns(name, "gru"), 180), celery.tasks("training", name)
    (victim,) = (one for one in instances(celery, name) if one["rendered_map_index"] == "gru")
    begun = time.monotonic()
    ids = celery.compose("ps", "--quiet", "airflow-worker").stdout.split()
    names = {
        subprocess.run(
            ["docker", "inspect", "--format", "{{.Config.Hostname}}", one], capture_output=True, text=True, check=True
        ).stdout.strip(): one
        for one in ids
    }
    crash(celery, "airflow-worker", names[victim["hostname"]])
    state = celery.follow("training", name, 600)
    show([{"fault": "kill -9 of a Celery worker", "run": state, "run ended (s)": round(time.monotonic() - begun)}])
    assert state == "success", celery.tasks("training", name)
    tries = {one["rendered_map_index"]: one["try_number"] for one in instances(celery, name)}
    assert tries["gru"] == 2, tries
    client = celery.mlflow()
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], f"tags.run_id = '{name}'")
    versions = Counter(
        version.tags["family"]
        for run in runs
        for version in client.search_model_versions(f"run_id = '{run.info.run_id}'")
        if "pump_ml.superseded_by" not in version.tags
    )
    assert versions == dict.fromkeys(CONF["families"], 1)
    assert {run.info.status for run in runs} == {"FINISHED"}


def train(celery: Stack, snapshot: str, name: str) -> float:
    """Seconds from the first network's start to the last one's end, by Airflow's record."""
    with celery.airflow() as api:
        api.trigger("training", name, {"snapshot": snapshot, **CONF})

        def learnt() -> bool:
            tasks = [task for task in api.tasks("training", name) if task.task == "train"]
            return len(tasks) == 2 and {task.state for task in tasks} == {"success"}

        assert eventually(learnt, 300), celery.tasks("training", name)
        times = [task for task in api.tasks("training", name) if task.task == "train"]
        api.fail("training", name)  # what comes now is not measured
    starts, ends = [t.started for t in times if t.started], [t.ended for t in times if t.ended]
    return (max(ends) - min(starts)).total_seconds()


def test_two_workers_train_two_networks_at_least_one_and_a_half_times_as_fast_as_one(
    celery: Stack, snapshot: str
) -> None:
    # Half a core a worker: the host's two cores bound neither one nor two of them, so what is measured is the platform.
    slow = replace(celery, variables=celery.variables | {"WORKER_CPUS": "0.5"})
    seconds = {}
    for workers in (2, 1):
        options = ("--detach", "--wait", "--no-deps", "--scale", f"airflow-worker={workers}")
        slow.compose("up", *options, "airflow-worker")
        name = f"workers-{workers}__{time.time():.0f}"
        seconds[workers] = train(slow, snapshot, name)
        assert len({one["hostname"] for one in instances(slow, name)}) == workers
    show([{"workers": workers, "networks trained (s)": round(value)} for workers, value in seconds.items()])
    assert seconds[1] / seconds[2] >= 1.5, seconds
