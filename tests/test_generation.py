"""Fleets as files: the same bytes however the work is divided, nothing half, and clear words for what cannot be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from upath import UPath

from pump_ml import generation, twin_figures
from pump_ml.cli import app
from pump_ml.errors import ConfigurationError
from pump_ml.schema import ASSET, COMMISSIONING
from pump_ml.twin.datasets import Fleet

BIN = Path(sys.executable).parent
SMALL = {"v2": Fleet("v2", 16, samples=4, waveforms_h=1), "v3": Fleet("v3", 16, days=20, waveforms_h=48)}


def made(folder: Path, fleet: Fleet, shards: int = 1, *, csv: bool = False) -> dict[str, object]:
    where = UPath(folder)
    generation.claim(where, fleet, shards)
    for shard in reversed(range(shards)):  # in no order
        generation.write_shard(where, fleet, shard, shards)
    return generation.finish(where, fleet, shards, csv=csv)


def read(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("readings-*.parquet"))], ignore_index=True)


@pytest.mark.parametrize("dataset", ["v2", "v3"])
def test_any_number_of_shards_makes_the_same_bytes(dataset: str, tmp_path: Path) -> None:
    fleet = SMALL[dataset]
    told = {shards: made(tmp_path / str(shards), fleet, shards) for shards in (1, 3, 16)}
    assert len({str(each["columns_sha256"]) for each in told.values()}) == 1
    whole = read(tmp_path / "1")
    assert len(whole) == told[1]["rows"]
    for shards in (3, 16):
        pd.testing.assert_frame_equal(read(tmp_path / str(shards)), whole, check_exact=True)
        for asset in whole[ASSET].unique():
            one, other = (tmp_path / str(n) / "vibration_waveform" / f"{asset}.parquet" for n in (1, shards))
            assert pq.read_table(one).equals(pq.read_table(other))


def test_one_process_and_four_make_the_same_bytes(tmp_path: Path) -> None:
    hashes = []
    for processes in (1, 4):
        words = ["twin", "generate", "--dataset", "v3", "--pumps", "12", "--days", "15", "--waveforms-h", "72"]
        done = subprocess.run(  # noqa: S603 - fixed words
            [BIN / "pump-ml", *words, "--processes", str(processes), "--out", tmp_path / str(processes)],
            capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        hashes.append(json.loads(done.stdout)["columns_sha256"])
    assert hashes[0] == hashes[1]


def test_another_seed_another_hash(tmp_path: Path) -> None:
    told = [made(tmp_path / str(seed), Fleet("v2", 2, seed, samples=1)) for seed in (1, 2)]
    assert told[0]["columns_sha256"] != told[1]["columns_sha256"]


def test_a_pump_does_not_depend_on_the_size_of_its_fleet() -> None:
    for dataset in ("v2", "v3"):
        one, other = (Fleet(dataset, pumps, samples=3, days=20).rows(4) for pumps in (5, 50))  # type: ignore[arg-type]
        assert generation.digest(one) == generation.digest(other)


def test_the_rows_of_this_version_are_pinned() -> None:
    """Who changes the physics raises VERSION, so that stored readings are not taken for the new ones."""
    samples, lives = Fleet("v2", 3, samples=4).rows(2), Fleet("v3", 3, days=10).rows(2)
    assert (samples.asset_id, samples.runs[1], len(samples)) == ("v2-s7-p0002", ("v2-s7-p0002/000", 60), 360)
    assert {name: float(samples.sensors[name][-1]) for name in PINNED} == PINNED
    assert [float(samples.labels[name][-1]) for name in ("severity", "mode", "rul_pct")] == [1, 3, 75.023]
    assert (lives.runs[1], len(lives)) == (("v3-s7-p0002/life-0", 101), 221)
    assert lives.labels["rul_hours"][-1] == pytest.approx(1316.1)


PINNED = {
    "speed_rpm": 1481.0,
    "flow_m3_h": 110.75,
    "discharge_pressure_bar": 2.87,
    "bearing_temperature_c": 34.64,
    "vibration_rms_mm_s": 1.124,
    "acceleration_kurtosis": 3.046,
}


def test_what_is_complete_is_left_and_what_is_missing_is_made(tmp_path: Path) -> None:
    fleet, where = SMALL["v2"], UPath(tmp_path)
    generation.write_shard(where, fleet, 0, 2)
    first = tmp_path / generation.part(0, 2)
    before = first.stat().st_mtime_ns
    (tmp_path / generation.part(1, 2)).write_bytes(b"half")  # cut off before its report
    generation.write_shard(where, fleet, 0, 2)
    with pytest.raises(ConfigurationError, match="shard 1 of 2 was not made"):
        generation.finish(where, fleet, 2)
    assert not (tmp_path / "manifest.json").exists()
    generation.write_shard(where, fleet, 1, 2)
    generation.finish(where, fleet, 2)
    assert first.stat().st_mtime_ns == before
    assert len(read(tmp_path)) == 16 * (120 + 4 * 60)


def test_a_folder_of_another_fleet_is_not_written_to(tmp_path: Path) -> None:
    made(tmp_path, Fleet("v2", 2, samples=1))
    with pytest.raises(ConfigurationError, match="holds another fleet"):
        made(tmp_path, Fleet("v2", 3, samples=1))


@pytest.mark.parametrize("dataset", ["v2", "v3"])
def test_the_csv_holds_the_same_readings(dataset: str, tmp_path: Path) -> None:
    made(tmp_path, SMALL[dataset], 3, csv=True)
    written = pd.read_csv(tmp_path / f"sensors_log_{dataset}.csv", parse_dates=["time"])
    rows = read(tmp_path)
    assert list(written) == list(rows)
    assert np.array_equal(written[ASSET], rows[ASSET])
    assert (written["time"] == rows["time"]).all()
    for name in ("flow_m3_h", "vibration_rms_mm_s", "rul_pct"):
        np.testing.assert_allclose(written[name], rows[name], rtol=1e-6)
    assert not (tmp_path / f"sensors_log_{dataset}.csv").read_text().count("nan")


def test_waveforms_lie_by_asset_and_time_and_are_readable_as_arrays(tmp_path: Path) -> None:
    made(tmp_path, SMALL["v3"])
    found = sorted((tmp_path / "vibration_waveform").iterdir())
    assert [path.stem for path in found] == [SMALL["v3"].asset_id(number) for number in range(16)]
    table = pq.read_table(found[0])
    assert table.column_names == ["run_id", "time", "drive_end_g", "non_drive_end_g"]
    assert table["time"].to_pylist() == sorted(table["time"].to_pylist())
    wave = np.stack(table["drive_end_g"].to_numpy())
    assert wave.shape == (table.num_rows, 10_240)
    assert 0.1 < np.sqrt(np.mean(wave.astype(float) ** 2)) < 20


def test_readings_have_the_columns_of_the_platform(tmp_path: Path) -> None:
    made(tmp_path, SMALL["v3"])
    rows = read(tmp_path)
    assert list(rows)[:4] == ["asset_id", "run_id", "time", "commissioning"]
    assert str(rows["time"].dtype) == "datetime64[us, UTC]"
    assert rows[COMMISSIONING].dtype == bool
    assert str(rows["flow_m3_h"].dtype) == "float32"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shards", "0"], "shards = 0; expected 1 to 56"),
        (["--shards", "57"], "shards = 57; expected 1 to 56"),
        (["--pumps", "0"], "pumps = 0; expected 1 to"),
        (["--processes", "0"], "processes = 0; expected 1 to"),
        (["--dataset", "v7"], "v7"),
        (["--preset", "huge"], "huge"),
        (["--sheet", "nosuch"], "grundfos_nb_65_160_157"),
    ],
)
def test_what_cannot_be_made_is_told_with_field_value_and_bound(words: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["twin", "generate", "--out", str(tmp_path), *words])
    assert done.exit_code != 0
    assert message in str(done.exception)


def test_a_fleet_of_a_data_sheets_pumps_works_at_its_rated_point() -> None:
    plan = generation.plan("v2", sheets=["grundfos_nb_65_160_157"], pumps=3)
    for number in range(3):
        assert plan.pump(number).type.curves.head_m == 26.07
    assert 60 < np.nanmedian(plan.rows(0).sensors["flow_m3_h"]) < 140


def test_a_pumps_life_is_drawn(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["twin", "plot", "--pump", "1", "--days", "60", "--out", str(tmp_path / "p" / "1.png")]
    )
    assert done.exit_code == 0, done.exception
    assert (tmp_path / "p" / "1.png").read_bytes()[:4] == b"\x89PNG"
    figure = twin_figures.life(generation.plan("v3", pumps=2, days=60, waveforms_h=24.0), 1)
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if title] == [
        "Operating points on the pump's curve", "Damage and remaining life",
        "Sensors, and the zones of ISO 10816-7 for the velocity", "Spectrum of the drive end's acceleration",
    ]  # fmt: skip


def test_the_limit_is_printed_for_both_datasets() -> None:
    window = {"severity", "mode", "rul_pct", "health_pct"}
    by_window = {"rul_pct_by_window", "rul_hours_by_window"}
    for dataset, targets, given in (("v2", window, set()), ("v3", window | by_window, {"rul_pct"} | by_window)):
        done = CliRunner().invoke(app, ["twin", "limit", "--dataset", dataset, "--preset", "small", "--pumps", "2"])
        assert done.exit_code == 0, done.exception
        told = json.loads(done.stdout[done.stdout.index("{") :])
        assert set(told["targets"]) == targets
        assert {name for name, each in told["targets"].items() if "given" in each} == given
