"""The ledger: decisions about champions, machines' models, in SQL, append-only; and the lock of all who share it.

The only module that knows SQL, beside `pump_ml.machines.records` and the telemetry's (`pump_ml.sources.sql`). A
database that cannot be reached, or a connection that is lost, is SQLAlchemy's OperationalError: worth a retry.
"""

import fcntl
import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    JSON,
    Boolean,
    DateTime,
    Engine,
    Index,
    Integer,
    String,
    Text,
    create_engine,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pump_ml.connections import bounded
from pump_ml.errors import ConfigurationError
from pump_ml.settings import PACKAGE, Settings

LOCK_WAIT_S = 300.0
"""How long `lock` waits: what is done under it takes seconds, or two calls to an MLflow that is away, each of
which its client gives up after 126 s."""


class Base(DeclarativeBase):
    """All tables of the ledger."""


class Promotion(Base):
    """One decision about a model's champion: the comparison, and who stood before and after."""

    __tablename__ = "promotions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_key: Mapped[str] = mapped_column(String(400), unique=True)
    decided_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    model: Mapped[str] = mapped_column(String(200), index=True)
    snapshot: Mapped[str] = mapped_column(String(200))
    promoted: Mapped[bool] = mapped_column(Boolean)
    champion_before: Mapped[str | None] = mapped_column(String(50))
    champion_after: Mapped[str | None] = mapped_column(String(50))
    decision: Mapped[dict[str, Any]] = mapped_column(JSON)


class MachineModel(Base):
    """A model of one machine, of which the files and the registry's version are there too; see `pump_ml.machines`."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    machine_name: Mapped[str] = mapped_column(String(200))
    model_type: Mapped[str] = mapped_column(String(20))
    bucket_address: Mapped[str] = mapped_column(Text)
    """Of the main file: the weights, or the pickle where there are none."""
    data_start_date: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    data_end_date: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)
    sha256: Mapped[str] = mapped_column(String(64))
    """Of the main file."""
    mlflow_run: Mapped[str] = mapped_column(String(50))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    run_key: Mapped[str] = mapped_column(String(400), unique=True)
    files: Mapped[dict[str, Any]] = mapped_column(JSON)
    """Role -> key and SHA-256 of each file."""
    model_version: Mapped[str] = mapped_column(String(50))
    promoted: Mapped[bool] = mapped_column(Boolean)
    reason: Mapped[str] = mapped_column(Text)

    __table_args__ = (Index("ix_models_newest", "machine_name", "model_type", "created_at"),)


def prepare(settings: Settings | None = None) -> None:
    """Bring the ledger's tables up to date, one process at a time; the embedded database is made when it is absent."""
    settings = settings or Settings.load()
    if settings.ledger_url is None:
        settings.home.mkdir(parents=True, exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(PACKAGE / "migrations"))
    config.attributes["engine"] = engine(settings)
    with lock("ledger/migrations", settings):
        command.upgrade(config, "head")


def engine(settings: Settings | None = None) -> Engine:
    """Connections to the ledger; each is closed after its use, since a step makes one or two.

    Bounded in time unless the address itself says otherwise: 10 s to connect, half a minute for a peer that is gone.
    """
    url = make_url((settings or Settings.load()).ledger)
    return create_engine(url, **bounded(url))


def studies(settings: Settings | None = None) -> tuple[str, dict[str, Any]]:
    """Where Optuna keeps its tables, beside the ledger's: address and options of its engine.

    Both write a table ``alembic_version``. So in PostgreSQL they get the schema ``optuna``, which is made here (hold a
    lock, such as ``tuning/studies``), and in SQLite the file ``ledger-tuning.db`` beside ``ledger.db``.
    """
    connections = engine(settings)
    url = connections.url
    if url.get_backend_name() == "postgresql":
        with connections.begin() as connection:
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS optuna"))
        url = url.update_query_dict({"options": f"{url.query.get('options', '')} -csearch_path=optuna".strip()})
    else:
        file = Path(str(url.database))
        url = url.set(database=str(file.with_name(f"{file.stem}-tuning{file.suffix}")))
    return url.render_as_string(hide_password=False), bounded(url)


@contextmanager
def lock(name: str, settings: Settings | None = None, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Let one process at a time into the block, among all that share the ledger, on whatever machines they run.

    PostgreSQL: an advisory lock in a transaction of its own, so a pooler may stand between. SQLite: a lock on a file
    beside the database. Either goes at once when its process dies or its connection is closed, and within half a
    minute when its machine vanishes. It cannot be taken twice: don't nest.

    Args:
        name: what is being changed, such as ``mlflow/model/pump-diagnosis``; few different ones.
        settings: where the ledger is.
        wait_s: how long to wait for another holder, in seconds.

    Raises:
        TimeoutError: another process held the lock all the time; worth a retry. The message names it, and the cure.
        OperationalError: the ledger cannot be reached; or, on leaving, the connection was lost, so somebody else may
            have been let in meanwhile: do it again, what was done is found.
        ConfigurationError: the ledger is neither in PostgreSQL nor in a file of SQLite.
    """
    connections = engine(settings)
    url = connections.url
    if url.get_backend_name() == "postgresql":
        yield from _advisory_lock(connections, name, wait_s)
    elif url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        yield from _file_lock(Path(f"{Path(url.database).resolve()}.locks"), name, wait_s)
    else:
        raise ConfigurationError(
            f"the ledger {url.render_as_string(hide_password=True)} cannot lock {name!r}; give PUMP_ML_LEDGER_URL an "
            "address of PostgreSQL (postgresql+psycopg2://…) or of a SQLite file (sqlite:////…)"
        )


def _advisory_lock(connections: Engine, name: str, wait_s: float) -> Iterator[None]:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    for_this_transaction = {
        "lock_timeout": f"{wait_s * 1000:.0f}",
        "application_name": f"pump_ml {_myself()} {name}"[:63],  # for whoever waits
        "idle_in_transaction_session_timeout": "0",
        # a holder whose machine vanished gives the lock back after half a minute, not after two hours
        "tcp_keepalives_idle": "15",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }
    with connections.begin() as connection:  # leaving it commits, which fails when the lock was lost
        for setting, value in for_this_transaction.items():
            connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": setting, "value": value})
        try:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
        except OperationalError as error:
            if getattr(error.orig, "pgcode", None) != "55P03":  # lock_not_available
                raise
            raise _waited(name, wait_s, _holder(connections, number)) from None
        yield


def _holder(connections: Engine, number: int) -> str:
    """Who holds an advisory lock."""
    query = (
        "SELECT a.application_name, a.pid, a.xact_start FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
        "AND (l.classid::bigint << 32) | l.objid::bigint = :number"
    )
    with connections.connect() as connection:
        found = connection.execute(text(query), {"number": number}).first()
    if found is None:
        return "a process that gave it back just now"
    who, pid, since = found
    return f"{who}, since {since:%Y-%m-%d %H:%M:%S %Z} (to end it: SELECT pg_terminate_backend({pid}))"


def _file_lock(folder: Path, name: str, wait_s: float) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    with (folder / re.sub(r"[^A-Za-z0-9_.-]+", "_", name)).open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise _waited(name, wait_s, file.read() or "a process that did not say its name") from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(f"pump_ml {_myself()} {name}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S UTC}")
        file.flush()
        yield


def _waited(name: str, wait_s: float, holder: str) -> TimeoutError:
    return TimeoutError(
        f"waited {wait_s:g} s for the lock {name!r}, which is held by {holder}. Another try of the same task may still "
        "be alive: wait until it ends and try again, or end it"
    )


def _myself() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def find(run_key: str, settings: Settings | None = None) -> Promotion | None:
    """The decision that a training run took, or None when it took none yet."""
    with Session(engine(settings), expire_on_commit=False) as session:
        return session.scalar(select(Promotion).where(Promotion.run_key == run_key))


def record(
    run_key: str,
    *,
    model: str,
    snapshot: str,
    promoted: bool,
    champion_before: str | None,
    champion_after: str | None,
    decision: dict[str, Any],
    settings: Settings | None = None,
) -> None:
    """Write a training run's decision; a second write for the same run changes nothing."""
    with Session(engine(settings)) as session, session.begin():
        if session.scalar(select(Promotion).where(Promotion.run_key == run_key)) is None:
            session.add(
                Promotion(
                    run_key=run_key,
                    decided_at=datetime.now(UTC),
                    model=model,
                    snapshot=snapshot,
                    promoted=promoted,
                    champion_before=champion_before,
                    champion_after=champion_after,
                    decision=decision,
                )
            )
