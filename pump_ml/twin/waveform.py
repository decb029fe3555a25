"""Acceleration waveforms of a bearing housing, and what a vibration monitor computes from them.

Accelerations in g, velocities as RMS in mm/s, frequencies in Hz. A waveform is float32 of length `Sampling.count`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import pi, sqrt

import numpy as np
from numpy import fft
from numpy.typing import NDArray

from pump_ml.twin.hydraulics import GRAVITY_M_S2

Wave = NDArray[np.float32]
Array = NDArray[np.float64]

VELOCITY_BAND_HZ = (10.0, 1000.0)
"""Where broad-band velocity is measured (ISO 20816-1)."""
ACCELERATION_BAND_HZ = (1000.0, 10_000.0)
"""Where a monitor looks for bearings and cavitation; above it the anti-alias filter of a 25.6 kHz record cuts."""
CAVITATION_HZ = 2_000.0
"""Where the noise of collapsing bubbles begins; an assumption."""
CAVITATION_DEPTH = 0.5
"""Depth of its modulation by shaft and by vane pass, 0 to 1; an assumption."""
LINE_HZ = 6.25
"""Half the width of a shaft order's line: two bins and a half of a record of 0.4 s, the main lobe of a Hann window."""


@dataclass(frozen=True)
class Sampling:
    """How a record is taken.

    Args:
        rate_hz: samples a second.
        seconds: length of the record.
    """

    rate_hz: float = 25_600.0
    seconds: float = 0.4

    @property
    def count(self) -> int:
        """Samples of a record."""
        return round(self.rate_hz * self.seconds)


@dataclass(frozen=True)
class Impacts:
    """Blows on a resonance, as a defect of a bearing's race gives them at each passing ball.

    The model of McFadden and Smith (Journal of Sound and Vibration 96, 1984) with the jitter of Randall and Antoni
    (Mechanical Systems and Signal Processing 25, 2011): each blow excites one damped resonance.

    Args:
        order: blows a turn of the shaft, such as a bearing's BPFO.
        peak_g: first peak of the response to a blow.
        slip: share by which the mean rate differs from `order`; a per cent or two.
        jitter: standard deviation of the time between two blows, as a share of it.
        load_order: order at which the force on the defect varies: 0 for an outer race, 1 for an inner one.
        load_depth: depth of that modulation, 0 to 1.
        resonance_hz: of the housing.
        damping: share of critical.
    """

    order: float
    peak_g: float
    slip: float = 0.0
    jitter: float = 0.01
    load_order: float = 0.0
    load_depth: float = 0.0
    resonance_hz: float = 4_000.0
    damping: float = 0.04


@dataclass(frozen=True)
class Excitation:
    """What shakes a bearing housing during one record.

    Args:
        shaft_hz: shaft frequency.
        orders: shaft order -> velocity RMS in mm/s of its sine, such as 1 for imbalance, the vanes for vane pass, 0.5
            and its multiples for looseness.
        noise_g: RMS of the broad-band noise, the same at all frequencies of `ACCELERATION_BAND_HZ`.
        floor_mm_s: broad-band velocity RMS, the same at all frequencies of `VELOCITY_BAND_HZ`.
        cavitation_g: RMS of the collapsing bubbles' noise, above `CAVITATION_HZ`, louder when a vane passes.
        vanes: of the impeller.
        impacts: of each defect.
    """

    shaft_hz: float
    orders: Mapping[float, float]
    noise_g: float
    floor_mm_s: float = 0.0
    cavitation_g: float = 0.0
    vanes: int = 6
    impacts: tuple[Impacts, ...] = field(default=())


def synthesise(excitation: Excitation, rng: np.random.Generator, sampling: Sampling | None = None) -> Wave:
    """One record of acceleration in g.

    Sines are products of two short phase tables, noise is drawn in the frequency domain, and blows are added where
    they fall, so a record costs little more than its random numbers.
    """
    sampling = sampling or Sampling()
    wave = _noise(_shape(excitation, sampling), rng, sampling)
    if excitation.cavitation_g > 0:
        bubbles = _noise(_flat(excitation.cavitation_g, CAVITATION_HZ, sampling), rng, sampling)
        depth = CAVITATION_DEPTH
        swell = 1.0 + depth * (
            _sine(excitation.shaft_hz, rng.uniform(0, 2 * pi), sampling)
            + _sine(excitation.shaft_hz * excitation.vanes, rng.uniform(0, 2 * pi), sampling)
        )
        wave += bubbles * swell.astype(np.float32) / np.float32(sqrt(1.0 + depth**2))  # its RMS stays
    for order, velocity in excitation.orders.items():
        frequency = order * excitation.shaft_hz
        wave += np.float32(sqrt(2.0) * velocity_to_g(velocity, frequency)) * _sine(
            frequency, rng.uniform(0, 2 * pi), sampling
        )
    for impacts in excitation.impacts:
        _strike(wave, impacts, excitation.shaft_hz, rng, sampling)
    return wave


def velocity_to_g(velocity_mm_s: float, frequency_hz: float) -> float:
    """Acceleration in g of a sine of this velocity, both RMS or both peak."""
    return velocity_mm_s / 1000.0 * 2.0 * pi * frequency_hz / GRAVITY_M_S2


def velocity_rms_mm_s(wave: Wave, sampling: Sampling | None = None) -> float:
    """Broad-band velocity RMS between 10 and 1000 Hz: integrated in the frequency domain, Hann window."""
    sampling = sampling or Sampling()
    frequency, power = spectrum(wave, sampling)
    inside = (frequency >= VELOCITY_BAND_HZ[0]) & (frequency <= VELOCITY_BAND_HZ[1])
    velocity = power[inside] * (1000.0 * GRAVITY_M_S2 / (2.0 * pi * frequency[inside])) ** 2
    return float(np.sqrt(velocity.sum()))


def measure(wave: Wave, shaft_hz: float, vanes: int, sampling: Sampling | None = None) -> dict[str, float]:
    """What a vibration monitor makes of a drive end's record, by sensor name; all of it from one spectrum.

    Args:
        wave: the record.
        shaft_hz: shaft frequency; at 0 there are no shaft orders.
        vanes: of the impeller.
        sampling: how the record was taken.
    """
    sampling = sampling or Sampling()
    frequency, power = spectrum(wave, sampling)
    inside = (frequency >= VELOCITY_BAND_HZ[0]) & (frequency <= VELOCITY_BAND_HZ[1])
    velocity = np.zeros_like(power)
    velocity[inside] = power[inside] * (1000.0 * GRAVITY_M_S2 / (2.0 * pi * frequency[inside])) ** 2

    def line(order: float) -> float:
        if shaft_hz <= 0:
            return 0.0
        low, high = np.searchsorted(frequency, [order * shaft_hz - LINE_HZ, order * shaft_hz + LINE_HZ])
        return float(np.sqrt(velocity[low:high].sum()))

    low, high = np.searchsorted(frequency, ACCELERATION_BAND_HZ)
    return {
        "vibration_rms_mm_s": float(np.sqrt(velocity.sum())),
        "vibration_1x_mm_s": line(1.0),
        "vibration_2x_mm_s": line(2.0),
        "vibration_vane_pass_mm_s": line(float(vanes)),
        "acceleration_hf_g": float(np.sqrt(power[low:high].sum())),
        "acceleration_crest": crest_factor(wave),
        "acceleration_kurtosis": kurtosis(wave),
    }


def spectrum(wave: Wave, sampling: Sampling | None = None) -> tuple[Array, Array]:
    """Frequencies, and the mean square in g² of each bin; they add up to that of the record (Parseval), Hann window."""
    sampling = sampling or Sampling()
    window = np.hanning(sampling.count + 1)[:-1]
    found = fft.rfft(wave * window)
    power = 2.0 * np.abs(found) ** 2 / (sampling.count * np.sum(window**2))
    power[0] /= 2.0
    return _bins(sampling), power


def band_g(wave: Wave, low_hz: float, high_hz: float, sampling: Sampling | None = None) -> float:
    """RMS in g of what lies between two frequencies."""
    frequency, power = spectrum(wave, sampling)
    return float(np.sqrt(power[(frequency >= low_hz) & (frequency < high_hz)].sum()))


def crest_factor(wave: Wave) -> float:
    """Peak over RMS."""
    return float(np.abs(wave).max() / np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def kurtosis(wave: Wave) -> float:
    """Fourth moment over the square of the second, 3 for Gaussian noise; high when there are blows."""
    centred = wave.astype(np.float64) - wave.mean(dtype=np.float64)
    return float(np.mean(centred**4) / np.mean(centred**2) ** 2)


def envelope_spectrum(
    wave: Wave, low_hz: float, high_hz: float, sampling: Sampling | None = None
) -> tuple[Array, Array]:
    """Frequencies, and the amplitude in g² of the squared envelope of a band.

    The band is cut out in the frequency domain as an analytic signal; lines at a bearing's defect frequency and its
    multiples tell the defect (Randall and Antoni 2011, section 5).
    """
    sampling = sampling or Sampling()
    found = fft.fft(wave)
    frequency = fft.fftfreq(sampling.count, 1.0 / sampling.rate_hz)
    found[(frequency < low_hz) | (frequency >= high_hz)] = 0.0
    squared = np.abs(2.0 * fft.ifft(found)) ** 2
    lines = np.abs(fft.rfft(squared - squared.mean())) * 2.0 / sampling.count
    return _bins(sampling), lines.astype(np.float64)


def _bins(sampling: Sampling) -> Array:
    return np.arange(sampling.count // 2 + 1, dtype=np.float64) * (sampling.rate_hz / sampling.count)


def _sine(frequency_hz: float, phase: float, sampling: Sampling) -> Wave:
    """A sine of amplitude 1: the sum formula over a coarse and a fine table of phases, in float64 for its phase."""
    fine = 128
    step = 2.0 * pi * frequency_hz / sampling.rate_hz
    coarse = -(-sampling.count // fine)
    outer, inner = phase + step * fine * np.arange(coarse), step * np.arange(fine)
    table = np.outer(np.sin(outer), np.cos(inner)) + np.outer(np.cos(outer), np.sin(inner))
    return table.reshape(-1)[: sampling.count].astype(np.float32)


def _shape(excitation: Excitation, sampling: Sampling) -> Array:
    """RMS in g of the broad-band noise in each bin."""
    shape = _flat(excitation.noise_g, ACCELERATION_BAND_HZ[0], sampling)
    low, high = (round(edge * sampling.seconds) for edge in VELOCITY_BAND_HZ)
    floor = velocity_to_g(1.0, 1.0) * _bins(sampling)[low:high] * (excitation.floor_mm_s / sqrt(high - low))
    shape[low:high] = np.hypot(shape[low:high], floor)
    return shape


def _flat(rms_g: float, from_hz: float, sampling: Sampling) -> Array:
    """RMS in g of each bin of a noise that is white from a frequency up to the anti-alias filter."""
    first, last = (
        min(round(edge * sampling.seconds), sampling.count // 2) for edge in (from_hz, ACCELERATION_BAND_HZ[1])
    )
    shape = np.zeros(sampling.count // 2 + 1)
    shape[first:last] = rms_g / sqrt(max(last - first, 1))
    return shape


def _noise(shape: Array, rng: np.random.Generator, sampling: Sampling) -> Wave:
    """Gaussian noise of this RMS in each bin in expectation, drawn bin by bin up to the anti-alias filter."""
    last = min(round(ACCELERATION_BAND_HZ[1] * sampling.seconds), len(shape))
    drawn = np.zeros(len(shape), dtype=np.complex64)
    drawn[:last] = rng.standard_normal(2 * last, dtype=np.float32).view(np.complex64)
    drawn *= (shape * (sampling.count / 2.0)).astype(np.float32)
    return fft.irfft(drawn, sampling.count).astype(np.float32, copy=False)


def _strike(wave: Wave, impacts: Impacts, shaft_hz: float, rng: np.random.Generator, sampling: Sampling) -> None:
    """Add the response to each blow to a record."""
    rate = shaft_hz * impacts.order * (1.0 + impacts.slip)
    if impacts.peak_g <= 0 or rate <= 0:
        return
    omega = 2.0 * pi * impacts.resonance_hz
    decay = complex(-impacts.damping * omega, sqrt(1.0 - impacts.damping**2) * omega) / sampling.rate_hz
    length = int(np.ceil(np.log(1e-3) / decay.real))
    expected = int(sampling.seconds * rate * 1.2) + 4
    gaps = (1.0 + impacts.jitter * rng.standard_normal(expected)) / rate
    times = np.cumsum(gaps) - rng.uniform() / rate - length / sampling.rate_hz  # those before it still ring
    at = times * sampling.rate_hz
    at = at[(at > -length) & (at < sampling.count)]
    load_phase = 2.0 * pi * shaft_hz * impacts.load_order / sampling.rate_hz * at + rng.uniform(0, 2 * pi)
    force = impacts.peak_g * (1.0 + impacts.load_depth * np.cos(load_phase)) / (1.0 + impacts.load_depth)
    first = np.ceil(at).astype(np.intp)
    response = np.outer(force * np.exp(decay * (first - at)), np.exp(decay * np.arange(length))).imag
    index = first[:, None] + np.arange(length)
    inside = (index >= 0) & (index < sampling.count)
    wave += np.bincount(index[inside], weights=response[inside], minlength=sampling.count).astype(np.float32)
