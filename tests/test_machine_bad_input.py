"""Telemetry as plants really have it, from the table to a model: each flaw has its error or its handling."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pump_ml import steps
from pump_ml.connections import connect
from pump_ml.errors import (
    ConfigurationError,
    ContractError,
    DataError,
    FleetError,
    SourceError,
    TooFewReadingsError,
    UnknownNameError,
)
from pump_ml.machines.policy import Policy, load_policy
from pump_ml.machines.training import ModelFactory, Outcome
from pump_ml.registry import connect as connect_mlflow
from pump_ml.settings import CHECKOUT, Settings
from pump_ml.sources import plant as plants
from pump_ml.sources import telemetry_table
from pump_ml.twin import sets

START, DAYS = datetime(2026, 3, 26, tzinfo=UTC), 6.0
"""In the night to 29 March clocks in Europe go forward."""
MACHINE = sets.fleet(4, seed=5)[3]
Table = Callable[[pd.DataFrame], bool]


def quick() -> Policy:
    """Learns little, fast."""
    policy = load_policy()
    forecast = policy.forecast.model_copy(update={"windows": 400, "epochs": 1})
    return policy.model_copy(
        update={"forecast": forecast, "alarm": policy.alarm.model_copy(update={"rounds": 10, "folds": 2})}
    )


def train(kind: str) -> Outcome:
    return ModelFactory(kind, MACHINE.name, policy=quick()).train()


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return sets.simulate(MACHINE, START, DAYS, seed=6)


@pytest.fixture
def fill(home: Path) -> Table:
    """Writes telemetry into the embedded table."""
    home.mkdir()
    engine = connect(Settings.load().telemetry, variable="PUMP_ML_TELEMETRY_URL", make=True)
    telemetry_table.create(engine)
    return partial(telemetry_table.append, engine)


@pytest.mark.parametrize("kind", ["gru", "xgb"])
@pytest.mark.parametrize("value", [np.nan, 40.0], ids=["empty", "constant"])
def test_a_sensor_that_tells_nothing_keeps_no_model_from_being_trained(
    frame: pd.DataFrame, fill: Table, kind: str, value: float
) -> None:
    fill(frame.assign(Cool_T=value))
    assert train(kind).outcome == "trained"


def test_a_forecast_names_the_sensor_of_its_score_that_is_empty_and_the_alarm_goes_without(
    frame: pd.DataFrame, fill: Table
) -> None:
    fill(frame.assign(Oil_P=np.nan))
    with pytest.raises(DataError, match="Oil_P"):
        train("gru")
    assert train("xgb").outcome == "trained"


def test_a_sensor_of_the_score_that_does_not_move_keeps_no_forecast_from_being_trained(
    frame: pd.DataFrame, fill: Table
) -> None:
    fill(frame.assign(Oil_L=60.0))
    assert train("gru").outcome == "trained"


@pytest.mark.parametrize("kind", ["gru", "xgb"])
def test_one_row_is_too_few(frame: pd.DataFrame, fill: Table, kind: str) -> None:
    fill(frame.head(1))
    with pytest.raises(TooFewReadingsError, match="1 readings with a time; expected two or more"):
        train(kind)


def test_of_one_day_there_is_a_forecast_and_for_an_alarm_there_are_no_failures(
    frame: pd.DataFrame, fill: Table
) -> None:
    fill(frame[frame["timestamp"] < START + pd.Timedelta(days=1)])
    assert train("gru").outcome == "trained"
    found = train("xgb")
    assert (found.outcome, found.model) == ("no failures", None)
    assert "choose a longer period" in found.reason


def test_a_machine_that_stood_still_has_nothing_to_learn_from(frame: pd.DataFrame, fill: Table) -> None:
    fill(frame.assign(Eng_RPM=0.0, running=0.0))
    with pytest.raises(TooFewReadingsError, match="has no window"):
        train("gru")
    assert train("xgb").outcome == "no failures"


@pytest.mark.parametrize("kind", ["gru", "xgb"])
def test_rows_out_of_order_or_told_twice_change_no_model(frame: pd.DataFrame, fill: Table, kind: str) -> None:
    rng = np.random.default_rng(1)
    twice = frame.iloc[rng.choice(len(frame), 500, replace=False)]
    fill(pd.concat([frame, twice]).sample(frac=1.0, random_state=1, ignore_index=True))
    shuffled = train(kind)
    assert shuffled.model is not None
    Settings.load().home.joinpath("telemetry.db").unlink()
    engine = connect(Settings.load().telemetry, variable="PUMP_ML_TELEMETRY_URL", make=True)
    telemetry_table.create(engine)
    telemetry_table.append(engine, frame)
    ordered = train(kind)
    assert ordered.model is not None
    assert shuffled.model.metrics == ordered.model.metrics


def test_a_column_that_is_missing_is_named(frame: pd.DataFrame, home: Path) -> None:
    home.mkdir()
    engine = connect(Settings.load().telemetry, variable="PUMP_ML_TELEMETRY_URL", make=True)
    text = frame.assign(timestamp=frame["timestamp"].map(lambda time: time.isoformat()))
    text.drop(columns="Eng_RPM").to_sql("processed_data", engine, index=False)
    with pytest.raises(SourceError, match="Eng_RPM"):
        train("xgb")


def test_times_of_several_zones_and_across_a_change_of_the_clocks_are_the_same_moments(
    frame: pd.DataFrame, fill: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(frame)
    expected = train("xgb")
    assert expected.model is not None
    url = f"sqlite:///{tmp_path / 'zones.db'}"
    lisbon = frame["timestamp"].dt.tz_convert("Europe/Lisbon")
    text = [time.isoformat() for time in lisbon]
    text[::3] = [time.isoformat() for time in frame["timestamp"].dt.tz_convert("America/Sao_Paulo")[::3]]
    assert len({time[-6:] for time in text}) == 3
    frame.assign(timestamp=text).to_sql("processed_data", connect(url, variable="x", make=True), index=False)
    monkeypatch.setenv("PUMP_ML_TELEMETRY_URL", url)
    found = train("xgb")
    assert found.model is not None
    assert found.model.metrics == expected.model.metrics


def test_the_outcome_and_the_run_tell_how_many_rows_broke_which_rule(frame: pd.DataFrame, fill: Table) -> None:
    clean = frame.drop_duplicates("timestamp").ffill().bfill().assign(Oil_P=4.0, Cool_T=np.nan)
    clean.loc[clean.index[10:17], "Oil_P"] = -1e5
    clean.loc[clean.index[20:23], "Oil_P"] = np.nan
    fill(clean)
    found = train("xgb")
    told = {
        rule: rows for rule, rows in found.to_json()["broken_rules"].items() if rule.startswith(("Oil_P", "Cool_T"))
    }
    assert told == {"Oil_P-limits": 7, "Oil_P-given": 3}, "a sensor that the machine does not have breaks no rule"
    assert found.model is not None
    parameters = connect_mlflow(Settings.load()).get_run(found.model.mlflow_run).data.params
    assert parameters["validation.Oil_P-limits"] == "7"


def own_rule(folder: Path, **rule: object) -> None:
    """The shipped suites and another rule of `telemetry`, in a folder."""
    shutil.copytree(CHECKOUT / "expectations", folder)
    suite = json.loads((folder / "telemetry.json").read_text())
    suite["expectations"].append(rule)
    (folder / "telemetry.json").write_text(json.dumps(suite))


@pytest.fixture
def median(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the median of a sensor must be, in suites of the plant's own."""

    def asked(sensor: str, low: float, high: float, severity: str) -> None:
        own_rule(
            tmp_path / "suites",
            type="expect_column_median_to_be_between",
            kwargs={"column": sensor, "min_value": low, "max_value": high},
            severity=severity,
            meta={"id": f"{sensor}-usual", "reason": "Half of it is the voltage of another plant."},
        )
        monkeypatch.setenv("PUMP_ML_EXPECTATIONS", str(tmp_path / "suites"))

    return asked


def test_a_rule_of_the_plants_contract_keeps_a_machine_from_being_trained_and_says_why(
    frame: pd.DataFrame, fill: Table, median: Callable[..., None]
) -> None:
    median("Bat_V", 20, 32, "critical")
    fill(frame.assign(Bat_V=frame["Bat_V"] / 2))
    with pytest.raises(ContractError, match=r"Bat_V-usual: 1[0-9]\.\d+.*Half of it is the voltage"):
        train("xgb")


def test_a_broken_contract_fails_the_machine_alone(
    frame: pd.DataFrame, fill: Table, median: Callable[..., None]
) -> None:
    median("Bat_V", 20, 32, "critical")
    day = frame[frame["timestamp"] < START + pd.Timedelta(days=1)]
    fill(day)
    fill(day.assign(motor_pump="MP-X", Bat_V=day["Bat_V"] / 2))
    steps.plan_machines("contract", kinds=["xgb"])
    with pytest.raises(FleetError, match=r"(?s)1 of 2 failed, the others were trained: MP-X.*Bat_V-usual"):
        steps.train_batch("contract", 0)
    assert {each["machine"]: each["outcome"] for each in steps.read_outcomes("contract")} == {
        MACHINE.name: "no failures",
        "MP-X": "failed",
    }


def test_a_rule_about_the_whole_table_counts_where_it_is_not_of_the_contract(
    frame: pd.DataFrame, fill: Table, median: Callable[..., None]
) -> None:
    median("Bat_V", 20, 32, "warning")
    day = frame[frame["timestamp"] < START + pd.Timedelta(days=1)]
    fill(day.assign(Bat_V=day["Bat_V"] / 2))
    assert train("xgb").broken_rules["Bat_V-usual"] == len(day)


def test_a_rule_about_a_sensor_that_the_machine_does_not_have_is_left_out(
    frame: pd.DataFrame, fill: Table, median: Callable[..., None]
) -> None:
    median("Cool_T", 20, 100, "critical")
    fill(frame[frame["timestamp"] < START + pd.Timedelta(days=1)].assign(Cool_T=np.nan))
    assert not any("Cool_T" in rule for rule in train("xgb").broken_rules)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"type": "expect_column_medain_to_be_between", "kwargs": {"column": "Bat_V"}}, "expect_column_medain"),
        ({"type": "expect_column_values_to_be_unique", "kwargs": {"column": "Bat_U"}}, "Bat_U.*Did you mean 'Bat_V'"),
    ],
    ids=["unknown type", "unknown column"],
)
def test_a_suite_that_cannot_be_used_fails_the_plan(
    frame: pd.DataFrame,
    fill: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: dict[str, object],
    told: str,
) -> None:
    fill(frame.head(100))
    own_rule(tmp_path / "suites", **rule, severity="critical", meta={"id": "own", "reason": "A typing error."})
    monkeypatch.setenv("PUMP_ML_EXPECTATIONS", str(tmp_path / "suites"))
    with pytest.raises(ConfigurationError, match=told):
        steps.plan_machines("misspelt")
    assert not (Settings.load().data / "machines").exists()


def test_a_plant_whose_suite_is_not_there_is_refused_before_any_machine_is_trained(
    frame: pd.DataFrame, fill: Table, tmp_path: Path
) -> None:
    fill(frame.head(100))
    shipped = (plants.SHIPPED / "processed_data.yaml").read_text()
    (tmp_path / "plant.yaml").write_text(f"{shipped}suite: telemetri\n")
    with pytest.raises(UnknownNameError, match="telemetri"):
        steps.plan_machines("misspelt", plant=str(tmp_path / "plant.yaml"))
    assert not (Settings.load().data / "machines").exists()
