"""Expectations that Great Expectations lacks: vectorised, and pointing at rows, so that a row can be quarantined.

Importing this module registers them by the snake-case name of the class; suites name them like any other expectation.
"""

from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import ColumnMapExpectation, MulticolumnMapExpectation
from great_expectations.expectations.metrics.map_metric_provider import (
    ColumnMapMetricProvider,
    MulticolumnMapMetricProvider,
    column_condition_partial,
    multicolumn_condition_partial,
)
from numpy.typing import NDArray

# mypy does not follow Great Expectations and sees its classes as Any: hence `type: ignore[misc]` on each class.


class _Finite(ColumnMapMetricProvider):  # type: ignore[misc]
    condition_metric_name = "column_values.finite"

    @column_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(self, column: "pd.Series[float]", **_: Any) -> "pd.Series[bool]":
        return pd.Series(np.isfinite(column.to_numpy()), index=column.index, dtype=bool)


class ExpectColumnValuesToBeFinite(ColumnMapExpectation):  # type: ignore[misc]
    """Neither +inf nor -inf; nulls are left to the rule about nulls."""

    map_metric: ClassVar[str] = "column_values.finite"


class _UtcOrCycles(ColumnMapMetricProvider):  # type: ignore[misc]
    condition_metric_name = "column_values.utc_or_cycles"

    @column_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(self, column: "pd.Series[Any]", **_: Any) -> "pd.Series[bool]":
        dtype = column.dtype
        if dtype == "float64":  # cycles among which nulls stand; GX has left those out
            return column % 1 == 0
        known = dtype == "int64" or (isinstance(dtype, pd.DatetimeTZDtype) and str(dtype.tz) == "UTC")
        return pd.Series(known, index=column.index, dtype=bool)


class ExpectColumnValuesToBeUtcOrCycles(ColumnMapExpectation):  # type: ignore[misc]
    """Timestamps in UTC, or whole cycles. The built-in type rules know no time zones."""

    map_metric: ClassVar[str] = "column_values.utc_or_cycles"


class _TimeIncreases(MulticolumnMapMetricProvider):  # type: ignore[misc]
    condition_metric_name = "multicolumn_values.time_increases_within_run"
    condition_domain_keys = ("batch_id", "table", "column_list", "row_condition", "condition_parser", "ignore_row_if")

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(self, column_list: pd.DataFrame, **_: Any) -> "pd.Series[bool]":
        runs, column = _runs(column_list), column_list.iloc[:, 2]
        # An array of timestamps with a zone would be compared one by one.
        time = (column.astype("int64") if isinstance(column.dtype, pd.DatetimeTZDtype) else column).to_numpy()
        order = np.argsort(runs, kind="stable")
        first, latest = _record(runs[order], time[order], "cummax")
        return _restore(first | (time[order] > latest), order, column_list.index)


class ExpectTimeToIncreaseWithinRun(MulticolumnMapExpectation):  # type: ignore[misc]
    """``column_list = [asset, run, time]``: in row order, each time is later than every earlier one of its run.

    Compared with the latest time so far rather than with the row before: without the failing rows, time does increase.
    """

    map_metric: ClassVar[str] = "multicolumn_values.time_increases_within_run"
    args_keys: ClassVar[tuple[str, ...]] = ("column_list",)


class _NotIncreasing(MulticolumnMapMetricProvider):  # type: ignore[misc]
    condition_metric_name = "multicolumn_values.not_increasing_within_run"
    condition_domain_keys = ("batch_id", "table", "column_list", "row_condition", "condition_parser", "ignore_row_if")

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(self, column_list: pd.DataFrame, **_: Any) -> "pd.Series[bool]":
        runs, value = _runs(column_list), column_list.iloc[:, 2].to_numpy()
        order = np.argsort(runs, kind="stable")
        first, lowest = _record(runs[order], value[order], "cummin")
        return _restore(first | (value[order] <= lowest), order, column_list.index)


class ExpectValueNotToIncreaseWithinRun(MulticolumnMapExpectation):  # type: ignore[misc]
    """``column_list = [asset, run, value]``: in row order, no value exceeds an earlier one of its run.

    In row order rather than along time, so that one wrong clock time is not taken for a dip of the value.
    """

    map_metric: ClassVar[str] = "multicolumn_values.not_increasing_within_run"
    args_keys: ClassVar[tuple[str, ...]] = ("column_list",)


class _Constant(MulticolumnMapMetricProvider):  # type: ignore[misc]
    condition_metric_name = "multicolumn_values.constant_within_run"
    condition_domain_keys = ("batch_id", "table", "column_list", "row_condition", "condition_parser", "ignore_row_if")

    @multicolumn_condition_partial(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(self, column_list: pd.DataFrame, **_: Any) -> "pd.Series[bool]":
        runs, value = _runs(column_list), pd.factorize(column_list.iloc[:, 2])[0]
        of_run = np.zeros(runs.max(initial=-1) + 1, dtype=value.dtype)
        of_run[runs] = value
        mixed = np.unique(runs[value != of_run[runs]])
        return pd.Series(~np.isin(runs, mixed), index=column_list.index)


class ExpectValueToBeConstantWithinRun(MulticolumnMapExpectation):  # type: ignore[misc]
    """``column_list = [asset, run, value]``: all rows of a run have the same value; every row of a mixed run fails."""

    map_metric: ClassVar[str] = "multicolumn_values.constant_within_run"
    args_keys: ClassVar[tuple[str, ...]] = ("column_list",)


def _runs(columns: pd.DataFrame) -> NDArray[np.int64]:
    """The number of each row's run; the first two columns name asset and run."""
    asset, run = (pd.factorize(columns.iloc[:, place])[0].astype(np.int64) for place in (0, 1))
    both: NDArray[np.intp] = pd.factorize(asset * (run.max(initial=0) + 1) + run)[0]
    return both.astype(np.int64)


def _record(
    runs: NDArray[np.int64], values: NDArray[Any], extreme: Literal["cummax", "cummin"]
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """For rows sorted by run: whether a row is the first of its run, and the extreme of the run's rows before it."""
    so_far = pd.Series(values).groupby(runs, sort=False).transform(extreme).to_numpy()
    return np.diff(runs, prepend=-1) != 0, np.concatenate((so_far[:1], so_far[:-1]))


def _restore(values: NDArray[np.bool_], order: NDArray[np.intp], index: pd.Index) -> "pd.Series[bool]":
    """Undo the sorting by `order`."""
    restored = np.empty_like(values)
    restored[order] = values
    return pd.Series(restored, index=index)
