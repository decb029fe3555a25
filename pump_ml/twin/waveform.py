"""Acceleration waveforms of a bearing housing, and what a vibration monitor computes from them.

Accelerations in g, velocities as RMS in mm/s, frequencies in Hz. A waveform is float32 of length `Sampling.count`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import ceil, log, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import fft  # stays in float32, and is the faster one there

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

    Noise is drawn in the frequency domain, where there is some; all sines are one product of two short tables; blows
    are added where they fall. So a record costs a few times its random numbers; `tools/measure_twin.py` says how many.
    """
    sampling = sampling or Sampling()
    shaft_hz = excitation.shaft_hz
    first, floor, noise = _broad_band(sampling)
    wave = _noise(first, excitation.floor_mm_s * floor + excitation.noise_g * noise, rng, sampling)
    if excitation.cavitation_g > 0:
        first, last = _bins_of(CAVITATION_HZ, ACCELERATION_BAND_HZ[1], sampling)
        each_g = excitation.cavitation_g / sqrt(max(last - first, 1) * (1.0 + CAVITATION_DEPTH**2))  # its RMS stays
        bubbles = _noise(first, np.full(last - first, each_g, dtype=np.float32), rng, sampling)
        swell = _sines([CAVITATION_DEPTH] * 2, [shaft_hz, shaft_hz * excitation.vanes], rng, sampling)
        swell += np.float32(1.0)
        bubbles *= swell
        wave += bubbles
    if excitation.orders:
        frequencies = [order * shaft_hz for order in excitation.orders]
        rms_g = map(velocity_to_g, excitation.orders.values(), frequencies)
        wave += _sines([sqrt(2.0) * each for each in rms_g], frequencies, rng, sampling)
    for impacts in excitation.impacts:
        _strike(wave, impacts, shaft_hz, rng, sampling)
    return wave


def velocity_to_g(velocity_mm_s: float, frequency_hz: float) -> float:
    """Acceleration in g of a sine of this velocity, both RMS or both peak."""
    return velocity_mm_s / 1000.0 * 2.0 * pi * frequency_hz / GRAVITY_M_S2


def velocity_rms_mm_s(wave: Wave, sampling: Sampling | None = None) -> float:
    """Broad-band velocity RMS between 10 and 1000 Hz: integrated in the frequency domain, Hann window."""
    sampling = sampling or Sampling()
    return float(np.sqrt(_velocity(spectrum(wave, sampling)[1], sampling).sum()))


def measure(wave: Wave, shaft_hz: float, vanes: int, sampling: Sampling | None = None) -> dict[str, float]:
    """What a vibration monitor makes of a drive end's record, by sensor name; all of it from one spectrum.

    Args:
        wave: the record.
        shaft_hz: shaft frequency; at 0 there are no shaft orders.
        vanes: of the impeller.
        sampling: how the record was taken.
    """
    sampling = sampling or Sampling()
    power = spectrum(wave, sampling)[1]
    velocity = _velocity(power, sampling)

    def line(order: float) -> float:
        if shaft_hz <= 0:
            return 0.0
        low, high = (max(0, ceil((order * shaft_hz + side) * sampling.seconds)) for side in (-LINE_HZ, LINE_HZ))
        return float(np.sqrt(velocity[low:high].sum()))

    low, high = _bins_of(*ACCELERATION_BAND_HZ, sampling)
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
    found = fft.rfft(wave * _window(sampling))
    power: Array = (np.square(found.real) + np.square(found.imag)).astype(np.float64)
    power[0] /= 2.0
    return _bins(sampling), power


def band_g(wave: Wave, low_hz: float, high_hz: float, sampling: Sampling | None = None) -> float:
    """RMS in g of what lies between two frequencies."""
    frequency, power = spectrum(wave, sampling)
    return float(np.sqrt(power[(frequency >= low_hz) & (frequency < high_hz)].sum()))


def crest_factor(wave: Wave) -> float:
    """Peak over RMS."""
    return float(max(wave.max(), -wave.min()) / np.sqrt(np.mean(np.square(wave), dtype=np.float64)))


def kurtosis(wave: Wave) -> float:
    """Fourth moment over the square of the second, 3 for Gaussian noise; high when there are blows."""
    squared = np.square(wave - np.float32(wave.mean(dtype=np.float64)))
    fourth = np.mean(np.square(squared), dtype=np.float64)  # a power of 4 would take thirty times as long
    return float(fourth / np.mean(squared, dtype=np.float64) ** 2)


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


@cache
def _bins(sampling: Sampling) -> Array:
    """Frequency of each bin of a record's spectrum."""
    bins = np.arange(sampling.count // 2 + 1, dtype=np.float64) * (sampling.rate_hz / sampling.count)
    bins.flags.writeable = False
    return bins


def _bins_of(low_hz: float, high_hz: float, sampling: Sampling) -> tuple[int, int]:
    """First bin of a band, and the one after its last."""
    first, last = (min(round(edge * sampling.seconds), sampling.count // 2) for edge in (low_hz, high_hz))
    return first, last


@cache
def _window(sampling: Sampling) -> Wave:
    """A Hann window, of such a height that the squares of a record's spectrum add up to its mean square."""
    window = np.hanning(sampling.count + 1)[:-1]
    return (window * sqrt(2.0 / (sampling.count * np.sum(window**2)))).astype(np.float32)


@cache
def _per_acceleration(sampling: Sampling) -> Array:
    """Mean square of velocity in mm²/s² over that of acceleration in g², of each bin up to 1000 Hz; 0 below 10 Hz."""
    frequency = _bins(sampling)
    frequency = frequency[: frequency.searchsorted(VELOCITY_BAND_HZ[1], side="right")]
    omega = 2.0 * pi * np.maximum(frequency, VELOCITY_BAND_HZ[0])
    return np.where(frequency >= VELOCITY_BAND_HZ[0], (1000.0 * GRAVITY_M_S2 / omega) ** 2, 0.0)


def _velocity(power: Array, sampling: Sampling) -> Array:
    """Mean square of velocity in mm²/s² of each bin up to 1000 Hz, from that of acceleration in g²."""
    factor = _per_acceleration(sampling)
    velocity: Array = power[: len(factor)] * factor
    return velocity


def _sines(peaks: list[float], frequencies_hz: list[float], rng: np.random.Generator, sampling: Sampling) -> Wave:
    """The sum of sines of random phase: the sum formula over a coarse and a fine table, in float64 for their phases."""
    fine = 128
    step = 2.0 * pi / sampling.rate_hz * np.array(frequencies_hz)[:, None]
    phase = rng.uniform(0.0, 2.0 * pi, step.shape)
    outer = phase + step * (fine * np.arange(-(-sampling.count // fine)))
    inner = step * np.arange(fine)
    coarse_table = np.concatenate([np.sin(outer), np.cos(outer)]) * np.array([*peaks, *peaks])[:, None]
    fine_table = np.concatenate([np.cos(inner), np.sin(inner)])
    # In float64, so that no last digit of the float32 depends on the processor.
    summed: Wave = (coarse_table.T @ fine_table).astype(np.float32).reshape(-1)
    return summed[: sampling.count]


@cache
def _broad_band(sampling: Sampling) -> tuple[int, Wave, Wave]:
    """The first bin with broad-band noise, and RMS in g of each bin from there on: of a floor of 1 mm/s, of 1 g."""
    low, high = _bins_of(*VELOCITY_BAND_HZ, sampling)
    first, last = _bins_of(*ACCELERATION_BAND_HZ, sampling)
    floor, noise = np.zeros((2, max(high, last) - low), dtype=np.float32)
    floor[: high - low] = velocity_to_g(1.0, 1.0) * _bins(sampling)[low:high] / sqrt(max(high - low, 1))
    noise[first - low :] = 1.0 / sqrt(max(last - first, 1))
    return low, floor, noise


_PHASES = np.exp(2j * pi * np.arange(256) / 256.0).astype(np.complex64)
"""Random phases are taken from these: moments below the 256th are those of any phase, and no last digit is in doubt."""


def _noise(first: int, rms: Wave, rng: np.random.Generator, sampling: Sampling) -> Wave:
    """Gaussian noise of this RMS in expectation in each bin from the first on, and none in the others.

    A bin is a complex normal number. Its square is exponential and its phase is uniform, which is drawn in half the
    time of two normal numbers.
    """
    drawn = np.zeros(sampling.count // 2 + 1, dtype=np.complex64)
    amplitude = np.sqrt(rng.standard_exponential(len(rms), dtype=np.float32))
    amplitude *= rms * np.float32(sqrt(0.5))
    phase = _PHASES.take(rng.integers(len(_PHASES), size=len(rms), dtype=np.uint8))
    np.multiply(phase, amplitude, out=drawn[first : first + len(rms)])
    wave: Wave = fft.irfft(drawn, sampling.count, norm="forward")
    return wave


def _strike(wave: Wave, impacts: Impacts, shaft_hz: float, rng: np.random.Generator, sampling: Sampling) -> None:
    """Add the response to each blow to a record."""
    rate = shaft_hz * impacts.order * (1.0 + impacts.slip)
    if impacts.peak_g <= 0 or rate <= 0:
        return
    omega = 2.0 * pi * impacts.resonance_hz
    decay = complex(-impacts.damping * omega, sqrt(1.0 - impacts.damping**2) * omega) / sampling.rate_hz
    length = ceil(log(1e-3) / decay.real)
    expected = int(sampling.seconds * rate * 1.2) + 4
    gaps = (1.0 + impacts.jitter * rng.standard_normal(expected)) / rate
    times = np.cumsum(gaps) - rng.uniform() / rate - length / sampling.rate_hz  # those before it still ring
    at = times * sampling.rate_hz
    at = at[(at > -length) & (at < sampling.count)]
    load_phase = 2.0 * pi * shaft_hz * impacts.load_order / sampling.rate_hz * at + rng.uniform(0, 2 * pi)
    force = impacts.peak_g * (1.0 + impacts.load_depth * np.cos(load_phase)) / (1.0 + impacts.load_depth)
    first = np.ceil(at).astype(np.intp)
    begin, ring = force * np.exp(decay * (first - at)), np.exp(decay * np.arange(length))
    response = np.stack([begin.real, begin.imag], axis=1) @ np.stack([ring.imag, ring.real])  # of their product, imag
    place = (first + length)[:, None] + np.arange(length)
    summed = np.bincount(place.reshape(-1), response.reshape(-1), sampling.count + 2 * length)
    wave += summed[length : length + sampling.count].astype(np.float32)
