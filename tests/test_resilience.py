"""Tries that race, and tries that die between any two calls: no version is lost or doubled, no run stays open."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import postgres
import pytest
from conftest import Trained
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from pump_ml import ledger, registry, steps
from pump_ml.errors import ConfigurationError

MODEL = "pump-diagnosis"


@contextmanager
def python(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, of this test's settings, which does not outlive the block."""
    with subprocess.Popen(  # noqa: S603 - this interpreter, fixed words
        [sys.executable, "-c", code, *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # idle threads of one must not slow the other down
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def answers(processes: list[subprocess.Popen[str]]) -> list[Any]:
    """What each process prints as its last line, as JSON."""
    found = []
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        found.append(json.loads(out.splitlines()[-1]))
    return found


# The lock

HOLD = """
import sys, time
from pump_ml import ledger
with ledger.lock("model/m"):
    print("held", flush=True)
    time.sleep(600)
"""
COUNT = """
import pathlib, sys, time
from pump_ml import ledger
counter = pathlib.Path(sys.argv[1])
for _ in range(10):
    with ledger.lock("model/m"):
        found = int(counter.read_text())
        time.sleep(0.01)
        counter.write_text(str(found + 1))
print(0)
"""


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with postgres.database() as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ledger in each kind of database."""
    if request.param == "postgresql":
        monkeypatch.setenv("PUMP_ML_LEDGER_URL", request.getfixturevalue("postgresql"))
    return str(request.param)


@pytest.fixture
def on_postgresql(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUMP_ML_LEDGER_URL", postgresql)


@pytest.mark.usefixtures("either")
def test_one_process_at_a_time_is_let_in(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    with python(COUNT, str(counter)) as one, python(COUNT, str(counter)) as two, python(COUNT, str(counter)) as three:
        answers([one, two, three])
    assert counter.read_text() == "30"


@pytest.mark.usefixtures("either")
def test_who_waits_in_vain_is_told_who_holds_the_lock_and_what_to_do() -> None:
    with python(HOLD) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(TimeoutError, match=rf"waited 0.2 s for the lock 'model/m'.*:{holder.pid} .*or end it"),
            ledger.lock("model/m", wait_s=0.2),
        ):
            pass
        with ledger.lock("model/other", wait_s=0.2):
            pass


@pytest.mark.usefixtures("either")
def test_a_lock_goes_with_the_process_that_held_it() -> None:
    with python(HOLD) as holder:
        assert holder.stdout.readline() == "held\n"
        os.kill(holder.pid, signal.SIGKILL)
        begun = time.monotonic()
        with ledger.lock("model/m", wait_s=20):
            assert time.monotonic() - begun < 10


@pytest.mark.usefixtures("either")
def test_a_block_that_fails_gives_the_lock_back() -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), ledger.lock("model/m", wait_s=1):
            _ = 1 / 0


def cut() -> None:
    """End the connection that holds a lock."""
    held = (
        "SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND a.application_name LIKE 'pump_ml %'"
    )
    with ledger.engine().connect() as connection:
        assert connection.execute(text(held)).scalars().all() == [True]


@pytest.mark.usefixtures("on_postgresql")
def test_a_connection_that_is_cut_under_the_lock_is_an_error_worth_a_retry() -> None:
    with pytest.raises(OperationalError), ledger.lock("model/m"):
        cut()
    with ledger.lock("model/m", wait_s=5):
        pass


@pytest.mark.usefixtures("either")
def test_processes_that_migrate_the_ledger_at_once_all_succeed() -> None:
    migrate = "from pump_ml import ledger; ledger.prepare(); print(0)"
    with python(migrate) as one, python(migrate) as two, python(migrate) as three:
        assert answers([one, two, three]) == [0, 0, 0]
    assert ledger.find("t/none") is None


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_that_has_no_lock_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUMP_ML_LEDGER_URL", address)
    told = "cannot lock 'model/m'; give PUMP_ML_LEDGER_URL"
    with pytest.raises(ConfigurationError, match=told), ledger.lock("model/m"):
        pass


# Killed between any two calls

KILLED = """
import os, signal, sys
import mlflow
from pump_ml import ledger, registry, steps

place, name, when, command = sys.argv[1:]
owner = {"registry": registry, "ledger": ledger, "mlflow": mlflow, "client": mlflow.MlflowClient}[place]
real = getattr(owner, name)

def dying(*args, **kwargs):
    if when == "after":
        real(*args, **kwargs)
    elif when == "half":  # as somebody's click in the UI leaves it: the version of a run, without what belongs to it
        mlflow.MlflowClient().create_model_version(args[1], args[0], run_id=mlflow.active_run().info.run_id)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, dying)
exec(command)
"""


def killed(place: str, command: str) -> None:
    """Run a command in another process, which kills itself before, in or after a call."""
    when, owner, name = place.split()
    with python(KILLED, owner, name, when, command) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors


def versions_of(run: str) -> dict[str, dict[str, str]]:
    """Tags of each version that is of this MLflow run."""
    found = registry.connect().search_model_versions(f"name='{MODEL}' and run_id='{run}'")
    return {str(version.version): dict(version.tags) for version in found}


def statuses(plan: dict[str, Any]) -> dict[str, str]:
    """Status of each MLflow run of a training run, by key."""
    found = registry.connect().search_runs([plan["experiment"]], f"tags.`{registry.KEY}` LIKE '{plan['run_key']}%'")
    assert len({run.data.tags[registry.KEY] for run in found}) == len(found)
    return {run.data.tags[registry.KEY]: run.info.status for run in found}


TRAIN = "steps.train(steps.read_plan('test/killed'), 'baseline')"


@pytest.mark.parametrize(
    ("place", "state"),
    [
        pytest.param("after client create_run", "opened", id="run opened"),
        pytest.param("before registry log_predictor", "learnt", id="model learnt"),
        pytest.param("after registry log_predictor", "logged", id="model logged"),
        pytest.param("half mlflow register_model", "half", id="version without its candidate"),
        pytest.param("after mlflow register_model", "registered", id="registered under the lock"),
        pytest.param("after registry register", "registered", id="registered"),
        pytest.param("before mlflow end_run", "registered", id="run not ended"),
    ],
)
def test_a_try_that_is_killed_leaves_one_version_of_its_family_and_no_open_run(
    place: str, state: str, crowned: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/killed", families=(), preset="quick")
    killed(place, TRAIN)
    with caplog.at_level("INFO"):
        candidate = steps.train(plan, "baseline")
    assert ("killed, maybe out of memory" in caplog.text) == ("registered" not in state)
    assert ("by an earlier try" in caplog.text) == ("registered" in state)
    assert candidate["validation"] == crowned.candidates[0]["validation"]
    whole, rest = candidate["version"], {"half": {"3"}}.get(state, set())
    assert {version for version, tags in versions_of(candidate["run"]).items() if registry.CANDIDATE in tags} == {whole}
    superseded = {
        version for version, tags in versions_of(candidate["run"]).items() if tags.get(registry.SUPERSEDED) == whole
    }
    assert superseded == set(versions_of(candidate["run"])) - {whole} == rest
    assert statuses(plan) == {"test/killed": "RUNNING", "test/killed/baseline": "FINISHED"}
    assert steps.train(plan, "baseline") == candidate
    assert steps.read_candidates(plan) == [candidate]
    assert steps.close("test/killed") == {"killed": 0}


@pytest.fixture
def undecided(crowned: Trained, either: str) -> Trained:  # noqa: ARG001 - the ledger is in either database
    """A training run that was evaluated, of which nothing was decided yet."""
    ledger.prepare()
    client = registry.connect()
    client.delete_registered_model_alias(MODEL, registry.CHAMPION)
    client.update_run(crowned.plan["parent"], status="RUNNING")
    with ledger.engine().begin() as connection:
        connection.execute(text("DELETE FROM promotions WHERE run_key = 'test/first'"))
    return crowned


def decided() -> list[Any]:
    with ledger.engine().connect() as connection:
        return list(
            connection.execute(text("SELECT run_key, promoted, champion_before, champion_after FROM promotions"))
        )


PROMOTE = """
import json, pathlib
plan, evaluation = json.loads(pathlib.Path({file!r}).read_text())
print(json.dumps(steps.promote(plan, evaluation)))
"""


@pytest.mark.parametrize(
    "place", ["before registry crown", "after registry crown", "before ledger record", "after ledger record"]
)
def test_a_promotion_that_is_killed_is_decided_once(place: str, undecided: Trained, tmp_path: Path) -> None:
    file = tmp_path / "given.json"
    file.write_text(json.dumps([undecided.plan, undecided.evaluation]))
    killed(place, PROMOTE.format(file=str(file)))
    decision = steps.promote(undecided.plan, undecided.evaluation)
    assert decision == undecided.decision
    assert registry.champion(registry.connect(), MODEL)[0] == decision["challenger"]
    assert decided() == [("test/first", True, None, decision["challenger"])]
    assert steps.promote(undecided.plan, undecided.evaluation) == decision


@pytest.mark.parametrize("place", ["after client log_dict", "before registry close"])
@pytest.mark.parametrize("either", ["sqlite"], indirect=True)
def test_a_report_that_is_killed_is_written_again(place: str, undecided: Trained, tmp_path: Path) -> None:
    decision = steps.promote(undecided.plan, undecided.evaluation)
    file = tmp_path / "given.json"
    file.write_text(json.dumps([undecided.plan, undecided.evaluation, decision]))
    killed(place, f"import json, pathlib; steps.report(*json.loads(pathlib.Path({str(file)!r}).read_text()))")
    assert statuses(undecided.plan)["test/first"] == "RUNNING"
    again = steps.report(undecided.plan, undecided.evaluation, decision)
    assert again == undecided.report | {"data_docs": again["data_docs"]}
    assert set(statuses(undecided.plan).values()) == {"FINISHED"}


# Several tries at once

AT_ONCE = """
import json, pathlib, sys, time
from pump_ml import registry, steps
registry.connect().search_experiments()
pathlib.Path(sys.argv[1]).touch()
while len(list(pathlib.Path(sys.argv[1]).parent.glob("ready*"))) < 2:
    time.sleep(0.01)
"""


def at_once(command: str, folder: Path) -> list[Any]:
    """What a command returns in two processes that begin it together."""
    code = f"{AT_ONCE}\nprint(json.dumps({command}))"
    with python(code, str(folder / "ready1")) as one, python(code, str(folder / "ready2")) as two:
        return answers([one, two])


def test_tries_that_plan_at_once_open_one_run(crowned: Trained, tmp_path: Path) -> None:
    command = f"steps.plan({crowned.stored['snapshot']!r}, 'diagnosis', 'test/race', families=(), preset='quick')"
    one, two = at_once(command, tmp_path)
    assert one == two
    assert statuses(one) == {"test/race": "RUNNING"}


def test_tries_that_learn_at_once_register_one_version_and_return_the_same(crowned: Trained, tmp_path: Path) -> None:
    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/race", families=(), preset="quick")
    one, two = at_once("steps.train(steps.read_plan('test/race'), 'baseline')", tmp_path)
    assert one == two
    assert list(versions_of(one["run"])) == [one["version"]]
    assert statuses(plan) == {"test/race": "RUNNING", "test/race/baseline": "FINISHED"}


def test_tries_that_note_the_same_datasets_at_once_note_each_once(crowned: Trained, tmp_path: Path) -> None:
    run = registry.find_run(registry.connect(), crowned.plan["experiment"], "test/first").info.run_id
    before = len(registry.connect().get_run(run).inputs.dataset_inputs)
    command = (
        "[registry.log_dataset(__import__('pandas').DataFrame({'flow': [1.0]}), key=f'raced-{n}', content_hash='ab', "
        f"source='here', context='train', run={run!r}) for n in range(40)]"
    )
    at_once(command, tmp_path)
    assert len(registry.connect().get_run(run).inputs.dataset_inputs) == before + 40


def test_tries_that_promote_at_once_write_one_decision(undecided: Trained, tmp_path: Path) -> None:
    file = tmp_path / "given.json"
    file.write_text(json.dumps([undecided.plan, undecided.evaluation]))
    found = at_once(f"steps.promote(*json.loads(pathlib.Path({str(file)!r}).read_text()))", tmp_path)
    assert found == [undecided.decision] * 2
    assert decided() == [("test/first", True, None, undecided.decision["challenger"])]


def test_a_try_that_fails_does_not_undo_that_another_ended_well(crowned: Trained) -> None:
    client, plan = registry.connect(), crowned.plan

    def fail_late() -> None:
        with registry.child_run(client, plan["experiment"], plan["parent"], "test/late/xgb", "xgb", {}) as run:
            client.set_terminated(run, status="FINISHED")  # the other try
            raise OSError(run)

    with pytest.raises(OSError, match=r"^[0-9a-f]{32}$") as failed:
        fail_late()
    assert client.get_run(str(failed.value)).info.status == "FINISHED"


def test_a_request_that_was_sent_twice_leaves_one_version_that_counts(crowned: Trained) -> None:
    client, run = registry.connect(), crowned.candidates[0]["run"]
    first = client.get_model_version(MODEL, crowned.candidates[0]["version"])
    client.create_model_version(MODEL, first.source, run_id=run, tags=first.tags)
    assert len(versions_of(run)) == 2
    assert registry.registered(client, MODEL, run) == (str(first.version), first.tags)
    assert steps.read_candidates(crowned.plan) == crowned.candidates


def test_a_run_that_ended_well_is_not_opened_again(crowned: Trained) -> None:
    plan = steps.plan(crowned.stored["snapshot"], "diagnosis", "test/first", families=("xgb",), preset="quick")
    assert plan == crowned.plan
    assert set(statuses(plan).values()) == {"FINISHED"}


def test_calls_to_a_server_that_is_down_end_after_two_minutes_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_HTTP")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    code = (
        "import json; from pump_ml import registry; from mlflow.environment_variables import *; "
        "retries, factor = MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get(); "
        "waits = [factor * 2**number for number in range(1, retries)]; "  # urllib3 tries again at once, then waits
        "print(json.dumps([sum(waits), MLFLOW_HTTP_REQUEST_TIMEOUT.get()]))"
    )
    with python(code) as process:
        assert answers([process]) == [[124, 5]]
