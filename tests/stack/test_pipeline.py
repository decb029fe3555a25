"""Sensor rows to a champion on the full stack, by REST; what came of it is looked for in each store on its own."""

import io
import json
import warnings
from dataclasses import dataclass
from typing import Any

import mlflow
import pandas as pd
import pytest
import yaml
from harness import SMALL, Stack

MODEL = "pump-diagnosis"
KEYS = ["asset_id", "run_id", "time"]


@dataclass(frozen=True)
class Found:
    """A training run that ended, and the champion of the stack after it."""

    run: str
    snapshot: str
    champion: Any
    champion_run: Any

    @property
    def key(self) -> str:
        return f"training/{self.run}"


def content(stack: Stack, client: str, bucket: str, key: str) -> bytes:
    return bytes(stack.s3(client).get_object(Bucket=bucket, Key=key)["Body"].read())


def names_below(stack: Stack, address: str) -> set[str]:
    """Names of the objects below an ``mlflow-artifacts:/…`` address, as the bucket has them."""
    prefix = address.removeprefix("mlflow-artifacts:/") + "/"
    pages = stack.s3("MLFLOW").get_paginator("list_objects_v2").paginate(Bucket="mlflow", Prefix=prefix)
    return {found["Key"].removeprefix(prefix) for page in pages for found in page.get("Contents", [])}


@pytest.fixture(scope="module")
def found(stack: Stack, snapshot: str, trained: str) -> Found:
    client = stack.mlflow("viewer")
    champion = client.get_model_version_by_alias(MODEL, "champion")
    return Found(trained, snapshot, champion, client.get_run(champion.run_id))


def test_every_task_of_the_training_succeeds(stack: Stack, found: Found) -> None:
    tasks = ("plan", "baseline", "gate", "train[xgb]", "evaluate", "promote", "report", "close")
    assert stack.tasks("training", found.run) == dict.fromkeys(tasks, "success")


def test_each_family_has_one_finished_run_and_one_version(stack: Stack, found: Found) -> None:
    client = stack.mlflow("viewer")
    runs = client.search_runs([found.champion_run.info.experiment_id], f"tags.run_id = '{found.run}'")
    assert sorted(run.data.tags.get("family", "parent") for run in runs) == ["baseline", "parent", "xgb"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    versions = client.search_model_versions(f"name='{MODEL}'")
    ours = [version.tags["family"] for version in versions if version.tags["run_key"] == found.key]
    assert sorted(ours) == ["baseline", "xgb"]
    assert client.get_registered_model(MODEL).aliases == {"champion": found.champion.version}


def test_the_runs_and_their_metrics_are_rows_in_postgresql(stack: Stack, found: Found) -> None:
    run = found.champion_run.info.run_id
    assert stack.sql("mlflow", f"SELECT status FROM runs WHERE run_uuid = '{run}'") == ["FINISHED"]  # noqa: S608
    rows = stack.sql("mlflow", f"SELECT key, value FROM latest_metrics WHERE run_uuid = '{run}' AND key LIKE 'test/%'")  # noqa: S608
    assert {name: float(value) for name, value in (row.split("|") for row in rows)} == pytest.approx(
        {name: value for name, value in found.champion_run.data.metrics.items() if name.startswith("test/")}
    )


def test_the_ledger_has_the_decision(stack: Stack, found: Found) -> None:
    query = "SELECT promoted, champion_after, snapshot, decision->>'reason' FROM promotions WHERE run_key = '{}'"
    (row,) = stack.sql("ledger", query.format(found.key))
    promoted, after, snapshot, reason = row.split("|")
    assert (after, snapshot) == (found.champion.version, found.snapshot)
    assert promoted == ("t" if found.champion.tags["run_key"] == found.key else "f")
    assert reason


def test_the_champions_files_lie_in_the_bucket(stack: Stack, found: Found) -> None:
    address = stack.mlflow("viewer").get_model_version_download_uri(MODEL, found.champion.version)
    names = names_below(stack, address)
    assert {"MLmodel", "requirements.txt", "python_env.yaml", "input_example.json"} <= names
    (predictor,) = (name for name in names if name.endswith("/predictor.json"))
    assert len({name for name in names if name.startswith(predictor.removesuffix("predictor.json"))}) > 1
    prefix = address.removeprefix("mlflow-artifacts:/")
    model = yaml.safe_load(content(stack, "MLFLOW", "mlflow", f"{prefix}/MLmodel"))
    assert model["run_id"] == found.champion.run_id
    assert model["metadata"] == {"family": found.champion.tags["family"], "problem": "diagnosis"}


def test_a_runs_scorecard_and_plots_lie_in_the_bucket(stack: Stack, found: Found) -> None:
    names = names_below(stack, found.champion_run.info.artifact_uri)
    assert {"scorecard.json", "split.json", "plots/confusion_mode.png", "plots/predicted_rul_pct.png"} <= names


def test_the_snapshot_lies_in_the_bucket_with_its_manifest(stack: Stack, found: Found) -> None:
    folder = f"snapshots/{found.snapshot}"
    manifest = json.loads(content(stack, "PUMP_ML", "pump-data", f"{folder}/manifest.json"))
    readings = pd.read_parquet(io.BytesIO(content(stack, "PUMP_ML", "pump-data", f"{folder}/readings.parquet")))
    assert len(readings) == manifest["rows"] > 0
    assert readings["asset_id"].nunique() == manifest["assets"] == SMALL["pumps"]
    runs = stack.mlflow("viewer").search_runs(
        [found.champion_run.info.experiment_id], f"tags.run_id = '{found.run}' and tags.family = 'xgb'"
    )
    assert runs[0].data.tags["dataset_hash"] == manifest["content_sha256"]


def test_the_champion_loaded_from_outside_answers_as_its_scorecard_says(
    stack: Stack, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.mlflow("viewer")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.address("mlflow"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's hints about type hints
        model = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion")
    folder = f"snapshots/{found.champion.tags['snapshot']}"
    readings = pd.read_parquet(io.BytesIO(content(stack, "PUMP_ML", "pump-data", f"{folder}/readings.parquet")))
    split = found.champion_run.info.artifact_uri.removeprefix("mlflow-artifacts:/") + "/split.json"
    held_out = json.loads(content(stack, "MLFLOW", "mlflow", split))["test"]
    readings = readings[readings["asset_id"].isin(held_out)]
    answers = model.predict(readings)
    truth = readings[~readings["commissioning"]].groupby(["asset_id", "run_id"]).tail(1)
    both = truth.merge(answers, on=KEYS, suffixes=("", "_answer"), validate="1:1")
    assert len(both) == len(truth) > 0
    measured = {
        "test/severity_accuracy": (both["severity"].astype(str) == both["severity_answer"]).mean(),
        "test/mode_accuracy": (both["mode"].astype(str) == both["mode_answer"]).mean(),
        "test/rul_pct_mae": (both["rul_pct"] - both["rul_pct_answer"]).abs().mean(),
        "test/health_pct_mae": (both["health_pct"] - both["health_pct_answer"]).abs().mean(),
    }
    logged = found.champion_run.data.metrics
    assert measured == pytest.approx({name: logged[name] for name in measured}, rel=1e-3)
