"""Rows of readings in order of asset, run and time, by numbers.

To sort and to group a small frame by pandas takes longer than to answer what is in it.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml.errors import DataError
from pump_ml.schema import ASSET, RUN, TIME

if TYPE_CHECKING:
    from collections.abc import Mapping

Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RowOrder:
    """Keys of rows as numbers that sort as the keys do.

    Args:
        names: of the assets, sorted.
        assets: place of each row's asset in `names`, int64 ``(rows,)``.
        groups: number of each row's asset and run, int64 ``(rows,)``.
        alone: whether a row's run is unknown, so that it is a run of its own, ``(rows,)``.
        times: of the rows, ``(rows,)``.
    """

    names: tuple[str, ...]
    assets: Places
    groups: Places
    alone: NDArray[np.bool_]
    times: NDArray[Any]

    @classmethod
    def of(cls, keys: "Mapping[str, pd.Series[Any]]") -> Self:
        """The order of rows.

        Args:
            keys: the columns `pump_ml.schema.KEYS` of a frame, or that frame.

        Raises:
            DataError: a row has no asset.
        """
        assets, names = _numbered(keys[ASSET])
        if lost := int(np.count_nonzero(assets < 0)):
            raise DataError(f"{lost} readings have no {ASSET}; validation quarantines such rows: validate first")
        runs, found = _numbered(keys[RUN])
        alone = runs < 0
        groups = assets * (len(found) + 1) + np.where(alone, len(found), runs)
        return cls(tuple(map(str, names)), assets, groups, alone, _times(keys[TIME]))

    def sorted(self, some: NDArray[np.bool_]) -> Places:
        """Places of the rows that are marked, in order; rows of one time stay as they stand."""
        rows = np.flatnonzero(some)
        groups, times = self.groups[rows], self.times[rows]
        later = (groups[1:] > groups[:-1]) | ((groups[1:] == groups[:-1]) & (times[1:] >= times[:-1]))
        return rows if later.all() else rows[np.lexsort((times, groups))]

    def firsts(self, rows: Places) -> Places:
        """Where in these rows, which are in order, a run begins."""
        groups = self.groups[rows]
        begins = np.ones(len(rows), dtype=np.bool_)
        begins[1:] = (groups[1:] != groups[:-1]) | self.alone[rows[1:]]
        return np.flatnonzero(begins)

    def blocks(self, rows: Places) -> dict[str, slice]:
        """Where in these rows, which are in order, those of each asset stand."""
        assets = self.assets[rows]
        edges = [0, *(np.flatnonzero(assets[1:] != assets[:-1]) + 1).tolist(), len(rows)] if len(rows) else []
        return {self.names[assets[start]]: slice(start, stop) for start, stop in pairwise(edges)}


def _numbered(column: "pd.Series[Any]") -> tuple[Places, Any]:
    """Place of each value among the sorted values, -1 where there is none; and these."""
    given = column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array
    codes, values = pd.factorize(given)
    if len(values) > 1 and not pd.Index(values).is_monotonic_increasing:
        codes, values = pd.factorize(given, sort=True)
    return codes.astype(np.int64, copy=False), values


def _times(column: "pd.Series[Any]") -> NDArray[Any]:
    """Times as NumPy sorts them: what is no time comes last."""
    dtype = column.dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        return column.to_numpy(dtype=f"datetime64[{dtype.unit}]")
    if isinstance(dtype, np.dtype) and dtype.kind in "iufM":
        return column.to_numpy()
    places, values = _numbered(column)
    return np.where(places < 0, len(values), places)
