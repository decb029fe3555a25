"""Waveforms of the twin: what is put into them is found in them again, by the methods of the trade."""

import numpy as np
import pytest

from pump_ml.twin import waveform
from pump_ml.twin.bearings import BEARINGS
from pump_ml.twin.waveform import Excitation, Impacts, Sampling, synthesise
from pump_ml.twin.zones import LIMITS_MM_S, limits_mm_s, zone

SHAFT_HZ = 24.67
QUIET = {"shaft_hz": SHAFT_HZ, "noise_g": 0.02}


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("orders", [{1: 3.0}, {1: 2.0, 2: 1.0}, {6: 1.5}, {0.5: 1.0, 1: 1.0, 1.5: 0.7, 2: 0.5}])
def test_velocity_rms_of_the_waveform_is_that_of_its_sines_within_2_percent(orders: dict[float, float]) -> None:
    wave = synthesise(Excitation(**QUIET | {"noise_g": 1e-4}, orders=orders), rng())
    expected = np.sqrt(sum(velocity**2 for velocity in orders.values()))
    assert waveform.velocity_rms_mm_s(wave) == pytest.approx(expected, rel=0.02)


def test_what_lies_outside_10_to_1000_hz_is_no_velocity() -> None:
    for frequency in (5.0, 1200.0):
        wave = synthesise(Excitation(shaft_hz=frequency, noise_g=1e-5, orders={1: 3.0}), rng())
        assert waveform.velocity_rms_mm_s(wave) < 0.2


def test_a_record_is_25_6_khz_over_0_4_s_and_the_same_for_the_same_stream() -> None:
    excitation = Excitation(**QUIET, orders={1: 1.0}, cavitation_g=0.3, impacts=(Impacts(3.05, 1.0),))
    wave = synthesise(excitation, rng())
    assert (wave.shape, wave.dtype) == ((10_240,), np.float32)
    assert np.array_equal(wave, synthesise(excitation, rng()))
    assert not np.array_equal(wave, synthesise(excitation, rng(8)))


def test_noise_has_its_rms_and_is_gaussian() -> None:
    waves = [synthesise(Excitation(shaft_hz=SHAFT_HZ, orders={}, noise_g=0.5), rng(seed)) for seed in range(50)]
    assert np.sqrt(np.mean(np.square(waves))) == pytest.approx(0.5, rel=0.01)
    assert np.mean([waveform.kurtosis(wave) for wave in waves]) == pytest.approx(3.0, abs=0.05)
    assert all(3.0 < waveform.crest_factor(wave) < 6.0 for wave in waves)


def test_each_bin_of_the_noise_is_a_complex_normal_number() -> None:
    """It is drawn as an amplitude and a phase, so this is not plain to see."""
    stream = rng()
    waves = [synthesise(Excitation(shaft_hz=SHAFT_HZ, orders={}, noise_g=0.5), stream) for _ in range(100)]
    bins = np.fft.rfft(waves, norm="forward")[:, 400:4000] * (2.0 * np.sqrt(3600.0) / 0.5)  # 1 to 10 kHz
    assert np.mean(np.abs(bins) ** 2, axis=0) == pytest.approx(2.0, rel=0.6)  # alike in all of them
    for part in (bins.real, bins.imag):
        assert [np.mean(part**power) for power in (1, 2, 4, 6)] == pytest.approx([0, 1, 3, 15], rel=0.03, abs=0.01)
    assert np.mean(bins.real * bins.imag) == pytest.approx(0.0, abs=0.01)


def test_bands_add_up_to_the_whole_record() -> None:
    wave = synthesise(Excitation(**QUIET, orders={1: 3.0}, cavitation_g=0.5), rng())
    parts = [waveform.band_g(wave, low, high) for low, high in ((0, 1000), (1000, 5000), (5000, 12_801))]
    assert np.sqrt(np.sum(np.square(parts))) == pytest.approx(np.sqrt(np.mean(np.square(wave))), rel=0.03)


def test_cavitation_is_noise_above_its_frequency_modulated_by_shaft_and_vanes() -> None:
    waves = [synthesise(Excitation(**QUIET, orders={}, cavitation_g=1.0), rng(seed)) for seed in range(40)]
    assert np.mean([waveform.band_g(w, 2_200, 12_801) for w in waves]) == pytest.approx(1.0, rel=0.05)
    assert np.mean([waveform.band_g(w, 0, 1_500) for w in waves]) < 0.05
    frequency, _ = waveform.envelope_spectrum(waves[0], 2_500, 12_000)
    lines = np.mean([waveform.envelope_spectrum(w, 2_500, 12_000)[1] for w in waves], axis=0)
    floor = np.median(lines[(frequency > 10) & (frequency < 400)])
    for line in (SHAFT_HZ, 6 * SHAFT_HZ):
        assert lines[np.abs(frequency - line).argmin()] > 3 * floor


def above_neighbours_db(wave: np.ndarray, rate: float) -> float:
    """How far a line of the envelope spectrum stands above its neighbours, within 2 % of where it should be."""
    frequency, lines = waveform.envelope_spectrum(wave, 2_500, 6_000)
    near = np.abs(frequency - rate) <= max(0.02 * rate, 2.5)
    width = frequency[1]
    around = (np.abs(frequency - rate) > 4 * width) & (np.abs(frequency - rate) <= 12 * width)
    return float(20 * np.log10(lines[near].max() / np.median(lines[around])))


@pytest.mark.parametrize("bearing", ["6309", "6205"])
@pytest.mark.parametrize("harmonic", [1, 2, 3])
def test_a_planted_outer_race_fault_stands_10_db_above_its_neighbours_in_the_envelope_spectrum(
    bearing: str, harmonic: int
) -> None:
    order = BEARINGS[bearing].bpfo
    found, healthy = [], []
    for seed in range(20):
        stream = rng(seed)
        slip = float(stream.uniform(-0.01, 0.01))
        common = Excitation(shaft_hz=SHAFT_HZ, orders={1: 1.5, 2: 0.5, 6: 0.6}, noise_g=0.15)
        struck = Excitation(
            shaft_hz=SHAFT_HZ, orders=common.orders, noise_g=0.15,
            impacts=(Impacts(order, peak_g=2.0, slip=slip, jitter=0.005),),
        )  # fmt: skip
        found.append(above_neighbours_db(synthesise(struck, stream), harmonic * order * SHAFT_HZ))
        healthy.append(above_neighbours_db(synthesise(common, stream), harmonic * order * SHAFT_HZ))
    assert min(found) > 10
    assert np.median(healthy) < 10


def test_blows_raise_crest_factor_and_kurtosis() -> None:
    quiet = synthesise(Excitation(**QUIET | {"noise_g": 0.15}, orders={}), rng())
    struck = synthesise(Excitation(**QUIET | {"noise_g": 0.15}, orders={}, impacts=(Impacts(3.04, 2.0),)), rng())
    assert waveform.kurtosis(struck) > waveform.kurtosis(quiet) + 2
    assert waveform.crest_factor(struck) > waveform.crest_factor(quiet) + 2


def test_an_inner_race_fault_has_sidebands_at_shaft_frequency() -> None:
    order = BEARINGS["6309"].bpfi
    inner = Impacts(order, peak_g=3.0, jitter=0.002, load_order=1.0, load_depth=0.9)
    waves = [synthesise(Excitation(**QUIET, orders={}, impacts=(inner,)), rng(seed)) for seed in range(20)]
    frequency, _ = waveform.envelope_spectrum(waves[0], 2_500, 6_000)
    lines = np.mean([waveform.envelope_spectrum(wave, 2_500, 6_000)[1] for wave in waves], axis=0)
    floor = np.median(lines[(frequency > 10) & (frequency < 400)])
    for line in (order * SHAFT_HZ, (order - 1) * SHAFT_HZ, (order + 1) * SHAFT_HZ):
        assert lines[np.abs(frequency - line).argmin()] > 5 * floor


def test_another_rate_and_length_keep_the_physics() -> None:
    sampling = Sampling(rate_hz=12_800.0, seconds=1.0)
    wave = synthesise(Excitation(shaft_hz=SHAFT_HZ, orders={1: 3.0}, noise_g=1e-4), rng(), sampling)
    assert wave.shape == (12_800,)
    assert waveform.velocity_rms_mm_s(wave, sampling) == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize(("category", "large"), LIMITS_MM_S)
def test_zones_change_at_the_limits_and_a_limit_belongs_to_the_better_zone(category: int, large: bool) -> None:
    power = 250.0 if large else 200.0
    edges = np.array(limits_mm_s(power, category))  # type: ignore[arg-type] # from the table's keys
    assert "".join(zone(edges, power, category)) == "ABC"  # type: ignore[arg-type]
    assert "".join(zone(edges + 1e-9, power, category)) == "BCD"  # type: ignore[arg-type]
    assert "".join(zone(np.array([0.0, 50.0]), power, category)) == "AD"  # type: ignore[arg-type]


def test_the_larger_limits_begin_above_200_kw() -> None:
    assert limits_mm_s(200.0) == (2.5, 4.0, 6.6)
    assert limits_mm_s(200.1) == (3.5, 5.0, 7.6)


@pytest.mark.parametrize(("power", "category", "message"), [(0.5, 1, "0.5 kW"), (11.0, 3, "category 3")])
def test_what_the_standard_does_not_cover_is_told(power: float, category: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zone(np.array([1.0]), power, category)  # type: ignore[arg-type] # the point of the test
