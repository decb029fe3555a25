"""What shakes the bearing housings, and what a vibration monitor shows of it without a waveform at hand.

Velocities are RMS in mm/s, accelerations in g. `features` says what the figures of a record of 0.4 s come to, term by
term as in `pump_ml.twin.waveform`, which makes the record itself.
"""

from dataclasses import dataclass, replace
from math import pi, sqrt
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pump_ml.twin.hydraulics import GRAVITY_M_S2
from pump_ml.twin.waveform import CAVITATION_DEPTH, VELOCITY_BAND_HZ, Excitation, Impacts, Sampling

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
    parts as cumulants do.

    Returns:
        By sensor name, each of the readings' dtype and shape.
    """
    kind, shape = levels.order_1.dtype, levels.order_1.shape

    def scatter(size: float) -> Any:
        return kind.type(size) * rng.standard_normal(shape, dtype=kind) if rng is not None else kind.type(0.0)

    one = kind.type(1.0)
    low, high = VELOCITY_BAND_HZ
    # Velocity, mm2/s2. A line takes in what of the floor lies in its bins, and beats with it.
    inside = levels.floor * kind.type(sqrt(LINE_BINS / (Sampling().seconds * (high - low))))
    lines = [
        np.sqrt(np.square(level) + np.square(inside)) + inside * scatter(LINE_SCATTER)
        for level in (levels.order_1, levels.order_2, levels.vane_pass)
    ]
    floor2 = np.square(levels.floor)
    beside = (floor2 - kind.type(3.0) * np.square(inside)) * (one + scatter(FLOOR_SCATTER))
    sines2 = np.square(lines[0]) + np.square(lines[1]) + np.square(lines[2]) + beside
    # A blow pushes the housing as a whole, too: lines at all multiples of the blows' rate, 1/k in velocity.
    omega = 2.0 * pi * _BLOW.resonance_hz
    push = kind.type((sqrt(2.0) * 1000.0 * GRAVITY_M_S2 / (2.0 * pi * omega)) ** 2 * pi**2 / 6.0)
    peak2 = np.square(levels.impact_g)
    velocity = np.sqrt(sines2 + push * peak2)
    far = np.sqrt(sines2 + kind.type(0.25) * push * peak2) * (kind.type(levels.non_drive_end) * (one + scatter(0.015)))

    # Acceleration, g2.
    turn = levels.shaft_hz * kind.type(2.0 * pi / 1000.0 / GRAVITY_M_S2)
    sine1, sine2, sine3 = (
        np.square(level * turn * kind.type(order))
        for level, order in ((levels.order_1, 1.0), (levels.order_2, 2.0), (levels.vane_pass, levels.vanes))
    )
    flat = (2.0 * pi / 1000.0 / GRAVITY_M_S2) ** 2 * (high**3 - low**3) / (3.0 * (high - low))
    energy = levels.blows / (4.0 * _BLOW.damping * omega)  # of the responses of peak 1 in a turn, s
    blows2 = levels.shaft_hz * peak2 * kind.type(energy)
    bubbles2 = np.square(levels.cavitation_g)
    band2 = np.square(levels.noise_g) + bubbles2 + blows2
    whole2 = np.maximum(band2 + floor2 * kind.type(flat) + sine1 + sine2 + sine3, kind.type(1e-6))
    swelling = kind.type(_BUBBLES_EXCESS) * np.square(bubbles2 / whole2)
    excess = (
        blows2 * (kind.type(3.0 / 8.0) * peak2 - kind.type(3.0) * blows2)
        - kind.type(1.5) * (np.square(sine1) + np.square(sine2) + np.square(sine3))
    ) / np.square(whole2)
    kurtosis = kind.type(3.0) + excess + swelling
    rest = np.sqrt(whole2 - blows2)
    peak = np.maximum(
        kind.type(GAUSSIAN_CREST) * rest * (one + kind.type(0.35) * swelling),
        kind.type(0.9) * levels.impact_g + kind.type(2.3) * rest,
    )
    spread = kind.type(sqrt(24.0 / Sampling().count)) + kind.type(0.05) * np.maximum(excess, kind.type(0.0))
    return {
        "vibration_rms_mm_s": velocity,
        "vibration_nde_rms_mm_s": far,
        "vibration_1x_mm_s": lines[0],
        "vibration_2x_mm_s": lines[1],
        "vibration_vane_pass_mm_s": lines[2],
        "acceleration_hf_g": np.sqrt(band2) * (one + scatter(0.01)),
        "acceleration_crest": peak / np.sqrt(whole2) * (one + scatter(0.07)),
        "acceleration_kurtosis": kurtosis + spread * scatter(1.0),
    }


_BLOW = Impacts(1.0, 1.0)
GAUSSIAN_CREST = 4.0
"""Peak over RMS of 10 240 samples of noise and a few sines, found by drawing them; so are 0.35, 0.9 and 2.3 above."""
LINE_SCATTER, FLOOR_SCATTER = 0.43, 0.06
"""Standard deviations in a record of 0.4 s, over the floor within a line and over the floor's mean square; found so."""
_BUBBLES_EXCESS = 3.0 * (
    (1.0 + 6.0 * CAVITATION_DEPTH**2 + 2.25 * CAVITATION_DEPTH**4) / (1.0 + CAVITATION_DEPTH**2) ** 2 - 1.0
)
"""Excess of Gaussian noise whose level swings with two sines of this depth."""
