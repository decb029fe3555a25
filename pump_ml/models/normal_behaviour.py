"""What an asset's sensors should show under the conditions it works in, learnt from commissioning records.

A normal behaviour model: each sensor is a function of the operating conditions (speed, flow, weather, …). How such
functions look is learnt from all training assets' records together; each asset's own function then follows from its own
record, as far as that says more than the fleet. It is a linear mixed model (Laird and Ware, Biometrics 38, 1982),
fitted by expectation and maximisation. What a sensor shows beyond its function does not change with demand, but with
faults.

Readings are taken as ``arcsinh(reading / scale)``: a logarithm where a sensor is far from 0, so that the laws of pumps
(powers of speed and flow) become straight lines, and a straight line where a sensor is lost in its own noise.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pump_ml.models.columns import columns_of, median, put, rows_of
from pump_ml.problems import Conditions
from pump_ml.windows import Windows

Array = NDArray[np.floating[Any]]

ROUNDS = 60
"""Of expectation and maximisation; after 200 the residuals' spread is the same within a few per cent."""
LEAST = 1e-6
"""Share of an answer's variance within records below which nothing is resolved; keeps the matrices invertible."""
INSIDE = 0.995
"""Share of the training records that a condition's range reaches up to, and down to: a stray reading widens nothing."""
SMALL = 0.05
"""Share of a sensor's usual size below which a reading counts as near 0."""
STRAIGHT = 20.0
"""Scale of an additive sensor over its usual size, at which the arcsinh is a straight line."""
SHORTEST, FEW = 3, 0.01
"""An instrument is stuck where it repeats itself so often, and so long that fewer than so many such stretches are to be
expected among as many readings."""
TOGETHER = 8192
"""Readings that are held against their normal at a time: more take memory and are no faster."""


@dataclass(frozen=True, eq=False)
class NormalBehaviour:
    """Functions of the conditions, with ``k`` terms, for the sensors that are no conditions: the ``answers``.

    Args:
        sensors: names of the readings' last axis.
        conditions: those of them that say what the asset is asked, and what is around it.
        scale: of each sensor, in its unit, ``(sensors,)``.
        low: how far each condition lies below its asset's mean in training records, negative, ``(conditions,)``.
        high: how far above; a condition that hardly moved there counts as if it had moved by 5 %.
        mean: of the coefficients over the fleet, ``(answers, k)``.
        spread: their covariance over the fleet, ``(answers, k, k)``.
        noise: variance of a reading around its asset's function, ``(answers,)``.
    """

    sensors: tuple[str, ...]
    conditions: Conditions
    scale: Array
    low: Array
    high: Array
    mean: Array
    spread: Array
    noise: Array

    @classmethod
    def fit(cls, records: Mapping[str, Array], sensors: tuple[str, ...], conditions: Conditions) -> Self:
        """Learn from the records of training assets.

        Args:
            records: commissioning readings by asset, each ``(readings, sensors)``.
            sensors: names of the last axis.
            conditions: some of them; without any, an asset is compared with the mean of its record.
        """
        together = np.concatenate(list(records.values()))
        # Most readings differ from the one before by little but noise, whatever the demand does; the median of what
        # Gaussian noise does there is 0.954 of its standard deviation.
        steps = np.concatenate([np.abs(np.diff(record, axis=0)) for record in records.values()])
        noise = np.median(steps, axis=0) / 0.954 if len(steps) else np.zeros(len(sensors))
        usual = np.median(np.abs(together), axis=0)
        scale = np.maximum(SMALL * usual, noise)
        additive = [sensors.index(name) for name in conditions.additive]
        scale[additive] = np.maximum(STRAIGHT * usual, noise)[additive]
        none = np.empty(0)
        frame = cls(sensors, conditions, np.where(scale > 0.0, scale, 1.0), none, none, none, none, none)
        parts = [frame._parts(record) for record in records.values()]
        off = np.concatenate([at - np.median(at, axis=0) for at, _ in parts])
        low, high = np.quantile(off, [1.0 - INSIDE, INSIDE], axis=0)
        wanting = np.maximum(frame._least_widths() - (high - low), 0.0) / 2.0
        frame = replace(frame, low=low - wanting, high=high + wanting)
        terms = [frame._terms(at - np.median(at, axis=0)) for at, _ in parts]
        works = [frame._works(*repeats(record)) for record in records.values()]
        mean, spread, variance = _mixed_model(
            terms, [shown for _, shown in parts], [each.astype(np.float64) for each in works]
        )
        return replace(frame, mean=mean, spread=spread, noise=variance)

    @property
    def answers(self) -> tuple[str, ...]:
        """The sensors that have residuals."""
        return tuple(name for name in self.sensors if name not in self.conditions.names)

    def residuals(self, windows: Windows) -> "Residuals":
        """What each of the windows' readings shows beyond its asset's normal.

        Raises:
            ValueError: the windows have no commissioning records.
        """
        if windows.commissioning is None:
            raise ValueError("these windows have no commissioning records; the problem has to ask for the reference")
        # Whatever is about a sensor lies in one piece: sums and products of stretches are what computers are fast at.
        count, answers = len(windows.readings), len(self.answers)
        share, excess, energy = (np.zeros((answers, count)).T for _ in range(3))
        known = np.zeros((answers, count), dtype=np.bool_).T
        off = np.zeros((len(self.conditions.names), count)).T
        places = [self.sensors.index(name) for name in self.answers]
        # Many assets have one record where they are copies of one.
        records = [windows.commissioning[asset] for asset in windows.blocks]
        once = {id(record): record for record in records}
        place = {which: number for number, which in enumerate(once)}
        whose = np.array([place[id(record)] for record in records], dtype=np.int64)
        told = self._told(list(once.values()))
        blocks = list(windows.blocks.values())
        for some in _alike([at.stop - at.start for at in blocks]):
            centre, own, rate = (each[whose[some]] for each in told)
            here = rows_of([blocks[asset] for asset in some])
            readings = windows.readings[here].reshape(len(some), -1, len(self.sensors))
            at, shown = self._parts(readings)
            away = at - centre[:, None]
            sure = self._known(away) & self._works(repeats(readings)[0], rate, windows.length)
            normal = (own @ self._terms(away).swapaxes(-1, -2)).swapaxes(-1, -2)
            plain = columns_of(readings, places)
            if not sure.all():  # what says nothing is held against itself
                normal, plain = np.where(sure, normal, shown), np.where(sure, plain, 0.0)
            level = self.scale[places] * np.sinh(normal)
            if not sure.all():
                level = np.where(sure, level, 0.0)
            put(off, here, away)
            put(known, here, sure)
            put(share, here, shown - normal)
            put(excess, here, plain - level)
            put(energy, here, (plain - level) * (plain + level))
        return Residuals(share, excess, energy, off, known)

    def as_new(self, windows: Windows) -> Array:
        """What each of the windows' readings would show if its asset were as it was in its commissioning record.

        Normal under the conditions of the reading, and around it what the record's readings show in their order, so
        that spreads are those of a working instrument. Conditions stay as they are.

        Returns:
            ``(readings, sensors)``, in the sensors' units.

        Raises:
            ValueError: the windows have no commissioning records.
        """
        if windows.commissioning is None:
            raise ValueError("these windows have no commissioning records; the problem has to ask for the reference")
        found = windows.readings.copy()
        places = [self.sensors.index(name) for name in self.answers]
        for asset, here in windows.blocks.items():
            record = windows.commissioning[asset]
            centre, own, _ = self._own(record)
            at, shown = self._parts(record)
            around = shown - self._terms(at - centre) @ own.T
            at, _ = self._parts(windows.readings[here])
            normal = self._terms(at - centre) @ own.T + around[np.arange(len(at)) % len(around)]
            found[here, places] = self.scale[places] * np.sinh(normal)
        return found

    def _told(self, records: Sequence[Array]) -> tuple[Array, Array, Array]:
        """What each of the records tells, see `_own`."""
        centre, rate = np.empty((len(records), len(self.conditions.names))), np.empty((len(records), len(self.sensors)))
        own = np.empty((len(records), *self.mean.shape))
        for some in _alike([len(record) for record in records]):
            centre[some], own[some], rate[some] = self._own(np.stack([records[number] for number in some]))
        return centre, own, rate

    def _own(self, record: Array) -> tuple[Array, Array, Array]:
        """What an asset's record tells: centre of its conditions, coefficients ``(answers, k)``, rate of repeats.

        This and what it calls take one asset, or several at a time along axes before those of one.
        """
        at, shown = self._parts(record)
        centre = median(at)
        terms, (run, rate) = self._terms(at - centre[..., None, :]), repeats(record)
        works = self._works(run, rate)
        if works.all():  # as nearly always; then all answers share one matrix
            square = (terms.swapaxes(-1, -2) @ terms)[..., None, :, :]
        else:
            square = np.einsum("...ns,...nk,...nl->...skl", works.astype(np.float64), terms, terms, optimize=True)
            shown = works * shown
        product = terms.swapaxes(-1, -2) @ shown
        return centre, _posterior(square, product, self.mean, self._precision, self.noise), rate

    def _works(self, run: NDArray[np.int64], rate: Array, count: int | None = None) -> NDArray[np.bool_]:
        """Whether an answer's sensor and those of all conditions work, which are not stuck, ``(readings, answers)``.

        Args:
            run: readings in the stretch of repeats, see `repeats`.
            rate: share of the readings of its record in which each sensor repeated itself.
            count: readings among which a stretch of repeats is to be rare; unset, these.
        """
        stuck = run >= SHORTEST
        if not stuck.any():
            return np.ones((*run.shape[:-1], len(self.answers)), dtype=np.bool_)
        stuck &= (count or run.shape[-2]) * rate[..., None, :] ** run < FEW
        conditions = [self.sensors.index(name) for name in self.conditions.names]
        answers = [self.sensors.index(name) for name in self.answers]
        works: NDArray[np.bool_] = ~(stuck[..., answers] | stuck[..., conditions].any(axis=-1, keepdims=True))
        return works

    @cached_property
    def _precision(self) -> Array:
        inverse: Array = np.linalg.inv(self.spread)
        return inverse

    def to_json(self) -> dict[str, Any]:
        """For the predictor's file."""
        arrays = {name: getattr(self, name).tolist() for name in ARRAYS}
        return {"sensors": self.sensors, "conditions": self.conditions.model_dump(mode="json"), **arrays}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        arrays = {name: np.array(state[name], dtype=np.float64) for name in ARRAYS}
        return cls(tuple(state["sensors"]), Conditions.model_validate(state["conditions"]), **arrays)

    def _parts(self, readings: Array) -> tuple[Array, Array]:
        """Conditions and answers of readings, transformed; absolute conditions stay as they are."""
        columns = np.ascontiguousarray(readings.swapaxes(-1, -2))
        shown = columns / self.scale[:, None]
        np.arcsinh(shown, out=shown)
        relative, absolute = (
            [self.sensors.index(name) for name in names]
            for names in (self.conditions.relative, self.conditions.absolute)
        )
        at = np.concatenate([shown[..., relative, :], columns[..., absolute, :]], axis=-2)
        return at.swapaxes(-1, -2), np.delete(shown, [*relative, *absolute], axis=-2).swapaxes(-1, -2)

    def _least_widths(self) -> Array:
        """Range that each condition is taken to have at least: 5 % of the reading, or of its usual size."""
        absolute = [self.scale[self.sensors.index(name)] for name in self.conditions.absolute]
        return np.array([SMALL] * len(self.conditions.relative) + absolute)

    def _known(self, off: Array) -> NDArray[np.bool_]:
        """Whether all conditions lie in the range of the training records, or no further out of it than it is wide.

        ``(…, 1)``.
        """
        width = self.high - self.low
        known: NDArray[np.bool_] = np.all(
            (off >= self.low - width) & (off <= self.high + width), axis=-1, keepdims=True
        )
        return known

    def _terms(self, off: Array) -> Array:
        """1, the conditions, and the products of two relative ones.

        Conditions are scaled to the training records' range, so that all coefficients are of one size. Half that range
        beyond it they are cut: no function is trusted further out.
        """
        width = self.high - self.low
        cut = np.clip(off, self.low - width / 2.0, self.high + width / 2.0)
        scaled = np.moveaxis(cut / width, -1, 0)
        pairs = combinations_with_replacement(range(len(self.conditions.relative)), 2)
        products = [scaled[one] * scaled[other] for one, other in pairs]
        return np.stack([np.ones(off.shape[:-1]), *scaled, *products], axis=-2).swapaxes(-1, -2)


@dataclass(frozen=True, eq=False)
class Residuals:
    """What readings show beyond their assets' normal.

    A reading under conditions far outside of those of all training records (an asset at rest) says nothing, and neither
    does an instrument that is stuck: it is not `known`, and its residuals are 0.

    Args:
        share: transformed, a share of the reading where that is far from 0; ``(readings, answers)``.
        excess: in the sensors' units, of the same shape.
        energy: of the squares, in the sensors' units squared: what adds in squares, as vibration does, adds here.
        off: how far the conditions are from the record's median, transformed; ``(readings, conditions)``.
        known: whether a reading says something, ``(readings, answers)``.
    """

    share: Array
    excess: Array
    energy: Array
    off: Array
    known: NDArray[np.bool_]


def repeats(readings: Array) -> tuple[NDArray[np.int64], Array]:
    """How long each reading's stretch of repeats of the reading before is, 0 where it is another one; and their share.

    Args:
        readings: of one asset in order of time, ``(readings, sensors)``.

    Returns:
        Readings in the stretch, ``(readings, sensors)``, and the share of repeats by sensor, above 0 and below 1.
    """
    count, again = readings.shape[-2], readings[..., 1:, :] == readings[..., :-1, :]
    if not again.any():
        rate = np.full((*readings.shape[:-2], readings.shape[-1]), min(1 / max(count, 1), 0.999))
        return np.broadcast_to(np.int64(0), readings.shape), rate
    same = np.zeros(readings.shape, dtype=np.bool_)
    same[..., 1:, :] = again
    rate = np.minimum((same.sum(axis=-2) + 1) / max(count, 1), 0.999)
    place = np.arange(count)[:, None]
    before = np.maximum.accumulate(np.where(same, -1, place), axis=-2)
    after = np.minimum.accumulate(np.where(same, count, place)[..., ::-1, :], axis=-2)[..., ::-1, :]
    return np.where(same, after - before - 1, 0), rate


def _alike(lengths: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Places of equal lengths, `TOGETHER` readings at a time: what is equally long is worked out in one go."""
    for length in dict.fromkeys(lengths):
        places = np.flatnonzero(np.array(lengths) == length)
        size = max(TOGETHER // max(length, 1), 1)
        for start in range(0, len(places), size):
            yield places[start : start + size]


ARRAYS = ("scale", "low", "high", "mean", "spread", "noise")


def _posterior(square: Array, product: Array, mean: Array, precision: Array, noise: Array) -> Array:
    """Mean of an asset's coefficients, ``(answers, k)``.

    Args:
        square: ``X'WX`` of each answer, ``(answers, k, k)``.
        product: ``X'WY``, ``(k, answers)``.
        mean: prior mean.
        precision: inverse of the prior covariance.
        noise: variance of a reading.
    """
    weighed = product.swapaxes(-1, -2) / noise[:, None] + np.einsum("skl,sl->sk", precision, mean)
    found: Array = np.linalg.solve(square / noise[:, None, None] + precision, weighed[..., None])[..., 0]
    return found


def _mixed_model(terms: list[Array], shown: list[Array], weights: list[Array]) -> tuple[Array, Array, Array]:
    """Mean and covariance of the assets' coefficients, and the noise, by expectation and maximisation.

    Args:
        terms: of each asset's readings, ``(readings, k)``.
        shown: its answers, ``(readings, answers)``.
        weights: 1, or 0 where a reading of an answer does not count, ``(readings, answers)``.
    """
    squares = np.stack([
        np.einsum("ns,nk,nl->skl", w, x, x, optimize=True) for x, w in zip(terms, weights, strict=True)
    ])  # fmt: skip
    products = np.stack([x.T @ (w * y) for x, y, w in zip(terms, shown, weights, strict=True)])
    sums = np.stack([(w * np.square(y)).sum(axis=0) for y, w in zip(shown, weights, strict=True)])
    counts: Array = np.maximum(np.sum([w.sum(axis=0) for w in weights], axis=0), 1.0)
    k = products.shape[1]
    usual: Array = np.maximum(np.mean([y.var(axis=0) for y in shown], axis=0), 1e-12)
    least: Array = LEAST * usual[:, None, None] * np.eye(k)
    mean: Array = np.linalg.solve(squares.sum(axis=0) + least, products.sum(axis=0).T[..., None])[..., 0]
    spread: Array = usual[:, None, None] * np.eye(k)
    spread[:, 0, 0] += np.var([y.mean(axis=0) for y in shown], axis=0)
    noise: Array = usual / 10.0
    for _ in range(ROUNDS):
        precision: Array = np.linalg.inv(spread)
        covariance: Array = np.linalg.inv(squares / noise[:, None, None] + precision)
        weighed = np.swapaxes(products, 1, 2) / noise[:, None] + np.einsum("skl,sl->sk", precision, mean)
        found = np.einsum("nskl,nsl->nsk", covariance, weighed)
        left = (
            sums - 2.0 * np.einsum("nsk,nks->ns", found, products)
            + np.einsum("nsk,nskl,nsl->ns", found, squares, found, optimize=True)
            + np.einsum("nskl,nslk->ns", squares, covariance)
        )  # fmt: skip
        mean = found.mean(axis=0)
        apart = found - mean
        spread = (np.einsum("nsk,nsl->skl", apart, apart) + covariance.sum(axis=0)) / len(found) + least
        noise = np.maximum(left.sum(axis=0) / counts, LEAST * usual)
    return mean, spread, noise
