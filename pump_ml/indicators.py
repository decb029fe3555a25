"""Condition indicators: what a waveform says of a machine, as few numbers (data manipulation of ISO 13374-2).

All take waveforms float64 ``(waveforms, samples)``, in the unit of their channel. A waveform with a sample that is not
finite gives NaN.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft, fftfreq, ifft, next_fast_len, rfft

Array = NDArray[np.float64]

FINENESS = 4
"""Points a bin of the envelope's spectrum: an order falls at most an eighth of a bin beside one (0.1 % for Hann)."""
FLOOR_ORDERS = np.arange(-2.0, 2.0625, 0.125)
"""Around an order, in orders: where its floor is taken."""


def rms(waves: Array) -> Array:
    """Root mean square ``(waveforms,)``, the mean included."""
    found: Array = np.sqrt(np.mean(waves**2, axis=1))
    return found


def std(waves: Array) -> Array:
    """Standard deviation ``(waveforms,)``."""
    found: Array = np.std(waves, axis=1)
    return found


def peak(waves: Array) -> Array:
    """Largest magnitude ``(waveforms,)``."""
    found: Array = np.max(np.abs(waves), axis=1)
    return found


def crest(waves: Array) -> Array:
    """Crest factor ``(waveforms,)``, peak over RMS: sqrt 2 for a sine."""
    return peak(waves) / rms(waves)


def kurtosis(waves: Array) -> Array:
    """Fourth central moment over the squared variance ``(waveforms,)``: 1.5 for a sine, 3 for normal noise.

    Dyer and Stewart, "Detection of rolling element bearing damage by statistical vibration analysis", J. Mech. Des.
    100 (1978), 229-235.
    """
    centred = waves - waves.mean(axis=1, keepdims=True)
    found: Array = np.mean(centred**4, axis=1) / np.mean(centred**2, axis=1) ** 2
    return found


def band_amplitudes(waves: Array, number: int) -> Array:
    """Mean amplitude in equal bands from 0 to half the sampling rate, ``(waveforms, number)``.

    Of the spectrum under a Hann window, scaled so that a sine on a bin shows its amplitude there; without the mean.
    """
    window = np.hanning(waves.shape[1])
    centred = waves - waves.mean(axis=1, keepdims=True)
    amplitudes = 2 / window.sum() * np.abs(rfft(centred * window, axis=1)[:, 1:])
    edges = np.linspace(0, amplitudes.shape[1], number + 1).round().astype(int)
    found: Array = np.add.reduceat(amplitudes, edges[:-1], axis=1) / np.diff(edges)
    return found


def squared_envelope(waves: Array, rate_hz: float, band_hz: tuple[float, float]) -> Array:
    """Squared magnitude of the analytic signal of a band, over its mean, less 1: ``(waveforms, samples)``.

    Where impacts make a resonance ring, this is what repeats at the rate of the fault. Randall and Antoni, "Rolling
    element bearing diagnostics - a tutorial", Mech. Syst. Signal Process. 25 (2011), 485-520.
    """
    frequencies = fftfreq(waves.shape[1], 1 / rate_hz)
    inside = (frequencies >= max(band_hz[0], np.finfo(float).tiny)) & (frequencies <= band_hz[1])
    envelope = np.abs(ifft(fft(waves, axis=1) * inside, axis=1)) ** 2
    found: Array = envelope / envelope.mean(axis=1, keepdims=True) - 1
    return found


def envelope_orders(
    waves: Array,
    rate_hz: float,
    shaft_hz: Array,
    orders: Array,
    *,
    band_hz: tuple[float, float],
    tolerance: float,
) -> Array:
    """Amplitude of the squared envelope's spectrum at multiples of the shaft speed, over the floor around them.

    Args:
        waves: ``(waveforms, samples)``.
        rate_hz: samples a second.
        shaft_hz: revolutions a second ``(waveforms,)``.
        orders: multiples of the shaft speed.
        band_hz: where the resonance is.
        tolerance: share of an order by which slip may move it; the largest amplitude within counts.

    Returns:
        Ratios ``(waveforms, orders)``: about 1 where nothing stands out of the floor, which is the median amplitude
        within two orders. NaN where an order is beyond half the sampling rate.
    """
    envelope = squared_envelope(waves, rate_hz, band_hz)
    count = next_fast_len(FINENESS * waves.shape[1], real=True)
    spectrum = np.abs(rfft(envelope * np.hanning(waves.shape[1]), count, axis=1))

    def at(multiples: Array) -> Array:
        """Amplitudes at multiples ``(orders, points)`` of each shaft speed, ``(waveforms, orders, points)``."""
        places = np.nan_to_num(shaft_hz)[:, None, None] * multiples * (count / rate_hz)
        bins = places.round().clip(0, spectrum.shape[1] - 1).astype(int)
        return np.take_along_axis(spectrum, bins.reshape(len(waves), -1), axis=1).reshape(bins.shape)

    largest = at(orders[:, None] * np.linspace(1 - tolerance, 1 + tolerance, 9)).max(axis=2)
    floor = np.median(at(np.maximum(orders[:, None] + FLOOR_ORDERS, 0.25)), axis=2)
    within = shaft_hz[:, None] * orders * (1 + tolerance) <= rate_hz / 2  # false where the speed is not known
    found: Array = np.where(within, largest / floor, np.nan)
    return found
