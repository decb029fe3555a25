"""Condition indicators, against signals whose answer is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pump_ml import indicators

RATE_HZ = 12_000.0
SAMPLES = 12_000
TIME = np.arange(SAMPLES) / RATE_HZ
Array = NDArray[np.float64]


def sine(amplitude: float, hertz: float) -> Array:
    return amplitude * np.sin(2 * np.pi * hertz * TIME)


def test_a_sine_and_noise_have_their_textbook_values() -> None:
    waves = np.stack([sine(2.0, 100.0), np.random.default_rng(0).normal(0.0, 3.0, SAMPLES)])
    assert indicators.rms(waves) == pytest.approx([np.sqrt(2), 3.0], rel=0.02)
    assert indicators.std(waves + 5) == pytest.approx(indicators.rms(waves), rel=0.01)
    assert indicators.peak(-waves)[0] == pytest.approx(2.0, rel=1e-3)
    assert indicators.crest(waves)[0] == pytest.approx(np.sqrt(2), rel=1e-3)
    assert indicators.kurtosis(waves) == pytest.approx([1.5, 3.0], rel=0.05)


@pytest.mark.parametrize("number", [1, 7, 20])
def test_a_sine_stands_in_the_band_of_its_frequency(number: int) -> None:
    hertz = 2_000.0
    found = indicators.band_amplitudes(sine(2.0, hertz)[None] + 7.0, number)[0]
    assert found.argmax() == int(hertz / (RATE_HZ / 2) * number)
    # A Hann line is three bins wide and adds up to twice its amplitude.
    assert found.sum() * SAMPLES / 2 / number == pytest.approx(4.0, rel=0.02)


def test_what_modulates_a_resonance_shows_at_its_order_and_nowhere_else() -> None:
    shaft_hz = np.array([25.0, 30.0])
    order = 3.585
    noise = np.random.default_rng(0).normal(0.0, 0.3, (2, SAMPLES))
    ringing = np.stack([(1 + np.cos(2 * np.pi * order * hertz * TIME)) * sine(1.0, 4_000.0) for hertz in shaft_hz])
    orders = np.array([order, 2 * order, 5.415])
    found = indicators.envelope_orders(
        noise + ringing, RATE_HZ, shaft_hz, orders, band_hz=(3_000.0, 5_000.0), tolerance=0.01
    )
    assert found.shape == (2, 3)
    assert (found[:, :2] > 20).all()
    assert (found[:, 2] < 5).all()
    elsewhere = indicators.envelope_orders(
        noise + ringing, RATE_HZ, shaft_hz, orders, band_hz=(500.0, 2_500.0), tolerance=0.01
    )
    assert (elsewhere < 5).all()


@pytest.mark.parametrize(("squared", "power"), [(True, 2), (False, 1)])
def test_the_envelope_of_a_modulated_sine_is_its_modulation(squared: bool, power: int) -> None:
    modulation = 1 + 0.5 * np.cos(2 * np.pi * 20.0 * TIME)
    expected = (modulation / np.sqrt(1.125)) ** power
    found = indicators.envelope((modulation * sine(3.0, 4_000.0))[None], RATE_HZ, (3_000, 5_000), squared=squared)
    np.testing.assert_allclose(found[0], expected - expected.mean(), atol=1e-9)


def test_the_floor_may_be_taken_over_the_same_orders_for_all() -> None:
    waves = np.random.default_rng(0).normal(size=(1, SAMPLES))
    orders = np.array([3.0, 9.0])
    near, far = (
        indicators.envelope_orders(
            waves, RATE_HZ, np.array([30.0]), orders, band_hz=(1_000, 5_000), tolerance=0.0, floor_orders=floor
        )[0]
        for floor in (None, (0.25, 16.0))
    )
    assert near[0] / far[0] != pytest.approx(near[1] / far[1], rel=1e-3)
    assert near == pytest.approx(far, rel=0.5)


def test_an_order_beyond_the_spectrum_or_of_an_unknown_speed_is_not_a_number() -> None:
    waves = np.random.default_rng(0).normal(size=(2, SAMPLES))
    found = indicators.envelope_orders(
        waves, RATE_HZ, np.array([30.0, np.nan]), np.array([3.0, 300.0]), band_hz=(1_000, 5_000), tolerance=0.01
    )
    assert np.isfinite(found).tolist() == [[True, False], [False, False]]
