"""From readings to windows: the arrays that families learn from. Nothing here looks across two runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pump_ml.errors import DataError
from pump_ml.problems import Problem
from pump_ml.row_order import RowOrder
from pump_ml.schema import ASSET, COMMISSIONING, KEYS, RUN, TIME, Waveforms

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one or many assets: the readings once, and where in them each window begins.

    Args:
        readings: float64 ``(readings, sensors)``, those of an asset together.
        starts: position in `readings` of each window's first, int64 ``(windows,)``.
        length: readings in a window.
        blocks: the readings of each asset.
        commissioning: commissioning record of each asset, float64 ``(readings, sensors)``, or None.
        rows: ``asset_id, run_id, time`` of each window's last reading.
        labels: the targets at each window's last reading; empty where the readings bring none.
        sensors: names of the last axis of `readings`.
        waveforms: of many assets; None where the readings came without.
        taken: position in `waveforms` of the last record taken within each window, int64 ``(windows,)``.
        begins: time of each window's first reading; None where it is not known.
    """

    readings: Array
    starts: NDArray[np.int64]
    length: int
    blocks: Mapping[str, slice]
    commissioning: Mapping[str, Array] | None
    rows: pd.DataFrame
    labels: pd.DataFrame
    sensors: tuple[str, ...]
    waveforms: Waveforms | None = None
    taken: NDArray[np.int64] | None = None
    begins: "pd.Series[Any] | None" = None

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def stacked(
        cls,
        x: Array,
        sensors: tuple[str, ...],
        rows: pd.DataFrame,
        *,
        commissioning: Mapping[str, Array] | None = None,
        labels: pd.DataFrame | None = None,
    ) -> Self:
        """Windows that are cut already, those of an asset together.

        Args:
            x: float64 ``(windows, length, sensors)``; it is not copied where it is in one piece.
            sensors: names of the last axis.
            rows: keys of each window's last reading.
            commissioning: record of each asset.
            labels: of each window.
        """
        count, length, _ = x.shape
        return cls(
            readings=x.reshape(count * length, -1),
            starts=np.arange(count, dtype=np.int64) * length,
            length=length,
            blocks=_blocks(rows[ASSET], np.full(count, length - 1)),
            commissioning=commissioning,
            rows=rows,
            labels=pd.DataFrame(index=rows.index) if labels is None else labels,
            sensors=sensors,
        )

    @property
    def x(self) -> Array:
        """All windows as an array of its own, float64 ``(windows, length, sensors)``; large where windows overlap."""
        return gather(self.readings, self.starts, self.length)

    @property
    def uses(self) -> NDArray[np.int64]:
        """How many windows each reading is in, ``(readings,)``."""
        edges = np.bincount(self.starts, minlength=len(self.readings) + 1)
        edges -= np.bincount(self.starts + self.length, minlength=len(self.readings) + 1)
        return np.cumsum(edges[:-1])

    def chunks(self, size: int = 4096) -> Iterator[slice]:
        """Places of windows, so many at a time, for what would be large over all of them."""
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """The windows that `mask` marks, and the readings in them."""
        rows = self.rows[mask].reset_index(drop=True)
        kept = self.commissioning
        some = replace(
            self,
            starts=self.starts[mask],
            commissioning=None if kept is None else {asset: kept[asset] for asset in rows[ASSET].unique()},
            rows=rows,
            labels=self.labels[mask].reset_index(drop=True),
            taken=None if self.taken is None else self.taken[mask],
            begins=None if self.begins is None else self.begins[mask].reset_index(drop=True),
        )
        used = some.uses > 0
        before = np.concatenate([[0], np.cumsum(used)])
        blocks = {asset: slice(int(before[at.start]), int(before[at.stop])) for asset, at in self.blocks.items()}
        return replace(
            some,
            readings=self.readings[used],
            starts=before[some.starts],
            blocks={asset: at for asset, at in blocks.items() if at.stop > at.start},
        )

    def of_assets(self, assets: Sequence[str]) -> Self:
        """The windows of these assets."""
        return self.where(self.rows[ASSET].isin(list(assets)).to_numpy())


def gather(readings: NDArray[Any], starts: NDArray[np.int64], length: int) -> NDArray[Any]:
    """Windows of rows, ``(windows, length, columns)``: a copy.

    Args:
        readings: ``(readings, columns)``.
        starts: first row of each window.
        length: rows in a window.
    """
    if not len(starts):
        return np.empty((0, length, readings.shape[1]), dtype=readings.dtype)
    views = np.lib.stride_tricks.sliding_window_view(readings, length, axis=0)
    found: NDArray[Any] = views[starts].transpose(0, 2, 1)
    return found


def make_windows(
    readings: pd.DataFrame,
    problem: Problem,
    sensors: Sequence[str],
    *,
    which: Literal["all", "last"] = "all",
    waveforms: Waveforms | None = None,
    labels: bool = True,
) -> Windows:
    """Cut each run into windows of the problem's length.

    A window ends at the last reading of its run, the one before it ``stride`` readings earlier, and so on. A run that
    is shorter than a window gives one window, filled at its start with its first reading. Where there are waveforms, a
    window in which none was taken is left out, whoever is asked: families are judged on the same rows.

    Args:
        readings: frame of `pump_ml.schema`; labels may be missing, as they are when a model is asked.
        problem: window length and stride, targets, and whether the commissioning record is used.
        sensors: the feature columns, and behind them those of the problem's derived quantities.
        which: every window, or the last of each run.
        waveforms: taken at some of the readings.
        labels: whether the windows have those that the readings bring.

    Raises:
        DataError: a column is missing, a reading is not finite, or an asset has no commissioning record though the
            problem uses it.
    """
    measured = [name for name in sensors if name not in problem.derived]
    if missing := [name for name in (*KEYS, *measured) if name not in readings]:
        raise DataError(f"readings lack {', '.join(missing)}; expected {', '.join((*KEYS, *measured))}")
    values = np.stack([readings[name].to_numpy(dtype=np.float64) for name in measured], axis=-1)
    if not (finite := np.isfinite(values)).all():
        bad = [name for name, sound in zip(measured, finite.all(axis=0), strict=True) if not sound]
        raise DataError(
            f"readings of {', '.join(bad)} are not finite; validation quarantines such rows: validate first"
        )
    commissioning = np.zeros(len(readings), dtype=np.bool_)
    # Without a reference nothing sets those readings apart, so they are readings as any other.
    if problem.reference is not None and COMMISSIONING in readings:
        commissioning = readings[COMMISSIONING].to_numpy(dtype=bool)
    keys = {name: readings[name] for name in KEYS}
    order = RowOrder.of(keys)
    running = order.sorted(~commissioning)

    ends, firsts = _ends(order.firsts(running), len(running), problem, which)
    begins = np.maximum(ends - problem.windows.length + 1, firsts)
    # A short run's first reading stands as often as is missing, so that a window is a stretch of rows.
    wanting = np.zeros(len(running), dtype=np.int64)
    wanting[begins] = begins - (ends - problem.windows.length + 1)
    filled = np.repeat(running, 1 + wanting) if wanting.any() else running
    moved = np.cumsum(wanting)
    last = running[ends]
    targets = [target.name for target in problem.targets if labels and target.name in readings]
    windows = Windows(
        readings=problem.with_derived(sensors, _rows(values, filled)),
        starts=ends + moved[ends] - problem.windows.length + 1,
        length=problem.windows.length,
        blocks=order.blocks(filled),
        commissioning=None,
        rows=_picked(keys, last),
        labels=_picked({name: readings[name] for name in targets}, last),
        sensors=tuple(sensors),
        begins=pd.Series(keys[TIME].array.take(running[begins]), name=TIME),
    )
    if problem.reference is not None:
        marked = order.sorted(commissioning)
        record = problem.with_derived(sensors, _rows(values, marked))
        records = {asset: record[at] for asset, at in order.blocks(marked).items()}
        if unknown := sorted(set(order.blocks(running)) - set(records)):
            raise DataError(
                f"no commissioning record for {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}; the problem "
                f"compares each asset with its own: add its readings of the first healthy hours, marked "
                f"{COMMISSIONING} = true, or look for them in quarantine"
            )
        windows = replace(windows, commissioning=records)
    if waveforms is None:
        return windows
    taken = _last_taken(waveforms, windows.rows, keys[TIME].iloc[running[begins]])
    return replace(windows, waveforms=waveforms, taken=taken).where(taken >= 0)


def last_windows(x: Array, problem: Problem, sensors: Sequence[str], records: Array | None = None) -> Windows:
    """The last window of each run, as `make_windows` cuts it, from arrays; each run is an asset of its own.

    Args:
        x: raw readings in order of time, ``(runs, readings, sensors)``, without the problem's derived quantities.
        problem: as there.
        sensors: as there.
        records: commissioning record of each run's asset, of the same sensors; looked at where the problem uses it.

    Raises:
        DataError: an array is of another shape, a reading is not finite, or the records are missing.
    """
    measured, given = [name for name in sensors if name not in problem.derived], {"readings": x}
    if problem.reference is not None:
        if records is None or len(records) != len(x):
            raise DataError(f"the problem compares each asset with its own record: give one for each of {len(x)} runs")
        given["records"] = records
    for what, values in given.items():
        if values.ndim != 3 or values.shape[2] != len(measured) or 0 in values.shape:
            raise DataError(f"{what} of shape {values.shape}; expected (runs, readings, {len(measured)}): {measured}")
        if not np.isfinite(values).all():
            raise DataError(f"{what} are not finite; validation quarantines such rows: validate first")
    length = problem.windows.length
    if (wanting := length - x.shape[1]) > 0:
        x = np.concatenate([np.repeat(x[:, :1], wanting, axis=1), x], axis=1)
    runs, count, _ = x.shape
    names, nothing = [str(run) for run in range(runs)], pd.DataFrame(index=pd.RangeIndex(runs))
    kept = None
    if "records" in given:
        record = _with_derived(problem, sensors, given["records"])
        kept = dict(zip(names, record.reshape(runs, -1, len(sensors)), strict=True))
    return Windows(
        readings=_with_derived(problem, sensors, x),
        starts=np.arange(1, runs + 1, dtype=np.int64) * count - length,
        length=length,
        blocks={name: slice(run * count, (run + 1) * count) for run, name in enumerate(names)},
        commissioning=kept,
        rows=nothing,
        labels=nothing,
        sensors=tuple(sensors),
    )


def _with_derived(problem: Problem, sensors: Sequence[str], x: Array) -> Array:
    """Readings of all runs ``(runs, readings, measured)`` in one table, ``(readings, sensors)``."""
    return problem.with_derived(sensors, np.asarray(x.reshape(-1, x.shape[2]), dtype=np.float64))


def _last_taken(waveforms: Waveforms, ends: pd.DataFrame, begins: "pd.Series[Any]") -> NDArray[np.int64]:
    """Position of the last usable waveform of the same run between two times, both included; -1 where there is none."""
    taken = waveforms.rows[list(KEYS)].assign(place=np.arange(len(waveforms)))[waveforms.usable()]
    asked = ends.assign(begin=begins.to_numpy(), window=np.arange(len(ends)))
    found = pd.merge_asof(
        asked.sort_values(TIME, kind="stable"),
        taken.assign(taken=taken[TIME]).sort_values(TIME, kind="stable"),
        on=TIME,
        by=[ASSET, RUN],
    ).sort_values("window")
    place = found["place"].where(found["taken"] >= found["begin"])
    return place.fillna(-1).to_numpy(dtype=np.int64)


def _blocks(assets: "pd.Series[Any]", wanting: NDArray[np.int64]) -> dict[str, slice]:
    """Where each asset's readings stand, which are together."""
    codes, names = pd.factorize(assets)
    stops = np.cumsum(np.bincount(codes, weights=1 + wanting, minlength=len(names)).astype(np.int64))
    edges = pairwise([0, *stops])
    return {str(name): slice(int(start), int(stop)) for name, (start, stop) in zip(names, edges, strict=True)}


def _ends(
    firsts: NDArray[np.int64], count: int, problem: Problem, which: Literal["all", "last"]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the windows' last readings, and of the first readings of their runs.

    Args:
        firsts: where each run begins.
        count: of all readings.
        problem: window length and stride.
        which: every window, or the last of each run.
    """
    if not count:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    lasts = np.append(firsts[1:], count) - 1
    if which == "last":
        return lasts, firsts
    length, stride = problem.windows.length, problem.windows.stride
    per_run = [
        np.arange(last, min(first + length - 2, last - 1), -stride)[::-1]
        for first, last in zip(firsts, lasts, strict=True)
    ]
    return np.concatenate(per_run), np.repeat(firsts, [len(ends) for ends in per_run])


def _rows(values: Array, places: NDArray[np.int64]) -> Array:
    """These rows; no copy where they stand one after the other."""
    if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
        return values[places[0] : places[0] + len(places)]
    return values[places]


def _picked(columns: "Mapping[str, pd.Series[Any]]", places: NDArray[np.int64]) -> pd.DataFrame:
    """Rows of some columns, numbered anew; column by column, which is what takes a small frame the least time."""
    return pd.DataFrame({name: each.array.take(places) for name, each in columns.items()}, pd.RangeIndex(len(places)))
