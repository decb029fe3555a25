"""The project's own DAGs on real Airflow components: parallel families, a killed task, dataset to training."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from pump_ml import registry
from pump_ml.local import stack
from pump_ml.local.airflow_api import AirflowApi
from pump_ml.local.stack import StackConfig
from pump_ml.settings import CHECKOUT, Settings

pytestmark = pytest.mark.stack
RUN = "killed_in_the_middle"


@dataclass(frozen=True)
class Stack:
    api: AirflowApi
    client: Any
    settings: Settings

    def instances(self, dag: str, run: str) -> list[dict[str, Any]]:
        found = self.api.ask("GET", f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances")
        return list(found["task_instances"])

    def family_runs(self) -> dict[str, list[Any]]:
        """MLflow runs of the training run, by family."""
        experiment = self.client.get_experiment_by_name("diagnosis")
        found = self.client.search_runs([experiment.experiment_id], f"tags.run_id = '{RUN}'") if experiment else []
        runs: dict[str, list[Any]] = {}
        for run in found:
            runs.setdefault(run.data.tags.get("family", "parent"), []).append(run)
        return runs


def wait(what: str, holds: Callable[[], Any], seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := holds():
            return result
        time.sleep(0.3)
    raise AssertionError(f"{what} did not happen within {seconds} s")


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack") / "var"
    config = StackConfig(home=home, dags=CHECKOUT / "dags", plugins=CHECKOUT / "plugins")
    settings = Settings(var=home)
    record = stack.start(config, schedule=True, mlflow=False, owned=True, say=lambda _: None)
    try:
        with stack.api(config, record) as api:
            for dag in ("dataset", "training", "upkeep"):
                wait(f"parsing {dag}", lambda dag=dag: api.dag(dag) and not api.import_errors())
                api.set_paused(dag, paused=False)
            yield Stack(api, registry.connect(settings), settings)
    finally:
        stack.stop(config)


@pytest.fixture(scope="module")
def finished(airflow: Stack) -> dict[str, Any]:
    """A training run whose cnn1d task was killed by SIGKILL while it learnt."""
    api = airflow.api
    api.trigger("dataset", "small", {"pumps": 42, "samples": 4, "publish": False})
    wait("the dataset", lambda: api.state("dataset", "small") == "success")
    key = api.xcom("dataset", "small", "snapshot")["snapshot"]
    api.trigger("training", RUN, {"snapshot": key, "preset": "standard"})

    def learning() -> dict[str, Any] | None:
        runs = airflow.family_runs().get("cnn1d", [])
        if not runs or "windows_train" not in runs[0].data.params:
            return None
        tasks = airflow.instances("training", RUN)
        return next((t for t in tasks if t["rendered_map_index"] == "cnn1d" and t["state"] == "running"), None)

    victim = wait("cnn1d learning", learning)
    os.kill(victim["pid"], signal.SIGKILL)
    wait("the retry", lambda: api.state("training", RUN) in ("success", "failed"))
    return {"state": api.state("training", RUN), "tasks": airflow.instances("training", RUN)}


def test_a_training_run_ends_well_though_a_task_was_killed_while_it_learnt(finished: dict[str, Any]) -> None:
    assert finished["state"] == "success"
    tries = {task["rendered_map_index"]: task["try_number"] for task in finished["tasks"] if task["task_id"] == "train"}
    assert tries == {"cnn1d": 2, "gru": 1, "xgb": 1}


def test_the_shards_of_the_fleet_were_made_by_tasks_of_their_own(airflow: Stack, finished: dict[str, Any]) -> None:
    assert finished
    made = [task for task in airflow.instances("dataset", "small") if task["task_id"] == "make_shard"]
    assert {task["rendered_map_index"]: task["state"] for task in made} == {"1 of 2": "success", "2 of 2": "success"}


def test_the_killed_task_went_on_in_its_run_and_registered_one_version(
    airflow: Stack, finished: dict[str, Any]
) -> None:
    assert finished
    runs = airflow.family_runs()
    assert {family: len(found) for family, found in runs.items()} == dict.fromkeys(
        ("parent", "baseline", "cnn1d", "gru", "xgb"), 1
    )
    assert {run.info.status for found in runs.values() for run in found} == {"FINISHED"}
    versions = airflow.client.search_model_versions("name='pump-diagnosis'")
    assert sorted(version.tags["family"] for version in versions) == ["baseline", "cnn1d", "gru", "xgb"]


def test_the_families_learn_at_the_same_time_behind_the_baseline(finished: dict[str, Any]) -> None:
    spans = {
        task["rendered_map_index"] or task["task_id"]: tuple(
            datetime.fromisoformat(task[side]) for side in ("start_date", "end_date")
        )
        for task in finished["tasks"]
    }
    assert max(spans["xgb"][0], spans["gru"][0]) < min(spans["xgb"][1], spans["gru"][1])
    assert spans["baseline"][1] <= spans["gate"][0] <= spans["gate"][1] <= min(spans["xgb"][0], spans["gru"][0])


def test_a_run_in_mlflow_names_the_task_it_came_from(airflow: Stack, finished: dict[str, Any]) -> None:
    assert finished
    tags = airflow.family_runs()["gru"][0].data.tags
    expected = {"dag_id": "training", "run_id": RUN, "task_id": "train", "family": "gru", "problem": "diagnosis"}
    assert {name: tags[name] for name in expected} == expected
    assert tags["map_index"] in {"0", "1", "2"}
    assert len(tags["dataset_hash"]) == 64


def test_a_published_dataset_starts_training_on_its_own_snapshot(airflow: Stack, finished: dict[str, Any]) -> None:
    assert finished
    api = airflow.api
    api.trigger("dataset", "published", {"pumps": 21, "samples": 4, "seed": 3})
    wait("the dataset", lambda: api.state("dataset", "published") == "success")
    key = api.xcom("dataset", "published", "snapshot")["snapshot"]

    def started() -> str | None:
        runs = api.ask("GET", "/api/v2/dags/training/dagRuns")["dag_runs"]
        return next((run["dag_run_id"] for run in runs if run["run_type"] == "asset_triggered"), None)

    run = wait("the training run", started)
    planned = wait("the plan", lambda: [t for t in airflow.instances("training", run) if t["task_id"] == "plan"
                                        and t["state"] == "success"])  # fmt: skip
    assert planned
    assert api.xcom("training", run, "plan")["snapshot"] == key
    api.fail("training", run)


def test_no_weekly_run_starts_before_its_first_monday(airflow: Stack, finished: dict[str, Any]) -> None:
    assert finished
    runs = airflow.api.ask("GET", "/api/v2/dags/training/dagRuns")["dag_runs"]
    assert [run["run_type"] for run in runs if run["run_type"] == "scheduled"] == []


def test_the_retry_says_that_the_try_before_was_killed(airflow: Stack, finished: dict[str, Any]) -> None:
    assert finished
    task = next(t for t in airflow.api.tasks("training", RUN) if t.label.endswith("cnn1d]"))
    assert "killed, maybe out of memory" in str(airflow.api.log("training", RUN, task))


def test_upkeep_ends_what_a_finished_dag_run_left_open_and_nothing_else(
    airflow: Stack, finished: dict[str, Any]
) -> None:
    assert finished
    experiment = airflow.client.get_experiment_by_name("diagnosis").experiment_id
    hour_ago = int((time.time() - 3600) * 1000)
    left = {
        name: airflow.client.create_run(
            experiment, start_time=hour_ago, tags={registry.KEY: f"t/{name}", "dag_id": dag, "run_id": run}
        ).info.run_id
        for name, dag, run in [("over", "training", RUN), ("going", "upkeep", "by_hand"), ("unknown", "training", "x")]
    }
    airflow.api.trigger("upkeep", "by_hand", {})
    wait("upkeep", lambda: airflow.api.state("upkeep", "by_hand") == "success")
    found = {name: airflow.client.get_run(run).info.status for name, run in left.items()}
    assert found == {"over": "KILLED", "going": "RUNNING", "unknown": "RUNNING"}
    assert {run.info.status for runs in airflow.family_runs().values() for run in runs} == {"FINISHED", "KILLED"}
