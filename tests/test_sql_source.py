"""The source `sql`, in SQLite and PostgreSQL: what stands in the table comes out, whatever stands there."""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import postgres
import pytest
import yaml
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from pump_ml.cli import app
from pump_ml.errors import ConfigurationError, DataError, SourceError, UnknownNameError
from pump_ml.sources import sql, telemetry_table
from pump_ml.sources.files import FilesSource
from pump_ml.sources.plant import load_plant, shipped
from pump_ml.sources.sql import SqlSource
from pump_ml.twin import sets
from pump_ml.twin.set_readings import CLEAN, COLUMNS, Dirt

START = datetime(2026, 3, 1, tzinfo=UTC)
FLEET = sets.fleet(5, 7)
MUDDY = Dirt(gaps=30.0, stuck=5.0, missing=1e-3, spikes=1e-3, infinite=1e-3, duplicates=0.01, swapped=0.01)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with postgres.database() as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of an empty database, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'own.db'}"
        return
    address: str = request.getfixturevalue("postgresql")
    yield address
    with create_engine(address).begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


@pytest.fixture
def lite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'own.db'}"


def fill(url: str, *machines: int, days: float = 0.2, dirt: Dirt = CLEAN) -> dict[str, pd.DataFrame]:
    """Put telemetry of machines of the fleet into the table; returns it."""
    engine = create_engine(url)
    telemetry_table.create(engine)
    frames = {FLEET[each].name: sets.simulate(FLEET[each], START, days, 7, dirt) for each in machines}
    for frame in frames.values():
        telemetry_table.append(engine, frame)
    return frames


def table_of(url: str, columns: str, *rows: tuple[Any, ...]) -> None:
    """A small table of telemetry of another hand, with these columns and rows."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE processed_data ({columns})"))
        for row in rows:
            names = ", ".join(f":v{place}" for place in range(len(row)))
            values = {f"v{place}": value for place, value in enumerate(row)}
            connection.execute(text(f"INSERT INTO processed_data VALUES ({names})"), values)  # noqa: S608


def plant(folder: Path, **changes: Any) -> Path:
    """A mapping of few columns."""
    content = {
        "name": "small",
        "table": "processed_data",
        "time": {"column": "timestamp", "kind": "timestamp"},
        "machine": "motor_pump",
        "sensors": {"Oil_P": {"unit": "bar", "min": 0, "max": 10}, "running": {"min": 0, "max": 1}},
    }
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(content | changes))
    return file


# What comes out


def test_readings_have_the_frame_that_everybody_passes(url: str) -> None:
    frame = fill(url, 0)["MP-001"]
    telemetry = SqlSource(machines=["MP-001"], url=url).fetch()
    readings = telemetry.readings
    sensors = [sensor.name for sensor in telemetry.sensors]
    assert list(readings) == ["asset_id", "run_id", "time", "commissioning", *sensors]
    assert sensors == [name for name in COLUMNS if not name.startswith("Flex")]
    assert set(readings["asset_id"]) == set(readings["run_id"]) == {"MP-001"}
    assert str(readings["time"].dtype) == "datetime64[us, UTC]"
    assert not readings["commissioning"].any()
    np.testing.assert_array_equal(readings["time"], frame["timestamp"])
    for name in sensors:
        np.testing.assert_array_equal(readings[name], frame[name], err_msg=name)


def test_unsorted_doubled_infinite_and_absurd_rows_come_faithfully_and_in_order(url: str) -> None:
    frame = fill(url, 0, days=1.0, dirt=MUDDY)["MP-001"]
    assert frame.duplicated().any()
    assert not frame["timestamp"].is_monotonic_increasing
    readings = SqlSource(machines=["MP-001"], url=url).fetch().readings
    expected = frame.sort_values("timestamp", kind="stable", ignore_index=True)
    np.testing.assert_array_equal(readings["time"], expected["timestamp"])
    names = [name for name in readings if name in frame]
    np.testing.assert_array_equal(readings[names], expected[names])
    assert np.isinf(readings[names]).any(axis=None)


def test_machines_come_in_the_order_of_their_names_however_they_are_asked_for(url: str) -> None:
    fill(url, 0, 1, 2, days=0.02)
    source = SqlSource(machines=["MP-003", "MP-001", "MP-003"], url=url)
    assert source.fetch().readings["asset_id"].unique().tolist() == ["MP-001", "MP-003"]
    assert sql.machines(url) == ["MP-001", "MP-002", "MP-003"]


def test_rows_are_counted_by_machine_in_a_period_and_the_table_knows_what_each_spans(url: str) -> None:
    frames = fill(url, 1, 0, days=0.1) | {"late": sets.simulate(FLEET[2], START + timedelta(days=60), 0.1, 7, CLEAN)}
    late = frames["late"]
    telemetry_table.append(create_engine(url), late)
    rows = {frame["motor_pump"].iloc[0]: len(frame) for frame in frames.values()}
    assert list(sql.counts(url)) == ["MP-001", "MP-002", "MP-003"]
    assert sql.counts(url) == rows
    assert sql.counts(url, start=START + timedelta(days=30)) == {"MP-003": len(late)}
    assert sql.counts(url, machines=["MP-003", "MP-001'; --"], end=START + timedelta(days=30)) == {}
    first, last = telemetry_table.spans(create_engine(url))["MP-003"]
    assert (first, last) == (late["timestamp"].min(), late["timestamp"].max())


def test_rows_do_not_depend_on_the_chunks(url: str) -> None:
    fill(url, 0, days=0.1, dirt=MUDDY)
    whole, small = (SqlSource(machines=["MP-001"], url=url, chunk=chunk).fetch().readings for chunk in (50_000, 7))
    pd.testing.assert_frame_equal(whole, small, check_exact=True)


def test_start_is_inside_and_end_is_not(url: str) -> None:
    frame = fill(url, 0)["MP-001"]
    start, end = (frame["timestamp"].iloc[row].to_pydatetime() for row in (100, 200))
    readings = SqlSource(machines=["MP-001"], url=url).fetch(start, end).readings
    np.testing.assert_array_equal(readings["time"], frame["timestamp"].iloc[100:200])
    elsewhere = timezone(timedelta(hours=-3))
    shifted = SqlSource(machines=["MP-001"], url=url).fetch(start.astimezone(elsewhere), end.astimezone(elsewhere))
    pd.testing.assert_frame_equal(shifted.readings, readings)


def test_pressures_that_are_wired_to_the_analogue_inputs_come_under_their_names(url: str) -> None:
    frames = fill(url, 0, 4)
    source = SqlSource(machines=["MP-001", "MP-005"], url=url)
    telemetry = source.fetch()
    readings = telemetry.readings.groupby("asset_id")
    np.testing.assert_array_equal(readings.get_group("MP-001")["Recalque"], frames["MP-001"]["Recalque"])
    np.testing.assert_array_equal(readings.get_group("MP-005")["Recalque"], frames["MP-005"]["FlexAnalogue4_1"])
    np.testing.assert_array_equal(readings.get_group("MP-005")["Succao"], frames["MP-005"]["FlexAnalogue4_2"])
    told = telemetry.origin["machines"]
    assert told["MP-005"]["instead"] == {"Recalque": "FlexAnalogue4_1", "Succao": "FlexAnalogue4_2"}
    assert "instead" not in told["MP-001"]


def test_a_column_that_goes_by_another_name_or_is_absent_is_found_or_missing(lite: str) -> None:
    columns = '"timestamp" TEXT, motor_pump TEXT, "Eng_RPM" REAL, running REAL, "Bateria" REAL, "FlexAnalogue4_1" REAL'
    table_of(lite, columns, ("2026-03-01T00:00:00Z", "A", 1500.0, 1.0, 27.5, 4.5))
    row = SqlSource(machines=["A"], url=lite).fetch().readings.iloc[0]
    assert (row["Bat_V"], row["Recalque"], row["Eng_RPM"]) == (27.5, 4.5, 1500.0)
    assert np.isnan(row["Oil_P"])


# Times


def test_text_with_mixed_offsets_becomes_the_same_clock(lite: str, tmp_path: Path) -> None:
    columns = '"timestamp" TEXT, motor_pump TEXT, "Oil_P" REAL, running REAL'
    times = [
        "2026-03-01T12:00:00+02:00",
        "2026-03-01T09:30:00Z",
        "2026-03-01 08:00:00-03:00",
        "2026-03-01T10:15:00.5+00:00",
    ]
    table_of(lite, columns, *((time, "A", float(place), 1.0) for place, time in enumerate(times)))
    source = SqlSource(machines=["A"], url=lite, mapping=plant(tmp_path))
    readings = source.fetch().readings
    assert readings["time"].dt.strftime("%H:%M:%S").tolist() == ["09:30:00", "10:00:00", "10:15:00", "11:00:00"]
    assert readings["Oil_P"].tolist() == [1.0, 0.0, 3.0, 2.0]
    part = source.fetch(datetime(2026, 3, 1, 10, tzinfo=UTC), datetime(2026, 3, 1, 11, tzinfo=UTC)).readings
    assert part["Oil_P"].tolist() == [0.0, 3.0]


@pytest.mark.parametrize("far", ["2026-03-01T23:30:00+14:00", "2026-02-28T22:00:00-11:30"], ids=["east", "west"])
def test_a_period_finds_text_of_any_offset(far: str, lite: str, tmp_path: Path) -> None:
    columns = '"timestamp" TEXT, motor_pump TEXT, "Oil_P" REAL, running REAL'
    table_of(lite, columns, (far, "A", 1.0, 1.0))
    moment = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    source = SqlSource(machines=["A"], url=lite, mapping=plant(tmp_path))
    assert len(source.fetch(moment, moment + timedelta(seconds=1)).readings) == 1
    with pytest.raises(SourceError, match="empty period"):
        source.fetch(moment + timedelta(seconds=1), moment + timedelta(hours=1))


def test_postgresql_converts_times_with_a_zone_from_whatever_offset_they_came(postgresql: str, tmp_path: Path) -> None:
    columns = '"timestamp" timestamptz, motor_pump text, "Oil_P" numeric(6, 2), running boolean'
    rows = [("2026-03-29 00:30:00+02:00", "A", 1.25, True), ("2026-03-28 22:45:00Z", "A", 2.5, False)]
    table_of(postgresql, columns, *rows)
    try:
        address = f"{postgresql}&options=-ctimezone=Europe/Berlin"
        readings = SqlSource(machines=["A"], url=address, mapping=plant(tmp_path)).fetch().readings
    finally:
        with create_engine(postgresql).begin() as connection:
            connection.execute(text("DROP TABLE processed_data"))
    assert readings["time"].tolist() == [pd.Timestamp("2026-03-28 22:30Z"), pd.Timestamp("2026-03-28 22:45Z")]
    assert readings["Oil_P"].tolist() == [1.25, 2.5]
    assert readings["running"].tolist() == [1.0, 0.0]


@pytest.fixture
def local(url: str) -> str:
    """A table whose times have no zone, over the change to summer time and the one back."""
    kind = "TEXT" if url.startswith("sqlite") else "timestamp"
    times = ["2026-03-29 01:30", "2026-03-29 02:30", "2026-03-29 03:30", "2026-10-25 01:30", "2026-10-25 02:30",
             "2026-10-25 03:30"]  # fmt: skip
    table_of(
        url,
        f'"timestamp" {kind}, motor_pump TEXT, "Oil_P" REAL, running REAL',
        *((f"{time}:00", "A", float(place), 1.0) for place, time in enumerate(times)),
    )
    return url


def test_times_without_a_zone_are_refused_with_the_cure(local: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"carries no time zone, such as .*2026-03-29.*; state time.timezone, UTC or a zone"
    ):
        SqlSource(machines=["A"], url=local, mapping=plant(tmp_path)).fetch()


def test_hours_that_a_change_of_season_has_twice_or_never_are_missing_and_counted(
    local: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    time = {"column": "timestamp", "kind": "timestamp", "timezone": "Europe/Berlin"}
    source = SqlSource(machines=["A"], url=local, mapping=plant(tmp_path, time=time))
    with caplog.at_level(logging.WARNING):
        readings = source.fetch().readings
    assert readings["Oil_P"].tolist() == [0.0, 2.0, 3.0, 5.0, 1.0, 4.0]  # those without a time stand last
    assert readings["time"].dropna().dt.strftime("%m-%d %H:%M").tolist() == [
        "03-29 00:30", "03-29 01:30", "10-24 23:30", "10-25 02:30",
    ]  # fmt: skip
    assert "machine 'A': 2 of 6 cells of column 'timestamp' cannot be read and count as missing" in caplog.text
    march = source.fetch(datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 3, 29, 1, 30, tzinfo=UTC)).readings
    assert march["Oil_P"].tolist() == [0.0]


# Cells


def test_cells_that_are_not_numbers_are_missing_and_counted(
    lite: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cells = ["1.5", "fault", None, "", "1,5", "inf", "NaN"]
    rows = ((f"2026-03-01T00:00:0{place}Z", "A", cell, "1") for place, cell in enumerate(cells))
    table_of(lite, '"timestamp" TEXT, motor_pump TEXT, "Oil_P" TEXT, running TEXT', *rows)
    with caplog.at_level(logging.WARNING):
        readings = SqlSource(machines=["A"], url=lite, mapping=plant(tmp_path)).fetch().readings
    assert str(readings["Oil_P"].dtype) == "float64"
    np.testing.assert_array_equal(readings["Oil_P"], [1.5, np.nan, np.nan, np.nan, np.nan, np.inf, np.nan])
    assert "machine 'A': 2 of 7 cells of column 'Oil_P' cannot be read" in caplog.text
    assert readings["running"].tolist() == [1.0] * 7


def test_a_column_of_nothing_but_nan_counts_as_empty(url: str) -> None:
    number = "REAL" if url.startswith("sqlite") else "double precision"
    columns = f'"timestamp" {"TEXT" if number == "REAL" else "timestamptz"}, motor_pump TEXT, '
    columns += ", ".join(f'"{name}" {number}' for name in ("Eng_RPM", "running", "Recalque", "FlexAnalogue4_1"))
    table_of(url, columns, ("2026-03-01T00:00:00Z", "A", 1500.0, 1.0, float("nan"), 4.5))
    assert SqlSource(machines=["A"], url=url).fetch().readings["Recalque"].tolist() == [4.5]


# What cannot be


@pytest.mark.parametrize(
    "name",
    [
        "x'; DROP TABLE processed_data; --",
        "' OR '1'='1",
        'MP-001"; DELETE FROM processed_data; --',
        "%",
        "MP-00_",
        ":x",
    ],
)
def test_sql_in_the_name_of_a_machine_is_a_name_that_is_not_there(url: str, name: str) -> None:
    fill(url, 0, days=0.02)
    before = SqlSource(machines=["MP-001"], url=url).fetch().readings
    for call in (SqlSource(machines=[name], url=url).fetch, SqlSource(machines=["MP-001", name], url=url).origin):
        with pytest.raises(SourceError, match="processed_data has no row of machine"):
            call()
    pd.testing.assert_frame_equal(SqlSource(machines=["MP-001"], url=url).fetch().readings, before)


def test_a_machine_whose_name_holds_sql_is_read_and_no_other(url: str) -> None:
    engine = create_engine(url)
    telemetry_table.create(engine)
    name = "x'; DROP TABLE processed_data; --"
    frame = sets.simulate(FLEET[0], START, 0.02, 7, CLEAN)
    telemetry_table.append(engine, frame.assign(motor_pump=name))
    telemetry_table.append(engine, frame)
    readings = SqlSource(machines=[name], url=url).fetch().readings
    assert set(readings["asset_id"]) == {name}
    assert len(readings) == len(frame)


def test_a_machine_that_is_unknown_is_told_with_those_that_are_near(url: str) -> None:
    fill(url, 0, 1, days=0.02)
    with pytest.raises(
        SourceError, match=r"'MP-01'; close: MP-001, MP-002, of 2 machines. List them with: pump-ml mach"
    ):
        SqlSource(machines=["MP-01"], url=url).fetch()


def test_an_empty_period_tells_when_the_machine_has_rows(url: str) -> None:
    frame = fill(url, 0)["MP-001"]
    first, last = frame["timestamp"].iloc[0], frame["timestamp"].iloc[-1]
    with pytest.raises(SourceError) as told:
        SqlSource(machines=["MP-001"], url=url).fetch(datetime(2027, 1, 1, tzinfo=UTC))
    assert str(told.value).startswith("empty period: processed_data has no row of machine 'MP-001' from 2027-01-01")
    assert f"it has {len(frame)} from {first.isoformat()} to {last.isoformat()}" in str(told.value)


def test_dates_that_are_reversed_or_have_no_zone_are_refused() -> None:
    source = SqlSource(machines=["MP-001"], url="sqlite:///nowhere.db")
    with pytest.raises(ConfigurationError, match=r"start 2026-03-02T00:00:00\+00:00 is not before end 2026-03-01"):
        source.fetch(START + timedelta(days=1), START)
    with pytest.raises(ConfigurationError, match="is not before end"):
        source.fetch(START, START)
    with pytest.raises(ConfigurationError, match="expected a time with a zone"):
        source.fetch(START.replace(tzinfo=None))


def test_a_column_that_is_required_and_missing_is_told_with_those_there(url: str) -> None:
    kind = "TEXT" if url.startswith("sqlite") else "timestamptz"
    table_of(url, f'"timestamp" {kind}, motor_pump TEXT, "Eng_RPM2" REAL, running REAL')
    with pytest.raises(
        SourceError, match="unknown column 'Eng_RPM'; known: timestamp, motor_pump, Eng_RPM2, running"
    ) as told:
        SqlSource(machines=["A"], url=url).fetch()
    assert "Did you mean 'Eng_RPM2'? Correct the mapping 'processed_data'" in str(told.value)


def test_a_table_or_a_file_that_is_missing_is_told(url: str, tmp_path: Path) -> None:
    with create_engine(url).begin() as connection:
        connection.execute(text("CREATE TABLE processed (x INT)"))
    with pytest.raises(
        SourceError, match=r"unknown table 'processed_data'; known: processed. Did you mean 'processed'?"
    ):
        SqlSource(machines=["A"], url=url).fetch()
    with pytest.raises(SourceError, match=r"absent.db does not exist; correct PUMP_ML_TELEMETRY_URL"):
        sql.machines(f"sqlite:///{tmp_path / 'absent.db'}")
    assert not (tmp_path / "absent.db").exists()


def test_a_database_that_cannot_be_reached_is_worth_a_retry() -> None:
    with pytest.raises(OperationalError):
        sql.machines("postgresql+psycopg2://nobody@127.0.0.1:1/none")


def test_no_part_of_a_password_is_told_where_an_address_cannot_be_read() -> None:
    with pytest.raises(ConfigurationError, match="the address cannot be read") as found:
        sql.machines("postgresql+psycopg2://u:p@x:se:cret@h:5432/db")  # not a secret: made up for this test
    assert "cret" not in str(found.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"machines": []}, r"machines = \[\]; expected one or more"),
        ({"machines": ["A"], "chunk": 0}, "chunk = 0; expected 1 or more"),
        ({"machines": ["A"], "mapping": "processed"}, "unknown plant 'processed'; known: processed_data"),
        ({"machines": ["A"], "url": "mysql://u@h/d"}, "databases of mysql are not supported; expected postgresql"),
        ({"machines": ["A"], "url": "var/telemetry.db"}, "the address cannot be read; expected postgresql"),
    ],
    ids=["machines", "chunk", "mapping", "database", "address"],
)
def test_options_that_cannot_be_used_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SqlSource(**options).fetch()


# Origin


def test_the_origin_tells_the_rows_and_keeps_the_password(url: str) -> None:
    frame = fill(url, 0)["MP-001"]
    source = SqlSource(machines=["MP-001"], url=url)
    origin = source.origin()
    assert origin == source.fetch().origin
    assert origin["machines"]["MP-001"] == {
        "rows": len(frame),
        "first": frame["timestamp"].min().isoformat(),
        "last": frame["timestamp"].max().isoformat(),
    }
    assert source.fetch(START + timedelta(hours=1)).origin == origin | {"start": "2026-03-01T01:00:00+00:00"}
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text('DELETE FROM processed_data WHERE "Oil_P" > 3'))
    assert source.origin() != origin


def test_no_password_stands_in_the_origin(postgresql: str) -> None:
    fill(postgresql, 0, days=0.02)
    try:
        secret = postgresql.replace("ledger@", "ledger:s3cret@") + "&passfile=/tmp/s3cret"
        assert "s3cret" in secret
        assert "s3cret" not in str(SqlSource(machines=["MP-001"], url=secret).origin())
    finally:
        with create_engine(postgresql).begin() as connection:
            connection.execute(text("DROP TABLE processed_data"))


# The mapping


def test_every_mapping_that_ships_is_whole() -> None:
    assert shipped() == ("processed_data",)
    told = load_plant("processed_data")
    assert [name for name, sensor in told.sensors.items() if sensor.required] == ["Eng_RPM", "running"]
    assert told.candidates("Bat_V") == ("Bat_V", "Bateria")
    assert (told.sensors["Succao"].min, told.sensors["Succao"].max, told.sensors["Succao"].unit) == (-1.0, 25.0, "bar")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tabel": "x"}, "unknown key 'tabel'.*Did you mean 'table'"),
        ({"sensors": {"P": {"unit": "barr", "min": 0, "max": 1}}}, "unit 'barr' does not exist"),
        ({"sensors": {"P": {"min": 2, "max": 1}}}, "min 2 is not below max 1"),
        ({"sensors": {name: {"column": "x", "min": 0, "max": 1} for name in "PQ"}}, "'x' is that of sensors.P"),
        ({"sensors": {"time": {"min": 0, "max": 1}}}, "sensors.time: the name is taken"),
        ({"time": {"column": "t", "kind": "cycle"}}, "time: expected kind 'timestamp'"),
        ({"time": {"column": "t", "kind": "timestamp", "timezone": "Mars"}}, "timezone 'Mars' does not exist"),
    ],
    ids=["key", "unit", "range", "column twice", "name", "cycles", "zone"],
)  # fmt: skip
def test_a_mapping_that_breaks_its_schema_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_plant(plant(tmp_path, **changes))
    assert issubclass(UnknownNameError, ConfigurationError)


def test_table_and_columns_of_other_names_are_quoted(url: str, tmp_path: Path) -> None:
    engine: Engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text('CREATE TABLE "Plant 7; data" ("when" TEXT, "Pump ""A""" TEXT, "select" REAL)'))
        connection.execute(text("INSERT INTO \"Plant 7; data\" VALUES ('2026-03-01T00:00:00+01:00', 'A', 1.5)"))
    mapping = plant(
        tmp_path,
        table="Plant 7; data",
        machine='Pump "A"',
        time={"column": "when", "kind": "timestamp"},
        sensors={"pressure": {"column": "select", "unit": "bar", "min": 0, "max": 1}},
    )
    readings = SqlSource(machines=["A"], url=url, mapping=mapping).fetch().readings
    assert readings["pressure"].tolist() == [1.5]
    assert readings["time"].tolist() == [pd.Timestamp("2026-02-28 23:00Z")]


# Ways in


def test_telemetry_of_a_machine_is_written_once(url: str) -> None:
    frame = fill(url, 0, 1, days=0.05, dirt=MUDDY)["MP-001"]
    engine = create_engine(url)
    assert telemetry_table.append(engine, frame) is False
    for other in (sets.simulate(FLEET[0], START, 0.05, 8), frame.iloc[1:], frame.assign(Oil_P=np.nan)):
        with pytest.raises(
            DataError, match=r"has other telemetry of machine 'MP-001': .* what is there is never changed"
        ):
            telemetry_table.append(engine, other)
    assert len(SqlSource(machines=["MP-001"], url=url).fetch().readings) == len(frame)


def test_what_fails_on_its_way_in_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry_table, "CHUNK", 100)
    engine = create_engine(url)
    telemetry_table.create(engine)
    shares: list[float] = []

    def stop(share: float) -> None:
        shares.append(share)
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        telemetry_table.append(engine, sets.simulate(FLEET[0], START, 0.05, 7), stop)
    assert len(shares) > 1
    assert sql.machines(url) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frame: frame.drop(columns="Oil_P"), "telemetry lacks Oil_P"),
        (lambda frame: frame.assign(motor_pump=["A", *["B"] * (len(frame) - 1)]), "telemetry of 2 machines"),
    ],
    ids=["column", "machines"],
)
def test_telemetry_that_is_not_of_one_machine_is_refused(
    lite: str, spoil: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    engine = create_engine(lite)
    telemetry_table.create(engine)
    with pytest.raises(DataError, match=message):
        telemetry_table.append(engine, spoil(sets.simulate(FLEET[0], START, 0.02, 7)))


def machines(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["machines", *arguments])
    if isinstance(done.exception, Exception):
        raise done.exception
    return done.stdout


def test_the_table_and_the_files_of_a_simulated_fleet_give_the_same_readings(home: Path, tmp_path: Path) -> None:
    asked = ("simulate", "--machines", "5", "--days", "0.3", "--seed", "7", "--start", "2026-03-01")
    printed = machines(*asked, "--csv", str(tmp_path / "csv"))
    assert printed.split()[-5:] == [f"MP-00{number}" for number in range(1, 6)]
    assert (home / "telemetry.db").is_file()
    assert machines("list").split() == printed.split()[-5:]
    files = FilesSource(mapping="processed_data", path=tmp_path / "csv").fetch()
    table = SqlSource(machines=printed.split()[-5:]).fetch()
    keys = ["asset_id", "time", "Oil_P"]
    both = [each.readings.sort_values(keys, kind="stable", ignore_index=True) for each in (files, table)]
    pd.testing.assert_frame_equal(both[0][list(both[1])], both[1])
    assert files.sensors == table.sensors
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "csv").iterdir()}
    machines(*asked, "--csv", str(tmp_path / "csv"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "csv").iterdir()} == written


def test_another_fleet_is_not_written_over_the_first(tmp_path: Path) -> None:
    asked = ("simulate", "--machines", "1", "--days", "0.05", "--csv", str(tmp_path))
    machines(*asked)
    with pytest.raises(DataError, match="has other telemetry of machine 'MP-001'"):
        machines(*asked, "--seed", "8")
    with pytest.raises(ConfigurationError, match=r"MP-001.csv is there with other content and is never overwritten"):
        machines(*asked, "--seed", "8", "--url", f"sqlite:///{tmp_path / 'other.db'}")
