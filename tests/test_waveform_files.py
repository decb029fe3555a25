"""Waveforms and arrays from files: axes, channels, indicators, labels, and what is refused."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from made_up import MADE_UP

from pump_ml import snapshots
from pump_ml.errors import ConfigurationError, SourceError
from pump_ml.problems import load_problem
from pump_ml.schema import Telemetry
from pump_ml.settings import Settings
from pump_ml.sources.files import FilesSource
from pump_ml.splits import folds
from pump_ml.validation import validate

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def bearings(**changes: Any) -> dict[str, Any]:
    mapping = {
        "name": "bearings",
        "format": {"kind": "npz"},
        "arrays": {
            "pattern": r"B(?P<bearing>\d)",
            "axes": ["row", "sample", "column"],
            "columns": ["h", "v"],
            "beside": [{"array": "B{bearing}_idx", "axes": ["row"], "columns": ["index"]}],
        },
        "files": [{"pattern": "*.npz"}],
        "asset_id": "{bearing}",
        "time": {"column": "index", "kind": "cycle"},
        "sensors": {"speed_rpm": {"column": "bearing", "unit": "rpm", "map": {"1": 1800, "2": 1650}}},
        "waveforms": {
            "rate_hz": 1000,
            "channels": {
                "horizontal_g": {"column": "h", "unit": "standard_gravity", "scale": 0.5, "subtract_mean": True},
                "vertical_g": {"column": "v", "unit": "standard_gravity", "scale": 0.5},
            },
            "indicators": [
                {"kind": "rms"},
                {"kind": "kurtosis", "channels": ["vertical_g"], "log": True},
                {"kind": "bands", "number": 4, "channels": ["horizontal_g"]},
                {
                    "kind": "envelope", "channels": ["horizontal_g"], "prefix": "hf", "orders": {"bpfi": 2.5},
                    "harmonics": 2, "speed_rpm": "speed_rpm", "bands_hz": [[200, 450], [300, 450]],
                },
            ],
        },
        "labels": {"rul_pct": {"derive": "percent_to_last_row"}},
    }  # fmt: skip
    return {key: value for key, value in {**mapping, **changes}.items() if value is not None}


def npz(folder: Path, name: str = "data.npz", **arrays: Any) -> Path:
    rng = np.random.default_rng(0)
    made = {
        "B1": rng.integers(-900, 900, (3, 64, 2), dtype=np.int16),
        "B1_idx": np.array([2, 7, 12]),
        "B2": rng.integers(-900, 900, (2, 64, 2), dtype=np.int16),
        "B2_idx": np.array([0, 5]),
        **arrays,
    }
    np.savez_compressed(folder / name, **{key: value for key, value in made.items() if value is not None})
    return folder / name


def source(folder: Path, mapping: dict[str, Any], path: Path | None = None) -> FilesSource:
    file = folder / "mapping.yaml"
    file.write_text(yaml.safe_dump(mapping, sort_keys=False))
    return FilesSource(mapping=file, path=path or folder)


def channel(column: str) -> dict[str, Any]:
    return {"rate_hz": 100, "channels": {"drive_end_g": {"column": column}}, "indicators": [{"kind": "rms"}]}


# What comes of them


def test_arrays_give_readings_with_indicators_and_the_waveforms_beside(tmp_path: Path) -> None:
    path = npz(tmp_path)
    telemetry = source(tmp_path, bearings(), path).fetch()
    readings, waveforms = telemetry.readings, telemetry.waveforms
    assert [(sensor.name, sensor.unit) for sensor in telemetry.sensors] == [
        ("speed_rpm", "rpm"),
        ("horizontal_rms_g", "standard_gravity"),
        ("vertical_rms_g", "standard_gravity"),
        ("vertical_log_kurtosis", ""),
        *((f"horizontal_band_{place}", "") for place in range(1, 5)),
        ("horizontal_hf_bpfi_1", ""),
        ("horizontal_hf_bpfi_2", ""),
    ]
    assert readings["asset_id"].tolist() == ["1", "1", "1", "2", "2"]
    assert readings["time"].tolist() == [2, 7, 12, 0, 5]
    assert readings["speed_rpm"].tolist() == [1800, 1800, 1800, 1650, 1650]
    assert readings["rul_pct"].tolist() == pytest.approx([100 * 10 / 12, 100 * 5 / 12, 0, 100, 0])
    assert readings.notna().all(axis=None)
    assert waveforms is not None
    assert waveforms.values.shape == (5, 2, 64)
    assert waveforms.values.dtype == np.float32
    assert waveforms.rate_hz == 1000
    pd.testing.assert_frame_equal(waveforms.rows, readings[["asset_id", "run_id", "time"]])
    with np.load(path) as stored:
        counts = stored["B2"][1].T * 0.5
    np.testing.assert_allclose(waveforms.values[4, 1], counts[1])
    np.testing.assert_allclose(waveforms.values[4, 0], counts[0] - counts[0].mean(), atol=1e-3)
    assert readings["vertical_rms_g"].iloc[4] == pytest.approx(np.sqrt((counts[1] ** 2).mean()))


def test_archives_and_gz_hold_arrays_as_they_do_tables(tmp_path: Path) -> None:
    path = npz(tmp_path)
    plain = source(tmp_path, bearings(), path).fetch()
    packed = tmp_path / "data.npz.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    archive = tmp_path / "data.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(path, "inside/data.npz")
    for other in (packed, archive):
        found = source(tmp_path, bearings(), other).fetch()
        pd.testing.assert_frame_equal(found.readings, plain.readings)


def test_a_long_record_is_cut_into_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "P7_3.npy", np.arange(70, dtype=np.float32))
    mapping = bearings(
        format={"kind": "npy"},
        arrays={"pattern": r"P(?P<pump>\d)_(?P<record>\d)", "axes": ["sample"], "columns": ["a"], "cut": 32},
        files=[{"pattern": "*.npy"}],
        asset_id="P-{pump}",
        run_id="P-{pump}/{record}",
        time={"column": "row", "kind": "cycle"},
        sensors=None,
        waveforms=channel("a"),
        labels=None,
    )
    telemetry = source(tmp_path, mapping).fetch()
    assert telemetry.readings["run_id"].tolist() == ["P-7/3", "P-7/3"]
    assert telemetry.readings["time"].tolist() == [0, 1]
    assert telemetry.waveforms is not None
    assert telemetry.waveforms.values[:, 0].tolist() == [list(range(32)), list(range(32, 64))]


def test_runs_rows_and_columns_come_from_axes_in_any_order(tmp_path: Path) -> None:
    values = np.arange(24.0).reshape(2, 4, 3)  # columns, rows, runs
    np.savez(
        tmp_path / "rig.npz", X=values, names=np.array(["p", "q"]), state=np.array([[3, 9], [3, 8], [4, 7]]),
        grease=np.array([0, 1, 2, 3]),
    )  # fmt: skip
    mapping = bearings(
        arrays={
            "pattern": "X",
            "axes": ["column", "row", "run"],
            "columns": "names",
            "beside": [
                {"array": "state", "axes": ["run", "column"], "columns": ["cooler", "valve"]},
                {"array": "grease", "axes": ["row"], "columns": ["grease"]},
            ],
        },
        asset_id="{cooler}",
        run_id="cycle {run}",
        time={"column": "row", "kind": "cycle"},
        sensors={"p_bar": {"column": "p"}, "q_bar": {"column": "q"}, "grease_g": {"column": "grease"}},
        waveforms=None,
        labels={"valve": {"column": "valve", "type": "class"}},
    )
    telemetry = source(tmp_path, mapping).fetch()
    readings = telemetry.readings
    assert telemetry.waveforms is None
    assert readings["run_id"].tolist() == [f"cycle {run}" for run in range(3) for _ in range(4)]
    assert readings["p_bar"].tolist() == values[0].T.reshape(-1).tolist()
    assert readings["q_bar"].tolist() == values[1].T.reshape(-1).tolist()
    assert readings["grease_g"].tolist() == [0, 1, 2, 3] * 3
    assert readings["asset_id"].tolist() == ["3"] * 8 + ["4"] * 4
    assert readings["valve"].tolist() == ["9"] * 4 + ["8"] * 4 + ["7"] * 4


SNAPSHOTS = {
    "format": {"kind": "csv", "columns": ["h", "m", "acc"]},
    "arrays": None,
    "files": [{"pattern": "acc_*.csv", "name": r"(?P<bearing>B\d)/acc_(?P<index>\d+)\.csv$"}],
    "sensors": {"elapsed_h": {"derive": "elapsed", "factor": 0.5, "unit": "hour"}},
    "waveforms": channel("acc"),
    "commissioning": {"first": 1},
}


def test_each_text_file_may_be_one_waveform(tmp_path: Path) -> None:
    for index in (3, 7, 10):
        file = tmp_path / "B4" / f"acc_{index:05d}.csv"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"9,39,{index * (-1) ** n}\n" for n in range(20)))
    telemetry = source(tmp_path, bearings(**SNAPSHOTS)).fetch()
    readings = telemetry.readings
    assert readings["asset_id"].tolist() == ["B4"] * 3
    assert readings["time"].tolist() == [3, 7, 10]
    assert readings["drive_end_rms_g"].tolist() == [3, 7, 10]
    assert readings["elapsed_h"].tolist() == [0, 2, 3.5]
    assert readings["rul_pct"].tolist() == pytest.approx([70, 30, 0])
    assert telemetry.waveforms is not None
    assert telemetry.waveforms.rows["run_id"].tolist() == ["B4/commissioning", "B4", "B4"]
    (tmp_path / "B4" / "acc_00011.csv").write_text("9,39,1\n9,39,2\n")
    with pytest.raises(SourceError, match=r"acc_00011.csv has 2 samples a waveform, B4/acc_00003.csv has 20"):
        source(tmp_path, bearings(**SNAPSHOTS)).fetch()
    (tmp_path / "acc_00012.csv").write_text("9,39,1\n")
    with pytest.raises(SourceError, match=r"acc_00012.csv matches 'acc_\*.csv' but not files.name"):
        source(tmp_path, bearings(**SNAPSHOTS)).fetch()


LISTS = {
    "format": {"kind": "parquet"},
    "arrays": None,
    "files": [{"pattern": "*.parquet"}],
    "asset_id": "{unit}",
    "time": {"column": "at", "kind": "timestamp"},
    "sensors": {"p_bar": {"column": "p"}},
    "waveforms": channel("acc"),
    "labels": None,
}


def lists(folder: Path, acc: Any, kind: Any) -> None:
    at = [f"2026-01-01T{hour:02d}:00:00Z" for hour in range(3)]
    table = pa.table({"unit": ["a"] * 3, "at": at, "p": [1.0, 2.0, 3.0], "acc": pa.array(acc, kind), "other": [1] * 3})
    pq.write_table(table, folder / "a.parquet")


@pytest.mark.parametrize("kind", [pa.list_(pa.int16()), pa.list_(pa.float64()), pa.large_list(pa.float32())])
def test_lists_in_parquet_are_waveforms_and_a_row_may_lack_one(tmp_path: Path, kind: Any) -> None:
    lists(tmp_path, [[1, -1, 1, -1], None, [3, -3, 3, -3]], kind)
    telemetry = source(tmp_path, bearings(**LISTS)).fetch()
    assert telemetry.readings["p_bar"].tolist() == [1, 2, 3]
    assert telemetry.readings["drive_end_rms_g"].tolist() == pytest.approx([1, np.nan, 3], nan_ok=True)
    assert telemetry.waveforms is not None
    assert telemetry.waveforms.rows["time"].dt.hour.tolist() == [0, 2]
    assert telemetry.waveforms.values[:, 0].tolist() == [[1, -1, 1, -1], [3, -3, 3, -3]]
    late = source(tmp_path, bearings(**LISTS)).fetch(start=pd.Timestamp("2026-01-01T01:30Z").to_pydatetime())
    assert late.waveforms is not None
    assert late.waveforms.values[:, 0].tolist() == [[3, -3, 3, -3]]


def test_lists_of_unequal_length_and_columns_that_are_none_are_refused(tmp_path: Path) -> None:
    lists(tmp_path, [[1.0, 2.0], None, [1.0, 2.0, 3.0]], pa.list_(pa.float64()))
    with pytest.raises(
        SourceError, match=r"a.parquet: column 'acc' has waveforms of 2 and of 3 samples; .*state waveforms"
    ):
        source(tmp_path, bearings(**LISTS)).fetch()
    with pytest.raises(SourceError, match=r"column 'p' is of type double; expected lists of numbers"):
        source(tmp_path, bearings(**LISTS | {"waveforms": channel("p"), "sensors": {}})).fetch()
    lists(tmp_path, [None] * 3, pa.list_(pa.float64()))
    with pytest.raises(SourceError, match=r"a.parquet: column 'acc' holds no waveform; state waveforms.samples"):
        source(tmp_path, bearings(**LISTS)).fetch()


def test_where_the_samples_are_stated_another_length_costs_one_waveform(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stated = channel("acc") | {"samples": 4}
    lists(tmp_path, [[1.0, -1.0, 1.0, -1.0], [2.0, 2.0, 2.0], [3.0, -3.0, 3.0, -3.0]], pa.list_(pa.float64()))
    telemetry = source(tmp_path, bearings(**LISTS | {"waveforms": stated})).fetch()
    assert telemetry.readings["drive_end_rms_g"].tolist() == pytest.approx([1, np.nan, 3], nan_ok=True)
    assert telemetry.waveforms is not None
    assert telemetry.waveforms.usable().tolist() == [True, False, True]
    assert (
        "a.parquet: 1 of 3 waveforms of column 'acc' have not 4 samples and count as missing; the first has 3"
        in caplog.text
    )
    lists(tmp_path, [None] * 3, pa.list_(pa.float64()))
    telemetry = source(tmp_path, bearings(**LISTS | {"waveforms": stated})).fetch()
    assert telemetry.readings["drive_end_rms_g"].isna().tolist() == [True] * 3
    assert telemetry.waveforms is not None
    assert len(telemetry.waveforms) == 0
    for index, count in ((3, 4), (7, 3), (10, 4)):
        file = tmp_path / "B4" / f"acc_{index:05d}.csv"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"9,39,{index * (-1) ** n}\n" for n in range(count)))
    telemetry = source(tmp_path, bearings(**SNAPSHOTS | {"waveforms": stated})).fetch()
    assert telemetry.readings["drive_end_rms_g"].tolist() == pytest.approx([3, np.nan, 10], nan_ok=True)
    assert "B4/acc_00007.csv: waveforms of column 'acc' have 3 samples, not 4, and count as missing" in caplog.text


def test_a_waveform_with_a_gap_or_flat_goes_to_quarantine_and_stays_among_the_raw_ones(tmp_path: Path) -> None:
    waves = np.random.default_rng(0).normal(size=(60, 64, 2))
    waves[3, 5, 0], waves[4, :, 1] = np.nan, 0.1
    path = npz(tmp_path, B1=waves, B1_idx=np.arange(60), B2=None, B2_idx=None)
    telemetry = source(tmp_path, bearings(), path).fetch()
    found = validate(telemetry, suites=Settings().suites)
    assert found.quarantined["row"].tolist() == [3, 4]
    assert "horizontal_rms_g-given" in found.quarantined["rules"].iloc[0]
    assert "vertical_rms_g-given" in found.quarantined["rules"].iloc[1]
    assert telemetry.waveforms is not None
    assert len(telemetry.waveforms) == 60


def test_a_reading_without_time_keeps_its_row_and_has_no_waveform(tmp_path: Path) -> None:
    path = npz(tmp_path, B1_idx=np.array([2.0, np.nan, 12.0]))
    telemetry = source(tmp_path, bearings(), path).fetch()
    assert telemetry.readings["time"].isna().sum() == 1
    assert telemetry.waveforms is not None
    assert telemetry.waveforms.rows["time"].tolist() == [2, 12, 0, 5]
    assert str(telemetry.waveforms.rows["time"].dtype) == "int64"


def test_waveforms_of_files_are_stored_and_come_back(tmp_path: Path) -> None:
    telemetry = source(tmp_path, bearings(), npz(tmp_path)).fetch()
    root = Settings(var=tmp_path / "var").data
    snapshot = snapshots.load(root, "raw", snapshots.store(root, "raw", telemetry))
    found = snapshots.load_waveforms(root, snapshot)
    assert found is not None
    assert telemetry.waveforms is not None
    np.testing.assert_array_equal(found.values, telemetry.waveforms.values)


# What is refused


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        pytest.param(
            {"B1_idx": None}, r"arrays.beside.0.array: unknown array 'B1_idx'; known: B1, B2, B2_idx", id="gone"
        ),
        pytest.param({"B1": np.zeros((3, 64))}, r"array 'B1' has 2 dimensions \(3, 64\), .* names 3: row", id="dims"),
        pytest.param(
            {"B1_idx": np.arange(4)}, r"array 'B1_idx' has 4 rows, 'B1' has 3; correct arrays.beside.0", id="rows"
        ),
        pytest.param(
            {"B1": np.zeros((3, 64, 3))}, r"'B1' has 3 columns, arrays.columns gives 2 names, h, v", id="columns"
        ),
        pytest.param(
            {"B2": np.ones((2, 32, 2))}, r"'B2' has .* 32 samples a row, 'B1' has .* 64 samples a row", id="length"
        ),
        pytest.param({"B1_idx": np.array([1, "a", None])}, r"'B1_idx' holds Python objects, .*refused", id="pickle"),
        pytest.param(
            {"B1": np.zeros((3, 64, 2), complex)}, r"'B1' is of type complex128; expected numbers", id="complex"
        ),
        pytest.param({"B1": np.zeros((0, 64, 2))}, r"array 'B1' of shape \(0, 64, 2\) is empty", id="empty"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = npz(tmp_path, **arrays)
    with pytest.raises(SourceError, match=f"data.npz: .*{message}"):
        source(tmp_path, bearings(), path).fetch()


def test_a_file_that_is_cut_off_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"data.npz is not a whole npz file, .* copy it again"):
        source(tmp_path, bearings(), path).fetch()
    damaged = bytearray(whole)
    damaged[400:440] = bytes(40)
    path.write_bytes(damaged)
    with pytest.raises(SourceError, match=r"data.npz is not a whole npz file, array 'B1' cannot be read"):
        source(tmp_path, bearings(), path).fetch()
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 64, 2)))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(SourceError, match=r"data.npz is not a whole npz file, .* correct format.kind"):
        source(tmp_path, bearings(), path).fetch()


def test_members_of_an_archive_that_are_no_arrays_or_locked_are_refused(tmp_path: Path) -> None:
    path = npz(tmp_path)
    locked = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        locked[locked.find(mark) + place] |= 1  # the flag of an encrypted member, in both of its headers
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("B3", "a note")
    with pytest.raises(SourceError, match=r"data.npz .* array 'B3' cannot be read: it is no array"):
        source(tmp_path, bearings(), path).fetch()
    path.write_bytes(locked)
    with pytest.raises(SourceError, match=r"array 'B1' cannot be read: .*password"):
        source(tmp_path, bearings(), path).fetch()


def test_the_byte_order_of_another_machine_does_not_matter(tmp_path: Path) -> None:
    plain = npz(tmp_path)
    mapping = bearings(
        arrays={"pattern": "B1_idx", "axes": ["row"], "columns": ["p"]},
        asset_id="{p}",
        time={"column": "p", "kind": "cycle"},
        sensors={"p_bar": {"column": "p"}},
        waveforms=None,
        labels={"mode": {"column": "row", "type": "class", "map": {0: "a", 1: "b", 2: "c"}}},
    )
    expected = source(tmp_path, mapping, plain).fetch().readings
    swapped = npz(tmp_path, "swapped.npz", B1_idx=np.array([2, 7, 12], dtype=">i4"))
    pd.testing.assert_frame_equal(source(tmp_path, mapping, swapped).fetch().readings, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"pattern": "C1"}, "no array matches 'C1'; there: B1, B1_idx, B2, B2_idx", id="none"),
        pytest.param({"cut": 9}, "array 'B1_idx' has 3 samples, fewer than arrays.cut, 9", id="too short"),
    ],
)
def test_an_array_that_is_not_there_or_too_short_to_cut_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    mapping = bearings(
        arrays={"pattern": "B1_idx", "axes": ["sample"], "columns": ["h"], **changes},
        asset_id="x",
        time={"column": "row", "kind": "cycle"},
        sensors=None,
        waveforms=channel("h"),
        labels=None,
    )
    with pytest.raises(SourceError, match=message):
        source(tmp_path, mapping, npz(tmp_path)).fetch()


WAVES: dict[str, Any] = bearings()["waveforms"]
ARRAYS: dict[str, Any] = bearings()["arrays"]
ENVELOPE: dict[str, Any] = WAVES["indicators"][3]


def waves(*indicators: dict[str, Any]) -> dict[str, Any]:
    return {"waveforms": WAVES | {"indicators": list(indicators)}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"arrays": None}, "arrays: kinds npz and npy need them", id="no arrays"),
        pytest.param({"waveforms": None}, "an axis 'sample' needs waveforms", id="no waveforms"),
        pytest.param({"format": {"kind": "npy"}}, "a npy file is one array", id="beside in npy"),
        pytest.param({"arrays": ARRAYS | {"pattern": "("}}, "arrays.pattern: regular expression '\\('", id="regex"),
        pytest.param({"arrays": ARRAYS | {"axes": ["row", "row", "column"]}}, "'row' stands twice", id="axis twice"),
        pytest.param(
            {"arrays": ARRAYS | {"axes": ["row", "sample"]}}, "without an axis 'column' there is one", id="one"
        ),
        pytest.param({"arrays": ARRAYS | {"cut": 32}}, "axes needs 'sample' and no 'row'", id="cut of rows"),
        pytest.param({"arrays": ARRAYS | {"columns": ["h", "row"]}}, "column 'row' stands twice", id="column twice"),
        pytest.param({"arrays": ARRAYS | {"column": ["h"]}}, "arrays: unknown key 'column'", id="key"),
        pytest.param({"asset_id": "{beering}"}, "asset_id: unknown column 'beering'.*'bearing'", id="column"),
        pytest.param(
            waves({"kind": "rms"}, {"kind": "rms"}), "horizontal_rms_g, vertical_rms_g stands twice", id="twice"
        ),
        pytest.param(waves({"kind": "rms", "channels": ["axial_g"]}), "unknown channel 'axial_g'", id="channel"),
        pytest.param(waves({"kind": "skew"}), "indicators.0: .*'skew'.*'rms'", id="kind"),
        pytest.param(waves({"kind": "bands", "count": 3}), "unknown key 'count'", id="parameter"),
        pytest.param(waves(ENVELOPE | {"speed_rpm": "rpm"}), "unknown sensor 'rpm'.*speed_rpm", id="speed"),
        pytest.param(
            waves(ENVELOPE | {"bands_hz": [[200, 900]]}), "ends at 900 Hz, above half the sampling rate", id="band"
        ),
        pytest.param(waves(ENVELOPE | {"bands_hz": [[300, 200]]}), "the lower one first", id="band order"),
        pytest.param({"sensors": {"speed_rpm": {"column": "bearing", "unit": "Hz"}}}, "is not in rpm", id="speed unit"),
        pytest.param(
            {"sensors": {"speed_rpm": {"unit": "rpm"}}}, "either 'column' or 'derive'", id="sensor of nothing"
        ),
        pytest.param({"sensors": {"x": {"column": "bearing", "factor": 2}}}, "factor to 'derive'", id="factor"),
        pytest.param(
            {"labels": {"y": {"column": "h"}}}, "waveforms.channels.horizontal_g: column 'h' is the label", id="leak"
        ),
        pytest.param(
            {"sensors": {"vertical_rms_g": {"column": "index"}}}, "vertical_rms_g: the name is taken", id="name"
        ),
        pytest.param(
            {"files": [{"pattern": "*", "name": "(?P<stem>x)"}]}, "group 'stem': the name is taken", id="group"
        ),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_by_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        source(tmp_path, bearings(**changes))


def test_more_bands_than_the_spectrum_has_lines_are_refused(tmp_path: Path) -> None:
    path = npz(tmp_path)
    with pytest.raises(ConfigurationError, match="33 bands of waveforms of 64 samples; expected at most 32"):
        source(tmp_path, bearings(**waves({"kind": "bands", "number": 33})), path).fetch()


# What is shipped


@pytest.mark.parametrize("name", MADE_UP)
def test_made_up_data_of_each_shape_are_whole_and_divide_into_folds(name: str, tmp_path: Path) -> None:
    telemetry = MADE_UP[name](tmp_path)
    problem = load_problem(name, Settings())
    assert not telemetry.readings.isna().any(axis=None)
    assert not len(validate(telemetry, suites=Settings().suites).quarantined)
    found = folds(telemetry.readings, problem.split)
    assert len(found) == {"femto": 10, "cwru": 3, "hydraulic": 5}[name]
    for target in problem.targets:
        assert set(target.classes) >= set(telemetry.readings[target.name].unique() if target.classes else ())


def shared(mapping: str, file: str) -> Telemetry:
    if not (SHARED / file).exists():
        pytest.skip(f"{file} is not on this machine")
    return FilesSource(mapping=mapping, path=SHARED / file).fetch()


def test_femto_has_its_bearings_and_their_label() -> None:
    telemetry = shared("femto", "femto_learning_stride5.npz")
    readings = telemetry.readings
    kept = {"1_1": 561, "1_2": 175, "2_1": 183, "2_2": 160, "3_1": 103, "3_2": 328}
    assert readings["asset_id"].value_counts().to_dict() == {f"Bearing{name}": count for name, count in kept.items()}
    assert readings["commissioning"].sum() == 60
    full = pd.read_csv(SHARED / "femto_learning_stride5_meta.csv", index_col="bearing")
    places = readings["asset_id"].map(full["n_snapshots_full"]) - 1
    np.testing.assert_allclose(readings["rul_pct"], 100 * (places - readings["time"]) / places)
    assert readings["speed_rpm"].tolist() == readings["asset_id"].map(full["rpm"]).tolist()
    assert readings["load_n"].tolist() == readings["asset_id"].map(full["load_N"]).tolist()
    assert telemetry.waveforms is not None
    assert telemetry.waveforms.values.shape == (1510, 2, 2560)
    with np.load(SHARED / "femto_learning_stride5.npz") as stored:
        first = stored["Bearing1_1"][0, :, 1] * 0.002
    assert readings["vertical_log_std"].iloc[0] == pytest.approx(np.log(first.std()), rel=1e-5)
    assert not readings.isna().any(axis=None)


def test_cwru_has_its_records_and_no_others() -> None:
    telemetry = shared("cwru_12k", "cwru_12k_DE.npz")
    readings = telemetry.readings
    assert readings["run_id"].nunique() == 36
    assert sorted(readings["asset_id"].unique()) == [
        f"{f}-{s}" for f in ("B", "IR", "OR") for s in ("007", "014", "021")
    ]
    assert readings.groupby("run_id")["time"].max().between(58, 59).all()
    with np.load(SHARED / "cwru_12k_DE.npz") as stored:
        record = stored["12k_Drive_End_Bearing_Fault_Data__OR__014__200@6_3"][2048:4096]
    at = readings[(readings["run_id"] == "OR-014-3hp") & (readings["time"] == 1)].index[0]
    assert telemetry.waveforms is not None
    np.testing.assert_allclose(telemetry.waveforms.values[at, 0], record - record.mean(), atol=1e-6)
    assert readings.loc[at, ["fault", "fault_size", "speed_rpm"]].tolist() == ["OR", "014", 1730]
    assert not readings.isna().any(axis=None)


def test_the_hydraulic_rig_has_its_cycles_and_combinations() -> None:
    readings = shared("hydraulic_1hz", "hydraulic_1hz.npz").readings
    cycles = readings.groupby("run_id", sort=False).last()
    assert len(readings) == 2205 * 60
    assert len(cycles) == 2205
    assert cycles["asset_id"].nunique() == 144
    assert cycles["cooler_pct"].value_counts().to_dict() == {"100": 741, "3": 732, "20": 732}
    assert cycles["pump_leak"].value_counts().to_dict() == {"none": 1221, "weak": 492, "severe": 492}
    assert cycles["stable"].value_counts().to_dict() == {"yes": 1449, "not_yet": 756}
    with np.load(SHARED / "hydraulic_1hz.npz") as stored:
        cell = stored["X"][2204, 59, 6]
    assert cycles["eps1_w"].iloc[-1] == cell
