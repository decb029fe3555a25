"""Stored readings: written once, checked when read, finished by a retry."""

from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from upath import UPath

from pump_ml import snapshots
from pump_ml.errors import DataError, SnapshotError
from pump_ml.schema import Sensor, Telemetry, Waveforms
from pump_ml.snapshots import content_hash


def telemetry(**changes: object) -> Telemetry:
    readings = pd.DataFrame(
        {
            "asset_id": ["a", "a", "b"],
            "run_id": ["a/0", "a/0", "b/0"],
            "time": pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-01"], utc=True).as_unit("us"),
            "commissioning": [False, False, True],
            "pressure_bar": [1.0, np.nan, 3.0],
            "rul_hours": [24.0, 0.0, 0.0],
        }
    ).assign(**changes)
    return Telemetry(readings, (Sensor("pressure_bar", "bar", "here"),), ("rul_hours",), "telemetry", {"dataset": "d"})


@pytest.fixture
def root(tmp_path: Path) -> UPath:
    return UPath(tmp_path / "data")


def stored(root: UPath) -> dict[str, tuple[bytes, int]]:
    """Content and time of writing of every file."""
    found = sorted(path for path in Path(str(root)).rglob("*") if path.is_file())
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_what_was_stored_comes_back(root: UPath) -> None:
    given = telemetry()
    key = snapshots.store(root, "snapshots", given, quarantined=3)
    found = snapshots.load(root, "snapshots", key)
    pd.testing.assert_frame_equal(found.telemetry.readings, given.readings)
    for fact in ("sensors", "labels", "suite", "origin"):
        assert getattr(found.telemetry, fact) == getattr(given, fact)
    assert found.manifest["quarantined"] == 3
    assert (found.manifest["rows"], found.manifest["assets"]) == (3, 2)
    assert found.content_hash == content_hash(given.readings)
    assert key.startswith("d-")


def test_cycles_come_back_as_whole_numbers(root: UPath) -> None:
    key = snapshots.store(root, "snapshots", telemetry(time=[1, 2, 1]))
    assert snapshots.load(root, "snapshots", key).telemetry.readings["time"].dtype == "int64"


def test_a_snapshot_is_never_written_again(root: UPath) -> None:
    key = snapshots.store(root, "snapshots", telemetry())
    before = stored(root)
    assert snapshots.store(root, "snapshots", telemetry(), quarantined=9) == key
    assert stored(root) == before


def test_other_rows_or_another_origin_get_another_key(root: UPath) -> None:
    given = telemetry()
    others = [telemetry(pressure_bar=[1.0, 2.0, 3.0]), replace(given, origin={"dataset": "d", "seed": 1})]
    assert len({snapshots.store(root, "raw", each) for each in (given, *others)}) == 3


def test_rows_that_were_altered_are_refused(root: UPath) -> None:
    key = snapshots.store(root, "snapshots", telemetry())
    telemetry(pressure_bar=[1.0, np.nan, 3.001]).readings.to_parquet(str(root / "snapshots" / key / "readings.parquet"))
    with pytest.raises(SnapshotError, match=r"was altered after it was stored.*restore the file"):
        snapshots.load(root, "snapshots", key)


def test_a_folder_without_a_manifest_is_no_snapshot_and_a_retry_finishes_it(root: UPath) -> None:
    key = snapshots.store(root, "snapshots", telemetry())
    folder = Path(str(root / "snapshots" / key))
    (folder / "manifest.json").unlink()
    (folder / "readings.parquet").write_bytes(b"half of it")
    with pytest.raises(SnapshotError, match=f"no snapshots '{key}'"):
        snapshots.load(root, "snapshots", key)
    assert snapshots.store(root, "snapshots", telemetry()) == key
    assert len(snapshots.load(root, "snapshots", key).telemetry.readings) == 3


def test_an_unknown_key_lists_the_known_ones(root: UPath) -> None:
    with pytest.raises(SnapshotError, match="there are: none"):
        snapshots.load(root, "snapshots", "d-1")
    key = snapshots.store(root, "snapshots", telemetry())
    with pytest.raises(SnapshotError, match=f"no snapshots 'd-1' .* there are: {key}"):
        snapshots.load(root, "snapshots", "d-1")


def test_the_content_hash_does_not_depend_on_how_rows_are_stored(root: UPath) -> None:
    frame = telemetry().readings
    zone = timezone(timedelta(hours=-3))
    same = [
        frame.set_index(pd.Index([7, 8, 9])),
        frame.astype({"asset_id": "object", "run_id": "category"}),
        frame.assign(time=frame["time"].dt.as_unit("ns")),
        frame.assign(time=frame["time"].dt.tz_convert(zone)),
    ]
    path = Path(str(root))
    path.mkdir()
    for number, options in enumerate(({"compression": "zstd"}, {"row_group_size": 1}, {"use_dictionary": False})):
        frame.to_parquet(path / f"{number}.parquet", **options)
        same.append(pd.read_parquet(path / f"{number}.parquet"))
    assert {content_hash(each) for each in same} == {content_hash(frame)}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f: f.iloc[::-1], id="order of rows"),
        pytest.param(lambda f: f[f.columns[::-1]], id="order of columns"),
        pytest.param(lambda f: f.rename(columns={"pressure_bar": "pressure_kpa"}), id="a name"),
        pytest.param(lambda f: f.assign(pressure_bar=[1.0, 0.0, 3.0]), id="a value"),
        pytest.param(lambda f: f.assign(commissioning=[0, 0, 1]), id="a kind"),
        pytest.param(lambda f: f.head(2), id="a row less"),
        pytest.param(lambda f: f.assign(run_id=["a/0", "a/1", "b/0"]), id="a text"),
        pytest.param(lambda f: f.assign(run_id=["a/0\na", "/0", "b/0"]), id="a line break in a text"),
        pytest.param(lambda f: f.assign(run_id=[None, "a/0", "b/0"]), id="a missing text"),
    ],
)
def test_the_content_hash_sees(change: object) -> None:
    frame = telemetry().readings
    assert content_hash(change(frame)) != content_hash(frame)


def test_texts_that_only_differ_in_where_they_are_cut_or_missing_hash_differently() -> None:
    pairs = [(["a\nb", "c"], ["a", "b\nc"]), ([None, "a"], ["", "a"])]
    for one, other in pairs:
        assert content_hash(pd.DataFrame({"x": one})) != content_hash(pd.DataFrame({"x": other}))


def test_the_content_hash_of_a_frame_is_the_same_on_every_machine() -> None:
    assert content_hash(telemetry().readings).startswith("789bb934ad2f45fb")


def with_waveforms(**changes: object) -> Telemetry:
    given = telemetry()
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    channels = (Sensor("near_g", "g_0", "at the coupling"), Sensor("far_g", "g_0"))
    rows = given.readings[["asset_id", "run_id", "time"]].iloc[[0, 2]].reset_index(drop=True)
    facts = {"rows": rows, "values": values, "channels": channels, "rate_hz": 25600.0} | changes
    return replace(given, waveforms=Waveforms(**facts))  # type: ignore[arg-type]


def test_waveforms_come_back_and_are_stored_once_for_raw_data_and_snapshot(root: UPath) -> None:
    given = with_waveforms()
    raw = snapshots.load(root, "raw", snapshots.store(root, "raw", given))
    told = raw.manifest["waveforms"]
    assert (told["count"], told["samples"], told["rate_hz"]) == (2, 3, 25600.0)
    assert raw.telemetry.waveforms is None, "read where they are asked for only"
    key = snapshots.store(root, "snapshots", telemetry(), waveforms=told)
    found = snapshots.load_waveforms(root, snapshots.load(root, "snapshots", key))
    assert found is not None
    assert given.waveforms is not None
    pd.testing.assert_frame_equal(found.rows, given.waveforms.rows)
    assert found.values is not None
    np.testing.assert_array_equal(found.values, given.waveforms.values)
    when = snapshots.load_waveforms(root, snapshots.load(root, "snapshots", key), values=False)
    assert when is not None
    assert when.values is None
    pd.testing.assert_frame_equal(when.rows, given.waveforms.rows)
    assert (found.channels, found.rate_hz) == (given.waveforms.channels, 25600.0)
    assert [path.name for path in Path(str(root / "waveforms")).iterdir()] == [f"{told['sha256'][:16]}.parquet"]


def test_other_waveforms_are_another_snapshot(root: UPath) -> None:
    changes: list[dict[str, object]] = [{}, {"rate_hz": 12800.0}, {"values": np.zeros((2, 2, 3), np.float32)}]
    assert len({snapshots.store(root, "raw", with_waveforms(**each)) for each in changes}) == 3


def test_readings_without_waveforms_have_none(root: UPath) -> None:
    key = snapshots.store(root, "snapshots", telemetry())
    assert snapshots.load_waveforms(root, snapshots.load(root, "snapshots", key)) is None


def test_altered_and_missing_waveforms_are_refused(root: UPath) -> None:
    snapshot = snapshots.load(root, "raw", snapshots.store(root, "raw", with_waveforms()))
    other = snapshots.load(
        root, "raw", snapshots.store(root, "raw", with_waveforms(values=np.ones((2, 2, 3), np.float32)))
    )
    ours, theirs = (
        Path(str(root / "waveforms" / f"{each.manifest['waveforms']['sha256'][:16]}.parquet"))
        for each in (snapshot, other)
    )
    theirs.write_bytes(ours.read_bytes())
    with pytest.raises(SnapshotError, match="was altered after it was stored: its content hash"):
        snapshots.load_waveforms(root, other)
    ours.write_bytes(b"half")
    with pytest.raises(SnapshotError, match="it is no Parquet file"):
        snapshots.load_waveforms(root, snapshot)
    ours.unlink()
    with pytest.raises(SnapshotError, match="is gone; restore it"):
        snapshots.load_waveforms(root, snapshot)


def test_records_that_say_nothing_are_not_usable() -> None:
    values = np.arange(30, dtype=np.float32).reshape(5, 2, 3)
    values[1, 0, 2], values[2, 1] = np.inf, 4.0
    rows = pd.DataFrame({"asset_id": "a", "run_id": "a", "time": [1, 2, 3, 4, 4]})
    waveforms = Waveforms(rows, values, (Sensor("near_g"), Sensor("far_g")), 10.0)
    assert waveforms.usable().tolist() == [True, False, False, False, False], "broken, flat, two of one reading"


def test_waveforms_that_do_not_fit_their_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(2, 1, 3\); expected \(2, 2, samples\)"):
        with_waveforms(values=np.zeros((2, 1, 3), np.float32))
