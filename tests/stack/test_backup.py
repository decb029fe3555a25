"""A backup of one stack, restored on an empty one with other secrets: same champion, same runs, same answers."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from harness import ROOT, Stack

MODEL = "pump-diagnosis"
NEEDED = (
    "docker-compose.yaml", "Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE", "requirements.lock",
    "requirements-mlflow.lock", "pump_ml", "expectations", "dags", "deploy",
)  # fmt: skip


def host(folder: Path) -> Path:
    """A checkout of its own, as another machine has it; its .env is still to be made."""
    folder.mkdir()
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def tool(stack: Stack, module: str, *words: str) -> str:
    """What `make` does with a module of pump_ml.compose, in the stack's folder."""
    done = subprocess.run(
        [sys.executable, "-m", f"pump_ml.compose.{module}", "--folder", str(stack.folder), *words],
        env=stack.environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


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
    folder = host(tmp_path / "other")
    ports = {name: port + 200 for name, port in stack.ports.items()}
    other = Stack(folder, f"{stack.project}-restored", ports, stack.variables, source=folder)
    tool(other, "environment")
    yield other
    other.down(volumes=True)


@pytest.mark.usefixtures("trained")
def test_a_backup_restored_on_an_empty_stack_has_the_same_champion_and_the_same_answers(
    stack: Stack, snapshot: str, empty: Stack, tmp_path: Path
) -> None:
    here = host(tmp_path / "here")
    shutil.copy(stack.folder / ".env", here / ".env")
    running = Stack(here, stack.project, stack.ports, stack.variables, source=here)
    before = records(running)
    saved = tool(running, "backup", "create", "--into", str(tmp_path / "backups")).strip()

    tool(empty, "backup", "restore", saved)
    empty.up()
    assert records(empty) == before
    secrets, others = running.secrets, empty.secrets
    assert not set(secrets.values()) & set(others.values()), "the other host has secrets of its own"

    body = running.s3().get_object(Bucket="pump-data", Key=f"snapshots/{snapshot}/readings.parquet")["Body"].read()
    (tmp_path / "readings.parquet").write_bytes(body)
    readings = pd.read_parquet(tmp_path / "readings.parquet")
    pd.testing.assert_frame_equal(answers(running, readings), answers(empty, readings), check_exact=True)
