"""Models of single machines on the full stack: a fleet to the end, read by plain SQL and boto3, and outages on the way.

PUMP_ML_TEST_FLEET=20x30 trains that many machines of so many days as the shipped policy says, and prints their scores;
PUMP_ML_TEST_FLEET_SEED is the seed of the simulation.
"""

import hashlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness import TELEMETRY_PASSWORD, Stack, eventually, show

from pump_ml.scoreboard import machine_lines
from pump_ml.steps.common import readable

ASKED = os.environ.get("PUMP_ML_TEST_FLEET")
MACHINES, DAYS = (int(part) for part in (ASKED or "3x6").split("x"))
SEED = int(os.environ.get("PUMP_ML_TEST_FLEET_SEED", "7"))
POLICY = None if ASKED else "/etc/pump_ml/machines.yaml"
SECONDS = 7200.0 if ASKED else 450.0
OUTAGE_S = 30.0
KINDS = ("gru", "xgb")
NAMES = {
    "gru": {"gru_model_weights_{}.h5", "gru_model_scaler_{}.pkl", "gru_model_{}.keras", "gru_model_scaler_{}.json"},
    "xgb": {"xgb_model_{}.pkl", "xgb_model_{}.ubj", "xgb_model_{}.json"},
}


def told(stack: Stack, *words: str) -> str:
    """What a command of pump-ml prints in the container that runs the tasks."""
    return stack.compose("exec", "-T", "airflow-scheduler", "pump-ml", *words, timeout=SECONDS).stdout


@dataclass(frozen=True)
class Fleet:
    """Machines that have telemetry, and the outcomes of a run that trained them."""

    names: tuple[str, ...]
    run: str
    state: str
    outcomes: list[dict[str, Any]] = field(default_factory=list)

    def models(self) -> list[dict[str, Any]]:
        """The outcomes that came with a model."""
        return [each for each in self.outcomes if each["outcome"] == "trained"]


def start(stack: Stack, name: str) -> None:
    """Train all machines."""
    conf = {"days": None, "policy": POLICY, "least_share": 1.0}
    with stack.airflow() as api:
        api.set_paused("machines", paused=False)
        api.trigger("machines", name, conf)


def outcomes(stack: Stack, name: str) -> list[dict[str, Any]]:
    """What the run has written of each machine and kind so far."""
    prefix = f"machines/{readable(f'machines/{name}')}/outcomes/"
    store = stack.s3("PUMP_ML")
    pages = store.get_paginator("list_objects_v2").paginate(Bucket="pump-data", Prefix=prefix)
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    return [json.loads(store.get_object(Bucket="pump-data", Key=key)["Body"].read()) for key in sorted(keys)]


@pytest.fixture(scope="module")
def names(stack: Stack) -> tuple[str, ...]:
    """Machines whose telemetry lies in a database of its own."""
    if not stack.sql("postgres", "SELECT 1 FROM pg_roles WHERE rolname = 'telemetry'"):
        stack.sql("postgres", "CREATE ROLE telemetry LOGIN")
        stack.sql("postgres", "CREATE DATABASE telemetry OWNER telemetry")
    stack.sql("postgres", f"ALTER ROLE telemetry PASSWORD '{TELEMETRY_PASSWORD}'")
    size = ("--machines", str(MACHINES), "--days", str(DAYS), "--seed", str(SEED), "--skip-present")
    return tuple(told(stack, "machines", "simulate", *size).split())


@pytest.fixture(scope="module")
def fleet(stack: Stack, names: tuple[str, ...]) -> Fleet:
    run = f"fleet__{time.time():.0f}"
    begun = time.monotonic()
    start(stack, run)
    state = stack.follow("machines", run, SECONDS)
    found = Fleet(names, run, state, outcomes(stack, run))
    with stack.airflow() as api:
        counted = api.xcom("machines", run, "roll_up")
    show([{"fleet": line} for line in machine_lines(found.outcomes)])
    show(
        [
            {
                "machines": f"{len(names)} of {DAYS} days, seed {SEED}",
                "run": state,
                "ended (s)": round(time.monotonic() - begun),
            }
        ]
    )
    for kind in KINDS:
        show([{kind: "medians", **counted["kinds"][kind]["median"]}])
    caught, trips = (sum(each["metrics"][name] for each in found.models() if each["kind"] == "xgb")
                     for name in ("trips_caught", "trips"))  # fmt: skip
    show([{"trips in the test parts": trips, "warned of": caught}])
    return found


def rows(stack: Stack, run: str) -> dict[tuple[str, str], list[str]]:
    """Rows of the table `models` by machine and kind; each field as text."""
    columns = "machine_name, model_type, bucket_address, sha256, mlflow_run, model_version, promoted"
    query = f"SELECT {columns} FROM models WHERE run_key LIKE 'machines/{run}/%'"  # noqa: S608
    found = [line.split("|") for line in stack.sql("ledger", query)]
    assert len({(row[0], row[1]) for row in found}) == len(found), "a model was recorded twice"
    return {(row[0], row[1]): row[2:] for row in found}


def consistent(stack: Stack, found: Fleet) -> None:
    """Each model that an outcome tells of is a row, files and a version that agree, and nothing else is there."""
    recorded = rows(stack, found.run)
    models = {(each["machine"], each["kind"]): each for each in found.models()}
    assert set(recorded) == set(models)
    client = stack.mlflow()
    for (machine, kind), (address, digest, run, version, _) in recorded.items():
        bucket, key = address.removeprefix("s3://").split("/", 1)
        assert hashlib.sha256(stack.s3().get_object(Bucket=bucket, Key=key)["Body"].read()).hexdigest() == digest
        registered = client.get_model_version(f"machine-{machine}-{kind}", version)
        assert (registered.run_id, client.get_run(run).info.status) == (run, "FINISHED")
    report = json.loads(told(stack, "reconcile"))
    assert report["agree"], report
    assert (report["finished"], report["busy"]) == ([], [])


def test_every_machine_gets_a_forecast_and_an_alarm_or_the_reason_why_not(stack: Stack, fleet: Fleet) -> None:
    assert fleet.state == "success", stack.tasks("machines", fleet.run)
    assert {(each["machine"], each["kind"]) for each in fleet.outcomes} == {
        (name, kind) for name in fleet.names for kind in KINDS
    }
    assert {each["outcome"] for each in fleet.outcomes if each["kind"] == "gru"} == {"trained"}
    assert {each["outcome"] for each in fleet.outcomes if each["kind"] == "xgb"} <= {"trained", "no failures"}
    assert {each["kind"] for each in fleet.models()} == set(KINDS)


def test_rows_files_and_versions_agree(stack: Stack, fleet: Fleet) -> None:
    consistent(stack, fleet)


def test_the_bucket_holds_each_model_under_the_names_that_the_plant_expects(stack: Stack, fleet: Fleet) -> None:
    listed = stack.s3().get_paginator("list_objects_v2").paginate(Bucket="models")
    keys = {found["Key"] for page in listed for found in page.get("Contents", [])}
    for (machine, kind), (address, *_) in rows(stack, fleet.run).items():
        stamp = re.search(r"\d{4}(_\d\d){5}", address)
        assert stamp, address
        expected = {name.format(f"{machine}_{stamp[0]}") for name in NAMES[kind]}
        folder = address.removeprefix("s3://models/").rpartition("/")[0]
        assert {f"{folder}/{name}" if folder else name for name in expected} <= keys


def test_a_version_leads_if_it_was_promoted_and_only_then(stack: Stack, fleet: Fleet) -> None:
    client = stack.mlflow("viewer")
    for (machine, kind), (*_, version, promoted) in rows(stack, fleet.run).items():
        aliases = client.get_registered_model(f"machine-{machine}-{kind}").aliases
        assert (aliases.get("champion") == version) == (promoted == "t")


@pytest.mark.skipif(bool(ASKED), reason="PUMP_ML_TEST_FLEET asks for the scores of a fleet")
@pytest.mark.parametrize("service", ["s3", "postgres"])
def test_a_fleet_gets_over_a_store_that_is_away_for_half_a_minute(
    stack: Stack, names: tuple[str, ...], service: str
) -> None:
    run = f"without-{service}__{time.time():.0f}"
    start(stack, run)
    begun = eventually(lambda: any(each["outcome"] == "trained" for each in outcomes(stack, run)), 300)
    assert begun, stack.tasks("machines", run)
    with stack.airflow() as api:
        assert any(task.task == "train" and task.state == "running" for task in api.tasks("machines", run))
    with stack.without(service):
        time.sleep(OUTAGE_S)
    state = stack.follow("machines", run, SECONDS)
    with stack.airflow() as api:
        tries = {task.label: task.tries for task in api.tasks("machines", run) if task.task == "train"}
    show([{"fleet without": f"{service} for {OUTAGE_S:.0f} s", "run": state, "tries": tries}])
    assert state == "success", stack.tasks("machines", run)
    consistent(stack, Fleet(names, run, state, outcomes(stack, run)))
