"""Readings from files: formats, names, units, labels, and what is refused."""

import gzip
import hashlib
import io
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pump_ml.errors import ConfigurationError, SourceError, UnknownNameError
from pump_ml.sources import Source
from pump_ml.sources.files import FilesSource
from pump_ml.sources.mapping import load_mapping, shipped

FD001 = Path(__file__).resolve().parents[2] / "shared" / "data" / "cmapss_FD001.tar.gz"

PLANT = """Bomba;Data;Succao;Recalque;Falha
P-1;2026-03-01 00:00:00;1,5;10,0;ok
P-1;2026-03-01 01:00:00;1,6;10,2;ok
P-1;2026-03-01 02:00:00;1,7;;cav
P-2;2026-03-01 00:00:00;2,5;12,0;ok
"""


def plant(**changes: Any) -> dict[str, Any]:
    mapping = {
        "name": "plant",
        "format": {"kind": "csv", "delimiter": ";", "decimal": ","},
        "files": [{"pattern": "*.csv"}],
        "asset_id": "{Bomba}",
        "time": {"column": "Data", "kind": "timestamp", "timezone": "UTC"},
        "sensors": {
            "suction_pressure_bar": {"column": "Succao", "unit": "bar"},
            "discharge_pressure_kpa": {"column": "Recalque", "unit": "bar", "convert_to": "kPa"},
        },
    }
    return {key: value for key, value in {**mapping, **changes}.items() if value is not None}


def cycles(**changes: Any) -> dict[str, Any]:
    mapping = {
        "name": "cycles",
        "format": {"kind": "csv"},
        "files": [{"pattern": "*.csv"}],
        "asset_id": "{unit}",
        "time": {"column": "cycle", "kind": "cycle"},
        "sensors": {"pressure_bar": {"column": "p", "unit": "bar"}},
        "labels": {"rul_cycles": {"derive": "cycles_to_last_row"}},
    }
    return {key: value for key, value in {**mapping, **changes}.items() if value is not None}


class Lab:
    """A folder with a mapping beside the files it is about."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()

    def write(self, name: str, content: str | bytes) -> Path:
        file = self.data / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def source(self, mapping: dict[str, Any] | str, path: Path | None = None) -> FilesSource:
        file = self.folder / "mapping.yaml"
        file.write_text(mapping if isinstance(mapping, str) else yaml.safe_dump(mapping, sort_keys=False))
        return FilesSource(mapping=file, path=path or self.data)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def pack(archive: Path, members: dict[str, str]) -> Path:
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            tar.addfile(member, io.BytesIO(content.encode()))
    return archive


# What the readings look like


def test_plant_columns_get_their_names_units_and_types(lab: Lab) -> None:
    lab.write("pumps.csv", PLANT)
    telemetry = lab.source(plant()).fetch()
    readings = telemetry.readings
    assert {name: str(kind) for name, kind in readings.dtypes.items()} == {
        "asset_id": "str",
        "run_id": "str",
        "time": "datetime64[us, UTC]",
        "commissioning": "bool",
        "suction_pressure_bar": "float64",
        "discharge_pressure_kpa": "float64",
    }
    assert readings["asset_id"].tolist() == readings["run_id"].tolist() == ["P-1", "P-1", "P-1", "P-2"]
    assert readings["suction_pressure_bar"].tolist() == [1.5, 1.6, 1.7, 2.5]
    assert readings["discharge_pressure_kpa"].tolist() == pytest.approx([1000, 1020, np.nan, 1200], nan_ok=True)
    assert readings["time"].iloc[1] == pd.Timestamp("2026-03-01T01:00:00Z")
    assert not readings["commissioning"].any()
    assert [(sensor.name, sensor.unit) for sensor in telemetry.sensors] == [
        ("suction_pressure_bar", "bar"),
        ("discharge_pressure_kpa", "kPa"),
    ]
    assert (telemetry.suite, telemetry.labels) == ("telemetry", ())


def test_temperatures_are_converted_as_absolute_ones(lab: Lab) -> None:
    lab.write("a.csv", "unit,cycle,p\n1,1,25\n")
    sensors = {"oil_k": {"column": "p", "unit": "degC", "convert_to": "kelvin"}}
    assert lab.source(cycles(sensors=sensors)).fetch().readings["oil_k"].tolist() == [298.15]


FRAME = pd.DataFrame({"unit": ["7", "7", "8"], "cycle": [1, 2, 1], "p": [1.25, np.nan, -3e-3]})


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "written", "content"),
    [
        pytest.param("a.csv", {"kind": "csv"}, FRAME.to_csv(index=False), id="csv"),
        pytest.param("a.csv", {"kind": "csv"}, FRAME.to_csv(index=False).encode("utf-8-sig"), id="csv of Excel"),
        pytest.param("a.csv", {"kind": "csv"}, FRAME.to_csv(index=False, lineterminator="\r\n"), id="csv of Windows"),
        pytest.param("a.tsv", {"kind": "tsv"}, FRAME.to_csv(index=False, sep="\t"), id="tsv"),
        pytest.param("a.parquet", {"kind": "parquet"}, parquet(FRAME), id="parquet"),
        pytest.param("a.parquet", {"kind": "parquet"}, parquet(FRAME.set_index("cycle")), id="parquet with an index"),
        pytest.param(
            "a.txt",
            {"kind": "text", "columns": ["unit", "cycle", "p"]},
            "7 1  1.25 \n7 2 nan \n8 1 -3e-3  \n",
            id="text",
        ),
    ],
)
@pytest.mark.parametrize("packing", ["folder", "file", "gz", "tar", "tar.gz", "gz in a tar"])
def test_every_format_gives_the_same_rows_however_it_is_packed(
    lab: Lab, name: str, written: dict[str, Any], content: str | bytes, packing: str
) -> None:
    stored = content.encode() if isinstance(content, str) else content
    if "gz" in packing and packing != "tar.gz":
        name, stored = f"{name}.gz", gzip.compress(stored)
    file = lab.write(f"deep/{name}" if packing == "folder" else name, stored)
    path = {"file": file, "gz": file}.get(packing, lab.data)
    if "tar" in packing:
        path = lab.folder / ("a.tar.gz" if packing == "tar.gz" else "a.tar")
        with tarfile.open(path, "w:gz" if packing == "tar.gz" else "w") as tar:
            tar.add(file, f"./prefix/{name}")
    mapping = cycles(format=written, files=[{"pattern": "a.*"}])
    telemetry = lab.source(mapping, path).fetch()
    readings = telemetry.readings
    assert readings["asset_id"].tolist() == ["7", "7", "8"]
    assert readings["time"].tolist() == [1, 2, 1]
    assert readings["time"].dtype == "int64"
    assert readings["pressure_bar"].tolist() == pytest.approx([1.25, np.nan, -3e-3], nan_ok=True)
    assert readings["rul_cycles"].tolist() == [1, 0, 0]
    assert list(telemetry.origin["files"].values()) == [hashlib.sha256(stored).hexdigest()]


def test_rows_keep_the_order_of_files_and_lines_with_all_their_faults(lab: Lab) -> None:
    lab.write("unit-10.csv", "unit,cycle,p\n10,1,1\n")
    lab.write("unit-2.csv", "unit,cycle,p\n2,3,1\n2,1,2\n2,1,2\n2,,3\n")
    readings = lab.source(cycles()).fetch().readings
    assert readings["asset_id"].tolist() == ["2", "2", "2", "2", "10"]
    assert readings["time"].tolist() == pytest.approx([3, 1, 1, np.nan, 1], nan_ok=True)
    assert readings["rul_cycles"].tolist() == pytest.approx([0, 2, 2, np.nan, 0], nan_ok=True)


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        pytest.param(
            "1,2,Bad", "pressure_bar", "'p' are not a number and count as missing; the first is 'Bad'", id="sensor"
        ),
        pytest.param("1,x,5", "time", "'cycle' are not a number", id="time"),
        pytest.param("1,2.5,5", "time", "'cycle' are not a whole number", id="half a cycle"),
    ],
)
def test_a_cell_that_is_no_number_loses_its_value_and_not_its_row(
    lab: Lab, caplog: pytest.LogCaptureFixture, row: str, column: str, message: str
) -> None:
    lab.write("a.csv", f"unit,cycle,p\n1,1,4\n{row}\n1,3,6\n")
    readings = lab.source(cycles()).fetch().readings
    assert readings[column].isna().tolist() == [False, True, False]
    assert "a.csv: 1 of 3 cells of column" in caplog.text
    assert message in caplog.text


def test_empty_cells_are_missing_without_a_warning(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.write("a.csv", "unit,cycle,p\n1,1,\n1,2,NaN\n1,3,null\n1,4,-\n1,5\n1,6, \n")
    assert lab.source(cycles()).fetch().readings["pressure_bar"].isna().all()
    assert not caplog.records


def test_a_point_among_decimal_commas_is_not_guessed_at(lab: Lab) -> None:
    lab.write("a.csv", PLANT.replace("1,6", "1.234"))
    values = lab.source(plant()).fetch().readings["suction_pressure_bar"].tolist()
    assert values == pytest.approx([1.5, np.nan, 1.7, 2.5], nan_ok=True)


def test_an_asset_may_be_called_na_and_a_row_without_asset_is_kept(lab: Lab) -> None:
    lab.write("a.csv", "unit,cycle,p\nNA,1,1\n,1,1\n007,1,1\n")
    readings = lab.source(cycles()).fetch().readings
    assert readings["asset_id"].isna().tolist() == [False, True, False]
    assert readings["asset_id"].dropna().tolist() == ["NA", "007"]
    assert readings["rul_cycles"].tolist() == pytest.approx([0, np.nan, 0], nan_ok=True)


def test_templates_put_columns_part_and_stem_together(lab: Lab) -> None:
    lab.write("north.csv", "unit,cycle,p,shift\n1,1,1,a\n1,2,1,b\n")
    mapping = cycles(
        files=[{"pattern": "*.csv", "part": "train"}],
        asset_id="{part}/{stem}-{unit}",
        run_id="{stem}-{unit}{{{shift}}}",
    )
    readings = lab.source(mapping).fetch().readings
    assert readings["asset_id"].unique().tolist() == ["train/north-1"]
    assert readings["run_id"].tolist() == ["north-1{a}", "north-1{b}"]
    assert readings["part"].tolist() == ["train", "train"]
    assert readings["rul_cycles"].tolist() == [0, 0]


def test_the_first_rows_of_each_asset_are_commissioning_and_a_run_of_their_own(lab: Lab) -> None:
    lab.write("a.csv", "unit,cycle,p\n1,1,0\n2,1,0\n1,2,0\n,1,0\n1,3,0\n2,2,0\n")
    readings = lab.source(cycles(commissioning={"first": 2})).fetch().readings
    assert readings["commissioning"].tolist() == [True, True, True, False, False, True]
    assert (readings["run_id"].str.endswith("/commissioning") == readings["commissioning"]).all()


# Time


@pytest.mark.parametrize(
    ("cell", "time", "expected"),
    [
        pytest.param("2026-03-01T10:00:00Z", {}, "2026-03-01T10:00:00Z", id="zulu"),
        pytest.param("2026-03-01 10:00:00.25-03:00", {}, "2026-03-01T13:00:00.25Z", id="offset"),
        pytest.param("2026-03-01 10:00", {"timezone": "America/Sao_Paulo"}, "2026-03-01T13:00:00Z", id="stated zone"),
        pytest.param(
            "2026-03-01T10:00:00Z", {"timezone": "America/Sao_Paulo"}, "2026-03-01T10:00:00Z", id="offset wins"
        ),
        pytest.param(
            "01/03/2026 10:00", {"format": "%d/%m/%Y %H:%M", "timezone": "UTC"}, "2026-03-01T10:00:00Z", id="format"
        ),
        pytest.param(
            "01/03/2026 10 +0200", {"format": "%d/%m/%Y %H %z"}, "2026-03-01T08:00:00Z", id="format with offset"
        ),
    ],
)
def test_times_become_utc(lab: Lab, cell: str, time: dict[str, str], expected: str) -> None:
    lab.write("a.csv", f"Bomba;Data;Succao;Recalque\nP-1;{cell};1;1\n")
    readings = lab.source(plant(time={"column": "Data", "kind": "timestamp", **time})).fetch().readings
    assert readings["time"].tolist() == [pd.Timestamp(expected)]
    assert readings["time"].dtype == "datetime64[us, UTC]"


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(pd.to_datetime(["2026-03-01T10:00"]).as_unit("ns"), id="without zone"),
        pytest.param(pd.to_datetime(["2026-03-01T13:00+03:00"]).as_unit("ms"), id="with zone"),
    ],
)
def test_times_of_parquet_become_utc(lab: Lab, times: pd.DatetimeIndex) -> None:
    lab.write("a.parquet", parquet(pd.DataFrame({"Bomba": [1], "Data": times, "Succao": [1], "Recalque": [2]})))
    mapping = plant(format={"kind": "parquet"}, files=[{"pattern": "*.parquet"}])
    readings = lab.source(mapping).fetch().readings
    assert readings["time"].tolist() == [pd.Timestamp("2026-03-01T10:00:00Z")]
    assert readings["time"].dtype == "datetime64[us, UTC]"


def test_an_hour_that_the_clock_shows_twice_is_not_guessed_at(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.write("a.csv", "Bomba;Data;Succao;Recalque\nP;2025-10-26 02:30;1;1\nP;2025-10-26 03:30;1;1\n")
    time = {"column": "Data", "kind": "timestamp", "timezone": "Europe/Berlin"}
    assert lab.source(plant(time=time)).fetch().readings["time"].isna().tolist() == [True, False]
    assert "1 of 2 cells of column 'Data' are not a time" in caplog.text


def test_a_window_of_time_keeps_rows_without_time_and_labels_of_the_whole_run(lab: Lab) -> None:
    lab.write("a.csv", PLANT.replace("P-2;2026-03-01 00:00:00", "P-2;"))
    source = lab.source(plant(labels={"rul_hours": {"derive": "hours_to_last_row"}}))
    telemetry = source.fetch(datetime(2026, 3, 1, 0, tzinfo=UTC), datetime(2026, 3, 1, 2, tzinfo=UTC))
    assert telemetry.readings["asset_id"].tolist() == ["P-1", "P-1", "P-2"]
    assert telemetry.readings["rul_hours"].tolist() == pytest.approx([2, 1, np.nan], nan_ok=True)
    assert telemetry.readings.index.tolist() == [0, 1, 2]
    assert telemetry.origin["end"] == "2026-03-01T02:00:00+00:00"
    assert telemetry.origin != source.origin()


def test_a_window_without_zone_is_refused(lab: Lab) -> None:
    lab.write("a.csv", PLANT)
    with pytest.raises(ConfigurationError, match="2026-03-01T00:00:00: expected a time with a zone"):
        lab.source(plant()).fetch(datetime(2026, 3, 1))


# Labels


def test_the_time_left_is_capped_and_counts_beyond_the_last_row(lab: Lab) -> None:
    lab.write("train.csv", "unit,cycle,p\n1,3,0\n1,1,0\n1,2,0\n")
    lab.write("test.csv", "unit,cycle,p\n10,2,0\n10,1,0\n2,1,0\n")
    lab.write("left.txt", "2\n50\n")
    mapping = cycles(
        files=[
            {"pattern": "train.csv", "part": "train"},
            {"pattern": "test.csv", "part": "test", "life_left": "left.txt"},
        ],
        labels={
            "rul_cycles": {"derive": "cycles_to_last_row"},
            "rul_capped": {"derive": "cycles_to_last_row", "cap": 40},
        },
    )
    telemetry = lab.source(mapping).fetch()
    # In order of asset: 2 stands before 10, whatever the order of the rows.
    assert telemetry.readings["rul_cycles"].tolist() == [0, 2, 1, 50, 51, 2]
    assert telemetry.readings["rul_capped"].tolist() == [0, 2, 1, 40, 40, 2]
    assert telemetry.labels == ("rul_cycles", "rul_capped")
    assert list(telemetry.origin["files"]) == ["left.txt", "test.csv", "train.csv"]


def test_labels_are_taken_from_columns_and_mapped(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.write("a.csv", "unit,cycle,p,level,mode\n1,1,0,0,None\n1,2,0,3,wear\n1,3,0,x,\n")
    labels = {
        "severity": {"column": "level"},
        "mode": {"column": "mode", "type": "class"},
        "alarm": {"column": "mode", "map": {"None": 0, "wear": 1}},
        "stage": {"column": "level", "type": "class", "map": {0: "new", 3: "worn"}},
    }
    readings = lab.source(cycles(labels=labels)).fetch().readings
    assert readings["severity"].tolist() == pytest.approx([0, 3, np.nan], nan_ok=True)
    assert readings["alarm"].tolist() == pytest.approx([0, 1, np.nan], nan_ok=True)
    assert readings["mode"].dropna().tolist() == ["None", "wear"]
    assert readings["stage"].dropna().tolist() == ["new", "worn"]
    assert str(readings["stage"].dtype) == "str"
    assert "not in the map (0, 3)" in caplog.text


# Origin


def test_equal_files_have_equal_origins_and_limits_are_offered(lab: Lab) -> None:
    file = lab.write("a.csv", "unit,cycle,p\n1,1,5\n")
    sensors = {"pressure_bar": {"column": "p", "unit": "bar", "max": 20}}
    source = lab.source(cycles(sensors=sensors))
    assert isinstance(source, Source)
    origin = source.origin()
    assert origin == source.fetch().origin
    assert (origin["source"], origin["mapping"]["name"]) == ("files", "cycles")
    assert origin["limits"] == {"pressure_bar": [None, 20]}
    file.write_text("unit,cycle,p\n1,1,6\n")
    assert source.origin() != origin
    assert "limits" not in lab.source(cycles()).origin()


# What is refused


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        pytest.param("", {}, "a.csv is empty", id="empty file"),
        pytest.param(" \n\n", {}, "a.csv is empty", id="blank file"),
        pytest.param("unit,cycle,p\n", {}, "a.csv has a header and no rows", id="header only"),
        pytest.param("unit;cycle;p\n1;1;2,5\n", {}, "not divided by ',' but, as it looks, by ';'", id="semicolons"),
        pytest.param("unit\tcycle\tp\n1\t1\t2\n", {}, r"by '\\t'.*correct format.delimiter", id="tabs"),
        pytest.param("unit;cycle;p;q, bar\n1;1;2;3\n", {}, "as it looks, by ';'", id="semicolons around commas"),
        pytest.param(
            "unit,cycle,P_1\n1,1,2\n",
            {"sensors": {"p_bar": {"column": "P_2"}}},
            r"a.csv: sensors.p_bar.column: unknown column 'P_2'; known: unit, cycle, P_1. Did you mean 'P_1'\?",
            id="missing column",
        ),
        pytest.param(
            "unit,cycle,p,p\n1,1,2,3\n", {}, r"'p' \(sensors.pressure_bar.column\) stands twice", id="doubled"
        ),
        pytest.param("unit,cycle,p\n1,1,2\n1,2,3,4\n", {}, "line 3, saw 4", id="one row too wide"),
        pytest.param(
            "unit,cycle,p\n1,1,2,5\n1,2,2,6\n", {}, "a decimal comma needs another delimiter", id="all too wide"
        ),
        pytest.param(
            'unit,cycle,p\n1,1,"2,5"\n', {}, "decimal commas, such as '2,5'; state format.decimal", id="decimals"
        ),
        pytest.param(
            "unit,cycle,p\n1,x,2\n", {}, "no cell of column 'cycle' is a time, the first is 'x'", id="no time"
        ),
        pytest.param(b"unit,cycle,p\nS\xe3o,1,2\n", {}, "a.csv is not utf-8-sig.*cp1252", id="encoding"),
        pytest.param(
            "1 2\n",
            {"format": {"kind": "text", "columns": ["unit", "cycle", "p"]}},
            "has 2 cells, .* names 3",
            id="text",
        ),
        pytest.param(
            "1,2,3\n",
            {"format": {"kind": "text", "columns": ["unit", "cycle", "p"]}},
            "looks divided by ','",
            id="text with commas",
        ),
        pytest.param("PAR1", {"format": {"kind": "parquet"}}, "a.csv is not a parquet file", id="parquet"),
    ],
)
def test_a_file_that_is_not_as_described_is_refused(
    lab: Lab, content: str | bytes, changes: dict[str, Any], message: str
) -> None:
    lab.write("a.csv", content)
    with pytest.raises(SourceError, match=message):
        lab.source(cycles(**changes)).fetch()


@pytest.mark.parametrize(
    ("time", "message"),
    [
        pytest.param({}, "'2026-03-01 00:00:00'; state time.timezone, UTC or", id="no zone"),
        pytest.param(
            {"format": "%d/%m/%Y", "timezone": "UTC"}, "'%d/%m/%Y' does not fit; state time.format", id="format"
        ),
    ],
)
def test_times_that_cannot_be_placed_are_refused(lab: Lab, time: dict[str, str], message: str) -> None:
    lab.write("a.csv", PLANT)
    with pytest.raises(SourceError, match=message):
        lab.source(plant(time={"column": "Data", "kind": "timestamp", **time})).fetch()


def test_a_path_that_does_not_exist_is_refused(lab: Lab) -> None:
    with pytest.raises(SourceError, match="nowhere does not exist; give a folder, a file or a tar archive"):
        lab.source(cycles(), lab.folder / "nowhere").fetch()


def test_a_pattern_without_a_file_says_what_is_there(lab: Lab) -> None:
    lab.write("a.txt", "1")
    lab.write("sub/b.txt", "1")
    lab.write(".hidden.csv", "1")
    with pytest.raises(SourceError, match=r"no files match '\*.csv', expected one or more; there: a.txt, sub/b.txt"):
        lab.source(cycles()).origin()


def test_a_file_that_two_patterns_match_is_refused(lab: Lab) -> None:
    lab.write("a.csv", "unit,cycle,p\n1,1,5\n")
    with pytest.raises(SourceError, match=r"a.csv matches '\*' and an earlier pattern too"):
        lab.source(cycles(files=[{"pattern": "*.csv"}, {"pattern": "*"}])).fetch()


@pytest.mark.parametrize("name", ["/etc/a.csv", "../a.csv", "x/../../a.csv", "C:\\a.csv", "..\\a.csv"])
def test_an_archive_that_points_outside_itself_is_refused(lab: Lab, name: str) -> None:
    archive = pack(lab.folder / "a.tar.gz", {"a.csv": "unit,cycle,p\n1,1,5\n", name: "x"})
    with pytest.raises(SourceError, match="points outside the archive"):
        lab.source(cycles(), archive).fetch()


@pytest.mark.parametrize("name", ["a.tar.gz", "a.csv.gz"])
def test_a_file_that_was_cut_off_is_refused(lab: Lab, name: str) -> None:
    content = "unit,cycle,p\n" + "".join(f"1,{n},{n * 7919 % 1000}\n" for n in range(5000))
    if name == "a.tar.gz":
        pack(lab.data / name, {"a.csv": content})
    else:
        lab.write(name, gzip.compress(content.encode()))
    file = lab.data / name
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(SourceError, match=r"copy it again"):
        lab.source(cycles(), file).fetch()


@pytest.mark.parametrize(
    ("later", "changes", "message"),
    [
        pytest.param(
            "1,1,0\n1,2,0\n", {}, "'1' stands in b.csv from about .*put {stem} into asset_id", id="same times"
        ),
        pytest.param(
            "1,9,0\n",
            {"files": [{"pattern": "a.csv", "part": "train"}, {"pattern": "b.csv", "part": "test"}]},
            r"'1' stands in train \(a.csv\) and test \(b.csv\): put {part} into asset_id",
            id="two parts",
        ),
        pytest.param("2,9,0\n", {"run_id": "run"}, "run 'run' stands for assets '1' and '2'", id="one run"),
    ],
)
def test_assets_that_cannot_be_told_apart_are_refused(
    lab: Lab, later: str, changes: dict[str, Any], message: str
) -> None:
    lab.write("a.csv", "unit,cycle,p\n1,1,0\n1,2,0\n1,3,0\n")
    lab.write("b.csv", f"unit,cycle,p\n{later}")
    with pytest.raises(SourceError, match=message):
        lab.source(cycles(**changes)).fetch()


def test_an_asset_may_span_files_that_follow_one_another(lab: Lab) -> None:
    lab.write("a.csv", "unit,cycle,p\n1,1,0\n1,2,0\n1,3,0\n")
    lab.write("b.csv", "unit,cycle,p\n1,3,0\n1,4,0\n1,5,0\n")
    assert lab.source(cycles()).fetch().readings["rul_cycles"].tolist() == [4, 3, 2, 2, 1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("1\n2\n", "left.txt holds 2 numbers for the 1 assets of a.csv", id="too many"),
        pytest.param("x\n", "could not convert string to float: 'x'; expected one number per asset", id="no number"),
        pytest.param("-1\n", "negative or not finite", id="negative"),
    ],
)
def test_life_left_that_does_not_fit_is_refused(lab: Lab, content: str, message: str) -> None:
    lab.write("a.csv", "unit,cycle,p\n1,1,0\n")
    lab.write("left.txt", content)
    with pytest.raises(SourceError, match=message):
        lab.source(cycles(files=[{"pattern": "a.csv", "life_left": "left.txt"}])).fetch()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"sensor": {}}, "mapping: unknown key 'sensor'; known: .*Did you mean 'sensors'", id="key"),
        pytest.param(
            {"time": {"colum": "t"}}, "time: unknown key 'colum'; known: .*Did you mean 'column'", id="deep key"
        ),
        pytest.param({"asset_id": None}, "asset_id: Field required", id="missing key"),
        pytest.param(
            {"sensors": {"p_bar": {"column": "p", "unit": "bbar"}}},
            "sensors.p_bar.unit: .*'bbar' does not exist.*close: bar",
            id="unit",
        ),
        pytest.param(
            {"sensors": {"p_bar": {"column": "p", "unit": "bar", "convert_to": "rpm"}}},
            "sensors.p_bar: unit 'bar' cannot become 'rpm'",
            id="conversion",
        ),
        pytest.param({"sensors": {"p bar": {"column": "p"}}}, "sensors.p bar", id="sensor name"),
        pytest.param({"sensors": {"time": {"column": "p"}}}, "sensors.time: the name is taken", id="taken name"),
        pytest.param({"sensors": {"p": {"column": "p", "min": 2, "max": 1}}}, "min 2 is above max 1", id="limits"),
        pytest.param({"labels": {"y": {"column": "p"}}}, "a model would learn from its answer", id="leak"),
        pytest.param({"labels": {"y": {}}}, "labels.y: a label has either 'derive' or 'column'", id="label"),
        pytest.param(
            {"labels": {"y": {"derive": "hours_to_last_row"}}},
            "'cycle' derives 'cycles_to_last_row'",
            id="derived unit",
        ),
        pytest.param(
            {"labels": {"y": {"column": "c", "map": {"a": "b"}}}}, "labels.y: map.a: 'b' does not fit", id="map"
        ),
        pytest.param({"format": {"kind": "text"}}, "columns belong to kind 'text'", id="text without columns"),
        pytest.param({"format": {"kind": "csv", "decimal": ","}}, "delimiter and decimal are both ','", id="decimal"),
        pytest.param({"format": {"kind": "tsv", "delimiter": ";"}}, "delimiter belongs to kind 'csv'", id="delimiter"),
        pytest.param(
            {"format": {"kind": "csv", "encoding": "utf-9"}}, "encoding 'utf-9' does not exist", id="encoding"
        ),
        pytest.param(
            {"format": {"kind": "text", "columns": ["unit", "cycle", "p1"]}},
            "sensors.pressure_bar.column: unknown column 'p'",
            id="text column",
        ),
        pytest.param({"asset_id": "{unit:03d}"}, "braces hold a column name and nothing else", id="template"),
        pytest.param({"asset_id": "{unit"}, "template '{unit'", id="open template"),
        pytest.param({"asset_id": "{part}"}, "give a part for each entry", id="template without part"),
        pytest.param(
            {"files": [{"pattern": "a", "life_left": "b"}], "labels": None}, "needs a derived label", id="life"
        ),
        pytest.param(
            {"time": {"column": "t", "kind": "timestamp", "timezone": "America/SaoPaulo"}, "labels": None},
            "close: America/Sao_Paulo",
            id="zone",
        ),
    ],
)
def test_a_mapping_that_breaks_the_schema_is_refused_by_key(lab: Lab, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        lab.source(cycles(**changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("name: [", "cannot be read", id="no YAML"),
        pytest.param("name: a\nname: b\n", "key 'name' stands twice", id="doubled key"),
        pytest.param("- a\n", "mapping: Input should be", id="no mapping"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(lab: Lab, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        lab.source(text)


def test_an_unknown_mapping_is_answered_with_the_shipped_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"cmapss_fd001, cwru_12k, .*Did you mean 'cmapss_fd001'\?"):
        FilesSource(mapping="cmapss_fd01", path=".")
    with pytest.raises(ConfigurationError, match=r"mapping .*absent.yaml does not exist; .*cmapss_fd001"):
        FilesSource(mapping="absent.yaml", path=".")


# What is shipped


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_mapping_is_valid_and_says_what_its_sensors_are(name: str) -> None:
    mapping = load_mapping(name)
    assert mapping.name == name
    assert all(sensor.description for sensor in mapping.schema_sensors())


def test_the_plant_example_reads_an_export(lab: Lab) -> None:
    lab.write(
        "2026-03.csv",
        "Data_Hora;Bomba;Succao;Recalque;Oil_P;Vazao;Corrente;Temp_Mancal;Vibracao\n"
        "01/03/2026 00:00:00;B-01;1,0;10,0;2,1;350;88,5;61;2,3\n",
    )
    telemetry = FilesSource(mapping="plant_csv", path=lab.data).fetch()
    row = telemetry.readings.iloc[0]
    assert row["time"] == pd.Timestamp("2026-03-01T03:00:00Z")
    assert row["discharge_pressure_bar"] == pytest.approx(9.80665)
    assert row["oil_pressure_bar"] == 2.1
    assert telemetry.origin["limits"]["vibration_rms_mm_s"] == [0, None]


@pytest.mark.skipif(not FD001.exists(), reason="the C-MAPSS FD001 archive is not on this machine")
def test_fd001_has_its_engines_and_the_truth_of_its_test_engines() -> None:
    source = FilesSource(mapping="cmapss_fd001", path=FD001)
    telemetry = source.fetch()
    readings = telemetry.readings
    assert readings["part"].value_counts().to_dict() == {"train": 20631, "test": 13096}
    assert readings.groupby("part")["asset_id"].nunique().to_dict() == {"train": 100, "test": 100}
    assert len(telemetry.sensors) == 24
    assert not readings.isna().any(axis=None)
    with tarfile.open(FD001) as tar:
        truth = np.loadtxt(tar.extractfile("RUL_FD001.txt") or ())
        raw = np.loadtxt(tar.extractfile("train_FD001.txt") or ())
    last = readings[readings["part"] == "test"].groupby("asset_id", sort=False)["rul_cycles"].last()
    assert last.index.tolist() == [f"test-{unit}" for unit in range(1, 101)]
    assert last.tolist() == truth.tolist()
    train = readings[readings["part"] == "train"]
    assert train["time"].tolist() == raw[:, 1].tolist()
    np.testing.assert_array_equal(train[[sensor.name for sensor in telemetry.sensors]].to_numpy(), raw[:, 2:])
    assert (train.groupby("asset_id")["rul_cycles"].min() == 0).all()
    assert train["rul_cycles"].max() == 361
    assert source.origin() == telemetry.origin
