"""Telemetry into the table `processed_data`, which the source `sql` reads, and into files, which `files` reads.

The simulated fleet comes in by it, and tests do; a plant's own table has a writer of its own.
"""

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv
from sqlalchemy import Column, DateTime, Double, Engine, Index, MetaData, String, Table, Text, func, insert, select

from pump_ml.errors import ConfigurationError, DataError
from pump_ml.sources.plant import load_plant
from pump_ml.twin.set_readings import COLUMNS

CHUNK = 50_000
"""Rows that are written at a time."""
TABLE = Table(
    "processed_data",
    MetaData(),
    # SQLite has no times: text in ISO 8601, always in UTC, sorts as they do.
    Column("timestamp", DateTime(timezone=True).with_variant(Text(), "sqlite"), nullable=False),
    Column("motor_pump", String(100), nullable=False),
    *(Column(name, Double) for name in COLUMNS),
    Index("processed_data_machine_time", "motor_pump", "timestamp"),
)
NAMES = tuple(TABLE.columns.keys())


def create(engine: Engine) -> None:
    """Make the table and its index where they are absent."""
    TABLE.metadata.create_all(engine)


def append(engine: Engine, frame: pd.DataFrame, progress: Callable[[float], None] = lambda _: None) -> bool:
    """Add the rows of one machine, all or none.

    Args:
        engine: of a database that has the table.
        frame: ``timestamp`` (datetime64[us, UTC]), ``motor_pump`` and the sensors.
        progress: called with the share of rows done.

    Returns:
        Whether they were added: False where the table has the same already.

    Raises:
        DataError: the table has other rows of the machine, or the frame lacks a column or has more than one machine.
    """
    if missing := [name for name in NAMES if name not in frame]:
        raise DataError(f"telemetry lacks {', '.join(missing)}; expected the columns {', '.join(NAMES)}")
    if len(named := frame["motor_pump"].unique()) != 1:
        raise DataError(f"telemetry of {len(named)} machines; expected that of one at a time")
    frame = frame[list(NAMES)]
    with engine.begin() as connection:
        counts = [func.count(TABLE.c[name]) for name in COLUMNS]
        query = select(func.count(), func.min(TABLE.c.timestamp), func.max(TABLE.c.timestamp), *counts)
        rows, first, last, *filled = connection.execute(query.where(TABLE.c.motor_pump == named[0])).one()
        if rows:
            there = (rows, pd.Timestamp(first), pd.Timestamp(last), *filled)
            times = frame["timestamp"]
            if there == (len(frame), times.min(), times.max(), *frame[list(COLUMNS)].notna().sum().tolist()):
                return False
            raise DataError(
                f"{TABLE.name} has other telemetry of machine {named[0]!r}: {rows} rows from {first} to {last}; what "
                "is there is never changed: write to another database with --url, or simulate what is there"
            )
        for part in _parts(frame, progress):
            if engine.dialect.name == "postgresql":
                _copy(connection.connection.cursor(), part, engine)
            else:
                statement = str(insert(TABLE).compile(engine))
                moments = np.char.add(np.datetime_as_string(_naive(part["timestamp"]), unit="us"), "+00:00")
                columns = [moments.tolist(), *(part[name].tolist() for name in NAMES[1:])]  # NaN becomes NULL
                connection.exec_driver_sql(statement, list(zip(*columns, strict=True)))
    return True


def spans(engine: Engine) -> dict[str, tuple[datetime, datetime]]:
    """First and last time of each machine, UTC."""
    name, time = TABLE.c.motor_pump, TABLE.c.timestamp
    query = select(name, func.min(time), func.max(time)).group_by(name)
    with engine.connect() as connection:
        return {
            each: (
                pd.Timestamp(first).tz_convert(UTC).to_pydatetime(),
                pd.Timestamp(last).tz_convert(UTC).to_pydatetime(),
            )
            for each, first, last in connection.execute(query)
        }


def write_csv(folder: Path, frame: pd.DataFrame) -> Path:
    """One machine's rows as ``NAME.csv``, in the columns that the mapping `processed_data` of the source `files` reads.

    A file has no stand-in columns, so where pressures came by the analogue inputs they stand under their own names.

    Raises:
        ConfigurationError: the file is there with other content.
    """
    plant = load_plant("processed_data")
    given = {name: next((c for c in plant.candidates(name) if c in frame and frame[c].notna().any()), name)
             for name in plant.sensors}  # fmt: skip
    columns = {"timestamp": frame["timestamp"], "motor_pump": frame["motor_pump"]}
    content = _csv(pd.DataFrame(columns | {name: frame[column] for name, column in given.items()}), header=True)
    file = folder / f"{frame['motor_pump'].iloc[0]}.csv"
    if file.exists():
        if file.read_bytes() != content:
            raise ConfigurationError(
                f"{file} is there with other content and is never overwritten; give another folder"
            )
        return file
    folder.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".part")
    half.write_bytes(content)
    half.rename(file)
    return file


def _parts(frame: pd.DataFrame, progress: Callable[[float], None]) -> Iterator[pd.DataFrame]:
    for first in range(0, len(frame), CHUNK):
        yield frame.iloc[first : first + CHUNK]
        progress(min((first + CHUNK) / len(frame), 1.0))


def _naive(times: pd.Series) -> np.ndarray[Any, np.dtype[np.datetime64]]:
    naive: np.ndarray[Any, np.dtype[np.datetime64]]
    naive = times.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    return naive


def _copy(cursor: Any, frame: pd.DataFrame, engine: Engine) -> None:
    """PostgreSQL's fast way in."""
    quote = engine.dialect.identifier_preparer.quote
    columns = ", ".join(map(quote, NAMES))
    with cursor:
        command = f"COPY {quote(TABLE.name)} ({columns}) FROM STDIN WITH (FORMAT csv)"
        cursor.copy_expert(command, io.BytesIO(_csv(frame, header=False)))


def _csv(frame: pd.DataFrame, *, header: bool) -> bytes:
    """Lines of cells; an empty one is missing."""
    written = io.BytesIO()
    zoned = pa.timestamp("us", "UTC")
    columns = {
        name: pa.array(_naive(frame[name]), zoned) if name == "timestamp" else pa.array(frame[name], from_pandas=True)
        for name in frame
    }
    csv.write_csv(pa.table(columns), written, csv.WriteOptions(include_header=header))
    return written.getvalue()
