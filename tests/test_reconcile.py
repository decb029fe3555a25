"""MLflow runs that dead tasks left open are ended; what lives, may be taken up again, or has ended is left alone."""

import time
from dataclasses import dataclass
from typing import Any

import pytest
from mlflow.entities import Metric

from pump_ml import registry, steps
from pump_ml.problems import load_problem
from pump_ml.settings import Settings

MINUTE, HOUR = 60.0, 3600.0


@dataclass(frozen=True)
class Store:
    client: Any
    experiment: str

    def run(self, key: str, *, age_s: float, parent: str | None = None, dag: str | None = None) -> str:
        """A run as a task leaves it that was killed `age_s` after it had begun, and logged nothing."""
        tags = {registry.KEY: key} | ({registry.PARENT: parent} if parent else {})
        tags |= {"dag_id": "training", "run_id": dag} if dag else {}
        begun = time.time() - age_s
        made = self.client.create_run(self.experiment, start_time=int(begun * 1000), tags=tags)
        return str(made.info.run_id)

    def status(self, run: str) -> str:
        return str(self.client.get_run(run).info.status)

    def live(self, run: str, *, age_s: float) -> None:
        """Log a system metric of that age."""
        moment = int((time.time() - age_s) * 1000)
        self.client.log_batch(run, metrics=[Metric("system/cpu_utilization_percentage", 50.0, moment, 0)])


@pytest.fixture
def store() -> Store:
    client = registry.connect()
    return Store(client, registry.experiment(client, load_problem("diagnosis"), Settings.load()))


STATES = {"over": True, "going": False}


def reconcile() -> dict[str, Any]:
    return steps.reconcile(lambda dag, run: STATES.get(run) if dag == "training" else None)


def test_what_a_dag_run_that_is_over_left_open_is_killed_below_and_above(store: Store) -> None:
    parent = store.run("t/1", age_s=HOUR, dag="over")
    child = store.run("t/1/xgb", age_s=HOUR, parent=parent, dag="over")
    assert reconcile() == {"killed": ["t/1/xgb", "t/1"], "open": []}
    assert (store.status(parent), store.status(child)) == ("KILLED", "KILLED")
    assert reconcile() == {"killed": [], "open": []}


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_that_has_ended_is_never_touched(status: str, store: Store) -> None:
    run = store.run("t/1", age_s=10 * HOUR, dag="over")
    store.client.set_terminated(run, status=status, end_time=1_000)
    assert reconcile() == {"killed": [], "open": []}
    assert (store.status(run), store.client.get_run(run).info.end_time) == (status, 1_000)


def test_a_run_whose_dag_run_goes_on_is_left_to_the_retry(store: Store) -> None:
    parent = store.run("t/1", age_s=30 * HOUR, dag="going")
    child = store.run("t/1/xgb", age_s=30 * HOUR, parent=parent, dag="going")
    assert reconcile() == {"killed": [], "open": ["t/1/xgb", "t/1"]}
    assert (store.status(parent), store.status(child)) == ("RUNNING", "RUNNING")


def test_an_orphan_that_still_learns_lives_and_so_does_its_parent(store: Store) -> None:
    parent = store.run("t/1", age_s=HOUR, dag="over")
    orphan = store.run("t/1/xgb", age_s=HOUR, parent=parent, dag="over")
    dead = store.run("t/1/gru", age_s=HOUR, parent=parent, dag="over")
    store.live(orphan, age_s=2.0)
    store.live(dead, age_s=20 * MINUTE)
    assert reconcile() == {"killed": ["t/1/gru"], "open": ["t/1/xgb", "t/1"]}
    assert [store.status(run) for run in (parent, orphan, dead)] == ["RUNNING", "RUNNING", "KILLED"]


@pytest.mark.parametrize("dag", [None, "of another Airflow"], ids=["from a shell", "unknown DAG run"])
def test_a_run_that_nobody_vouches_for_is_ended_after_hours_of_silence(dag: str | None, store: Store) -> None:
    old, young = store.run("t/old", age_s=7 * HOUR, dag=dag), store.run("t/young", age_s=5 * HOUR, dag=dag)
    waits = store.run("t/waits", age_s=40 * HOUR, dag=dag)
    store.live(waits, age_s=5 * HOUR)
    content = reconcile()
    assert content["killed"] == ["t/old"]
    assert set(content["open"]) == {"t/young", "t/waits"}
    assert [store.status(run) for run in (old, young, waits)] == ["KILLED", "RUNNING", "RUNNING"]


def test_a_run_that_a_try_has_just_taken_up_again_lives_though_it_has_logged_nothing_yet(store: Store) -> None:
    parent = store.run("t/1", age_s=40 * HOUR)
    store.client.set_terminated(store.run("t/1/xgb", age_s=40 * HOUR, parent=parent), end_time=1_000, status="FAILED")
    assert registry.open_parent(store.client, store.experiment, "t/1", "one", {}) == parent
    with registry.child_run(store.client, store.experiment, parent, "t/1/xgb", "xgb", {}) as run:
        content = reconcile()
        assert content == {"killed": [], "open": ["t/1/xgb", "t/1"]}
    assert store.status(run) == "FINISHED"


def test_a_run_that_shows_a_sign_of_life_while_it_is_looked_at_is_spared(store: Store) -> None:
    run = store.run("t/1", age_s=HOUR, dag="over")
    (seen,) = registry.open_runs(store.client)
    store.live(run, age_s=0.0)
    assert not registry.kill(store.client, seen)
    assert store.status(run) == "RUNNING"


def test_a_run_that_was_killed_by_mistake_ends_as_it_should(store: Store) -> None:
    parent = store.run("t/1", age_s=HOUR, dag="over")
    with registry.child_run(store.client, store.experiment, parent, "t/1/xgb", "xgb", {}) as run:
        store.client.set_terminated(run, status="KILLED")
    assert store.status(run) == "FINISHED"


def test_runs_of_somebody_else_are_not_ours_to_end(store: Store) -> None:
    run = store.client.create_run(store.experiment, start_time=1_000).info.run_id
    assert reconcile() == {"killed": [], "open": []}
    assert store.status(run) == "RUNNING"


def test_nothing_is_killed_while_airflow_cannot_be_asked(store: Store) -> None:
    run = store.run("t/1", age_s=10 * HOUR, dag="over")

    def away(_dag: str, _run: str) -> bool:
        raise ConnectionError("no API server")

    with pytest.raises(ConnectionError):
        steps.reconcile(away)
    assert store.status(run) == "RUNNING"


def test_more_runs_than_a_page_holds_are_all_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pump_ml.registry.client.PAGE", 2)
    parent = store.run("t/1", age_s=HOUR, dag="over")
    for number in range(4):
        store.run(f"t/1/{number}", age_s=HOUR, parent=parent, dag="over")
    assert len(reconcile()["killed"]) == 5
