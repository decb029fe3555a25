"""What families make of a window before they learn: statistics for trees, intervals, channels for networks.

Without commissioning records both are about the readings as they are. With records they are about what the readings
show beyond the asset's normal (`pump_ml.models.normal_behaviour`), since levels tell assets apart and not their faults:

- ``share`` of the normal, for what multiplies,
- ``excess`` over it in the sensor's unit, for what adds,
- ``root``: signed root of the mean excess of the squares, for what adds in squares, as vibration does,
- ``off``: how far the conditions are from those of the record, and the ``level`` of those that the problem names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pump_ml.models import signals
from pump_ml.models.normal_behaviour import NormalBehaviour
from pump_ml.problems import Problem
from pump_ml.windows import Windows, gather

Array = NDArray[np.floating[Any]]
Mean = Callable[[Array], Array]
"""From rows to means of some that stand one after the other."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each window: mean, spread, slope and last value of each sensor, or what it shows beyond its normal.

    Args:
        normal: the normal behaviour of the assets; None where there are no commissioning records.
        signals: what is looked at instead of the sensors, see `pump_ml.models.signals.find`; None where they are.
    """

    normal: NormalBehaviour | None
    signals: Array | None = None

    @classmethod
    def fit(cls, train: Windows, problem: Problem) -> Self:
        """From training windows only."""
        return cls(_normal(train, problem), signals.find(train, problem))

    def transform(self, windows: Windows) -> tuple[NDArray[np.float32], list[str]]:
        """The statistics of each window.

        Returns:
            float32 ``(windows, columns)`` and the column names, ``STATISTIC(SENSOR)``.
        """
        names: list[str] = []
        blocks: list[NDArray[np.float32]] = []
        windows = signals.shown(windows, self.signals)
        if self.normal is None or not self.normal.conditions.names:
            names += [f"{statistic}({sensor})" for statistic in RAW for sensor in windows.sensors]
            blocks.append(_raw_statistics(windows))
        if self.normal is not None:
            ends = windows.starts + windows.length - 1
            mean = partial(_rolling, pool=windows.length)
            beyond, found = _beyond(self.normal, windows, windows.length, mean)
            names += found
            blocks.append(beyond[ends].astype(np.float32))
        return np.concatenate(blocks, axis=1), names

    def to_json(self) -> dict[str, Any]:
        """For the predictor's file."""
        return {"normal": self.normal.to_json() if self.normal else None, "signals": _listed(self.signals)}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(_restored(state), _array(state["signals"]))


@dataclass(frozen=True, eq=False)
class Intervals:
    """The course of a window: mean and slope of each sensor, and of its residual share, over equal intervals.

    Where everything repeats a cycle, what happens in one part of it tells faults apart that leave the whole window's
    mean as it is (Schneider et al., tm 84, 2017).

    Args:
        normal: the normal behaviour of the assets; None where there are no commissioning records.
        count: intervals of a window; one a reading where the window is shorter.
        signals: see `Statistics`.
    """

    normal: NormalBehaviour | None
    count: int
    signals: Array | None = None

    def transform(self, windows: Windows) -> tuple[NDArray[np.float32], list[str]]:
        """The intervals of each window.

        Returns:
            float32 ``(windows, columns)``, and for each column the sensor that it is about.
        """
        windows = signals.shown(windows, self.signals)
        readings, sensors = windows.readings, windows.sensors
        if self.normal:
            readings = np.concatenate([readings, self.normal.residuals(windows).share], axis=1)
            sensors = (*sensors, *self.normal.answers)
        parts = np.array_split(np.arange(windows.length), min(self.count, windows.length))
        weights = np.zeros((windows.length, len(parts), 2))
        for place, part in enumerate(parts):
            steps = np.arange(len(part)) - (len(part) - 1) / 2.0
            weights[part, place] = np.stack([np.ones(len(part)), steps / (float(steps @ steps) or 1.0)], axis=1)
            weights[part, place, 0] /= len(part)
        # One reading has no slope.
        flat = weights.reshape(windows.length, -1)
        flat = flat[:, np.any(flat != 0.0, axis=0)]
        table = np.empty((len(windows), flat.shape[1] * len(sensors)), dtype=np.float32)
        for some in windows.chunks():
            x = gather(readings, windows.starts[some], windows.length)
            table[some] = np.einsum("nts,tk->nks", x, flat, optimize=True).reshape(len(x), -1)
        return table, list(sensors) * flat.shape[1]


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels of a network, means over a few readings, each with zero mean and unit variance over training windows.

    What an early fault does is smaller than a reading's noise, so readings are averaged before anything bends them.

    Args:
        normal: the normal behaviour of the assets; None where there are no commissioning records.
        pool: readings that are averaged into one step of a window.
        mean: of each channel over the training windows.
        scale: standard deviation of each channel over the training windows.
        signals: see `Statistics`.
    """

    normal: NormalBehaviour | None
    pool: int
    mean: Array
    scale: Array
    signals: Array | None = None

    @classmethod
    def fit(cls, train: Windows, problem: Problem, pool: int = 1) -> Self:
        """From training windows only."""
        found = signals.find(train, problem)
        unscaled = cls(_normal(train, problem), min(pool, train.length), np.zeros(1), np.ones(1), found)
        begun, uses = np.bincount(train.starts, minlength=len(train.readings)), np.zeros(len(train.readings))
        for offset in unscaled.offsets(train.length):
            uses[offset:] += begun[: len(uses) - offset]
        # Moments of parts are merged as by Chan, Golub and LeVeque 1983, which loses no digits.
        total, mean, squares = 0.0, np.zeros(1), np.zeros(1)
        for here, raw in unscaled._pieces(train):
            weights = uses[here]
            if (count := float(weights.sum())) > 0.0:
                centre = weights @ raw / count
                apart, share = centre - mean, count / (total + count)
                squares = squares + weights @ np.square(raw - centre) + np.square(apart) * total * share
                mean, total = mean + apart * share, total + count
        scale = np.sqrt(squares / total)
        return replace(unscaled, mean=mean, scale=np.where(scale > 1e-12, scale, 1.0))

    def offsets(self, length: int) -> NDArray[np.int64]:
        """Places in a window of the steps that a network sees: ends of its blocks of `pool` readings."""
        return np.arange(length - 1, self.pool - 2, -self.pool, dtype=np.int64)[::-1]

    def transform(self, windows: Windows) -> NDArray[np.float32]:
        """The channels of the windows' readings, float32 ``(readings, channels)``.

        At each reading stands the mean of the `pool` readings that end there; a window's steps are those at
        ``starts + offsets(length)``.
        """
        table = np.empty((len(windows.readings), len(self.mean)), dtype=np.float32)
        for here, rows in self.pieces(windows):
            table[here] = rows
        return table

    def pieces(self, windows: Windows) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """What `transform` gives, some rows at a time, and where they stand in it."""
        for here, raw in self._pieces(windows):
            rows = raw - self.mean
            rows /= self.scale
            yield here, rows.astype(np.float32, order="C")

    def to_json(self) -> dict[str, Any]:
        """For the predictor's file."""
        normal = self.normal.to_json() if self.normal else None
        arrays = {"mean": self.mean.tolist(), "scale": self.scale.tolist(), "signals": _listed(self.signals)}
        return {"normal": normal, "pool": self.pool, **arrays}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        mean, scale = np.array(state["mean"]), np.array(state["scale"])
        return cls(_restored(state), state["pool"], mean, scale, _array(state["signals"]))

    def steps(self, windows: Windows) -> Callable[[slice], NDArray[np.float32]]:
        """What a network sees of windows: what `transform` gives at ``starts + offsets(length)``.

        Returns:
            Gives it for some of the windows, float32 ``(windows, steps, channels)``.
        """
        ends = windows.starts[:, None] + self.offsets(windows.length)
        if ends.size * self.pool > 2 * len(windows.readings):  # they overlap, so means are of use to several
            table = self.transform(windows)
            return lambda some: table[ends[some]]
        found = np.empty((*ends.shape, len(self.mean)), dtype=np.float32)
        for here, some, before in self._parts(windows):
            asked = (ends >= here.start) & (ends < here.stop)
            raw = self._raw(some, partial(_means, ends=ends[asked] - here.start + before, pool=self.pool))
            found[asked] = (raw - self.mean) / self.scale
        return lambda some: found[some]

    def _pieces(self, windows: Windows) -> Iterator[tuple[slice, Array]]:
        """The channels before they are scaled, some readings at a time: all at once take several times the readings."""
        for here, some, before in self._parts(windows):
            yield here, self._raw(some, partial(_rolling, pool=self.pool))[before:]

    def _parts(self, windows: Windows) -> Iterator[tuple[slice, Windows, int]]:
        """Some readings at a time, as windows of them and of so many before them, since means reach back."""
        count, before = len(windows.readings), self.pool - 1
        begins: Sequence[int] = range(0, count, CHUNK)
        if self.normal is not None:  # it looks at whole assets, and no window looks across two
            begins, before = _groups(windows), 0
        for start, stop in pairwise([*begins, count]):
            skipped = min(before, start)
            yield slice(start, stop), _part(windows, start - skipped, stop), skipped

    def _raw(self, windows: Windows, mean: Mean) -> Array:
        """The channels before they are scaled, ``(…, channels)``, of the means that `mean` makes."""
        blocks = []
        if self.normal is None or not self.normal.conditions.names:
            blocks.append(mean(signals.shown(windows, self.signals).readings))
        if self.normal is not None:
            blocks.append(_beyond(self.normal, windows, self.pool, mean)[0])
        return np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]


def _groups(windows: Windows) -> list[int]:
    """Where groups of assets begin that have `CHUNK` readings or more."""
    begins: list[int] = []
    for here in windows.blocks.values():
        if not begins or here.start - begins[-1] >= CHUNK:
            begins.append(here.start)
    return begins


def _part(windows: Windows, start: int, stop: int) -> Windows:
    """These readings and the assets that begin in them; the windows themselves stay where they were."""
    blocks = {
        asset: slice(at.start - start, at.stop - start)
        for asset, at in windows.blocks.items()
        if start <= at.start < stop
    }
    return replace(windows, readings=windows.readings[start:stop], blocks=blocks)


RAW = ("mean", "std", "slope", "last")


def _raw_statistics(windows: Windows) -> NDArray[np.float32]:
    """`RAW` of each sensor, a part of the windows at a time."""
    table = np.empty((len(windows), len(RAW) * len(windows.sensors)), dtype=np.float32)
    steps = np.arange(windows.length) - (windows.length - 1) / 2.0
    for some in windows.chunks():
        x = gather(windows.readings, windows.starts[some], windows.length)
        slope = np.einsum("nts,t->ns", x, steps) / max(float(steps @ steps), 1.0)
        table[some] = np.concatenate([x.mean(axis=1), x.std(axis=1), slope, x[:, -1]], axis=1)
    return table


def _beyond(normal: NormalBehaviour, windows: Windows, pool: int, mean: Mean) -> tuple[Array, list[str]]:
    """What `pool` readings each show beyond normal, ``(…, columns)``, by the means that `mean` makes of rows.

    Returns:
        These, and the columns' names.
    """
    found, width = normal.residuals(windows), len(normal.answers)
    levels = [windows.sensors.index(name) for name in normal.conditions.levels]
    shown = np.arcsinh(windows.readings[:, levels] / normal.scale[levels])
    columns = mean(np.concatenate([found.share, found.excess, found.energy, found.off, shown], axis=1))
    if not found.known.all():
        count = np.maximum(mean(found.known.astype(np.float64)), 1.0 / pool)
        for place in range(3):
            columns[:, place * width : (place + 1) * width] /= count
    energy = columns[:, 2 * width : 3 * width]
    energy[:] = np.copysign(np.sqrt(np.abs(energy)), energy)
    kinds = {
        "share": normal.answers,
        "excess": normal.answers,
        "root": normal.answers,
        "off": normal.conditions.names,
        "level": normal.conditions.levels,
    }
    return columns, [f"{kind}({sensor})" for kind, sensors in kinds.items() for sensor in sensors]


def _rolling(values: Array, pool: int) -> Array:
    """Mean of the `pool` rows that end at each; of those there are, at the start.

    Sums of 1, 2, 4, … rows follow from one another, and those of `pool` rows from some of them: a few additions of
    whole columns, and none of a large number to a small one.
    """
    if pool == 1:
        return values
    found: Array = np.empty_like(values)
    for start in range(0, len(values), CHUNK):
        stop = min(start + CHUNK, len(values))
        before = min(start, pool - 1)
        sums = np.zeros_like(values, shape=(stop - start + pool - 1, values.shape[1]))
        sums[pool - 1 - before :] = values[start - before : stop]
        total, width, used = found[start:stop], 1, 0
        total[:] = 0.0
        while width <= pool:
            if pool & width:
                total += sums[used : used + len(total)]
                used += width
            sums, width = sums[:-width] + sums[width:], 2 * width
        total /= pool
    short = np.arange(1, min(pool, len(values) + 1))[:, None]
    found[: len(short)] *= pool / short
    return found


def _means(values: Array, ends: NDArray[np.int64], pool: int) -> Array:
    """Mean of the `pool` rows that end at each of `ends`: what `_rolling` has there."""
    total = values[ends]
    for back in range(1, pool):
        total += values[ends - back]
    total /= pool
    return total


CHUNK = 8192
"""Rows that are summed at a time, so that sums do not grow beyond what their digits hold."""


def _listed(signals: Array | None) -> list[list[float]] | None:
    return None if signals is None else signals.tolist()


def _array(listed: Any) -> Array | None:
    return None if listed is None else np.array(listed)


def _normal(train: Windows, problem: Problem) -> NormalBehaviour | None:
    if train.commissioning is None:
        return None
    return NormalBehaviour.fit(train.commissioning, train.sensors, problem.conditions)


def _restored(state: Mapping[str, Any]) -> NormalBehaviour | None:
    return NormalBehaviour.from_json(state["normal"]) if state["normal"] else None
