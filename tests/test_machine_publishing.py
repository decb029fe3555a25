"""A machine's model is published whole or not at all: files, version, row and champion, whenever a process dies."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import mlflow
import postgres
import pytest
from conftest import empty_moto, forget_deployment, use_bucket
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from trained_machine import END, START, trained

from pump_ml import artifacts, ledger, object_store, registry, steps
from pump_ml.errors import ConfigurationError, ModelFileError, UnknownNameError
from pump_ml.machines import publishing, records
from pump_ml.machines.publishing import TrainedModel, publish, published
from pump_ml.machines.records import StoredModel
from pump_ml.settings import Settings

MOMENT = datetime(2026, 11, 22, 10, 15, 3, tzinfo=UTC)
AGREE = {
    "finished": [], "busy": [], "failed": {}, "files_without_row": [], "files_missing": [], "files_altered": [],
    "versions_without_row": [], "versions_missing": [], "agree": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose databases are made and empty."""
    folder = tmp_path_factory.mktemp("template") / "var"
    with pytest.MonkeyPatch.context() as patch:
        forget_deployment(patch)
        patch.setenv("PUMP_ML_VAR", str(folder))
        registry.prepare()
        ledger.prepare()
    return folder


@pytest.fixture(autouse=True)
def home(home: Path, template: Path) -> Path:
    shutil.copytree(template, home)
    return home


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with postgres.database() as address:
        yield address


@pytest.fixture
def on_postgresql(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ledger in an empty PostgreSQL."""
    monkeypatch.setenv("PUMP_ML_LEDGER_URL", postgresql)
    with create_engine(postgresql).begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    return postgresql


def table(columns: str = "*") -> list[tuple[Any, ...]]:
    """Rows of the table, by plain SQL."""
    with ledger.engine().connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM models ORDER BY id"))]  # noqa: S608


def on_disk(home: Path) -> set[str]:
    return {path.name for path in (home / "artifacts" / "models").glob("*")}


def is_whole(key: str = "t/1", machine: str = "P-101", kind: str = "gru", models: int = 1) -> StoredModel:
    """See that a model is there once, with all that belongs to it, and that nothing else is."""
    client = registry.connect()
    assert steps.reconcile_machines() == AGREE
    stored = records.find(key)
    assert stored is not None
    assert len(table()) == models
    store = artifacts.store()
    for role, file in stored.files.items():
        assert store.read(file.key).content == f"{role} of {key}".encode()
    assert len(store.sizes(artifacts.models_folder(store))) == models * len(artifacts.NAMES[kind])
    name = f"machine-{artifacts.safe_name(machine)}-{kind}"
    mine = [v for v in client.search_model_versions(f"name = '{name}'") if v.run_id == stored.mlflow_run]
    assert [str(version.version) for version in mine] == [stored.model_version]
    experiment = client.get_experiment_by_name("machines").experiment_id
    runs = client.search_runs([experiment], f"tags.`{registry.KEY}` = '{key}'")
    assert [(run.info.run_id, run.info.status) for run in runs] == [(stored.mlflow_run, "FINISHED")]
    logged = client.search_logged_models([experiment], f"source_run_id = '{stored.mlflow_run}'")
    assert [str(model.status) for model in logged] == ["READY"]
    assert not publishing.outbox.waiting(Settings.load())
    return stored


def champion(machine: str = "P-101", kind: str = "gru") -> str | None:
    found = registry.machine_champion(registry.connect(), f"machine-{artifacts.safe_name(machine)}-{kind}")
    return found and found.version


# What is there afterwards


@pytest.mark.usefixtures("on_postgresql")
def test_bucket_and_table_hold_what_the_plants_systems_read(
    s3: Any, on_postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_now", lambda: MOMENT)
    publish(trained())
    publish(trained("t/2", "xgb", machine="Bomba 7"))
    found = {each["Key"] for each in s3.list_objects_v2(Bucket="models", Delimiter="/")["Contents"]}
    safe = artifacts.safe_name("Bomba 7")
    assert found == {
        "gru_model_weights_P-101_2026_11_22_10_15_03.h5",
        "gru_model_scaler_P-101_2026_11_22_10_15_03.pkl",
        "gru_model_P-101_2026_11_22_10_15_03.keras",
        "gru_model_scaler_P-101_2026_11_22_10_15_03.json",
        f"xgb_model_{safe}_2026_11_22_10_15_03.pkl",
        f"xgb_model_{safe}_2026_11_22_10_15_03.ubj",
        f"xgb_model_{safe}_2026_11_22_10_15_03.json",
    }
    query = (
        "SELECT id, machine_name, model_type, bucket_address, data_start_date, data_end_date, metrics, sha256, "
        "mlflow_run, created_at FROM models ORDER BY id"
    )
    with create_engine(on_postgresql).connect() as connection:
        one, two = connection.execute(text(query)).mappings()
    assert (one["id"], one["machine_name"], one["model_type"]) == (1, "P-101", "gru")
    assert one["bucket_address"] == "s3://models/gru_model_weights_P-101_2026_11_22_10_15_03.h5"
    assert (one["data_start_date"], one["data_end_date"], one["created_at"]) == (START, END, MOMENT)
    assert one["metrics"] == {"mae": 0.03, "rmse": 0.05, "r2": None, "skill": 0.4}
    assert (two["machine_name"], two["model_type"]) == ("Bomba 7", "xgb")
    for row in (one, two):
        key = row["bucket_address"].removeprefix("s3://models/")
        content = s3.get_object(Bucket="models", Key=key)["Body"].read()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert registry.connect().get_run(row["mlflow_run"]).data.tags["machine"] == row["machine_name"]


def test_unset_they_lie_in_a_folder_and_in_sqlite(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_now", lambda: MOMENT)
    stored = publish(trained())
    with closing(sqlite3.connect(home / "ledger.db")) as database:
        (row,) = database.execute("SELECT machine_name, model_type, bucket_address, metrics, sha256 FROM models")
    assert row[:2] == ("P-101", "gru")
    assert Path(row[2]).read_bytes() == b"weights of t/1"
    assert Path(row[2]) == home.resolve() / "artifacts/models/gru_model_weights_P-101_2026_11_22_10_15_03.h5"
    assert json.loads(row[3])["mae"] == 0.03
    assert hashlib.sha256(b"weights of t/1").hexdigest() == row[4] == stored.sha256
    assert is_whole() == stored


def test_a_version_carries_the_safe_files_and_is_found_by_machine(tmp_path: Path) -> None:
    publish(trained())
    publish(trained("t/2", "xgb"))
    publish(trained("t/3", machine="P-102"))
    client = registry.connect()
    found = client.search_registered_models("tags.machine = 'P-101'")
    assert {model.name for model in found} == {"machine-P-101-gru", "machine-P-101-xgb"}
    assert {model.name for model in client.search_registered_models("name LIKE 'machine-P-102-%'")} == {
        "machine-P-102-gru"
    }
    (version,) = client.search_model_versions("tags.machine = 'P-101' and tags.kind = 'xgb'")
    (tmp_path / "copy").mkdir()
    copy = Path(
        mlflow.artifacts.download_artifacts(f"models:/{version.name}@champion", dst_path=str(tmp_path / "copy"))
    )
    files = {path.name: path.read_bytes() for path in (copy / "artifacts" / "files").iterdir()}
    assert files == {"booster.ubj": b"booster of t/2", "about.json": b"about of t/2"}
    assert not [path for path in copy.rglob("*") if path.suffix in (".pkl", ".h5")]
    run = client.get_run(version.run_id)
    assert (run.data.params["units"], run.data.metrics) == (
        "32",
        {"test/mae": 0.03, "test/rmse": 0.05, "test/skill": 0.4},
    )


def test_the_champion_is_the_better_one_that_may_lead() -> None:
    publish(trained("t/1", may_lead=False, reason="persistence is better"))
    assert champion() is None
    asked: list[StoredModel | None] = []

    def better(standing: StoredModel | None) -> tuple[bool, str]:
        asked.append(standing)
        return standing is None or standing.run_key == "t/2", f"compared with {standing and standing.run_key}"

    two, three, four = (publish(trained(f"t/{number}"), better) for number in (2, 3, 4))
    assert asked == [None, two, three]
    assert [model.promoted for model in (two, three, four)] == [True, True, False]
    assert four.reason == "compared with t/3"
    assert champion() == three.model_version == "3"
    assert table("promoted, reason")[0] == (0, "persistence is better")
    publish(trained("t/5", may_lead=False), better)
    assert len(asked) == 3
    assert list(records.every())[-1].run_key == "t/5"
    assert {(model.machine, model.kind) for model in records.every()} == {("P-101", "gru")}


def test_models_of_the_same_second_get_seconds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_now", lambda: MOMENT)
    found = [publish(trained(f"t/{number}")).created_at for number in range(3)]
    assert found == [MOMENT + timedelta(seconds=number) for number in range(3)]
    is_whole("t/2", models=3)


def test_published_again_with_the_same_key_nothing_is_written() -> None:
    assert published("t/1") is None
    assert published("t/1", machine="P-101", kind="gru") is None
    stored = publish(trained())
    assert publish(trained(metrics={"mae": 1, "rmse": 1, "r2": 1}, files=trained("other").files)) == stored
    assert published("t/1") == published("t/1", machine="P-101", kind="gru") == stored
    assert is_whole() == stored


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"machine": ""}, "expected a name"),
        ({"machine": "P" * 201}, "201 characters; expected 200 at most"),
        ({"run_key": ""}, "expected 1 to 400 characters"),
        ({"files": {"weights": b""}}, r"its files are \['weights'\]; expected \['network', 'scaler'"),
        ({"metrics": {"mae": float("nan"), "rmse": 1.0, "r2": 1.0}}, "no number: mae; expected a finite one, or None"),
        ({"metrics": {"mae": 1.0}}, "expected mae, rmse, r2 among them"),
        ({"data_end": START - timedelta(days=1)}, "expected times with zone, in order"),
        ({"data_start": datetime(2026, 1, 1)}, "expected times with zone, in order"),
    ],
)
def test_a_model_that_is_not_as_described_is_refused(changes: dict[str, Any], told: str, home: Path) -> None:
    with pytest.raises(ConfigurationError, match=told):
        publish(trained(**changes))
    assert not (home / "artifacts").exists()


def test_a_kind_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="kind of model 'lstm'"):
        TrainedModel("P-101", "lstm", "t/1", START, END, {}, {}, {}, True, "")  # type: ignore[arg-type]


# Killed at any step

CHILD = """
import importlib, os, signal, sys
sys.path.insert(0, sys.argv[1])
from trained_machine import trained
from pump_ml import object_store, registry
import mlflow.pyfunc
from pump_ml.machines import publishing, records

place, when, number = sys.argv[2], sys.argv[3], int(sys.argv[4])
owner, name = {
    "slot": (object_store.Folder, "swap"), "bucket slot": (object_store.Bucket, "swap"),
    "file": (object_store.Folder, "put"), "bucket file": (object_store.Bucket, "put"),
    "run": (mlflow.MlflowClient, "create_run"), "upload": (mlflow.pyfunc, "save_model"),
    "model": (mlflow.pyfunc, "log_model"), "version": (mlflow, "register_model"),
    "row": (records, "add"), "alias": (registry, "crown"),
}[place]
real, calls = getattr(owner, name), []

def dying(*args, **kwargs):
    calls.append(name)
    if len(calls) < number:
        return real(*args, **kwargs)
    if when == "after":
        real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, dying)
publishing.publish(trained())
"""


def child(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603 - this interpreter, fixed words
        [sys.executable, "-c", code, str(Path(__file__).parent), *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )


def killed(step: str) -> None:
    """Publish in another process, which kills itself before or after the n-th call of a step."""
    when, number, place = step.split(" ", 2)
    with child(CHILD, place, when, number) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors


HALF_WAY = [
    "after 1 slot", "after 1 file", "after 2 file", "after 1 run", "after 1 upload", "after 1 model", "after 1 version",
    "after 1 row", "after 1 alias",
]  # fmt: skip


@pytest.mark.parametrize("step", HALF_WAY)
def test_what_was_killed_half_way_is_one_whole_model_after_a_retry_and_after_reconcile(
    step: str, home: Path, tmp_path: Path
) -> None:
    killed(step)
    shutil.copytree(home, tmp_path / "as it was")

    found = published("t/1", machine="P-101", kind="gru")
    assert found is not None
    assert publish(trained()) == found == is_whole()
    assert champion() == found.model_version
    assert len(on_disk(home)) == 4

    shutil.rmtree(home)
    (tmp_path / "as it was").rename(home)
    assert steps.reconcile_machines() == AGREE | {"finished": ["t/1"]}
    assert champion() == is_whole().model_version
    assert len(on_disk(home)) == 4


def test_one_that_was_killed_before_its_bundle_was_there_leaves_nothing(home: Path) -> None:
    killed("before 1 slot")
    assert steps.reconcile_machines() == AGREE
    assert (table(), on_disk(home), published("t/1")) == ([], set(), None)
    assert publish(trained()) == is_whole()


def test_the_next_model_is_compared_with_the_one_that_died_before_it_took_the_alias() -> None:
    killed("after 1 row")
    assert champion() is None
    standing: list[StoredModel | None] = []

    def better(found: StoredModel | None) -> tuple[bool, str]:
        standing.append(found)
        return True, "better"

    stored = publish(trained("t/2"), better)
    assert [found and found.run_key for found in standing] == ["t/1"]
    assert champion() == stored.model_version == "2"
    is_whole("t/1", models=2)


@pytest.mark.usefixtures("s3", "on_postgresql")
@pytest.mark.parametrize("step", ["after 2 bucket file", "after 1 version", "after 1 row", "before 2 bucket slot"])
def test_in_a_bucket_and_in_postgresql_a_killed_publication_is_finished_too(step: str) -> None:
    killed(step)
    assert published("t/1") is not None
    assert champion() == is_whole().model_version


# At once, and while something is away

BOTH = """
import sys
sys.path.insert(0, sys.argv[1])
from trained_machine import trained
from pump_ml.machines import publishing
publishing.publish(trained(sys.argv[2]), lambda standing: (True, "newer"))
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_trainings_of_one_machine_at_once_are_both_recorded_and_one_leads(
    database: str, request: pytest.FixtureRequest
) -> None:
    if database == "postgresql":
        request.getfixturevalue("on_postgresql")
    with child(BOTH, "t/1") as one, child(BOTH, "t/2") as two:
        for process in (one, two):
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    assert {is_whole(key, models=2).model_version for key in ("t/1", "t/2")} == {"1", "2"}
    assert champion() == "2"


def test_a_slot_that_another_process_publishes_in_is_left_to_it() -> None:
    killed("after 1 slot")
    with ledger.lock("machines/P-101-gru"):
        report = steps.reconcile_machines("nothing")
    assert report == {"finished": [], "busy": ["P-101-gru"], "failed": {}}
    assert steps.reconcile_machines("nothing")["finished"] == ["t/1"]


@contextmanager
def server(port: int = 0) -> Iterator[Any]:
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    running.start()
    yield running
    running.stop()


def test_a_store_that_goes_away_half_way_costs_a_retry_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    real = object_store.Bucket.put
    with server() as first:
        host, port = first.get_host_and_port()
        use_bucket(monkeypatch, f"http://{host}:{port}")
        empty_moto(f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="models")

        def away(store: Any, key: str, content: bytes) -> None:
            real(store, key, content)
            first.stop()

        with monkeypatch.context() as patch:
            patch.setattr(object_store.Bucket, "put", away)
            with pytest.raises(Exception, match="Could not connect to the endpoint"):
                publish(trained())
    with server(port):
        assert published("t/1", machine="P-101", kind="gru") is not None
        is_whole()


def test_a_database_that_drops_the_connection_costs_a_retry_and_nothing_else(on_postgresql: str) -> None:
    def cut(_standing: StoredModel | None) -> tuple[bool, str]:
        with create_engine(on_postgresql).connect() as connection:
            held = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pump_ml %'"
            assert connection.execute(text(held)).scalars().all() == [True]
        return True, "better"

    with pytest.raises(OperationalError):
        publish(trained(), cut)
    assert publish(trained()) == is_whole()


# What does not agree


def test_files_rows_and_versions_that_do_not_agree_are_reported_and_left(home: Path) -> None:
    one, two = publish(trained()), publish(trained("t/2"))
    models = home.resolve() / "artifacts" / "models"
    (models / "gru_model_weights_P-9_2026_01_01_00_00_00.h5").write_bytes(b"whose?")
    store = artifacts.store()
    altered, gone = (Path(store.address(one.files[role].key)) for role in ("weights", "scaler"))
    altered.write_bytes(b"another")
    gone.unlink()
    client = registry.connect()
    source = client.get_model_version("machine-P-101-gru", "2").source
    tags = {registry.KEY: "t/3"}
    client.create_model_version("machine-P-101-gru", source, run_id=two.mlflow_run, tags=tags)
    client.delete_model_version("machine-P-101-gru", "2")
    expected = AGREE | {
        "files_without_row": [str(models / "gru_model_weights_P-9_2026_01_01_00_00_00.h5")],
        "files_missing": [str(gone)],
        "files_altered": [str(altered)],
        "versions_without_row": ["machine-P-101-gru 3"],
        "versions_missing": ["machine-P-101-gru 2"],
        "agree": False,
    }
    assert steps.reconcile_machines() == expected
    assert steps.reconcile_machines("presence") == expected | {"files_altered": []}
    assert altered.read_bytes() == b"another"


def test_a_damaged_bundle_is_reported_and_stops_no_other() -> None:
    killed("after 1 slot")
    publish(trained("t/2", machine="P-102"))
    artifacts.store().swap("outbox/P-102-gru.zip", b"PK damaged, and longer than done", None)
    report = steps.reconcile_machines()
    assert report["finished"] == ["t/1"]
    assert set(report["failed"]) == {"P-102-gru"}
    assert "is no bundle of a model" in report["failed"]["P-102-gru"]
    assert published("t/1") is not None
    with pytest.raises(ModelFileError, match="is no bundle of a model"):
        publish(trained("t/3", machine="P-102"))


def test_a_champion_that_somebody_chose_by_hand_meanwhile_stays() -> None:
    publish(trained("t/1"))
    publish(trained("t/2"))

    def by_hand(_standing: StoredModel | None) -> tuple[bool, str]:
        registry.connect().set_registered_model_alias("machine-P-101-gru", "champion", "1")
        return True, "better"

    publish(trained("t/3"), by_hand)
    assert champion() == "1"


def test_the_command_prints_the_report_and_says_by_its_exit_code_whether_all_agree(home: Path) -> None:
    from typer.testing import CliRunner

    from pump_ml.cli import app

    stored = publish(trained())
    done = CliRunner().invoke(app, ["reconcile"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, AGREE)
    (home / "artifacts" / stored.files["scaler"].key).unlink()
    done = CliRunner().invoke(app, ["reconcile", "--check", "presence"])
    assert done.exit_code == 1
    assert len(json.loads(done.stdout)["files_missing"]) == 1
