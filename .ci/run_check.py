"""What must hold after `make run` was called so many times on one var folder: `run_check.py VAR TIMES`."""

import sys
from collections import Counter
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.pyfunc import load_model

var, times = Path(sys.argv[1]), int(sys.argv[2])
tracking = f"sqlite:///{var / 'mlflow.db'}"
mlflow.set_tracking_uri(tracking)
client = MlflowClient(tracking)
experiment = client.get_experiment_by_name("diagnosis")
runs = client.search_runs([experiment.experiment_id])
families = ("baseline", "cnn1d", "gru", "xgb")

versions = client.search_model_versions("name='pump-diagnosis'")
assert Counter(v.tags["family"] for v in versions) == dict.fromkeys(families, times), versions
assert {run.info.status for run in runs} == {"FINISHED"}, [run.info.status for run in runs]
assert set(client.get_registered_model("pump-diagnosis").aliases) == {"champion"}

targets = {"severity_accuracy": 0.95, "mode_accuracy": 0.99, "rul_pct_mae": -2.0, "health_pct_mae": -2.0}
for run in runs:
    if run.data.tags.get("family") == "cnn1d":
        for name, bound in targets.items():
            value = run.data.metrics[f"test/{name}"]
            assert value >= bound if bound > 0 else value <= -bound, f"cnn1d {name} = {value}"

# The champion, asked for the raw readings of the test pumps, gives what its evaluation logged.
champion = client.get_model_version_by_alias("pump-diagnosis", "champion")
logged = client.get_run(champion.run_id).data.metrics
snapshot = var / "data" / "snapshots" / champion.tags["snapshot"] / "readings.parquet"
split = client.download_artifacts(champion.run_id, "split.json")
test = pd.read_json(split, typ="series")["test"]
readings = pd.read_parquet(snapshot)
readings = readings[readings["asset_id"].isin(test)]
answers = load_model("models:/pump-diagnosis@champion").predict(readings)
truth = readings.groupby("run_id")[["rul_pct", "health_pct"]].last().loc[answers["run_id"]]
for name in ("rul_pct", "health_pct"):
    mae = (answers[name].to_numpy() - truth[name].to_numpy()).__abs__().mean()
    assert abs(mae - logged[f"test/{name}_mae"]) < 1e-6, (name, mae, logged)
sys.stdout.write(
    f"{len(versions)} versions, champion {champion.version} ({champion.tags['family']}), nothing left open\n"
)
