"""The normal behaviour model: what demand and weather explain is no residual, what a fault does is."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pump_ml.models.features import Channels, Statistics
from pump_ml.models.normal_behaviour import NormalBehaviour, Residuals
from pump_ml.problems import Conditions, Problem
from pump_ml.windows import Windows

SENSORS = ("speed_rpm", "flow_m3_h", "ambient_temperature_c", "head_m", "bearing_temperature_c", "leakage_l_h")
CONDITIONS = Conditions(relative=("speed_rpm", "flow_m3_h"), absolute=("ambient_temperature_c",))
HEAD, BEARING, LEAKAGE = 0, 1, 2
"""Places of the answers."""


def pump(number: int, count: int, *, low: float = 0.8, high: float = 1.0, fault: float = 0.0) -> np.ndarray:
    """Readings of one pump at random speeds, flows and weather; a fault takes head, warms the bearing and leaks."""
    own, stream = np.random.default_rng(number), np.random.default_rng([number, count, int(1e3 * (low + fault))])
    size, slope = own.uniform(50.0, 300.0), own.uniform(0.2, 0.4)
    speed, share = stream.uniform(low, high, count), stream.uniform(0.7, 1.2, count)
    ambient = 20.0 + stream.uniform(-5.0, 5.0, count)
    head = 40.0 * speed**2 * (1.0 + slope * (1.0 - share**2)) * (1.0 - 0.1 * fault)
    bearing = ambient + own.uniform(15.0, 30.0) * speed + 10.0 * fault
    noise = stream.normal(0.0, 1.0, (count, 2))
    return np.stack(
        [
            1480.0 * speed, size * share * speed, ambient, head * (1.0 + 0.002 * noise[:, 0]),
            bearing + 0.2 * noise[:, 1], np.abs(0.1 + 10.0 * fault + stream.normal(0.0, 0.2, count)),
        ],
        axis=1,
    )  # fmt: skip


def windows(numbers: range, **how: float) -> Windows:
    """Five windows of 60 readings a pump, and its record of 120 readings when new."""
    x = np.concatenate([pump(number, 300, **how).reshape(5, 60, -1) for number in numbers])
    names = [f"p{number:03d}" for number in numbers]
    rows = pd.DataFrame({"asset_id": np.repeat(names, 5), "run_id": "r", "time": range(len(x))})
    records = {name: pump(number, 120) for name, number in zip(names, numbers, strict=True)}
    return Windows.stacked(x, SENSORS, rows, commissioning=records)


def cubes(found: Residuals) -> tuple[np.ndarray, ...]:
    """Share, excess and known of each window."""
    return tuple(each.reshape(-1, 60, each.shape[1]) for each in (found.share, found.excess, found.known))


def mean_and_spread(found: Residuals, made: Windows) -> tuple[np.ndarray, np.ndarray]:
    return found.moments(found.share, made, slice(None))


@pytest.fixture(scope="module")
def normal() -> NormalBehaviour:
    train = windows(range(40))
    assert train.commissioning is not None
    return NormalBehaviour.fit(train.commissioning, SENSORS, CONDITIONS)


UNSEEN = range(40, 60)


def test_what_demand_and_weather_do_to_a_healthy_pump_is_no_residual(normal: NormalBehaviour) -> None:
    healthy = windows(UNSEEN)
    share, excess, known = cubes(normal.residuals(healthy))
    assert share.shape == excess.shape == (100, 60, 3)
    assert known.all()
    # Head swings by more than 10 % with speed and flow; of that, less than 0.3 % is left in the mean of a window.
    assert healthy.x[..., 3].std() / healthy.x[..., 3].mean() > 0.1
    assert np.abs(share[..., HEAD].mean(axis=1)).max() < 0.003
    assert np.abs(excess[..., BEARING].mean(axis=1)).max() < 0.3


def test_a_fault_shows_as_large_as_it_is(normal: NormalBehaviour) -> None:
    found = normal.residuals(windows(UNSEEN, fault=0.5))
    share, excess = found.share, found.excess
    assert share[..., HEAD].mean() == pytest.approx(np.log(0.95), abs=0.003)
    assert excess[..., BEARING].mean() == pytest.approx(5.0, abs=0.3)
    assert excess[..., LEAKAGE].mean() == pytest.approx(5.0, abs=0.3)


def test_the_fleet_helps_a_pump_where_its_own_record_ends(normal: NormalBehaviour) -> None:
    """Slower than any of its commissioning readings, but not than those of others."""
    slow = windows(range(100, 110), low=0.8, high=0.85)
    assert slow.commissioning is not None
    fast = {name: record[record[:, 0] > 1480.0 * 0.92] for name, record in slow.commissioning.items()}
    found = normal.residuals(replace(slow, commissioning=fast))
    assert np.abs(cubes(found)[0][..., HEAD].mean(axis=1)).max() < 0.02


def resting(fault: float) -> Windows:
    """The second half of each window at rest."""
    found = windows(UNSEEN, fault=fault)
    found.readings.reshape(-1, 60, len(SENSORS))[:, 30:, [0, 1, 3]] = 0.0
    return found


def test_a_pump_at_rest_has_no_residuals(normal: NormalBehaviour) -> None:
    share, excess, known = cubes(normal.residuals(resting(0.0)))
    assert not known[:, 30:].any()
    assert not share[:, 30:].any()
    assert not excess[:, 30:].any()
    assert share[:, :30].any()


def test_hours_of_rest_do_not_make_a_fault_look_smaller(normal: NormalBehaviour) -> None:
    made = resting(0.5)
    found = normal.residuals(made)
    mean, spread = mean_and_spread(found, made)
    assert mean[:, HEAD] == pytest.approx(np.log(0.95), abs=0.004)
    assert spread[:, HEAD].max() < 0.006
    whole = replace(found, known=np.zeros_like(found.known), share=np.zeros_like(found.share))
    assert not np.any(mean_and_spread(whole, made))


def test_a_stray_reading_in_a_record_does_not_make_rest_a_known_condition() -> None:
    train = windows(range(40))
    assert train.commissioning is not None
    train.commissioning["p007"][50, [0, 1, 3]] = 0.0
    made = resting(0.0)
    found = NormalBehaviour.fit(train.commissioning, SENSORS, CONDITIONS).residuals(made)
    assert not cubes(found)[2][:, 30:].any()
    assert np.abs(mean_and_spread(found, made)[0][:, HEAD]).max() < 0.005


@pytest.mark.parametrize("moves", [0.0, 0.5], ids=["to the digit", "but for half a turn a minute"])
def test_a_condition_that_was_constant_in_all_records_blinds_nothing(moves: float) -> None:
    """Pumps of one fixed speed: flow and weather tell what is normal, and a fault still shows."""
    train, test = (
        replace(
            made, commissioning={name: pump(int(name[1:]), 120, low=1.0) for name in made.rows["asset_id"].unique()}
        )
        for made in (windows(range(40), low=1.0), windows(UNSEEN, low=1.0, fault=0.5))
    )
    assert train.commissioning is not None
    test.readings.reshape(-1, 60, len(SENSORS))[..., 0] += moves * np.sin(np.arange(60))
    found = NormalBehaviour.fit(train.commissioning, SENSORS, CONDITIONS).residuals(test)
    assert found.known.all()
    assert found.share[..., HEAD].mean() == pytest.approx(np.log(0.95), abs=0.003)
    assert found.excess[..., BEARING].mean() == pytest.approx(5.0, abs=0.3)


def test_without_conditions_a_pump_is_compared_with_the_mean_of_its_record() -> None:
    train = windows(range(20))
    assert train.commissioning is not None
    plain = NormalBehaviour.fit(train.commissioning, SENSORS, Conditions())
    assert plain.answers == SENSORS
    share, _, _ = cubes(plain.residuals(train))
    flow = 1  # differs from pump to pump by far more than within one
    shown, record = (
        np.arcsinh(values[..., flow] / plain.scale[flow]).mean()
        for values in (train.x[:5], train.commissioning["p000"])
    )
    assert share[:5, :, flow].mean() == pytest.approx(shown - record, abs=2e-3)


def test_it_survives_json_to_the_last_digit(normal: NormalBehaviour) -> None:
    again = NormalBehaviour.from_json(json.loads(json.dumps(normal.to_json())))
    one, other = (each.residuals(windows(UNSEEN)) for each in (normal, again))
    np.testing.assert_array_equal(one.share, other.share)
    np.testing.assert_array_equal(one.excess, other.excess)


def test_a_sensor_that_never_moves_and_one_that_is_always_0_do_no_harm() -> None:
    train = windows(range(8))
    assert train.commissioning is not None
    for values in (train.readings, *train.commissioning.values()):
        values[..., 3], values[..., 5], values[..., 0] = 7.0, 0.0, 1480.0
    found = NormalBehaviour.fit(train.commissioning, SENSORS, CONDITIONS)
    residuals = found.residuals(train)
    assert np.isfinite(residuals.share).all()
    assert np.abs(residuals.excess[..., [HEAD, LEAKAGE]]).max() < 0.01


def test_windows_without_a_record_are_told_so(normal: NormalBehaviour) -> None:
    with pytest.raises(ValueError, match="no commissioning records"):
        normal.residuals(replace(windows(UNSEEN), commissioning=None))


def test_statistics_and_channels_have_a_column_for_what_they_say(diagnosis: Problem) -> None:
    problem = diagnosis.model_copy(update={"conditions": CONDITIONS})
    train = windows(range(10))
    columns, names = Statistics.fit(train, problem).transform(train)
    assert columns.shape == (50, len(names))
    assert len(set(names)) == len(names) == 4 * len(SENSORS) + 3 * 3
    assert columns[:, names.index("mean(head_m)")] == pytest.approx(train.x[..., 3].mean(axis=1))
    channels = Channels.fit(train, problem).transform(train)
    assert channels.shape == (50 * 60, len(SENSORS) + 3)
    assert channels.mean(axis=0) == pytest.approx(0.0, abs=1e-4)
    assert channels.std(axis=0) == pytest.approx(1.0, abs=1e-3)
