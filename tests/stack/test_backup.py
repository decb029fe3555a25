"""A backup of one stack, restored on an empty one with other secrets: same champion, same runs, same answers."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from harness import Stack, host

MODEL = "pump-diagnosis"


def answers(stack: Stack, readings: pd.DataFrame) -> pd.DataFrame:
    stack.mlflow("viewer")
    mlflow.set_tracking_uri(stack.address("mlflow"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's hints about type hints
        found: pd.DataFrame = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion").predict(readings)
    return found


def records(stack: Stack) -> dict[str, Any]:
    """What must be the same on both: runs, metrics, versions, the champion, decisions, DAG runs, objects."""
    client = stack.mlflow("viewer")
    return {
        "champion": client.get_model_version_by_alias(MODEL, "champion").version,
        "runs": stack.sql("mlflow", "SELECT run_uuid, status FROM runs ORDER BY 1"),
        "metrics": stack.sql("mlflow", "SELECT run_uuid, key, value FROM latest_metrics ORDER BY 1, 2"),
        "versions": stack.sql("mlflow", "SELECT name, version, run_id FROM model_versions ORDER BY 1, 2"),
        "ledger": stack.sql("ledger", "SELECT run_key, champion_after FROM promotions ORDER BY 1"),
        "dag runs": stack.sql(
            "airflow", "SELECT dag_id, run_id, state FROM dag_run WHERE dag_id <> 'upkeep' ORDER BY 2"
        ),
        "objects": sorted(
            (bucket, found["Key"], found["Size"])  # backup and restore compare the hashes
            for bucket in ("mlflow", "pump-data", "models")
            for page in stack.s3().get_paginator("list_objects_v2").paginate(Bucket=bucket)
            for found in page.get("Contents", [])
        ),
    }


@pytest.fixture
def empty(stack: Stack, tmp_path: Path) -> Iterator[Stack]:
    """Another host, where `make init` has made other secrets, and nothing runs yet."""
    ports = {name: port + 200 for name, port in stack.ports.items()}
    other = Stack(host(tmp_path / "other"), f"{stack.project}-restored", ports, stack.variables)
    other.make("init")
    yield other
    other.down(volumes=True)


@pytest.mark.usefixtures("trained")
def test_a_backup_restored_on_an_empty_stack_has_the_same_champion_and_the_same_answers(
    stack: Stack, snapshot: str, empty: Stack, tmp_path: Path
) -> None:
    before = records(stack)
    saved = stack.make("backup", f"ARGS=--into {tmp_path / 'backups'}").strip()

    empty.make("restore", f"FROM={saved}")
    empty.up()
    assert records(empty) == before
    assert not set(stack.secrets.values()) & set(empty.secrets.values()), "the other host has secrets of its own"

    body = stack.s3().get_object(Bucket="pump-data", Key=f"snapshots/{snapshot}/readings.parquet")["Body"].read()
    (tmp_path / "readings.parquet").write_bytes(body)
    readings = pd.read_parquet(tmp_path / "readings.parquet")
    pd.testing.assert_frame_equal(answers(stack, readings), answers(empty, readings), check_exact=True)
