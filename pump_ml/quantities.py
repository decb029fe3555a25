"""What a problem makes of the columns of the data: quantities of several, and several ways to measure the same."""

import re
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pump_ml.errors import ConfigurationError
from pump_ml.split_policy import Frozen


class Derived(Frozen):
    """A quantity that follows from sensors of the same reading, and travels with the model as they do.

    What two instruments say of one thing says more together: a pump's head is the difference of two pressures
    (ISO 9906), its efficiency a product over a power.

    Args:
        difference: the first sensor less the second.
        product: sensors that are multiplied.
        over: a sensor that the product is divided by; below `least` it counts as `least`.
        factor: of the result, for its unit.
        least: smallest divisor, in the sensor's unit.
    """

    difference: tuple[str, str] | None = None
    product: tuple[str, ...] = ()
    over: str | None = None
    factor: float = 1.0
    least: float = Field(1e-9, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.difference) == bool(self.product) or (self.over and not self.product):
            raise ValueError("a derived quantity is a difference of two sensors, or a product, maybe over another")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The sensors, or quantities derived before it, that it follows from."""
        return (*(self.difference or ()), *self.product, *((self.over,) if self.over else ()))

    def of(self, columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Its values, from those of its parts."""
        if self.difference:
            first, second = self.difference
            return self.factor * (columns[first] - columns[second])
        values: NDArray[np.float64] = self.factor * np.prod([columns[name] for name in self.product], axis=0)
        return values / np.maximum(columns[self.over], self.least) if self.over else values


class Alternatives(Frozen):
    """Columns that measure the same several ways; each fold's training and validation assets choose (`ways.choose`).

    Where the choice of, say, a frequency band is made once for all, those who judge have chosen it as well.

    Args:
        pattern: regular expression of whole column names, with the groups ``way`` and ``feature``.
        keep: how many ways are kept; a feature is the mean over them.
        groups: label column; a way is worth what a model learns from the other groups about each.
    """

    pattern: str
    keep: int = Field(ge=1)
    groups: str

    @model_validator(mode="after")
    def _usable(self) -> Self:
        try:
            named = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ValueError(f"alternatives: pattern {self.pattern!r} is no regular expression: {error}") from None
        if set(named) != {"way", "feature"}:
            raise ValueError(
                f"alternatives: pattern {self.pattern!r} has the groups {', '.join(named) or 'none'}; expected "
                "(?P<way>…) and (?P<feature>…)"
            )
        return self

    def columns(self, sensors: Sequence[str]) -> dict[str, dict[str, str]]:
        """Way -> feature -> column, each way's features in the same order.

        Raises:
            ConfigurationError: there are fewer ways than are to be kept, or one lacks a feature.
        """
        found: dict[str, dict[str, str]] = {}
        for column in sensors:
            if fits := re.fullmatch(self.pattern, column):
                found.setdefault(fits["way"], {})[fits["feature"]] = column
        if len(found) < self.keep:
            raise ConfigurationError(
                f"alternatives: {self.pattern!r} finds {len(found)} ways among the {len(sensors)} sensors; expected "
                f"{self.keep} or more, as many as are kept"
            )
        names = list(dict.fromkeys(name for columns in found.values() for name in columns))
        for way, columns in found.items():
            if lacking := [name for name in names if name not in columns]:
                raise ConfigurationError(f"alternatives: way {way!r} lacks {', '.join(lacking)}, which others have")
        return {way: {name: columns[name] for name in names} for way, columns in found.items()}
