"""What an instrument makes of the true value: a constant error, noise, and a display resolution.

`span` and `reading` are the limits of error on the data sheet (two standard deviations) as a share of full scale and
of the reading. They are drawn once a sensor and stay, so a commissioning record cancels part of them. `noise_*` is
repeatability plus what the process itself does within a minute, one standard deviation. The figures come from
instrument classes, not from what a model can reach:

==========================  ========================================================================================
pressure                    0.25 % of span, repeatability 0.05 %: the common process transmitter (IEC 61298-2 terms)
flow                        0.5 % of reading, electromagnetic (ISO 20456); turbulence 0.4 %
temperature                 Pt100 class B, 0.3 K + 0.5 % (IEC 60751); noise 0.15 K
current, power              class 1 transformers and meters (IEC 61869-2, IEC 62053-21); noise 0.3 %
vibration                   10 % of reading (ISO 2954); 3 % scatter of an RMS over 0.4 s
acceleration over 1 kHz     10 % of reading, as vibration; 5 % scatter, since the band is noise
leakage                     4 % of span of a small variable-area meter (VDI/VDE 3513 class 4); noise 1 %
speed                       0.1 % of reading, proximity switch
==========================  ========================================================================================
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Instrument:
    """Errors of one instrument; shares are fractions, absolutes are in the sensor's unit."""

    span: float = 0.0
    reading: float = 0.0
    absolute: float = 0.0
    noise_span: float = 0.0
    noise_reading: float = 0.0
    noise_absolute: float = 0.0
    resolution: float = 0.001

    def read(self, true: Array, full_scale: float, constant: tuple[float, float], rng: np.random.Generator) -> Array:
        """Readings of `true`.

        Args:
            true: true values.
            full_scale: upper end of the instrument's span, in the sensor's unit.
            constant: this instrument's own zero and gain errors, in standard deviations of its class; 2 is its limit.
            rng: source of the noise.
        """
        zero, gain = constant
        offset = zero / 2.0 * (self.span * full_scale + self.absolute)
        sigma = np.sqrt((self.noise_span * full_scale) ** 2 + (self.noise_reading * true) ** 2 + self.noise_absolute**2)
        shown = true * (1.0 + gain / 2.0 * self.reading) + offset + sigma * rng.standard_normal(true.shape)
        # Rounded as a display rounds; this also makes a seed give the same bytes on processors whose last digit
        # differs.
        decimals = round(-float(np.log10(self.resolution)))
        return np.round(np.maximum(shown, 0.0) if self.absolute == 0.0 else shown, decimals)


PRESSURE = Instrument(span=0.0025, noise_span=0.0005, noise_reading=0.001)
FLOW = Instrument(reading=0.005, noise_reading=0.004, resolution=0.01)
TEMPERATURE = Instrument(reading=0.005, absolute=0.3, noise_absolute=0.15, resolution=0.01)
ELECTRIC = Instrument(reading=0.01, noise_reading=0.003, resolution=0.01)
VELOCITY = Instrument(reading=0.10, noise_reading=0.03)
ACCELERATION = Instrument(reading=0.10, noise_reading=0.05)
KURTOSIS = Instrument(noise_reading=0.06)
LEAKAGE = Instrument(span=0.04, noise_span=0.01, noise_reading=0.02, resolution=0.01)
SPEED = Instrument(reading=0.001, noise_reading=0.0002, resolution=1.0)
