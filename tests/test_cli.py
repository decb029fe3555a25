"""The command line: help with an example, one message for an error, and the steps it calls."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
import typer
from conftest import Trained, noise
from typer.testing import CliRunner

from pump_ml import cli, registry, snapshots, steps
from pump_ml.errors import PumpMLError
from pump_ml.schema import Telemetry
from pump_ml.settings import Settings
from pump_ml.work import Work

MAIN = "import sys; from pump_ml.cli import main; sys.argv[0] = 'pump-ml'; main()"
MODEL = "pump-diagnosis"


def pump_ml(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in this test's environment."""
    command = [sys.executable, "-c", MAIN, *arguments]
    return subprocess.run(  # noqa: S603 - this interpreter, fixed words
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    )


def commands(app: typer.Typer = cli.app, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every command with its name, those of groups included."""
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, (*above, str(group.name)))
    for command in app.registered_commands:
        assert command.callback is not None
        yield (*above, command.name or command.callback.__name__), command.callback


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(name: tuple[str, ...]) -> None:
    text = COMMANDS[name].__doc__ or ""
    example = re.search(r"Example: (pump-ml .+)", text)
    assert example, f"{name} has no example"
    assert example[1].split()[1 : 1 + len(name)] == list(name)
    group = typer.main.get_command(cli.app)
    for part in name:
        group = group.commands[part]
    options = {option for parameter in group.params for option in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", example[1])) <= options
    for parameter in group.params:
        assert parameter.help, f"{parameter.name} has no help"


def test_help_shows_the_example() -> None:
    shown = pump_ml("train", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "Example: pump-ml train --snapshot" in shown.stdout


def test_an_error_of_pump_ml_is_its_message_on_stderr_and_exit_code_one() -> None:
    done = pump_ml("train", "--snapshot", "v2-0")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "SnapshotError: no snapshots 'v2-0'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_setting_is_an_error_that_names_its_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUMP_ML_VARR", "x")
    done = pump_ml("dataset", "--pumps", "1", "--samples", "1")
    assert done.returncode == 1
    assert "unknown environment variable 'PUMP_ML_VARR'" in done.stderr
    assert "Did you mean 'PUMP_ML_VAR'?" in done.stderr


def test_a_wrong_option_is_a_usage_error() -> None:
    assert pump_ml("dataset", "--pump", "3").returncode == 2


def test_a_dataset_is_printed_as_the_step_returned_it(home: Path) -> None:
    done = pump_ml("dataset", "--pumps", "2", "--samples", "2", "--seed", "3")
    assert done.returncode == 0, done.stderr
    stored = json.loads(done.stdout)
    assert stored["rows"] + stored["quarantined"] == 480
    assert snapshots.load(Settings.load().data, "snapshots", stored["snapshot"]).manifest["origin"]["seed"] == 3
    assert [path.name for path in home.parent.iterdir()] == [home.name]


def test_a_dataset_of_lives_is_made_in_shards_that_change_no_row(home: Path) -> None:
    asked = ("dataset", "--dataset", "v3", "--pumps", "3", "--days", "10")
    one, two = (json.loads(pump_ml(*asked, "--shards", shards).stdout) for shards in ("1", "2"))
    assert one == two
    assert one["snapshot"].startswith("v3-")
    manifest = snapshots.load(Settings.load().data, "snapshots", one["snapshot"]).manifest
    assert (manifest["origin"]["days"], manifest["suite"]) == (10.0, "lives")
    assert len(list((home / "data" / "fleets").iterdir())) == 2


def test_a_snapshot_is_learnt_for_the_problem_of_its_dataset_unless_another_is_named(
    fleet: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, asked = Settings.load().data, []
    origins = [
        {"source": "simulated", "dataset": "v2"},
        {"source": "simulated", "dataset": "v3"},
        {"source": "files", "dataset": "v3"},
        {},
    ]
    keys = [snapshots.store(root, "snapshots", replace(fleet, origin=origin)) for origin in origins]

    def plan(_: str, problem: str, *__: Any, **___: Any) -> NoReturn:
        asked.append(problem)
        raise PumpMLError

    monkeypatch.setattr(steps, "plan", plan)
    for command in ("train", "tune"):
        for key in keys:
            CliRunner().invoke(cli.app, [command, "--snapshot", key])
        CliRunner().invoke(cli.app, [command, "--snapshot", keys[1], "--problem", "rul"])
    assert asked == ["diagnosis", "lives", "diagnosis", "diagnosis", "rul"] * 2


@pytest.mark.usefixtures("crowned")
def test_tuning_the_baseline_alone_says_that_nothing_is_tuned(trained: Trained) -> None:
    words = ("tune", "--snapshot", trained.stored["snapshot"], "--family", "baseline", "--preset", "quick")
    done = pump_ml(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tuned"] == []
    assert "nothing is tuned: the baseline is what the others are measured by" in " ".join(done.stderr.split())


def test_data_that_carry_nothing_stop_at_the_gate_and_only_the_baseline_is_registered(fleet: Telemetry) -> None:
    raw = snapshots.store(Settings.load().data, "raw", noise(fleet))
    stored = steps.snapshot(steps.validate(raw))
    done = pump_ml("train", "--snapshot", stored["snapshot"], "--family", "xgb", "--preset", "quick")
    assert done.returncode == 1
    assert "GateError: the data do not carry" in done.stderr
    assert "rul_pct" in done.stderr
    client = registry.connect()
    versions = client.search_model_versions(f"name='{MODEL}'")
    assert [version.tags["family"] for version in versions] == ["baseline"]
    experiment = client.get_experiment_by_name("diagnosis").experiment_id
    statuses = [run.info.status for run in client.search_runs([experiment])]
    assert sorted(statuses) == ["FAILED", "FINISHED"]


@pytest.mark.usefixtures("crowned")
def test_training_and_evaluation_go_on_with_the_run_that_is_named(trained: Trained) -> None:
    snapshot = trained.stored["snapshot"]
    done = pump_ml("train", "--snapshot", snapshot, "--family", "baseline", "--preset", "quick", "--run", "cli/one")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["run"] == "cli/one"
    assert [candidate["family"] for candidate in shown["candidates"]] == ["baseline"]
    assert shown["candidates"][0]["validation"] == trained.candidates[0]["validation"]
    done = pump_ml("evaluate", "--run", "cli/one")
    assert done.returncode == 0, done.stderr
    assert "baseline" in done.stdout + done.stderr
    parent = registry.connect().get_run(steps.read_plan("cli/one")["parent"])
    assert parent.info.status == "FINISHED"


@pytest.mark.parametrize(("dataset", "problem"), [("v2", "diagnosis"), ("v3", "lives")])
def test_a_simulated_dataset_is_judged_by_its_own_problem(dataset: str, problem: str) -> None:
    own = ("--samples", "8") if dataset == "v2" else ("--days", "20")
    words = ("--dataset", dataset, "--pumps", "28", *own, "--family", "baseline", "--preset", "quick")
    done = pump_ml("run", *words)
    assert done.returncode == 0, done.stderr
    assert f"{problem}: " in done.stdout
    assert "limit" in done.stdout
    assert f"pump-{problem}" in done.stdout or "champion: none yet" in done.stdout


@pytest.mark.usefixtures("crowned")
def test_predictions_of_the_champion_are_printed_as_csv(trained: Trained, tmp_path: Path) -> None:
    rows = Work(trained.plan).rows("test")
    rows[rows["asset_id"] == rows["asset_id"].iloc[0]].to_parquet(tmp_path / "raw.parquet")
    done = pump_ml("predict", "--model", MODEL, "--readings", str(tmp_path / "raw.parquet"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("asset_id,run_id,time,severity,severity_p_0")
    assert len(lines) == 9
    pd.read_csv(pd.io.common.StringIO(done.stdout))
    done = pump_ml("predict", "--model", MODEL, "--readings", str(tmp_path / "raw.parquet"), "--explain")
    assert done.returncode == 0, done.stderr
    told = pd.read_csv(pd.io.common.StringIO(done.stdout))
    assert (told.groupby(["run_id", "target"]).size() == 3).all()
    assert len(told) == 8 * 4 * 3
    assert told["text"].str.contains(" is normal: ").all()
    snapshot = trained.stored["snapshot"]
    whole = pump_ml("predict", "--model", MODEL, "--snapshot", snapshot)
    assert whole.returncode == 0, whole.stderr
    assert set(lines) <= set(whole.stdout.splitlines())
    missing = pump_ml("predict", "--model", MODEL, "--readings", str(tmp_path / "raw.parquet"), "--version", "99")
    assert missing.returncode == 1
    assert "models:/pump-diagnosis/99 cannot be loaded" in missing.stderr


def test_predictions_are_asked_of_either_a_file_or_a_snapshot(tmp_path: Path) -> None:
    file = tmp_path / "raw.parquet"
    file.touch()
    neither = pump_ml("predict", "--model", MODEL)
    assert neither.returncode == 1
    assert "neither of --readings and --snapshot given; expected one" in " ".join(neither.stderr.split())
    both = pump_ml("predict", "--model", MODEL, "--readings", str(file), "--snapshot", "v2-0")
    assert both.returncode == 1
    assert "both of --readings and --snapshot given; expected one" in " ".join(both.stderr.split())


def test_files_that_are_described_without_their_source_are_an_error_not_the_twin() -> None:
    done = pump_ml("dataset", "--mapping", "plant.yaml", "--path", "nowhere")
    assert done.returncode == 1
    assert "--source files" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (("run", "--problem", "diagnossis"), "Did you mean 'diagnosis'?"),
        (("run", "--family", "gruu"), "Did you mean 'gru'?"),
        (("run", "--preset", "qick"), "Did you mean 'quick'?"),
        (("local", "run", "--family", "gruu"), "Did you mean 'gru'?"),
        (("local", "run", "--dataset", "v9"), "unknown dataset 'v9'; known: v2, v3"),
        (("run", "--set", "xgb.dept=6"), "Did you mean 'depth'?"),
        (("run", "--set", "xgb.rate=fast"), "xgb.rate = 'fast'; expected a number from 0.005 to 0.5"),
        (("run", "--set", "xgb=6"), "--set xgb=6; expected FAMILY.NAME=VALUE"),
        (("local", "run", "--trials", "-1"), "trials = -1; expected 0"),
        (("run", "--shards", "0"), "shards = 0; expected 1 to 560"),
        (("dataset", "--dataset", "v3", "--days", "0"), "days = 0.0; expected 1 to"),
        (("local", "run", "--source", "files", "--mapping", "absent.yaml", "--path", "."), "a name that ships"),
        (("dataset", "--source", "sql"), "unknown source of a fleet 'sql'; known: simulated, files"),
        (("machines", "simulate", "--days", "0"), "days = 0.0; expected above 0, up to 400"),
    ],
    ids=[
        "problem",
        "family",
        "preset",
        "family in Airflow",
        "dataset in Airflow",
        "name of a hyper-parameter",
        "value of a hyper-parameter",
        "form of a hyper-parameter",
        "trials in Airflow",
        "shards",
        "days",
        "mapping in Airflow",
        "source of a dataset",
        "days of machines",
    ],
)
def test_a_wrong_name_is_told_before_anything_is_made_for_it(arguments: tuple[str, ...], cure: str, home: Path) -> None:
    done = pump_ml(*arguments)
    assert done.returncode == 1
    assert cure in " ".join(done.stderr.split())
    assert not home.exists()


@pytest.mark.usefixtures("crowned")
def test_a_file_of_readings_that_is_no_parquet_is_an_error_with_a_cure(tmp_path: Path) -> None:
    plain = tmp_path / "readings.csv"
    plain.write_text("asset_id,time\n")
    done = pump_ml("predict", "--model", MODEL, "--readings", str(plain))
    assert done.returncode == 1
    assert "is no Parquet file; `pump-ml dataset --source files` makes one" in " ".join(done.stderr.split())
