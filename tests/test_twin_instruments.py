"""Instruments of the twin: their errors are what their class says, and each can be switched off."""

from dataclasses import replace

import numpy as np
import pytest

from pump_ml.errors import ConfigurationError
from pump_ml.twin.datasets import Fleet
from pump_ml.twin.instruments import IDEAL, NAMES, SENSORS, Errors, Instrument, Options, read
from pump_ml.twin.operation import full_scales

DRAWS = 100_000
SCALES = full_scales(Fleet("v2", 1).pump(0))
NONE = Errors(0.0, 0.0, 0.0)
WHOLE = Options(stuck=0.0, missing=0.0)


def shown(
    instrument: Instrument, true: float, full_scale: float, errors: Errors = NONE, **options: object
) -> np.ndarray:
    values = np.full(DRAWS, true)
    given = replace(WHOLE, **options)  # type: ignore[arg-type]
    return read(instrument, values, full_scale, errors, 0.0, np.random.default_rng(1), np.random.default_rng(2), given)


@pytest.mark.parametrize("name", NAMES)
def test_the_noise_of_every_sensor_is_that_of_its_class(name: str) -> None:
    instrument = SENSORS[NAMES.index(name)][1]
    scale = SCALES[name]
    true = 0.5 * scale
    values = shown(instrument, true, scale)
    sigma = np.sqrt(
        (instrument.noise_span * scale) ** 2
        + (instrument.noise_reading * true) ** 2
        + instrument.noise_absolute**2
        + (instrument.resolution / np.sqrt(12)) ** 2 * (sum([instrument.noise_span, instrument.noise_reading]) > 0)
    )
    assert values.mean() == pytest.approx(true, abs=5 * sigma / np.sqrt(DRAWS) + 0.6 * instrument.resolution)
    assert values.std() == pytest.approx(sigma, rel=0.02, abs=0.51 * instrument.resolution)


@pytest.mark.parametrize("name", NAMES)
def test_95_of_100_instruments_are_within_their_limit_of_error(name: str) -> None:
    """The mean of many readings of one instrument, over 1e5 instruments: zero and gain together."""
    place = NAMES.index(name)
    instrument, scale = SENSORS[place][1], SCALES[name]
    stream = np.random.default_rng(3)
    zero, gain = np.clip(stream.standard_normal((2, DRAWS)) / 2.0, -1.5, 1.5)
    true = 0.5 * scale
    zero_limit, gain_limit = instrument.span * scale + instrument.absolute, instrument.reading * true
    off = zero * zero_limit + gain * gain_limit
    limit = zero_limit + gain_limit
    if limit:
        assert np.mean(np.abs(off) <= limit) >= 0.95
    one = shown(instrument, true, scale, Errors(1.0, 1.0, 0.0), noise=False)
    assert one[0] - true == pytest.approx(limit, abs=instrument.resolution)


def test_a_fleet_draws_its_instruments_errors_from_their_class() -> None:
    plan = Fleet("v2", 400)
    errors = np.array([[(e.zero, e.gain, e.drift) for e in plan.pump(number).errors] for number in range(400)])
    assert errors.std(axis=(0, 1)) == pytest.approx([0.5, 0.5, 0.5], rel=0.05)
    assert np.abs(errors).max() <= 1.5
    assert np.mean(np.abs(errors) <= 1.0) == pytest.approx(0.954, abs=0.01)


def test_a_zero_drifts_with_the_years() -> None:
    pressure = SENSORS[NAMES.index("suction_pressure_bar")][1]
    years = np.linspace(0.0, 2.0, 5)
    quiet = replace(WHOLE, noise=False, quantisation=False)
    values = read(
        pressure,
        np.full(5, 3.0),
        10.0,
        Errors(0.0, 0.0, 1.0),
        years,
        np.random.default_rng(),
        np.random.default_rng(),
        quiet,
    )
    assert values - 3.0 == pytest.approx(0.001 * 10.0 * years)


def test_readings_have_the_displays_resolution_and_only_temperatures_go_below_zero() -> None:
    for name, (_, instrument) in zip(NAMES, SENSORS, strict=True):
        values = shown(instrument, 0.0, SCALES[name])
        assert (np.abs(values / instrument.resolution - np.round(values / instrument.resolution)) < 1e-6).all(), name
        assert (values.min() < 0) == instrument.signed, name


def test_an_instrument_sticks_and_is_silent_as_often_and_as_long_as_asked() -> None:
    speed = Instrument(noise_reading=0.01)
    silent = shown(speed, 50.0, 100.0, missing=0.001, missing_readings=5.0)
    assert np.isnan(silent).mean() == pytest.approx(0.005, rel=0.3)
    stuck = shown(speed, 50.0, 100.0, stuck=0.001, stuck_readings=20.0, quantisation=False)
    assert (np.diff(stuck) == 0).mean() == pytest.approx(0.02, rel=0.3)


def test_an_option_changes_nothing_but_what_it_is_about() -> None:
    whole = Fleet("v3", 3, days=30).rows(1)
    for name, other in (
        ("missing", Options(missing=0.0)),
        ("stuck", Options(stuck=0.0)),
        ("clock", Options(jitter_s=0.0)),
    ):
        rows = Fleet("v3", 3, days=30, options=other).rows(1)
        for sensor, values in whole.sensors.items():
            same = (values == rows.sensors[sensor]) | np.isnan(values)
            assert same.mean() > 0.98, (name, sensor)
        assert np.array_equal(whole.labels["health_pct"], rows.labels["health_pct"])
    ideal = Fleet("v3", 3, days=30, options=IDEAL).rows(1)
    assert np.array_equal(whole.labels["health_pct"], ideal.labels["health_pct"])
    assert not any(np.isnan(values).any() for values in ideal.sensors.values())


def test_times_are_late_by_the_jitter_and_keep_their_order() -> None:
    exact = Fleet("v2", 2, options=Options(jitter_s=0.0)).rows(0).time_us
    late = (Fleet("v2", 2, options=Options(jitter_s=2.0)).rows(0).time_us - exact) / 1e6
    assert late.min() >= 0.0
    assert 1.5 < late.max() <= 2.0
    assert (np.diff(exact) > 0).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"missing": 1.5}, "missing = 1.5; expected 0 to 0.5"),
        ({"stuck_readings": 0.0}, "stuck_readings = 0.0; expected 1 to 1000"),
        ({"jitter_s": -1.0}, "jitter_s = -1.0; expected 0 to 30"),
    ],
)
def test_instruments_that_cannot_be_are_told_with_field_value_and_bound(given: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Options(**given)
