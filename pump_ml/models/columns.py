"""Tables of readings in which each column lies in one piece: NumPy adds and multiplies long stretches fastest."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def rows_of(blocks: Sequence[slice]) -> slice | NDArray[np.int64]:
    """The rows in these blocks: a slice, which needs no copy, where they stand one after the other."""
    if all(before.stop == after.start for before, after in pairwise(blocks)):
        return slice(blocks[0].start, blocks[-1].stop)
    return np.concatenate([np.arange(at.start, at.stop) for at in blocks])


def put(table: NDArray[Any], rows: slice | NDArray[np.int64], values: NDArray[Any]) -> None:
    """Write ``(assets, readings, columns)`` to these rows of a table ``(rows, columns)``."""
    table.T[:, rows] = np.moveaxis(values, -1, 0).reshape(table.shape[1], math.prod(values.shape[:-1]))


def columns_of(values: Array, places: Sequence[int]) -> Array:
    """A copy of these columns of the last axis, each in one piece."""
    return values.swapaxes(-1, -2)[..., places, :].swapaxes(-1, -2)


def median(values: Array) -> Array:
    """Median along the last axis but one; `numpy.median` takes several times as long for many short stretches."""
    ordered, count = np.sort(values.swapaxes(-1, -2), axis=-1), values.shape[-2]
    middle: Array = ordered[..., (count - 1) // 2] / 2.0 + ordered[..., count // 2] / 2.0
    return middle
