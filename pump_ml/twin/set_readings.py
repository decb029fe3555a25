"""What the controller of a motor pump set makes of the true values, and what the line to the database makes of that.

Noise and errors come from instrument classes, as in `pump_ml.twin.instruments`: process transmitters of 0.25 % for
pressures, Pt100 class B for temperatures, float transmitters for levels, a proximity switch for speed. How often rows
are lost, doubled or spoilt is the twin's assumption, stated in `Dirt`.
"""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from pump_ml.errors import ConfigurationError
from pump_ml.twin.set_events import Array


@dataclass(frozen=True)
class Instrument:
    """Of one sensor, in its unit; shares are of the reading.

    Args:
        noise: standard deviation.
        share: standard deviation as a share of the reading.
        zero: limit of the zero error.
        gain: limit of the gain error, as a share.
        decimals: that are shown.
        signed: whether it can show less than 0.
    """

    noise: float
    share: float = 0.0
    zero: float = 0.0
    gain: float = 0.0
    decimals: int = 2
    signed: bool = False


TEMPERATURE = Instrument(0.25, zero=0.3, gain=0.005, decimals=1, signed=True)
LEVEL = Instrument(0.4, zero=1.5, decimals=1)
SENSORS: dict[str, Instrument] = {
    "Eng_RPM": Instrument(0.0, share=0.0015, gain=0.001, decimals=0),
    "Oil_P": Instrument(0.02, share=0.004, zero=0.02, gain=0.005),
    "Oil_L": LEVEL,
    "Oil_T": TEMPERATURE,
    "Fuel_T": TEMPERATURE,
    "Cool_T": TEMPERATURE,
    "Fuel_L": LEVEL,
    "Fuel_Con": Instrument(0.05, share=0.01, gain=0.015),
    "Bat_V": Instrument(0.04, zero=0.05, gain=0.003),
    "Char_V": Instrument(0.06, zero=0.05, gain=0.003),
    "Intake": Instrument(0.15, share=0.01, zero=0.2, gain=0.01),
    "Exaust": Instrument(1.5, zero=1.5, gain=0.005, decimals=0, signed=True),
    "Recalque": Instrument(0.01, share=0.003, zero=0.02, gain=0.0025, signed=True),
    "Succao": Instrument(0.005, zero=0.004, gain=0.0025, decimals=3, signed=True),
}
"""The measured ones; ``Hydraulic_Head`` and the states are made of them by the controller."""
STATES = ("running", "minutes_running")
COLUMNS = (*SENSORS, "Hydraulic_Head", *STATES, "FlexAnalogue4_1", "FlexAnalogue4_2")
"""All columns but ``timestamp`` and ``motor_pump``, in the order in which they are reported."""
SPIKE = 1e5
"""What a spoilt telegram shows, up or down."""
GAP_MIN, STUCK_MIN = (2.0, 90.0), (5.0, 60.0)


@dataclass(frozen=True)
class Dirt:
    """What is wrong with the rows; 0 switches a kind off.

    Args:
        gaps: stretches of 2 to 90 minutes (log-uniform) without rows, a week.
        stuck: spells of 5 to 60 minutes in which one sensor repeats its value, a week.
        missing: share of the cells that are empty.
        spikes: share of the cells that show +100,000 or -100,000.
        infinite: share of the cells that are infinite.
        duplicates: share of the rows that come twice.
        swapped: share of the rows that come after their successor.

    Raises:
        ConfigurationError: a rate is negative, or too high.
    """

    gaps: float = 3.0
    stuck: float = 3.0
    missing: float = 2e-4
    spikes: float = 1e-5
    infinite: float = 2e-6
    duplicates: float = 2e-4
    swapped: float = 2e-4

    def __post_init__(self) -> None:
        for each in fields(self):
            top = 100.0 if each.name in ("gaps", "stuck") else 0.2
            if not 0.0 <= getattr(self, each.name) <= top:
                raise ConfigurationError(f"dirt: {each.name} = {getattr(self, each.name)!r}; expected 0 to {top:g}")


DIRTY = Dirt()
CLEAN = Dirt(gaps=0.0, stuck=0.0, missing=0.0, spikes=0.0, infinite=0.0, duplicates=0.0, swapped=0.0)
"""Nothing is wrong."""


def measured(
    values: dict[str, Array], offsets: tuple[float, ...], gains: tuple[float, ...], rng: np.random.Generator
) -> dict[str, Array]:
    """Readings of the true values, in the order of `COLUMNS`; a sensor without true values has a column of NaN.

    Args:
        values: true values of the sensors there are, and ``air``: how much air in the liquid adds to the noise of
            ``Intake``, kPa.
        offsets: zero error of each of `SENSORS`.
        gains: gain error of each.
        rng: source of the noise.
    """
    rows = len(values["Eng_RPM"])
    readings: dict[str, Array] = dict.fromkeys(COLUMNS, np.full(rows, np.nan))
    for (name, instrument), offset, gain in zip(SENSORS.items(), offsets, gains, strict=True):
        noise = rng.standard_normal(rows)  # drawn for every sensor, so that drives differ in nothing but their own
        if name not in values:
            continue
        scatter = instrument.noise + instrument.share * np.abs(values[name])
        shown = values[name] * (1.0 + gain) + offset + noise * (scatter + (values["air"] if name == "Intake" else 0.0))
        readings[name] = np.round(shown if instrument.signed else np.maximum(shown, 0.0), instrument.decimals)
    return readings


def soil(frame: pd.DataFrame, dirt: Dirt, interval_s: float, rng: np.random.Generator) -> pd.DataFrame:
    """The rows as they arrive: some spoilt, lost, doubled or late.

    Args:
        frame: ``timestamp``, ``motor_pump`` and the sensors.
        dirt: how often.
        interval_s: between two rows.
        rng: source of it all.
    """
    rows, weeks = len(frame), len(frame) * interval_s / (7 * 86400.0)
    there = [name for name in frame.columns[2:] if name not in STATES and frame[name].notna().any()]
    cells = frame[there].to_numpy(dtype=np.float64, copy=True)
    for first, length in _spells(dirt.stuck * weeks, STUCK_MIN, rows, interval_s, rng):
        place = rng.integers(len(there))
        cells[first : first + length, place] = cells[first, place]
    for share, value in ((dirt.missing, np.nan), (dirt.infinite, np.inf), (dirt.spikes, SPIKE)):
        number = rng.poisson(share * cells.size)
        where = rng.integers(0, rows, number), rng.integers(0, len(there), number)
        cells[where] = value if np.isnan(value) else value * rng.choice([-1.0, 1.0], number)
    frame = frame.assign(**dict(zip(there, cells.T, strict=True)))
    order = np.arange(rows)
    late = np.unique(rng.integers(0, max(rows - 1, 1), rng.poisson(dirt.swapped * rows)))
    late = late[np.diff(late, prepend=-2) > 1]
    order[late], order[late + 1] = late + 1, late
    kept = np.ones(rows, dtype=bool)
    for first, length in _spells(dirt.gaps * weeks, GAP_MIN, rows, interval_s, rng):
        kept[first : first + length] = False
    times = np.ones(rows, dtype=np.int64)
    np.add.at(times, rng.integers(0, rows, rng.poisson(dirt.duplicates * rows)), 1)
    return frame.take(np.repeat(order, (times * kept)[order])).reset_index(drop=True)


def _spells(
    expected: float, minutes: tuple[float, float], rows: int, interval_s: float, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """First row and number of rows of each, log-uniform in minutes."""
    number = rng.poisson(expected)
    shortest, longest = minutes
    lengths = shortest * (longest / shortest) ** rng.random(number) * 60.0 / interval_s
    return list(zip(rng.integers(0, rows, number).tolist(), lengths.astype(int).tolist(), strict=True))
