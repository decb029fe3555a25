"""The rows of the table ``models``: one a model of a machine, found by what asked for it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from pump_ml.ledger import MachineModel, engine
from pump_ml.settings import Settings

PAGE = 1000


@dataclass(frozen=True)
class StoredFile:
    """A file of a model: its key below the artifact root, and its SHA-256 in hexadecimal digits."""

    key: str
    sha256: str


@dataclass(frozen=True)
class StoredModel:
    """A model that was published: its files and its version are there.

    Args:
        machine: as the plant names it.
        kind: ``gru`` or ``xgb``.
        run_key: what asked for it.
        bucket_address: of the main file.
        sha256: of the main file.
        data_start: of the data it learnt from, UTC.
        data_end: of the data it learnt from, UTC.
        metrics: by name; None for one that is not defined.
        files: by role, see `pump_ml.artifacts.NAMES`.
        mlflow_run: id of its run.
        model_version: of the machine's registered model.
        promoted: whether it took the alias ``champion`` when it was published.
        reason: why, or why not.
        created_at: its timestamp, UTC; the one in the names of its files.
    """

    machine: str
    kind: str
    run_key: str
    bucket_address: str
    sha256: str
    data_start: datetime
    data_end: datetime
    metrics: Mapping[str, float | None]
    files: Mapping[str, StoredFile]
    mlflow_run: str
    model_version: str
    promoted: bool
    reason: str
    created_at: datetime


def find(run_key: str, settings: Settings | None = None) -> StoredModel | None:
    """The model that was asked for by this key, or None."""
    with Session(engine(settings)) as session:
        row = session.scalar(select(MachineModel).where(MachineModel.run_key == run_key))
        return _stored(row) if row else None


def every(settings: Settings | None = None) -> Iterator[StoredModel]:
    """All models, in the order in which they were published."""
    last = 0
    while True:
        page = select(MachineModel).where(MachineModel.id > last).order_by(MachineModel.id).limit(PAGE)
        with Session(engine(settings)) as session:
            rows = list(session.scalars(page))
            yield from [_stored(row) for row in rows]
        if len(rows) < PAGE:
            return
        last = rows[-1].id


def add(model: StoredModel, settings: Settings | None = None) -> None:
    """Write a model's row; a second write for the same key changes nothing."""
    with Session(engine(settings)) as session, session.begin():
        if session.scalar(select(MachineModel.id).where(MachineModel.run_key == model.run_key)) is None:
            session.add(
                MachineModel(
                    machine_name=model.machine,
                    model_type=model.kind,
                    bucket_address=model.bucket_address,
                    data_start_date=model.data_start,
                    data_end_date=model.data_end,
                    metrics=dict(model.metrics),
                    sha256=model.sha256,
                    mlflow_run=model.mlflow_run,
                    created_at=model.created_at,
                    run_key=model.run_key,
                    files={role: {"key": file.key, "sha256": file.sha256} for role, file in model.files.items()},
                    model_version=model.model_version,
                    promoted=model.promoted,
                    reason=model.reason,
                )
            )


def _stored(row: MachineModel) -> StoredModel:
    return StoredModel(
        machine=row.machine_name,
        kind=row.model_type,
        run_key=row.run_key,
        bucket_address=row.bucket_address,
        sha256=row.sha256,
        data_start=_utc(row.data_start_date),
        data_end=_utc(row.data_end_date),
        metrics=row.metrics,
        files={role: StoredFile(**file) for role, file in row.files.items()},
        mlflow_run=row.mlflow_run,
        model_version=row.model_version,
        promoted=row.promoted,
        reason=row.reason,
        created_at=_utc(row.created_at),
    )


def _utc(moment: datetime) -> datetime:
    """SQLite gives times without zone: they are UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
