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
FLOOR_STEP, FLOOR_LEAST = 0.125, 0.25
"""Where a floor is taken, in orders: between its points, and the lowest."""


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


def envelope(waves: Array, rate_hz: float, band_hz: tuple[float, float], *, squared: bool = True) -> Array:
    """Magnitude of the analytic signal of a band over its RMS, squared or not, less its mean: ``(waveforms, samples)``.

    Where impacts make a resonance ring, this is what repeats at the rate of the fault. Randall and Antoni, "Rolling
    element bearing diagnostics - a tutorial", Mech. Syst. Signal Process. 25 (2011), 485-520. Squared, it has no lines
    that are not in the modulation; as it is, single large impacts weigh less.
    """
    frequencies = fftfreq(waves.shape[1], 1 / rate_hz)
    inside = (frequencies > 0) & (frequencies >= band_hz[0]) & (frequencies <= band_hz[1])
    magnitude = np.abs(ifft(fft(waves, axis=1) * inside, axis=1))
    relative = (magnitude / rms(magnitude)[:, None]) ** (2 if squared else 1)
    found: Array = relative - relative.mean(axis=1, keepdims=True)
    return found


def envelope_orders(
    waves: Array,
    rate_hz: float,
    shaft_hz: Array,
    orders: Array,
    *,
    band_hz: tuple[float, float],
    tolerance: float,
    floor_orders: tuple[float, float] | None = None,
    squared: bool = True,
) -> Array:
    """Amplitude of the envelope's Hann spectrum at multiples of the shaft speed, over the floor.

    Args:
        waves: ``(waveforms, samples)``.
        rate_hz: samples a second.
        shaft_hz: revolutions a second ``(waveforms,)``.
        orders: multiples of the shaft speed.
        band_hz: where the resonance is.
        tolerance: share of an order by which slip may move it; the largest amplitude within counts.
        floor_orders: the floor is the median amplitude between these orders; None: within two orders of each.
        squared: of the squared envelope.

    Returns:
        Ratios ``(waveforms, orders)``: about 1 where nothing stands out of the floor. NaN where an order is beyond
        half the sampling rate.
    """
    count = next_fast_len(FINENESS * waves.shape[1], real=True)
    modulation = envelope(waves, rate_hz, band_hz, squared=squared)
    spectrum = np.abs(rfft(modulation * np.hanning(waves.shape[1]), count, axis=1))

    def at(multiples: Array) -> Array:
        """Amplitudes at multiples ``(orders, points)`` of each shaft speed, ``(waveforms, orders, points)``."""
        places = np.nan_to_num(shaft_hz)[:, None, None] * multiples * (count / rate_hz)
        bins = places.round().clip(0, spectrum.shape[1] - 1).astype(int)
        return np.take_along_axis(spectrum, bins.reshape(len(waves), -1), axis=1).reshape(bins.shape)

    largest = at(orders[:, None] * np.linspace(1 - tolerance, 1 + tolerance, 9)).max(axis=2)
    if floor_orders is None:
        around = np.maximum(orders[:, None] + np.arange(-2, 2 + FLOOR_STEP, FLOOR_STEP), FLOOR_LEAST)
    else:
        around = np.arange(floor_orders[0], floor_orders[1] + FLOOR_STEP, FLOOR_STEP)[None]
    floor = np.median(at(around), axis=2)
    within = shaft_hz[:, None] * orders * (1 + tolerance) <= rate_hz / 2  # false where the speed is not known
    found: Array = np.where(within, largest / floor, np.nan)
    return found
