"""Raw rows of one machine to stretches that a window may span: in order, within their ranges, without holes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml.errors import DataError, TooFewReadingsError
from pump_ml.machines.policy import Preparation
from pump_ml.schema import TIME

RUNNING = "running"
"""Column of the controller's state: 1 while the set is told to run."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the models of a machine learn from.

    Args:
        times: of the readings, ascending, each once, ``(rows,)`` datetime64[us] in UTC.
        values: of the sensors in their units, ``(rows, sensors)`` float64; NaN where nothing is known.
        sensors: the columns of `values`.
        stretch: number of the stretch of each reading, ascending from 0, ``(rows,)``.
        report: what was found and done, JSON: see `prepare`.
    """

    times: NDArray[np.datetime64]
    values: NDArray[np.float64]
    sensors: tuple[str, ...]
    stretch: NDArray[np.int64]
    report: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Time of each reading, in seconds since 1970."""
        return seconds(self.times)

    @property
    def step_s(self) -> float:
        """Median time between two readings of a stretch, in seconds."""
        steps = np.diff(self.seconds)[np.diff(self.stretch) == 0]
        return float(np.median(steps)) if len(steps) else float("nan")

    def column(self, sensor: str) -> NDArray[np.float64]:
        """One sensor, ``(rows,)``.

        Raises:
            DataError: the machine does not have it.
        """
        if sensor not in self.sensors:
            raise DataError(
                f"sensor {sensor} has no usable readings, and it cannot be done without; the others: "
                f"{', '.join(self.sensors) or 'none'}. Look at the instrument, or at its column in the plant's mapping"
            )
        found: NDArray[np.float64] = self.values[:, self.sensors.index(sensor)]
        return found


def seconds(times: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Times in seconds since 1970."""
    return times.astype("datetime64[us]").astype(np.int64) / 1e6


def prepare(
    readings: pd.DataFrame,
    ranges: Mapping[str, tuple[float | None, float | None]],
    policy: Preparation,
    *,
    sensors: tuple[str, ...] | None = None,
) -> Prepared:
    """Sort, take twice told readings once, take what cannot be for missing, fill short holes forward, part at gaps.

    Nothing is filled backward or interpolated: when a reading comes in, what comes after it is not known yet. Where
    two rows have one time, the later row in the table counts, cell by cell where it has a value.

    Args:
        readings: of one machine, with ``time`` (UTC) and a column a sensor; not changed.
        ranges: lowest and highest plausible value of each sensor, in its unit; None where there is none.
        policy: limits of gaps and holes.
        sensors: to prepare exactly these, as a model expects them; a column that is missing counts as empty. Unset, all
            of `ranges` that have usable readings.

    Returns:
        The readings, and a report with ``rows``, ``repeated`` (rows at a time that was told before), ``unsorted``,
        ``without_time``, ``missing``, ``infinite``, ``out_of_range`` and ``filled`` (cells by sensor), ``gaps``,
        ``left_out`` (sensors with too few usable cells) and ``constant`` (sensors that show one value).

    Raises:
        DataError: there are fewer than two readings, or no sensor can be used.
    """
    timed = readings[readings[TIME].notna()]
    order = timed[TIME].argsort(kind="stable")
    names = [name for name in (sensors or tuple(ranges)) if name in timed]
    table = timed.iloc[order.to_numpy()][[TIME, *names]]
    report: dict[str, Any] = {
        "rows": len(readings),
        "without_time": len(readings) - len(timed),
        "unsorted": int((timed[TIME].diff() < pd.Timedelta(0)).sum()),
    }
    again = table[TIME].duplicated().to_numpy()
    report["repeated"] = int(again.sum())
    if again.any():
        # The last value told for a time counts, which a missing cell is not.
        told = table[table[TIME].duplicated(keep=False)].groupby(TIME, sort=False).last().reset_index()
        table = pd.concat([table[~table[TIME].duplicated(keep=False)], told], ignore_index=True)
        table = table.sort_values(TIME, kind="stable")
    if len(table) < 2:
        raise TooFewReadingsError(
            f"{len(readings)} rows hold {len(table)} readings with a time; expected two or more: look at the period"
        )
    times = table[TIME].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    values = table[names].to_numpy(dtype=np.float64, copy=True)
    report |= _emptied(values, names, ranges)
    at = seconds(times)
    stretch = np.concatenate([[0], np.cumsum(np.diff(at) > policy.gap_s)])
    report["gaps"] = int(stretch[-1])

    usable = np.isfinite(values).mean(axis=0)
    if sensors is None:
        kept = [name for name, share in zip(names, usable, strict=True) if share > 0 and share >= policy.least_share]
        report["left_out"] = {n: round(float(s), 4) for n, s in zip(names, usable, strict=True) if n not in kept}
    else:
        kept = list(sensors)
    if not kept:
        raise DataError(
            f"none of {', '.join(names) or 'the sensors'} has usable readings in a share of {policy.least_share:g} of "
            "the rows; look at the ranges in the plant's mapping, and at the period"
        )
    columns = [values[:, names.index(name)] if name in names else np.full(len(at), np.nan) for name in kept]
    values = np.column_stack(columns)
    before = np.isnan(values).sum(axis=0)
    _fill_forward(values, at, stretch, policy.fill_s)
    filled = before - np.isnan(values).sum(axis=0)
    report["filled"] = {name: int(count) for name, count in zip(kept, filled, strict=True) if count}
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    report["constant"] = [name for name, same in zip(kept, low == high, strict=True) if same]
    return Prepared(times, values, tuple(kept), stretch, report)


def _emptied(
    values: NDArray[np.float64], names: list[str], ranges: Mapping[str, tuple[float | None, float | None]]
) -> dict[str, dict[str, int]]:
    """Take infinite values and those out of range for missing, in place; how many there were, by sensor."""
    found: dict[str, dict[str, int]] = {"missing": {}, "infinite": {}, "out_of_range": {}}
    for place, name in enumerate(names):
        cells = values[:, place]
        low, high = ranges.get(name, (None, None))
        infinite = np.isinf(cells)
        outside = ~infinite & (
            (cells < (-np.inf if low is None else low)) | (cells > (np.inf if high is None else high))
        )
        for what, which in (("missing", np.isnan(cells)), ("infinite", infinite), ("out_of_range", outside)):
            if which.any():
                found[what][name] = int(which.sum())
        cells[infinite | outside] = np.nan
    return found


def _fill_forward(
    values: NDArray[np.float64], at: NDArray[np.float64], stretch: NDArray[np.int64], limit_s: float
) -> None:
    """Fill missing cells in place with the last value of the stretch that is at most so old."""
    rows = np.arange(len(values))
    for place in range(values.shape[1]):
        cells = values[:, place]
        missing = np.isnan(cells)
        if not missing.any():
            continue
        last = np.maximum.accumulate(np.where(missing, -1, rows))
        known = missing & (last >= 0)
        known[known] = (stretch[last[known]] == stretch[known]) & (at[known] - at[last[known]] <= limit_s)
        cells[known] = cells[last[known]]
