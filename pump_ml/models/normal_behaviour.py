"""What an asset's sensors should show under the conditions it works in, learnt from commissioning records.

A normal behaviour model: each sensor is a function of the operating conditions (speed, flow, weather, …). How such
functions look is learnt from all training assets' records together; each asset's own function then follows from its own
record, as far as that says more than the fleet. It is a linear mixed model (Laird and Ware, Biometrics 38, 1982),
fitted by expectation and maximisation. What a sensor shows beyond its function does not change with demand, but with
faults.

Readings are taken as ``arcsinh(reading / scale)``: a logarithm where a sensor is far from 0, so that the laws of pumps
(powers of speed and flow) become straight lines, and a straight line where a sensor is lost in its own noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pump_ml.problems import Conditions
from pump_ml.windows import Windows, gather

Array = NDArray[np.floating[Any]]

ROUNDS = 60
"""Of expectation and maximisation; after 200 the residuals' spread is the same within a few per cent."""
LEAST = 1e-8
"""Variance below which nothing is resolved; keeps the matrices invertible."""
INSIDE = 0.995
"""Share of the training records that a condition's range reaches up to, and down to: a stray reading widens nothing."""
SMALL = 0.05
"""Share of a sensor's usual size below which a reading counts as near 0."""


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
        scale = np.maximum(SMALL * np.median(np.abs(together), axis=0), noise)
        none = np.empty(0)
        frame = cls(sensors, conditions, np.where(scale > 0.0, scale, 1.0), none, none, none, none, none)
        parts = [frame._parts(record) for record in records.values()]
        off = np.concatenate([at - at.mean(axis=0) for at, _ in parts])
        low, high = np.quantile(off, [1.0 - INSIDE, INSIDE], axis=0)
        wanting = np.maximum(frame._least_widths() - (high - low), 0.0) / 2.0
        frame = replace(frame, low=low - wanting, high=high + wanting)
        terms = [frame._terms(at - at.mean(axis=0)) for at, _ in parts]
        mean, spread, variance = _mixed_model(terms, [shown for _, shown in parts])
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
        share, excess = np.zeros((2, len(windows.readings), len(self.answers)))
        known = np.zeros((len(windows.readings), 1), dtype=np.bool_)
        scale = self.scale[[self.sensors.index(name) for name in self.answers]]
        for asset, here in windows.blocks.items():
            centre, own = self._own(windows.commissioning[asset])
            at, shown = self._parts(windows.readings[here])
            known[here] = self._known(at - centre)
            normal = np.where(known[here], self._terms(at - centre) @ own.T, shown)
            share[here], excess[here] = shown - normal, scale * (np.sinh(shown) - np.sinh(normal))
        return Residuals(share, excess, known)

    def _own(self, record: Array) -> tuple[Array, Array]:
        """Centre of an asset's conditions, and its coefficients ``(answers, k)``, as its record tells them."""
        at, shown = self._parts(record)
        centre = at.mean(axis=0)
        terms = self._terms(at - centre)
        own, _ = _posterior(terms.T @ terms, terms.T @ shown, self.mean, self._precision, self.noise)
        return centre, own

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
        shown = np.arcsinh(readings / self.scale)
        relative, absolute = (
            [self.sensors.index(name) for name in names]
            for names in (self.conditions.relative, self.conditions.absolute)
        )
        at = np.concatenate([shown[..., relative], readings[..., absolute]], axis=-1)
        return at, np.delete(shown, [*relative, *absolute], axis=-1)

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
        return np.stack([np.ones(off.shape[:-1]), *scaled, *products], axis=-1)


@dataclass(frozen=True, eq=False)
class Residuals:
    """What readings show beyond their assets' normal.

    A reading under conditions far outside of those of all training records (an asset at rest) says nothing: it is not
    `known`, and its residuals are 0.

    Args:
        share: transformed, a share of the reading where that is far from 0; ``(readings, answers)``.
        excess: in the sensors' units, of the same shape.
        known: whether a reading's conditions are known, ``(readings, 1)``.
    """

    share: Array
    excess: Array
    known: NDArray[np.bool_]

    def moments(self, values: Array, windows: Windows, some: slice) -> tuple[Array, Array]:
        """Mean and standard deviation of `share` or `excess` over the known readings; 0 where a window has none.

        Args:
            values: one of the two.
            windows: whose residuals these are.
            some: which of them.
        """
        known, found = (gather(each, windows.starts[some], windows.length) for each in (self.known, values))
        count = np.maximum(known.sum(axis=1), 1)
        mean = found.sum(axis=1) / count  # what is not known is 0
        spread = np.where(known, found - mean[:, None], 0.0)
        return mean, np.sqrt(np.square(spread).sum(axis=1) / count)


ARRAYS = ("scale", "low", "high", "mean", "spread", "noise")


def _posterior(square: Array, product: Array, mean: Array, precision: Array, noise: Array) -> tuple[Array, Array]:
    """Mean ``(answers, k)`` and covariance ``(answers, k, k)`` of an asset's coefficients.

    Args:
        square: ``X'X``, ``(k, k)``.
        product: ``X'Y``, ``(k, answers)``.
        mean: prior mean.
        precision: inverse of the prior covariance.
        noise: variance of a reading.
    """
    covariance: Array = np.linalg.inv(square / noise[:, None, None] + precision)
    weighed = product.T / noise[:, None] + np.einsum("skl,sl->sk", precision, mean)
    return np.einsum("skl,sl->sk", covariance, weighed), covariance


def _mixed_model(terms: list[Array], shown: list[Array]) -> tuple[Array, Array, Array]:
    """Mean and covariance of the assets' coefficients, and the noise, by expectation and maximisation.

    Args:
        terms: of each asset's readings, ``(readings, k)``.
        shown: its answers, ``(readings, answers)``.
    """
    squares = [x.T @ x for x in terms]
    products = [x.T @ y for x, y in zip(terms, shown, strict=True)]
    sums: Array = np.sum([np.square(y).sum(axis=0) for y in shown], axis=0)
    readings, (k, answers) = sum(map(len, shown)), products[0].shape
    mean: Array = np.linalg.lstsq(np.sum(squares, axis=0), np.sum(products, axis=0), rcond=None)[0].T
    spread: Array = np.tile(np.eye(k), (answers, 1, 1))
    noise: Array = np.full(answers, 1e-2)
    for _ in range(ROUNDS):
        precision: Array = np.linalg.inv(spread)
        found, second, left = [], np.tile(LEAST * np.eye(k), (answers, 1, 1)), sums.copy()
        for square, product in zip(squares, products, strict=True):
            own, covariance = _posterior(square, product, mean, precision, noise)
            found.append(own)
            second += covariance
            left += (
                np.einsum("sk,kl,sl->s", own, square, own) - 2.0 * np.einsum("sk,ks->s", own, product)
                + np.einsum("kl,slk->s", square, covariance)
            )  # fmt: skip
        mean = np.mean(found, axis=0)
        apart = np.array(found) - mean
        spread = (np.einsum("nsk,nsl->skl", apart, apart) + second) / len(found)
        noise = np.maximum(left / readings, LEAST)
    return mean, spread, noise
