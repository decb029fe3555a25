"""Steps: the same seed gives the same run, a second call changes nothing, a killed one is taken up again."""

import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import FLEET, Trained, noise, train_all
from typer.testing import CliRunner

from pump_ml import catalog, models, registry, snapshots, steps
from pump_ml.cli import app
from pump_ml.errors import ConfigurationError, DataError, GateError, SnapshotError, UnknownNameError
from pump_ml.schema import Telemetry
from pump_ml.settings import Settings
from pump_ml.work import Work

MODEL = "pump-diagnosis"


def versions() -> dict[str, str]:
    """Family of each registered version."""
    found = registry.connect().search_model_versions(f"name='{MODEL}'")
    return {str(version.version): version.tags["family"] for version in found}


def ledger_rows(home: Path) -> list[Any]:
    with closing(sqlite3.connect(home / "ledger.db")) as database:
        return database.execute("select run_key, promoted, champion_after from promotions").fetchall()


def statuses(experiment: str) -> list[str]:
    return [run.info.status for run in registry.connect().search_runs([experiment])]


# One training run


def test_a_run_goes_from_the_fleet_to_a_champion(trained: Trained) -> None:
    assert trained.fetched["rows"] == trained.validated["rows"] == 33600
    assert 0 < trained.validated["quarantined"] < 0.02 * 33600  # an instrument was silent
    assert trained.stored["rows"] == 33600 - trained.validated["quarantined"]
    assert Path(trained.validated["docs"].removeprefix("file://")).is_file()
    assert trained.evaluation["rows"] == 88
    assert trained.evaluation["champion"] is None
    assert trained.decision["promoted"]
    families = {card["version"]: card["family"] for card in trained.report["scorecards"]}
    assert families[trained.decision["challenger"]] == trained.decision["champion"]["family"]
    json.dumps(trained.report, allow_nan=False)


def test_the_baseline_beats_the_naive_predictor_on_every_target(trained: Trained) -> None:
    for name in ("severity", "mode"):
        assert trained.gate["baseline"][name] > trained.gate["naive"][name] + 0.2
    for name in ("rul_pct", "health_pct"):
        assert trained.gate["baseline"][name] < trained.gate["naive"][name] - 10.0


def test_no_test_asset_was_learnt_from(trained: Trained) -> None:
    split = json.loads((trained.home / "data" / "splits" / f"{trained.plan['split']}.json").read_text())
    assert sorted(split["train"] + split["validation"] + split["test"]) == [
        f"v2-s7-p{number:04d}" for number in range(FLEET["pumps"])
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUMP_ML_VAR", str(trained.home))
        registry.connect()
        for candidate in trained.candidates:
            known = registry.predictor_of(registry.load_model(MODEL, candidate["version"])).assets
            assert not set(known) & set(split["test"])
            assert set(split["train"]) <= set(known) <= {*split["train"], *split["validation"]}


def test_the_same_seed_in_another_home_gives_the_same_run(
    trained: Trained, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMP_ML_TARGETS_FILE", str(trained.targets))
    again = train_all("test/again")
    assert again["fetched"] == trained.fetched
    assert again["stored"]["snapshot"] == trained.stored["snapshot"]
    manifests = [
        json.loads((root / "data" / "snapshots" / trained.stored["snapshot"] / "manifest.json").read_text())
        for root in (home, trained.home)
    ]
    assert manifests[0]["content_sha256"] == manifests[1]["content_sha256"]
    assert again["plan"]["split"] == trained.plan["split"]
    splits = [
        (root / "data" / "splits" / f"{again['plan']['split']}.json").read_bytes() for root in (home, trained.home)
    ]
    assert splits[0] == splits[1]
    for mine, theirs in zip(again["evaluation"]["scorecards"], trained.evaluation["scorecards"], strict=True):
        assert (mine["family"], mine["version"]) == (theirs["family"], theirs["version"])
        assert (mine["validation"], mine["test"]) == (theirs["validation"], theirs["test"])  # to the last bit
    assert again["decision"] == trained.decision


# Again


def test_each_step_again_changes_nothing(crowned: Trained, home: Path) -> None:
    def everything() -> dict[str, Any]:
        data = {
            str(path.relative_to(home)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in (home / "data").rglob("*")
            if path.is_file()
        }
        aliases = registry.connect().get_registered_model(MODEL).aliases
        return {"data": data, "versions": versions(), "aliases": aliases, "ledger": ledger_rows(home)}

    before = everything()
    assert set(statuses(crowned.plan["experiment"])) == {"FINISHED"}
    assert steps.fetch("simulated", FLEET) == crowned.fetched
    validated = steps.validate(crowned.fetched["raw"])
    assert validated | {"docs": ""} == crowned.validated | {"docs": ""}
    assert steps.snapshot(validated) | {"docs": ""} == crowned.stored | {"docs": ""}
    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/first", families=("xgb",), preset="quick")
    assert plan == crowned.plan == steps.read_plan("test/first")
    assert [steps.train(plan, family) for family in ("baseline", "xgb")] == crowned.candidates
    assert steps.read_candidates(plan) == crowned.candidates
    assert steps.gate(plan, crowned.candidates[0]) == crowned.gate
    evaluation = steps.evaluate(plan, crowned.candidates)
    assert evaluation["scorecards"] == crowned.evaluation["scorecards"]
    assert steps.promote(plan, evaluation) == crowned.decision
    assert steps.report(plan, evaluation, crowned.decision) | {"data_docs": ""} == crowned.report | {"data_docs": ""}
    assert steps.close(plan["run_key"]) == {"killed": 0}
    assert everything() == before
    assert len(before["ledger"]) == 1
    assert sorted(before["versions"]) == ["1", "2"]
    assert statuses(crowned.plan["experiment"]) == ["FINISHED"] * 3


def test_the_same_models_again_under_another_run_do_not_fell_the_champion(crowned: Trained, home: Path) -> None:
    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/second", families=("xgb",), preset="quick")
    assert plan["split"] == crowned.plan["split"]
    candidates = [steps.train(plan, family) for family in ("baseline", "xgb")]
    evaluation = steps.evaluate(plan, candidates)
    champion = crowned.decision["champion"]["version"]
    assert evaluation["champion"]["version"] == champion
    assert evaluation["champion"]["contest"] in [card["test"] for card in evaluation["scorecards"]]
    decision = steps.promote(plan, evaluation)
    assert not decision["promoted"]
    assert f"version {champion}" in decision["reason"]
    assert decision["champion"]["version"] == champion
    assert [row[1:] for row in ledger_rows(home)] == [(1, champion), (0, champion)]


def test_a_champion_is_compared_on_the_assets_it_has_not_learnt_from(crowned: Trained) -> None:
    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/other", families=(), preset="quick", seed=8)
    assert plan["split"] != crowned.plan["split"]
    candidate = steps.train(plan, "baseline")
    evaluation = steps.evaluate(plan, [candidate])
    known = registry.predictor_of(registry.load_model(MODEL, crowned.decision["champion"]["version"])).assets
    split = json.loads((Settings.load().data / "splits" / f"{plan['split']}.json").read_text())
    fresh = set(split["test"]) - set(known)
    assert 0 < len(fresh) < len(split["test"])
    assert evaluation["champion"]["rows"] == 8 * len(fresh)
    (card,) = evaluation["scorecards"]
    assert card["contest"] != card["test"]


# Killed

KILLED = """
import os, signal, sys
from pump_ml import steps

def progress(what, share):
    if what.startswith("train"):
        os.kill(os.getpid(), signal.SIGKILL)

steps.train(steps.read_plan(sys.argv[1]), sys.argv[2], progress=progress)
"""


def train_until_killed(run_key: str, family: str) -> None:
    command = [sys.executable, "-c", KILLED, run_key, family]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this interpreter
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.usefixtures("crowned")
def test_a_fit_that_is_killed_is_taken_up_in_its_own_run(trained: Trained) -> None:
    plan = steps.plan(trained.stored["snapshot"], "diagnosis", "test/killed", families=(), preset="quick")
    train_until_killed("test/killed", "baseline")
    client = registry.connect()
    (left,) = client.search_runs([plan["experiment"]], filter_string=f"tags.`{registry.KEY}` = 'test/killed/baseline'")
    assert left.info.status == "RUNNING"
    assert len(versions()) == 2

    candidate = steps.train(plan, "baseline")
    assert candidate["run"] == left.info.run_id
    assert client.get_run(left.info.run_id).info.status == "FINISHED"
    assert versions() == {"1": "baseline", "2": "xgb", "3": "baseline"}
    assert candidate["validation"] == trained.candidates[0]["validation"]
    below = client.search_runs([plan["experiment"]], filter_string=f"tags.`{registry.PARENT}` = '{plan['parent']}'")
    assert len(below) == 1

    assert steps.close(plan["run_key"]) == {"killed": 0}
    assert client.get_run(plan["parent"]).info.status == "FAILED"


@pytest.mark.usefixtures("crowned")
def test_closing_ends_what_killed_tasks_left_open(trained: Trained) -> None:
    plan = steps.plan(trained.stored["snapshot"], "diagnosis", "test/orphan", families=(), preset="quick")
    train_until_killed("test/orphan", "baseline")
    assert statuses(plan["experiment"]).count("RUNNING") == 2
    assert steps.close(plan["run_key"]) == {"killed": 1}
    assert sorted(statuses(plan["experiment"])) == ["FAILED", "FINISHED", "FINISHED", "FINISHED", "KILLED"]
    assert steps.close(plan["run_key"]) == {"killed": 0}


def test_closing_a_run_that_was_never_planned_has_nothing_to_end() -> None:
    assert steps.close("test/never") == {"killed": 0}


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"families": ("xgbost",)}, "unknown family 'xgbost'.*Did you mean 'xgb'", id="family"),
        pytest.param({"preset": "fast"}, "unknown preset 'fast'; known: quick, standard, full", id="preset"),
        pytest.param({"problem": "diagnoses"}, "Did you mean 'diagnosis'", id="problem"),
    ],
)
@pytest.mark.usefixtures("crowned")
def test_an_unknown_name_is_refused_before_a_run_is_opened(
    trained: Trained, changes: dict[str, Any], message: str
) -> None:
    asked = {"snapshot": trained.stored["snapshot"], "problem": "diagnosis", "run_key": "t/1"} | changes
    with pytest.raises(UnknownNameError, match=message):
        steps.plan(**asked)
    assert len(statuses(trained.plan["experiment"])) == 3


def test_a_snapshot_that_is_not_there_is_refused() -> None:
    with pytest.raises(SnapshotError, match="no snapshots 'v2-0'"):
        steps.plan("v2-0", "diagnosis", "t/1")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        pytest.param("simulatd", {}, "Did you mean 'simulated'", id="source"),
        pytest.param("simulated", {"pump": 3}, "unknown option of source 'simulated' 'pump'.*'pumps'", id="option"),
        pytest.param("simulated", {"pumps": 0}, "pumps = 0; expected 1 to", id="pumps"),
        pytest.param("simulated", {"dataset": "v9"}, "unknown dataset 'v9'; known: v2, v3", id="dataset"),
        pytest.param("simulated", {"shards": 0}, "shards = 0; expected 1 to 560", id="no shard"),
        pytest.param("simulated", {"pumps": 7, "shards": 8}, "shards = 8; expected 1 to 7", id="too many shards"),
        pytest.param("files", {"mapping": "plant_csv"}, "source 'files' needs path", id="missing option"),
    ],
)
def test_a_source_that_cannot_be_made_is_refused(source: str, options: dict[str, Any], message: str) -> None:
    for ask in (steps.fetch, steps.plan_shards):
        with pytest.raises(ConfigurationError, match=message):
            ask(source, options)


# Parts of a source

SHARDED = {"pumps": 5, "samples": 2, "shards": 3}


def test_shards_that_were_made_beforehand_are_only_read_by_fetch(home: Path) -> None:
    planned = steps.plan_shards("simulated", SHARDED)
    json.dumps(planned)
    made = [steps.make_shard(**each) for each in reversed(planned)]
    assert made == [{"shard": shard, "rows": rows} for shard, rows in ((2, 480), (1, 480), (0, 240))]

    def files() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (home / "data" / "fleets").rglob("readings-*")}

    before = files()
    assert steps.fetch("simulated", SHARDED)["rows"] == 1200
    assert steps.make_shard(**planned[1]) == made[1]
    assert files() == before
    assert len(before) == 6


def test_the_number_of_shards_changes_no_key() -> None:
    found = {shards: steps.fetch("simulated", SHARDED | {"shards": shards}) for shards in (1, 2, 5)}
    assert found[1] == found[2] == found[5]


def test_a_source_that_is_read_whole_has_no_shards(tmp_path: Path) -> None:
    options = {"mapping": "plant_csv", "path": str(tmp_path)}
    assert steps.plan_shards("files", options) == []
    with pytest.raises(ConfigurationError, match="source 'files' has no shards"):
        steps.make_shard("files", options, 0)


def test_a_shard_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="shard = 3; expected 0 to 2, for 3 shards"):
        steps.make_shard("simulated", SHARDED, 3)


def test_a_training_run_that_was_never_planned_is_refused(crowned: Trained) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown training run 'test/frist'; known: test/first"):
        steps.read_plan("test/frist")
    steps.plan(crowned.stored["snapshot"], "diagnosis", "test/half", families=("xgb",), preset="quick")
    with pytest.raises(UnknownNameError, match="unknown trained family of test/half 'baseline'"):
        steps.read_candidates(steps.read_plan("test/half"))


# Gate


def test_labels_that_were_shuffled_stop_the_run_at_the_gate(fleet: Telemetry) -> None:
    raw = snapshots.store(Settings.load().data, "raw", noise(fleet))
    stored = steps.snapshot(steps.validate(raw))

    plan = steps.plan(stored["snapshot"], "diagnosis", "test/noise", families=("xgb",), preset="quick")
    baseline = steps.train(plan, "baseline")
    with pytest.raises(GateError, match=r"do not carry .*rul_pct \(mae: naive .*, baseline .*health_pct") as refused:
        steps.gate(plan, baseline)
    assert "mode" in str(refused.value)
    assert "error is expected below 95 % of that of the naive answer" in str(refused.value)
    assert steps.close(plan["run_key"]) == {"killed": 0}
    assert versions() == {"1": "baseline"}
    assert registry.connect().get_registered_model(MODEL).aliases == {}


# Without what is heavy

BLOCKED = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Block())
import {modules}
print(*sorted(name for name in sys.modules if "." not in name))
"""


def imported(modules: list[str], blocked: set[str]) -> set[str]:
    code = textwrap.dedent(BLOCKED).format(blocked=blocked, modules=", ".join(modules))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this interpreter
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_core_needs_neither_airflow_nor_tensorflow() -> None:
    core = ["pump_ml.steps", "pump_ml.cli", "pump_ml.registry", "pump_ml.work", "pump_ml.ledger", "pump_ml.validation"]
    imported([*core, "pump_ml.models.xgb", "pump_ml.models.baseline"], {"airflow", "tensorflow", "keras"})


def test_steps_and_catalog_are_light() -> None:
    heavy = {
        "airflow", "boto3", "great_expectations", "keras", "matplotlib", "mlflow", "numpy", "pandas", "pyarrow",
        "scipy", "sklearn", "sqlalchemy", "tensorflow", "xgboost",
    }  # fmt: skip
    assert not imported(["pump_ml.steps", "pump_ml.catalog", "pump_ml.cli"], set()) & heavy


def test_every_listed_name_can_be_imported() -> None:
    for kind, entries in (("source", catalog.SOURCES), ("family", catalog.FAMILIES)):
        for name in entries:
            assert catalog.load(kind, entries, name)


def test_progress_is_logged_at_its_end_and_not_at_every_step(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        report = steps.log_progress()
        for share in np.linspace(0.0, 1.0, 101):
            report("train xgb", float(share))
    assert [record.getMessage() for record in caplog.records][-1] == "train xgb: done in 0 s"
    assert len(caplog.records) <= 3


def test_readings_whose_cycles_were_partly_missing_become_whole_again() -> None:
    readings = pd.DataFrame(
        {
            "asset_id": "a",
            "run_id": "a/0",
            "time": [*np.arange(39.0), np.nan],
            "commissioning": False,
            "p_bar": np.arange(40.0),
        }
    )
    telemetry = Telemetry(readings, (), (), "telemetry", {"dataset": "d"})
    validated = steps.validate(snapshots.store(Settings.load().data, "raw", telemetry))
    assert validated["quarantined"] == 1
    stored = snapshots.load(Settings.load().data, "snapshots", steps.snapshot(validated)["snapshot"])
    assert stored.telemetry.readings["time"].tolist() == list(range(39))
    assert stored.telemetry.readings["time"].dtype == "int64"


# What a plan settles, and who may move the champion


def test_a_known_run_is_not_planned_anew_with_other_arguments(crowned: Trained) -> None:
    with pytest.raises(ConfigurationError, match=r"'test/first' was planned with seed = 7, not 8"):
        steps.plan(crowned.stored["snapshot"], "diagnosis", "test/first", families=("xgb",), preset="quick", seed=8)
    assert steps.read_plan("test/first") == crowned.plan


def test_a_run_of_a_problem_with_folds_says_that_it_judges_the_first_alone(
    crowned: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = Path(catalog.__file__).parent / catalog.PROBLEMS["diagnosis"]
    content = yaml.safe_load(shipped.read_text())
    steps.plan(crowned.stored["snapshot"], "diagnosis", "test/whole", families=("xgb",), preset="quick")
    assert "folds" not in caplog.text
    content["split"] = {"train": 0.75, "validation": 0.25, "test": {"number": 14, "stratify": "mode"}}
    (tmp_path / "folds.yaml").write_text(yaml.safe_dump(content))
    plan = steps.plan(
        crowned.stored["snapshot"], str(tmp_path / "folds.yaml"), "test/folds", families=("xgb",), preset="quick"
    )
    judged = ", ".join(Work(plan).split.test)
    assert f"diagnosis has folds, and a training run judges the first alone: 4 of 56 assets ({judged})" in caplog.text
    assert "`pump-ml benchmark` judges all of them" in caplog.text


def test_a_plan_keeps_its_problem_though_the_thresholds_change_meanwhile(
    crowned: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text("diagnosis: {severity: 1.0, mode: 1.0, rul_pct: 0.0, health_pct: 0.0}\n")
    monkeypatch.setenv("PUMP_ML_TARGETS_FILE", str(strict))
    again = steps.evaluate(crowned.plan, crowned.candidates)
    assert [card["passed"] for card in again["scorecards"]] == [
        card["passed"] for card in crowned.evaluation["scorecards"]
    ]


@pytest.mark.parametrize("name", ["o'x", "a b", "", 'x"y'], ids=["quote", "space", "empty", "double quote"])
def test_a_run_name_that_mlflow_cannot_look_up_is_refused(name: str, trained: Trained) -> None:
    with pytest.raises(ConfigurationError, match="letters, digits and"):
        steps.plan(trained.stored["snapshot"], "diagnosis", name)


def test_two_runs_whose_names_look_alike_keep_their_own_plans(crowned: Trained) -> None:
    for name in ("look/alike", "look_alike"):
        steps.plan(crowned.stored["snapshot"], "diagnosis", name, families=(), preset="quick")
    assert steps.read_plan("look/alike")["run_key"] == "look/alike"
    assert steps.read_plan("look_alike")["run_key"] == "look_alike"


def test_a_family_that_is_named_twice_is_trained_once(crowned: Trained) -> None:
    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/twice", families=("xgb", "xgb"), preset="quick")
    assert plan["others"] == ["xgb"]


@pytest.mark.parametrize("key", ["../raw/x", "a/b", ".hidden", ""])
def test_a_key_that_leads_out_of_its_folder_is_no_snapshot(key: str) -> None:
    with pytest.raises(SnapshotError, match="no snapshots"):
        snapshots.load(Settings.load().data, "snapshots", key)


def test_the_scorecard_the_run_and_the_report_say_how_far_a_family_may_be_trusted(crowned: Trained) -> None:
    client = registry.connect()
    for candidate, card in zip(crowned.candidates, crowned.report["scorecards"], strict=True):
        logged = client.get_run(candidate["run"]).data.metrics
        stored = json.loads(Path(client.download_artifacts(candidate["run"], "scorecard.json")).read_text())
        shown = {target["name"]: target["interval"] for target in card["targets"]}
        assert shown["mode"] is None
        for name in ("rul_pct", "health_pct"):
            assert 0.75 <= logged[f"test/{name}_coverage"] <= 1.0  # eleven pumps calibrate it
            assert shown[name] == {
                "coverage": stored["values"][name]["coverage"],
                "width": logged[f"test/{name}_width"],
            }
            assert set(stored["coverage"][name]["by_mode"]) == set(stored["by_mode"])
        assert 0.0 <= logged["test/mode_ece"] < logged["test/mode_ece_before"]
        plots = [file.path for file in client.list_artifacts(candidate["run"], "plots")]
        assert "plots/coverage_by_mode.png" in plots


def test_the_limit_stands_beside_the_scores_of_a_simulated_fleet(trained: Trained) -> None:
    limit = trained.evaluation["limit"]
    assert set(limit) == {"severity", "mode", "rul_pct", "health_pct"}
    for card in trained.evaluation["scorecards"]:
        assert card["test"]["health_pct"] > limit["health_pct"] > 0.2
        assert card["test"]["severity"] <= limit["severity"] <= 1.0
    assert trained.report["scorecards"][0]["targets"][2]["limit"] == limit["rul_pct"]


@pytest.mark.parametrize("days", [2, 20], ids=["too short for a window", "long enough"])
def test_lives_have_a_limit_where_a_test_pump_was_watched_long_enough_for_a_window(days: int) -> None:
    stored = steps.snapshot(
        steps.validate(steps.fetch("simulated", {"dataset": "v3", "pumps": 28, "days": days})["raw"])
    )
    work = Work(steps.plan(stored["snapshot"], "lives", "test/lives", families=(), preset="quick"))
    assert set(work.limit(lambda _: None)) == ({"severity", "mode", "rul_pct", "health_pct"} if days == 20 else set())


def test_data_from_elsewhere_and_windows_of_another_kind_have_no_limit(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMP_ML_VAR", str(trained.home))
    work = Work(trained.plan)
    work.problem = work.problem.model_copy(update={"reference": None})
    assert work.limit(lambda _: None) == {}


def test_a_champion_that_moved_after_the_comparison_is_not_overwritten(crowned: Trained) -> None:
    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/late", families=("xgb",), preset="quick", seed=9)
    candidates = [steps.train(plan, family) for family in ("baseline", "xgb")]
    evaluation = steps.evaluate(plan, candidates)
    moved = next(v for v in ("1", "2") if v != crowned.decision["champion"]["version"])
    registry.crown(registry.connect(), MODEL, moved)
    with pytest.raises(ConfigurationError, match=f"is version {moved} now"):
        steps.promote(plan, evaluation)
    assert registry.champion(registry.connect(), MODEL) == (moved, versions()[moved])


def test_a_champion_of_another_window_length_is_called_unfit_and_falls(crowned: Trained, tmp_path: Path) -> None:
    shipped = Path(catalog.__file__).parent / catalog.PROBLEMS["diagnosis"]
    shorter = tmp_path / "diagnosis.yaml"
    shorter.write_text(shipped.read_text().replace("{length: 60, stride: 60}", "{length: 30, stride: 30}"))
    plan = steps.plan(crowned.stored["snapshot"], str(shorter), "test/shorter", families=("xgb",), preset="quick")
    candidates = [steps.train(plan, family) for family in ("baseline", "xgb")]
    evaluation = steps.evaluate(plan, candidates)
    assert evaluation["champion"]["unfit"] == "its windows are cut otherwise"
    decision = steps.promote(plan, evaluation)
    assert decision["promoted"]
    assert "cannot answer this problem any more" in decision["reason"]


def test_a_family_of_waveforms_goes_all_the_way_and_fits_where_such_waveforms_are(crowned: Trained) -> None:
    """Its registered model is judged on the rows of the others, answers readings with arrays in their cells, and is
    called unfit only where the data have no waveforms of its kind. The command line asks it about a snapshot."""
    fetched = steps.fetch("simulated", {"pumps": 28, "samples": 8, "seed": 8, "waveforms_h": 1.0})
    stored = steps.snapshot(steps.validate(fetched["raw"]))
    small = {"bands": 16, "filters": 4, "epochs": 3}
    plan = steps.plan(
        stored["snapshot"], "diagnosis", "test/heard", families=("cnn2d",), preset="quick", hyper={"cnn2d": small}
    )
    candidates = [steps.train(plan, family) for family in ("baseline", "cnn2d")]
    evaluation = steps.evaluate(plan, candidates)
    assert [card["family"] for card in evaluation["scorecards"]] == ["baseline", "cnn2d"]

    model = registry.load_model(MODEL, candidates[1]["version"])
    predictor = registry.predictor_of(model)
    work, bare = Work(plan), Work({**plan, "snapshot": crowned.stored["snapshot"]})
    assert work.unfit(predictor) is None
    told = bare.unfit(predictor)
    assert told is not None
    assert told.startswith("it looks at waveforms of drive_end_g, non_drive_end_g at 25600 Hz with 10240 samples")

    assert work.waveforms is not None
    asset = work.split.test[0]
    readings = work.rows("test")
    asked = work.waveforms.in_cells(readings[readings["asset_id"] == asset])
    answers = model.predict(asked[list(predictor.columns)])
    judged = predictor.table(work.judged("waveform").of_assets([asset]))
    pd.testing.assert_frame_equal(
        answers[["run_id", "rul_pct"]].reset_index(drop=True), judged[["run_id", "rul_pct"]].reset_index(drop=True),
        rtol=1e-5,
    )  # fmt: skip

    command = ["predict", "--model", MODEL, "--version", str(candidates[1]["version"]), "--snapshot"]
    done = CliRunner().invoke(app, [*command, stored["snapshot"]])
    assert done.exit_code == 0, done.output
    printed = pd.read_csv(StringIO(done.stdout)).set_index("run_id")["rul_pct"]
    assert set(printed.index.str.split("/").str[0]) == set(work.snapshot.telemetry.readings["asset_id"])
    pd.testing.assert_series_equal(printed[answers["run_id"]], answers.set_index("run_id")["rul_pct"], rtol=1e-5)
    with pytest.raises(DataError, match=r"looks at waveforms of drive_end_g, .*, and snapshot 'v2-.*' has none; take"):
        CliRunner().invoke(app, [*command, crowned.stored["snapshot"]], catch_exceptions=False)


def test_a_champion_of_an_older_format_is_called_unfit_and_falls(
    crowned: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "FORMAT", models.FORMAT + 1)
    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/newer", families=("xgb",), preset="quick", seed=9)
    candidates = [steps.train(plan, family) for family in ("baseline", "xgb")]
    evaluation = steps.evaluate(plan, candidates)
    assert f"format {models.FORMAT - 1}, expected {models.FORMAT}" in evaluation["champion"]["unfit"]
    assert steps.promote(plan, evaluation)["promoted"]


def test_a_store_that_cannot_be_asked_is_not_taken_for_one_without_a_champion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = registry.connect()
    with pytest.raises(registry.client.MlflowException):
        registry.champion(client, MODEL)


def test_a_run_that_failed_first_and_then_ended_well_is_finished(crowned: Trained) -> None:
    client = registry.connect()
    client.set_terminated(crowned.plan["parent"], "FAILED")
    steps.report(crowned.plan, crowned.evaluation, crowned.decision)
    assert client.get_run(crowned.plan["parent"]).info.status == "FINISHED"


def test_a_report_leads_to_the_page_of_mlflow_that_compares_its_families(
    crowned: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUMP_ML_MLFLOW_UI", "http://127.0.0.1:5000")
    page = steps.report(crowned.plan, crowned.evaluation, crowned.decision)["compare"]
    assert page.startswith("http://127.0.0.1:5000/#/compare-runs?")
    query = parse_qs(page.partition("?")[2])
    assert json.loads(query["runs"][0]) == [candidate["run"] for candidate in crowned.candidates]
    assert json.loads(query["experiments"][0]) == [crowned.plan["experiment"]]


def test_readings_without_a_run_beside_the_commissioning_record_are_no_question(crowned: Trained) -> None:
    predictor = registry.predictor_of(registry.load_model(MODEL, "champion"))
    readings = snapshots.load(Settings.load().data, "snapshots", crowned.stored["snapshot"]).telemetry.readings
    with pytest.raises(DataError, match="beside commissioning records"):
        predictor.predict(readings[readings["commissioning"]])
