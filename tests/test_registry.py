"""What a training run leaves in MLflow, and that the registered model answers raw readings anywhere."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import WITHIN_REACH, Trained

from pump_ml import registry, snapshots
from pump_ml.errors import ConfigurationError
from pump_ml.evaluation import judge
from pump_ml.problems import load_problem
from pump_ml.settings import Settings
from pump_ml.work import Work

pytestmark = pytest.mark.usefixtures("crowned")
MODEL = "pump-diagnosis"


def readings_of(trained: Trained, assets: int | None = None) -> pd.DataFrame:
    """Raw readings of test assets."""
    work = Work(trained.plan)
    rows = work.rows("test")
    return rows[rows["asset_id"].isin(work.split.test[:assets])]


def test_the_experiment_opens_in_the_view_for_training_models(trained: Trained) -> None:
    found = registry.connect().get_experiment(trained.plan["experiment"])
    assert found.name == "diagnosis"
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    assert found.artifact_location == (trained.home / "mlartifacts").as_uri() + "/diagnosis"


def test_connecting_leaves_the_settings_as_they_were(home: Path) -> None:
    before = Settings.load()
    client = registry.connect(before)
    assert Settings.load() == before
    made = registry.experiment(client, load_problem("rul"), Settings.load())
    assert client.get_experiment(made).artifact_location == (home / "mlartifacts").as_uri() + "/rul"


def test_each_family_is_a_run_below_the_training_run(trained: Trained) -> None:
    client = registry.connect()
    parent = client.get_run(trained.plan["parent"])
    assert parent.data.tags[registry.KEY] == "test/first"
    assert registry.PARENT not in parent.data.tags
    children = client.search_runs(
        [trained.plan["experiment"]], filter_string=f"tags.`{registry.PARENT}` = '{parent.info.run_id}'"
    )
    assert {run.data.tags["family"]: run.info.run_id for run in children} == {
        candidate["family"]: candidate["run"] for candidate in trained.candidates
    }
    for run in (parent, *children):
        assert run.info.status == "FINISHED"
        assert run.data.tags["snapshot"] == trained.stored["snapshot"]
        assert run.data.tags["dataset_hash"] == Work(trained.plan).snapshot.content_hash
        assert {"problem", "git_sha", "seed", "preset"} <= set(run.data.tags)


def test_families_log_the_same_metrics_so_that_their_runs_stand_side_by_side(trained: Trained) -> None:
    client = registry.connect()
    keys = []
    for card in trained.evaluation["scorecards"]:
        logged = client.get_run(card["run"]).data.metrics
        keys.append({name for name in logged if name.startswith(("validation/", "test/"))} - _losses(logged))
        assert logged["train/seconds"] == card["seconds"]
        for part in ("validation", "test"):
            found = {name: logged[f"{part}/{name}_{metric}"] for name, metric in _metrics().items()}
            assert found == card[part]
    measured = {f"{name}_{metric}" for name, metric in _metrics().items()}
    certainty = {f"{name}_{of}" for name in ("rul_pct", "health_pct") for of in ("coverage", "width")}
    certainty |= {f"{name}_{of}" for name in ("severity", "mode") for of in ("ece", "ece_before")}
    assert keys[0] == keys[1] == {f"{p}/{name}" for p in ("validation", "test") for name in measured | certainty}


def _metrics() -> dict[str, str]:
    return {target.name: target.metric for target in load_problem("diagnosis").targets}


def _losses(logged: dict[str, float]) -> set[str]:
    return {name for name in logged if name.endswith("_loss")}


def test_a_run_names_the_snapshot_that_it_learnt_from_was_tuned_on_and_was_judged_by(trained: Trained) -> None:
    content_hash = Work(trained.plan).snapshot.content_hash
    for candidate in trained.candidates:
        inputs = registry.connect().get_run(candidate["run"]).inputs.dataset_inputs
        read = {(each.dataset.name, tag.value) for each in inputs for tag in each.tags}
        assert read == {(f"{trained.stored['snapshot']}/{part}", part) for part in ("train", "validation", "test")}
        assert {each.dataset.digest for each in inputs} == {content_hash[:36]}


def test_a_run_keeps_its_scorecard_its_split_and_its_pictures(trained: Trained) -> None:
    client = registry.connect()
    for candidate in trained.candidates:
        assert {"scorecard.json", "split.json", "plots"} <= {f.path for f in client.list_artifacts(candidate["run"])}
        plots = {Path(each.path).name for each in client.list_artifacts(candidate["run"], "plots")}
        assert plots >= {"confusion_mode.png", "predicted_rul_pct.png"}


def test_the_alias_moves_only_when_a_champion_is_promoted(trained: Trained) -> None:
    assert trained.aliases_before == []
    champion = trained.decision["challenger"]
    aliases = registry.connect().get_registered_model(MODEL).aliases
    assert {name: str(version) for name, version in aliases.items()} == {"champion": champion}
    assert trained.decision["champion"]["version"] == champion


def test_a_version_tells_its_family_its_training_run_and_its_snapshot(trained: Trained) -> None:
    for candidate in trained.candidates:
        tags = registry.connect().get_model_version(MODEL, candidate["version"]).tags
        assert (tags["family"], tags["run_key"]) == (candidate["family"], "test/first")
        assert tags["snapshot"] == trained.stored["snapshot"]


def test_a_runs_model_is_registered_once(trained: Trained) -> None:
    client, run = registry.connect(), trained.candidates[0]["run"]
    address = f"runs:/{run}/{registry.MODEL}"
    version, tags = registry.register(client, MODEL, address, run, {registry.CANDIDATE: "{}"})
    assert (version, json.loads(tags[registry.CANDIDATE])["run"]) == (trained.candidates[0]["version"], run)
    assert len(client.search_model_versions(f"name='{MODEL}'")) == 2


@pytest.mark.parametrize("which", ["7", "@rival"])
def test_a_model_that_is_not_there_is_named(which: str) -> None:
    registry.connect()
    with pytest.raises(ConfigurationError, match=f"{which} cannot be loaded"):
        registry.load_model(MODEL, which)


ANSWER = """
import sys
from importlib.util import find_spec
if sys.argv[1] == "alone":
    sys.path = [entry for entry in sys.path if find_spec("pump_ml").submodule_search_locations[0] != entry + "/pump_ml"]
import mlflow, pandas
for version in sys.argv[4:]:
    model = mlflow.pyfunc.load_model(f"models:/pump-diagnosis/{version}")
    model.predict(pandas.read_parquet(sys.argv[2])).to_parquet(f"{sys.argv[3]}/{version}.parquet")
mods = [name for name in sys.modules if name.split(".")[0] in ("airflow", "tensorflow", "great_expectations")]
import pump_ml.models
print(mods, "/artifacts/" in pump_ml.models.__file__, bool(find_spec("pump_ml.snapshots")))
"""


@pytest.mark.parametrize("package", ["alone", "installed"])
def test_a_registered_model_answers_raw_readings_in_a_fresh_process_as_evaluation_logged(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Settings.load().tracking)
    raw = tmp_path / "raw.parquet"
    readings = readings_of(trained)
    readings.drop(columns=["severity", "mode", "rul_pct", "health_pct"]).to_parquet(raw)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    versions = [candidate["version"] for candidate in trained.candidates]
    done = subprocess.run(  # noqa: S603 - this interpreter, fixed words
        [sys.executable, "-c", ANSWER, package, str(raw), str(tmp_path), *versions],
        cwd=elsewhere, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # nothing heavy, the code that travels with the model, and the rest of the package where it is installed
    assert done.stdout.split() == ["[]", "True", str(package == "installed")]
    truth = Work(trained.plan).truth()
    for card in trained.evaluation["scorecards"]:
        answers = pd.read_parquet(tmp_path / f"{card['version']}.parquet")
        found = judge(card["family"], answers, truth, load_problem("diagnosis"))
        assert found.headline(load_problem("diagnosis")) == card["test"]


def test_times_with_a_zone_without_one_and_whole_cycles_are_all_accepted(trained: Trained) -> None:
    registry.connect()
    model = registry.load_model(MODEL, "@champion")
    readings = readings_of(trained, assets=2)[list(registry.predictor_of(model).columns)]
    zoned = readings["time"]
    given = {
        "with a zone": zoned,
        "in another zone": zoned.dt.tz_convert("America/Sao_Paulo"),
        "without a zone": zoned.dt.tz_localize(None),
        "cycles": (zoned - zoned.min()).dt.total_seconds().astype("int64"),
    }
    answers = {name: model.predict(readings.assign(time=time)) for name, time in given.items()}
    for name, found in answers.items():
        assert found["time"].dtype == given[name].dtype
        pd.testing.assert_frame_equal(found.drop(columns="time"), answers["with a zone"].drop(columns="time"))


def test_the_input_example_of_a_model_is_what_it_takes(trained: Trained) -> None:
    registry.connect()
    model = registry.load_model(MODEL, trained.candidates[0]["version"])
    assert len(model.predict(model.input_example)) == 1
    assert {column.name for column in model.metadata.signature.inputs} == set(registry.predictor_of(model).columns)
    answers = model.predict(model.input_example)
    assert [column.name for column in model.metadata.signature.outputs] == list(answers)


def test_points_beyond_a_thousand_are_logged_in_parts() -> None:
    client = registry.connect()
    run = client.create_run("0").info.run_id
    registry.log_points(client, run, [("loss", 1.0 / step, step) for step in range(1, 2502)])
    history = client.get_metric_history(run, "loss")
    assert len(history) == 2501
    assert np.isclose(history[-1].value, 1 / 2501)


def test_open_runs_are_killed_and_their_parent_is_ended_once(trained: Trained) -> None:
    client = registry.connect()
    experiment = trained.plan["experiment"]
    parent = registry.open_parent(client, experiment, "t/9", "nine", {})
    assert registry.open_parent(client, experiment, "t/9", "nine", {}) == parent
    with registry.child_run(client, experiment, parent, "t/9/xgb", "xgb", {}) as done:
        pass
    orphan = client.create_run(experiment, tags={registry.PARENT: parent}).info.run_id
    assert registry.close(client, parent, "FAILED") == 1
    assert registry.close(client, parent, "KILLED") == 0
    assert {run: client.get_run(run).info.status for run in (parent, done, orphan)} == {
        parent: "FAILED", done: "FINISHED", orphan: "KILLED",
    }  # fmt: skip


def test_a_family_that_fails_leaves_a_failed_run_that_a_retry_takes_up(trained: Trained) -> None:
    client, experiment = registry.connect(), trained.plan["experiment"]
    parent = registry.open_parent(client, experiment, "t/8", "eight", {})

    def attempt(*, fail: bool) -> str:
        with registry.child_run(client, experiment, parent, "t/8/xgb", "xgb", {}) as run:
            if fail:
                raise OSError(run)
            return run

    with pytest.raises(OSError, match=r"^[0-9a-f]{32}$") as failed:
        attempt(fail=True)
    assert client.get_run(str(failed.value)).info.status == "FAILED"
    assert attempt(fail=False) == str(failed.value)
    assert client.get_run(str(failed.value)).info.status == "FINISHED"


def test_thresholds_of_the_deployment_were_used(trained: Trained) -> None:
    shown = trained.report["scorecards"][0]["targets"]
    assert {target["name"]: target["threshold"] for target in shown} == WITHIN_REACH
    assert (
        snapshots.load(Settings.load().data, "snapshots", trained.stored["snapshot"]).manifest["rows"]
        == (trained.stored["rows"])
    )
