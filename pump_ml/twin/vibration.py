"""What shakes the bearing housings, and what a vibration monitor shows of it without a waveform at hand.

Velocities are RMS in mm/s, accelerations in g. `features` says what the figures of a record of 0.4 s come to, term by
term as in `pump_ml.twin.waveform`, which makes the record itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log, pi, sqrt
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pump_ml.twin.hydraulics import GRAVITY_M_S2
from pump_ml.twin.waveform import (
    ACCELERATION_BAND_HZ,
    CAVITATION_DEPTH,
    CAVITATION_HZ,
    VELOCITY_BAND_HZ,
    Excitation,
    Impacts,
    Sampling,
)

Array = NDArray[np.floating[Any]]

FLICKER = (0.03, 0.03, 0.04, 0.03, 0.05, 0.05)
"""Scatter of each component's level from minute to minute, one standard deviation: flow is never quite steady."""
LINE_BINS = 5
"""Bins that a monitor adds up for one shaft order, Hann window."""


@dataclass(frozen=True)
class Levels:
    """Components of the drive end's vibration; each ``(readings,)`` or one figure.

    Args:
        shaft_hz: shaft frequency, 0 when the pump stands still.
        order_1: velocity RMS at shaft frequency.
        order_2: at twice shaft frequency.
        vane_pass: at vane-pass frequency.
        floor: broad-band velocity RMS, 10 to 1000 Hz.
        noise_g: broad-band acceleration RMS, 1 to 10 kHz.
        cavitation_g: acceleration RMS of collapsing bubbles.
        impact_g: first peak of the housing's response to a blow on the outer race.
        vanes: of the impeller.
        blows: a turn, BPFO of the drive-end bearing.
        non_drive_end: vibration there over that of the drive end; blows reach it by half of that.
    """

    shaft_hz: Array
    order_1: Array
    order_2: Array
    vane_pass: Array
    floor: Array
    noise_g: Array
    cavitation_g: Array
    impact_g: Array
    vanes: int
    blows: float
    non_drive_end: float

    def scattered(self, rng: np.random.Generator) -> Self:
        """The levels of each minute around their mean."""
        names = ("order_1", "order_2", "vane_pass", "floor", "noise_g", "cavitation_g")
        changed = {}
        for name, share in zip(names, FLICKER, strict=True):
            mean = getattr(self, name)
            swing = rng.standard_normal(mean.shape, dtype=mean.dtype)
            swing *= mean.dtype.type(share)
            swing += mean.dtype.type(1.0)
            np.maximum(swing, mean.dtype.type(0.5), out=swing)
            changed[name] = mean * swing
        return replace(self, **changed)

    def flat(self) -> Self:
        """All stretches one after the other, and every level an array."""
        names = ("shaft_hz", *_COMPONENTS)
        changed: dict[str, Any] = {
            name: np.broadcast_to(getattr(self, name), self.shaft_hz.shape).reshape(-1) for name in names
        }
        return replace(self, **changed)

    def excitation(self, reading: int, end: str = "drive") -> Excitation:
        """What `pump_ml.twin.waveform.synthesise` needs for the record that is taken at one reading."""
        far = end != "drive"
        share = self.non_drive_end if far else 1.0
        levels = {name: share * float(getattr(self, name)[reading]) for name in _COMPONENTS}
        blow = Impacts(self.blows, levels["impact_g"] * (0.5 if far else 1.0))
        return Excitation(
            shaft_hz=float(self.shaft_hz[reading]),
            orders={1.0: levels["order_1"], 2.0: levels["order_2"], float(self.vanes): levels["vane_pass"]},
            floor_mm_s=levels["floor"],
            noise_g=levels["noise_g"],
            cavitation_g=levels["cavitation_g"],
            vanes=self.vanes,
            impacts=(blow,) if levels["impact_g"] > 0 else (),
        )


_COMPONENTS = ("order_1", "order_2", "vane_pass", "floor", "noise_g", "cavitation_g", "impact_g")


def off_design(x: Array) -> Array:
    """Growth of flow-induced vibration away from the best-efficiency point: 1 there, quadratic in the distance.

    The factor is the twin's choice: 30 % more at ``x`` = 0.5, 4.8 % more at 1.2. Limits of vibration follow the same
    idea, they are wider away from the preferred region (API 610, HI 9.6.4); they state no such formula.
    """
    result: Array = 1.0 + 1.2 * np.square(x - 1.0)
    return result


def features(levels: Levels, rng: np.random.Generator | None = None) -> dict[str, Array]:
    """Figures of a record of 0.4 s: expected ones, or with the scatter of so short a record around them.

    Blows are taken as McFadden and Smith's damped responses that do not overlap; kurtosis adds up over independent
    parts as cumulants do. Both ends have a record of their own, so what one scatters by says nothing of the other.

    Returns:
        By sensor name, each of the readings' dtype and shape.
    """
    kind, shape = levels.order_1.dtype, levels.order_1.shape

    def draw() -> Any:
        return rng.standard_normal(shape, dtype=kind) if rng is not None else np.zeros(shape, kind)

    return {**_velocities(levels, draw), **_accelerations(levels, draw)}


def _velocities(levels: Levels, draw: Callable[[], Any]) -> dict[str, Array]:
    """Velocities, from energies in mm²/s²."""
    one, two, vane = np.square(levels.order_1), np.square(levels.order_2), np.square(levels.vane_pass)
    floor = np.square(levels.floor)
    # A line takes in what of the floor lies in its bins, and beats with it.
    share = LINE_BINS / (Sampling().seconds * (VELOCITY_BAND_HZ[1] - VELOCITY_BAND_HZ[0]))
    inside, beside = share * floor, (1.0 - 3.0 * share) * floor
    lines = [one + inside, two + inside, vane + inside]
    beats = [LINE_SCATTER * np.sqrt(inside)] * 3
    sway = FLOOR_SCATTER * beside
    # The far end's, over the square of `non_drive_end`; and its variance.
    sines = one + two + vane
    far = sines + floor
    unsure = 4.0 * LINE_SCATTER**2 * inside * sines + np.square(sway)
    if levels.impact_g.any():
        push, stray, caught, torn, crossed = _pushes(levels)
        noise = (inside + stray, inside + 0.25 * stray)
        crossed = crossed * vane
        # var(sqrt(E)) = var(E) / 4 E, which the mean of sqrt(E) lacks in its square.
        swing = 0.25 * (crossed + torn) / np.maximum(lines[2] + caught, 1e-6)
        lines = [one + noise[0], two + noise[1], lines[2] + caught - swing]
        beats = [np.sqrt(LINE_SCATTER**2 * each) for each in noise] + [np.sqrt(LINE_SCATTER**2 * inside + swing)]
        # The blows' own lines beat with the floor, too. They reach the far end by half.
        sway = np.sqrt(np.square(sway) + 4.0 * LINE_SCATTER**2 * inside * push)
        beside = beside + push - caught
        far = far + 0.25 * push
        strays = 0.25 * stray * (one + 0.25 * two)
        unsure = unsure + LINE_SCATTER**2 * (inside * push + 4.0 * strays) + 0.25 * crossed
    found = [np.abs(np.sqrt(energy) + beat * draw()) for energy, beat in zip(lines, beats, strict=True)]
    near = np.square(found[0]) + np.square(found[1]) + np.square(found[2]) + (beside + sway * draw())
    far = np.sqrt(far)
    far = (far + 0.5 * np.sqrt(unsure) / np.maximum(far, 1e-6) * draw()) * far.dtype.type(levels.non_drive_end)
    return {
        "vibration_rms_mm_s": np.sqrt(near),
        "vibration_nde_rms_mm_s": far,
        "vibration_1x_mm_s": found[0],
        "vibration_2x_mm_s": found[1],
        "vibration_vane_pass_mm_s": found[2],
    }


def _pushes(levels: Levels) -> tuple[Array, Array, Array, Array, Array]:
    """What blows do to velocity: each pushes the housing as a whole, too, by the integral of its response.

    Returns:
        Energies in mm²/s²: of the lines at all multiples of the blows' rate, 1/k in velocity; of what unlike blows
        leave in the line of order 1, as noise (in that of order 2 a quarter of it); of the multiple that falls into the
        vanes' line. Then variances of that line's energy: by what its edge takes in, and, over the vanes' energy, by
        the random phase between both.
    """
    seconds, high = Sampling().seconds, VELOCITY_BAND_HZ[1]
    shaft, blows = np.maximum(levels.shaft_hz, 1.0), levels.blows
    first = (sqrt(2.0) * 1000.0 * GRAVITY_M_S2 / (2.0 * pi * _OMEGA)) ** 2 * np.square(levels.impact_g)
    # The sum of 1/k² ends with the band, 1/K below its limit; towards there the resonance lifts by 1 + 2 (f/f_r)².
    push = first * (pi**2 / 6.0 - blows / high * (1.0 - 2.0 * (high / _BLOW.resonance_hz) ** 2) * shaft)
    # Campbell's theorem: the acceleration of unlike blows has a flat spectrum, its velocity falls with f².
    stray = first / shaft * (_UNLIKE * blows * LINE_BINS / seconds)
    multiple = max(1, round(levels.vanes / blows))
    struck, passed = multiple * blows * seconds, levels.vanes * seconds  # bins per Hz of the shaft
    one = first / multiple**2
    # Of a line that is 2, 2.5, 3 bins off their middle, five bins hold 5/6, 1/2, 1/6 (squares of a Hann window's lobe).
    held = np.clip((3.25 - np.abs(struck * shaft - np.rint(passed * shaft))) / 1.5, 0.0, 1.0)
    # Jitter moves the multiple, by itself times the root of the blows that count; at the edge a bin is 1 / 1.5.
    moved = (multiple * _BLOW.jitter / 1.5) ** 2 * blows * seconds / HANN_TIME
    torn = np.square(one) * (4.0 * moved * held * (1.0 - held) * shaft)
    # 2 A B cos(phase) times the spectrum of the window's square at their distance, a bell but for 0.03 of its square.
    crossed = 2.0 * one * np.exp(-np.square((struck - passed) / 1.14 * shaft))
    return push, stray, one * held, torn, crossed


def _accelerations(levels: Levels, draw: Callable[[], Any]) -> dict[str, Array]:
    """Acceleration and the figures of its shape, from mean squares in g²."""
    kind = levels.order_1.dtype.type
    low, high = VELOCITY_BAND_HZ
    turn = levels.shaft_hz * kind(2.0 * pi / 1000.0 / GRAVITY_M_S2)
    sines = [
        np.square(level * turn * kind(order))
        for level, order in ((levels.order_1, 1.0), (levels.order_2, 2.0), (levels.vane_pass, levels.vanes))
    ]
    flat = (2.0 * pi / 1000.0 / GRAVITY_M_S2) ** 2 * (high**3 - low**3) / (3.0 * (high - low))
    band2, one = np.square(levels.noise_g), kind(1.0)
    rest2 = band2 + np.square(levels.floor) * kind(flat) + sines[0] + sines[1] + sines[2]
    fourth = kind(-1.5) * (np.square(sines[0]) + np.square(sines[1]) + np.square(sines[2]))  # cumulant
    # Scatter of the band's RMS, of the crest factor and of the kurtosis; the first over that RMS.
    blur: Any = kind(BAND_SCATTER)
    jump: Any = kind(CREST_SCATTER)
    spread: Any = kind(sqrt(24.0 / Sampling().count))
    crest: Any = kind(GAUSSIAN_CREST)
    swelling: Any = kind(0.0)
    if levels.cavitation_g.any():
        bubbles2 = np.square(levels.cavitation_g)
        band2, rest2 = band2 + bubbles2, rest2 + bubbles2
        part = bubbles2 / np.maximum(rest2, kind(_LEAST))
        swelling = kind(_BUBBLES_EXCESS) * np.square(part)
        blur = blur * np.sqrt(one + kind(_BUBBLES_BLUR) * np.square(bubbles2 / np.maximum(band2, kind(_LEAST))))
        crest = crest * (one + kind(0.44) * part)
        jump = jump * (one + kind(0.95) * part)
        spread = spread * (one + kind(1.6) * swelling)
    rest2 = np.maximum(rest2, kind(_LEAST))
    whole2 = rest2
    if levels.impact_g.any():
        peak2 = np.square(levels.impact_g)
        rate = np.maximum(levels.shaft_hz, one) * kind(levels.blows)
        blows2 = rate * peak2 * kind(1.0 / (4.0 * _BLOW.damping * _OMEGA))
        band2, whole2 = band2 + blows2, rest2 + blows2
        fourth = fourth + blows2 * (kind(3.0 / 8.0) * peak2 - kind(3.0) * blows2)
        # Of blows and noise only what has noise in it scatters: its variance goes with (b + n)² - b².
        blur = blur * np.sqrt(one - np.square(blows2 / np.maximum(band2, kind(_LEAST))))
        # The highest of the noise or that of the noise at the blows, whichever is higher.
        rest = np.sqrt(rest2)
        noise = np.power(crest, 8)
        hit = kind(0.886) * levels.impact_g / rest + kind(2.40 - 0.378 * log(40.0 / Sampling().seconds))
        hit = np.square(np.square(np.square(hit + kind(0.378) * np.log(rate))))
        higher = noise + hit
        crest = np.sqrt(np.sqrt(np.sqrt(higher))) * rest / np.sqrt(whole2)
        jump = (jump + kind(0.19) * hit / higher) * rest / np.sqrt(whole2)
        excess = fourth / np.square(whole2)
        spread = spread * _unsettled(blows2 / whole2, peak2 / whole2, kind(3.0) + excess)
    kurtosis = kind(3.0) + fourth / np.square(whole2) + swelling * np.square(rest2 / whole2)
    return {
        "acceleration_hf_g": np.sqrt(band2) * (one + blur * draw()),
        "acceleration_crest": crest + jump * draw(),
        "acceleration_kurtosis": kurtosis + spread * draw(),
    }


def _unsettled(blows: Array, peak: Array, kurtosis: Array) -> Array:
    """How much more the kurtosis of noise and blows scatters than that of noise, which is ``sqrt(24 / count)``.

    To first order the estimate is off by the mean of ``x⁴ - 2 K x²``, with ``x`` a blow's response `s` plus noise of
    mean square `r`, all over the whole RMS. By Hermite polynomials of the noise, with ``g = 6 r - 2 K``, its variance
    is that of ``(4 s³ + 2 g s) n``, ``(6 s² + g) n²``, ``4 s n³`` and ``n⁴``. The first two count for more, by
    `_COLOUR`, as the noise has only part of the spectrum.

    Args:
        blows: their share of the mean square.
        peak: mean square of the record over the square of a blow's peak, inverted.
        kurtosis: `K`.
    """
    kind = blows.dtype.type
    rest = kind(1.0) - blows
    g = kind(6.0) * rest - kind(2.0) * kurtosis
    fourth = kind(3.0 / 8.0) * peak * blows  # means of s⁴ and s⁶ of damped sines
    sixth = kind(5.0 / 24.0) * np.square(peak) * blows
    squares = np.square(g) * blows
    first = rest * (kind(16.0) * (sixth + g * fourth) + kind(4.0) * squares)
    second = kind(2.0) * np.square(rest) * (kind(36.0) * fourth + kind(12.0) * g * blows + np.square(g))
    higher = rest * rest * rest * (kind(4.0) * blows + rest)
    found: Array = np.sqrt(kind(_COLOUR / 24.0) * (first + second) + higher)
    return found


_BLOW = Impacts(1.0, 1.0)
_OMEGA = 2.0 * pi * _BLOW.resonance_hz
_LEAST = 1e-6
"""A record's least mean square, so that a pump at rest divides nothing by zero."""
_UNLIKE = 2.0 / ((Sampling().rate_hz / _BLOW.resonance_hz) ** 2 - 1.0) ** 2 + _BLOW.jitter**2
"""Variance of a blow's push as a record shows it, over its mean square: response aliased from the sampling rate, whose
phase is that of the blow between two samples; and the jitter of its time."""
_COLOUR = 0.5 * Sampling().rate_hz / (ACCELERATION_BAND_HZ[1] - ACCELERATION_BAND_HZ[0])
GAUSSIAN_CREST, CREST_SCATTER = 4.0, 0.28
"""Peak over RMS of 10 240 samples of noise and a few sines, and its standard deviation, found by drawing them.

So are, from 240 000 records of all faults, what swelling noise adds (0.44, 0.95; 1.6 of the kurtosis' scatter) and the
highest of blows on noise: the eighth root of a sum of eighth powers, of 0.886 and 2.40, its growth with the logarithm
of their number (0.378; 40 blows are the middle) and 0.19 more of scatter."""
LINE_SCATTER, FLOOR_SCATTER = 0.43, 0.06
"""Standard deviations in a record of 0.4 s, over the floor within a line and over the floor's mean square; found so."""
HANN_TIME = 18.0 / 35.0
"""Share of the time that a Hann window leaves to a mean square, ``mean(w²)² / mean(w⁴)``."""
BAND_SCATTER = 0.5 / sqrt(HANN_TIME * Sampling().seconds * (ACCELERATION_BAND_HZ[1] - ACCELERATION_BAND_HZ[0]))
"""Of the RMS of noise over that RMS: half of that of its mean square, ``1 / sqrt(B T)``."""
_BUBBLES_EXCESS = 3.0 * (
    (1.0 + 6.0 * CAVITATION_DEPTH**2 + 2.25 * CAVITATION_DEPTH**4) / (1.0 + CAVITATION_DEPTH**2) ** 2 - 1.0
)
"""Excess of Gaussian noise whose level swings with two sines of this depth."""
_BUBBLES_BLUR = (1.0 + _BUBBLES_EXCESS / 3.0) * (ACCELERATION_BAND_HZ[1] - ACCELERATION_BAND_HZ[0]) / (
    ACCELERATION_BAND_HZ[1] - CAVITATION_HZ
) - 1.0
"""How much more the mean square of bubbles alone varies than that of the same noise all over the band."""
