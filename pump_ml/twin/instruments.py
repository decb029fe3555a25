"""The sensors of a pump set, and what an instrument makes of the true value.

A reading has the instrument's zero and gain error, which stay; the zero's drift over the years; noise; and the
display's resolution. Now and then an instrument sticks at a value for a while, or shows nothing. `span`, `reading` and
`absolute` are limits of error as a data sheet states them (two standard deviations), as a share of full scale, of the
reading, or in the sensor's unit. `noise_*` is repeatability plus what the process itself does within a minute, one
standard deviation. The figures come from instrument classes, not from what a model can reach:

==========================  ========================================================================================
pressure                    0.25 % of span, repeatability 0.05 %: the common process transmitter (IEC 61298-2 terms)
flow                        0.5 % of reading, electromagnetic (ISO 20456); turbulence 0.4 %
temperature                 Pt100 class B, 0.3 K + 0.5 % (IEC 60751); noise 0.15 K
current, power              class 1 transformers and meters (IEC 61869-2, IEC 62053-21); noise 0.3 %
vibration                   10 % of reading (ISO 2954); its scatter is that of a record of 0.4 s, see `vibration`
leakage                     4 % of span of a small variable-area meter (VDI/VDE 3513 class 4); noise 1 %
oil level                   2 % of span, float transmitter
speed                       0.1 % of reading, proximity switch
drift of a zero             0.1 % of span a year (long-term stability of a process transmitter)
==========================  ========================================================================================

How often an instrument sticks or is silent is the twin's assumption (`Options`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pump_ml.errors import ConfigurationError
from pump_ml.schema import Sensor

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Instrument:
    """Errors of one instrument; shares are fractions, absolutes are in the sensor's unit."""

    span: float = 0.0
    reading: float = 0.0
    absolute: float = 0.0
    noise_span: float = 0.0
    noise_reading: float = 0.0
    noise_absolute: float = 0.0
    drift_span: float = 0.001
    resolution: float = 0.001
    signed: bool = False


@dataclass(frozen=True)
class Options:
    """Which errors a fleet's instruments have; all of them unless said otherwise.

    Args:
        bias: zero and gain errors that stay.
        drift: of the zero, with time.
        noise: scatter from reading to reading.
        quantisation: the display's resolution.
        stuck: chance that a reading is the first of those that repeat the one before.
        stuck_readings: how many of them on average.
        missing: chance that a reading is the first of those that are missing.
        missing_readings: how many of them on average.
        jitter_s: a reading comes up to so many seconds late.
    """

    bias: bool = True
    drift: bool = True
    noise: bool = True
    quantisation: bool = True
    stuck: float = 1e-4
    stuck_readings: float = 10.0
    missing: float = 2e-4
    missing_readings: float = 3.0
    jitter_s: float = 2.0

    def __post_init__(self) -> None:
        for name, top in (("stuck", 0.5), ("missing", 0.5), ("jitter_s", 30.0)):
            if not 0.0 <= getattr(self, name) <= top:
                raise ConfigurationError(f"instruments: {name} = {getattr(self, name)!r}; expected 0 to {top}")
        for name in ("stuck_readings", "missing_readings"):
            if not 1.0 <= getattr(self, name) <= 1000.0:
                raise ConfigurationError(f"instruments: {name} = {getattr(self, name)!r}; expected 1 to 1000")


WHOLE = Options()
"""Instruments with all their errors."""
IDEAL = Options(bias=False, drift=False, noise=False, quantisation=False, stuck=0.0, missing=0.0, jitter_s=0.0)
"""Instruments that show the truth."""

PRESSURE = Instrument(span=0.0025, noise_span=0.0005, noise_reading=0.001)
FLOW = Instrument(reading=0.005, noise_reading=0.004, resolution=0.01)
TEMPERATURE = Instrument(reading=0.005, absolute=0.3, noise_absolute=0.15, resolution=0.01, signed=True)
ELECTRIC = Instrument(reading=0.01, noise_reading=0.003, resolution=0.01)
LEAKAGE = Instrument(span=0.04, noise_span=0.01, noise_reading=0.02, resolution=0.01)
LEVEL = Instrument(span=0.02, noise_span=0.002, resolution=0.1)
SPEED = Instrument(reading=0.001, noise_reading=0.0002, drift_span=0.0, resolution=1.0)
ACCELEROMETER = Instrument(reading=0.10, drift_span=0.0)
"""Its scatter from record to record is in what it measures: see `pump_ml.twin.vibration.Levels.scattered`."""
RATIO = Instrument(drift_span=0.0)
"""A pure number that the accelerometer's gain cancels from."""

SENSORS: tuple[tuple[Sensor, Instrument], ...] = (
    (Sensor("speed_rpm", "rpm", "shaft speed"), SPEED),
    (Sensor("flow_m3_h", "m3/h", "delivered flow, after the seal"), FLOW),
    (Sensor("suction_pressure_bar", "bar", "absolute, at the suction flange"), PRESSURE),
    (Sensor("discharge_pressure_bar", "bar", "absolute, at the discharge flange"), PRESSURE),
    (Sensor("motor_current_a", "A", "line current"), ELECTRIC),
    (Sensor("motor_power_kw", "kW", "active power"), ELECTRIC),
    (Sensor("fluid_temperature_c", "degC", "at the suction flange"), TEMPERATURE),
    (Sensor("ambient_temperature_c", "degC", "beside the pump"), TEMPERATURE),
    (Sensor("bearing_temperature_c", "degC", "drive-end bearing housing"), TEMPERATURE),
    (Sensor("motor_temperature_c", "degC", "motor winding"), TEMPERATURE),
    (Sensor("oil_pressure_bar", "bar", "gauge, of the bearings' lubrication"), PRESSURE),
    (Sensor("oil_level_pct", "percent", "of the oil reservoir"), LEVEL),
    (Sensor("seal_leakage_l_h", "l/h", "at the seal's drain"), LEAKAGE),
    (Sensor("vibration_rms_mm_s", "mm/s", "velocity RMS 10 to 1000 Hz, drive-end bearing"), ACCELEROMETER),
    (Sensor("vibration_nde_rms_mm_s", "mm/s", "the same, non-drive-end bearing"), ACCELEROMETER),
    (Sensor("vibration_1x_mm_s", "mm/s", "velocity RMS at shaft frequency, drive end"), ACCELEROMETER),
    (Sensor("vibration_2x_mm_s", "mm/s", "velocity RMS at twice shaft frequency, drive end"), ACCELEROMETER),
    (Sensor("vibration_vane_pass_mm_s", "mm/s", "velocity RMS at vane-pass frequency, drive end"), ACCELEROMETER),
    (Sensor("acceleration_hf_g", "g_0", "acceleration RMS 1 to 10 kHz, drive end"), ACCELEROMETER),
    (Sensor("acceleration_crest", "", "peak over RMS of the acceleration, drive end"), RATIO),
    (Sensor("acceleration_kurtosis", "", "kurtosis of the acceleration, drive end; 3 for noise"), RATIO),
)
NAMES = tuple(sensor.name for sensor, _ in SENSORS)
DRIVE_END = tuple(
    place for place, (_, instrument) in enumerate(SENSORS) if instrument is ACCELEROMETER and "nde" not in NAMES[place]
)
"""Places of the columns that the drive end's accelerometer gives."""
ENDS = (DRIVE_END[0], NAMES.index("vibration_nde_rms_mm_s"))
"""Places of a column of each accelerometer."""


@dataclass(frozen=True)
class Errors:
    """What stays of one instrument's errors, each as a share of its limit: zero, gain, and the zero's drift a year."""

    zero: float
    gain: float
    drift: float


def read(
    instrument: Instrument,
    true: Array,
    full_scale: float,
    errors: Errors,
    years: Array | float,
    noise: np.random.Generator,
    spells: np.random.Generator,
    options: Options,
) -> Array:
    """Readings of `true`, NaN where nothing is shown.

    Args:
        instrument: its class.
        true: true values, ``(readings,)`` in the order of time; the result has their dtype.
        full_scale: upper end of the span, in the sensor's unit.
        errors: this instrument's own.
        years: since it was new.
        noise: source of the noise.
        spells: source of what sticks and of what is missing.
        options: which errors there are.
    """
    kind, count = true.dtype, len(true)
    shown = true
    if options.bias:
        offset = errors.zero * (instrument.span * full_scale + instrument.absolute)
        shown = true * kind.type(1.0 + errors.gain * instrument.reading) + kind.type(offset)
    if options.drift and instrument.drift_span:
        shown = shown + years * kind.type(errors.drift * instrument.drift_span * full_scale)
    if options.noise and (instrument.noise_span or instrument.noise_reading or instrument.noise_absolute):
        shown = shown + _sigma(instrument, true, full_scale) * noise.standard_normal(count, dtype=kind)
    if not instrument.signed:
        shown = np.maximum(shown, kind.type(0.0))
    if options.quantisation:
        # This also makes a seed give the same bytes on processors whose last digit differs.
        shown = np.round(shown, round(-float(np.log10(instrument.resolution))))
    shown = shown.copy() if shown is true else shown
    for first, length in _spells(count, options.stuck, options.stuck_readings, spells):
        shown[first : first + length] = shown[max(first - 1, 0)]
    for first, length in _spells(count, options.missing, options.missing_readings, spells):
        shown[first : first + length] = np.nan
    return shown


def _sigma(instrument: Instrument, true: Array, full_scale: float) -> Array:
    """Standard deviation of the noise, of each reading or of all."""
    fixed = float(np.hypot(instrument.noise_span * full_scale, instrument.noise_absolute))
    if not instrument.noise_reading:
        constant: Array = np.full(1, fixed, dtype=true.dtype)
        return constant
    if not fixed:
        share: Array = true * true.dtype.type(instrument.noise_reading)
        return share
    result: Array = np.sqrt(np.square(true * true.dtype.type(instrument.noise_reading)) + true.dtype.type(fixed**2))
    return result


def _spells(count: int, chance: float, length: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """First reading and length of each spell."""
    number = rng.poisson(chance * count)
    if not number:  # as mostly; drawing none changes nothing in the stream, but takes its time
        return []
    firsts = rng.integers(0, max(count, 1), number)
    lengths = rng.geometric(1.0 / length, number)
    return list(zip(firsts.tolist(), lengths.tolist(), strict=True))
