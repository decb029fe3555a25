"""Windows against a plain loop, and what they never do."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pump_ml.errors import ConfigurationError, DataError
from pump_ml.problems import Problem, parse_problem
from pump_ml.schema import Sensor, Waveforms
from pump_ml.windows import make_windows

SENSORS = ("pressure_bar", "flow_m3_h")


def problem(length: int = 4, stride: int = 3, *, reference: bool = False) -> Problem:
    return parse_problem(
        {
            "name": "test",
            "windows": {"length": length, "stride": stride},
            "reference": "commissioning" if reference else None,
            "predicts": [{"name": "rul", "kind": "regression", "metric": "mae"}],
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
        },
        where="test",
    )


def readings(lengths: dict[tuple[str, str], int]) -> pd.DataFrame:
    """Runs of these lengths; every value of the frame is another one."""
    frames = []
    for (asset, run), length in lengths.items():
        start = 1000.0 * len(frames)
        frames.append(
            pd.DataFrame(
                {
                    "asset_id": asset,
                    "run_id": run,
                    "time": np.arange(length),
                    "commissioning": run.endswith("commissioning"),
                    "pressure_bar": start + np.arange(length),
                    "flow_m3_h": -start - np.arange(length) / 10,
                    "rul": start + length - np.arange(length, dtype=float),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


RUNS = readings({("b", "b/0"): 11, ("a", "a/0"): 4, ("a", "a/1"): 3, ("c", "c/0"): 1, ("c", "c/1"): 12})


def plain(frame: pd.DataFrame, length: int, stride: int) -> list[dict[str, Any]]:
    """The same by a loop over runs: from the last reading backwards, short runs filled with their first reading."""
    found = []
    for (asset, run), rows in frame.sort_values(["asset_id", "run_id", "time"]).groupby(["asset_id", "run_id"]):
        table = rows[list(SENSORS)].to_numpy()
        ends = []
        end = len(rows) - 1
        while end - length + 1 >= 0 or end == len(rows) - 1:
            ends.append(end)
            end -= stride
        for end in reversed(ends):
            x = np.array([table[max(step, 0)] for step in range(end - length + 1, end + 1)])
            at = rows.iloc[end]
            found.append({"asset": asset, "run": run, "time": at["time"], "x": x, "rul": at["rul"]})
    return found


@pytest.mark.parametrize(("length", "stride"), [(4, 3), (4, 1), (1, 1), (12, 5), (30, 1), (3, 7)])
def test_windows_are_those_of_a_plain_loop(length: int, stride: int) -> None:
    windows = make_windows(RUNS, problem(length, stride), SENSORS)
    expected = plain(RUNS, length, stride)
    assert windows.x.shape == (len(expected), length, 2)
    assert windows.x.dtype == np.float64
    np.testing.assert_array_equal(windows.x, np.array([each["x"] for each in expected]))
    assert windows.rows["asset_id"].tolist() == [each["asset"] for each in expected]
    assert windows.rows["run_id"].tolist() == [each["run"] for each in expected]
    assert windows.rows["time"].tolist() == [each["time"] for each in expected]
    assert windows.labels["rul"].tolist() == [each["rul"] for each in expected]


def test_the_last_window_of_each_run_ends_at_its_last_reading() -> None:
    every, last = (make_windows(RUNS, problem(4, 3), SENSORS, which=which) for which in ("all", "last"))
    assert last.rows.to_numpy().tolist() == [
        ["a", "a/0", 3], ["a", "a/1", 2], ["b", "b/0", 10], ["c", "c/0", 0], ["c", "c/1", 11],
    ]  # fmt: skip
    places = every.rows.groupby("run_id").tail(1).index
    np.testing.assert_array_equal(every.x[places], last.x)


def test_no_window_looks_across_two_runs() -> None:
    for window in make_windows(RUNS, problem(4, 1), SENSORS).x:
        assert np.ptp(window[:, 0]) < 1000.0


def test_a_short_run_is_filled_at_its_start_with_its_first_reading() -> None:
    windows = make_windows(readings({("a", "a/0"): 2}), problem(4, 1), SENSORS)
    assert windows.x[:, :, 0].tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_the_order_of_rows_does_not_matter() -> None:
    frames = RECORDED, RECORDED.sample(frac=1, random_state=1)
    records = [make_windows(frame, problem(4, 3, reference=True), SENSORS).commissioning for frame in frames]
    for asset in ("a", "b"):
        np.testing.assert_array_equal(records[0][asset], records[1][asset])
    shuffled = RUNS.sample(frac=1, random_state=1)
    windows, again = (make_windows(frame, problem(4, 3), SENSORS) for frame in (RUNS, shuffled))
    np.testing.assert_array_equal(windows.x, again.x)
    pd.testing.assert_frame_equal(windows.rows, again.rows)
    pd.testing.assert_frame_equal(windows.labels, again.labels)


RECORDED = readings({("a", "a/commissioning"): 3, ("a", "a/0"): 4, ("b", "b/commissioning"): 2, ("b", "b/0"): 5})


def test_the_commissioning_record_is_the_reference_and_in_no_window() -> None:
    windows = make_windows(RECORDED, problem(4, 1, reference=True), SENSORS)
    assert set(windows.rows["run_id"]) == {"a/0", "b/0"}
    assert windows.commissioning is not None
    assert {asset: record[:, 0].tolist() for asset, record in windows.commissioning.items()} == {
        "a": [0.0, 1.0, 2.0],
        "b": [2000.0, 2001.0],
    }
    assert not np.isin(windows.x[:, :, 0], RECORDED.loc[RECORDED["commissioning"], "pressure_bar"]).any()


def test_without_a_reference_the_commissioning_record_is_readings_as_any_other() -> None:
    windows = make_windows(RECORDED, problem(4, 1), SENSORS)
    assert windows.commissioning is None
    assert "a/commissioning" in set(windows.rows["run_id"])


@pytest.mark.parametrize("lost", ["record", "column"])
def test_an_asset_without_a_commissioning_record_is_refused_by_name(lost: str) -> None:
    kept = RECORDED[RECORDED["run_id"] != "b/commissioning"]
    frame = kept if lost == "record" else kept.drop(columns="commissioning")
    with pytest.raises(DataError, match=r"no commissioning record for .*b.*commissioning = true"):
        make_windows(frame, problem(4, 1, reference=True), SENSORS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("row", [pytest.param(0, id="commissioning"), pytest.param(5, id="running")])
def test_a_reading_that_is_not_finite_is_refused_with_its_column(value: float, row: int) -> None:
    frame = RECORDED.copy()
    frame.loc[row, "flow_m3_h"] = value
    with pytest.raises(DataError, match="flow_m3_h are not finite"):
        make_windows(frame, problem(4, 1, reference=True), SENSORS)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="readings lack time, flow_m3_h"):
        make_windows(RUNS.drop(columns=["time", "flow_m3_h"]), problem(), SENSORS)


def test_no_readings_give_no_windows() -> None:
    windows = make_windows(RECORDED[:0], problem(4, 1, reference=True), SENSORS)
    assert (len(windows), windows.x.shape, windows.commissioning) == (0, (0, 4, 2), {})


def test_windows_of_some_assets_keep_what_belongs_together() -> None:
    windows = make_windows(RECORDED, problem(4, 1, reference=True), SENSORS)
    some = windows.of_assets(["b"])
    assert len(some) == len(some.x) == len(some.labels) == 2
    assert set(some.commissioning) == {"b"}
    np.testing.assert_array_equal(some.x, windows.x[1:])
    assert some.rows.index.tolist() == some.labels.index.tolist() == [0, 1]


def test_labels_that_nobody_asks_for_are_left_out() -> None:
    windows = make_windows(RUNS, problem(), SENSORS, labels=False)
    assert windows.labels.shape == (len(windows), 0)


def test_windows_do_not_share_memory_with_the_frame_that_they_were_cut_from() -> None:
    one = readings({("a", "a/0"): 6})
    windows = make_windows(one, problem(4, 1), SENSORS)
    windows.readings[:] = 0.0
    assert one["pressure_bar"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_labels_need_not_be_there_when_a_model_is_asked() -> None:
    assert make_windows(RUNS.drop(columns="rul"), problem(), SENSORS).labels.shape[1] == 0


HEAD = {"head_bar": {"difference": ("out_bar", "in_bar")}}
POWER = {"hydraulic_kw": {"product": ("flow", "head_bar"), "factor": 0.5}}
SHARE = {"efficiency": {"product": ("hydraulic_kw",), "over": "shaft_kw", "least": 1.0}}


def derived_problem(**derived: object) -> Problem:
    return Problem.model_validate(
        {
            "name": "p",
            "windows": {"length": 2, "stride": 1},
            "reference": "commissioning",
            "derived": derived,
            "targets": ({"name": "rul", "kind": "regression", "metric": "mae"},),
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
        }
    )


def test_derived_quantities_follow_from_each_reading_and_from_the_commissioning_record() -> None:
    readings = pd.DataFrame(
        {
            "asset_id": "a", "run_id": ["a/0", "a/1", "a/1"], "time": [1, 2, 3], "commissioning": [True, False, False],
            "in_bar": [1.0, 2.0, 3.0], "out_bar": [5.0, 8.0, 13.0], "flow": [10.0, 20.0, 30.0],
            "shaft_kw": [40.0, 120.0, 0.5], "rul": 0.0,
        }
    )  # fmt: skip
    problem = derived_problem(**HEAD, **POWER, **SHARE)
    measured = ("in_bar", "out_bar", "flow", "shaft_kw")
    sensors = problem.choose_features(measured, ("rul",))
    assert sensors == (*measured, "head_bar", "hydraulic_kw", "efficiency")
    windows = make_windows(readings, problem, sensors)
    assert windows.commissioning is not None
    assert windows.commissioning["a"][:, 4:].tolist() == [[4.0, 20.0, 0.5]]
    # Of the last reading the power is below the least divisor.
    assert windows.x[0][:, 4:].tolist() == [[6.0, 60.0, 0.5], [10.0, 150.0, 150.0]]


@pytest.mark.parametrize(
    ("derived", "message"),
    [
        pytest.param(POWER, "derived.hydraulic_kw: unknown feature 'head_bar'", id="not derived before it"),
        pytest.param({"flow": HEAD["head_bar"]}, "derived.flow is the name of a column", id="a name that is taken"),
    ],
)
def test_a_derived_quantity_that_cannot_be_is_refused(derived: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        derived_problem(**derived).choose_features(("in_bar", "out_bar", "flow", "shaft_kw"), ("rul",))


def test_a_derived_quantity_is_a_difference_or_a_product() -> None:
    with pytest.raises(ValueError, match="a difference of two sensors, or a product"):
        derived_problem(head_bar={"difference": ("a", "b"), "product": ("a",)})


def test_a_window_has_the_last_waveform_that_was_taken_within_it() -> None:
    readings = pd.DataFrame(
        {"asset_id": "a", "run_id": ["a/0"] * 4 + ["a/1"] * 2, "time": [1, 2, 3, 4, 7, 8], "p": 1.0, "rul": 0.0}
    )
    problem = derived_problem().model_copy(update={"reference": None})
    rows = pd.DataFrame({"asset_id": "a", "run_id": ["a/0", "a/0", "a/0", "a/1"], "time": [0, 2, 4, 6]})
    values = np.arange(16, dtype=np.float32).reshape(4, 1, 4)
    values[2, 0, 1] = np.nan  # a broken record does not count
    waveforms = Waveforms(rows, values, (Sensor("end_g", "g_0"),), 1000.0)
    windows = make_windows(readings, problem, ("p",), waveforms=waveforms)
    assert windows.rows["time"].tolist() == [2, 3], "none was taken within the windows that end at 4 and 8"
    assert windows.taken is not None
    assert windows.taken.tolist() == [1, 1]
