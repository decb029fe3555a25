"""A fleet's machines in batches: each has an outcome, one that fails fails alone, a retry does the rest, all count."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from pump_ml import cli, steps
from pump_ml.connections import connect
from pump_ml.errors import (
    ConfigurationError,
    FleetError,
    PumpMLError,
    SourceError,
    StackError,
    StorageFullError,
    TooFewReadingsError,
    UnknownNameError,
)
from pump_ml.local import commands
from pump_ml.local.stack import StackConfig
from pump_ml.machines import records
from pump_ml.machines.policy import load_policy
from pump_ml.machines.training import ModelFactory, Outcome
from pump_ml.settings import CHECKOUT, Settings
from pump_ml.sources import plant as plants
from pump_ml.sources import sql, telemetry_table
from pump_ml.twin import sets

START = datetime(2026, 3, 1, tzinfo=UTC)
CALM, OTHER, TRIPS = sets.fleet(5, seed=5)[0], sets.fleet(5, seed=5)[1], sets.fleet(4, seed=5)[3]
"""Two of a day without a trip, and one of ten days with trips; alphabetical."""
ABSENT = "MP-009"
KEY = "test/fleet"


@pytest.fixture(scope="module")
def frames() -> list[pd.DataFrame]:
    days = {CALM: 1.0, OTHER: 1.0, TRIPS: 10.0}
    return [sets.simulate(machine, START, length, seed=5) for machine, length in days.items()]


@pytest.fixture
def table(frames: list[pd.DataFrame], home: Path) -> Engine:
    home.mkdir()
    engine = connect(Settings.load().telemetry, variable=sql.VARIABLE, make=True)
    telemetry_table.create(engine)
    for frame in frames:
        telemetry_table.append(engine, frame)
    return engine


@pytest.fixture
def quick(tmp_path: Path) -> str:
    """Path of a policy that learns little."""
    policy = load_policy()
    few = policy.model_copy(update={"alarm": policy.alarm.model_copy(update={"rounds": 40, "folds": 2})})
    (tmp_path / "quick.yaml").write_text(few.model_dump_json())  # JSON is YAML
    return str(tmp_path / "quick.yaml")


def names(*machines: sets.MotorPumpSet) -> list[str]:
    return [each.name for each in machines]


# The plan


def plan(**changes: Any) -> list[dict[str, Any]]:
    asked: dict[str, Any] = {"kinds": ["xgb"], "start": "2026-03-01", "end": "2026-03-12T00:00:00+00:00"}
    return steps.plan_machines(KEY, **asked | changes)


@pytest.mark.usefixtures("table")
def test_unset_all_machines_of_the_period_and_all_kinds_are_trained() -> None:
    assert [each["name"] for each in plan(kinds=None)] == [
        f"{CALM.name} … {TRIPS.name} gru (3)", f"{CALM.name} … {TRIPS.name} xgb (3)",
    ]  # fmt: skip
    late = steps.plan_machines("test/late", kinds=["xgb"], start="2026-03-05", batch_s=0.0)
    assert late == [{"number": 0, "name": f"{TRIPS.name} xgb"}]


def test_rows_are_counted_in_the_period_and_of_the_machines_asked_for(table: Engine) -> None:
    assert table
    everything = sql.counts()
    assert list(everything) == names(CALM, OTHER, TRIPS)
    assert everything[TRIPS.name] > 5 * everything[CALM.name]
    assert sql.counts(start=START + timedelta(days=5)) == sql.counts(
        machines=[TRIPS.name], start=START + timedelta(days=5)
    )
    assert sql.counts(machines=["MP-001'; DROP TABLE processed_data; --"]) == {}
    assert sql.counts() == everything


@pytest.mark.usefixtures("table")
def test_a_second_try_finds_the_plan_though_now_is_later_and_another_question_is_refused() -> None:
    first = plan(end=None, start=None, days=36_500.0)
    assert plan(end=None, start=None, days=36_500.0) == first
    with pytest.raises(ConfigurationError, match=r"was planned with kinds = \['xgb'\], not \['gru'\]"):
        plan(end=None, start=None, days=36_500.0, kinds=["gru"])


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"start": "last week"}, ConfigurationError, "start of the period = 'last week'; expected a time in ISO 8601"),
        ({"end": "2026-02-30"}, ConfigurationError, "end of the period = '2026-02-30'"),
        ({"start": "2026-04-01"}, ConfigurationError, "is not before end"),
        ({"start": None, "days": 0.0}, ConfigurationError, "days = 0; expected more than 0"),
        ({"start": None, "days": 1e6}, ConfigurationError, "begins after the year 1"),
        ({"start": "2020-01-01", "end": "2020-02-01"}, SourceError, "no machine has a row from 2020-01-01"),
        ({"kinds": ["cnn"]}, UnknownNameError, "unknown kind of machine model 'cnn'; known: gru, xgb"),
        ({"least_share": 1.5}, ConfigurationError, "least_share = 1.5; expected a share from 0 to 1"),
        ({"policy": "absent.yaml"}, ConfigurationError, "absent.yaml does not exist"),
    ],
    ids=["text", "day that is none", "order", "no days", "too many days", "empty period", "kind", "share", "policy"],
)
def test_what_cannot_be_planned_is_named(changes: dict[str, Any], error: type[PumpMLError], message: str) -> None:
    with pytest.raises(error, match=message):
        plan(**changes)
    with pytest.raises(ConfigurationError, match="has no plan"):
        steps.train_batch(KEY, 0)


def test_the_address_of_the_telemetry_is_not_kept_since_it_may_hold_a_password(table: Engine, home: Path) -> None:
    plan(url=table.url.render_as_string(hide_password=False))
    with pytest.raises(FleetError):
        steps.roll_up(KEY)
    written = [path.read_text() for path in (home / "data").rglob("*.json")]
    assert len(written) == 2
    assert "telemetry.db" not in "".join(written)


# Training


def outcomes() -> dict[str, str]:
    return {each["machine"]: each["outcome"] for each in steps.read_outcomes(KEY)}


def test_one_machine_that_fails_fails_alone_and_a_retry_trains_that_one_only(
    table: Engine, quick: str, frames: list[pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(machines=[ABSENT, *names(CALM, TRIPS)], policy=quick)
    with pytest.raises(FleetError, match=rf"1 of 3 failed, the others were trained: {ABSENT}: SourceError: .*no row"):
        steps.train_batch(KEY, 0)
    assert outcomes() == {ABSENT: "failed", CALM.name: "no failures", TRIPS.name: "trained"}
    (model,) = records.every()
    assert (model.machine, model.run_key) == (TRIPS.name, f"{KEY}/{TRIPS.name}-xgb")

    telemetry_table.append(table, frames[0].assign(motor_pump=ABSENT))
    tried: list[str] = []
    train = ModelFactory.train

    def noted(self: ModelFactory, watch: Any = None) -> Outcome:
        tried.append(self.machine)
        return train(self, watch)

    monkeypatch.setattr(ModelFactory, "train", noted)
    assert steps.train_batch(KEY, 0)["no_failures"] == 2
    assert tried == [ABSENT]
    assert outcomes()[ABSENT] == "no failures"


@pytest.mark.usefixtures("table")
def test_all_batches_read_the_table_and_learn_as_the_files_said_when_the_run_was_planned(
    quick: str, tmp_path: Path
) -> None:
    described = Path(shutil.copy(plants.SHIPPED / "processed_data.yaml", tmp_path / "plant.yaml"))
    plan(machines=names(CALM), policy=quick, plant=str(described))
    described.write_text("name: another\n")
    Path(quick).unlink()
    assert steps.train_batch(KEY, 0)["no_failures"] == 1


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """Errors that machines raise, to be filled; the others have no failures to learn from. In it, who was tried."""
    errors: dict[str, Any] = {"tried": []}

    def train(self: ModelFactory, watch: Any = None) -> Outcome:
        del watch
        errors["tried"].append(self.machine)
        if self.machine in errors:
            raise errors[self.machine]
        return Outcome(self.machine, self.kind, "no failures", "none")

    monkeypatch.setattr(ModelFactory, "train", train)
    return errors


LOST = OperationalError("SELECT 1", {}, Exception("server closed the connection"))
MANY = [f"MP-{number:03d}" for number in range(1, 7)]


@pytest.mark.usefixtures("table")
def test_an_error_that_may_heal_is_raised_as_it_is_after_the_others_were_trained(played: dict[str, Any]) -> None:
    plan(machines=MANY)
    played["MP-002"], played["MP-004"] = LOST, SourceError("no reading")
    with pytest.raises(OperationalError):
        steps.train_batch(KEY, 0)
    assert played["tried"] == MANY
    assert {each for each, outcome in outcomes().items() if outcome == "failed"} == {"MP-002", "MP-004"}
    del played["MP-002"]
    with pytest.raises(FleetError, match=r"1 of 6 failed.*MP-004: SourceError: no reading"):
        steps.train_batch(KEY, 0)
    assert played["tried"] == [*MANY, "MP-002", "MP-004"]


@pytest.mark.usefixtures("table")
def test_a_database_that_is_away_ends_the_try_at_once_and_the_next_begins_with_those_that_had_none(
    played: dict[str, Any],
) -> None:
    plan(machines=MANY)
    played |= dict.fromkeys(MANY[1:4], LOST)
    with pytest.raises(OperationalError):
        steps.train_batch(KEY, 0)
    assert played["tried"] == MANY[:3]
    played["tried"].clear()
    for name in MANY[1:4]:
        del played[name]
    assert steps.train_batch(KEY, 0)["no_failures"] == 6
    assert played["tried"] == [*MANY[3:], *MANY[1:3]]


@pytest.mark.usefixtures("table")
def test_a_machine_that_kills_its_task_costs_no_other_its_turn(played: dict[str, Any]) -> None:
    plan(machines=MANY)
    played["MP-001"] = KeyboardInterrupt()  # as a kill, it is no Exception: nothing after it runs
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            steps.train_batch(KEY, 0)
    assert played["tried"] == ["MP-001", *MANY[1:], "MP-001"]
    found = {each["machine"]: each for each in steps.read_outcomes(KEY)}
    assert {name for name, each in found.items() if each["outcome"] == "failed"} == {"MP-001"}
    assert "a try died at it" in found["MP-001"]["reason"]


@pytest.mark.usefixtures("table")
def test_a_try_that_was_taken_for_dead_does_not_undo_what_the_next_one_reached(
    played: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(machines=MANY[:1])
    alive, slow = ModelFactory.train, []

    def late(self: ModelFactory, watch: Any = None) -> Outcome:
        if slow:
            return alive(self, watch)
        slow.append(self.machine)
        steps.train_batch(KEY, 0)  # the next try, meanwhile
        raise LOST

    monkeypatch.setattr(ModelFactory, "train", late)
    with pytest.raises(OperationalError):
        steps.train_batch(KEY, 0)
    assert played["tried"] == MANY[:1]
    assert outcomes() == {"MP-001": "no failures"}


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("named", [True, False])
def test_a_machine_that_stood_still_fails_only_where_it_was_asked_for(played: dict[str, Any], named: bool) -> None:
    plan(machines=names(CALM, TRIPS) if named else None)
    played[CALM.name] = TooFewReadingsError("the train part has no window")
    if named:
        with pytest.raises(FleetError, match="has no window"):
            steps.train_batch(KEY, 0)
        return
    assert steps.train_batch(KEY, 0)["too_few"] == 1
    found = steps.roll_up(KEY)
    assert (found["too_few"], found["share"]) == (1, 1.0)


def test_rows_of_a_machine_without_a_name_are_left_out(table: Engine, frames: list[pd.DataFrame]) -> None:
    telemetry_table.append(table, frames[0].assign(motor_pump=" "))
    plan(machines=None)
    assert " " not in {each["machine"] for each in steps.read_outcomes(KEY)}
    with pytest.raises(ConfigurationError, match="machine ' ' has no name"):
        steps.plan_machines("test/blank", machines=[" "])


@pytest.mark.usefixtures("table")
def test_a_full_disk_ends_the_batch(played: dict[str, Any]) -> None:
    plan(machines=MANY)
    played["MP-002"] = OSError(28, "No space left on device")
    with pytest.raises(StorageFullError):
        steps.train_batch(KEY, 0)
    assert played["tried"] == MANY[:2]


@pytest.mark.usefixtures("table", "played")
def test_the_share_of_a_batch_that_is_done_grows_to_all() -> None:
    plan(machines=MANY)
    shares: list[float] = []
    steps.train_batch(KEY, 0, progress=lambda _, share: shares.append(share))
    assert shares == pytest.approx([number / 6 for number in range(1, 7)])


# The roll-up


@pytest.mark.usefixtures("table")
def test_a_machine_that_no_try_came_to_counts_as_failed(played: dict[str, Any]) -> None:
    assert played
    plan(machines=MANY, batch_s=0.0)
    steps.train_batch(KEY, 0)
    with pytest.raises(FleetError, match=r"0 of 6 trained, 1 without failures to learn from, 5 failed: a share of 0"):
        steps.roll_up(KEY)
    told = {each["machine"]: each["reason"] for each in steps.read_outcomes(KEY)}
    assert "no try of the batch 'MP-006 xgb' came to it" in told["MP-006"]


@pytest.mark.parametrize(("least", "fails"), [(0.5, False), (0.51, True)], ids=["reached", "not reached"])
def test_the_run_fails_below_the_stated_share_of_those_that_could_be_trained(
    table: Engine, quick: str, home: Path, least: float, fails: bool
) -> None:
    assert table
    plan(machines=[*names(CALM, TRIPS), ABSENT], policy=quick, least_share=least)
    with pytest.raises(FleetError):
        steps.train_batch(KEY, 0)
    if fails:
        with pytest.raises(FleetError, match=rf"1 of 3 trained.*expected 0\.51 or more.*{ABSENT} xgb: SourceError"):
            steps.roll_up(KEY)
    else:
        assert steps.roll_up(KEY)["share"] == 0.5
    (file,) = (home / "data" / "machines").glob("*/summary.json")
    found = json.loads(file.read_text())
    assert (found["planned"], found["trained"], found["no_failures"], found["failed"]) == (3, 1, 1, 1)
    assert found["kinds"]["xgb"]["champions"] == 1
    assert 0.0 <= found["kinds"]["xgb"]["median"]["f1"] <= 1.0


# From a shell


def shell(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "160"})


@pytest.mark.usefixtures("table")
def test_many_machines_are_trained_from_a_shell_and_taken_up_again_by_the_name_of_the_run(
    quick: str, home: Path
) -> None:
    asked = ("train-machines", *names(CALM, TRIPS), "--kind", "xgb", "--policy", quick, "--run", "test/cli")
    done = shell(*asked)
    assert done.exit_code == 0, done.output
    assert "xgb: 1 of 2 trained, 1 without failures to learn from, 0 failed; 1 became champion" in done.stdout
    assert shell(*asked).exit_code == 0
    assert len(list(records.every())) == 1
    missing = shell("train-machines", ABSENT, "--kind", "xgb", "--url", f"sqlite:///{home / 'telemetry.db'}")
    assert isinstance(missing.exception, FleetError)
    assert "0 of 1 trained, 1 failed" in missing.stdout


def test_machines_that_are_there_are_not_simulated_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("machines", "simulate", "--machines", "2", "--days", "0.2", "--seed", "5")
    assert shell(*asked).exit_code == 0
    simulate = sets.simulate
    made: list[str] = []

    def noted(machine: sets.MotorPumpSet, *arguments: Any) -> pd.DataFrame:
        made.append(machine.name)
        return simulate(machine, *arguments)

    monkeypatch.setattr(sets, "simulate", noted)
    third = shell("machines", "simulate", "--machines", "3", "--days", "0.2", "--seed", "5", "--skip-present")
    assert third.stdout.split() == ["MP-001", "MP-002", "MP-003"]
    assert made == ["MP-003"]
    longer = shell("machines", "simulate", "--machines", "1", "--days", "2", "--seed", "5", "--skip-present")
    assert "has other telemetry of machine 'MP-001'" in str(longer.exception)
    assert home.exists()


# In Airflow


@pytest.mark.stack
@pytest.mark.usefixtures("table")
def test_airflow_trains_a_task_a_batch_and_the_roll_up_decides_the_run(
    quick: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(commands.Clock, "say", lambda _, line: lines.append(line))
    config = StackConfig(home, CHECKOUT / "dags", CHECKOUT / "plugins", airflow_port=28090)
    asked = {"machines": [*names(CALM, TRIPS), ABSENT], "kinds": ["xgb"], "days": None, "policy": quick}
    found = commands.run_machines(asked | {"least_share": 0.5}, config=config)
    assert (found["trained"], found["no_failures"], found["failed"], found["share"]) == (1, 1, 1, 0.5)
    for line in ("machines  plan  success", f"machines  train[{CALM.name} … {ABSENT} xgb (3)]  failed",
                 "machines  roll_up  success", "machines  success"):  # fmt: skip
        assert line in lines
    (model,) = records.every()
    assert model.run_key == f"{found['run']}/{TRIPS.name}-xgb"
    assert [each["machine"] for each in steps.read_outcomes(found["run"]) if each["outcome"] == "failed"] == [ABSENT]
    with pytest.raises(StackError, match=r"(?s)DAG machines failed.*roll_up.*expected 0\.9 or more"):
        commands.run_machines(asked | {"least_share": 0.9}, config=config)
