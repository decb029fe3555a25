"""The datasets that a fleet makes, pump by pump: v2, samples at separated severity levels, and v3, whole lives.

Each pump has random streams of its own, by its number and by what they are for. So a pump is the same whatever the
size of its fleet and whoever works it out, and an option changes nothing but what it is about.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pump_ml.errors import ConfigurationError
from pump_ml.twin import degradation, duty, fleet, instruments, vibration, waveform
from pump_ml.twin.datasheet import DataSheet
from pump_ml.twin.degradation import FAULTS, HEALTHY, FaultMode, Life
from pump_ml.twin.fleet import Pump
from pump_ml.twin.instruments import SENSORS, WHOLE, Options
from pump_ml.twin.operation import Demand, State, full_scales, operate
from pump_ml.twin.waveform import Wave

Array = NDArray[np.floating[Any]]
Dataset = Literal["v2", "v3"]

VERSION = 4
"""Of the twin: another one makes other rows of the same seed."""
START_US = int(np.datetime64("2026-01-05T00:00:00", "us").astype(np.int64))
"""A Monday, UTC."""
DAY_US = 86_400_000_000
RECORD, RECORD_S = (10, 12), 300.0
"""The commissioning record: ten settings of demand, twelve readings each, so that it spans the duty range."""
SAMPLE, SAMPLE_S = 60, 60.0
"""Readings of a sample of v2, and seconds between them."""
LABELS: dict[str, tuple[str, ...]] = {"v2": ("severity", "mode", "rul_pct", "health_pct")}
LABELS["v3"] = (*LABELS["v2"], "rul_hours", "censored")


@dataclass(frozen=True)
class Streams:
    """Random streams of one pump, each for one thing, so that an option that draws less does not shift the others."""

    build: np.random.Generator
    life: np.random.Generator
    demand: np.random.Generator
    flicker: np.random.Generator
    noise: np.random.Generator
    spells: np.random.Generator
    clock: np.random.Generator
    waveforms: np.random.Generator


@dataclass(frozen=True, eq=False)
class Record:
    """A waveform that was recorded: both ends of a pump, ``(samples,)`` float32 in g, by the same accelerometers."""

    run_id: str
    time_us: int
    drive_end: Wave
    non_drive_end: Wave


@dataclass(frozen=True, eq=False)
class Rows:
    """Readings of one pump in the order of time, column by column.

    Args:
        asset_id: the pump.
        runs: names of its runs, and how many rows each has.
        time_us: microseconds since 1970, UTC.
        commissioning: whether a row belongs to the commissioning record.
        sensors: by name; NaN where nothing was shown.
        labels: by name; ``mode`` as the place in `pump_ml.twin.degradation.MODES`.
        waveforms: records taken at some of the rows.
    """

    asset_id: str
    runs: tuple[tuple[str, int], ...]
    time_us: NDArray[np.int64]
    commissioning: NDArray[np.bool_]
    sensors: dict[str, Array]
    labels: dict[str, NDArray[Any]]
    waveforms: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.time_us)


@dataclass(frozen=True)
class Fleet:
    """Which pumps there are, and how they are watched.

    Args:
        dataset: what is made of them.
        pumps: how many.
        seed: of all random streams.
        samples: of each pump; v2 only.
        days: that each pump is watched; v3 only.
        step_s: between two readings; v3 only.
        waveforms_h: a waveform every so many hours (v3), or one a sample (v2, any number above 0); 0 for none.
        sheets: types that the pumps take turns in; empty draws a type for each.
        options: of the instruments.

    Raises:
        ConfigurationError: something is out of its bounds; the message names field, value and bound.
    """

    dataset: Dataset
    pumps: int
    seed: int = 7
    samples: int = 12
    days: float = 365.0
    step_s: float = 3600.0
    waveforms_h: float = 0.0
    sheets: tuple[DataSheet, ...] = ()
    options: Options = WHOLE

    def __post_init__(self) -> None:
        bounds: Sequence[tuple[str, float, float]] = (
            ("pumps", 1, 100_000), ("seed", 0, 2**63 - 1), ("samples", 1, 1_000), ("days", 1, 36_525),
            ("step_s", 10, 86_400), ("waveforms_h", 0, 8_766),
        )  # fmt: skip
        for name, low, high in bounds:
            given, kind = getattr(self, name), int if name in ("pumps", "seed", "samples") else (int, float)
            if not isinstance(given, kind):
                number = "a whole number" if kind is int else "a number"
                raise ConfigurationError(f"{name} = {given!r}; expected {number} from {low:g} to {high:g}")
            if not low <= given <= high:
                raise ConfigurationError(f"{name} = {given!r}; expected {low:g} to {high:g}")
        if self.dataset not in LABELS:
            raise ConfigurationError(f"dataset = {self.dataset!r}; expected v2 or v3")

    def asset_id(self, number: int) -> str:
        """Name of a pump; the seed stands in it, since pump 12 of another seed is another pump."""
        return f"{self.dataset}-s{self.seed}-p{number:04d}"

    def rows(self, number: int) -> Rows:
        """All readings of one pump."""
        return _samples(self, number) if self.dataset == "v2" else _lives(self, number)

    def pump(self, number: int) -> Pump:
        """One pump, as it was built."""
        return fleet.draw(self.streams(number).build, self.sheets[number % len(self.sheets)] if self.sheets else None)

    def streams(self, number: int, *, record: bool = False) -> "Streams":
        """Random streams of one pump; those of its commissioning record are others, and depend on nothing else."""
        count = len(fields(Streams))
        root = np.random.SeedSequence(self.seed, spawn_key=(int(self.dataset[1:]), number, *([count] * record)))
        return Streams(*map(np.random.default_rng, root.spawn(count)))

    def _mode(self, number: int) -> FaultMode:
        """The fault of a pump: each block of seven pumps has all of them, in an order that says nothing."""
        block = np.random.SeedSequence(self.seed, spawn_key=(int(self.dataset[1:]), number // len(FAULTS), 0, 0))
        return FAULTS[int(np.random.default_rng(block).permutation(len(FAULTS))[number % len(FAULTS)])]


def observe(
    pump: Pump,
    state: State,
    demand: Demand,
    streams: "Streams",
    options: Options,
    records: Sequence[int] = (),
) -> tuple[dict[str, Array], list[tuple[int, Wave, Wave]]]:
    """What the instruments show of a state.

    Where a waveform is recorded, the vibration monitor's figures are those of that waveform.

    Args:
        pump: the pump set.
        state: its truth.
        demand: what it was asked.
        streams: of the pump.
        options: of the instruments.
        records: rows, counted over all stretches, at which a waveform is recorded.

    Returns:
        Readings by sensor name, stretch after stretch in one dimension, and for each record its row and both waveforms.
    """
    moment = state.levels.scattered(streams.flicker)
    shown = {**state.sensors, **vibration.features(moment, streams.flicker)}
    flat = {name: np.ascontiguousarray(values).reshape(-1) for name, values in shown.items()}
    taken: list[tuple[int, Wave, Wave]] = []
    if len(records):
        level = moment.flat()
        gains = [1.0 + pump.errors[place].gain * instruments.ACCELEROMETER.reading for place in instruments.ENDS]
        if not options.bias:
            gains = [1.0, 1.0]
        for row in records:
            near, far = (waveform.synthesise(level.excitation(row, end), streams.waveforms) for end in ("drive", "far"))
            measured = waveform.measure(near, float(level.shaft_hz[row]), level.vanes)
            measured["vibration_nde_rms_mm_s"] = waveform.velocity_rms_mm_s(far)
            for name, value in measured.items():
                flat[name][row] = value
            taken.append((row, near * np.float32(gains[0]), far * np.float32(gains[1])))
    years = (demand.days / demand.days.dtype.type(365.25)).reshape(-1)
    scales = full_scales(pump)
    return {
        sensor.name: instruments.read(
            instrument, flat[sensor.name], scales[sensor.name], errors, years, streams.noise, streams.spells, options
        )
        for (sensor, instrument), errors in zip(SENSORS, pump.errors, strict=True)
    }, taken


@dataclass(frozen=True, eq=False)
class Samples:
    """The truth behind a pump's samples of v2.

    Args:
        pump: the pump set.
        fault: the fault that it has.
        severity: of each sample, ``(samples,)``.
        damage: of each sample; that of severity 0 does not show.
        days: when each begins, in days since commissioning.
        demand: ``(samples, 60)``.
    """

    pump: Pump
    fault: FaultMode
    severity: NDArray[np.int64]
    damage: NDArray[np.float64]
    days: NDArray[np.float64]
    demand: Demand

    @property
    def at_work(self) -> NDArray[np.float64]:
        """Damage that shows."""
        return np.where(self.severity > 0, self.damage, 0.0)


def draw_samples(plan: Fleet, number: int, streams: Streams) -> Samples:
    """Draw a pump's samples.

    The pump has one fault; its samples have the four severities equally often and in random order, each at a random
    damage within its band. At severity 0 no fault is at work.
    """
    pump = plan.pump(number)
    levels = streams.life.permutation(np.arange(plan.samples) % len(degradation.SEVERITY_BANDS)).astype(np.int64)
    low, high = np.array(degradation.SEVERITY_BANDS)[levels].T
    days = 30.0 + 7.0 * np.arange(plan.samples, dtype=np.float64)
    return Samples(
        pump=pump,
        fault=plan._mode(number),
        severity=levels,
        damage=streams.life.uniform(low, high),
        days=days,
        demand=duty.stretches(pump, days, SAMPLE, SAMPLE_S, streams.demand),
    )


def _commissioning(plan: Fleet, number: int) -> dict[str, Array]:
    """Readings of the record that was taken when the pump was new."""
    pump, streams, options = plan.pump(number), plan.streams(number, record=True), plan.options
    asked = duty.stretches(pump, np.zeros(RECORD[0]), RECORD[1], RECORD_S, streams.demand)
    shown, _ = observe(pump, operate(pump, HEALTHY, np.zeros(1), asked), asked, streams, options)
    return shown


def _samples(plan: Fleet, number: int) -> Rows:
    """Dataset v2 of a pump: its commissioning record, and samples of 60 readings at separated severity levels."""
    asset, streams = plan.asset_id(number), plan.streams(number)
    made = draw_samples(plan, number, streams)
    fault, levels, damage, days = made.fault, made.severity, made.damage, made.days
    begin = float(number % 28)
    state = operate(made.pump, fault, made.at_work[:, None], made.demand)
    middle = [SAMPLE * sample + SAMPLE // 2 for sample in range(plan.samples)] if plan.waveforms_h else []
    shown, taken = observe(made.pump, state, made.demand, streams, plan.options, middle)
    new = _commissioning(plan, number)

    record = np.prod(RECORD, dtype=int)
    at = np.concatenate([
        6.0 * 3600.0 + np.arange(record) * RECORD_S,
        (days[:, None] * 86400.0 + 6.0 * 3600.0 + np.arange(SAMPLE) * SAMPLE_S).reshape(-1),
    ])  # fmt: skip
    time_us = START_US + int(begin * DAY_US) + _late(at, streams.clock, plan.options)
    names = [f"{asset}/{sample:03d}" for sample in range(plan.samples)]
    grown = np.array([fault.growth if level else 1.0 for level in levels])
    labels = {
        "severity": levels.astype(np.int64),
        "mode": np.where(levels > 0, FAULTS.index(fault) + 1, 0),
        # Rounded to what a report shows; the last digits of a power differ between processors.
        "rul_pct": np.round(100.0 * (1.0 - damage ** (1.0 / grown)), 3),
        "health_pct": np.round(degradation.health_pct(damage), 3),
    }
    when_new = {"severity": 0, "mode": 0, "rul_pct": 100.0, "health_pct": 100.0}
    return Rows(
        asset_id=asset,
        runs=((f"{asset}/commissioning", int(record)), *((name, SAMPLE) for name in names)),
        time_us=time_us,
        commissioning=np.arange(len(at)) < record,
        sensors={name: np.concatenate([new[name], shown[name]]) for name in shown},
        labels={
            name: np.concatenate([np.full(record, when_new[name], dtype=values.dtype), np.repeat(values, SAMPLE)])
            for name, values in labels.items()
        },
        waveforms=tuple(
            Record(names[row // SAMPLE], int(time_us[record + row]), near, far) for row, near, far in taken
        ),
    )


def _late(at_s: NDArray[np.float64], rng: np.random.Generator, options: Options) -> NDArray[np.int64]:
    """Times in microseconds, each a little late; a logger keeps milliseconds."""
    late = rng.uniform(0.0, 1.0, len(at_s)) * options.jitter_s
    return np.round((at_s + late) * 1000.0).astype(np.int64) * 1000


MEDIAN_LIFE_H = 4_000.0
"""Median life of v3's pumps, hours of operation: a hard service, so that a year of a small fleet holds many failures.

Process pumps run one to six years between repairs (Bloch and Budris, Pump User's Handbook; from memory).
"""
PLANNED = 0.3
"""Share of the lives that end by planned maintenance, at a time that has nothing to do with the damage."""
WITHDRAWN = 0.15
"""Share of the pumps that are withdrawn for good before the record ends, at a time that has nothing to do with it."""
REPAIR_H = 48.0


@dataclass(frozen=True, eq=False)
class Service:
    """A life as far as it is watched.

    Args:
        life: the whole of it.
        age_h: hours of operation before the first of its rows.
        rows: where the watched part lies in the pump's record.
        operated: hours of operation since the life began, at each of these rows.
        seen: whether the record shows its end, a failure.
    """

    life: Life
    age_h: float
    rows: slice
    operated: NDArray[np.float64]
    seen: bool


def draw_hours(plan: Fleet, rng: np.random.Generator) -> NDArray[np.float64]:
    """Hours of a pump's readings since its record began; shorter where the pump is withdrawn."""
    watched = plan.days * (float(rng.uniform(0.2, 0.9)) if rng.random() < WITHDRAWN else 1.0)
    step_h = plan.step_s / 3600.0
    return np.arange(max(2, int(watched * 24.0 / step_h)), dtype=np.float64) * step_h


def draw_services(
    fault: FaultMode, running: NDArray[np.bool_], step_h: float, rng: np.random.Generator
) -> Iterator[Service]:
    """The lives of a pump that runs at these readings, one after the other.

    The record begins at a random age. A life ends by failure (damage 1) or earlier, by planned maintenance; then the
    pump is as new, and another fault is on its way.

    Args:
        fault: of the first life.
        running: at each reading of the record.
        step_h: between two readings.
        rng: source of the lives.
    """
    worked = np.cumsum(running) * step_h
    begin, age = 0, None
    while begin < len(running):
        life = degradation.draw_life(fault, MEDIAN_LIFE_H, rng)
        if age is None:
            age = float(rng.uniform(0.0, 0.9)) * life.end_h
        planned = rng.random() < PLANNED
        stop = age + (life.end_h - age) * (float(rng.uniform(0.1, 1.0)) if planned else 1.0)
        before = worked[begin - 1] if begin else 0.0
        end = int(np.searchsorted(worked, before + stop - age, side="left")) + 1
        part = slice(begin, min(end, len(running)))
        operated = np.minimum(age + worked[part] - before, life.end_h)
        yield Service(life, age, part, operated, end <= len(running) and not planned)
        begin = end + int(REPAIR_H / step_h)
        age, fault = 0.0, FAULTS[int(rng.integers(len(FAULTS)))]


@dataclass(frozen=True, eq=False)
class Lives:
    """The truth behind a pump's record of v3.

    Args:
        pump: the pump set.
        hours: of each reading, since the record began.
        demand: ``(readings,)``, float32.
        services: its lives.
    """

    pump: Pump
    hours: NDArray[np.float64]
    demand: Demand
    services: tuple[Service, ...]


def draw_lives(plan: Fleet, number: int, streams: Streams) -> Lives:
    """Draw a pump's lives and what is asked of it, as the calendar goes."""
    pump = plan.pump(number)
    hours = draw_hours(plan, streams.life)
    asked = duty.calendar(pump, hours, plan.step_s, streams.demand)
    services = draw_services(plan._mode(number), asked.speed > 0, plan.step_s / 3600.0, streams.life)
    return Lives(pump, hours, asked, tuple(services))


def _lives(plan: Fleet, number: int) -> Rows:
    """Dataset v3 of a pump: its commissioning record, and its lives as the calendar goes, in float32.

    Rows of a life of which the end was not seen are ``censored``; the labels say what would have come.
    """
    asset, streams = plan.asset_id(number), plan.streams(number)
    made = draw_lives(plan, number, streams)
    pump, hours, asked, step_h = made.pump, made.hours, made.demand, plan.step_s / 3600.0
    running = asked.speed > 0
    first = made.services[0]
    calendar_age = first.age_h * len(hours) / max(1, int(running.sum()))
    # At noon, so that pumps of the day shift run.
    every = max(1, round(plan.waveforms_h / step_h))
    noon = range(round(12.0 / step_h), len(hours), every) if plan.waveforms_h else ()
    new = _commissioning(plan, number)

    pieces: list[tuple[str, slice, dict[str, Array], dict[str, NDArray[Any]]]] = []
    waveforms: list[Record] = []
    late = _late(hours * 3600.0, streams.clock, plan.options)
    for place, service in enumerate(made.services):
        life, part, operated = service.life, service.rows, service.operated
        damage = life.at(operated)
        piece = asked.part(part)
        run_id = f"{asset}/life-{place}"
        taken_at = [row - part.start for row in noon if part.start <= row < part.stop and running[row]]
        state = operate(pump, life.fault, damage.astype(np.float32), piece)
        shown, taken = observe(pump, state, piece, streams, plan.options, taken_at)
        grade = degradation.severity(damage)
        labels = {
            "severity": grade,
            "mode": np.where(grade > 0, FAULTS.index(life.fault) + 1, 0),
            "rul_pct": np.round(100.0 * (1.0 - operated / life.end_h), 3),
            "health_pct": np.round(degradation.health_pct(damage), 3),
            "rul_hours": np.round(life.end_h - operated, 1),
            "censored": np.full(len(operated), not service.seen),
        }
        pieces.append((run_id, part, shown, labels))
        start_us = START_US + 30 * DAY_US
        waveforms += [Record(run_id, start_us + int(late[part.start + row]), near, far) for row, near, far in taken]

    record = int(np.prod(RECORD))
    commissioned = -round(calendar_age) * 3600.0 - 86400.0 + np.arange(record, dtype=np.float64) * RECORD_S
    when_new = {"rul_pct": 100.0, "health_pct": 100.0, "rul_hours": np.round(first.life.end_h, 1)}
    return Rows(
        asset_id=asset,
        runs=((f"{asset}/commissioning", record), *((run, part.stop - part.start) for run, part, _, _ in pieces)),
        time_us=START_US
        + 30 * DAY_US
        + np.concatenate(
            [
                _late(commissioned, plan.streams(number, record=True).clock, plan.options),
                *(late[part] for _, part, _, _ in pieces),
            ]
        ),
        commissioning=np.arange(record + sum(part.stop - part.start for _, part, _, _ in pieces)) < record,
        sensors={
            name: np.concatenate([new[name].astype(np.float32), *(shown[name] for _, _, shown, _ in pieces)])
            for name in new
        },
        labels={
            name: np.concatenate(
                [np.full(record, when_new.get(name, 0)), *(labels[name] for _, _, _, labels in pieces)]
            ).astype(np.bool_ if name == "censored" else np.int64 if name in ("severity", "mode") else np.float32)
            for name in LABELS["v3"]
        },
        waveforms=tuple(waveforms),
    )
