"""Tuning: validation assets only, the same trials for the same seed, a killed search goes on, hopeless ones are cut."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import Trained
from postgres import database

from pump_ml import catalog, ledger, registry, snapshots, steps, tuning
from pump_ml.errors import ConfigurationError, MemoryLimitError
from pump_ml.models import Predictor
from pump_ml.models.baseline import Baseline
from pump_ml.models.space import Choice, Range
from pump_ml.settings import Settings

FAST = {"xgb": {"rounds": 4, "jobs": 1}}
"""Trees that learn in a blink; what is left is tuned."""
MAIN = "import sys; from pump_ml.cli import main; sys.argv[0] = 'pump-ml'; main()"


def planned(snapshot: str, run_key: str, **changes: Any) -> dict[str, Any]:
    asked = {"families": ("xgb",), "preset": "quick", "hyper": FAST, "trials": 4} | changes
    return steps.plan(snapshot, "diagnosis", run_key, **asked)


def trials(plan: dict[str, Any], family: str = "xgb") -> list[tuple[dict[str, Any], float]]:
    """What was tried, and its error, of the trials that are settled."""
    return [(trial.params, trial.values[0]) for trial in tuning.Study(plan, family).settled]


def below(plan: dict[str, Any], parent: str) -> list[Any]:
    """MLflow runs below a run, the oldest first."""
    found = registry.connect().search_runs([plan["experiment"]], f"tags.`{registry.PARENT}` = '{parent}'")
    return sorted(found, key=lambda run: int(run.info.start_time))


# A search


@pytest.fixture
def tuned(crowned: Trained) -> tuple[dict[str, Any], dict[str, Any]]:
    """A plan whose xgb was tuned in four trials, and what the step returned."""
    plan = planned(crowned.stored["snapshot"], "test/tuned")
    return plan, steps.tune(plan, "xgb", {"task_id": "train"})


def test_trials_are_runs_below_the_familys_tuning_run_and_the_best_is_trained(
    tuned: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    plan, found = tuned
    json.dumps(found, allow_nan=False)
    assert (found["family"], found["trials"], found["pruned"]) == ("xgb", 4, 0)
    (tuning_run,) = below(plan, plan["parent"])
    assert tuning_run.data.tags["mlflow.runName"] == "tune xgb"
    runs = below(plan, tuning_run.info.run_id)
    assert [run.data.tags["mlflow.runName"] for run in runs] == [f"xgb trial {number}" for number in range(4)]
    assert {run.info.status for run in (tuning_run, *runs)} == {"FINISHED"}
    errors = [run.data.metrics["tuning/relative_error"] for run in runs]
    assert (
        found["error"] == min(errors) == errors[found["trial"]] == tuning_run.data.metrics["tuning/best_relative_error"]
    )
    assert (
        runs[0].data.params | {"depth": "5", "rate": "0.15", "rounds": "4"} == runs[0].data.params
    )  # the preset's own
    assert {run.data.tags["task_id"] for run in runs} == {"train"}
    assert len({run.data.params["rate"] for run in runs}) == 4

    # the best is trained
    candidate = steps.train(plan, "xgb")
    best = runs[found["trial"]]
    client = registry.connect()
    assert (
        client.get_run(candidate["run"]).data.params | best.data.params == client.get_run(candidate["run"]).data.params
    )
    for target, value in candidate["validation"].items():
        metric = {"severity": "accuracy", "mode": "accuracy"}.get(target, "mae")
        assert best.data.metrics[f"validation/{target}_{metric}"] == value
    version = client.get_model_version("pump-diagnosis", candidate["version"])
    assert json.loads(version.tags["hyper"]) | found["hyper"] | FAST["xgb"] == json.loads(version.tags["hyper"])

    # and neither is done again
    assert steps.tune(plan, "xgb") == found
    assert steps.train(plan, "xgb") == candidate
    assert len(below(plan, tuning_run.info.run_id)) == 4


def test_tuning_does_not_end_worse_than_the_presets_own_values(tuned: tuple[dict[str, Any], dict[str, Any]]) -> None:
    plan, found = tuned
    assert found["error"] <= trials(plan)[0][1]
    assert set(found["hyper"]) == {"depth", "rate", "rows", "columns"}  # what is set, and how long it learns, stays


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(
    tuned: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    plan, _ = tuned
    again = planned(plan["snapshot"], "test/again")
    steps.tune(again, "xgb")
    assert trials(again) == trials(plan)
    other = planned(plan["snapshot"], "test/other", seed=8, trials=2)
    steps.tune(other, "xgb")
    assert trials(other)[1][0] != trials(plan)[1][0]


def test_what_the_test_assets_show_changes_nothing(tuned: tuple[dict[str, Any], dict[str, Any]]) -> None:
    plan, _ = tuned
    root = Settings.load().data
    whole = snapshots.load(root, "snapshots", plan["snapshot"])
    stored = whole.telemetry
    split = json.loads((root / "splits" / f"{plan['split']}.json").read_text())
    poisoned = stored.readings.copy()
    rows = poisoned["asset_id"].isin(split["test"])
    poisoned.loc[rows, [sensor.name for sensor in stored.sensors]] = np.nan  # a window of it could not even be cut
    poisoned.loc[rows, ["rul_pct", "health_pct"]] = -1e6
    poison = replace(stored, readings=poisoned)
    key = snapshots.store(root, "snapshots", poison, waveforms=whole.manifest["waveforms"])
    other = planned(key, "test/poisoned")
    assert json.loads((root / "splits" / f"{other['split']}.json").read_text()) == split
    steps.tune(other, "xgb")
    assert trials(other) == trials(plan)


# Killed

KILLED = """
import os, signal, sys
from pump_ml import steps

def progress(what, share):
    if what.startswith("tune") and share > float(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

steps.tune(steps.read_plan(sys.argv[1]), "xgb", progress=progress)
"""


def tune_until_killed(run_key: str, share: float) -> None:
    command = [sys.executable, "-c", KILLED, run_key, str(share)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this interpreter
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("share", [0.1, 0.6], ids=["in the first trial", "in the third trial"])
def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(
    share: float, tuned: tuple[dict[str, Any], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    plan, whole = tuned
    killed = planned(plan["snapshot"], "test/killed")
    tune_until_killed("test/killed", share)
    left = int(share * 4)
    assert len(trials(killed)) == left
    found = steps.tune(killed, "xgb")
    assert trials(killed) == trials(plan)
    assert found["hyper"] == whole["hyper"]
    assert f"trial {left} of xgb was left by a try that ended" in caplog.text
    (tuning_run,) = below(killed, killed["parent"])
    statuses = [run.info.status for run in below(killed, tuning_run.info.run_id)]
    assert statuses == ["FINISHED"] * left + ["KILLED"] + ["FINISHED"] * (4 - left)
    assert tuning_run.info.status == "FINISHED"


def test_a_trial_that_fails_twice_is_not_done_a_third_time(crowned: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog.FAMILIES, "brittle", "test_tuning:Brittle")  # type: ignore[arg-type]
    plan = planned(crowned.stored["snapshot"], "test/brittle", families=("brittle",), hyper={}, trials=3)
    for _ in range(2):
        with pytest.raises(MemoryLimitError):
            steps.tune(plan, "brittle")
    found = steps.tune(plan, "brittle")
    assert (found["trials"], found["trial"] in (2, 3)) == (3, True)
    states = [trial.state.name for trial in tuning.Study(plan, "brittle").study.trials]
    assert states == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]


def test_closing_ends_the_trials_of_a_killed_search(crowned: Trained) -> None:
    plan = planned(crowned.stored["snapshot"], "test/orphan")
    tune_until_killed("test/orphan", 0.3)
    assert steps.close("test/orphan") == {"killed": 2}  # the tuning run and its second trial
    (tuning_run,) = below(plan, plan["parent"])
    assert [run.info.status for run in below(plan, tuning_run.info.run_id)] == ["FINISHED", "KILLED"]


# Pruned


@dataclass(frozen=True)
class Leafy(Baseline):
    """A forest that says its loss ten times; the larger its leaves, the worse."""

    trees: int = 2
    jobs: int = 1

    name: ClassVar[str] = "leafy"
    space: ClassVar[Mapping[str, Range | Choice]] = {"leaf": Range(1, 50)}

    def fit(self, *data: Any, watch: Any, **options: Any) -> Predictor:
        for step in range(10):
            watch(step, {"validation/loss": self.leaf / (step + 1)})
        return super().fit(*data, watch=watch, **options)


@dataclass(frozen=True)
class Diverging(Baseline):
    """A fit whose loss is a number with the preset's own values only."""

    trees: int = 2
    jobs: int = 1

    name: ClassVar[str] = "diverging"
    space: ClassVar[Mapping[str, Range | Choice]] = {"leaf": Range(1, 50)}

    def fit(self, *data: Any, watch: Any, **options: Any) -> Predictor:
        watch(0, {"validation/loss": float("nan") if self.leaf != 2 else 1.0})
        return super().fit(*data, watch=watch, **options)


@dataclass(frozen=True)
class Brittle(Baseline):
    """A fit that takes too much memory with the preset's own values."""

    trees: int = 2
    jobs: int = 1

    name: ClassVar[str] = "brittle"
    space: ClassVar[Mapping[str, Range | Choice]] = {"leaf": Range(1, 50)}

    def fit(self, *data: Any, watch: Any, **options: Any) -> Predictor:
        if self.leaf == 2:
            raise MemoryError
        return super().fit(*data, watch=watch, **options)


@pytest.fixture
def leafy(crowned: Trained, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A plan of twelve trials of a family that reports its loss while it learns."""
    monkeypatch.setitem(catalog.FAMILIES, "leafy", "test_tuning:Leafy")  # type: ignore[arg-type]
    return planned(crowned.stored["snapshot"], "test/leafy", families=("leafy",), hyper={}, trials=12)


def test_a_trial_that_is_worse_than_half_of_the_others_is_pruned(leafy: dict[str, Any]) -> None:
    found = steps.tune(leafy, "leafy")
    assert found["trials"] == 12
    assert 0 < found["pruned"] <= 7  # never the first five
    (tuning_run,) = below(leafy, leafy["parent"])
    runs = below(leafy, tuning_run.info.run_id)
    pruned = [run for run in runs if run.data.tags["trial"] == "pruned"]
    assert len(pruned) == found["pruned"]
    client = registry.connect()
    for run in pruned:
        assert "tuning/relative_error" not in run.data.metrics
        assert len(client.get_metric_history(run.info.run_id, "validation/loss")) < 10
    assert runs[found["trial"]].data.tags["trial"] == "complete"


def test_a_fit_that_diverges_is_pruned_and_the_search_goes_on(
    crowned: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalog.FAMILIES, "diverging", "test_tuning:Diverging")  # type: ignore[arg-type]
    plan = planned(crowned.stored["snapshot"], "test/nan", families=("diverging",), hyper={}, trials=3)
    found = steps.tune(plan, "diverging")
    assert (found["trials"], found["pruned"], found["trial"]) == (3, 2, 0)


def test_progress_rises_over_all_trials_to_one(leafy: dict[str, Any]) -> None:
    shares: list[float] = []
    steps.tune(leafy, "leafy", progress=lambda what, share: shares.append(share) if what == "tune leafy" else None)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


# Bounds


def test_no_trial_is_started_when_the_time_is_over_and_the_next_call_goes_on(leafy: dict[str, Any]) -> None:
    assert steps.tune(leafy, "leafy", timeout_minutes=0.0)["trials"] == 1
    assert steps.tune(leafy, "leafy", timeout_minutes=0.0)["trials"] == 2


def test_a_plan_without_trials_tunes_nothing(crowned: Trained) -> None:
    assert steps.tune(crowned.plan, "xgb")["trials"] == 0
    assert len(below(crowned.plan, crowned.plan["parent"])) == 2


def test_a_family_that_is_to_be_tuned_is_not_trained_before(crowned: Trained) -> None:
    plan = planned(crowned.stored["snapshot"], "test/early")
    with pytest.raises(ConfigurationError, match="to be tuned in 4 trials, and none is complete; expected `tune`"):
        steps.train(plan, "xgb")
    with pytest.raises(ConfigurationError, match="the baseline is what the others are measured by"):
        steps.tune(plan, "baseline")


def test_without_thresholds_the_baseline_is_the_measure(
    crowned: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PUMP_ML_TARGETS_FILE")
    shipped = Path(catalog.__file__).parent / catalog.PROBLEMS["diagnosis"]
    lines = ["targets: none" if line.startswith("targets:") else line for line in shipped.read_text().splitlines()]
    (tmp_path / "open.yaml").write_text("\n".join(lines))
    asked = {"families": ("xgb",), "preset": "quick", "hyper": FAST | {"baseline": {"trees": 5}}, "trials": 1}
    plan = steps.plan(crowned.stored["snapshot"], str(tmp_path / "open.yaml"), "test/open", **asked)
    with pytest.raises(ConfigurationError, match=r"has no thresholds.*expected `train` of the baseline before"):
        steps.tune(plan, "xgb")
    steps.train(plan, "baseline")
    assert steps.tune(plan, "xgb")["error"] > 0.0


# Where studies lie


def test_studies_lie_in_a_file_beside_the_ledger(tuned: tuple[dict[str, Any], dict[str, Any]], home: Path) -> None:
    assert tuned
    assert (home / "ledger-tuning.db").is_file()
    ledger.prepare()  # knows its own tables only


def test_in_postgresql_studies_have_a_schema_of_their_own_in_the_ledgers_database(
    crowned: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database() as address:
        monkeypatch.setenv("PUMP_ML_LEDGER_URL", address)
        ledger.prepare()
        plan = planned(crowned.stored["snapshot"], "test/postgres", trials=2)
        found = steps.tune(plan, "xgb")
        assert steps.tune(plan, "xgb") == found
        ledger.prepare()
        with closing(ledger.engine().raw_connection()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SELECT table_schema, version_num FROM information_schema.tables, public.alembic_version "
                           "WHERE table_name = 'alembic_version' ORDER BY 1")  # fmt: skip
            assert [row[0] for row in cursor.fetchall()] == ["optuna", "public"]


# By hand


def test_the_command_tunes_behind_the_gate_and_prints_the_best(crowned: Trained) -> None:
    words = ("--snapshot", crowned.stored["snapshot"], "--family", "xgb", "--preset", "quick", "--run", "cli/tuned")
    values = ("--set", "xgb.rounds=4", "--set", "xgb.jobs=1", "--set", "xgb.rate=2e-1", "--trials", "2")
    shown = [
        subprocess.run(  # noqa: S603 - this interpreter, fixed words
            [sys.executable, "-c", MAIN, command, *words, *values],
            capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        )
        for command in ("tune", "train")
    ]  # fmt: skip
    assert [done.returncode for done in shown] == [0, 0], shown
    tuned, trained = (json.loads(done.stdout) for done in shown)
    (found,) = tuned["tuned"]
    assert (tuned["run"], found["trials"]) == ("cli/tuned", 2)
    assert set(found["hyper"]) == {"depth", "rows", "columns"}
    run = registry.connect().get_run(trained["candidates"][1]["run"])
    assert {name: run.data.params[name] for name in ("rounds", "rate", "depth")} == {
        "rounds": "4", "rate": "0.2", "depth": str(found["hyper"]["depth"]),
    }  # fmt: skip
