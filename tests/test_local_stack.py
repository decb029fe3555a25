import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from pump_ml.errors import StackError
from pump_ml.local import commands, processes, stack
from pump_ml.local.record import Record, Spec
from pump_ml.local.stack import StackConfig

DAGS = """
import subprocess
import sys

from airflow.sdk import DAG, Asset, Param, task

READY = Asset("dataset")

with DAG("dataset", schedule=None, params={"rows": Param(10, type="integer", minimum=1)}):

    @task(outlets=[READY])
    def snapshot(params: dict) -> dict:
        return {"snapshot": "key-1", "rows": params["rows"], "docs": "docs.html"}

    snapshot()

with DAG("training", schedule=[READY], params={"snapshot": None, "then": "succeed"}):

    @task(pool="training", map_index_template="{{ task.op_kwargs['family'] }}")
    def train(family: str, params: dict) -> str:
        if params["then"] == "hang":
            subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"], env={}, start_new_session=True)
        if params["then"] == "fail" and family == "gru":
            print("epoch 3 of 10")
            try:
                [][0]
            except IndexError as error:
                raise ValueError("given 0 windows, expected at least 1") from error
        return family

    @task
    def report(trained: list, params: dict) -> dict:
        return {"snapshot": params["snapshot"], "trained": list(trained)}

    report(train.expand(family=["cnn1d", "gru"]))
"""
SLEEP = ["sleep", "600"]


def carriers(variable: str, value: Path) -> list[int]:
    """Processes with this environment variable, found without the code under test."""
    wanted, found = f"{variable}={value}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def eventually(holds: Callable[[], object], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(holds())


def spawn(command: list[str], **options: Any) -> "subprocess.Popen[Any]":
    return subprocess.Popen(command, **options)  # noqa: S603 - words of this file


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# --- without Airflow: the supervisor holds any group of processes -----------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Iterator[StackConfig]:
    config = StackConfig(home=tmp_path / "var", dags=tmp_path, plugins=tmp_path / "plugins")
    (config.home / "logs").mkdir(parents=True)
    yield config
    stack.stop(config)


@pytest.fixture
def supervise(config: StackConfig) -> Iterator[Callable[..., Record]]:
    started: list[subprocess.Popen[Any]] = []

    def start(owner: int | None = None, **components: list[str]) -> Record:
        spec = Spec(config.home, components, "http://127.0.0.1:1", None, schedule=False, owner=owner)
        command = [sys.executable, "-m", "pump_ml.local.supervisor", spec.to_json()]
        started.append(spawn(command, env={**os.environ, processes.MARK: str(config.home)}))
        assert eventually(lambda: Record.read(config.home))
        record = Record.read(config.home)
        assert record
        return record

    yield start
    stack.stop(config)
    for process in started:
        process.wait(20)


def test_stop_ends_children_in_other_sessions_and_with_a_clean_environment(
    config: StackConfig, supervise: Callable[..., Record], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script = f"env -i setsid sleep 600 & echo $! >> {pids}; setsid sleep 600 & echo $! >> {pids}; sleep 600"
    record = supervise(one=["bash", "-c", script], two=SLEEP)
    assert eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    everybody = [record.supervisor, *record.pids.values(), *map(int, pids.read_text().split())]
    assert all(map(alive, everybody))

    assert stack.stop(config)
    assert not any(map(alive, everybody))
    assert stack.running(config) is None
    assert not stack.stop(config), "a second stop finds nothing to do"


def test_stop_ends_orphans_of_a_supervisor_that_was_killed(
    config: StackConfig, supervise: Callable[..., Record]
) -> None:
    record = supervise(one=SLEEP, two=["bash", "-c", "trap '' TERM; while true; do sleep 1; done"])
    os.kill(record.supervisor, signal.SIGKILL)
    assert eventually(lambda: not alive(record.supervisor))
    assert stack.running(config) is None
    assert stack.stop(config)
    assert not any(map(alive, record.pids.values()))


def test_a_component_that_dies_ends_the_others_and_leaves_its_name_and_last_words(
    config: StackConfig, supervise: Callable[..., Record]
) -> None:
    record = supervise(scheduler=["bash", "-c", "sleep 1; echo no such table: dag; exit 3"], other=SLEEP)
    assert eventually(lambda: not alive(record.supervisor))
    assert not alive(record.pids["other"])
    with pytest.raises(
        StackError, match=r"scheduler ended with exit code 3(?s:.*)scheduler\.log(?s:.*)no such table: dag"
    ):
        stack.check(config)


def test_a_stack_ends_with_the_process_that_owns_it(config: StackConfig, supervise: Callable[..., Record]) -> None:
    with spawn(SLEEP) as owner:
        record = supervise(owner=owner.pid, one=SLEEP)
        with pytest.raises(StackError, match=f"process {owner.pid} is using the stack"):
            commands.run({}, {}, config=config)
        owner.kill()
    assert eventually(lambda: not alive(record.supervisor) and not alive(record.pids["one"]))
    assert stack.running(config) is None


def test_a_record_left_by_a_crash_never_costs_a_recycled_process_id_its_life(config: StackConfig) -> None:
    with spawn(SLEEP) as innocent:
        Record(
            home=config.home,
            supervisor=innocent.pid,
            pids={"scheduler": innocent.pid},
            airflow="http://127.0.0.1:1",
            mlflow=None,
            schedule=True,
            owner=None,
            started=time.time(),
        ).write()
        assert stack.running(config) is None
        assert not stack.stop(config)
        assert alive(innocent.pid)
        innocent.kill()
    assert Record.read(config.home) is None


def test_a_record_that_cannot_be_read_counts_as_none(config: StackConfig) -> None:
    file = config.home / "run" / "stack.json"
    file.parent.mkdir()
    file.write_text('{"home": ')
    assert stack.running(config) is None
    assert not stack.stop(config)
    assert not file.exists()


def test_without_a_dag_folder_nothing_is_started(tmp_path: Path) -> None:
    config = StackConfig(home=tmp_path / "var", dags=tmp_path / "none", plugins=tmp_path)
    with pytest.raises(StackError, match=r"no DAG folder at .*none"):
        commands.run({}, {}, config=config)
    assert not config.home.exists()


def test_status_and_stop_say_so_when_nothing_runs(
    config: StackConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not commands.status(config=config)
    (tmp_path / "Makefile").touch()
    assert not commands.status(config=config)
    commands.stop(config=config)
    assert capsys.readouterr().out.splitlines() == [
        "not running; start it with `pump-ml local ui`",
        "not running; start it with `make ui`",
        "nothing was running",
    ]


# --- with Airflow -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackConfig]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "dags").mkdir()
    (folder / "dags" / "tiny.py").write_text(DAGS)
    (folder / "dags" / "broken.py").write_text("from airflow.sdk import dag\n\nimport no_such_library\n")
    config = StackConfig(folder / "var", folder / "dags", folder / "plugins", airflow_port=28080, mlflow_port=25000)
    yield config
    stack.stop(config)


@pytest.fixture(scope="module")
def finished(project: StackConfig) -> tuple[dict[str, Any], str]:
    """The report and the progress lines of a whole `run` in a new folder, while somebody has the wished port."""
    with socket.create_server(("127.0.0.1", project.airflow_port)), pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr(commands.Clock, "say", lambda _, line: lines.append(line))
        report = commands.run({"rows": 5}, {}, config=project)
    return report, "\n".join(lines)


@pytest.fixture(scope="module")
def up(project: StackConfig, finished: object) -> Iterator[StackConfig]:
    """The stack of `ui`, in a folder that was used before."""
    assert finished
    migrated = (project.home / "logs" / "migrate.log").stat().st_mtime_ns
    commands.ui(config=project)
    assert (project.home / "logs" / "migrate.log").stat().st_mtime_ns == migrated, "no second migration"
    yield project
    stack.stop(project)


def runs(config: StackConfig, dag: str) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(config.airflow_home / "airflow.db")) as database:
        return database.execute("select run_type, state from dag_run where dag_id = ? order by id", (dag,)).fetchall()


@pytest.mark.stack
def test_run_starts_airflow_runs_both_dags_and_returns_the_report(finished: tuple[dict[str, Any], str]) -> None:
    report, lines = finished
    assert report == {"snapshot": "key-1", "trained": ["cnn1d", "gru"]}
    assert "port 28080 is taken, so Airflow uses 28081" in lines
    for line in (
        "dataset  snapshot  success",
        "training  train[cnn1d]  success",
        "training  train[gru]  success",
        "training  report  success",
    ):
        assert line in lines


@pytest.mark.stack
@pytest.mark.usefixtures("finished")
def test_after_run_no_process_is_left(project: StackConfig) -> None:
    assert carriers("AIRFLOW_HOME", project.airflow_home) == []


@pytest.mark.stack
@pytest.mark.usefixtures("finished")
def test_a_new_dataset_starts_no_second_training_beside_the_one_asked_for(project: StackConfig) -> None:
    assert runs(project, "training") == [("manual", "success")]


@pytest.mark.stack
@pytest.mark.usefixtures("finished")
def test_secrets_are_readable_by_their_owner_only(project: StackConfig) -> None:
    for name in ("secrets.json", "passwords.json"):
        assert stat.S_IMODE((project.airflow_home / name).stat().st_mode) == 0o600


@pytest.mark.stack
def test_ui_prints_addresses_that_answer_and_the_login(up: StackConfig, capsys: pytest.CaptureFixture[str]) -> None:
    commands.ui(config=up)  # a second time: it joins
    shown = capsys.readouterr().out
    record = stack.check(up)
    assert f"{record.airflow}  login admin, password {stack.password(up)}" in shown
    assert f"{record.mlflow}/#/experiments" in shown
    assert "workflowType=machine_learning" in shown
    assert record.mlflow
    for address in (record.airflow, record.mlflow):
        assert "<html" in httpx.get(address, follow_redirects=True, timeout=30).text
    assert len(carriers("AIRFLOW_HOME", up.airflow_home)) >= len(record.pids) == 5
    assert commands.status(config=up)


@pytest.mark.stack
def test_every_port_of_the_stack_listens_on_this_machine_only(up: StackConfig) -> None:
    import psutil

    listening = [
        connection.laddr
        for process in processes.of_stack(up.home)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {address.ip for address in listening} == {"127.0.0.1"}


@pytest.mark.stack
def test_a_failing_task_says_why_and_the_stack_that_was_up_stays_up(up: StackConfig) -> None:
    with pytest.raises(StackError) as raised:
        commands.run({}, {"then": "fail"}, config=up)
    message = str(raised.value)
    for words in (
        "DAG training failed",
        "train[gru], try 1",
        "epoch 3 of 10",
        "ValueError: given 0 windows, expected at least 1",
        "caused by IndexError: list index out of range",
        "tiny.py",
    ):
        assert words in message
    assert Path(message.rsplit("full log: ", 1)[1]).is_file()
    assert "train[cnn1d]" not in message
    assert stack.running(up)


@pytest.mark.stack
def test_a_parameter_out_of_range_is_refused_with_airflows_reason(up: StackConfig) -> None:
    with pytest.raises(StackError, match="0 is less than the minimum of 1"):
        commands.run({"rows": 0}, {}, config=up)


@pytest.mark.stack
def test_a_dag_file_that_does_not_import_is_named_with_its_error(
    up: StackConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "BROKEN_S", 1.0)
    monkeypatch.setattr(commands, "TRAINING", "not_there")
    with pytest.raises(StackError, match=r"(?s)no DAG 'not_there'.*broken\.py.*No module named 'no_such_library'"):
        commands.run({}, {}, config=up)


@pytest.mark.stack
@pytest.mark.usefixtures("finished")
def test_a_run_that_is_terminated_ends_everything_it_started(project: StackConfig) -> None:
    stack.stop(project)
    code = (
        "import sys; from pathlib import Path; from pump_ml.local import commands, stack; home, dags = sys.argv[1:]\n"
        "config = stack.StackConfig(Path(home), Path(dags), Path(dags), airflow_port=28080)\n"
        "commands.run({}, {'then': 'hang'}, config=config)"
    )
    command = [sys.executable, "-c", code, str(project.home), str(project.dags)]
    with spawn(command, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr
        assert any("training  train[" in line and "running" in line for line in run.stderr)
        everybody = [process.pid for process in processes.of_stack(project.home)]
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 128 + signal.SIGTERM
        run.stderr.read()
    assert not any(map(alive, everybody))
    assert carriers("AIRFLOW_HOME", project.airflow_home) == []
    assert runs(project, "training")[-1] == ("manual", "failed"), "it must not go on with the next start"
