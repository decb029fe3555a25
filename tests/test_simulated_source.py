"""The source of simulated fleets: the twin's rows, made once below the data root, however the work is divided."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pump_ml import generation
from pump_ml.errors import ConfigurationError, SnapshotError
from pump_ml.schema import ASSET, TIME
from pump_ml.sources.simulated import SimulatedSource
from pump_ml.twin.datasets import LABELS, Fleet
from pump_ml.twin.instruments import NAMES

SMALL: dict[str, dict[str, Any]] = {
    "v2": {"dataset": "v2", "pumps": 7, "samples": 4},
    "v3": {"dataset": "v3", "pumps": 7, "days": 20.0},
}


def plan(dataset: str) -> Fleet:
    return Fleet(**SMALL[dataset])


@pytest.mark.parametrize("dataset", ["v2", "v3"])
def test_it_gives_the_twins_rows_pump_after_pump(dataset: str) -> None:
    telemetry = SimulatedSource(**SMALL[dataset]).fetch()
    fleet = plan(dataset)
    made = [fleet.rows(number) for number in range(7)]
    assert telemetry.readings[ASSET].unique().tolist() == [rows.asset_id for rows in made]
    for name in NAMES:
        found = telemetry.readings[name]
        assert found.dtype == "float64"
        np.testing.assert_array_equal(found, np.concatenate([rows.sensors[name] for rows in made]))
    assert [sensor.name for sensor in telemetry.sensors] == list(NAMES)
    assert telemetry.labels == LABELS[dataset]
    assert telemetry.origin == generation.origin(fleet)


@pytest.mark.parametrize("dataset", ["v2", "v3"])
def test_rows_and_origin_do_not_depend_on_the_shards(dataset: str) -> None:
    one, three = (SimulatedSource(**SMALL[dataset], shards=shards).fetch() for shards in (1, 3))
    pd.testing.assert_frame_equal(one.readings, three.readings, check_exact=True)
    assert one.origin == three.origin


def test_whole_days_and_the_same_as_a_fraction_are_one_fleet() -> None:
    whole, fraction = (SimulatedSource(dataset="v3", pumps=7, days=days) for days in (20, 20.0))
    assert whole.folder == fraction.folder


def test_what_is_not_given_is_as_in_the_preset_standard() -> None:
    for dataset in ("v2", "v3"):
        assert SimulatedSource(dataset=dataset).fleet == generation.plan(dataset, "standard")
    assert SimulatedSource().origin()["pumps"] == 560


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def test_a_fleet_is_made_once_and_what_a_killed_task_left_is_made_again(home: Path) -> None:
    source = SimulatedSource(**SMALL["v2"], shards=2)
    source.make(1)
    before = written(home)
    Path(source.folder.path, generation.part(0, 2)).write_bytes(b"half")  # a task was killed before its report
    readings = source.fetch().readings
    after = written(home)
    assert before.items() <= after.items()
    assert len(readings) == 7 * (120 + 4 * 60)
    SimulatedSource(**SMALL["v2"], shards=2).fetch()
    assert written(home) == after
    assert [path.name for path in (home / "data").iterdir()] == ["fleets"]


def test_another_fleet_has_another_folder() -> None:
    folders = {SimulatedSource(**SMALL["v2"], **other).folder for other in ({}, {"seed": 8}, {"shards": 2})}
    assert len(folders) == 3


@pytest.mark.parametrize("damage", ["half a file", "other rows", "no file"])
def test_a_shard_that_was_damaged_after_it_was_made_is_told(damage: str) -> None:
    source = SimulatedSource(**SMALL["v2"])
    source.make(0)
    path = Path(source.folder.path, generation.part(0, 1))
    if damage == "half a file":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "other rows":
        pd.read_parquet(path).assign(flow_m3_h=1.0).to_parquet(path, index=False)
    else:
        path.unlink()
    with pytest.raises(SnapshotError, match="is gone; restore it" if damage == "no file" else "was altered after"):
        source.fetch()


@pytest.mark.parametrize("beforehand", [False, True], ids=["makes", "reads"])
def test_progress_rises_to_one(beforehand: bool) -> None:
    shares: list[float] = []
    if beforehand:
        SimulatedSource(**SMALL["v2"], shards=3).fetch()
    SimulatedSource(**SMALL["v2"], shards=3, progress=shares.append).fetch()
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) >= 3


def test_start_and_end_cut_the_readings() -> None:
    source = SimulatedSource(**SMALL["v3"])
    start, end = datetime(2026, 2, 10, tzinfo=UTC), datetime(2026, 2, 12, tzinfo=UTC)
    readings = source.fetch(start, end).readings
    assert 0 < len(readings) <= 7 * 48
    assert readings[TIME].min() >= start
    assert readings[TIME].max() < end


def test_waveforms_and_data_sheets_are_part_of_the_origin(home: Path) -> None:
    sheet = "grundfos_nb_65_160_157"
    source = SimulatedSource(**SMALL["v2"], waveforms_h=1, sheets=[sheet])
    origin = source.fetch().origin
    assert origin["waveforms_h"] == 1.0
    assert origin["sheets"][0].startswith(sheet)
    assert len(list(home.rglob("vibration_waveform/*.parquet"))) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "v9"}, "unknown dataset 'v9'; known: v2, v3"),
        ({"pumps": 0}, "pumps = 0; expected 1 to"),
        ({"samples": 0}, "samples = 0; expected 1 to"),
        ({"seed": -1}, "seed = -1; expected 0 to"),
        ({"dataset": "v3", "days": 0}, "days = 0; expected 1 to"),
        ({"dataset": "v3", "step_minutes": 0}, "step_s = 0.0; expected 10 to"),
        ({"pumps": "20"}, "pumps = '20'; expected a whole number from 1 to"),
        ({"shards": 2.0}, "shards = 2.0; expected 1 to 560"),
        ({"days": 90.0}, "days = 90.0 is an option of dataset v3; leave it out for v2"),
        ({"dataset": "v3", "samples": 12}, "samples = 12 is an option of dataset v2; leave it out for v3"),
        ({"shards": 0}, "shards = 0; expected 1 to 560, for a fleet of 560 pumps"),
        ({"pumps": 3, "shards": 4}, "shards = 4; expected 1 to 3, for a fleet of 3 pumps"),
        ({"sheets": ["nosuch"]}, "data sheet 'nosuch' cannot be read"),
    ],
    ids=lambda value: ", ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_made_is_told_with_name_value_and_bound(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SimulatedSource(**options)
