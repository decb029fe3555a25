"""A failure for want of room or memory has a name, whatever library it comes through."""

import errno
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg2.errors
import pytest
from conftest import answering
from sqlalchemy import create_engine, text

from pump_ml import registry
from pump_ml.errors import (
    ArtifactStoreError,
    ConfigurationError,
    MemoryLimitError,
    PumpMLError,
    StorageFullError,
    name_failure,
)


def raised(act: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever the library raises
        act()
    return caught.value


def fill_sqlite() -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("create table t (x)")
        database.execute("pragma max_page_count = 4")
        database.execute("insert into t values (zeroblob(100000))")


def fill_sqlite_by_sqlalchemy() -> None:
    with create_engine("sqlite://").connect() as connection:
        connection.execute(text("create table t (x)"))
        connection.execute(text("pragma max_page_count = 4"))
        connection.execute(text("insert into t values (zeroblob(100000))"))


def wrapped() -> None:
    try:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")
    except OSError as error:
        raise RuntimeError("the run could not be logged") from error


def shadowed() -> None:
    try:
        np.empty(1 << 60, dtype=np.uint8)
    except MemoryError:
        raise KeyError("cleaning up") from None


def raise_(error: BaseException) -> Callable[[], object]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        pytest.param(wrapped, StorageFullError, id="a full device, wrapped"),
        pytest.param(raise_(OSError(errno.EDQUOT, "x")), StorageFullError, id="disk quota"),
        pytest.param(fill_sqlite, StorageFullError, id="SQLite"),
        pytest.param(fill_sqlite_by_sqlalchemy, StorageFullError, id="SQLite by SQLAlchemy"),
        pytest.param(raise_(psycopg2.errors.DiskFull("kein Platz")), StorageFullError, id="PostgreSQL"),
        pytest.param(lambda: np.empty(1 << 60, dtype=np.uint8), MemoryLimitError, id="NumPy"),
        pytest.param(raise_(OSError(errno.ENOMEM, "x")), MemoryLimitError, id="the system"),
        pytest.param(raise_(ValueError("std::bad_alloc")), MemoryLimitError, id="XGBoost"),
    ],
)
def test_a_failure_for_want_of_room_or_memory_is_named(act: Callable[[], object], kind: type[Exception]) -> None:
    failure = name_failure(raised(act), "step train")
    assert type(failure) is kind
    assert str(failure).startswith("step train: ")
    assert "try again" in str(failure)


def test_tensorflow_s_failure_for_want_of_memory_is_named() -> None:
    tensorflow = pytest.importorskip("tensorflow")
    error = tensorflow.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
    assert isinstance(name_failure(error, "step train"), MemoryLimitError)


def test_an_artifact_that_mlflow_s_server_does_not_take_is_told_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "a.json").write_text("{}")
    with answering(500) as address:
        artifacts = registry.client.mlflow.store.artifact.http_artifact_repo.HttpArtifactRepository(
            f"{address}/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts"
        )
        failure = name_failure(raised(lambda: artifacts.log_artifact(str(tmp_path / "a.json"))), "step train")
    assert isinstance(failure, ArtifactStoreError)
    assert not isinstance(failure, PumpMLError)
    assert "MLflow's server did not keep or give an artifact" in str(failure)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ConnectionError("connection refused"), id="a lost connection"),
        pytest.param(OSError(errno.EIO, "x"), id="a broken disk"),
        pytest.param(ConfigurationError("QuotaExceeded"), id="a name already"),
        pytest.param(ValueError("507 rows"), id="a number"),
    ],
)
def test_another_failure_keeps_its_kind(error: Exception) -> None:
    assert name_failure(error, "step train") is None


def test_what_an_error_was_said_not_to_come_from_is_not_looked_at() -> None:
    assert name_failure(raised(shadowed), "step train") is None


SMALL_MEMORY = """
import os, resource, sys
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve room before they need it
import numpy, pandas, pyarrow.parquet, pump_ml.sources.simulated, pump_ml.snapshots
from pump_ml import steps
steps.fetch("simulated", {"pumps": 28})  # Arrow starts its threads, which need room of their own
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 100_000_000,) * 2)
steps.fetch("simulated", {"samples": 24})
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to know how much memory is in use")
def test_a_step_that_gets_too_little_memory_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", SMALL_MEMORY], capture_output=True, text=True, check=False)  # noqa: S603 - this interpreter
    assert done.returncode == 1, done.stderr
    assert "MemoryLimitError: step fetch: the memory did not suffice" in done.stderr
