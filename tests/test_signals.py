"""Signals: what many noisy sensors measure together is found and looked at in their place."""

import numpy as np
import pandas as pd
import pytest

from pump_ml.errors import ConfigurationError, DataError
from pump_ml.models.features import Channels, Intervals, Statistics
from pump_ml.models.signals import find_signals
from pump_ml.problems import parse_problem
from pump_ml.windows import Windows

SENSORS = tuple("abcdef")
PROBLEM = {
    "name": "engine",
    "windows": {"length": 20, "stride": 20},
    "denoise": True,
    "predicts": [{"name": "rul", "kind": "regression", "metric": "rmse"}],
    "split": {"train": 0.6, "validation": 0.2},
}


def engines(count: int, *, wear: float = 1.0) -> tuple[Windows, np.ndarray]:
    """Windows in which six sensors show wear and load, each in its own unit, through noise; and both of them."""
    rng = np.random.default_rng(3)
    hidden = np.repeat(rng.normal(0.0, wear, (count, 1, 2)), 20, axis=1)
    mixed = hidden @ np.random.default_rng(4).normal(0.0, 2.0, (2, len(SENSORS)))
    x = (mixed + rng.normal(0.0, 2.0, (count, 20, len(SENSORS)))) * [1.0, 1e-3, 1e4, 1.0, 50.0, 0.1] + 500.0
    names = [f"e{number}" for number in range(count)]
    rows = pd.DataFrame({"asset_id": names, "run_id": names, "time": range(count)})
    return Windows.stacked(x, SENSORS, rows), hidden[:, 0]


def test_as_many_signals_are_found_as_there_are_causes_and_they_tell_them_better_than_any_sensor() -> None:
    windows, hidden = engines(400)
    signals = find_signals(windows)
    assert signals.shape == (6, 2)

    def explained(shown: np.ndarray) -> np.ndarray:
        given = np.column_stack([shown.mean(axis=1), np.ones(len(shown))])
        left = hidden - given @ np.linalg.lstsq(given, hidden, rcond=None)[0]
        return np.asarray(1.0 - left.var(axis=0) / hidden.var(axis=0))

    assert (explained(windows.x @ signals) > 0.97).all()
    assert all((explained(windows.x[..., [sensor]]) < 0.95).any() for sensor in range(6))


def test_the_noise_of_a_signal_has_unit_variance() -> None:
    windows, _ = engines(400)
    shown = windows.x @ find_signals(windows)
    assert np.diff(shown, axis=1).var(axis=(0, 1)) / 2.0 == pytest.approx(1.0, rel=0.02)


def test_neighbours_of_two_windows_are_no_noise() -> None:
    windows, _ = engines(400, wear=100.0)
    assert np.diff(windows.x @ find_signals(windows), axis=1).var(axis=(0, 1)) / 2.0 == pytest.approx(1.0, rel=0.02)


def test_a_sensor_that_never_moves_or_never_within_a_window_does_no_harm() -> None:
    windows, hidden = engines(400)
    x = np.concatenate([windows.x, np.full((400, 20, 1), 7.0), np.repeat(hidden[:, None, :1], 20, axis=1)], axis=2)
    wider = Windows.stacked(x, (*SENSORS, "still", "setting"), windows.rows)
    signals = find_signals(wider)
    assert np.isfinite(signals).all()
    assert signals.shape == (8, 2)


def test_sensors_that_only_scatter_are_refused() -> None:
    windows, _ = engines(400, wear=0.0)
    with pytest.raises(DataError, match=r"no combination of the 6 sensors differs .* drop denoise from the problem"):
        find_signals(windows)


def test_families_see_signals_in_the_place_of_sensors_and_nothing_changes_on_the_way_through_a_file() -> None:
    windows, _ = engines(50)
    problem = parse_problem(PROBLEM, where="a test")
    statistics, channels = Statistics.fit(windows, problem), Channels.fit(windows, problem, 5)
    table, names = statistics.transform(windows)
    assert names == [f"{kind}(signal_{place})" for kind in ("mean", "std", "slope", "last") for place in (1, 2)]
    assert channels.transform(windows).shape == (50 * 20, 2)
    assert set(Intervals(None, 4, statistics.signals).transform(windows)[1]) == {"signal_1", "signal_2"}
    assert (Statistics.from_json(statistics.to_json()).transform(windows)[0] == table).all()
    assert (Channels.from_json(channels.to_json()).transform(windows) == channels.transform(windows)).all()


def test_windows_of_one_reading_tell_no_noise() -> None:
    with pytest.raises(ConfigurationError, match=r"expected windows\.length of 2 or more"):
        parse_problem(PROBLEM | {"windows": {"length": 1, "stride": 1}}, where="a test")


def test_one_window_tells_no_signal() -> None:
    with pytest.raises(DataError, match="1 training windows; expected two or more"):
        find_signals(engines(1)[0])


def test_a_problem_either_denoises_or_compares_with_a_record() -> None:
    with pytest.raises(ConfigurationError, match="denoise and reference are two ways"):
        parse_problem(PROBLEM | {"reference": "commissioning"}, where="a test")
