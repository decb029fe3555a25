"""Readings from a SQL table of telemetry: PostgreSQL, or SQLite as the embedded default.

Names of machines, and times, reach the database as bound parameters only; names of tables and columns come from the
mapping, are looked up in the database first, and are quoted. A database that cannot be reached, or a connection that is
lost, is SQLAlchemy's OperationalError, which is worth a retry.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy
from numpy.typing import NDArray
from sqlalchemy import ColumnClause, Connection, TableClause, and_, func, inspect, select, table, text
from sqlalchemy import types as sql_types

from pump_ml.connections import connect, shown
from pump_ml.errors import ConfigurationError, EmptyPeriodError, SourceError, UnknownNameError
from pump_ml.schema import ASSET, COMMISSIONING, RUN, TIME, Telemetry, natural
from pump_ml.settings import Settings
from pump_ml.sources.plant import Plant, load_plant
from pump_ml.sources.tables import MISSING, timestamps

logger = logging.getLogger(__name__)

VARIABLE = "PUMP_ML_TELEMETRY_URL"
ZONES = timedelta(hours=15)
"""Text in ISO 8601 sorts by its local time, which is less than this from UTC; the exact bound is applied after."""


class SqlSource:
    """The rows of some machines, as a mapping describes their table.

    Rows are never dropped or repaired, duplicates and implausible values come as they are. They are sorted by machine
    (numbers in names count as numbers), by time, and where times are equal by the readings, so that the same table
    gives the same rows. A cell that is not a number becomes NaN and a warning counts them; so becomes a time NaT that
    cannot be read, or that the mapping's zone had twice or never, at a change of season. A row without a time lies in
    no period: it comes only where neither start nor end is given.

    Args:
        machines: one or more, as the table names them.
        url: SQLAlchemy's address; unset, that of the settings (``PUMP_ML_TELEMETRY_URL``).
        mapping: name of a shipped mapping of a plant, the path of a ``.yaml`` file, or one that was read before.
        chunk: rows that are fetched at a time.

    Raises:
        ConfigurationError: no machine is given, `chunk` is not above 0, or the mapping cannot be used.
    """

    def __init__(
        self,
        *,
        machines: Sequence[str],
        url: str | None = None,
        mapping: str | Path | Plant = "processed_data",
        chunk: int = 50_000,
    ) -> None:
        names = [machines] if isinstance(machines, str) else list(machines)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigurationError(f"machines = {names!r}; expected one or more names of the table")
        if chunk < 1:
            raise ConfigurationError(f"chunk = {chunk}; expected 1 or more rows")
        self.machines = tuple(sorted(dict.fromkeys(names), key=natural))
        self.url, self.chunk = url, chunk
        self.plant = load_plant(mapping)

    def origin(self) -> dict[str, Any]:
        """Address without password, mapping, and for each machine its rows, first and last time, and stand-in columns.

        As far as SQL can tell without reading them, equal origins give equal rows.

        Raises:
            SourceError: the table cannot be used, or has no row of a machine.
        """
        with _opened(self.url, self.plant) as found:
            return self._origin(found, {machine: _inventory(found, machine) for machine in self.machines})

    def fetch(self, start: datetime | None = None, end: datetime | None = None) -> Telemetry:
        """All readings with ``start <= time < end``.

        Raises:
            ConfigurationError: a side has no time zone, or start is not before end.
            SourceError: the table lacks a required column, a machine has no row, or none in the period.
        """
        _check_period(start, end)
        with _opened(self.url, self.plant) as found:
            inventories = {machine: _inventory(found, machine) for machine in self.machines}
            parts = [self._rows(found, inventories[machine], start, end) for machine in self.machines]
        window = {name: side.isoformat() for name, side in (("start", start), ("end", end)) if side is not None}
        return Telemetry(
            pd.concat(parts, ignore_index=True),
            self.plant.schema_sensors(),
            (),
            suite=self.plant.suite,
            origin=self._origin(found, inventories) | window,
        )

    def _origin(self, found: "_Found", inventories: Mapping[str, "_Inventory"]) -> dict[str, Any]:
        return {
            "source": "sql",
            "url": shown(found.connection.engine.url),
            "mapping": self.plant.model_dump(mode="json", exclude_none=True),
            "machines": {machine: inventory.told() for machine, inventory in inventories.items()},
        }

    def _rows(
        self, found: "_Found", inventory: "_Inventory", start: datetime | None, end: datetime | None
    ) -> pd.DataFrame:
        """Rows of a machine in the period, in order."""
        plant, places = self.plant, inventory.columns
        time, machine = column(plant.time.column), column(plant.machine)
        readings = [column(place) for place in places.values()]
        rows = (
            select(time, *readings)
            .select_from(found.table)
            .where(and_(machine == inventory.machine, *_bounds(found, plant, start, end)))
            .order_by(time, *readings)
        )
        lost: dict[str, int] = {}
        result = found.connection.execution_options(yield_per=self.chunk).execute(rows)
        parts = [self._typed(chunk, list(places), inventory.machine, lost) for chunk in result.partitions(self.chunk)]
        whole = pd.concat(parts, ignore_index=True) if parts else self._typed([], list(places), inventory.machine, lost)
        _warn(inventory.machine, len(whole), lost)
        if start is not None:
            whole = whole[whole[TIME] >= start]
        if end is not None:
            whole = whole[whole[TIME] < end]
        if whole.empty:
            raise EmptyPeriodError(
                f"empty period: {plant.table} has no row of machine {inventory.machine!r} from "
                f"{start.isoformat() if start else 'its first'} to {end.isoformat() if end else 'its last'}; it has "
                f"{inventory.rows} from {inventory.first} to {inventory.last}. Choose start and end among these"
            )
        # Text with other offsets was sorted by its local time; the sort is stable, so equal times keep their order.
        return whole.sort_values(TIME, kind="stable", na_position="last", ignore_index=True)

    def _typed(self, rows: Sequence[Any], names: list[str], machine: str, lost: dict[str, int]) -> pd.DataFrame:
        """One chunk as readings; `lost` counts the cells that say nothing."""
        cells = list(zip(*rows, strict=True)) or [()] * (len(names) + 1)
        raw = pd.Series(cells[0], dtype=None if rows else "datetime64[us, UTC]")
        times = timestamps(raw, self.plant.time, f"{self.plant.table}, machine {machine!r}, time")
        if unread := int((times.isna() & raw.notna()).sum()):
            lost[self.plant.time.column] = lost.get(self.plant.time.column, 0) + unread
        columns: dict[str, Any] = {
            ASSET: pd.Series(machine, index=raw.index, dtype="str"),
            RUN: pd.Series(machine, index=raw.index, dtype="str"),
            TIME: times,
            COMMISSIONING: np.zeros(len(raw), dtype=bool),
        }
        columns |= dict.fromkeys(self.plant.sensors, np.full(len(raw), np.nan))
        for name, values in zip(names, cells[1:], strict=True):
            columns[name], bad = _numbers(values)
            if bad:
                lost[name] = lost.get(name, 0) + bad
        return pd.DataFrame(columns)


def _numbers(cells: Sequence[Any]) -> tuple[NDArray[np.float64], int]:
    """Cells as float64, and how many of them say something that is not a number."""
    numbers: NDArray[np.float64]
    try:
        numbers = np.array(cells, dtype=np.float64)  # also of None, whole numbers, decimals and truth values
    except (TypeError, ValueError):
        given = pd.Series(cells, dtype=object)
        numbers = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64)
        bad = given[np.isnan(numbers) & given.notna()].astype("str").str.strip()
        return numbers, int((~bad.isin(MISSING)).sum())
    return numbers, 0


def machines(url: str | None = None, mapping: str | Path = "processed_data") -> list[str]:
    """The machines that a table has rows of, in natural order.

    Raises:
        SourceError: the table cannot be used.
        ConfigurationError: the mapping or the address cannot be used.
    """
    with _opened(url, plant := load_plant(mapping)) as found:
        return _names(found, plant)


def counts(
    url: str | None = None,
    mapping: str | Path | Plant = "processed_data",
    *,
    machines: Sequence[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> dict[str, int]:
    """How many rows each machine has in a period, in natural order; those without any are left out.

    It tells how much work a machine is: where a table's times are text or have no zone, the days around count too.

    Args:
        url: SQLAlchemy's address; unset, that of the settings.
        mapping: name or path of the YAML that describes the table, or what was read of it.
        machines: to look at; None for all.
        start: of the period, with zone; None for all before its end.
        end: likewise, exclusive.

    Raises:
        SourceError: the table cannot be used.
        ConfigurationError: the mapping, the address or the period cannot be used.
    """
    _check_period(start, end)
    with _opened(url, plant := load_plant(mapping)) as found:
        machine = column(plant.machine)
        asked = machine.is_not(None) if machines is None else machine.in_(list(machines))
        query = select(machine, func.count()).select_from(found.table).group_by(machine)
        query = query.where(and_(asked, *_bounds(found, plant, start, end)))
        rows = {str(name): int(count) for name, count in found.connection.execute(query)}
    return {name: rows[name] for name in sorted(rows, key=natural)}


@dataclass(frozen=True, eq=False)
class _Found:
    """A table that was looked up, and an open connection to it.

    Args:
        connection: open.
        table: with its schema; quoted by SQLAlchemy.
        plant: the mapping that it fits.
        types: of its columns.
    """

    connection: Connection
    table: TableClause
    plant: Plant
    types: Mapping[str, sql_types.TypeEngine[Any]]

    def time_kind(self) -> str:
        """``zoned``, ``local`` or ``text``: what the column of the time is compared with."""
        kind = self.types[self.plant.time.column]
        if self.connection.dialect.name == "sqlite" or not isinstance(kind, sql_types.DateTime):
            return "text"
        return "zoned" if kind.timezone else "local"


@dataclass(frozen=True)
class _Inventory:
    """What a table has of a machine.

    Args:
        machine: its name.
        rows: number of them.
        first: earliest time, ISO 8601 in UTC; None where no row has one.
        last: latest time.
        columns: of each sensor that has one.
        instead: those that are not the sensor's first choice.
    """

    machine: str
    rows: int
    first: str | None
    last: str | None
    columns: Mapping[str, str]
    instead: Mapping[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        instead = {"instead": dict(self.instead)} if self.instead else {}
        return {"rows": self.rows, "first": self.first, "last": self.last, **instead}


@contextmanager
def _opened(url: str | None, plant: Plant) -> Iterator[_Found]:
    """The table in one transaction that only reads, and sees nothing of what others write meanwhile (PostgreSQL)."""
    engine = connect(url or Settings.load().telemetry, variable=VARIABLE)
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            connection.execute(text("SET TIME ZONE 'UTC'"))  # all times come with one offset
        looked = inspect(connection)
        where = f"table {plant.table!r} of {shown(engine.url)}"
        if not looked.has_table(plant.table, schema=plant.namespace):
            known = [*looked.get_table_names(plant.namespace), *looked.get_view_names(plant.namespace)]
            raise SourceError(
                f"{UnknownNameError('table', plant.table, known)} In {shown(engine.url)}; correct the mapping "
                f"{plant.name!r} or {VARIABLE}"
            )
        types = {each["name"]: each["type"] for each in looked.get_columns(plant.table, schema=plant.namespace)}
        asked: dict[str, tuple[str, ...]] = {"time.column": (plant.time.column,), "machine": (plant.machine,)}
        asked |= {f"sensors.{name}": plant.candidates(name) for name, told in plant.sensors.items() if told.required}
        for key, candidates in asked.items():
            if not set(candidates) & set(types):
                raise SourceError(
                    f"{where}: {key}: {UnknownNameError('column', candidates[0], types)} Correct the mapping "
                    f"{plant.name!r}: give the column's name there"
                )
        yield _Found(connection, table(plant.table, schema=plant.namespace), plant, types)


def _inventory(found: _Found, machine: str) -> _Inventory:
    """Count the rows of a machine, and choose the columns of its sensors.

    Raises:
        SourceError: there is no such machine; the message names those that are near.
    """
    plant = found.plant
    candidates = {name: [each for each in plant.candidates(name) if each in found.types] for name in plant.sensors}
    time = column(plant.time.column)
    of_machine = column(plant.machine) == machine
    query = select(func.count(), func.min(time), func.max(time)).select_from(found.table).where(of_machine)
    rows, first, last = found.connection.execute(query).one()
    if not rows:
        names = _names(found, plant)
        near = get_close_matches(machine, names, n=3, cutoff=0.5)
        raise SourceError(
            f"{plant.table} has no row of machine {machine!r}; close: {', '.join(near) or 'none'}, of {len(names)} "
            "machines. List them with: pump-ml machines list"
        )

    def filled(name: str) -> bool:
        """Whether the column has a reading of the machine; NaN is none, whatever kind the column is."""
        nothing = "" if isinstance(found.types[name], sql_types.String) else float("nan")
        query = select(column(name)).select_from(found.table).where(of_machine)
        query = query.where(func.nullif(column(name), nothing).is_not(None)).limit(1)
        return found.connection.execute(query).first() is not None

    columns = {
        name: given[0] if len(given) == 1 else next((each for each in given if filled(each)), given[0])
        for name, given in candidates.items()
        if given
    }
    first, last = (
        None if pd.isna(side) else side.isoformat()
        for side in timestamps(pd.Series([first, last]), plant.time, f"{plant.table}, machine {machine!r}")
    )
    instead = {name: each for name, each in columns.items() if each != plant.candidates(name)[0]}
    return _Inventory(machine, int(rows), first, last, columns, instead)


def column(name: str) -> ColumnClause[Any]:
    """A column by its name, whose cells come as the driver gives them."""
    return sqlalchemy.column(name)


def _names(found: _Found, plant: Plant) -> list[str]:
    machine = column(plant.machine)
    query = select(machine).distinct().select_from(found.table).where(machine.is_not(None))
    return sorted(map(str, found.connection.execute(query).scalars()), key=natural)


def _bounds(found: _Found, plant: Plant, start: datetime | None, end: datetime | None) -> Iterator[Any]:
    """What the database can tell of ``start <= time < end``; for times without a zone, and text, days around it."""
    time, kind = column(plant.time.column), found.time_kind()
    for side, sign in ((start, -1), (end, 1)):
        if side is None:
            continue
        bound: Any = side
        if kind != "zoned":
            bound = (side.astimezone(UTC) + sign * ZONES).replace(tzinfo=None)
        if kind == "text":
            bound = f"{bound + timedelta(days=max(sign, 0)):%Y-%m-%d}"
        yield time >= bound if sign < 0 else time < bound


def _check_period(start: datetime | None, end: datetime | None) -> None:
    for side in (start, end):
        if side is not None and side.tzinfo is None:
            raise ConfigurationError(
                f"start/end {side.isoformat()}: expected a time with a zone, such as 2026-01-01T00:00:00+00:00"
            )
    if start is not None and end is not None and start >= end:
        raise ConfigurationError(
            f"start {start.isoformat()} is not before end {end.isoformat()}; expected start < end: exchange them?"
        )


def _warn(machine: str, rows: int, lost: Mapping[str, int]) -> None:
    for name, count in lost.items():
        logger.warning(
            "machine %r: %d of %d cells of column %r cannot be read and count as missing", machine, count, rows, name
        )
